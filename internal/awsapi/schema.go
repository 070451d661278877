package awsapi

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/traits"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/aws/smithy-go/transport/http/protocol/awsjson"
	"github.com/aws/smithy-go/transport/http/protocol/awsquery"
	"github.com/aws/smithy-go/transport/http/protocol/ec2query"
	"github.com/aws/smithy-go/transport/http/protocol/restjson1"
	"github.com/aws/smithy-go/transport/http/protocol/restxml"
	"github.com/aws/smithy-go/transport/http/protocol/rpcv2"
)

// Kind is what a value is.
type Kind string

// The kinds of values. Any is a document, or a value of which nothing is known.
const (
	Structure Kind = "structure"
	List      Kind = "list"
	Map       Kind = "map"
	String    Kind = "string"
	Int       Kind = "int"
	Float     Kind = "float"
	Bool      Kind = "bool"
	Timestamp Kind = "timestamp"
	Blob      Kind = "blob"
	Any       Kind = "any"
)

// node is a shape made ready for a protocol. It is immutable once the operation
// that asked for it is compiled.
type node struct {
	kind   Kind
	shape  *shape
	schema *smithy.Schema

	fields map[string]*field // of a structure, by the names in the model
	wire   map[string]*field // the same, by the names on the wire
	order  []*field          // the same, sorted by the names in the model
	key    *field            // of a map
	item   *field            // of lists and maps
}

// field is a place where a shape is used.
type field struct {
	attributes
	name     string
	required bool
	payload  bool // it is the body
	node     *node
	schema   *smithy.Schema
}

// wire is an operation ready to be called.
type wire struct {
	schema        *smithy.OperationSchema
	input, output *node // nil if there is none
	payload       *field
}

// protocol is how a service is spoken to.
type protocol struct {
	name string
	smithyhttp.ClientProtocol
}

// preferred is botocore's order of protocols that a service may offer.
var preferred = []string{"json", "rest-json", "rest-xml", "smithy-rpc-v2-cbor", "query", "ec2"}

func (s *service) setProtocol() error {
	offered := s.Metadata.Protocols
	if len(offered) == 0 {
		offered = []string{s.Metadata.Protocol}
	}
	i := slices.IndexFunc(preferred, func(p string) bool { return slices.Contains(offered, p) })
	if i < 0 {
		return fmt.Errorf("it speaks only %s", strings.Join(offered, ", "))
	}
	s.protocol.name = preferred[i]
	name := s.Metadata.TargetPrefix
	if name == "" {
		name = s.name
	}
	var ts []smithy.Trait
	if n := s.Metadata.XMLNamespace; n != nil && s.protocol.name == "rest-xml" {
		ts = append(ts, &traits.XMLNamespace{URI: n.URI, Prefix: n.Prefix})
	}
	if s.Metadata.AWSQueryCompatible != nil {
		ts = append(ts, &traits.AWSQueryCompatible{})
	}
	schema := smithy.NewServiceSchema(smithy.NewSchema(smithy.ShapeID{Namespace: s.name, Name: name}, smithy.ShapeTypeService, 0, ts...), s.Metadata.APIVersion)
	switch s.protocol.name {
	case "json":
		if s.Metadata.JSONVersion == "1.0" {
			s.protocol.ClientProtocol = awsjson.New10(schema)
		} else {
			s.protocol.ClientProtocol = awsjson.New11(schema)
		}
	case "rest-json":
		s.protocol.ClientProtocol = restjson1.New(schema)
	case "rest-xml":
		s.protocol.ClientProtocol = restxml.New(schema)
	case "smithy-rpc-v2-cbor":
		s.protocol.ClientProtocol = rpcv2.NewCBOR(schema)
	case "query":
		s.protocol.ClientProtocol = awsquery.New(schema)
	case "ec2":
		s.protocol.ClientProtocol = ec2query.New(schema)
	}
	return nil
}

// compile makes an operation ready. Schemas are made for what is called, since
// those of all of EC2 would cost more than the first call of it.
func (s *service) compile(op *operation) (*wire, error) {
	op.compiled.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		op.wire, op.wireErr = s.build(op)
	})
	return &op.wire, op.wireErr
}

