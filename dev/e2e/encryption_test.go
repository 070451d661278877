package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/proxy"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/dev/server"
	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/codecserver"
)

// The words that are planted where a person may put something of their own.
const (
	inputCanary   = "canary-input-7f3a"
	outputCanary  = "canary-output-91bc" // made on the node, so that it is in no input
	failureCanary = "canary-failure-c04d"
	tagCanary     = "canary-tag-5e22"
	commentCanary = "canary-comment-ab18"
	messageCanary = "canary-message-d9e0"
)

const secretRunbook = `
runbook: test/secret
inputs:
  nodes: { type: list<string> }
  what: { type: string }
steps:
  - id: work
    targets: { nodes: "${{ inputs.nodes }}" }
    env: { WHAT: "${{ inputs.what }}" }
    run: |
      echo "$WHAT"
      echo canary-output-"$(printf 91)"bc
    rollback: { steps: [{ id: calm, wait: 1s }] }
  - id: ask
    approval: { message: "canary-message-d9e0?" }
  - id: fail
    targets: { nodes: "${{ inputs.nodes }}" }
    run: |
      echo canary-failure-"$(printf c0)"4d; exit 3
`

// programs builds what users run.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "./worker", "./agent", "./starter")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// house runs the programs, with keys or told that they need none.
type house struct {
	t        *testing.T
	programs string
	dir      string
	address  string
	db       string
	secure   bool
}

func (h *house) environment(more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ALMANAC_") })
	if !h.secure {
		env = append(env, "ALMANAC_INSECURE=1")
	}
	return append(append(env, "TEMPORAL_ADDRESS="+h.address, "TEMPORAL_CONFIG_FILE=/nonexistent"), more...)
}

func (h *house) run(program string, args ...string) (int, string) {
	h.t.Helper()
	cmd := exec.Command(filepath.Join(h.programs, program), args...)
	cmd.Dir, cmd.Env = h.dir, h.environment()
	out, _ := cmd.CombinedOutput() // the exit code is looked at
	return cmd.ProcessState.ExitCode(), string(out)
}

func (h *house) must(program string, args ...string) string {
	h.t.Helper()
	code, out := h.run(program, args...)
	if code != 0 {
		h.t.Fatalf("%s %s: exit code %d\n%s", program, strings.Join(args, " "), code, out)
	}
	return out
}

// start runs a program until the test ends.
func (h *house) start(program string, args ...string) {
	h.t.Helper()
	cmd := exec.Command(filepath.Join(h.programs, program), args...)
	cmd.Dir, cmd.Env = h.dir, h.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	log, err := os.Create(filepath.Join(h.dir, program+fmt.Sprint(len(args), time.Now().UnixNano())+".log"))
	if err != nil {
		h.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
		if h.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			h.t.Logf("%s:\n%s", program, text)
		}
	})
}

func settle(t *testing.T, programs string, secure bool, nodes ...string) *house {
	t.Helper()
	h := &house{t: t, programs: programs, dir: t.TempDir(), secure: secure, db: filepath.Join(t.TempDir(), "db")}
	srv, err := server.Start(t.Context(), server.Options{File: h.db})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	h.address = srv.Address()
	h.write("secret.yaml", secretRunbook)
	if secure {
		if err := os.Mkdir(filepath.Join(h.dir, ".almanac"), 0o700); err != nil {
			t.Fatal(err)
		}
		h.write(".almanac/keys", h.must("worker", "key", "new", "--id", "k1"))
	}
	h.start("worker")
	for _, id := range nodes {
		state := filepath.Join(h.dir, "state-"+id)
		if err := os.Mkdir(state, 0o700); err != nil {
			t.Fatal(err)
		}
		if secure {
			h.write("state-"+id+"/keys", h.must("worker", "node-key", id))
		}
		h.start("agent", "--id", id, "--state-dir", state, "--ec2-metadata", "off", "--tag", "what="+tagCanary)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		_, out := h.run("starter", "nodes", "-o", "json")
		if strings.Count(out, tagCanary) >= len(nodes) {
			return h
		}
		if time.Now().After(end) {
			t.Fatalf("the nodes are not there: %s", out)
		}
	}
}

func (h *house) write(name, text string) {
	h.t.Helper()
	// In one step, as a careful person changes a file that is read.
	temporary := filepath.Join(h.dir, name+".new")
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(temporary, filepath.Join(h.dir, name)); err != nil {
		h.t.Fatal(err)
	}
}

