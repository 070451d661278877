package simcloud

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"
)

var secretsmanagerOperations = map[string]func(*call) (map[string]any, error){
	"CreateSecret": createSecret, "PutSecretValue": putSecretValue, "GetSecretValue": getSecretValue,
	"DescribeSecret": describeSecret, "DeleteSecret": deleteSecret, "UpdateSecretVersionStage": updateSecretVersionStage,
}

type secret struct {
	*resource
	arn, description, keyID string
	versions                map[string]*secretVersion // by the token that made them
	deleted                 time.Time                 // when it will be gone; zero while it is not deleted
	changedAt               time.Time
}

type secretVersion struct {
	id     string
	text   string
	binary []byte
	stages []string
	made   time.Time
}

// secret finds a secret by name or ARN.
func (k *call) secret(id string) (*secret, error) {
	for _, s := range k.secrets.all() {
		if s.place == k.place && (s.name == id || s.arn == id) && (s.deleted.IsZero() || k.now.Before(s.deleted)) {
			return s, nil
		}
	}
	return nil, k.fail("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
}

// liveSecret finds one that is not marked for deletion.
func (k *call) liveSecret() (*secret, error) {
	s, err := k.secret(k.in.str("SecretId"))
	if err == nil && !s.deleted.IsZero() {
		return nil, k.fail("InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion.")
	}
	return s, err
}

// newVersion reads the version that a call is to make. Its id is the call's token.
func (k *call) newVersion() (*secretVersion, error) {
	v := &secretVersion{id: k.in.str("ClientRequestToken"), text: k.in.str("SecretString"), binary: k.in.bytes("SecretBinary"), made: k.now}
	if v.text != "" && v.binary != nil {
		return nil, k.fail("InvalidParameterException", "You can't specify both a binary secret value and a string secret value in the same secret.")
	}
	if v.id == "" {
		return nil, k.fail("InvalidParameterException", "You must provide a ClientRequestToken value. We recommend a UUID-type value.")
	}
	if len(v.id) < 32 || len(v.id) > 64 {
		return nil, k.fail("InvalidParameterException", "ClientRequestToken must be 32-64 characters long.")
	}
	return v, nil
}

func (v *secretVersion) same(w *secretVersion) bool {
	return v.text == w.text && bytes.Equal(v.binary, w.binary)
}

func createSecret(k *call) (map[string]any, error) {
	name := k.in.str("Name")
	var v *secretVersion
	if k.in.has("SecretString") || k.in.has("SecretBinary") {
		var err error
		if v, err = k.newVersion(); err != nil {
			return nil, err
		}
	}
	if s, err := k.secret(name); err == nil {
		switch {
		case !s.deleted.IsZero():
			return nil, k.fail("InvalidRequestException", "You can't create this secret because a secret with this name is already scheduled for deletion.")
		case v == nil || s.versions[v.id] == nil || !s.versions[v.id].same(v):
			return nil, k.fail("ResourceExistsException", "The operation failed because the secret %s already exists.", name)
		}
		return object("ARN", s.arn, "Name", s.name, "VersionId", v.id), nil
	}
	s := &secret{resource: k.make("secret", name, name, k.in.tags("Tags")), description: k.in.str("Description"), keyID: k.in.str("KmsKeyId"), versions: map[string]*secretVersion{}, changedAt: k.now}
	s.arn = "arn:aws:secretsmanager:" + k.region + ":" + k.account + ":secret:" + name + "-" + k.mint("", 6)
	k.secrets.put(s.arn, s)
	version := ""
	if v != nil {
		v.stages = []string{"AWSCURRENT"}
		s.versions[v.id], version = v, v.id
	}
	return object("ARN", s.arn, "Name", name, "VersionId", version), nil
}

func putSecretValue(k *call) (map[string]any, error) {
	v, err := k.newVersion()
	if err != nil {
		return nil, err
	}
	s, err := k.liveSecret()
	if err != nil {
		return nil, err
	}
	if v.text == "" && v.binary == nil {
		return nil, k.fail("InvalidParameterException", "You must provide either SecretString or SecretBinary.")
	}
	if before := s.versions[v.id]; before != nil {
		if !before.same(v) {
			return nil, k.fail("ResourceExistsException", "You can't use ClientRequestToken %s because that value is already in use for a version of secret %s.", v.id, s.arn)
		}
		return object("ARN", s.arn, "Name", s.name, "VersionId", before.id, "VersionStages", before.stages), nil
	}
	stages := k.in.strs("VersionStages")
	if stages == nil {
		stages = []string{"AWSCURRENT"}
	}
	s.versions[v.id] = v
	for _, stage := range stages {
		s.move(stage, v)
	}
	s.changedAt = k.now
	k.changed(s.resource, "version "+v.id)
	return object("ARN", s.arn, "Name", s.name, "VersionId", v.id, "VersionStages", stages), nil
}

// staged finds the version with a stage; nil if none has it.
func (s *secret) staged(stage string) *secretVersion {
	for _, id := range slices.Sorted(maps.Keys(s.versions)) {
		if slices.Contains(s.versions[id].stages, stage) {
			return s.versions[id]
		}
	}
	return nil
}

// move moves a stage to a version; what AWSCURRENT leaves is AWSPREVIOUS.
func (s *secret) move(stage string, to *secretVersion) {
	from := s.staged(stage)
	if from == to {
		return
	}
	if from != nil {
		from.stages = slices.DeleteFunc(from.stages, func(t string) bool { return t == stage })
	}
	to.stages = append(to.stages, stage)
	if stage == "AWSCURRENT" && from != nil {
		s.move("AWSPREVIOUS", from)
	}
}

func getSecretValue(k *call) (map[string]any, error) {
	s, err := k.liveSecret()
	if err != nil {
		return nil, err
	}
	stage := k.in.str("VersionStage")
	v := s.staged(or(stage, "AWSCURRENT"))
	if id := k.in.str("VersionId"); id != "" {
		v = s.versions[id]
		if v != nil && stage != "" && !slices.Contains(v.stages, stage) {
			v = nil
		}
	}
	if v == nil {
		return nil, k.fail("ResourceNotFoundException", "Secrets Manager can't find the specified secret value for staging label: %s", or(stage, "AWSCURRENT"))
	}
	out := object("ARN", s.arn, "Name", s.name, "VersionId", v.id, "VersionStages", v.stages, "CreatedDate", v.made, "SecretString", v.text)
	if v.binary != nil {
		out["SecretBinary"] = v.binary
	}
	return out, nil
}

func describeSecret(k *call) (map[string]any, error) {
	s, err := k.secret(k.in.str("SecretId"))
	if err != nil {
		return nil, err
	}
	stages := map[string]any{}
	for id, v := range s.versions {
		if len(v.stages) > 0 {
			stages[id] = answer(v.stages)
		}
	}
	return object("ARN", s.arn, "Name", s.name, "Description", s.description, "KmsKeyId", s.keyID, "CreatedDate", s.made, "LastChangedDate", s.changedAt,
		"DeletedDate", s.deleted, "Tags", tagList(s.tags), "VersionIdsToStages", stages), nil
}

func deleteSecret(k *call) (map[string]any, error) {
	days, force := k.in.intOr("RecoveryWindowInDays", 30), k.in.bool("ForceDeleteWithoutRecovery")
	if force && k.in.has("RecoveryWindowInDays") {
		return nil, k.fail("InvalidParameterException", "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.")
	}
	if days < 7 || days > 30 {
		return nil, k.fail("InvalidParameterException", "The RecoveryWindowInDays value must be between 7 and 30 days (inclusive).")
	}
	s, err := k.secret(k.in.str("SecretId"))
	if err != nil {
		if force { // as AWS does: a name that never was is deleted too
			return object("Name", k.in.str("SecretId"), "DeletionDate", k.now), nil
		}
		return nil, err
	}
	if !s.deleted.IsZero() && !force {
		return nil, k.fail("InvalidRequestException", "You tried to perform the operation on a secret that's currently marked deleted.")
	}
	s.deleted = k.now.AddDate(0, 0, int(days))
	if force {
		s.deleted = k.now
	}
	k.remove(s.resource)
	return object("ARN", s.arn, "Name", s.name, "DeletionDate", s.deleted), nil
}

func updateSecretVersionStage(k *call) (map[string]any, error) {
	s, err := k.liveSecret()
	if err != nil {
		return nil, err
	}
	stage, from, to := k.in.str("VersionStage"), k.in.str("RemoveFromVersionId"), k.in.str("MoveToVersionId")
	at := s.staged(stage)
	switch {
	case from == "" && to == "":
		return nil, k.fail("InvalidParameterException", "RemoveFromVersionId or MoveToVersionId must be given.")
	case to != "" && s.versions[to] == nil, from != "" && s.versions[from] == nil:
		return nil, k.fail("ResourceNotFoundException", "Secrets Manager can't find the specified secret version.")
	case to != "" && at != nil && at.id != to && from != at.id:
		return nil, k.fail("InvalidParameterException", "The parameter RemoveFromVersionId can't be empty. Staging label %s is currently attached to version %s, so you must explicitly reference that version in RemoveFromVersionId.", stage, at.id)
	case to == "" && (at == nil || at.id != from):
		return nil, k.fail("InvalidParameterException", "Staging label %s is not attached to version %s.", stage, from)
	case to == "" && stage == "AWSCURRENT":
		return nil, k.fail("InvalidParameterException", "You can't remove AWSCURRENT from a version; move it to another.")
	case to == "":
		at.stages = slices.DeleteFunc(at.stages, func(t string) bool { return t == stage })
	default:
		s.move(stage, s.versions[to])
	}
	k.changed(s.resource, strings.TrimSpace("stage "+stage+" "+to))
	return object("ARN", s.arn, "Name", s.name), nil
}
