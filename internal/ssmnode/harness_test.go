package ssmnode

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// world is a simulated AWS with one instance, on which scripts really run, and
// whose time passes only when somebody sleeps.
type world struct {
	*testing.T
	cloud   *simcloud.Cloud
	env     Env
	id      string // of the instance
	dir     string // of all nodes' files
	token   string
	attempt int

	mu    sync.Mutex
	now   time.Time
	slept time.Duration
}

const token = "abcdefghijklmnopqrstuvwxyz"

func newWorld(t *testing.T, change func(*simcloud.Options)) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir(), token: token, attempt: 1, now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	o := simcloud.Options{Seed: 1, Clock: w.time, HostManagement: true, Sleep: w.sleep, Shell: simcloud.RealShell(w.dir), Delays: simcloud.RealDelays()}
	if change != nil {
		change(&o)
	}
	w.cloud = simcloud.New(o)
	t.Cleanup(w.cloud.Close)
	w.env = Env{AWS: aws.Env{Caller: checked{w}, Sleep: w.sleep, Now: w.time}, OutputDir: filepath.Join(t.TempDir(), "output")}
	if o.Clock == nil {
		w.env.AWS.Sleep, w.env.AWS.Now = nil, nil
	}
	w.id = w.launch("/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64", map[string]string{"Name": "web-1", "role": "web"})
	if err := os.MkdirAll(w.home(), 0o700); err != nil {
		t.Fatal(err)
	}
	return w
}

// home is where the files of the instance are.
func (w *world) home() string { return filepath.Join(w.dir, w.id) }

func (w *world) time() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) sleep(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now, w.slept = w.now.Add(d), w.slept+d
	if w.slept > 72*time.Hour {
		return errors.New("slept for three days")
	}
	return ctx.Err()
}

// checked holds every call against AWS's own models.
type checked struct{ *world }

var models = sync.OnceValues(func() (*awsapi.Models, error) { return awsapi.OpenModels("") })

func (c checked) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	known, err := models()
	if err != nil {
		c.Fatal(err)
	}
	for _, p := range known.Check(service, operation, input) {
		c.Errorf("%s %s: %s", service, operation, p)
	}
	return c.cloud.Call(ctx, in, service, operation, input)
}

// given calls AWS to set up or to look, without a trace.
func (w *world) given(service, operation string, input map[string]any) map[string]any {
	w.Helper()
	out, err := w.cloud.Given().Call(context.Background(), awsapi.Scope{}, service, operation, input)
	if err != nil {
		w.Fatalf("given %s %s: %v", service, operation, err)
	}
	return out
}

func (w *world) launch(image string, with map[string]string) string {
	w.Helper()
	ami := w.given("ssm", "GetParameter", map[string]any{"Name": image})["Parameter"].(map[string]any)["Value"]
	var all []any
	for k, v := range with {
		all = append(all, map[string]any{"Key": k, "Value": v})
	}
	out := w.given("ec2", "RunInstances", map[string]any{"ImageId": ami, "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1, "ClientToken": "given-" + with["Name"],
		"TagSpecifications": []any{map[string]any{"ResourceType": "instance", "Tags": all}}})
	return text(objects(out, "Instances")[0], "InstanceId")
}

const windowsImage = "/aws/service/ami-windows-latest/Windows_Server-2022-English-Full-Base"

func (w *world) context(target action.Target) context.Context {
	return w.contextOf(w.Context(), target)
}

func (w *world) contextOf(ctx context.Context, target action.Target) context.Context {
	return action.WithCall(ctx, action.Call{
		Token: w.token, Execution: "deploy-1", Step: "load@" + target.ID, Attempt: w.attempt, Target: target,
		Heartbeat: func(any) {},
		Abandoned: func() bool { return false },
		Mask:      func(s string) string { return s },
		Reveal: func(context.Context, string) (string, error) {
			w.Error("a secret is revealed")
			return "", nil
		},
	})
}

func (w *world) find(name string) action.Action {
	w.Helper()
	all := Actions(w.env)
	at := slices.IndexFunc(all, func(a action.Action) bool { return a.Name == name })
	if at < 0 {
		w.Fatalf("there is no action %s", name)
	}
	return all[at]
}

type m = map[string]any

// do runs an action on the instance and returns its output as data.
func (w *world) do(name string, in m) (m, error) {
	w.Helper()
	return w.doIn(w.context(action.Target{ID: w.id}), name, in)
}

func (w *world) doIn(ctx context.Context, name string, in m) (m, error) {
	w.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		w.Fatal(err)
	}
	out, err := w.find(name).Do(ctx, raw)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(out)
	if err != nil {
		w.Fatal(err)
	}
	var is m
	if err := json.Unmarshal(text, &is); err != nil {
		w.Fatal(err)
	}
	return is, nil
}

func (w *world) must(name string, in m) m {
	w.Helper()
	out, err := w.do(name, in)
	if err != nil {
		w.Fatalf("%s: %v\n%s", name, err, w.ledger())
	}
	return out
}

func (w *world) compensate(name string, in, out m) error {
	w.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		w.Fatal(err)
	}
	rawOut, err := json.Marshal(out)
	if err != nil {
		w.Fatal(err)
	}
	return w.find(name).Compensate(w.context(action.Target{ID: w.id}), raw, rawOut)
}

func (w *world) ledger() string {
	var b strings.Builder
	for _, e := range w.cloud.Ledger() {
		b.WriteString(e.String() + "\n")
	}
	return b.String()
}

// sent is how many commands were sent.
func (w *world) sent() int {
	n := 0
	for _, e := range w.cloud.Ledger() {
		for _, f := range e.Effects {
			if f.Change == "made" && f.Kind == "command" {
				n++
			}
		}
	}
	return n
}

// wants checks the kind of an error and what it says.
func wants(t *testing.T, err error, kind action.Kind, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want %s", kind)
	}
	if action.KindOf(err) != kind {
		t.Errorf("%v is %s, want %s", err, action.KindOf(err), kind)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
}

// file is the content of a file of the instance; "-" if there is none.
func (w *world) file(name string) string {
	b, err := os.ReadFile(filepath.Join(w.home(), name))
	if err != nil {
		return "-"
	}
	return string(b)
}

func (w *world) put(name, content string, mode os.FileMode) string {
	w.Helper()
	file := filepath.Join(w.home(), name)
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		w.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		w.Fatal(err)
	}
	return file
}

// kept reads the output store.
func (w *world) kept(ref any) string {
	w.Helper()
	r, err := output.Dir(w.env.OutputDir).Open(ref.(string))
	if err != nil {
		w.Fatal(err)
	}
	defer r.Close()
	b := make([]byte, 32<<20)
	n, _ := r.ReadAt(b, 0)
	return string(b[:n])
}
