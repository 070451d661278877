package expr

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// bombs are short expressions that an engine without bounds never finishes, or
// finishes with the machine's memory. x is replaced by values of the scope.
var bombs = map[string]string{
	"doubled strings":         `["0123456789"]` + strings.Repeat(".map(x, x + x)", 60) + "[0].size()",
	"doubled lists":           `[[1, 2]]` + strings.Repeat(".map(x, x + x)", 60) + "[0].size()",
	"doubled empty lists":     `[[]]` + strings.Repeat(".map(x, x + x)", 500) + "[0].size()",
	"shared pairs":            `[[1]]` + strings.Repeat(".map(x, [x, x])", 60) + " == [[1]]",
	"shared pairs, compared":  `[[1]]` + strings.Repeat(".map(x, [x, x])", 60) + " == " + `[[1]]` + strings.Repeat(".map(x, [x, x])", 60),
	"shared maps":             `[{"a": 1}]` + strings.Repeat(`.map(x, {"a": x, "b": x})`, 60) + "[0].size() > 0",
	"shared by maps of lists": `[[1, 2]]` + strings.Repeat(".map(x, x.map(y, x))", 60) + " == [1]",
	"joined doubles":          `["0123456789"]` + strings.Repeat(".map(x, x + x)", 30) + `.join(",").size()`,
	"loops in loops":          "big.map(a, big.map(b, big.map(c, big.map(d, a + b + c + d))))",
	"searches in loops":       "big.filter(a, big.exists(b, big.exists(c, a == b && b == c)))",
	"replaced by itself":      `["aaaaaaaaaa"]` + strings.Repeat(`.map(x, x.replace("a", x))`, 20) + "[0].size()",
	"split and joined":        `["aaaaaaaaaa"]` + strings.Repeat(`.map(x, x.split("").join("bbbbbbbbbb"))`, 20) + "[0].size()",
	"bound by optMap":         `optional.of("0123456789")` + strings.Repeat(".optMap(x, x + x)", 60) + `.orValue("")`,
	"bound lists by optMap":   `optional.of([1, 2])` + strings.Repeat(".optMap(x, [x, x])", 60) + `.orValue([])`,
	"in a doubled list":       `[["a"]]` + strings.Repeat(".map(x, x + x)", 40) + `.exists(l, "b" in l)`,
	"nested literals":         strings.Repeat(`{"a": `, 90) + "1" + strings.Repeat("}", 90) + " == 1",
	"large pattern":           `long.matches("` + strings.Repeat("(a|b){1000}", 80) + `")`,
	"regular expression":      `(long + long).matches("(x+x+)+y(a{0,1000}){0,1000}")`,
}

func TestBombsAreRefused(t *testing.T) {
	scope := scopeOf(t, "big: list<string>\nlong: string")
	for name, text := range bombs {
		t.Run(name, func(t *testing.T) {
			if _, problems := Check(text, scope); len(problems) == 0 && name != "regular expression" {
				t.Errorf("Check accepts it")
			}
		})
	}
}

// What Check refuses Eval bounds as well: a program is only data.
func TestBombsAreBounded(t *testing.T) {
	big := make([]any, 5000)
	for i := range big {
		big[i] = "x"
	}
	names := map[string]any{"big": big, "long": strings.Repeat("x", 400_000)}
	more := map[string]string{
		"replace":        `long.replace("x", long)`,
		"replace empty":  `long.replace("", long)`,
		"join":           `big.join(long)`,
		"split":          `long.split("")`,
		"add":            `long + long + long + long`,
		"last index":     `long.lastIndexOf("y" + long.substring(200000))`,
		"list of copies": `big.map(b, big)`,
		"huge result":    `big.map(b, long)`,
		"nested":         `[big, [big, [big, [big, [big, big]]]]] == 1`,
		"sums":           "size(long" + strings.Repeat(" + 'x'", 1000) + ")",
		"many searches":  strings.Repeat(`long.substring(0, 60000).matches("[^z]*[^z]*[^z]*[^z]*q") || `, 12) + "false",
		"compare":        "long == long" + strings.Repeat(" && long == long", 300),
	}
	for k, v := range bombs {
		more[k] = v
	}
	for name, text := range more {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			v, err := Eval(text, names)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			allocated := (after.TotalAlloc - before.TotalAlloc) >> 20
			t.Logf("%v, %d MiB allocated, %.60s, %v", took.Round(time.Millisecond), allocated, Text(v), err)
			if took > 500*time.Millisecond || allocated > 128 { // includes compiling; wide, since machines differ
				t.Errorf("took %v and %d MiB", took, allocated)
			}
		})
	}
}

// The dearest expressions that Check accepts, over data of the sizes it assumes.
func TestWorstAccepted(t *testing.T) {
	scope := scopeOf(t, "l: list<string>\nm: list<list<string>>\ns: string")
	list := make([]any, sizeList)
	for i := range list {
		list[i] = strings.Repeat("y", sizeString-1) + string(rune('a'+i%26))
	}
	nested := make([]any, sizeList)
	for i := range nested {
		nested[i] = list
	}
	names := map[string]any{"l": list, "m": nested, "s": strings.Repeat("y", sizeString)}
	for _, text := range []string{
		"l.map(a, a + a).size()", "l.filter(a, a in l).size()", "l.exists(a, l.exists(b, a + 'q' == b))", "m.map(x, x.size()).size()",
		"l.map(a, a.replace('y', 'z')).join(',').size()", "l.filter(a, !l.exists(b, b != a)).size()", "l.map(a, a.split('y')).size()", "s.split('').join('-').size()",
		"l.all(a, a.matches('^y+[a-z]$'))",
	} {
		c, problems := Check(text, scope)
		if len(problems) > 0 {
			t.Logf("%s: %v", text, problems[0].Message)
			continue
		}
		if _, err := Eval(text, names); err != nil { // compiles
			t.Logf("%s (estimate %d): %v", text, c.Cost, err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err := Eval(text, names)
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		t.Logf("%s: estimate %d, %v, %v", text, c.Cost, took, err)
		if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 100*time.Millisecond || mib > 32 {
			t.Errorf("%s took %v and %d MiB", text, took, mib)
		}
	}
}
