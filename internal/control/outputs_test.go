package control

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/output/retain"
	"github.com/almanac-run/almanac/internal/output/ship"
)

// scene is a node, a control worker and a central store without a server between them.
type scene struct {
	*archivist
	node  output.Dir // of web-1
	asked int
	down  func(asked int) bool // whether the node does not answer
	stop  func()
}

func newScene(t *testing.T) *scene {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	s := &scene{node: output.Dir(t.TempDir()), stop: stop, down: func(int) bool { return false }}
	o := Options{OutputDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	s.archivist = newArchivist(ctx, o, output.InDir(filepath.Join(t.TempDir(), "central")))
	s.ask = func(ctx context.Context, node string, in host.OutputReadInput) (host.OutputReadOutput, error) {
		s.asked++
		if err := ctx.Err(); err != nil {
			return host.OutputReadOutput{}, err
		}
		if s.down(s.asked) {
			return host.OutputReadOutput{}, fmt.Errorf("node %s does not answer", node)
		}
		return host.Node{ID: node, OutputDir: string(s.node)}.ReadOutput(ctx, in)
	}
	return s
}

func writeTo(t *testing.T, dir output.Dir, ref, text string) {
	t.Helper()
	w, err := dir.Append(ref)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(w, text)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
}

// tell is what the agent of web-1 does.
func (s *scene) tell(ctx context.Context, from string, outputs []output.Kept) (output.KeepOutput, error) {
	raw, err := json.Marshal(output.KeepInput{Outputs: outputs})
	if err != nil {
		return output.KeepOutput{}, err
	}
	got, err := s.action().Do(action.WithCall(ctx, action.Call{Execution: from}), raw)
	out, _ := got.(output.KeepOutput)
	return out, err
}

func (s *scene) shipper(t *testing.T) *ship.Shipper {
	return ship.New(s.node, func(ref string) bool { return output.OfTarget(ref, "web-1") }, func(ctx context.Context, outputs []output.Kept) (output.KeepOutput, error) {
		return s.tell(ctx, "tell/web-1/output/abc", outputs)
	}, s.log)
}

// text is what the central store has of an output, as the starter reads it.
func (s *scene) text(ref string) (string, error) {
	var b strings.Builder
	for {
		raw, err := json.Marshal(host.OutputReadInput{Ref: ref, Offset: int64(b.Len())})
		if err != nil {
			return "", err
		}
		got, err := s.read().Do(context.Background(), raw)
		if err != nil {
			return b.String(), err
		}
		part, err := got.(host.OutputReadOutput).Bytes()
		if err != nil || len(part) == 0 {
			return b.String(), err
		}
		b.Write(part)
	}
}

// An agent's outputs come to the central store: small ones with the telling, large ones in parts, once each,
// and again when they were continued.
func TestOutputsAreKept(t *testing.T) {
	s := newScene(t)
	want := map[string]string{
		output.Ref("x", "empty", "web-1"):  "",
		output.Ref("x", "small", "web-1"):  "one\ntwo\n",
		output.Ref("x", "binary", "web-1"): string(bytes.Repeat([]byte{0, 255}, 200_000)),
		output.Ref("x", "large", "web-1"):  strings.Repeat("a line with an ä\n", 100_000),
	}
	for ref, text := range want {
		writeTo(t, s.node, ref, text)
	}
	other := output.Ref("x", "small", "web-2") // in the same directory
	writeTo(t, s.node, other, "another node's")
	live, err := s.node.Append(output.Ref("x", "live", "web-1"))
	if err != nil {
		t.Fatal(err)
	}
	sh := s.shipper(t)
	if off, err := sh.Once(t.Context()); off || err != nil {
		t.Fatal(off, err)
	}
	got := map[string]string{}
	if err := s.store.List(t.Context(), func(e output.Entry) error {
		var err error
		got[e.Ref], err = s.text(e.Ref)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%.500s", diff)
	}
	parts := len(want[output.Ref("x", "large", "web-1")])/host.MaxOutputRead + len(want[output.Ref("x", "binary", "web-1")])/host.MaxOutputRead + 2
	if s.asked > parts {
		t.Errorf("the node was asked %d times, want %d", s.asked, parts)
	}
	s.asked = 0
	if _, err := sh.Once(t.Context()); err != nil || s.asked > 0 {
		t.Errorf("sent again: %d, %v", s.asked, err)
	}
	// Another agent, that of a disk which lost the marks: the store has them.
	if _, err := s.tell(t.Context(), "tell/web-1/x/y", []output.Kept{{Ref: output.Ref("x", "large", "web-1"), Size: int64(len(want[output.Ref("x", "large", "web-1")]))}}); err != nil || s.asked > 0 {
		t.Errorf("fetched again: %d, %v", s.asked, err)
	}
	time.Sleep(10 * time.Millisecond) // so that the time of the file is another
	writeTo(t, s.node, output.Ref("x", "small", "web-1"), "three\n")
	io.WriteString(live, "it ends\n")
	live.Close()
	if _, err := sh.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{output.Ref("x", "small", "web-1"): "one\ntwo\nthree\n", output.Ref("x", "live", "web-1"): "it ends\n"} {
		if got, err := s.text(ref); got != want || err != nil {
			t.Errorf("%s: %q, %v", ref, got, err)
		}
	}
}

// Only a node tells, and only of its own.
func TestOutputsOfOthers(t *testing.T) {
	s := newScene(t)
	for _, tt := range []struct{ from, ref string }{
		{"tell/web-2/output/a", output.Ref("x", "s", "web-1")},
		{"patch-1", output.Ref("x", "s", "web-1")},
		{"web-1/x", output.Ref("x", "s", "patch-1")},
		{"tell/web-1", output.Ref("x", "s", "web-1")},
		{"tell//x", output.Ref("x", "s", "")},
		{"tell/web-1/output/a", "../../etc/web-1.log"},
		{"tell/web-1/output/a", "x/../web-1.log"},
		{"tell/web-1/output/a", "x/s/web-1.expired"},
		{"tell/web-1/output/a", ""},
	} {
		out, err := s.tell(t.Context(), tt.from, []output.Kept{{Ref: tt.ref, Size: 4, Data: "bWluZQ=="}})
		if err == nil || action.KindOf(err) != action.Denied {
			t.Errorf("%+v: %+v, %v", tt, out, err)
		}
	}
	if err := s.store.List(t.Context(), func(e output.Entry) error { return errors.New(e.Ref) }); err != nil {
		t.Errorf("there is %v", err)
	}
}

// A node that says it has less than nothing is told so.
func TestOutputOfImpossibleSize(t *testing.T) {
	s := newScene(t)
	for _, data := range []string{"", "bWluZQ=="} {
		out, err := s.tell(t.Context(), "tell/web-1/output/a", []output.Kept{{Ref: output.Ref("x", "s", "web-1"), Size: -5, Data: data}})
		if err == nil || action.KindOf(err) != action.Invalid {
			t.Errorf("%+v, %v", out, err)
		}
	}
}

// An output that the node removed, and a later attempt began anew, takes the place of what the store has of it, though it is shorter.
func TestOutputBegunAnew(t *testing.T) {
	s := newScene(t)
	ref := output.Ref("x", "s", "web-1")
	sh := s.shipper(t)
	for _, text := range []string{"of the first attempt\n", "second\n", "third.\n"} {
		writeTo(t, s.node, ref, text)
		for range 2 {
			if _, err := sh.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.text(ref); got != text || err != nil {
			t.Errorf("%q, %v, want %q", got, err, text)
		}
		if err := s.node.Own(nil).Expire(t.Context(), ref, "expired on 2026-11-20 (only 1B are kept, the newest)"); err != nil {
			t.Fatal(err)
		}
	}
}

// A node that goes away in the middle leaves nothing behind, does not keep others from the store, and is not
// forgotten: when it is back, all of it comes.
func TestOutputsOfNodeThatGoesAway(t *testing.T) {
	s := newScene(t)
	large, text := output.Ref("x", "large", "web-1"), strings.Repeat("line\n", 300_000)
	writeTo(t, s.node, large, text)
	for i := range 60 { // more than one sending
		writeTo(t, s.node, output.Ref("y", fmt.Sprint("s", i), "web-1"), "small\n")
	}
	s.down = func(asked int) bool { return asked >= 3 }
	sh := s.shipper(t)
	if off, err := sh.Once(t.Context()); off || err == nil || !strings.Contains(err.Error(), "node web-1 does not answer") {
		t.Errorf("%v, %v", off, err)
	}
	if _, err := s.store.Size(t.Context(), large); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half of it: %v", err)
	}
	n := 0
	if err := s.store.List(t.Context(), func(output.Entry) error { n++; return nil }); err != nil || n != 60 {
		t.Errorf("%d of 60 others, %v", n, err)
	}
	s.down = func(int) bool { return false }
	if _, err := s.shipper(t).Once(t.Context()); err != nil {
		t.Error(err)
	}
	if got, err := s.text(large); got != text || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A worker that stops lets go of what it fetches, so that the next one begins at once.
func TestOutputsWhileWorkerStops(t *testing.T) {
	s := newScene(t)
	ref := output.Ref("x", "large", "web-1")
	writeTo(t, s.node, ref, strings.Repeat("line\n", 300_000))
	s.down = func(asked int) bool { // not down: it stops
		if asked == 2 {
			s.stop()
			time.Sleep(50 * time.Millisecond)
		}
		return false
	}
	_, err := s.tell(t.Context(), "tell/web-1/output/a", []output.Kept{{Ref: ref, Size: 1_500_000}})
	if action.KindOf(err) != action.Unavailable || !strings.Contains(err.Error(), "stops") {
		t.Errorf("%v", err)
	}
	if _, err := s.store.Size(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half of it: %v", err)
	}
}

// refusing is a store whose credentials are wrong.
type refusing struct{ output.Central }

var errRefused = errors.New("output store s3://outputs: s3 PutObject: AccessDenied: no")

func (refusing) Size(_ context.Context, ref string) (int64, error)    { return 0, output.None(ref, "") }
func (refusing) Put(context.Context, string, io.Reader, int64) error  { return errRefused }
func (refusing) List(context.Context, func(output.Entry) error) error { return errRefused }

// What the store says reaches who looks at the agent; the outputs stay where they are.
func TestOutputsAreRefused(t *testing.T) {
	s := newScene(t)
	ref := output.Ref("x", "s", "web-1")
	writeTo(t, s.node, ref, "text\n")
	good := s.store
	s.store = refusing{}
	sh := s.shipper(t)
	if off, err := sh.Once(t.Context()); off || err == nil || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("%v, %v", off, err)
	}
	s.store = nil
	if off, err := s.shipper(t).Once(t.Context()); !off || err != nil {
		t.Errorf("without a store: %v, %v", off, err)
	}
	s.store = good
	if _, err := sh.Once(t.Context()); err != nil {
		t.Error(err)
	}
	if got, err := s.text(ref); got != "text\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// deaf is a store that does not answer.
type deaf struct {
	output.Central
	asked *int
}

func (d deaf) Size(ctx context.Context, _ string) (int64, error) {
	*d.asked++
	<-ctx.Done()
	return 0, ctx.Err()
}

// hanging is a store whose Check never returns.
type hanging struct{ output.Central }

func (hanging) Check(context.Context) error { select {} }

// A worker starts though the store hangs.
func TestCheckOfStoreThatHangs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := check(ctx, hanging{}); !errors.Is(err, context.DeadlineExceeded) || refuses(err) {
		t.Error(err)
	}
}

// While the store is away one telling waits for it, and not each of all nodes' outputs.
func TestOutputsWhileStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		o := Options{Logger: slog.New(slog.DiscardHandler)}
		a := newArchivist(t.Context(), o, deaf{asked: &asked})
		var outputs []output.Kept
		for i := range 50 {
			outputs = append(outputs, output.Kept{Ref: output.Ref("x", fmt.Sprint("s", i), "web-1"), Size: 4, Data: "bWluZQ=="})
		}
		began := time.Now()
		for range 3 {
			out, err := a.keep(t.Context(), outputs, nil)
			if err != nil || len(out.Failed) != len(outputs) || !strings.Contains(out.Failed[outputs[49].Ref], "deadline") {
				t.Errorf("%+v, %v", out, err)
			}
		}
		if took := time.Since(began); asked != 1 || took > answerWithin {
			t.Errorf("asked %d times, within %s", asked, took)
		}
		time.Sleep(awayFor)
		if _, err := a.keep(t.Context(), outputs, nil); err != nil || asked != 2 {
			t.Errorf("it is not tried again: %d, %v", asked, err)
		}
	})
}

