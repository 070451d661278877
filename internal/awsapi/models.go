package awsapi

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/agext/levenshtein"
)

//go:generate go run ./pack models/models.zip $BOTOCORE

// packed holds the models of botocore (see pack), with its licence beside it.
//
//go:embed models/models.zip
var packed string

// ModelsVariable names the environment variable with a directory of newer models.
const ModelsVariable = "ALMANAC_AWS_MODELS"

// Models are the descriptions of AWS's services. They are read when they are
// first asked for. Safe for concurrent use; made by OpenModels.
type Models struct {
	version string
	sources []fs.FS // the user's before ours
	dirs    map[string][]string

	mu       sync.Mutex
	services map[string]*service
	parts    *partitions
}

// OpenModels gives the models of this program and, before them, those of a
// directory in the layout of botocore's data directory
// (SERVICE/VERSION/service-2.json, also .gz). If dir is empty, the environment
// may name one.
func OpenModels(dir string) (*Models, error) {
	if dir == "" {
		dir = os.Getenv(ModelsVariable)
	}
	ours, err := zip.NewReader(strings.NewReader(packed), int64(len(packed)))
	if err != nil {
		return nil, fmt.Errorf("models of AWS: %w", err)
	}
	m := &Models{version: ours.Comment, dirs: map[string][]string{}, services: map[string]*service{}}
	for _, f := range ours.File {
		dir, base := path.Split(f.Name)
		if base == "service-2.json" {
			m.dirs[path.Dir(path.Clean(dir))] = []string{path.Clean(dir)}
		}
	}
	if dir != "" {
		theirs := os.DirFS(dir)
		files, err := fs.Glob(theirs, "*/*/service-2.json*")
		if err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("models of AWS: %s holds no SERVICE/VERSION/service-2.json", dir)
		}
		for _, file := range files { // sorted: the newest version is the last
			dir := path.Dir(file)
			name := path.Dir(dir)
			// A newer API version lies in another directory; what it lacks comes from ours.
			m.dirs[name] = append([]string{dir}, slices.DeleteFunc(m.dirs[name], func(d string) bool { return d == dir })...)
		}
		m.sources = append(m.sources, theirs)
	}
	m.sources = append(m.sources, ours)
	return m, nil
}

// Version says what the packed models are: "botocore 1.44.8".
func (m *Models) Version() string { return m.version }

// Services lists the names of all services, sorted.
func (m *Models) Services() []string { return slices.Sorted(maps.Keys(m.dirs)) }

// Operations lists the names of a service's operations, sorted.
func (m *Models) Operations(service string) ([]string, error) {
	s, err := m.service(service)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(s.Operations)), nil
}

// lookup finds an operation. The error names what was probably meant.
func (m *Models) lookup(service, name string) (*service, *operation, error) {
	s, err := m.service(service)
	if err != nil {
		return nil, nil, err
	}
	op := s.Operations[name]
	if op == nil {
		return nil, nil, &Error{Service: service, Operation: name, Code: "UnknownOperation", Class: Invalid,
			Message: fmt.Sprintf("AWS %s has no operation %q", service, name) + suggest(name, slices.Sorted(maps.Keys(s.Operations)))}
	}
	return s, op, nil
}

func (m *Models) service(name string) (*service, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.services[name]; s != nil {
		return s, nil
	}
	if m.dirs[name] == nil {
		return nil, &Error{Service: name, Code: "UnknownService", Class: Invalid,
			Message: fmt.Sprintf("there is no AWS service %q", name) + m.suggestService(name)}
	}
	s := &service{name: name, shapes: map[string]*node{}}
	for file, into := range map[string]any{
		"service-2":           s,
		"endpoint-rule-set-1": &s.rules,
		"paginators-1":        &s.pages,
	} {
		if err := m.read(m.dirs[name], file, into); err != nil && (file == "service-2" || !errors.Is(err, fs.ErrNotExist)) {
			return nil, fmt.Errorf("model of AWS %s: %w", name, err)
		}
	}
	if err := s.init(); err != nil {
		return nil, fmt.Errorf("model of AWS %s: %w", name, err)
	}
	m.services[name] = s
	return s, nil
}

