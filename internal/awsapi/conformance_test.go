package awsapi

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/google/go-cmp/cmp"
)

// python is an interpreter that has the botocore of our models, or the test is
// skipped; where CI is set it must be there. botocore comes from PyPI, by name.
func python(t *testing.T, m *Models) (interpreter, cache string) {
	t.Helper()
	missing := func(format string, args ...any) {
		t.Helper()
		if os.Getenv("CI") != "" {
			t.Fatalf(format, args...)
		}
		t.Skipf(format+": nobody compares us with botocore", args...)
	}
	_, version, _ := strings.Cut(m.Version(), " ")
	base, err := os.UserCacheDir()
	if err != nil {
		missing("no cache directory: %v", err)
	}
	cache = filepath.Join(base, "almanac", "botocore-"+version)
	interpreter = filepath.Join(cache, "bin", "python")
	if _, err := os.Stat(filepath.Join(cache, "complete")); err == nil {
		return interpreter, cache
	}
	for _, command := range [][]string{
		{"python3", "-m", "venv", cache},
		{interpreter, "-m", "pip", "install", "--quiet", "botocore==" + version},
		{interpreter, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "botocore", "--dest", cache, "botocore==" + version},
		{interpreter, "-m", "tarfile", "--extract", filepath.Join(cache, "botocore-"+version+".tar.gz"), cache},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			missing("%s: %v\n%s", strings.Join(command, " "), err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(cache, "complete"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return interpreter, cache
}

// ask runs testdata/conformance.py once for every processor and hands each line
// to handle, which may run in parallel.
func ask(t *testing.T, m *Models, what string, every, inputs int, handle func(line []byte)) {
	t.Helper()
	interpreter, cache := python(t, m)
	_, version, _ := strings.Cut(m.Version(), " ")
	shards := runtime.NumCPU()
	var wg sync.WaitGroup
	for shard := range shards {
		wg.Go(func() {
			cmd := exec.Command(interpreter, "testdata/conformance.py", what, strconv.Itoa(shard), strconv.Itoa(shards), strconv.Itoa(every), strconv.Itoa(inputs),
				filepath.Join(cache, "botocore-"+version, "tests", "functional", "endpoint-rules"))
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Error(err)
				return
			}
			r := bufio.NewReaderSize(out, 1<<20)
			for {
				line, err := r.ReadBytes('\n')
				if len(line) > 0 {
					handle(line)
				}
				if err != nil {
					break
				}
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("conformance.py: %v\n%s", err, stderr.Bytes())
			}
		})
	}
	wg.Wait()
}

// volume is how much of it all is compared: everything with ALMANAC_CONFORMANCE=all,
// or where CI is set; otherwise a fourth of the operations, always the same.
func volume() (every, inputs int) {
	if os.Getenv("ALMANAC_CONFORMANCE") == "all" || os.Getenv("CI") != "" {
		return 1, 4
	}
	return 4, 2
}

// known are the differences from botocore that are meant. Each has to be met
// where everything is compared, or it is none any more. Besides them the
// comparison passes over: Content-Type where botocore names none, Content-Length
// (ours is that of the body, whatever the member says), the order of XML elements
// of different names, the notation of numbers, and blobs that botocore reads as text.
var known = map[string]string{
	"rest-xml answers s3 GetBucketNotification": "botocore leaves raw XML elements in the deprecated member Event",
}

// tally counts, and shows the first few failures of each kind.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
	shown  int
	met    map[string]bool // of known
}

func (c *tally) add(t *testing.T, kind, operation, failure string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts, c.met = map[string]int{}, map[string]bool{}
	}
	c.counts[kind]++
	if at := kind + " " + operation; failure != "" && known[at] != "" {
		c.met[at] = true
		c.counts[kind+" that are known to differ"]++
		return
	}
	if failure != "" {
		c.counts[kind+" that differ"]++
		if c.shown++; c.shown <= 30 {
			t.Error(failure)
		} else {
			t.Fail()
		}
	}
}

func (c *tally) log(t *testing.T) {
	for _, kind := range slices.Sorted(maps.Keys(c.counts)) {
		t.Logf("%s: %d", kind, c.counts[kind])
	}
	if every, _ := volume(); every == 1 {
		for at, why := range known {
			if kind, _, _ := strings.Cut(at, " s3"); c.counts[kind] > 0 && !c.met[at] {
				t.Errorf("%s does not differ any more (%s)", at, why)
			}
		}
	}
}