func (s *service) build(op *operation) (wire, error) {
	var w wire
	name := op.name
	if s.protocol.name == "json" || s.protocol.name == "query" || s.protocol.name == "ec2" {
		name = op.Name // the key without, the name with a version that goes into a path
	}
	var ts []smithy.Trait
	if strings.HasPrefix(s.protocol.name, "rest-") {
		uri := op.HTTP.RequestURI
		if s.name == "s3" {
			// The endpoint rules place the bucket, in the host or in the path.
			uri = strings.TrimPrefix(uri, "/{Bucket}")
			if uri == "" || uri[0] == '?' {
				uri = "/" + uri
			}
		}
		ts = append(ts, &traits.HTTP{Method: op.HTTP.Method, URI: uri, Code: 200})
	}
	schema := smithy.NewSchema(smithy.ShapeID{Namespace: s.name, Name: name}, smithy.ShapeTypeOperation, 0, ts...)
	var in, out *smithy.Schema
	if op.Input != nil {
		w.input = s.root(op.Input)
		in = w.input.schema
		if p := w.input.shape.Payload; p != "" {
			w.payload = w.input.fields[p]
		}
	}
	if op.Output != nil {
		w.output = s.root(op.Output)
		out = w.output.schema
	}
	for _, n := range []*node{w.input, w.output} {
		if n == nil {
			continue
		}
		for _, f := range n.order {
			if f.EventStream {
				return w, &Error{Service: s.name, Operation: op.name, Code: "EventStreamUnsupported", Class: Invalid,
					Message: fmt.Sprintf("it answers or takes a stream of events (%s), which is not supported", f.name)}
			}
		}
	}
	w.schema = smithy.NewOperationSchema(schema, in, out)
	return w, nil
}

// root makes the node of an input or output. It is not shared: where it is used
// says what its XML element is called.
func (s *service) root(r *ref) *node {
	sh := s.Shapes[r.Shape]
	a := r.over(sh)
	var ts []smithy.Trait
	if s.protocol.name == "rest-xml" {
		if a.LocationName != "" {
			ts = append(ts, &traits.XMLName{Name: a.LocationName})
		}
		if n := a.XMLNamespace; n != nil {
			ts = append(ts, &traits.XMLNamespace{URI: n.URI, Prefix: n.Prefix})
		}
	}
	n := &node{kind: Structure, shape: sh, schema: smithy.NewSchema(smithy.ShapeID{Namespace: s.name, Name: r.Shape}, smithy.ShapeTypeStructure, len(sh.Members), ts...)}
	s.members(n, true)
	return n
}

func (s *service) node(name string) *node {
	if n := s.shapes[name]; n != nil {
		return n
	}
	sh := s.Shapes[name]
	n := &node{kind: kindOf(sh), shape: sh}
	s.shapes[name] = n
	id := smithy.ShapeID{Namespace: s.name, Name: name}
	n.schema = smithy.NewSchema(id, types[n.kind], len(sh.Members)+2)
	switch n.kind {
	case Structure:
		s.members(n, false)
	case List:
		n.item = s.field(n.schema, "member", sh.Member, false)
	case Map:
		n.key = s.field(n.schema, "key", sh.Key, false)
		n.item = s.field(n.schema, "value", sh.Value, false)
	}
	return n
}

var types = map[Kind]smithy.ShapeType{
	Structure: smithy.ShapeTypeStructure, List: smithy.ShapeTypeList, Map: smithy.ShapeTypeMap,
	String: smithy.ShapeTypeString, Int: smithy.ShapeTypeLong, Float: smithy.ShapeTypeDouble,
	Bool: smithy.ShapeTypeBoolean, Timestamp: smithy.ShapeTypeTimestamp, Blob: smithy.ShapeTypeBlob,
	Any: smithy.ShapeTypeDocument,
}

func kindOf(sh *shape) Kind {
	switch sh.Type {
	case "structure":
		// On the wire a union is a structure with one member.
		if sh.Document {
			return Any
		}
		return Structure
	case "list":
		return List
	case "map":
		return Map
	case "byte", "short", "integer", "long":
		return Int
	case "float", "double":
		return Float
	case "boolean":
		return Bool
	case "timestamp":
		return Timestamp
	case "blob":
		return Blob
	}
	return String
}

