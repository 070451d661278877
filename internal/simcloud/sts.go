package simcloud

import (
	"regexp"
	"strings"
	"time"
)

var stsOperations = map[string]func(*call) (map[string]any, error){
	"GetCallerIdentity": getCallerIdentity, "AssumeRole": assumeRole,
}

var roleForm = regexp.MustCompile(`^arn:aws:iam::[0-9]{12}:role/.+$`)

func getCallerIdentity(k *call) (map[string]any, error) {
	arn := "arn:aws:iam::" + k.account + ":user/simulated"
	if k.role != "" {
		arn = "arn:aws:sts::" + k.account + ":assumed-role/" + roleName(k.role) + "/simulated"
	}
	return object("Account", k.account, "Arn", arn, "UserId", "AIDASIMULATED"), nil
}

// assumeRole lets anyone be anyone: it is no evidence of who may do what.
func assumeRole(k *call) (map[string]any, error) {
	role := k.in.str("RoleArn")
	if !roleForm.MatchString(role) {
		return nil, k.fail("ValidationError", "%s is invalid", role)
	}
	d := k.in.intOr("DurationSeconds", 3600)
	if d < 900 || d > 43200 {
		return nil, k.fail("ValidationError", "Value '%d' at 'durationSeconds' failed to satisfy constraint: Member must have value from 900 to 43200", d)
	}
	account := strings.Split(role, ":")[4]
	return object(
		"Credentials", object("AccessKeyId", "ASIA"+strings.ToUpper(k.mint("", 16)), "SecretAccessKey", k.mint("simulated-", 20),
			"SessionToken", k.mint("simulated-", 40), "Expiration", k.now.Add(time.Duration(d)*time.Second)),
		"AssumedRoleUser", object("AssumedRoleId", "AROASIMULATED:"+k.in.str("RoleSessionName"),
			"Arn", "arn:aws:sts::"+account+":assumed-role/"+roleName(role)+"/"+k.in.str("RoleSessionName")),
	), nil
}

func roleName(role string) string { return role[strings.LastIndexByte(role, '/')+1:] }
