package expr

import (
	"testing"
	"time"

	"cel.dev/cel-go/cel"
)

// conditions are what `if:` and `until:` typically hold.
var conditions = []string{
	`inputs.count > 2 && steps.build.image_id.startsWith("ami-")`,
	`has(steps.build) && steps.build.ok && inputs.name == "web"`,
	`inputs.name in ["web", "db"] || inputs.count >= 10`,
	`has(steps.copy) ? steps.copy.ok : inputs.on`,
}

// bareConditions are the same as plain CEL programs, each compiled once.
func bareConditions(tb testing.TB) []cel.Program {
	env, err := cel.NewEnv(cel.Variable("inputs", cel.DynType), cel.Variable("steps", cel.DynType))
	if err != nil {
		tb.Fatal(err)
	}
	var progs []cel.Program
	for _, text := range conditions {
		checked, iss := env.Compile(text)
		if iss.Err() != nil {
			tb.Fatal(iss.Err())
		}
		p, err := env.Program(checked)
		if err != nil {
			tb.Fatal(err)
		}
		progs = append(progs, p)
	}
	return progs
}

// BenchmarkCondition evaluates the same conditions by Eval and by bare CEL with
// a cached program, in turns, and reports the ratio. The bar is 2.
func BenchmarkCondition(b *testing.B) {
	names := world()
	progs := bareConditions(b)
	for _, text := range conditions {
		if _, err := Eval(text, names); err != nil {
			b.Fatal(err)
		}
	}
	var ours, bare time.Duration
	for b.Loop() {
		start := time.Now()
		for range 100 {
			for _, text := range conditions {
				_, _ = Eval(text, names)
			}
		}
		middle := time.Now()
		for range 100 {
			for _, p := range progs {
				_, _, _ = p.Eval(names)
			}
		}
		ours += middle.Sub(start)
		bare += time.Since(middle)
	}
	n := float64(b.N * 100 * len(conditions))
	b.ReportMetric(float64(ours)/n, "ns/eval")
	b.ReportMetric(float64(bare)/n, "ns/bare")
	b.ReportMetric(float64(ours)/float64(bare), "ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkCheck checks one expression that needs CEL and one that does not.
func BenchmarkCheck(b *testing.B) {
	scope := scopeOf(b, "inputs: object{name: string, count: int}\nsteps: object{build: object{image_id: string}, copy?: object{ok: bool}}")
	for _, text := range []string{"steps.build.image_id", `has(steps.copy) && steps.copy.ok || inputs.count > 2`} {
		b.Run(text, func(b *testing.B) {
			for b.Loop() {
				if _, p := Check(text, scope); len(p) > 0 {
					b.Fatal(p)
				}
			}
		})
	}
}
