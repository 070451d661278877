package canary

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/worklog"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/workflows"
)

// Words of people: whoever may see an execution may see them, and nobody else. Kinds that are
// all in one line are told apart by where they are put: an input, a step's name.
var (
	words = []string{
		"input", "var", "summary", "description", "step.name", "script", "args", "env", "stdin", "stdout", "script.error",
		"file.content", "http.query", "http.header", "http.body", "http.error", "http.answer", "http.answer.header",
		"webhook.payload", "mail.subject", "mail.body", "aws.description", "aws.tag", "child.input", "output",
		"approval.message", "approval.by", "approval.comment", "pause.message", "pause.comment", "retry.input", "cancel.reason", "caller", "tag",
		"schedule.input", "schedule.memo", "schedule.note", "panic",
	}
	plainWords = []string{"file.name", "fact", "http.url_password", "lock.key", "workflow.id"}

	// Secrets of runbooks, which are given as references.
	secrets      = []string{"secret.node_env", "secret.node_file", "secret.written", "secret.worker_env", "secret.parameter", "secret.manager", "secret.password", "secret.mail", "secret.panic", "secret.mistyped"}
	plainSecrets = []string{"secret.hook", "secret.hook_refused"}

	// Secrets of the programs themselves.
	settings = []string{"temporal.api_key", "codec.token", "codec.wrong_token", "aws.secret_access_key", "aws.session_token", "pg.password", "pg.store_password", "inventory.dsn", "output.dsn", "otlp.headers"}
)

// settle plants everything and starts the programs.
func (w *world) settle() *searcher {
	w.t.Helper()
	for _, kind := range slices.Concat(words, secrets) {
		w.g.plant(kind)
	}
	for _, kind := range slices.Concat(plainWords, plainSecrets, settings) {
		w.g.plain(kind)
	}
	large := w.g.plant("secret.node_large")
	if w.secure {
		_, line := w.run("worker", nil, "key", "new", "--id", "k1")
		w.write(".almanac/keys", line)
		_, own := w.run("worker", nil, "node-key", "n1")
		w.write("state/keys", own)
		for kind, line := range map[string]string{"key.control": line, "key.node": own} {
			fields := strings.Fields(line) // an id, the key, whose it is
			if len(fields) < 2 {
				w.t.Fatalf("%s: no key in %q", kind, line)
			}
			b, err := base64.StdEncoding.DecodeString(fields[1])
			if err != nil {
				w.t.Fatalf("%s: %v", kind, err)
			}
			w.g.adopt(kind, b)
		}
	}
	if err := os.Mkdir(w.path("secrets"), 0o700); err != nil {
		w.t.Fatal(err)
	}
	w.write("secrets/node_file", w.value("secret.node_file")+"\n")
	w.write("secrets/written", w.value("secret.written")+"\n")
	w.write("secrets/password", w.value("secret.password")+"\n")
	w.write("secrets/large", large+strings.Repeat(" padding", 9000)+"\n") // more than a variable takes
	w.write("secrets/mistyped", string(inJSON(map[string]string{"token": w.value("secret.mistyped")})))
	w.write("secrets/config.yaml", "output: "+w.dsn("output.dsn")+"\ninventory: "+w.dsn("inventory.dsn")+"\n")
	w.write("secrets/tokens", "ann "+w.value("codec.token")+"\n")
	w.runbooks()
	w.shells()
	w.database()
	w.write("secrets/postgresql.yaml", "output: "+w.outputs+"\ninventory: "+w.facts+"\n")
	return newSearcher(w.g)
}

func (w *world) value(kind string) string {
	if w.g[kind] == nil {
		w.t.Fatalf("no canary %s", kind)
	}
	return w.g[kind].value
}

