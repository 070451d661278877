package sweep

import (
	"context"
	"strings"
	"time"
)

// kind is a kind of resource that can be removed.
type kind struct {
	name string

	// arn is the service and the beginning of the resource in its ARNs.
	arn [2]string

	// byARN says that its id is the ARN: another one may have its name by now.
	byARN bool

	// list finds what bears the tag of an execution; nil: only the tagging API does.
	list func(ctx context.Context, c client) ([]Resource, error)

	// read reads one resource now, by its id or by what comes behind the beginning of
	// its ARN; nil if it is gone.
	read func(ctx context.Context, c client, id string) (*Resource, error)

	// remove removes it. What is gone already is fine.
	remove func(ctx context.Context, c client, r Resource) error

	// wait is how long to wait until it is gone, so that what it needs can be
	// removed; 0: it is gone at once, or nothing depends on that.
	wait time.Duration
}

// kinds are all that can be removed, in that order: what needs something comes
// before what it needs.
var kinds = []*kind{
	instances(),
	images(),
	snapshots(),
	volumes(),
	launchTemplates(),
	stacks(),
	parameters(),
	secrets(),
}

// kindOf finds the kind by an ARN, and what the ARN calls the resource; nil if it
// is none of ours to remove.
func kindOf(arn string) (k *kind, id string) {
	parts := strings.SplitN(arn, ":", 6) // arn:aws:ec2:eu-central-1:123456789012:instance/i-1
	if len(parts) < 6 {
		return nil, arn
	}
	for _, k := range kinds {
		id, ok := strings.CutPrefix(parts[5], k.arn[1])
		if !ok || parts[2] != k.arn[0] {
			continue
		}
		if k.byARN {
			id = arn
		}
		return k, id
	}
	return nil, arn
}

// described is a resource of these tags.
func (k *kind) described(c client, id string, tags map[string]string) Resource {
	return Resource{
		Kind: k.name, ID: id, Region: c.scope.Region, Role: c.scope.Role, Name: tags["Name"],
		Execution: tags[TagExecution], Step: tags[TagStep], Token: tags[TagToken], tags: tags, kind: k,
	}
}

// hints say how a person removes what we do not, by service and type in the ARN.
// NAME and ARN stand for the resource's.
var hints = map[string]string{
	"s3":                    "aws s3 rb s3://NAME --force",
	"dynamodb table":        "aws dynamodb delete-table --table-name NAME",
	"sqs":                   "aws sqs delete-queue --queue-url $(aws sqs get-queue-url --queue-name NAME --query QueueUrl --output text)",
	"sns":                   "aws sns delete-topic --topic-arn ARN",
	"lambda function":       "aws lambda delete-function --function-name ARN",
	"states stateMachine":   "aws stepfunctions delete-state-machine --state-machine-arn ARN",
	"logs log-group":        "aws logs delete-log-group --log-group-name NAME",
	"ec2 security-group":    "aws ec2 delete-security-group --group-id NAME",
	"ec2 network-interface": "aws ec2 delete-network-interface --network-interface-id NAME",
	"ec2 elastic-ip":        "aws ec2 release-address --allocation-id NAME",
	"ec2 key-pair":          "aws ec2 delete-key-pair --key-pair-id NAME",
	"kms key":               "aws kms schedule-key-deletion --key-id ARN",
}

// foreign is a resource of a kind that we cannot remove.
func foreign(c client, arn string, tags map[string]string) Resource {
	r := Resource{
		Kind: "resource", ID: arn, ARN: arn, Region: c.scope.Region, Role: c.scope.Role, Name: tags["Name"],
		Execution: tags[TagExecution], Step: tags[TagStep], Token: tags[TagToken], tags: tags,
		Hint: "in the console: Resource Groups & Tag Editor, " + TagExecution + " = " + tags[TagExecution],
	}
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) < 6 {
		return r
	}
	kind, name := parts[2], parts[5]
	if at := strings.IndexAny(name, "/:"); at >= 0 {
		kind, name = kind+" "+name[:at], name[at+1:]
	}
	r.Kind = kind
	if hint := hints[kind]; hint != "" {
		if parts[3] != "" {
			hint += " --region " + parts[3]
		}
		r.Hint = strings.NewReplacer("NAME", quote(name), "ARN", quote(arn)).Replace(hint)
	}
	return r
}

// quote makes one word of a shell.
func quote(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@+=", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
