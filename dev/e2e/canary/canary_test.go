// Package canary shows that secrets leave no trace.
//
// It plants canaries, values that occur nowhere else, wherever a person may put a
// secret or a word of their own; has the real programs run executions that end in every way
// there is; and then searches everything that was written, sent or could be seen meanwhile, in the
// forms that such values take there. What is found must be on a list that
// people have reviewed, allowed.txt, and each line of that list must be needed.
//
// canary_test.go says what a canary is, search_test.go how it is found,
// allowed_test.go what may be found, sampler_test.go how processes are watched,
// places_test.go where is searched (a place more is a line more), and
// run_test.go what is run. docs/secrets.md explains the list to who operates this.
//
// What can not be searched here: the memory of processes and core dumps.
package canary

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"testing"

	"github.com/almanac-run/almanac/internal/node"
)

// The test binary is also the worker that panics.
func TestMain(m *testing.M) {
	node.ExecMain()
	if os.Getenv("CANARY_ROLE") == "panic" {
		os.Exit(panicWorker())
	}
	os.Exit(m.Run())
}

// canary is one planted value.
type canary struct {
	kind  string   // where a person puts it, as the list names it; "secret." begins those that are to be nowhere
	value string   // what is planted
	parts [][]byte // any of them gives it away: texts around, masks and page borders may hide the rest
}

// garrison are the canaries of one test, by kind.
type garrison map[string]*canary

// random is text of letters and digits that means nothing: no form of it has to be escaped.
func random() string {
	b := make([]byte, 6)
	rand.Read(b)
	return "q" + hex.EncodeToString(b) + "Z"
}

// awkward stands between the halves: each way to write a text writes it differently.
const awkward = ` "\<é+&/%'$ `

// plant makes a value with characters that have to be escaped.
func (g garrison) plant(kind string) string { return g.add(kind, random(), awkward, random()) }

// plain makes a value for a place that takes letters and digits only.
func (g garrison) plain(kind string) string { return g.add(kind, random(), "-", random()) }

func (g garrison) add(kind, head, middle, tail string) string {
	if g[kind] != nil {
		panic("two canaries of kind " + kind)
	}
	g[kind] = &canary{kind, head + middle + tail, [][]byte{[]byte(head), []byte(tail)}}
	return g[kind].value
}

// adopt makes a canary of a value that is there already, such as a key's bytes.
func (g garrison) adopt(kind string, value []byte) {
	half := len(value) / 2
	g[kind] = &canary{kind, string(value), [][]byte{value[:half], value[half:]}}
}
