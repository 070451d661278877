package awsapi

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCheck(t *testing.T) {
	text := &Shape{Kind: String}
	tests := []struct {
		service, operation string
		input              map[string]any
		want               []string // a warning begins with "warning: "
	}{
		{"ec2", "StopInstances", map[string]any{"InstanceIds": []any{"i-1"}, "Force": "true"}, nil},
		{"ec2", "RunInstances", map[string]any{"MinCount": json.Number("1"), "MaxCount": "2", "InstanceType": "t3.micro", "ImageId": Unknown{text}}, nil},
		{"ec2", "RunInstances", map[string]any{"MinCount": 1, "InstanceType": "t2.mikro", "ImageID": "x", "TagSpecifications": []any{map[string]any{"ResourceType": "instance", "Tags": []any{map[string]any{"Key": "a", "Value": 1.5}}}}}, []string{
			`ImageID: there is no such member; did you mean "ImageId"?`,
			`warning: InstanceType: "t2.mikro" is none of the values that are known; did you mean "t2.micro"?`,
			`MaxCount: is required (an int)`,
			`TagSpecifications[0].Tags[0].Value: needs a string, got 1.5; quote it`,
		}},
		{"ec2", "RunInstances", map[string]any{"MinCount": 1, "MaxCount": 1, "TagSpecifications": map[string]any{"ResourceType": "instance"}}, []string{
			"TagSpecifications: needs a list, got a map; write - before it to make it a list of one",
		}},
		{"ec2", "StopInstances", map[string]any{"InstanceIds": Unknown{text}}, []string{"InstanceIds: needs a list of strings, the expression gives string"}},
		{"ec2", "StopInstances", map[string]any{"InstanceIds": Unknown{&Shape{Kind: List, Item: &Shape{Kind: List}}}}, []string{"InstanceIds[*]: needs a string, the expression gives list"}},
		{"ec2", "StopInstances", map[string]any{"InstanceIds": Unknown{&Shape{Kind: List, Item: text}}}, nil},
		{"ec2", "StopInstances", map[string]any{"InstanceIds": Unknown{}}, nil},
		{"ec2", "StopInstances", map[string]any{"InstanceIds": []any{nil, Unknown{&Shape{Kind: Int}}}}, []string{"InstanceIds[0]: is null"}},
		{"ec2", "CreateTags", map[string]any{"Resources": []any{"i"}, "Tags": []any{Unknown{&Shape{Kind: Structure, Members: []Member{{Name: "Key", Shape: text}, {Name: "Valu", Shape: text}}}}}}, []string{
			`Tags[0].Valu: there is no such member; did you mean "Value"?`,
		}},
		{"ssm", "PutParameter", map[string]any{"Name": "n", "Value": Unknown{&Shape{Kind: Float}}}, []string{
			"Value: needs a string, the expression gives float; make it a string yourself, so that it looks as it should",
		}},
		{"ssm", "SendCommand", map[string]any{"DocumentName": "d", "Parameters": map[string]any{"commands": "ls"}}, []string{
			`Parameters.commands: needs a list, got "ls"; write - before it to make it a list of one`,
		}},
		{"dynamodb", "PutItem", map[string]any{"TableName": "t", "Item": map[string]any{"a": map[string]any{"L": []any{map[string]any{"S": 1}}}}}, nil},
		{"bedrock-runtime", "Converse", map[string]any{"modelId": "m", "toolConfig": map[string]any{"tools": []any{map[string]any{"toolSpec": Unknown{}}}, "toolChoice": map[string]any{"auto": map[string]any{}, "any": map[string]any{}}}}, []string{
			"toolConfig.toolChoice: needs exactly one member, got 2; its members are any, auto, tool",
		}},
		{"cloudwatch", "GetMetricStatistics", map[string]any{"Namespace": "n", "MetricName": "m", "Period": 60, "StartTime": "2026-01-01", "EndTime": "yesterday"}, []string{
			`EndTime: needs a time (2006-01-02T15:04:05Z, or seconds since 1970), got "yesterday"`,
		}},
		{"ec2", "RunInstanses", nil, []string{`AWS ec2 has no operation "RunInstanses"; did you mean "RunInstances"?`}},
		{"cloudwatchlogs", "X", nil, []string{`there is no AWS service "cloudwatchlogs"; did you mean "logs"?`}},
		{"logs", "StartLiveTail", map[string]any{"logGroupIdentifiers": []any{"g"}}, []string{"it answers or takes a stream of events (responseStream), which is not supported"}},
		{"sts", "GetCallerIdentity", map[string]any{"a": 1}, []string{"a: there is no such member; there are none"}},
		{"lambda", "Invoke", map[string]any{"FunctionName": "f", "Payload": "{}"}, nil},
		{"bedrock-runtime", "Converse", map[string]any{"modelId": "m", "additionalModelRequestFields": map[string]any{"a": []any{1, nil, Unknown{}}}}, nil},
	}
	for _, tt := range tests {
		var got []string
		for _, p := range models(t).Check(tt.service, tt.operation, tt.input) {
			text := p.String()
			if p.Warning {
				text = "warning: " + text
			}
			got = append(got, text)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s %s: want -, got +\n%s", tt.service, tt.operation, diff)
		}
	}
}