// work runs the runbook: it waits for approval, before which between is called, and fails then.
func (h *house) work(id string, between func()) {
	h.t.Helper()
	h.must("starter", "run", "./secret.yaml", "--id", id, "--detach", "-i", "nodes=a,b", "-i", "what="+inputCanary)
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		_, out := h.run("starter", "show", id)
		if strings.Contains(out, "waiting") && strings.Contains(out, messageCanary) {
			break
		}
		if time.Now().After(end) {
			h.t.Fatalf("it does not wait: %s", out)
		}
	}
	between()
	h.must("starter", "approve", id, "ask", "--comment", commentCanary)
	if _, out := h.run("starter", "watch", id); !strings.Contains(out, failureCanary) {
		h.t.Errorf("the failure does not tell %s:\n%s", failureCanary, out)
	}
}

// readable lists the words that the server's database shows, in the forms that they may have there.
func (h *house) readable() []string {
	h.t.Helper()
	var found []string
	for _, file := range []string{h.db, h.db + "-wal"} {
		b, err := os.ReadFile(file)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, word := range []string{inputCanary, outputCanary, failureCanary, tagCanary, commentCanary, messageCanary} {
			forms := [][]byte{[]byte(word), fmt.Appendf(nil, "%x", word)}
			for shift := range 3 { // in base64 a word has another form at each offset; its ends depend on its neighbours
				text := base64.RawStdEncoding.EncodeToString([]byte("xx"[:shift] + word))
				forms = append(forms, []byte(text[4:len(text)-4]))
			}
			for _, form := range forms {
				if bytes.Contains(b, form) && !slices.Contains(found, word) {
					found = append(found, word)
				}
			}
		}
	}
	return found
}

// TestEncryption runs the real programs with keys: everything is shown to who has
// them, nothing is readable in the server's database, a new key comes while an
// execution runs, and each node reads what is its own.
func TestEncryption(t *testing.T) {
	t.Parallel()
	bin := programs(t)
	h := settle(t, bin, true, "a", "b")
	k1 := text(filepath.Join(h.dir, ".almanac", "keys"))
	h.work("one", func() {
		// The new key is known everywhere before the first payload is written with it.
		k2 := h.must("worker", "key", "new", "--id", "k2")
		h.write(".almanac/keys", k2+k1)
		for _, id := range []string{"a", "b"} {
			h.write("state-"+id+"/keys", h.must("worker", "node-key", id))
		}
		time.Sleep(5 * time.Second)
		h.write(".almanac/keys", k1+k2)
		time.Sleep(5 * time.Second)
	})
	for _, args := range [][]string{{"show", "one"}, {"logs", "one"}, {"show", "one", "-o", "json"}} {
		if _, out := h.run("starter", args...); !strings.Contains(out, outputCanary) && !strings.Contains(out, failureCanary) {
			t.Errorf("%v shows neither output nor failure:\n%s", args, out)
		}
	}
	// Who lacks the keys learns that, and how it ended all the same.
	h.write("other", h.must("worker", "key", "new", "--id", "other"))
	if _, out := h.run("starter", "show", "one", "--key-file", "other"); !strings.Contains(out, "rolled_back") || strings.Contains(out, failureCanary) || !strings.Contains(out, "there is no key") {
		t.Errorf("without the keys: %s", out)
	}
	page := h.must("starter", "report", "one", "--html", "-")
	if !strings.Contains(page, failureCanary) || strings.Contains(page, "Encoded failure") {
		t.Error("the report does not tell the failure")
	}
	if found := h.readable(); len(found) > 0 {
		t.Errorf("canaries readable in the database: %q", found)
	} else {
		t.Log("canaries readable in the database: 0 of 6")
	}
	h.isolated()
}

