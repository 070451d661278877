// Package codec encrypts what executions hold before it leaves the process:
// inputs, outputs, memos, heartbeats and the texts of failures.
//
// It gives Codec, which Temporal's SDK calls for each payload, Keyring, which
// holds the keys, and Open, by which programs find them. It promises that a
// payload which was changed, or belongs to another namespace, key or node, is an error and
// never a value, and that a node's keys read nothing but that node's payloads. It
// refuses to know the server, and which program it is in.
//
// A payload is compressed if that makes it smaller, then sealed with AES-256-GCM
// under a random nonce. What is authenticated beside it is the version of the
// format, the id of the key, the namespace, and the scope: the control side's, or one node's.
// No key of a keyring encrypts by itself: the key of a scope is derived from it
// (HKDF-SHA256), so that a node can be given its own and nothing more.
package codec

import (
	"bytes"
	"compress/flate"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/proto"
)

// Encoding marks a payload of ours in its metadata. Everything in the metadata
// is readable by whoever can read the history; all of it is authenticated.
const Encoding = "binary/encrypted"

const (
	version = "1"

	metaVersion = "almanac-version"
	metaKey     = "almanac-key"
	metaNode    = "almanac-node" // absent: the control side's
)

// What the first byte of an opened payload says of the rest.
const (
	stored   = 0
	deflated = 1
)

const (
	worthCompressing = 512      // bytes; below, the attempt costs more than it saves
	mostInflated     = 64 << 20 // bytes; a server takes no message that is longer than a fraction of it
)

// ErrPlain is returned for a payload that is not encrypted where only encrypted ones are taken.
var ErrPlain = errors.New("the payload is not encrypted, and plain ones are refused here")

// Codec encrypts and decrypts payloads. It is a converter.PayloadCodec, safe for concurrent use.
type Codec struct {
	keys        *Keyring
	namespace   string
	refusePlain bool

	fixed bool   // of a node: the scope is node, wherever the payload is
	known bool   // the scope is known to be node, "" being the control side's
	node  string // see fixed and known

	// A failure keeps its causes as they came, from whatever node; so the scope of what is in one is not known.
	failures bool
}

// Options of a Codec.
type Options struct {
	Namespace   string // of the server; empty: default
	RefusePlain bool   // payloads from before encryption are errors
}

// New returns the codec of the control side: worker, starter and codec server.
// It encrypts what belongs to a node with that node's key, and reads every node's.
func New(keys *Keyring, o Options) *Codec {
	return &Codec{keys: keys, namespace: namespaceOf(o), refusePlain: o.RefusePlain}
}

// NewNode returns the codec of a node's agent: it encrypts everything with the
// node's key, and reads nothing else. keys are the node's own, or those of the
// control side, from which the node's are derived.
func NewNode(keys *Keyring, node string, o Options) *Codec {
	return &Codec{keys: keys, namespace: namespaceOf(o), refusePlain: o.RefusePlain, fixed: true, known: true, node: node}
}

func namespaceOf(o Options) string {
	if o.Namespace == "" {
		return "default"
	}
	return o.Namespace
}

// Namespace is the namespace whose payloads the codec reads.
func (c *Codec) Namespace() string { return c.namespace }

// Converters returns what a client of Temporal is given. Of a nil Codec, which
// encrypts nothing, they are nil: the SDK's own.
func (c *Codec) Converters() (converter.DataConverter, converter.FailureConverter) {
	if c == nil {
		return nil, nil
	}
	f := *c
	f.failures = true
	texts := converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), &f)
	return converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), c),
		failureConverter{texts, temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{
			DataConverter:          texts,
			EncodeCommonAttributes: true,
		})}
}

// failureConverter is the SDK's, but says why a text cannot be read: the SDK
// leaves "Encoded failure", from which nobody learns that he lacks a key.
type failureConverter struct {
	texts converter.DataConverter
	converter.FailureConverter
}