// work starts a worker.
func (w *world) work(name string, args ...string) {
	w.t.Helper()
	w.serve(name, "worker", []string{
		"AWS_ENDPOINT_URL=" + w.aws.URL, "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ACCESS_KEY_ID=AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY=" + w.value("aws.secret_access_key"), "AWS_SESSION_TOKEN=" + w.value("aws.session_token"),
		"CANARY_TOKEN=" + w.value("secret.worker_env"), "CANARY_MAIL=" + w.value("secret.mail"), "PGPASSWORD=" + w.value("pg.password"),
		"CANARY_HOOK=" + w.receiver.URL + "/hook/" + w.value("secret.hook"), "CANARY_REFUSED=http://127.0.0.1:1/" + w.value("secret.hook_refused"),
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + w.otlp.URL, "OTEL_EXPORTER_OTLP_HEADERS=authorization=" + w.value("otlp.headers"), "OTEL_BSP_SCHEDULE_DELAY=200",
	}, append([]string{"--log-level", "debug", "--listen", "127.0.0.1:0"}, args...)...)
}

func (w *world) start() {
	w.t.Helper()
	w.work("worker", "--output", w.path("central"))
	w.serve("agent", "agent", []string{"CANARY_TOKEN=" + w.value("secret.node_env")},
		"--log-level", "debug", "--id", "n1", "--state-dir", w.path("state"), "--root", w.path("root"), "--ec2-metadata", "off", "--tag", "what="+w.value("tag"))
	w.serve("panic worker", "panic worker", []string{"CANARY_ROLE=panic", "CANARY_TOKEN=" + w.value("secret.panic")})
	w.connect()
	w.until("the node in the registry", func() bool {
		_, out := w.run("starter", nil, "nodes", "-o", "json")
		return strings.Contains(out, `"n1"`)
	})
	for _, in := range []struct {
		target string
		input  map[string]any
	}{
		{"AmazonSSM.PutParameter", map[string]any{"Name": "/canary/parameter", "Type": "SecureString", "Value": w.value("secret.parameter")}},
		{"secretsmanager.CreateSecret", map[string]any{"Name": "canary/manager", "SecretString": string(inJSON(map[string]string{"login": w.value("secret.manager")})), "ClientRequestToken": "0123456789abcdef0123456789abcdef"}},
	} {
		req, _ := http.NewRequest(http.MethodPost, w.aws.URL, bytes.NewReader(inJSON(in.input)))
		req.Header.Set("X-Amz-Target", in.target)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			w.t.Fatal(err)
		}
		if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
			w.t.Fatalf("%s: %s", in.target, b)
		}
		resp.Body.Close()
	}
}

// references are what inputs of type secret are given.
func (w *world) references(names ...string) []string {
	all := map[string]string{
		"node_env": "env:CANARY_TOKEN", "node_file": "file:" + w.path("secrets/node_file"), "node_large": "file:" + w.path("secrets/large"),
		"written": "file:" + w.path("secrets/written"), "worker_env": "env:CANARY_TOKEN", "parameter": "ssm:/canary/parameter",
		"manager": "secretsmanager:canary/manager#login", "password": "file:" + w.path("secrets/password"),
		"hook": "env:CANARY_HOOK", "hook_refused": "env:CANARY_REFUSED", "mail": "env:CANARY_MAIL", "own": "env:PGPASSWORD", "receiver": w.receiver.URL,
	}
	var args []string
	for _, name := range names {
		if all[name] == "" {
			w.t.Fatalf("no reference %s", name)
		}
		args = append(args, "-i", name+"="+all[name])
	}
	return args
}

func (w *world) begin(id, runbook string, inputs ...string) {
	w.t.Helper()
	w.starter(0, append([]string{"run", runbook, "--detach", "--id", id}, inputs...)...)
}

