package rehearse

import (
	"encoding/json"
	"maps"
	"strings"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/lang/program"
)

// likely are the outputs of actions that are not what their type says by itself.
// What an action was given under the name of an output is that output.
var likely = map[string]map[string]any{
	"host.command.run":     {"ref": "rehearsal", "duration": "1s"},
	"host.file.write":      {"changed": true, "created": true},
	"host.file.remove":     {"changed": true},
	"host.service.status":  {"active": true, "enabled": true},
	"host.service.start":   {"active": true, "enabled": true, "changed": true},
	"host.service.stop":    {"enabled": true, "changed": true},
	"host.service.restart": {"active": true, "enabled": true},
	"host.service.reload":  {"active": true, "enabled": true},
	"host.service.enable":  {"active": true, "enabled": true, "changed": true},
	"host.service.disable": {"active": true, "changed": true},
	"http.request":         {"status": 200, "duration": "100ms"},
	"notify.slack":         {"status": 200},
	"notify.webhook":       {"status": 200},
	"notify.email":         {"message_id": "<rehearsal@localhost>"},
}

// plausible is what an action answers that goes well and of which nobody said
// what it answers: the values of its declared types that mean nothing special.
func plausible(info action.Info, input json.RawMessage, said json.RawMessage) (json.RawMessage, error) {
	var given map[string]json.RawMessage
	_ = json.Unmarshal(input, &given)
	out := map[string]any{}
	for _, f := range info.Outputs {
		if !f.Required {
			continue
		}
		out[f.Name] = nothing(f.Type, f.Enum)
		if in, ok := given[f.Name]; ok && string(in) != `""` {
			if _, err := program.Decode(in, f.Type); err == nil {
				out[f.Name] = in
			}
		}
	}
	maps.Copy(out, likely[info.Name])
	if len(said) > 0 {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(said, &fields); err != nil {
			return nil, err
		}
		for name, raw := range fields {
			out[name] = raw
		}
	}
	return json.Marshal(out)
}

func nothing(t program.Type, enum []string) any {
	switch t.Kind {
	case program.String:
		if len(enum) > 0 {
			return enum[0]
		}
		return ""
	case program.Int, program.Float:
		return 0
	case program.Bool:
		return false
	case program.DurationType:
		return "0s"
	case program.Timestamp:
		return "2026-01-02T03:04:05Z"
	case program.List:
		return []any{}
	case program.Map:
		return map[string]any{}
	case program.Object:
		m := map[string]any{}
		for _, f := range t.Fields {
			if !f.Optional {
				m[f.Name] = nothing(f.Type, nil)
			}
		}
		return m
	}
	return nil
}

// unseen tells whether an action may change what a rehearsal cannot know.
func unseen(name string, input json.RawMessage) bool {
	switch {
	case name == "host.command.run":
		return true
	case name == "http.request":
		var in struct {
			Method string `json:"method"`
		}
		_ = json.Unmarshal(input, &in)
		return in.Method != "" && in.Method != "GET" && in.Method != "HEAD" && in.Method != "OPTIONS"
	}
	if !strings.HasSuffix(name, ".call") {
		return false
	}
	var in struct {
		Operation string `json:"operation"`
	}
	_ = json.Unmarshal(input, &in)
	return !strings.HasPrefix(in.Operation, "Describe") && !strings.HasPrefix(in.Operation, "List") && !strings.HasPrefix(in.Operation, "Get")
}