func TestCoerce(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := []struct {
		kind Kind
		in   any
		want any // nil: refused
	}{
		{String, "a", "a"}, {String, 1, "1"}, {String, int64(1), "1"}, {String, true, "true"}, {String, json.Number("12"), "12"},
		{String, 1.5, nil}, {String, json.Number("1.10"), nil}, {String, at, nil}, {String, []any{}, nil},
		{Int, 1, int64(1)}, {Int, "12", int64(12)}, {Int, json.Number("9007199254740993"), int64(9007199254740993)}, {Int, 2.0, int64(2)},
		{Int, 1.5, nil}, {Int, "1.0", nil}, {Int, true, nil}, {Int, 1e300, nil}, {Int, "", nil},
		{Float, 1, 1.0}, {Float, "1.5", 1.5}, {Float, json.Number("1.10"), 1.1}, {Float, "x", nil},
		{Bool, true, true}, {Bool, "true", true}, {Bool, "false", false}, {Bool, "yes", nil}, {Bool, 1, nil},
		{Timestamp, at, at}, {Timestamp, "2026-01-02T03:04:05Z", at}, {Timestamp, "2026-01-02", time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)},
		{Timestamp, at.Unix(), at}, {Timestamp, "1767323045", at}, {Timestamp, json.Number("1767323045.5"), at.Add(time.Second / 2)}, {Timestamp, "soon", nil},
		{Blob, "text", []byte("text")}, {Blob, []byte{0}, []byte{0}}, {Blob, map[string]any{"base64": "AAE="}, []byte{0, 1}}, {Blob, map[string]any{"base64": "!"}, nil}, {Blob, 1, nil},
	}
	for _, tt := range tests {
		got, ok := coerceScalar(tt.kind, tt.in)
		if ok != (tt.want != nil) || ok && !cmp.Equal(got, tt.want) {
			t.Errorf("%v as %s: %#v, %v; want %#v", tt.in, tt.kind, got, ok, tt.want)
		}
	}
}

func TestDescribe(t *testing.T) {
	m := models(t)
	d, err := m.Describe("ec2", "RunInstances")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(d.Input.Members, func(m Member) bool { return m.Name == "ClientToken" })
	if i < 0 || !d.Input.Members[i].Token {
		t.Error("RunInstances' ClientToken is no token")
	}
	at := func(s *Shape, path string) *Shape {
		for name := range strings.SplitSeq(path, ".") {
			if name == "[]" {
				s = s.Item
				continue
			}
			i := slices.IndexFunc(s.Members, func(m Member) bool { return m.Name == name })
			if i < 0 {
				t.Fatalf("%s: there is no %s", path, name)
			}
			s = s.Members[i].Shape
		}
		return s
	}
	if s := at(d.Output, "Instances.[].NetworkInterfaces.[].PrivateIpAddresses.[].Association.PublicIp"); s.Kind != String {
		t.Errorf("a public address is %v", s.Kind)
	}
	if s := at(d.Input, "InstanceType"); !slices.Contains(s.Enum, "t3.micro") {
		t.Errorf("instance types are %v", s.Enum)
	}

	// A shape that holds itself ends.
	d, err = m.Describe("dynamodb", "GetItem")
	if err != nil {
		t.Fatal(err)
	}
	s, depth := at(d.Output, "Item.[]"), 0
	for s.Kind == Structure {
		s = at(s, "L.[]")
		if s == nil {
			break
		}
		depth++
		if depth > 50 {
			t.Fatal("it has no end")
		}
	}
	if !slices.Contains(d.Errors, "ResourceNotFoundException") {
		t.Errorf("errors: %v", d.Errors)
	}

	began, nodes := time.Now(), 0
	for _, service := range m.Services() {
		operations, err := m.Operations(service)
		if err != nil {
			t.Fatal(err)
		}
		for _, operation := range operations {
			if _, err := m.Describe(service, operation); err != nil {
				t.Errorf("%s %s: %v", service, operation, err)
			}
			nodes++
		}
	}
	t.Logf("%d operations of %d services described in %v", nodes, len(m.Services()), time.Since(began))
	if nodes < 18_000 {
		t.Errorf("only %d operations", nodes)
	}
	if _, err := m.Describe("ec2", "Nothing"); err == nil {
		t.Error("there is an operation Nothing")
	}
}

// The bundle is not larger than it was said to be, and its licence is there.
func TestBundle(t *testing.T) {
	if len(packed) > 4_200_000 {
		t.Errorf("the bundle has %d bytes", len(packed))
	}
	for _, name := range []string{"models/NOTICE", "models/LICENSE.txt"} {
		if text, err := os.ReadFile(name); err != nil || len(text) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !strings.HasPrefix(models(t).Version(), "botocore 1.") {
		t.Errorf("the models are %q", models(t).Version())
	}
}