// waits polls until an execution waits for a person and says so with a word.
func (w *world) waits(id, word string) {
	w.t.Helper()
	w.until(id+" waiting", func() bool {
		_, out := w.run("starter", nil, "show", id, "-o", "json")
		var v workflows.View
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			return false
		}
		if v.Result != nil {
			w.t.Fatalf("%s ended: %s", id, out)
		}
		return slices.ContainsFunc(v.Waiting, func(x workflows.Wait) bool { return strings.Contains(string(inJSON(x)), word) })
	})
}

// beginSuccess starts the execution that uses everything; it waits for approval.
func (w *world) beginSuccess() string {
	w.t.Helper()
	id := w.value("workflow.id")
	w.begin(id, "canary/success", append(w.references("node_env", "node_file", "node_large", "written", "worker_env", "parameter", "manager", "password", "hook", "hook_refused", "mail", "own", "receiver"),
		"-i", "word="+w.value("input"), "-i", "lock="+w.value("lock.key"))...)
	return id
}

func (w *world) approve() {
	w.t.Helper()
	id := w.value("workflow.id")
	w.waits(id, "approval")
	w.starter(0, "approve", id, "--by", w.value("approval.by"), "--comment", w.value("approval.comment"))
}

// endings lets executions end in every way there is, with secrets in use. It returns their ids.
func (w *world) endings() []string {
	t := w.t
	t.Helper()
	success := w.beginSuccess()
	w.begin("ask", "canary/ask", w.references("node_env")...)
	w.begin("rollback", "canary/rollback", w.references("receiver", "worker_env", "written", "node_env")...)
	w.begin("failure", "canary/failure", w.references("node_env", "node_file")...)
	w.begin("late", "canary/slow", append(w.references("node_env", "worker_env", "receiver"), "-i", "patience=3s")...)
	w.begin("timed", "canary/timed", w.references("node_env", "written")...)
	w.begin("cancel", "canary/slow", append(w.references("node_env", "worker_env", "receiver"), "-i", "patience=1h")...)
	panicked := w.panics()
	w.schedule()

	w.waits("ask", "picky")
	w.starter(0, "retry", "ask", "-i", "stdin="+w.value("retry.input"))
	w.waits("ask", "pause")
	w.starter(0, "resume", "ask", "-m", w.value("pause.comment"))
	w.fetch([]string{"cancel"}) // with work under way, and what it says of itself
	w.starter(6, "cancel", "cancel", "--reason", w.value("cancel.reason"), "--wait")
	w.approve()
	for id, code := range map[string]int{success: 0, "ask": 0, "rollback": 5, "failure": 1, "late": 1, "timed": 8} {
		w.starter(code, "watch", id)
	}
	if err := panicked.Get(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "panic: ") {
		t.Errorf("the panic ended with %v", err)
	}
	ids := []string{success, "ask", "rollback", "failure", "late", "timed", "cancel", "panic"}
	for _, id := range ids {
		w.starter(0, "show", id)
		w.starter(0, "show", id, "-o", "json")
		if id != "panic" { // it has no output
			w.starter(0, "logs", id)
		}
		w.starter(0, "report", id, "--html", "-")
	}
	w.starter(0, "list")
	w.starter(0, "nodes", "-o", "json")
	w.starter(0, "inventory", "n1", "-o", "json")
	w.starter(0, "plan", "canary/child", "-i", "token=env:CANARY_TOKEN", "-i", "word=x")
	// A value in the place of a reference is refused, and not said again.
	w.starter(3, "run", "canary/child", "--id", "wrong", "--inputs", "secrets/mistyped", "-i", "word=x")
	if w.secure { // the keys in the environment, in place of their file
		if code, out := w.run("starter", []string{"ALMANAC_KEYS=" + strings.TrimSpace(w.read(".almanac/keys"))}, "show", "ask"); code != 0 {
			t.Errorf("with keys in the environment: exit code %d: %s", code, out)
		}
	}
	return ids
}

const panicRunbook = `
runbook: canary/panic
on_failure: stop
inputs: { token: { type: secret }, user: { type: string } }
steps:
  - id: panic
    action: test.panic
    with: { token: "${{ inputs.token }}", user: "${{ inputs.user }}" }
`