// typed replaces the marks of conformance.py by the values they stand for.
func typed(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if text, ok := v["$time"].(string); ok {
			at, err := time.Parse(time.RFC3339, text)
			if err != nil {
				panic(err)
			}
			return at.UTC()
		}
		if text, ok := v["$bytes"].(string); ok {
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				panic(err)
			}
			return b
		}
		for k := range v {
			v[k] = typed(v[k])
		}
	case []any:
		for i := range v {
			v[i] = typed(v[i])
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		n, err := v.Float64()
		if err != nil {
			panic(err)
		}
		return n
	}
	return v
}

type sent struct {
	Service, Operation, Protocol string
	Input                        map[string]any
	Method, Path, Host           string
	Query                        [][2]string
	Headers                      map[string]string
	Body                         struct {
		Form  map[string]any
		Bytes []byte
	}
}

// TestRequests compares what we send with what botocore sends.
func TestRequests(t *testing.T) {
	m := models(t)
	every, inputs := volume()
	var count tally
	ask(t, m, "requests", every, inputs, func(line []byte) {
		var want sent
		if err := decode(line, &want); err != nil {
			t.Error(err)
			return
		}
		failure := compareRequest(m, want)
		if failure != "" {
			failure = fmt.Sprintf("%s %s (%s): %s", want.Service, want.Operation, want.Protocol, failure)
		}
		count.add(t, want.Protocol+" requests", want.Service+" "+want.Operation, failure)
	})
	count.log(t)
}

func compareRequest(m *Models, want sent) string {
	s, op, err := m.lookup(want.Service, want.Operation)
	if err != nil {
		return err.Error()
	}
	w, err := s.compile(op)
	if err != nil {
		return err.Error()
	}
	values, _ := typed(want.Input).(map[string]any)
	in, err := s.take(w, values)
	if err != nil {
		return err.Error()
	}
	req, _ := smithyhttp.NewStackRequest().(*smithyhttp.Request)
	if err := s.serialize(w, op, in, req); err != nil {
		return err.Error()
	}
	var body []byte
	if r := req.GetStream(); r != nil {
		if body, err = io.ReadAll(r); err != nil {
			return err.Error()
		}
	}
	path, fixed, _ := strings.Cut(want.Path, "?")
	if bucket, ok := values["Bucket"].(string); ok && s.name == "s3" {
		// Our endpoint rules place it.
		path = strings.TrimPrefix(path, "/"+strings.ReplaceAll(url.PathEscape(bucket), "+", "%2B"))
		if path == "" {
			path = "/"
		}
	}
	query, err := url.ParseQuery(fixed)
	if err != nil {
		return err.Error()
	}
	for _, p := range want.Query {
		query.Add(p[0], p[1])
	}
	got := req.URL.Query()
	for _, values := range []url.Values{query, got} {
		for _, v := range values {
			slices.Sort(v)
		}
	}
	type head struct {
		Method, Path, Host string
		Query              url.Values
		Headers            map[string]string
	}
	ours := head{Method: req.Method, Path: or(req.URL.EscapedPath(), "/"), Query: got, Headers: map[string]string{}}
	for name, v := range req.Header {
		name = strings.ToLower(name)
		switch name {
		case "content-type":
			// Where a body is bytes, botocore names no type and Smithy does.
			if want.Headers[name] == "" {
				continue
			}
		case "content-length", "smithy-protocol", "accept":
			continue
		}
		ours.Headers[name] = strings.Join(v, ",")
	}
	theirs := head{Method: want.Method, Path: path, Query: query, Headers: map[string]string{}}
	for name, v := range want.Headers {
		if name != "smithy-protocol" && name != "accept" && name != "content-length" {
			theirs.Headers[name] = strings.ReplaceAll(v, "; charset=utf-8", "")
		}
	}
	if host, err := (&call{input: in}).hostPrefix(op.Endpoint.HostPrefix); err == nil && op.Endpoint.HostPrefix != "" {
		ours.Host = host
	}
	theirs.Host = want.Host
	if diff := cmp.Diff(theirs, ours); diff != "" {
		return "botocore -, we +\n" + diff
	}
	if diff := compareBody(want, body); diff != "" {
		return "body: botocore -, we +\n" + diff
	}
	return ""
}

