package settings

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestSearchAttributes compares the attributes with those that executions and nodes write. It reads the source, so
// that settings need not link the interpreter.
func TestSearchAttributes(t *testing.T) {
	var written []string
	for _, name := range []string{"../../workflows/api.go", "../../internal/registry/registry.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, "Attr") || len(spec.Values) != 1 {
				return true
			}
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			written = append(written, value)
			return true
		})
	}
	slices.Sort(written)
	if have := slices.Sorted(maps.Keys(SearchAttributes)); !slices.Equal(have, written) {
		t.Errorf("the server gets %v, the interpreter writes %v", have, written)
	}
}

func TestDynamicFlags(t *testing.T) {
	flags := DynamicFlags()
	if len(flags) != len(Dynamic) || !slices.IsSorted(flags) {
		t.Errorf("want the %d values of Dynamic in order, got %q", len(Dynamic), flags)
	}
	for _, f := range flags {
		if _, value, found := strings.Cut(f, "="); !found || !json.Valid([]byte(value)) {
			t.Errorf("%q is not key=JSON", f)
		}
	}
	if want := `history.timerProcessorMaxTimeShift="5ms"`; !slices.Contains(flags, want) {
		t.Errorf("%s is missing in %q", want, flags)
	}
}
