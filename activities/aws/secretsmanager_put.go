package aws

import (
	"context"
	"slices"
	"time"

	"github.com/almanac-run/almanac/action"
)

type putSecretInput struct {
	Scope
	Name        string            `json:"name" jsonschema:"name or ARN of the secret; one that does not exist is made, by name"`
	Value       action.Secret     `json:"value" jsonschema:"its new value"`
	Description string            `json:"description,omitempty" jsonschema:"what a secret that is made is"`
	KMSKeyID    string            `json:"kms_key_id,omitempty" jsonschema:"key of a secret that is made" default:"the account's key for Secrets Manager"`
	Tags        map[string]string `json:"tags,omitempty" jsonschema:"tags of a secret that is made, beside Almanac's own"`
}

type putSecretOutput struct {
	ARN       string `json:"arn" jsonschema:"the secret"`
	VersionID string `json:"version_id" jsonschema:"the version that has the value"`
}

func putSecret(env Env) action.Action {
	return action.New(action.Def[putSecretInput, putSecretOutput]{
		Name:    "aws.secretsmanager.put",
		Summary: "Give a secret of Secrets Manager a new value, or make it",
		Details: `
The version's id is made of the step's token, so that every attempt makes the same version.

Rollback deletes a secret that the step has made, for good, unless it has another value since. Of one that existed it makes the version of before the current one again;
if another is current since, that is left.
`,
		Example: `action: aws.secretsmanager.put
with: { name: app/db, value: "${{ inputs.db_password }}" }`,
		Timeout: 10 * time.Minute,
		Do: func(ctx context.Context, in putSecretInput) (putSecretOutput, error) {
			value, err := in.Value.Reveal(ctx)
			if err != nil {
				return putSecretOutput{}, err
			}
			return env.in(ctx, in.Scope).putSecret(ctx, in, value)
		},
		Compensate: func(ctx context.Context, in putSecretInput, _ *putSecretOutput) error {
			return env.in(ctx, in.Scope).putSecretBack(ctx, in.Name)
		},
	})
}

const (
	currentStage  = "AWSCURRENT"
	previousStage = "AWSPREVIOUS"
)

func (c client) putSecret(ctx context.Context, in putSecretInput, value string) (putSecretOutput, error) {
	tags, err := c.tags(in.Tags)
	if err != nil {
		return putSecretOutput{}, err
	}
	version := c.uuid("secret")
	put := func() (members, error) {
		return c.call(ctx, "secretsmanager", "PutSecretValue", members{"SecretId": in.Name, "ClientRequestToken": version, "SecretString": value})
	}
	answer, err := put()
	if is(err, "ResourceNotFoundException") {
		answer, err = c.call(ctx, "secretsmanager", "CreateSecret", members{"Name": in.Name, "ClientRequestToken": version, "SecretString": value, "Tags": tags}.
			with(members{"Description": in.Description, "KmsKeyId": in.KMSKeyID}))
		if is(err, "ResourceExistsException") {
			answer, err = put() // made in this moment, perhaps by an attempt before
		}
	}
	return putSecretOutput{ARN: answer.text("ARN"), VersionID: answer.text("VersionId")}, err
}

func (c client) putSecretBack(ctx context.Context, name string) error {
	ours := c.uuid("secret")
	var secret members
	var err error
	// One that was made in a lost call may not be known yet.
	if _, err = c.within(ctx, commandNewsTakes, "look for the secret", func() (bool, string, error) {
		secret, err = c.call(ctx, "secretsmanager", "DescribeSecret", members{"SecretId": name})
		if notFound(err) {
			return false, "not found so far", nil
		}
		return err == nil, "", err
	}); err != nil || secret == nil || !secret.time("DeletedDate").IsZero() {
		if notFound(err) {
			return nil
		}
		return err
	}
	current, previous := "", ""
	for version := range secret.in("VersionIdsToStages") {
		stages := secret.in("VersionIdsToStages").texts(version)
		if slices.Contains(stages, currentStage) {
			current = version
		}
		if slices.Contains(stages, previousStage) {
			previous = version
		}
	}
	made := tagsOf(secret)[tagToken] == c.token()
	switch {
	case made && current != ours:
		return action.Errorf(action.Conflict, "the secret %s has another value since this step made it; it is left as it is", name)
	case made:
		_, err = c.call(ctx, "secretsmanager", "DeleteSecret", members{"SecretId": name, "ForceDeleteWithoutRecovery": true})
		return err
	case current == ours && previous == "":
		return action.Errorf(action.Conflict, "the secret %s has no version of before any more", name)
	case current == ours:
		if _, err = c.call(ctx, "secretsmanager", "UpdateSecretVersionStage", members{
			"SecretId": name, "VersionStage": currentStage, "MoveToVersionId": previous, "RemoveFromVersionId": ours,
		}); err != nil {
			return err
		}
		previous = ours // AWS moves that stage along
	}
	if previous != ours {
		return nil
	}
	// Nobody is to fall back to what was taken back.
	_, err = c.call(ctx, "secretsmanager", "UpdateSecretVersionStage", members{"SecretId": name, "VersionStage": previousStage, "RemoveFromVersionId": ours})
	if is(err, "InvalidParameterException") {
		return nil // it has it no more
	}
	return err
}
