package fleet

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

func TestParseLimit(t *testing.T) {
	for text, want := range map[string]Limit{"5": {N: 5}, "10%": {N: 10, Percent: true}, "0": {}, " 100% ": {N: 100, Percent: true}} {
		if got, err := ParseLimit(text); err != nil || got != want {
			t.Errorf("ParseLimit(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "%", "-1", "101%", "1.5", "ten", "99999999999"} {
		if got, err := ParseLimit(text); err == nil {
			t.Errorf("ParseLimit(%q) = %v, want an error", text, got)
		}
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		limit          string
		total          int
		atOnce, errors int
	}{
		{"10%", 50, 5, 5},
		{"10%", 11, 2, 1},
		{"10%", 3, 1, 0},
		{"0", 3, 1, 0},
		{"7", 3, 7, 7},
		{"100%", 1000, 1000, 1000},
	} {
		l, err := ParseLimit(c.limit)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.AtOnce(c.total); got != c.atOnce {
			t.Errorf("%s of %d at once = %d, want %d", c.limit, c.total, got, c.atOnce)
		}
		if got := l.Errors(c.total); got != c.errors {
			t.Errorf("%s of %d errors = %d, want %d", c.limit, c.total, got, c.errors)
		}
	}
}

func TestBatches(t *testing.T) {
	got := Batches(100, []Limit{{N: 1}, {N: 10, Percent: true}, {N: 100, Percent: true}})
	if want := [][2]int{{0, 1}, {1, 11}, {11, 100}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// Every target is in exactly one batch, whatever the sizes.
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		total := r.IntN(300)
		sizes := make([]Limit, r.IntN(4))
		for i := range sizes {
			sizes[i] = Limit{N: r.IntN(101), Percent: r.IntN(2) == 0}
		}
		next := 0
		for _, b := range Batches(total, sizes) {
			if b[0] != next || b[1] <= b[0] {
				t.Fatalf("Batches(%d, %v): batch %v after %d", total, sizes, b, next)
			}
			next = b[1]
		}
		if next != total {
			t.Fatalf("Batches(%d, %v) covers %d", total, sizes, next)
		}
	}
}