func compareBody(want sent, body []byte) string {
	switch {
	case want.Protocol == "query" || want.Protocol == "ec2":
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return err.Error()
		}
		got := map[string]any{}
		for k, v := range form {
			got[k] = strings.Join(v, ",")
		}
		theirs := map[string]any{}
		for k, v := range want.Body.Form {
			theirs[k] = fmt.Sprint(v)
		}
		return cmp.Diff(theirs, got)
	case bytes.Equal(body, want.Body.Bytes):
		return ""
	case want.Protocol == "smithy-rpc-v2-cbor":
		a, err := cbor.Decode(want.Body.Bytes)
		if err != nil {
			return err.Error()
		}
		b, err := cbor.Decode(body)
		if err != nil {
			return err.Error()
		}
		// A time is a tagged number, with or without a fraction.
		return cmp.Diff(a, b, cmp.Transformer("number", func(t *cbor.Tag) string {
			if n, ok := t.Value.(cbor.Uint); ok {
				return fmt.Sprint(t.ID, float64(n))
			}
			return fmt.Sprint(t.ID, t.Value)
		}))
	case want.Protocol == "rest-xml" && bytes.HasPrefix(body, []byte("<")):
		a, err := parseTree(want.Body.Bytes)
		if err != nil {
			return err.Error()
		}
		b, err := parseTree(body)
		if err != nil {
			return err.Error()
		}
		return cmp.Diff(a, b)
	}
	var a, b any
	if decode(want.Body.Bytes, &a) == nil && decode(body, &b) == nil {
		return cmp.Diff(typed(a), typed(b))
	}
	return cmp.Diff(string(want.Body.Bytes), string(body))
}

// tree is an XML element without what means nothing: the order of elements of
// different names.
type tree struct {
	Name     xml.Name
	Attrs    map[string]string
	Text     string
	Children []tree
}

func parseTree(text []byte) (tree, error) {
	dec := xml.NewDecoder(bytes.NewReader(text))
	var read func(start xml.StartElement) (tree, error)
	read = func(start xml.StartElement) (tree, error) {
		n := tree{Name: start.Name}
		for _, a := range start.Attr {
			if n.Attrs == nil {
				n.Attrs = map[string]string{}
			}
			n.Attrs[a.Name.Space+" "+a.Name.Local] = a.Value
		}
		for {
			tok, err := dec.Token()
			if err != nil {
				return n, err
			}
			switch tok := tok.(type) {
			case xml.StartElement:
				child, err := read(tok)
				if err != nil {
					return n, err
				}
				n.Children = append(n.Children, child)
			case xml.CharData:
				n.Text += string(tok)
			case xml.EndElement:
				slices.SortStableFunc(n.Children, func(a, b tree) int { return strings.Compare(a.Name.Local, b.Name.Local) })
				return n, nil
			}
		}
	}
	for {
		tok, err := dec.Token()
		if err != nil {
			return tree{}, err
		}
		if start, ok := tok.(xml.StartElement); ok {
			return read(start)
		}
	}
}

type answer struct {
	Service, Operation, Protocol string
	Headers                      map[string]string
	Body                         struct{ Bytes []byte }
	Parsed                       map[string]any
}

func (a answer) response(status int, body []byte) *http.Response {
	h := http.Header{}
	for name, v := range a.Headers {
		h.Set(name, v)
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}
}

// TestAnswers compares what we read in an answer with what botocore reads.
func TestAnswers(t *testing.T) {
	m := models(t)
	every, inputs := volume()
	var count tally
	ask(t, m, "responses", every, max(1, inputs/2), func(line []byte) {
		var want answer
		if err := decode(line, &want); err != nil {
			t.Error(err)
			return
		}
		failure := compareAnswer(m, want)
		if failure != "" {
			failure = fmt.Sprintf("%s %s (%s): %s", want.Service, want.Operation, want.Protocol, failure)
		}
		count.add(t, want.Protocol+" answers", want.Service+" "+want.Operation, failure)
	})
	count.log(t)
}