// panicAction is an action with a mistake: it panics, and says why.
func panicAction() action.Action {
	type in struct {
		Token action.Secret `json:"token" jsonschema:"a secret"`
		User  string        `json:"user" jsonschema:"a word"`
	}
	return action.New(action.Def[in, struct{}]{
		Name: "test.panic", Summary: "Panic",
		Do: func(ctx context.Context, in in) (struct{}, error) {
			token, err := in.Token.Reveal(ctx)
			if err != nil {
				return struct{}{}, err
			}
			panic(fmt.Sprintf("login of %q with %s (%q) went wrong", in.User, token, token))
		},
	})
}

func (w *world) panics() client.WorkflowRun {
	w.t.Helper()
	p, ds := compile.Compile("panic.yaml", []byte(panicRunbook), compile.Options{Actions: append(catalog.Actions(), panicAction().Info)})
	if p == nil {
		w.t.Fatal(ds)
	}
	run, err := w.client.ExecuteWorkflow(w.t.Context(), client.StartWorkflowOptions{ID: "panic", TaskQueue: "panic", TypedSearchAttributes: workflows.Attributes(p.Runbook, w.value("caller"))},
		p.Runbook, workflows.Start{Program: p, Caller: w.value("caller"), Inputs: map[string]json.RawMessage{
			"token": json.RawMessage(`{"$secret":"env:CANARY_TOKEN"}`), "user": inJSON(w.value("panic"))}})
	if err != nil {
		w.t.Fatal(err)
	}
	return run
}

