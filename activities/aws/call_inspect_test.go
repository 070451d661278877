package aws

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
)

// What the compiler is told of a call before it runs.
func TestInspectCall(t *testing.T) {
	later := func(kind program.TypeKind) action.Later { return action.Later{Type: program.Type{Kind: kind}} }
	for name, tt := range map[string]struct {
		in   map[string]any
		want []string // each problem as "path: message", abridged
	}{
		"well":  {in: map[string]any{"service": "ec2", "operation": "DescribeInstances", "input": map[string]any{"InstanceIds": []any{"i-1", later(program.String)}}}},
		"later": {in: map[string]any{"service": later(program.String), "operation": "Any", "input": map[string]any{"x": 1}}},
		"no such service": {in: map[string]any{"service": "ec3", "operation": "RunInstances"},
			want: []string{"[service]: there is no AWS service \"ec3\"; did you mean \"ec2\"?"}},
		"no such operation": {in: map[string]any{"service": "ec2", "operation": "RunInstance"},
			want: []string{"[operation]: "}},
		"members": {in: map[string]any{"service": "ec2", "operation": "CreateTags", "input": map[string]any{
			"Resources": "i-1", "Tags": []any{map[string]any{"Key": "a", "Valeu": "b"}}}},
			want: []string{"[input Resources]: ec2 CreateTags: Resources: needs a list", "[input Tags 0 Valeu] name: ec2 CreateTags: Tags[0].Valeu: there is no such member"}},
		"required": {in: map[string]any{"service": "ssm", "operation": "GetParameter"},
			want: []string{"[input Name]: ssm GetParameter: Name: is required"}},
		"wrong type later": {in: map[string]any{"service": "ssm", "operation": "GetParameter", "input": map[string]any{"Name": later(program.Bool), "WithDecryption": later(program.Float)}},
			want: []string{"[input WithDecryption]: ssm GetParameter: WithDecryption: needs"}},
		"an enum may be newer": {in: map[string]any{"service": "ec2", "operation": "RunInstances", "input": map[string]any{"MinCount": json.Number("1"), "MaxCount": json.Number("1"), "InstanceType": "t9.mikro"}},
			want: []string{"[input InstanceType] warning: ec2 RunInstances: InstanceType: "}},
		"pages": {in: map[string]any{"service": "ec2", "operation": "RunInstances", "paginate": true, "input": map[string]any{"MinCount": json.Number("1"), "MaxCount": json.Number("1")}},
			want: []string{"[paginate]: ec2 RunInstances has no pages"}},
		"names with dots": {in: map[string]any{"service": "ssm", "operation": "SendCommand", "input": map[string]any{"DocumentName": "x", "Parameters": map[string]any{"a.b[0]": "not a list"}}},
			want: []string{"[input Parameters a.b[0]]: ssm SendCommand: Parameters.a.b[0]: needs a list"}},
	} {
		var got []string
		for _, p := range (Env{}).inspectCall(tt.in).Problems {
			mark := ""
			if p.Name {
				mark += " name"
			}
			if p.Warning {
				mark += " warning"
			}
			got = append(got, fmt.Sprint(p.Path)+mark+": "+p.Message)
		}
		if len(got) != len(tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
			continue
		}
		for i := range got {
			if !strings.HasPrefix(got[i], tt.want[i]) {
				t.Errorf("%s: %q, want %q", name, got[i], tt.want[i])
			}
		}
	}
}

// Every operation's answer has a type, and none is too large for a program.
func TestInspectCallTypes(t *testing.T) {
	models, err := Env{}.models()
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"ec2", "ssm", "wafv2", "s3", "cloudformation", "quicksight"} {
		operations, err := models.Operations(service)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range operations {
			found := Env{}.inspectCall(map[string]any{"service": service, "operation": op, "input": action.Later{}})
			if found.Output == nil {
				t.Errorf("%s %s: no type, %v", service, op, found.Problems)
				continue
			}
			if size := len(found.Output.String()); size > 100<<10 {
				t.Errorf("%s %s: its type is %d bytes", service, op, size)
			}
		}
	}
	found := Env{}.inspectCall(map[string]any{"service": "ec2", "operation": "DescribeInstances"})
	text := found.Output.String()
	for _, part := range []string{"Reservations: list<object{", "LaunchTime: timestamp", "EbsOptimized: bool", "AmiLaunchIndex: int"} {
		if !strings.Contains(text, part) {
			t.Errorf("the type of DescribeInstances lacks %s: %.500s", part, text)
		}
	}
}