func compareAnswer(m *Models, want answer) string {
	s, op, err := m.lookup(want.Service, want.Operation)
	if err != nil {
		return err.Error()
	}
	w, err := s.compile(op)
	if err != nil {
		return err.Error()
	}
	got, err := s.deserialize(w, want.response(200, want.Body.Bytes))
	if err != nil {
		return fmt.Sprintf("%v\n%s", err, want.Body.Bytes)
	}
	theirs, _ := typed(any(want.Parsed)).(map[string]any)
	if p := w.output.shape.Payload; p != "" && w.output.fields[p].node.kind == Blob {
		if text, ok := theirs[p].(string); ok {
			theirs[p] = []byte(text) // botocore reads it as text
		}
	}
	if diff := cmp.Diff(theirs, got); diff != "" {
		return fmt.Sprintf("botocore -, we +\n%s%s", diff, want.Body.Bytes)
	}
	return ""
}

// TestDamagedAnswers reads answers that are cut off, altered or of another
// status: whatever comes, it is an answer or an error.
func TestDamagedAnswers(t *testing.T) {
	m := models(t)
	every, _ := volume()
	var count tally
	ask(t, m, "responses", every*2, 1, func(line []byte) {
		var a answer
		if err := decode(line, &a); err != nil {
			t.Error(err)
			return
		}
		s, op, err := m.lookup(a.Service, a.Operation)
		if err != nil {
			t.Error(err)
			return
		}
		w, err := s.compile(op)
		if err != nil {
			t.Error(err)
			return
		}
		chance := rand.New(rand.NewSource(int64(len(line))))
		body := a.Body.Bytes
		for range 3 {
			damaged := bytes.Clone(body[:chance.Intn(len(body)+1)])
			if chance.Intn(2) == 0 {
				damaged = bytes.Clone(body)
				for range 4 {
					if len(damaged) > 0 {
						damaged[chance.Intn(len(damaged))] ^= byte(1 << chance.Intn(8))
					}
				}
			}
			status := []int{200, 200, 400, 403, 500, 503}[chance.Intn(6)]
			resp := a.response(status, damaged)
			_, err := s.deserializeBare(w, resp)
			if status >= 300 {
				if e := answerError(err, resp); e.Code == "" || e.Class == "" {
					t.Errorf("%s %s: an error without code or class", a.Service, a.Operation)
				}
			}
			count.add(t, "damaged answers", "", "")
		}
	})
	count.log(t)
}

// TestEndpoints compares the evaluation of the endpoint rules with the cases
// that AWS's own tests hold.
func TestEndpoints(t *testing.T) {
	m := models(t)
	parts, err := m.partitions()
	if err != nil {
		t.Fatal(err)
	}
	var count tally
	ask(t, m, "endpoints", 1, 1, func(line []byte) {
		var c struct {
			Service, About string
			Params         map[string]any
			Expect         struct {
				Error    *string
				Endpoint *struct {
					URL        string
					Properties map[string]any
					Headers    map[string][]string
				}
			}
		}
		if err := json.Unmarshal(line, &c); err != nil {
			t.Error(err)
			return
		}
		s, err := m.service(c.Service)
		if err != nil {
			t.Error(err)
			return
		}
		failure := ""
		ep, err := s.rules.resolve(parts, c.Params)
		switch {
		case c.Expect.Error != nil:
			if err == nil {
				failure = fmt.Sprintf("got %s, want error %q", ep.url, *c.Expect.Error)
			} else if _, ok := err.(noEndpoint); !ok || err.Error() != *c.Expect.Error && !strings.Contains(*c.Expect.Error, "Missing") {
				failure = fmt.Sprintf("error %q, want %q", err, *c.Expect.Error)
			}
		case err != nil:
			failure = fmt.Sprintf("error %q, want %s", err, c.Expect.Endpoint.URL)
		default:
			want := c.Expect.Endpoint
			if strings.TrimSuffix(ep.url.String(), "/") != strings.TrimSuffix(want.URL, "/") {
				failure = fmt.Sprintf("%s, want %s", ep.url, want.URL)
			} else if diff := cmp.Diff(want.Properties["authSchemes"], ep.properties["authSchemes"]); diff != "" {
				failure = diff
			} else if len(want.Headers) > 0 && !cmp.Equal(want.Headers, ep.headers) {
				failure = cmp.Diff(want.Headers, ep.headers)
			}
		}
		if failure != "" {
			failure = fmt.Sprintf("%s, %s %v: %s", c.Service, c.About, c.Params, failure)
		}
		count.add(t, "endpoints", c.Service, failure)
	})
	count.log(t)
}

var models = func() func(t testing.TB) *Models {
	var once sync.Once
	var m *Models
	var err error
	return func(t testing.TB) *Models {
		t.Helper()
		once.Do(func() { m, err = OpenModels("") })
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}()
