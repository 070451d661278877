package ssmnode

import (
	"encoding/json"
	"errors"
	"testing"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// As the control worker serves them: the node comes with the call, the kind of an
// error and what is known of it arrive.
func TestServed(t *testing.T) {
	w := newWorld(t, nil)
	silent := newWorld(t, agent(simcloud.Agent{Undeliverable: true}))
	for i, tt := range []struct {
		w              *world
		script, target string
		stdout, kind   string
	}{
		{w, "echo $ALMANAC_NODE", "", w.id, ""},
		{w, "exit 7", "", "", "failed"},
		{w, "true", "i-0123456789abcdef0", "", "unreached"},
		{silent, "true", "", "", "unreached"},
	} {
		env := (&testsuite.WorkflowTestSuite{}).NewTestActivityEnvironment()
		activities.RegisterRemote(env, Actions(tt.w.env), activities.Options{})
		target := action.Target{ID: tt.w.id, Platform: "linux"}
		if tt.target != "" {
			target.ID = tt.target
		}
		in, err := json.Marshal(m{"script": tt.script})
		if err != nil {
			t.Fatal(err)
		}
		value, err := env.ExecuteActivity("host.command.run", string(rune('a'+i))+token[1:], json.RawMessage(in), target)
		var failure *temporal.ApplicationError
		switch {
		case tt.kind == "" && err != nil:
			t.Errorf("%s: %v", tt.script, err)
		case tt.kind != "":
			if !errors.As(err, &failure) || failure.Type() != tt.kind {
				t.Fatalf("%s: %v, want %s", tt.script, err, tt.kind)
			}
			if tt.kind == "failed" && !failure.HasDetails() {
				t.Error("what is known is not told")
			}
		default:
			var raw json.RawMessage
			var out m
			if err := value.Get(&raw); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, &out); err != nil || out["stdout"] != tt.stdout {
				t.Errorf("%s, %v", raw, err)
			}
		}
	}
}
