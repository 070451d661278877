package canary

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sampler looks at the command lines and environments of all processes of the machine
// every 20 ms: whose they are does not matter, since a canary is nowhere else. A
// process that lives for less may be missed; what steps run says of itself how it was called (see shells).
type sampler struct {
	search *searcher
	also   func() []sighting // what else comes and goes; asked now and then
	known  map[int]*process
	stop   context.CancelFunc
	done   chan struct{}

	// Its own until it has ended.
	found  []sighting
	passes int
	seen   int // command lines and environments
}

type process struct {
	began         time.Time
	line, environ []byte
}

// settled is how old a process is that will hardly run another program: it is then looked at now and then.
const settled = 2 * time.Second

func (w *world) startSampler(s *searcher) *sampler {
	ctx, stop := context.WithCancel(context.Background())
	p := &sampler{search: s, known: map[int]*process{}, stop: stop, done: make(chan struct{})}
	p.also = func() (found []sighting) {
		w.files("tmp")(func(b []byte) { found = append(found, s.search("temporary files", b)...) })
		return found
	}
	w.t.Cleanup(func() { p.end() })
	go func() {
		defer close(p.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			p.pass()
		}
	}()
	return p
}

// end stops it and returns what it has seen.
func (p *sampler) end() []sighting {
	p.stop()
	<-p.done
	return p.found
}

func (p *sampler) pass() {
	dir, err := os.Open("/proc")
	if err != nil {
		return
	}
	names, _ := dir.Readdirnames(-1)
	dir.Close()
	if p.passes++; p.passes%10 == 0 {
		p.found = append(p.found, p.also()...)
	}
	alive := map[int]bool{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		alive[pid] = true
		known := p.known[pid]
		if known == nil {
			known = &process{began: time.Now()}
			p.known[pid] = known
		} else if time.Since(known.began) > settled && p.passes%50 != pid%50 {
			continue
		}
		p.look("cmdline", name, &known.line)
		p.look("environ", name, &known.environ)
	}
	for pid := range p.known {
		if !alive[pid] {
			delete(p.known, pid) // its number may be given to another
		}
	}
}

func (p *sampler) look(file, pid string, last *[]byte) {
	b, err := os.ReadFile("/proc/" + pid + "/" + file) // it may be gone, or another user's
	if err != nil || bytes.Equal(b, *last) {
		return
	}
	// The process may become another program at any moment: whose it is has to be the same before and after.
	for range 3 {
		before := programOf(pid)
		if b, err = os.ReadFile("/proc/" + pid + "/" + file); err != nil {
			return
		}
		if before == programOf(pid) && before != ended {
			*last = b
			p.seen++
			p.found = append(p.found, p.search.search(file+" of "+before, b)...)
			return
		}
	}
}

const ended = "a process that has just ended"

// programOf is what a process is: the name of its program, "supervisor" of an
// agent's helpers, "command" of what a step runs.
func programOf(pid string) string {
	exe, err := os.Readlink("/proc/" + pid + "/exe")
	name := strings.TrimSuffix(filepath.Base(exe), " (deleted)")
	line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
	switch {
	case err != nil:
		return ended
	case bytes.HasPrefix(line, []byte("almanac\x00")):
		return "supervisor"
	case name == "worker" && bytes.Contains(line, []byte("\x00codec\x00")):
		return "codec"
	case name == "worker" || name == "agent" || name == "starter":
		return name
	case name == "postgres":
		return "PostgreSQL"
	case strings.HasSuffix(name, ".test"):
		return "panic worker"
	}
	return "command"
}
