package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

type getParameterInput struct {
	Scope
	Name string `json:"name" jsonschema:"name of the parameter; with :3 or :label behind it, that version"`
}

type getParameterOutput struct {
	Value   string `json:"value" jsonschema:"its value"`
	Type    string `json:"type" jsonschema:"String or StringList"`
	Version int64  `json:"version" jsonschema:"the version that was read"`
}

func getParameter(env Env) action.Action {
	return action.New(action.Def[getParameterInput, getParameterOutput]{
		Name:    "aws.ssm.get_parameter",
		Summary: "Read a parameter of Parameter Store",
		Details: `
It reads only. A SecureString is refused: an output is kept in clear with the execution. Refer to it as a secret where it is used (` + "`ssm:/path`" + `).
`,
		Example: `id: base
action: aws.ssm.get_parameter
with: { name: /aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64 }`,
		Timeout: 5 * time.Minute,
		Do: func(ctx context.Context, in getParameterInput) (getParameterOutput, error) {
			// Not decrypted: of a SecureString not even this process sees the value.
			answer, err := env.in(ctx, in.Scope).call(ctx, "ssm", "GetParameter", members{"Name": in.Name, "WithDecryption": false})
			if err != nil {
				return getParameterOutput{}, err
			}
			p := answer.in("Parameter")
			if p.text("Type") == "SecureString" {
				return getParameterOutput{}, action.Errorf(action.Invalid, "%s is a SecureString, which must not become an output; refer to it as a secret where it is used", in.Name)
			}
			return getParameterOutput{Value: p.text("Value"), Type: p.text("Type"), Version: p.int("Version")}, nil
		},
	})
}
