package aws

import (
	"context"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type putParameterInput struct {
	Scope
	Name        string            `json:"name" jsonschema:"name of the parameter, such as /app/image"`
	Value       action.Secret     `json:"value" jsonschema:"its value"`
	Type        string            `json:"type,omitempty" jsonschema:"what it is" enum:"String,StringList,SecureString" default:"that of the parameter if it exists; SecureString if the value is a secret; else String"`
	KeyID       string            `json:"key_id,omitempty" jsonschema:"KMS key of a SecureString" default:"the account's key for Systems Manager"`
	Description string            `json:"description,omitempty" jsonschema:"what the parameter is; the step's token is put behind it"`
	Overwrite   bool              `json:"overwrite,omitempty" jsonschema:"give a parameter that exists a new value; else another value is an error of kind conflict" default:"false"`
	Tags        map[string]string `json:"tags,omitempty" jsonschema:"tags of a parameter that is made, beside Almanac's own"`
}

type putParameterOutput struct {
	Name    string `json:"name" jsonschema:"the parameter"`
	Version int64  `json:"version" jsonschema:"the version that has the value"`
	Changed bool   `json:"changed" jsonschema:"whether this step made that version"`
}

func putParameter(env Env) action.Action {
	return action.New(action.Def[putParameterInput, putParameterOutput]{
		Name:    "aws.ssm.put_parameter",
		Summary: "Make a parameter of Parameter Store, or give it a new value",
		Details: `
The step's token stands in the description of the version that it makes: by that a later attempt finds it in the parameter's history and makes no
second one. A parameter that has the value already is left as it is.

Rollback deletes a parameter that the step has made, and gives one that existed its last value again (as a further version). If somebody
else has changed it since, it fails with kind conflict and leaves it.
`,
		Example: `action: aws.ssm.put_parameter
with: { name: /images/base, value: ami-0123456789abcdef0, overwrite: true }`,
		Timeout: 10 * time.Minute,
		Do: func(ctx context.Context, in putParameterInput) (putParameterOutput, error) {
			value, err := in.Value.Reveal(ctx)
			if err != nil {
				return putParameterOutput{}, err
			}
			return env.in(ctx, in.Scope).putParameter(ctx, in, value)
		},
		Compensate: func(ctx context.Context, in putParameterInput, out *putParameterOutput) error {
			if out != nil && !out.Changed {
				return nil
			}
			return env.in(ctx, in.Scope).putParameterBack(ctx, in.Name)
		},
	})
}

// mark ends the description of versions that a step makes.
func (c client) mark() string { return "[almanac " + c.token() + "]" }

const mostDescription = 1024

func (c client) putParameter(ctx context.Context, in putParameterInput, value string) (putParameterOutput, error) {
	tags, err := c.tags(in.Tags)
	if err != nil {
		return putParameterOutput{}, err
	}
	versions, err := c.versions(ctx, in.Name)
	if err != nil {
		return putParameterOutput{}, err
	}
	input := members{"Name": in.Name, "Value": value, "Description": c.described(in.Description)}.with(members{"KeyId": in.KeyID, "Type": in.Type})
	if len(versions) == 0 {
		switch {
		case in.Type != "":
		case in.Value.Ref != "":
			input["Type"] = "SecureString"
		default:
			input["Type"] = "String"
		}
		input["Tags"] = tags
		answer, err := c.call(ctx, "ssm", "PutParameter", input)
		if err == nil {
			return putParameterOutput{Name: in.Name, Version: answer.int("Version"), Changed: true}, nil
		}
		if !is(err, "ParameterAlreadyExists") {
			return putParameterOutput{}, err
		}
		delete(input, "Tags")
		if versions, err = c.versions(ctx, in.Name); err != nil { // made in this moment, perhaps by an attempt before
			return putParameterOutput{}, err
		}
	}
	if mine := c.firstOfOurs(versions); mine >= 0 {
		return putParameterOutput{Name: in.Name, Version: versions[mine].int("Version"), Changed: true}, nil
	}
	if len(versions) == 0 {
		return putParameterOutput{}, action.Errorf(action.Unavailable, "ssm PutParameter: %s exists, but Parameter Store does not show it yet", in.Name)
	}
	last := versions[len(versions)-1]
	switch {
	case last.text("Value") == value && (in.Type == "" || in.Type == last.text("Type")):
		return putParameterOutput{Name: in.Name, Version: last.int("Version")}, nil
	case !in.Overwrite:
		return putParameterOutput{}, action.Errorf(action.Conflict, "the parameter %s exists and has another value; to give it this one set overwrite: true", in.Name)
	case in.Type == "":
		input["Type"] = last.text("Type")
	}
	input["Overwrite"] = true
	answer, err := c.call(ctx, "ssm", "PutParameter", input)
	return putParameterOutput{Name: in.Name, Version: answer.int("Version"), Changed: true}, err
}

func (c client) described(description string) string {
	room := mostDescription - len(c.mark()) - 1
	if len(description) > room {
		description = strings.ToValidUTF8(description[:room], "")
	}
	return strings.TrimSpace(description + " " + c.mark())
}

// versions is the history of a parameter, oldest first, with values that
// nobody else is to see; empty if there is no such parameter.
func (c client) versions(ctx context.Context, name string) ([]members, error) {
	versions, err := c.list(ctx, "ssm", "GetParameterHistory", "Parameters", members{"Name": name, "WithDecryption": true})
	if is(err, "ParameterNotFound") {
		return nil, nil
	}
	return versions, err
}

// firstOfOurs is the index of the first version that this step has made; -1 if it made none.
func (c client) firstOfOurs(versions []members) int {
	for i, v := range versions {
		if strings.HasSuffix(v.text("Description"), c.mark()) {
			return i
		}
	}
	return -1
}

func (c client) putParameterBack(ctx context.Context, name string) error {
	versions, err := c.versions(ctx, name)
	mine := c.firstOfOurs(versions)
	if err != nil || mine < 0 {
		return err
	}
	last := versions[len(versions)-1]
	ours := strings.HasSuffix(last.text("Description"), c.mark())
	made := versions[mine].int("Version") == 1
	switch {
	case made && ours:
		_, err := c.call(ctx, "ssm", "DeleteParameter", members{"Name": name})
		if is(err, "ParameterNotFound") {
			err = nil
		}
		return err
	case mine == 0 && !made:
		return action.Errorf(action.Conflict, "what the parameter %s was before is no longer in its history", name)
	}
	if !made {
		before := versions[mine-1]
		if !ours && last.text("Value") == before.text("Value") {
			return nil // taken back already
		}
		if ours {
			_, err := c.call(ctx, "ssm", "PutParameter", members{"Name": name, "Value": before.text("Value"), "Type": before.text("Type"), "Overwrite": true, "Description": before.text("Description")}.
				with(members{"KeyId": before.text("KeyId")}))
			return err
		}
	}
	return action.Errorf(action.Conflict, "the parameter %s was changed by somebody else since; it is left as it is", name)
}