// panicWorker is the worker that has that action, as the real one has its own.
func panicWorker() int {
	err := func() error {
		ctx := context.Background()
		logger, err := worklog.New(os.Stderr, worklog.Text, "debug")
		if err != nil {
			return err
		}
		opts, err := dial.Options("panic worker", logger)
		if err != nil {
			return err
		}
		encryption, err := codec.Open(ctx, codec.Settings{Options: codec.Options{Namespace: opts.Namespace}, Logger: logger})
		if err != nil {
			return err
		}
		opts.DataConverter, opts.FailureConverter = encryption.Converters()
		c, err := dial.Dial(ctx, opts, logger)
		if err != nil {
			return err
		}
		defer c.Close()
		w := worker.New(c, "panic", worker.Options{})
		workflows.Register(w)
		activities.Register(w, []action.Action{panicAction()}, activities.Options{Logger: logger})
		return w.Run(worker.InterruptCh())
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// schedule makes a schedule as Temporal's own program would, which never fires.
func (w *world) schedule() {
	w.t.Helper()
	_, err := w.client.ScheduleClient().Create(w.t.Context(), client.ScheduleOptions{
		ID: "nightly", Paused: true, Note: w.value("schedule.note"), Memo: map[string]any{"About": w.value("schedule.memo")},
		Action: &client.ScheduleWorkflowAction{ID: "nightly", Workflow: "canary/failure", TaskQueue: workflows.TaskQueue, Args: []any{map[string]string{"word": w.value("schedule.input")}}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

var address = regexp.MustCompile(`(?:codec server is ready|listening).* address="?(127\.0\.0\.1:[0-9]+)`)

// address is where a program says in its log that it listens.
func (w *world) address(name string) string {
	w.t.Helper()
	var m []string
	w.until("an address in the log of "+name, func() bool {
		m = address.FindStringSubmatch(w.read("logs/" + name))
		return m != nil
	})
	return m[1]
}

// operate asks what who operates a worker asks it.
func (w *world) operate() {
	w.t.Helper()
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		resp, err := http.Get("http://" + w.address("worker") + path)
		if err != nil {
			w.t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		w.mu.Lock()
		w.replies["metrics"] = append(w.replies["metrics"], b...)
		w.mu.Unlock()
		if resp.StatusCode != http.StatusOK || path == "/metrics" && !bytes.Contains(b, []byte("almanac_")) {
			w.t.Errorf("%s: %s %.300s", path, resp.Status, b)
		}
	}
	w.until("an output in the central store", func() bool {
		n := 0
		w.files("central")(func(b []byte) { n += bytes.Count(b, []byte("once: ")) })
		return n > 0
	})
	w.until("traces", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return bytes.Contains(w.replies["traces"], []byte("canary/success"))
	})
	code, out := w.run("worker", []string{"ALMANAC_INVENTORY=" + w.dsn("inventory.dsn"), "PGPASSWORD=" + w.value("pg.password")}, "config", "--config", "secrets/config.yaml")
	w.write("logs/config", out)
	if code != 0 || !strings.Contains(out, "postgres://") {
		w.t.Errorf("worker config: exit code %d: %s", code, out)
	}
	// Workers that cannot start, since a database is not there, or not to be found by what was typed.
	var refused []byte
	password := w.value("inventory.dsn")
	for _, args := range [][]string{
		{"--inventory", w.dsn("inventory.dsn")}, {"--config", "secrets/config.yaml"},
		// And some that are mistyped.
		{"--inventory", "postgres://almanac:12/" + password + "@127.0.0.1:1/almanac"},
		{"--inventory", "postgres://127.0.0.1:1/almanac?password=" + password + "&sslmode=strict"},
		{"--inventory", "host=127.0.0.1 port=1 password=" + password},
		{"--output", "postgres://almanac:" + password + "%@127.0.0.1:1/almanac"},
		{"--output", "host=127.0.0.1 port=1 password='" + password + " dbname=almanac"},
	} {
		code, out := w.run("worker", []string{"PGPASSWORD=" + w.value("pg.password"), "PGCONNECT_TIMEOUT=2"}, append([]string{"--task-queue", "other", "--log-level", "debug"}, args...)...)
		refused = append(refused, out...)
		if code == 0 || !strings.Contains(out, "postgres://") {
			w.t.Errorf("a worker without its database: %v: exit code %d: %s", args, code, out)
		}
	}
	w.write("logs/refused", string(refused))
}

// stores lets other workers take the place of the first, one after the other, that keep outputs in S3, and outputs and the
// inventory in PostgreSQL. It returns the ids of their executions.
func (w *world) stores() []string {
	w.t.Helper()
	ids := []string{w.keep("worker with S3", []string{"--output", "s3://outputs/canary", "--output-endpoint", w.s3.URL}, func() bool {
		n := 0
		w.stored(func(*gofakes3.Object) { n++ })
		return n == 2
	})}
	if w.outputs == "" {
		return ids
	}
	ids = append(ids, w.keep("worker with PostgreSQL", []string{"--config", w.path("secrets/postgresql.yaml")}, func() bool {
		return string(w.pg.Run(w.t, "psql", "-Atc", "select count(*) = 2 from almanac_output", path.Base(w.outputs[:strings.Index(w.outputs, "?")]))) == "t\n"
	}))
	for name, address := range map[string]string{"postgres outputs": w.outputs, "postgres inventory": w.facts} {
		b := w.pg.Run(w.t, "pg_dump", path.Base(address[:strings.Index(address, "?")]))
		w.mu.Lock()
		w.replies[name] = b
		w.mu.Unlock()
	}
	return ids
}

// keep lets a worker with a store do an execution, and what reads the store; kept tells whether the store has its outputs.
func (w *world) keep(worker string, args []string, kept func() bool) (id string) {
	w.t.Helper()
	for name := range w.running {
		if strings.HasPrefix(name, "worker") {
			w.end(name)
		}
	}
	w.work(worker, args...)
	id = w.value("workflow.id") + strings.ReplaceAll(worker, " ", "-")
	w.begin(id, "canary/stored", append(w.references("node_env", "node_file"), "-i", "word="+w.value("input"))...)
	w.starter(0, "watch", id)
	w.until("the outputs of "+worker+" in its store", kept)
	w.starter(0, "logs", id)
	w.starter(0, "inventory", "n1", "-o", "json")
	return id
}

// dsn is a connection string with a password in it, of a database that is not there.
func (w *world) dsn(kind string) string {
	return "postgres://almanac:" + w.value(kind) + "@127.0.0.1:1/almanac?sslmode=disable"
}

// decrypt asks a codec server, as the Web UI does, with a token that is right and one that is not.
func (w *world) decrypt() {
	w.t.Helper()
	w.serve("codec", "worker", nil, "codec", "--listen", "127.0.0.1:0", "--tokens", w.path("secrets/tokens"), "--origin", w.srv.UIAddress())
	address := w.address("codec")
	events := w.client.GetWorkflowHistory(w.t.Context(), w.value("workflow.id"), "", false, 1)
	event, err := events.Next()
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := protojson.Marshal(event.GetWorkflowExecutionStartedEventAttributes().Input)
	if err != nil {
		w.t.Fatal(err)
	}
	for kind, want := range map[string]int{"codec.token": http.StatusOK, "codec.wrong_token": http.StatusUnauthorized} {
		req, _ := http.NewRequest(http.MethodPost, "http://"+address+"/decode", bytes.NewReader(body))
		for name, value := range map[string]string{"Authorization": "Bearer " + w.value(kind), "Content-Type": "application/json", "X-Namespace": "default", "Origin": w.srv.UIAddress()} {
			req.Header.Set(name, value)
		}
		w.mu.Lock()
		w.arrived = fmt.Appendf(w.arrived, "%v\n", req.Header)
		w.mu.Unlock()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			w.t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			w.t.Errorf("%s: %s %s", kind, resp.Status, b)
		}
		if seen := len(newSearcher(w.g).search("", b)) > 0; seen != (want == http.StatusOK) {
			w.t.Errorf("%s: the answer holds canaries: %v", kind, seen)
		}
	}
}

// TestSecretsLeaveNoTrace is what this package is for.
func TestSecretsLeaveNoTrace(t *testing.T) {
	t.Parallel()
	began := time.Now()
	lap := func(what string) { t.Logf("%5.1f s  %s", time.Since(began).Seconds(), what) }
	w := newWorld(t, build(t), true)
	lap("programs and a server are there")
	s := w.settle()
	processes := w.startSampler(s)
	w.start()
	lap("worker, agent and starter know each other")
	ids := w.endings()
	lap("all executions have ended")
	w.operate()
	w.decrypt()
	lap("the first worker was asked for all")
	ids = append(ids, w.stores()...)
	lap("other stores were used")
	w.fetch(ids)
	lap("all was asked for")
	var found []sighting
	size := map[string]int{}
	w.look(s, &found, size)
	for _, name := range slices.Sorted(maps.Keys(w.running)) {
		w.end(name)
	}
	found = append(found, processes.end()...)
	if err := w.srv.Stop(); err != nil {
		t.Error(err)
	}
	w.look(s, &found, size) // what a program writes when it ends, and the database without its log
	lap("all was searched")
	for _, p := range w.places() {
		if size[p.name] == 0 && !mayBeEmpty[p.name] && w.has(pair{place: p.name}) {
			t.Errorf("%s: there is nothing to search", p.name)
		}
	}
	on, mistakes := w.theList().judge(w.g, found)
	for _, m := range mistakes {
		t.Error(m)
	}
	t.Logf("searched %v; %d command lines and environments in %d passes", size, processes.seen, processes.passes)
	fmt.Printf("canaries: %d planted, %d hits on the list, %d outside\n", len(w.g), on, len(mistakes))
}

// mayBeEmpty are places where nothing has to be.
var mayBeEmpty = map[string]bool{"temporary files": true, "home": true}
