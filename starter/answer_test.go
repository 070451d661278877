package main

import (
	"strings"
	"testing"

	"github.com/almanac-run/almanac/workflows"
)

// A step that waits is named by its path or its id; by the id alone only if one has it.
func TestWaitFor(t *testing.T) {
	approve := answer{name: workflows.AnswerApprove}
	v := workflows.View{Status: "waiting", Waiting: []workflows.Wait{
		{Step: "both.a.go", Choices: []string{"approve", "reject"}},
		{Step: "loop[0].sure", Choices: []string{"approve", "reject"}},
		{Step: "loop[1].sure", Choices: []string{"approve", "reject"}},
		{Step: "sure", Choices: []string{"approve", "reject"}},
		{Step: "both.b.halt", Choices: []string{"resume"}},
	}}
	for said, want := range map[string]string{
		"both.a.go":    "both.a.go",
		"go":           "both.a.go",
		"sure":         "sure",
		"loop[1].sure": "loop[1].sure",
	} {
		if w, err := (&app{}).waitFor(v, "x", approve, said); err != nil || w.Step != want {
			t.Errorf("%s: %s, %v; want %s", said, w.Step, err, want)
		}
	}
	for said, want := range map[string]string{
		"":     "several steps wait",
		"o":    "no step o waits for approve",
		"halt": "no step halt waits for approve",
	} {
		if _, err := (&app{}).waitFor(v, "x", approve, said); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", said, err, want)
		}
	}
	v.Waiting = v.Waiting[:3]
	if w, err := (&app{}).waitFor(v, "x", approve, "sure"); err == nil {
		t.Errorf("of two steps, %s was taken", w.Step)
	}
}