// partitions returns what the endpoint rules know of regions.
func (m *Models) partitions() (*partitions, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.parts != nil {
		return m.parts, nil
	}
	p := &partitions{}
	if err := m.read([]string{"."}, "partitions", p); err != nil {
		return nil, fmt.Errorf("AWS partitions: %w", err)
	}
	if err := p.init(); err != nil {
		return nil, fmt.Errorf("AWS partitions: %w", err)
	}
	m.parts = p
	return p, nil
}

// read decodes the first file of this name, with its extras merged in.
func (m *Models) read(dirs []string, name string, into any) error {
	for _, source := range m.sources {
		for _, dir := range dirs {
			text, err := readFile(source, path.Join(dir, name+".json"))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			extras, err := readFile(source, path.Join(dir, name+".sdk-extras.json"))
			if err == nil {
				text, err = merge(text, extras)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := json.Unmarshal(text, into); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		}
	}
	return fs.ErrNotExist
}

const maxModel = 64 << 20

func readFile(source fs.FS, name string) ([]byte, error) {
	f, err := source.Open(name)
	zipped := false
	if errors.Is(err, fs.ErrNotExist) {
		f, err = source.Open(name + ".gz")
		zipped = true
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if zipped {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	}
	text, err := io.ReadAll(io.LimitReader(r, maxModel+1))
	if len(text) > maxModel {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, maxModel)
	}
	return text, err
}

// merge adds what stands under "merge" in a file of extras, at any depth.
func merge(text, extras []byte) ([]byte, error) {
	var base any
	var more struct{ Merge any }
	if err := decode(text, &base); err != nil {
		return nil, err
	}
	if err := decode(extras, &more); err != nil {
		return nil, err
	}
	return json.Marshal(mergeInto(base, more.Merge))
}

func mergeInto(base, more any) any {
	b, ok := base.(map[string]any)
	m, also := more.(map[string]any)
	if !ok || !also {
		if more == nil {
			return base
		}
		return more
	}
	for k, v := range m {
		b[k] = mergeInto(b[k], v)
	}
	return b
}

func decode(text []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return dec.Decode(into)
}

// service is one service's model, as botocore writes it.
type service struct {
	Metadata struct {
		APIVersion         string
		EndpointPrefix     string
		Protocol           string
		Protocols          []string
		JSONVersion        string
		ServiceID          string `json:"serviceId"`
		SigningName        string
		SignatureVersion   string
		TargetPrefix       string
		XMLNamespace       *namespace
		Auth               []string
		AWSQueryCompatible json.RawMessage
	}
	Operations map[string]*operation
	Shapes     map[string]*shape

	name  string
	rules *ruleSet
	pages *struct{ Pagination map[string]*paginator }

	protocol protocol

	mu     sync.Mutex
	shapes map[string]*node // by shape, and by shape and place where the place matters
}

type operation struct {
	Name string
	HTTP struct {
		Method, RequestURI string
	}
	Input, Output *ref
	Errors        []ref
	Endpoint      struct{ HostPrefix string }
	Auth          []string
	AuthType      string
	Unsigned      bool `json:"unsignedPayload"`
	Readonly      bool
	Idempotent    bool
	StaticParams  map[string]struct{ Value any } `json:"staticContextParams"`
	Checksum      struct {
		RequestAlgorithmMember  string
		RequestChecksumRequired bool
	} `json:"httpChecksum"`
	ChecksumRequired bool                    `json:"httpChecksumRequired"`
	Discovery        struct{ Required bool } `json:"endpointdiscovery"`
	Deprecated       bool

	name     string
	compiled sync.Once
	wire     wire
	wireErr  error
}

// attributes are what a shape says of itself and a reference to it may say otherwise.
type attributes struct {
	Location         string
	LocationName     string
	QueryName        string
	TimestampFormat  string
	Flattened        bool
	Streaming        bool
	EventStream      bool
	XMLAttribute     bool
	JSONValue        bool
	IdempotencyToken bool
	HostLabel        bool
	XMLNamespace     *namespace
	ContextParam     *struct{ Name string }
	Deprecated       bool
}

type shape struct {
	attributes
	Type               string
	Members            map[string]*ref
	Required           []string
	Member, Key, Value *ref
	Enum               []string
	Union              bool
	Document           bool
	Sensitive          bool
	Payload            string
	Exception          bool
	Error              struct{ Code string }
}

type ref struct {
	attributes
	Shape string
}

// over is the attributes of a reference laid over those of its shape.
func (r *ref) over(s *shape) attributes {
	a := r.attributes
	a.Location = or(a.Location, s.Location)
	a.LocationName = or(a.LocationName, s.LocationName)
	a.QueryName = or(a.QueryName, s.QueryName)
	a.TimestampFormat = or(a.TimestampFormat, s.TimestampFormat)
	a.Flattened = a.Flattened || s.Flattened
	a.Streaming = a.Streaming || s.Streaming
	a.EventStream = a.EventStream || s.EventStream
	a.XMLAttribute = a.XMLAttribute || s.XMLAttribute
	if a.XMLNamespace == nil {
		a.XMLNamespace = s.XMLNamespace
	}
	return a
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// namespace is written as a text or as an object.
type namespace struct{ URI, Prefix string }

func (n *namespace) UnmarshalJSON(text []byte) error {
	if json.Unmarshal(text, &n.URI) == nil {
		return nil
	}
	var v struct{ URI, Prefix string }
	err := json.Unmarshal(text, &v)
	*n = namespace(v)
	return err
}

// init checks what a model must have: one that a user dropped may lack it.
func (s *service) init() error {
	for name, sh := range s.Shapes {
		if sh == nil {
			return fmt.Errorf("shape %s is null", name)
		}
		for _, r := range []*ref{sh.Member, sh.Key, sh.Value} {
			if err := s.check(r); err != nil {
				return fmt.Errorf("shape %s: %w", name, err)
			}
		}
		if sh.Type == "list" && sh.Member == nil || sh.Type == "map" && (sh.Key == nil || sh.Value == nil) {
			return fmt.Errorf("shape %s has no items", name)
		}
		for member, r := range sh.Members {
			if r == nil {
				return fmt.Errorf("shape %s: member %s is null", name, member)
			}
			if err := s.check(r); err != nil {
				return fmt.Errorf("shape %s: %w", name, err)
			}
		}
		if sh.Payload != "" && sh.Members[sh.Payload] == nil {
			return fmt.Errorf("shape %s: there is no member %s to be its payload", name, sh.Payload)
		}
	}
	for name, op := range s.Operations {
		if op == nil {
			return fmt.Errorf("operation %s is null", name)
		}
		op.name = name
		for _, r := range []*ref{op.Input, op.Output} {
			if err := s.check(r); err != nil {
				return fmt.Errorf("operation %s: %w", name, err)
			}
			if r != nil && s.Shapes[r.Shape].Type != "structure" {
				return fmt.Errorf("operation %s: %s is no structure", name, r.Shape)
			}
		}
	}
	return s.setProtocol()
}

func (s *service) check(r *ref) error {
	if r != nil && s.Shapes[r.Shape] == nil {
		return fmt.Errorf("there is no shape %q", r.Shape)
	}
	return nil
}

// products are names under which people know a service that has another name here.
var products = map[string]string{
	"autoscalinggroups": "autoscaling", "cloudwatchevents": "events", "cloudwatchlogs": "logs", "cognito": "cognito-idp",
	"documentdb": "docdb", "elasticloadbalancing": "elbv2", "elasticloadbalancingv2": "elbv2", "elasticsearch": "es",
	"eventbridge": "events", "msk": "kafka", "secretmanager": "secretsmanager", "sfn": "stepfunctions",
	"simpleemail": "sesv2", "states": "stepfunctions", "systemsmanager": "ssm", "transitgateway": "ec2", "vpc": "ec2",
}

func (m *Models) suggestService(name string) string {
	plain := strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(name))
	if product := products[plain]; product != "" {
		return fmt.Sprintf("; did you mean %q?", product)
	}
	return suggest(name, m.Services())
}

// suggest ends a message about an unknown name: the one that was probably meant.
func suggest(name string, known []string) string {
	if best := nearest(name, known); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}

// nearest is the known name that is meant by a misspelt one, or "".
func nearest(name string, known []string) string {
	if len(name) > 100 {
		return ""
	}
	best, least := "", min(max(1, (len(name)+2)/3)+1, max(len(name), 2))
	for _, k := range known {
		if d := levenshtein.Distance(strings.ToLower(name), strings.ToLower(k), nil); d < least {
			best, least = k, d
		}
	}
	return best
}