// FailureToError implements converter.FailureConverter.
func (c failureConverter) FailureToError(failure *failurepb.Failure) error {
	failure = proto.CloneOf(failure)
	for f := failure; f != nil; f = f.GetCause() {
		var text any
		if p := f.GetEncodedAttributes(); p == nil {
			continue
		} else if err := c.texts.FromPayload(p, &text); err != nil {
			f.Message = "what is said of this failure cannot be read here: " + err.Error()
		}
	}
	return c.FailureConverter.FailureToError(failure)
}

// Converter is the first of Converters, or the SDK's own.
func (c *Codec) Converter() converter.DataConverter {
	if c == nil {
		return converter.GetDefaultDataConverter()
	}
	d, _ := c.Converters()
	return d
}

// WithSerializationContext returns the codec of where a payload is.
func (c *Codec) WithSerializationContext(where converter.SerializationContext) converter.PayloadCodec {
	if c.fixed {
		return c
	}
	in := *c
	in.known, in.node = true, nodeOf(where)
	return &in
}

// nodeOf is the node that has to read or write the payloads of a place: its
// activities, its workflow in the registry, and what it tells the control worker. Empty: none.
func nodeOf(where converter.SerializationContext) string {
	switch w := where.(type) {
	case converter.ActivitySerializationContext:
		return nodeIn(w.TaskQueue, "node/")
	case converter.WorkflowSerializationContext:
		if id := nodeIn(w.WorkflowID, "node/"); id != "" {
			return id
		}
		if rest, ok := strings.CutPrefix(w.WorkflowID, "tell/"); ok {
			if id, _, ok := strings.Cut(rest, "/"); ok {
				return id
			}
		}
	}
	return ""
}

func nodeIn(text, prefix string) string {
	id, ok := strings.CutPrefix(text, prefix)
	if !ok || strings.Contains(id, "/") {
		return ""
	}
	return id
}

// ReservedID tells whether payloads of a workflow of this id are encrypted for a
// node: no execution of a runbook may have it.
func ReservedID(workflowID string) bool {
	return nodeOf(converter.WorkflowSerializationContext{WorkflowID: workflowID}) != ""
}

// Encode encrypts payloads.
func (c *Codec) Encode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	sealed := make([]*commonpb.Payload, len(payloads))
	for i, p := range payloads {
		var err error
		if sealed[i], err = c.seal(p); err != nil {
			return nil, err
		}
	}
	return sealed, nil
}

// Decode decrypts payloads. What is not marked as encrypted is passed on as it
// is, unless it is refused.
func (c *Codec) Decode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	opened := make([]*commonpb.Payload, len(payloads))
	for i, p := range payloads {
		var err error
		if opened[i], err = c.open(p); err != nil {
			return nil, err
		}
	}
	return opened, nil
}

func (c *Codec) seal(p *commonpb.Payload) (*commonpb.Payload, error) {
	plain, err := proto.MarshalOptions{}.MarshalAppend([]byte{stored}, p)
	if err != nil {
		return nil, fmt.Errorf("encrypt a payload: %w", err)
	}
	if len(plain) >= worthCompressing {
		if small := deflate(plain[1:]); len(small) < len(plain) {
			plain = small
		}
	}
	id, aead, err := c.keys.writer(c.node)
	if err != nil {
		return nil, fmt.Errorf("encrypt a payload: %w", err)
	}
	size := aead.NonceSize()
	data := make([]byte, size, size+len(plain)+aead.Overhead())
	if _, err := rand.Read(data); err != nil {
		return nil, fmt.Errorf("encrypt a payload: %w", err)
	}
	metadata := map[string][]byte{
		converter.MetadataEncoding: []byte(Encoding), metaVersion: []byte(version), metaKey: []byte(id),
	}
	if c.node != "" {
		metadata[metaNode] = []byte(c.node)
	}
	return &commonpb.Payload{Metadata: metadata, Data: aead.Seal(data, data, plain, bound(id, c.namespace, c.node))}, nil
}

