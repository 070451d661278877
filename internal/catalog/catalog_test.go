package catalog

import (
	"slices"
	"testing"

	"github.com/almanac-run/almanac/activities/aws"
)

func TestActionsAreNamedOnce(t *testing.T) {
	var names []string
	for _, info := range Actions() {
		if slices.Contains(names, info.Name) {
			t.Errorf("two actions %s", info.Name)
		}
		names = append(names, info.Name)
	}
	for _, want := range []string{"host.command.run", "host.file.write", "http.request"} {
		if !slices.Contains(names, want) {
			t.Errorf("no action %s in %v", want, names)
		}
	}
	for _, a := range Control(aws.Env{}) {
		if a.OnNode() {
			t.Errorf("%s is served by the control worker, but is an action of nodes", a.Name)
		}
	}
}