// What ran through Systems Manager was written here: it is sent from here, and read here or there.
func TestOutputsOfSystemsManager(t *testing.T) {
	s := newScene(t)
	const id = "i-0123456789abcdef0"
	ref, agents := output.Ref("x", "s", id), output.Ref("x", "s", "web-1")
	writeTo(t, s.dir, ref, strings.Repeat("line\n", 100_000))
	writeTo(t, s.dir, agents, "an agent's, in the same directory\n")
	if _, err := s.local().Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if size, err := s.store.Size(t.Context(), ref); size != 500_000 || err != nil || s.asked > 0 {
		t.Errorf("%d bytes, %v, asked %d times", size, err, s.asked)
	}
	if _, err := s.store.Size(t.Context(), agents); err == nil {
		t.Error("it sent what is not its own")
	}
	if err := s.dir.Own(nil).Expire(t.Context(), ref, "expired on 2026-11-20 (kept for 30d)"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.text(ref); len(got) != 500_000 || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// What has expired says so, also to who asks the control worker.
func TestOutputsExpire(t *testing.T) {
	s := newScene(t)
	ref := output.Ref("x", "s", "web-1")
	if err := s.store.Put(t.Context(), ref, strings.NewReader("text"), 4); err != nil {
		t.Fatal(err)
	}
	s.limits = retain.Limits{Keep: retain.Age(30 * 24 * time.Hour)}
	s.retain(t.Context(), time.Now().Add(29*24*time.Hour))
	if got, err := s.text(ref); got != "text" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	then := time.Now().Add(31 * 24 * time.Hour)
	s.retain(t.Context(), then)
	_, err := s.text(ref)
	if want := "output x/s/web-1.log expired on " + then.UTC().Format(time.DateOnly) + " (kept for 30d)"; err == nil || err.Error() != want || action.KindOf(err) != action.NotFound {
		t.Errorf("%v, want %s", err, want)
	}
}

// Workers that are told of the same at once agree.
func TestOutputsTwice(t *testing.T) {
	s := newScene(t)
	ref, text := output.Ref("x", "s", "web-1"), strings.Repeat("line\n", 40)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if out, err := s.tell(t.Context(), "tell/web-1/output/a", []output.Kept{{Ref: ref, Size: 200, Data: base64.StdEncoding.EncodeToString([]byte(text))}}); err != nil || len(out.Kept) != 1 {
				t.Errorf("%+v, %v", out, err)
			}
		})
	}
	all.Wait()
	if got, err := s.text(ref); got != text || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// A mistake in --output is said at the start.
