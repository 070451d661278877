package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/almanac-run/almanac/workflows"
)

// contextUntil is a context that ends with the test or when stop is closed.
func contextUntil(t *testing.T, stop <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// cable carries connections to the server until it is cut: then nothing
// arrives any more, and nobody is told. What is connected while it is cut stays silent.
type cable struct {
	address string
	cut     func(bool)
}

// proxyCable is a cable of this process. Connections that were open at a cut stay dead.
func proxyCable(t *testing.T, listen, server string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	severed := make(chan struct{}) // closed at the next cut
	isCut := false
	var all []net.Conn
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range all {
			c.Close()
		}
	})
	carry := func(to, from net.Conn, severed chan struct{}) {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			select {
			case <-severed:
				return // into the void, both ends open
			default:
			}
			if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
				to.Close()
				from.Close()
				return
			}
		}
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, in)
			if isCut {
				mu.Unlock()
				continue
			}
			out, err := net.Dial("tcp", server)
			if err != nil {
				in.Close()
				mu.Unlock()
				continue
			}
			all = append(all, out)
			go carry(out, in, severed)
			go carry(in, out, severed)
			mu.Unlock()
		}
	}()
	return &cable{l.Addr().String(), func(cut bool) {
		mu.Lock()
		defer mu.Unlock()
		if cut && !isCut {
			close(severed)
			severed = make(chan struct{})
		}
		isCut = cut
	}}
}

// linkCable is a network of its own (a network namespace) with one link to this
// one, which is taken down. It returns what a command line in it begins with.
func linkCable(t *testing.T, n int, server string) (*cable, []string) {
	t.Helper()
	needsRoot(t, "a network namespace")
	name := fmt.Sprintf("alm%d-%d", os.Getpid()%100000, n)
	ours, theirs := name+"a", name+"b"
	subnet := fmt.Sprintf("10.%d.%d.", 200+n, os.Getpid()%250)
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	ip("netns", "add", name)
	t.Cleanup(func() { ip("netns", "del", name) }) // and the link with it
	ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
	ip("link", "set", theirs, "netns", name)
	ip("addr", "add", subnet+"1/24", "dev", ours)
	ip("link", "set", ours, "up")
	ip("-n", name, "addr", "add", subnet+"2/24", "dev", theirs)
	ip("-n", name, "link", "set", theirs, "up")
	ip("-n", name, "link", "set", "lo", "up")
	relay := proxyCable(t, subnet+"1:0", server)
	return &cable{relay.address, func(cut bool) {
		if cut {
			ip("link", "set", ours, "down")
		} else {
			ip("link", "set", ours, "up")
		}
	}}, []string{"ip", "netns", "exec", name}
}

const cutRunbook = `
runbook: test/cut
on_failure: stop
inputs:
  dir: { type: string }
  node: { type: string }
  seconds: { type: string }
  limit: { type: duration }
steps:
  - id: work
    targets: [ "${{ inputs.node }}" ]
    timeout: ${{ inputs.limit }}
    env: { DIR: "${{ inputs.dir }}", SECONDS_: "${{ inputs.seconds }}" }
    run: |
      echo begin >> "$DIR/effects"
      sleep "$SECONDS_"
      echo end >> "$DIR/effects"
      echo all is well
`

// shortCut cuts an agent's cable for longer than a heartbeat may be late, and
// less than anybody's patience: the command does not notice, and its result arrives.
func shortCut(t *testing.T, b *badDays, id string, c *cable, before []string) {
	b.launch(t, before, c.address, id, nodeDir(t, id)).ready(20 * time.Second)
	dir := t.TempDir()
	in := inputs("dir", dir, "node", id, "seconds", "16")
	in["limit"] = []byte(`"5m"`)
	run := b.begin(t, id, cutRunbook, in)
	eventually(t, 20*time.Second, "the command", func() bool { return text(dir+"/effects") != "" })
	c.cut(true)
	time.Sleep(12 * time.Second)
	c.cut(false)
	r := ended(t, run)
	if r.Outcome != workflows.Succeeded || text(dir+"/effects") != "begin\nend\n" {
		t.Errorf("%s: %s; effects %q", r.Outcome, r.Message, text(dir+"/effects"))
	}
	nothingLeft(t, id, time.Second)
}

func shortCutByProxy(t *testing.T, b *badDays) {
	shortCut(t, b, "cut-proxy", proxyCable(t, "127.0.0.1:0", b.address), nil)
}

func shortCutOfLink(t *testing.T, b *badDays) {
	c, before := linkCable(t, 1, b.address)
	shortCut(t, b, "cut-link", c, before)
}

// longCutOfLink cuts an agent off for good. The execution learns that the node
// is lost; the command on it ends before its deadline, since nobody has come for it; and who comes
// meanwhile is told that the node does not answer. Once the cable is mended the node is as before.
func longCutOfLink(t *testing.T, b *badDays) {
	const id = "cut-long"
	c, before := linkCable(t, 2, b.address)
	b.launch(t, before, c.address, id, nodeDir(t, id)).ready(20 * time.Second)
	dir := t.TempDir()
	in := inputs("dir", dir, "node", id, "seconds", "1000")
	in["limit"] = []byte(`"45s"`)
	run := b.begin(t, id, cutRunbook, in)
	eventually(t, 20*time.Second, "the command", func() bool { return text(dir+"/effects") != "" })
	began := time.Now()
	c.cut(true)
	r := ended(t, run)
	if r.Outcome != workflows.Failed || r.Failure.Kind != "lost" || !strings.Contains(r.Message, "node "+id+" was lost") {
		t.Errorf("%s: %s: %+v", r.Outcome, r.Message, r.Failure)
	}
	t.Logf("lost after %v", time.Since(began).Round(100*time.Millisecond))
	r = ended(t, b.begin(t, id+"-meanwhile", "runbook: test/meanwhile\nsteps:\n  - { id: hello, targets: ["+id+"], run: echo hello }\n", nil))
	if r.Outcome != workflows.Failed || r.Failure.Kind != "unreached" {
		t.Errorf("%s: %s: %+v", r.Outcome, r.Message, r.Failure)
	}
	nothingLeft(t, id, time.Until(began.Add(46*time.Second)))
	if got := text(dir + "/effects"); got != "begin\n" {
		t.Errorf("effects %q", got)
	}
	c.cut(false)
	eventually(t, 40*time.Second, "the node serves again", func() bool {
		r := ended(t, b.begin(t, fmt.Sprint(id, "-after-", time.Now().UnixNano()), "runbook: test/after\nsteps:\n  - { id: hello, targets: ["+id+"], run: echo hello }\n", nil))
		return r.Outcome == workflows.Succeeded
	})
}