func (s *service) members(n *node, root bool) {
	n.fields = make(map[string]*field, len(n.shape.Members))
	n.wire = make(map[string]*field, len(n.shape.Members))
	for _, name := range slices.Sorted(maps.Keys(n.shape.Members)) {
		r := n.shape.Members[name]
		f := s.field(n.schema, name, r, root)
		f.required = slices.Contains(n.shape.Required, name)
		n.fields[name] = f
		n.wire[f.schema.MemberName()] = f
		n.order = append(n.order, f)
	}
}

// field adds a member to a schema. The member's name there is its name on the
// wire: Smithy has a trait for each protocol to say that, a c2j model one
// attribute for all.
func (s *service) field(parent *smithy.Schema, name string, r *ref, root bool) *field {
	target := s.node(r.Shape)
	sh := target.shape
	f := &field{attributes: r.over(sh), name: name, node: target}
	plain := parent.Type() == smithy.ShapeTypeStructure
	rest := strings.HasPrefix(s.protocol.name, "rest-")
	xml := s.protocol.name != "json" && s.protocol.name != "rest-json" && s.protocol.name != "smithy-rpc-v2-cbor"
	onWire := or(f.LocationName, name)
	if !plain {
		onWire = name // "member", "key" and "value" are how Smithy finds them
	}
	var ts []smithy.Trait

	switch f.TimestampFormat {
	case "iso8601":
		ts = append(ts, &traits.TimestampFormat{Format: "date-time"})
	case "rfc822":
		ts = append(ts, &traits.TimestampFormat{Format: "http-date"})
	case "unixTimestamp":
		ts = append(ts, &traits.TimestampFormat{Format: "epoch-seconds"})
	}

	bound := false
	if rest && plain && root {
		bound = f.Location != ""
		switch f.Location {
		case "header":
			ts = append(ts, &traits.HTTPHeader{Name: onWire})
			if f.JSONValue {
				ts = append(ts, &traits.MediaType{Type: "application/json"})
			}
		case "headers":
			ts = append(ts, &traits.HTTPPrefixHeaders{Prefix: f.LocationName})
		case "uri":
			ts = append(ts, &traits.HTTPLabel{})
		case "querystring":
			if target.kind == Map {
				ts = append(ts, &traits.HTTPQueryParams{})
			} else {
				ts = append(ts, &traits.HTTPQuery{Name: onWire})
			}
		case "statusCode":
			ts = append(ts, &traits.HTTPResponseCode{})
		}
	}
	f.payload = rest && root && plain && s.payloadOf(parent) == name
	if f.payload {
		ts = append(ts, &traits.HTTPPayload{})
	}

	if xml {
		if f.Flattened {
			ts = append(ts, &traits.XMLFlattened{})
			if target.kind == List && s.protocol.name != "rest-xml" {
				// As botocore has it: the items name the list.
				if item := sh.Member.over(s.Shapes[sh.Member.Shape]).LocationName; item != "" {
					onWire = item
				}
			}
		}
		if f.XMLAttribute {
			ts = append(ts, &traits.XMLAttribute{})
		}
		if f.LocationName != "" && (!plain || f.payload) {
			ts = append(ts, &traits.XMLName{Name: f.LocationName})
		}
		if n := f.XMLNamespace; n != nil && s.protocol.name == "rest-xml" {
			ts = append(ts, &traits.XMLNamespace{URI: n.URI, Prefix: n.Prefix})
		}
		if s.protocol.name == "ec2" && plain {
			query := name
			if f.QueryName != "" {
				query = f.QueryName
			} else if f.LocationName != "" {
				query = strings.ToUpper(f.LocationName[:1]) + f.LocationName[1:]
			}
			ts = append(ts, &traits.EC2QueryName{Name: query})
		}
	}
	if bound && f.Location != "uri" {
		// An element in the body may have this name too; none begins with @.
		onWire = "@" + name
	}
	f.schema = parent.AddMember(onWire, target.schema, ts...)
	return f
}

func (s *service) payloadOf(parent *smithy.Schema) string {
	return s.Shapes[parent.ID().Name].Payload
}