func (c *Codec) open(p *commonpb.Payload) (*commonpb.Payload, error) {
	if string(p.GetMetadata()[converter.MetadataEncoding]) != Encoding {
		if c.refusePlain {
			return nil, ErrPlain
		}
		return p, nil
	}
	if v := string(p.Metadata[metaVersion]); v != version {
		return nil, fmt.Errorf("decrypt a payload: its format is of version %.20q, and this program reads %q: a newer program wrote it", v, version)
	}
	id, node := string(p.Metadata[metaKey]), string(p.Metadata[metaNode])
	if c.known && node != c.node && (c.fixed || !c.failures) {
		return nil, fmt.Errorf("decrypt a payload: it is %s, where one %s belongs", scopeName(node), scopeName(c.node))
	}
	aead, err := c.keys.reader(id, node)
	if err != nil {
		return nil, fmt.Errorf("decrypt a payload: %w", err)
	}
	if len(p.Data) < aead.NonceSize() {
		return nil, errors.New("decrypt a payload: it is cut off")
	}
	plain, err := aead.Open(nil, p.Data[:aead.NonceSize()], p.Data[aead.NonceSize():], bound(id, c.namespace, node))
	if err != nil {
		return nil, fmt.Errorf("decrypt a payload: it was changed, or it is not of namespace %s, or the key %.40q here is not the one it was written with", c.namespace, id)
	}
	if len(plain) == 0 {
		return nil, errors.New("decrypt a payload: it is empty")
	}
	switch plain[0] {
	case stored:
		plain = plain[1:]
	case deflated:
		if plain, err = inflate(plain[1:]); err != nil {
			return nil, fmt.Errorf("decrypt a payload: %w", err)
		}
	default:
		return nil, fmt.Errorf("decrypt a payload: compression %d is not known: a newer program wrote it", plain[0])
	}
	value := &commonpb.Payload{}
	if err := proto.Unmarshal(plain, value); err != nil {
		return nil, errors.New("decrypt a payload: what is inside is no payload")
	}
	return value, nil
}

func scopeName(node string) string {
	if node == "" {
		return "of the control side"
	}
	return fmt.Sprintf("of node %.140q", node)
}

// bound is what is authenticated beside a payload. Lengths keep the parts apart.
func bound(key, namespace, node string) []byte {
	var b []byte
	for _, part := range []string{version, key, namespace, node} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}

// A compressor has large tables, which cost more to make than a payload to compress.
var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(io.Discard, flate.BestSpeed)
	if err != nil {
		panic(err) // of a constant
	}
	return w
}}

var inflaters = sync.Pool{New: func() any { return flate.NewReader(bytes.NewReader(nil)) }}

func deflate(b []byte) []byte {
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	var small bytes.Buffer
	small.Grow(len(b) / 2)
	small.WriteByte(deflated)
	w.Reset(&small)
	_, err := w.Write(b) // a buffer takes everything
	if e := w.Close(); err != nil || e != nil {
		return append([]byte{stored}, b...)
	}
	return small.Bytes()
}

func inflate(b []byte) ([]byte, error) {
	// A node's key is enough to write what becomes large here.
	r := inflaters.Get().(io.Reader)
	defer inflaters.Put(r)
	if err := r.(flate.Resetter).Reset(bytes.NewReader(b), nil); err != nil {
		return nil, err
	}
	large, err := io.ReadAll(io.LimitReader(r, mostInflated+1))
	if err != nil {
		return nil, errors.New("it does not decompress")
	}
	if len(large) > mostInflated {
		return nil, fmt.Errorf("it decompresses to more than %d bytes", mostInflated)
	}
	return large, nil
}

// cached are ciphers by key and node: making one costs as much as using it.
type cached struct {
	mu   sync.RWMutex
	made map[[2]string]cipher.AEAD
}

// mostCached bounds the memory: two keys of ten thousand nodes, and names of nodes come from outside.
const mostCached = 20_000

func (c *cached) get(key *key, node string) (cipher.AEAD, error) {
	at := [2]string{key.id, node}
	c.mu.RLock()
	aead := c.made[at]
	c.mu.RUnlock()
	if aead != nil {
		return aead, nil
	}
	aead, err := key.aead(node)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil || len(c.made) >= mostCached {
		c.made = map[[2]string]cipher.AEAD{}
	}
	c.made[at] = aead
	return aead, nil
}

// now is replaced by tests of keys that expire.
var now = time.Now