// isolated reads the histories of everything with the keys of each node.
func (h *house) isolated() {
	t := h.t
	c, err := client.Dial(client.Options{HostPort: h.address, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	agent := map[string]*codec.Codec{}
	for _, id := range []string{"a", "b"} {
		keys, err := codec.ReadFile(t.Context(), filepath.Join(h.dir, "state-"+id, "keys"), nil)
		if err != nil {
			t.Fatal(err)
		}
		agent[id] = codec.NewNode(keys, id, codec.Options{RefusePlain: true})
	}
	all, err := codec.ReadFile(t.Context(), filepath.Join(h.dir, ".almanac", "keys"), nil)
	if err != nil {
		t.Fatal(err)
	}
	control := codec.New(all, codec.Options{RefusePlain: true})
	keys, count := map[string]int{}, map[string]int{}
	for _, id := range []string{"one", "node/a", "node/b"} {
		for _, p := range payloadsOf(t, c, id) {
			keys[string(p.Metadata["almanac-key"])]++
			if _, err := control.Decode([]*commonpb.Payload{p}); err != nil {
				t.Errorf("%s: the control side: %v", id, err)
			}
			read := ""
			for name, a := range agent {
				if _, err := a.Decode([]*commonpb.Payload{p}); err == nil {
					read += name
				}
			}
			count[id+" by "+read]++
			if owner := strings.TrimPrefix(id, "node/"); owner != id && read != owner || len(read) > 1 {
				t.Errorf("a payload of %s is read by %q", id, read)
			}
		}
	}
	t.Logf("payloads by reader: %v; by key: %v", count, keys)
	if keys["k1"] == 0 || keys["k2"] == 0 || len(keys) != 2 {
		t.Errorf("payloads by key: %v", keys)
	}
	for _, some := range []string{"one by ", "one by a", "one by b", "node/a by a", "node/b by b"} {
		if count[some] == 0 {
			t.Errorf("no payload of %q: this test sees nothing", some)
		}
	}
}

// payloadsOf are the payloads of an execution's history and description, search attributes left out.
func payloadsOf(t *testing.T, c client.Client, id string) []*commonpb.Payload {
	t.Helper()
	var all []*commonpb.Payload
	visit := proxy.VisitPayloadsOptions{SkipSearchAttributes: true, Visitor: func(_ *proxy.VisitPayloadsContext, ps []*commonpb.Payload) ([]*commonpb.Payload, error) {
		all = append(all, ps...)
		return ps, nil
	}}
	events := c.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := proxy.VisitPayloads(context.Background(), e, visit); err != nil {
			t.Fatal(err)
		}
	}
	d, err := c.WorkflowService().DescribeWorkflowExecution(t.Context(), &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: "default", Execution: &commonpb.WorkflowExecution{WorkflowId: id},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := proxy.VisitPayloads(context.Background(), d, visit); err != nil {
		t.Fatal(err)
	}
	return all
}

// Without keys the same words are found in the database: the search above can fail.
func TestWithoutEncryption(t *testing.T) {
	t.Parallel()
	h := settle(t, programs(t), false, "a", "b")
	h.work("one", func() {})
	if found := h.readable(); len(found) != 6 {
		t.Errorf("readable in the database: %q, want all 6 canaries", found)
	}
}

// The Web UI shows what a codec server decrypts for it, and nothing to read without one.
func TestWebUIDecrypts(t *testing.T) {
	chromium := browser(t)
	line, err := codec.NewKey("")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := codec.Read(t.Context(), line, nil)
	if err != nil {
		t.Fatal(err)
	}
	encryption := codec.New(keys, codec.Options{})
	known := func(context.Context, string) (string, error) { return "browser", nil }
	var origin string
	var log lockedBuffer
	decoder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, err := codecserver.Handler(codecserver.Options{Codec: encryption, Origins: []string{origin}, Who: []codecserver.Who{known}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Authorization", "Bearer x") // as a login of the Web UI's would
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(decoder.Close)
	srv, err := server.Start(t.Context(), server.Options{File: filepath.Join(t.TempDir(), "db"), UIPort: server.FreePort, Codec: decoder.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	origin = srv.UIAddress()
	o := client.Options{HostPort: srv.Address(), Logger: quiet{}}
	o.DataConverter, o.FailureConverter = encryption.Converters()
	c, err := client.Dial(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	work(t, c, "secret")
	run := begin(t, c, "secret", compileLedger(t, "runbook: test/secret\nsteps:\n  - id: ask\n    name: The secret step\n    approval: { message: canary-message }\n", nil), nil)
	wait(t, "the approval", func() bool { v := view(c, "secret"); return v != nil && len(v.Waiting) == 1 })
	page := srv.UIAddress() + "/namespaces/default/workflows/secret/" + run.GetRunID()
	open(t, chromium)("an encrypted execution", page+"/user-metadata", "<td>The secret step (ask)</td> <td>waiting")
	if text := log.String(); !strings.Contains(text, "who=browser namespace=default") || strings.Contains(text, "canary") {
		t.Errorf("the codec server's log: %s", text)
	}
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
