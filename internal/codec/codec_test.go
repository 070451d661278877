package codec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/proto"
)

func newKey(t testing.TB, id string) string {
	t.Helper()
	line, err := NewKey(id)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func ringOf(t testing.TB, lines ...string) *Keyring {
	t.Helper()
	k, err := Read(context.Background(), strings.Join(lines, "\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func text(s string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(s)}
}

func seal(t testing.TB, c converter.PayloadCodec, p *commonpb.Payload) *commonpb.Payload {
	t.Helper()
	out, err := c.Encode([]*commonpb.Payload{p})
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

func unseal(c converter.PayloadCodec, p *commonpb.Payload) (*commonpb.Payload, error) {
	out, err := c.Decode([]*commonpb.Payload{p})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func refuses(t *testing.T, what string, c converter.PayloadCodec, p *commonpb.Payload, says string) {
	t.Helper()
	got, err := unseal(c, p)
	if err == nil {
		t.Errorf("%s: decoded to %q", what, got.GetData())
	} else if !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v, want %q", what, err, says)
	}
}

func TestThereAndBack(t *testing.T) {
	c := New(ringOf(t, newKey(t, "k1")), Options{Namespace: "prod"})
	for _, size := range []int{0, 1, worthCompressing, 1 << 20} {
		p := text(strings.Repeat("a", size))
		got, err := unseal(c, seal(t, c, p))
		if err != nil || !proto.Equal(got, p) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	a, b := seal(t, c, text("x")), seal(t, c, text("x"))
	if bytes.Equal(a.Data, b.Data) {
		t.Error("the same payload twice has the same cipher text")
	}
	if p := text(`"canary-5521"`); bytes.Contains(seal(t, c, p).Data, []byte("canary")) {
		t.Error("the text is readable")
	}
}

// Whatever bit of a payload is flipped, in its data or its metadata, it is an error and never another value.
func TestFlippedBit(t *testing.T) {
	c := New(ringOf(t, newKey(t, "k1")), Options{})
	p := seal(t, c.WithSerializationContext(converter.ActivitySerializationContext{TaskQueue: "node/web-1"}), text("hello"))
	for i := range len(p.Data) * 8 {
		bad := proto.Clone(p).(*commonpb.Payload)
		bad.Data[i/8] ^= 1 << (i % 8)
		refuses(t, fmt.Sprint("bit ", i), c, bad, "")
	}
	for _, name := range []string{metaVersion, metaKey, metaNode} {
		for i := range len(p.Metadata[name]) * 8 {
			bad := proto.Clone(p).(*commonpb.Payload)
			bad.Metadata[name][i/8] ^= 1 << (i % 8)
			refuses(t, fmt.Sprint(name, " bit ", i), c, bad, "")
		}
		bad := proto.Clone(p).(*commonpb.Payload)
		delete(bad.Metadata, name)
		refuses(t, "without "+name, c, bad, "")
	}
	for n := range len(p.Data) {
		bad := proto.Clone(p).(*commonpb.Payload)
		bad.Data = bad.Data[:n]
		refuses(t, fmt.Sprint("cut at ", n), c, bad, "")
	}
}

func TestNamespaces(t *testing.T) {
	keys := ringOf(t, newKey(t, "k1"))
	p := seal(t, New(keys, Options{Namespace: "prod"}), text("x"))
	refuses(t, "another namespace", New(keys, Options{Namespace: "test"}), p, "not of namespace test")
}

// The id of a key is bound: the same key by another name does not read.
func TestKeyID(t *testing.T) {
	line := newKey(t, "k1")
	p := seal(t, New(ringOf(t, line), Options{}), text("x"))
	p.Metadata[metaKey] = []byte("k2")
	refuses(t, "renamed", New(ringOf(t, strings.Replace(line, "k1", "k2", 1)), Options{}), p, "")
	// Of the control side the derivation sees to that already; a node's key is used as it is.
	p = seal(t, NewNode(ringOf(t, line+" node/a"), "a", Options{}), text("x"))
	p.Metadata[metaKey] = []byte("k2")
	refuses(t, "renamed, of a node", NewNode(ringOf(t, strings.Replace(line, "k1", "k2", 1)+" node/a"), "a", Options{}), p, "")
}

func TestPlain(t *testing.T) {
	keys := ringOf(t, newKey(t, "k1"))
	got, err := unseal(New(keys, Options{}), text("old"))
	if err != nil || string(got.Data) != "old" {
		t.Errorf("a payload of before: %v %v", got, err)
	}
	if _, err := unseal(New(keys, Options{RefusePlain: true}), text("old")); !errors.Is(err, ErrPlain) {
		t.Errorf("refused: %v", err)
	}
}

func TestCompression(t *testing.T) {
	c := New(ringOf(t, newKey(t, "k1")), Options{})
	long := seal(t, c, text(strings.Repeat("the same line again\n", 5000)))
	if len(long.Data) > 5000 {
		t.Errorf("100 kB of one line became %d bytes", len(long.Data))
	}
	random := []byte(newKey(t, "") + newKey(t, ""))
	for len(random) < 4096 {
		random = append(random, newKey(t, "")[14:]...)
	}
	noise := deflate(random)
	p := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/plain")}, Data: noise}
	if s := seal(t, c, p); len(s.Data) > proto.Size(p)+12+16+1 {
		t.Errorf("what does not compress grew from %d to %d bytes", proto.Size(p), len(s.Data))
	}
	// What a node writes must not fill the memory of the control side.
	if _, err := inflate(deflate(make([]byte, mostInflated+10))[1:]); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a bomb: %v", err)
	}
}

func activityOn(queue string) converter.SerializationContext {
	return converter.ActivitySerializationContext{Namespace: "default", WorkflowID: "run-1", TaskQueue: queue}
}

func workflowOf(id string) converter.SerializationContext {
	return converter.WorkflowSerializationContext{Namespace: "default", WorkflowID: id}
}

// An agent reads what is for its node and nothing else; what it may read it may write.
func TestNodes(t *testing.T) {
	keys := ringOf(t, newKey(t, "k1"), newKey(t, "k2"))
	control := New(keys, Options{})
	agent := func(id string) *Codec {
		lines, err := keys.Node(id)
		if err != nil {
			t.Fatal(err)
		}
		return NewNode(ringOf(t, lines), id, Options{})
	}
	a, b := agent("a"), agent("b")
	for _, tt := range []struct {
		where converter.SerializationContext
		reads string // the agent that may read it
	}{
		{activityOn("node/a"), "a"},
		{activityOn("node/b"), "b"},
		{activityOn("almanac"), ""},
		{activityOn("node/a/x"), ""},
		{activityOn("node/"), ""},
		{workflowOf("node/a"), "a"},
		{workflowOf("tell/a/token/x"), "a"},
		{workflowOf("tell/b/token/x"), "b"},
		{workflowOf("tell/a"), ""},
		{workflowOf("run-1"), ""},
		{workflowOf("run-1/node/a"), ""},
	} {
		here := control.WithSerializationContext(tt.where)
		p := seal(t, here, text("secret"))
		for id, agent := range map[string]*Codec{"a": a, "b": b} {
			_, err := unseal(agent, p)
			if (err == nil) != (tt.reads == id) {
				t.Errorf("%+v: agent %s: %v", tt.where, id, err)
			}
			// Nor if it is told that the payload is its own.
			if forged := proto.Clone(p).(*commonpb.Payload); tt.reads != id {
				forged.Metadata[metaNode] = []byte(id)
				refuses(t, "forged scope", agent, forged, "")
			}
			_, err = unseal(here, seal(t, agent, text("answer")))
			if (err == nil) != (tt.reads == id) {
				t.Errorf("%+v: an answer of agent %s: %v", tt.where, id, err)
			}
		}
		if _, err := unseal(here, p); err != nil {
			t.Errorf("%+v: %v", tt.where, err)
		}
		if _, err := unseal(control, p); err != nil {
			t.Errorf("%+v, where it is not known: %v", tt.where, err)
		}
	}
	// The keys that an agent has derive no others.
	other := NewNode(a.keys, "b", Options{})
	if _, err := other.Encode([]*commonpb.Payload{text("x")}); err == nil {
		t.Error("a's keys wrote as b")
	}
	if _, err := New(a.keys, Options{}).Encode([]*commonpb.Payload{text("x")}); err == nil {
		t.Error("a's keys wrote as the control side")
	}
	// Who changes the name in a key file has no other node's key, and no namespace's.
	lines, err := keys.Node("a")
	if err != nil {
		t.Fatal(err)
	}
	ofB := seal(t, control.WithSerializationContext(activityOn("node/b")), text("secret"))
	ofControl := seal(t, control, text("secret"))
	refuses(t, "a key that says it is b's", NewNode(ringOf(t, strings.ReplaceAll(lines, "node/a", "node/b")), "b", Options{}), ofB, "")
	posing := ringOf(t, strings.ReplaceAll(lines, " node/a", ""))
	refuses(t, "a key that says it is everybody's", New(posing, Options{}), ofB, "")
	refuses(t, "a key that says it is everybody's", New(posing, Options{}), ofControl, "")
	secrets := map[string]string{}
	for _, k := range keys.now.Load().keys {
		for _, node := range []string{"", "a", "b", "a1", "1"} {
			secret, err := k.derive(node)
			if err != nil || secrets[string(secret)] != "" || bytes.Equal(secret, k.secret) {
				t.Errorf("the key of %q is that of %s, or %v", node, secrets[string(secret)], err)
			}
			secrets[string(secret)] = "scope " + node + " of " + k.id
		}
	}
	// What the agents of one process in development have from the keys themselves is the same.
	if _, err := unseal(NewNode(keys, "a", Options{}), seal(t, a, text("x"))); err != nil {
		t.Error(err)
	}
}

func TestReservedID(t *testing.T) {
	for id, want := range map[string]bool{"node/a": true, "tell/a/b": true, "nodes": false, "patch-node/a": false, "tell": false} {
		if ReservedID(id) != want {
			t.Errorf("%s: %v", id, !want)
		}
	}
}

// The text of a failure is not readable, also inside the failure of what it failed.
func TestFailures(t *testing.T) {
	keys := ringOf(t, newKey(t, "k1"))
	lines, err := keys.Node("a")
	if err != nil {
		t.Fatal(err)
	}
	_, ofNode := NewNode(ringOf(t, lines), "a", Options{}).Converters()
	_, ofControl := New(keys, Options{}).Converters()
	in := func(f converter.FailureConverter, where converter.SerializationContext) converter.FailureConverter {
		return converter.WithFailureConverterSerializationContext(f, where)
	}
	f := in(ofNode, activityOn("node/a")).ErrorToFailure(temporal.NewApplicationError("canary-1 in a message", "invalid", "canary-2 in details"))
	if bytes.Contains([]byte(f.String()), []byte("canary")) {
		t.Fatalf("readable: %s", f)
	}
	err = in(ofControl, activityOn("node/a")).FailureToError(f)
	if err == nil || !strings.Contains(err.Error(), "canary-1") {
		t.Fatalf("the control side reads %v", err)
	}
	// The execution fails by it; whoever reads that reads it as part of the execution.
	run := in(ofControl, workflowOf("run-1")).ErrorToFailure(err)
	err = in(ofControl, workflowOf("run-1")).FailureToError(run)
	var app *temporal.ApplicationError
	var detail string
	if !errors.As(err, &app) || !strings.Contains(err.Error(), "canary-1") || app.Details(&detail) != nil || detail != "canary-2 in details" {
		t.Errorf("as part of the execution: %v, %q", err, detail)
	}
	// Who has another key learns that, also of a cause.
	_, ofOther := New(ringOf(t, newKey(t, "k2")), Options{}).Converters()
	for _, f := range []*failurepb.Failure{run, {Message: "plain", Cause: run, FailureInfo: run.FailureInfo}} {
		err := ofOther.FailureToError(f)
		for err != nil && !strings.Contains(err.Error(), `there is no key "k1" here`) {
			err = errors.Unwrap(err)
		}
		if err == nil {
			t.Errorf("with another key: %v", ofOther.FailureToError(f))
		}
	}
}

func BenchmarkEncode1KiB(b *testing.B) {
	c := New(ringOf(b, newKey(b, "k1")), Options{})
	p := text(sample(1024))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Encode([]*commonpb.Payload{p}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode1KiB(b *testing.B) {
	c := New(ringOf(b, newKey(b, "k1")), Options{})
	p := seal(b, c, text(sample(1024)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Decode([]*commonpb.Payload{p}); err != nil {
			b.Fatal(err)
		}
	}
}

// sample is JSON as actions have it.
func sample(size int) string {
	var s strings.Builder
	for i := 0; s.Len() < size; i++ {
		fmt.Fprintf(&s, `{"instance":"i-%08x","state":"running","zone":"eu-central-1%c"},`, i*2654435761, 'a'+i%3)
	}
	return s.String()[:size]
}
