package main

import (
	"strings"
	"testing"

	"github.com/almanac-run/almanac/internal/rehearse"
	"github.com/almanac-run/almanac/runbooks"
)

// Whatever fails, no shipped runbook leaves anything behind that it does not say
// it leaves; and its own tests pass.
func TestShippedRunbooks(t *testing.T) {
	for _, name := range runbooks.Names() {
		if _, _, err := runbooks.Tests(name); err != nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, errs strings.Builder
			if code := run([]string{"starter", "rehearse", name}, strings.NewReader(""), &out, &errs); code != exitSucceeded {
				t.Errorf("rehearse: exit code %d\n%s%s", code, out.String(), errs.String())
			}
			out.Reset()
			if code := run([]string{"starter", "test", name}, strings.NewReader(""), &out, &errs); code != exitSucceeded {
				t.Errorf("test: exit code %d\n%s%s", code, out.String(), errs.String())
			}
		})
	}
}

func TestJoined(t *testing.T) {
	list := "retried"
	for _, f := range []string{"throttled", "dies-before:1", "dies-after:1", "dies-before:2", "dies-after:2", "dies-after:3", "dies-before:4", "dies-after:4", "dies-before:5 (ec2 RunInstances)"} {
		list = joined(list, f)
	}
	if want := "retried, throttled, dies-before:1-2,4, dies-after:1-4, dies-before:5 (ec2 RunInstances)"; list != want {
		t.Errorf("%s, want %s", list, want)
	}
	for _, f := range rehearse.Faults {
		if len(f.Name) > 11 || f.Meaning == "" {
			t.Errorf("fault %q does not fit into the help text", f.Name)
		}
	}
}
