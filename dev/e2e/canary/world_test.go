package canary

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"go.temporal.io/sdk/client"

	"github.com/almanac-run/almanac/dev/server"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/pgtest"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// world is what the programs run in: a server, a node, a web server and a cloud
// of their own, a directory, and nothing of the environment of who runs the test.
type world struct {
	t        *testing.T
	g        garrison
	programs string // directory
	dir      string // everything that is written is in it
	secure   bool
	srv      *server.Server
	receiver *httptest.Server // where actions send what they are to send
	aws      *httptest.Server
	otlp     *httptest.Server // where traces go
	client   client.Client
	keys     *codec.Codec // nil if nothing is encrypted
	running  map[string]*exec.Cmd
	bucket   *s3mem.Backend // what stands for S3 has it
	s3       *httptest.Server
	pg       pgtest.Server
	outputs  string // databases of pg, as addresses; empty without PostgreSQL
	facts    string

	mu       sync.Mutex
	arrived  []byte // what receiver and aws were sent
	answered []byte // what the starter printed
	replies  map[string][]byte
}

// build builds what users run, from sources that flags may change.
func build(t *testing.T, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", dir+"/", "./worker", "./agent", "./starter")...)
	cmd.Dir = filepath.Join("..", "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

func newWorld(t *testing.T, programs string, secure bool) *world {
	t.Helper()
	w := &world{t: t, g: garrison{}, programs: programs, dir: t.TempDir(), secure: secure, running: map[string]*exec.Cmd{}, replies: map[string][]byte{}}
	for _, dir := range []string{".almanac", "home", "state", "root", "server", "logs", "seen", "root/bin", "tmp", "tmp/worker", "tmp/agent", "tmp/starter", "tmp/codec", "tmp/panic worker"} {
		if err := os.Mkdir(w.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w.receiver = httptest.NewServer(http.HandlerFunc(w.receive))
	t.Cleanup(w.receiver.Close)
	w.aws = httptest.NewServer(w.amazon())
	t.Cleanup(w.aws.Close)
	w.bucket = s3mem.New()
	if err := w.bucket.CreateBucket("outputs"); err != nil {
		t.Fatal(err)
	}
	w.s3 = httptest.NewServer(w.simple())
	t.Cleanup(w.s3.Close)
	w.otlp = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.replies["traces"] = append(w.replies["traces"], body...)
		w.arrived = fmt.Appendf(w.arrived, "%v\n", r.Header)
	}))
	t.Cleanup(w.otlp.Close)
	var err error
	w.srv, err = server.Start(t.Context(), server.Options{File: w.path("server/db"), LogFile: w.path("logs/server"), Debug: true, UIPort: server.FreePort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.srv.Stop() })
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(name string) string {
	b, err := os.ReadFile(w.path(name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// receive is the web server: it says back what it was sent.
func (w *world) receive(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.mu.Lock()
	w.arrived = fmt.Appendf(w.arrived, "%s %s %v %s\n", r.Method, r.URL, r.Header, body)
	w.mu.Unlock()
	user, password, _ := r.BasicAuth()
	echo := fmt.Sprintf("%s %v %s %s %s", r.URL, r.Header, body, user, password)
	switch r.URL.Path {
	case "/hang":
		<-r.Context().Done()
	case "/fail":
		rw.Header().Set("Retry-After", "0")
		rw.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(rw, "%s %s", w.g["http.error"].value, echo)
	default:
		rw.Header().Set("X-Answer", w.g["http.answer.header"].value)
		rw.Header().Set("X-Echo", r.Header.Get("X-Token"))
		fmt.Fprintf(rw, "%s %s", w.g["http.answer"].value, echo)
	}
}

// amazon serves the simulated cloud over HTTP, as much of AWS's JSON protocol as is needed here.
func (w *world) amazon() http.Handler {
	cloud := simcloud.New(simcloud.Options{})
	w.t.Cleanup(cloud.Close)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.mu.Lock()
		w.arrived = fmt.Appendf(w.arrived, "%v %s\n", r.Header, body)
		w.mu.Unlock()
		prefix, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		in := map[string]any{}
		err := json.Unmarshal(body, &in)
		out := map[string]any{}
		if in["Name"] == "/canary/refused" && operation == "PutParameter" { // AWS likes to quote what it does not like
			err = &awsapi.Error{Code: "ValidationException", Message: fmt.Sprintf("Value %q in %s failed to satisfy a constraint", in["Value"], body)}
		} else if service := map[string]string{"AmazonSSM": "ssm", "secretsmanager": "secretsmanager"}[prefix]; err == nil {
			out, err = cloud.Call(r.Context(), awsapi.Scope{}, service, operation, in)
		}
		rw.Header().Set("Content-Type", "application/x-amz-json-1.1")
		if answer, ok := err.(*awsapi.Error); ok {
			rw.WriteHeader(http.StatusBadRequest)
			out = map[string]any{"__type": answer.Code, "message": answer.Message}
		} else if err != nil {
			rw.WriteHeader(http.StatusInternalServerError)
		}
		_ = json.NewEncoder(rw).Encode(seconds(out))
	})
}

// simple serves the bucket, and keeps what is asked of it as it was sent.
func (w *world) simple() http.Handler {
	fake := gofakes3.New(w.bucket, gofakes3.WithLogger(gofakes3.DiscardLog())).Server()
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		w.mu.Lock()
		w.replies["s3 addresses"] = fmt.Appendf(w.replies["s3 addresses"], "%s %s\n", r.Method, r.RequestURI)
		w.replies["s3 headers"] = fmt.Appendf(w.replies["s3 headers"], "%v %v\n", r.Header, r.Trailer)
		w.replies["s3 bodies"] = append(append(w.replies["s3 bodies"], body...), '\n')
		w.mu.Unlock()
		fake.ServeHTTP(rw, r)
	})
}

// database starts a PostgreSQL that logs all that it is told. Without the package postgresql its part is left out, but not where CI is "true".
func (w *world) database() {
	w.t.Helper()
	log, err := os.Create(w.path("logs/postgresql"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		w.pg.Stop()
		log.Close()
	})
	w.pg.Log, w.pg.Password = log, w.value("pg.store_password")
	w.pg.Settings = []string{"log_statement=all", "log_connections=on", "log_parameter_max_length_on_error=-1", "log_line_prefix=%m %a %u %d "}
	w.t.Run("PostgreSQL", func(t *testing.T) { w.outputs, w.facts = w.pg.Database(t), w.pg.Database(t) })
	if w.t.Failed() {
		w.t.FailNow()
	}
	if w.outputs == "" {
		delete(w.g, "pg.store_password")
	}
}

// shells puts what says of itself how it was called in the place of the node's shells, lest one be missed that lives for a moment.
func (w *world) shells() {
	w.t.Helper()
	for _, shell := range []string{"bash", "sh"} {
		real, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		text := fmt.Sprintf("#!/bin/sh\ncd %q\nfor what in cmdline environ; do cat /proc/$$/$what >>$what.shell; cat /proc/$PPID/$what >>$what.supervisor; done\ncd \"$OLDPWD\"\nunset what OLDPWD\nexec %s \"$@\"\n", w.path("seen"), real)
		if err := os.WriteFile(w.path("root/bin/"+shell), []byte(text), 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
}

// seconds writes times as AWS's JSON protocol does.
func seconds(v any) any {
	switch v := v.(type) {
	case time.Time:
		return float64(v.UnixMilli()) / 1000
	case []any:
		for i := range v {
			v[i] = seconds(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = seconds(v[k])
		}
	}
	return v
}

// command is a program with its own environment: what it needs, what more says, and nothing else.
func (w *world) command(program string, more []string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(w.programs, program), args...)
	if program == "panic worker" {
		cmd = exec.Command(os.Args[0])
	}
	cmd.Dir = w.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.path("home"), "TMPDIR=" + w.path("tmp/"+program),
		"TEMPORAL_ADDRESS=" + w.srv.Address(), "TEMPORAL_CONFIG_FILE=/nonexistent", "TEMPORAL_TLS=false"}, more...)
	if v := w.g["temporal.api_key"]; v != nil {
		cmd.Env = append(cmd.Env, "TEMPORAL_API_KEY="+v.value)
	}
	if !w.secure {
		cmd.Env = append(cmd.Env, "ALMANAC_INSECURE=1")
	}
	return cmd
}

// serve runs a program until the test ends, its output in a file.
func (w *world) serve(name, program string, env []string, args ...string) {
	w.t.Helper()
	cmd := w.command(program, env, args...)
	log, err := os.Create(w.path("logs/" + name))
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.running[name] = cmd
	w.t.Cleanup(func() {
		w.end(name)
		log.Close()
		if w.t.Failed() {
			w.t.Logf("%s:\n%s", name, lastOf(w.read("logs/"+name)))
		}
	})
}

func lastOf(text string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// end stops a program that serve began.
func (w *world) end(name string) {
	if cmd := w.running[name]; cmd != nil {
		delete(w.running, name)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
}

// run runs a program to its end; what it prints is a place.
func (w *world) run(program string, env []string, args ...string) (code int, out string) {
	w.t.Helper()
	cmd := w.command(program, env, args...)
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		w.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

// starter runs the starter, whose exit code has to be want.
func (w *world) starter(want int, args ...string) string {
	w.t.Helper()
	code, out := w.run("starter", []string{"ALMANAC_RUNBOOKS=" + w.path("runbooks"), "ALMANAC_CALLER=" + w.g["caller"].value, "ALMANAC_OUTPUT_DIR=" + w.path("no-output")}, args...)
	w.mu.Lock()
	w.answered = fmt.Appendf(w.answered, "$ starter %s\n%s\n", args[0], out)
	w.mu.Unlock()
	if code != want {
		w.t.Errorf("starter %s: exit code %d, want %d\n%s", strings.Join(args, " "), code, want, out)
	}
	return out
}

// until polls until so is true; how long that may take is said by a machine that is busy.
func (w *world) until(what string, so func() bool) {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !so(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("in two minutes: not %s", what)
		}
	}
}

// runbooks copies the runbooks, with the canaries in them.
func (w *world) runbooks() {
	w.t.Helper()
	var pairs []string
	for kind, c := range w.g {
		quoted, _ := json.Marshal(c.value)
		pairs = append(pairs, "{{"+kind+"}}", string(quoted), "{{="+kind+"}}", c.value)
	}
	replace := strings.NewReplacer(pairs...)
	files, err := filepath.Glob("testdata/runbooks/canary/*.yaml")
	if err != nil || len(files) == 0 {
		w.t.Fatal("no runbooks", err)
	}
	if err := os.MkdirAll(w.path("runbooks/canary"), 0o700); err != nil {
		w.t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			w.t.Fatal(err)
		}
		w.write(filepath.Join("runbooks/canary", filepath.Base(file)), replace.Replace(string(b)))
	}
}

// connect makes the test's own client, and keys if there are any.
func (w *world) connect() {
	w.t.Helper()
	o := client.Options{HostPort: w.srv.Address(), Logger: quiet{}, Identity: "test"}
	if w.secure {
		keys, err := codec.ReadFile(w.t.Context(), w.path(".almanac/keys"), nil)
		if err != nil {
			w.t.Fatal(err)
		}
		w.keys = codec.New(keys, codec.Options{})
		o.DataConverter, o.FailureConverter = w.keys.Converters()
	}
	var err error
	if w.client, err = client.DialContext(context.Background(), o); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.client.Close)
}

type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}