func TestOpenCentral(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for address, want := range map[string]string{
		"ftp://x": "want a directory", "postgre://almanac:hunter2-hunter2@/x": "output store postgre://…: want a directory", "s3://": "want s3://bucket/prefix", "s3://a_b/c": "want s3://bucket/prefix", "s3://key:hunter2-x@bucket/p": "want s3://bucket/prefix",
		"postgres://almanac:hunter2-hunter2@/x?port=none": "output store postgres://almanac:***@/x?port=none: ",
		"host=h password=hunter2-hunter2":                 "output store host=h password=***: want a directory",
		"/dev/null/outputs":                               "not a directory",
	} {
		_, _, err := openCentral(t.Context(), Central{Address: address}, log)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, _, err := openCentral(t.Context(), Central{Address: "dir", Endpoint: "http://127.0.0.1:1"}, log); err == nil || !strings.Contains(err.Error(), "s3://bucket/prefix") {
		t.Error(err)
	}
	if store, _, err := openCentral(t.Context(), Central{}, log); store != nil || err != nil {
		t.Error(store, err)
	}
	var said strings.Builder
	log = slog.New(slog.NewTextHandler(&said, nil))
	store, done, err := openCentral(t.Context(), Central{Address: "postgres://almanac:hunter2-hunter2@/x?host=/nonexistent"}, log)
	if store == nil || err != nil || !strings.Contains(said.String(), "output store postgres://almanac:***@/x?host=/nonexistent: ") || strings.Contains(said.String(), "hunter2") {
		t.Errorf("a database that is away: %v, %s", err, &said)
	}
	done()
}

// Thousands of nodes with long outputs do not take the place of executions' work: those that find no place come again.
func TestOutputsOfMany(t *testing.T) {
	s := newScene(t)
	ref := output.Ref("x", "large", "web-1")
	writeTo(t, s.node, ref, strings.Repeat("line\n", 30_000))
	for range fetches {
		s.places <- struct{}{}
	}
	small := output.Kept{Ref: output.Ref("x", "small", "web-1"), Size: 4, Data: "bWluZQ=="}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := s.tell(ctx, "tell/web-1/output/a", []output.Kept{{Ref: ref, Size: 150_000}, small})
	if err != nil || len(out.Kept) != 1 || out.Kept[0] != small.Ref || !strings.Contains(out.Failed[ref], "8 other outputs") {
		t.Errorf("%+v, %v", out, err)
	}
	<-s.places
	if out, err := s.tell(t.Context(), "tell/web-1/output/a", []output.Kept{{Ref: ref, Size: 150_000}}); err != nil || len(out.Kept) != 1 || len(s.places) != fetches-1 {
		t.Errorf("%+v, %v", out, err)
	}
}

// A node that tells of several at once, or of one again while it is fetched, takes one place.
func TestOutputsOfGreedyNode(t *testing.T) {
	s := newScene(t)
	ref, other := output.Ref("x", "large", "web-1"), output.Ref("y", "large", "web-1")
	for _, r := range []string{ref, other} {
		writeTo(t, s.node, r, strings.Repeat("line\n", 30_000))
	}
	var inner output.KeepOutput
	s.down = func(asked int) bool {
		if asked == 1 {
			var err error
			if inner, err = s.tell(t.Context(), "tell/web-1/output/b", []output.Kept{{Ref: other, Size: 150_000}}); err != nil {
				t.Error(err)
			}
		}
		return false
	}
	out, err := s.tell(t.Context(), "tell/web-1/output/a", []output.Kept{{Ref: ref, Size: 150_000}, {Ref: other, Size: 150_000}})
	if err != nil || len(out.Kept) != 2 || inner.Failed[other] != errTwice.Error() {
		t.Errorf("%+v, and meanwhile %+v, %v", out, inner, err)
	}
}

// A worker that was slow does not put less in place of what another has put meanwhile.
func TestOutputThatWasContinuedMeanwhile(t *testing.T) {
	s := newScene(t)
	ref, text := output.Ref("x", "large", "web-1"), strings.Repeat("line\n", 100_000)
	writeTo(t, s.node, ref, text)
	s.down = func(asked int) bool {
		if asked == 2 {
			if err := s.store.Put(t.Context(), ref, strings.NewReader(text+"more\n"), int64(len(text)+5)); err != nil {
				t.Error(err)
			}
		}
		return false
	}
	out, err := s.tell(t.Context(), "tell/web-1/output/a", []output.Kept{{Ref: ref, Size: int64(len(text))}})
	if err != nil || !strings.Contains(out.Failed[ref], "a longer one has come") {
		t.Errorf("%+v, %v", out, err)
	}
	if got, err := s.text(ref); got != text+"more\n" || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// --output-endpoint names what stands for AWS. A bucket that is not there is said at the start; an endpoint that does not
// answer is no reason not to start.
func TestOpenCentralEndpoint(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1", "AWS_PROFILE": "", "AWS_CONFIG_FILE": "/nonexistent",
		"AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
	} {
		t.Setenv(name, value)
	}
	backend := s3mem.New()
	if err := backend.CreateBucket("outputs"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gofakes3.New(backend, gofakes3.WithLogger(gofakes3.DiscardLog())).Server())
	defer srv.Close()
	log := slog.New(slog.DiscardHandler)
	store, _, err := openCentral(t.Context(), Central{Address: "s3://outputs/p", Endpoint: srv.URL}, log)
	if err != nil {
		t.Fatal(err)
	}
	ref := output.Ref("x", "s", "web-1")
	if err := store.Put(t.Context(), ref, strings.NewReader("text"), 4); err != nil {
		t.Error(err)
	}
	if o, err := backend.HeadObject("outputs", "p/"+ref); err != nil || o.Size != 4 {
		t.Errorf("the object: %v", err)
	}
	if _, _, err := openCentral(t.Context(), Central{Address: "s3://elsewhere", Endpoint: srv.URL}, log); err == nil || !strings.Contains(err.Error(), "NoSuchBucket") {
		t.Errorf("no such bucket: %v", err)
	}
	if store, _, err := openCentral(t.Context(), Central{Address: "s3://outputs", Endpoint: "http://127.0.0.1:1"}, log); err != nil || store == nil {
		t.Errorf("an endpoint that is away: %v", err)
	}
}
