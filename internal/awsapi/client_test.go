package awsapi

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

// clean removes what this machine knows of AWS from the environment, and sets
// credentials that are nobody's.
func clean(t testing.TB) {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": secret,
	} {
		t.Setenv(name, value)
	}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "AWS_ENDPOINT_URL") || slices.Contains([]string{"AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", ModelsVariable}, name) {
			t.Setenv(name, "") // so that it comes back
			os.Unsetenv(name)
		}
	}
}

func client(t testing.TB, o Options) *Client {
	t.Helper()
	clean(t)
	return dial(t, o)
}

func dial(t testing.TB, o Options) *Client {
	t.Helper()
	if o.Models == nil {
		o.Models = models(t)
	}
	c, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// received is a request as the server got it.
type received struct {
	*http.Request
	body string
}

func (r received) form() url.Values {
	v, err := url.ParseQuery(r.body)
	if err != nil {
		panic(err)
	}
	return v
}

// cloud answers requests in order of the list; it answers the last one for ever.
type cloud struct {
	*httptest.Server
	mu   sync.Mutex
	seen []received
}

type reply struct {
	status  int
	body    string
	headers map[string]string
	broken  bool // the connection ends in the middle of the body
}

// serve starts a server, checks the signature of each request, and points the
// environment at it.
func serve(t *testing.T, replies ...reply) *cloud {
	t.Helper()
	return serveFunc(t, func(n int, _ received) reply { return replies[min(n, len(replies)-1)] })
}

func serveFunc(t *testing.T, answer func(n int, r received) reply) *cloud {
	t.Helper()
	clean(t)
	c := &cloud{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got := received{r, string(body)}
		if problem := verify(got); problem != "" {
			t.Errorf("%s %s: %s", r.Method, r.RequestURI, problem)
		}
		c.mu.Lock()
		n := len(c.seen)
		c.seen = append(c.seen, got)
		c.mu.Unlock()
		a := answer(n, got)
		for name, v := range a.headers {
			w.Header().Set(name, v)
		}
		if a.broken {
			w.Header().Set("Content-Length", fmt.Sprint(len(a.body)+10))
		}
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, a.body)
		if a.broken {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(c.Close)
	t.Setenv("AWS_ENDPOINT_URL", c.URL)
	t.Setenv("AWS_REGION", "eu-central-1")
	return c
}

func (c *cloud) requests() []received {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.seen)
}

// verify computes the signature of what arrived, from AWS's description of
// Signature Version 4 and not with the SDK.
func verify(r received) string {
	auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return "is not signed"
	}
	parts := map[string]string{}
	for p := range strings.SplitSeq(auth, ", ") {
		k, v, _ := strings.Cut(p, "=")
		parts[k] = v
	}
	scope := strings.Split(parts["Credential"], "/")
	if len(scope) != 5 {
		return "credential " + parts["Credential"]
	}
	path, rawQuery, _ := strings.Cut(r.RequestURI, "?")
	if scope[3] != "s3" {
		var twice strings.Builder
		for _, c := range []byte(path) {
			if c == '/' || strings.IndexByte("-_.~", c) >= 0 || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
				twice.WriteByte(c)
			} else {
				fmt.Fprintf(&twice, "%%%02X", c)
			}
		}
		path = twice.String()
	}
	var query []string
	for pair := range strings.SplitSeq(rawQuery, "&") {
		if pair != "" && !strings.Contains(pair, "=") {
			pair += "="
		}
		query = append(query, strings.ReplaceAll(pair, "+", "%20"))
	}
	slices.Sort(query)
	var headers strings.Builder
	for name := range strings.SplitSeq(parts["SignedHeaders"], ";") {
		v := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			v = r.Host
		case "content-length":
			v = fmt.Sprint(r.ContentLength)
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.Join(strings.Fields(v), " "))
	}
	hash := func(s string) string { sum := sha256.Sum256([]byte(s)); return hex.EncodeToString(sum[:]) }
	sum := hash(r.body)
	if v := r.Header.Get("X-Amz-Content-Sha256"); v == unsignedPayload {
		sum = v
	}
	canonical := strings.Join([]string{r.Method, path, strings.Join(query, "&"), headers.String(), parts["SignedHeaders"], sum}, "\n")
	text := strings.Join([]string{"AWS4-HMAC-SHA256", r.Header.Get("X-Amz-Date"), strings.Join(scope[1:], "/"), hash(canonical)}, "\n")
	sign := func(key []byte, s string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(s))
		return h.Sum(nil)
	}
	key := []byte("AWS4" + secret)
	for _, s := range scope[1:] {
		key = sign(key, s)
	}
	if hex.EncodeToString(sign(key, text)) != parts["Signature"] {
		return "has a wrong signature; canonical:\n" + canonical
	}
	return ""
}

// failure calls, wants an error of AWS and returns it.
func failure(t *testing.T, c Caller, in Scope, service, operation string, input map[string]any) *Error {
	t.Helper()
	out, err := c.Call(t.Context(), in, service, operation, input)
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%s %s: %v, %v; want an *Error", service, operation, out, err)
	}
	if e.Service == "" || e.Operation == "" || e.Code == "" || e.Message == "" || e.Class == "" {
		t.Errorf("an error that does not say all: %#v", e)
	}
	return e
}

func succeed(t *testing.T, c Caller, in Scope, service, operation string, input map[string]any) map[string]any {
	t.Helper()
	out, err := c.Call(t.Context(), in, service, operation, input)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var launch = map[string]any{"ImageId": "ami-1", "MinCount": 1, "MaxCount": 1, "ClientToken": "token-1"}

// One call in each protocol, there and back.
func TestCall(t *testing.T) {
	tests := []struct {
		service, operation string
		input              map[string]any
		request            string // method, path with query, and body
		answer             string
		want               map[string]any
	}{
		{"ssm", "GetParameter", map[string]any{"Name": "/a b", "WithDecryption": true},
			`POST / {"Name":"/a b","WithDecryption":true}`,
			`{"Parameter":{"Name":"/a b","Version":3,"LastModifiedDate":1.5e9,"Unheard":1}}`,
			map[string]any{"Parameter": map[string]any{"Name": "/a b", "Version": int64(3), "LastModifiedDate": time.Unix(1500000000, 0).UTC()}}},
		{"ec2", "DescribeInstances", map[string]any{"InstanceIds": []any{"i-1", "i-2"}, "MaxResults": 5},
			`POST / Action=DescribeInstances&InstanceId.1=i-1&InstanceId.2=i-2&MaxResults=5&Version=2016-11-15`,
			`<DescribeInstancesResponse><requestId>r</requestId><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId><ebsOptimized>true</ebsOptimized></item></instancesSet></item></reservationSet></DescribeInstancesResponse>`,
			map[string]any{"Reservations": []any{map[string]any{"Instances": []any{map[string]any{"InstanceId": "i-1", "EbsOptimized": true}}}}}},
		{"sns", "Publish", map[string]any{"TopicArn": "t", "Message": "m", "MessageAttributes": map[string]any{"a": map[string]any{"DataType": "String", "StringValue": 5}}},
			`POST / Action=Publish&Message=m&MessageAttributes.entry.1.Name=a&MessageAttributes.entry.1.Value.DataType=String&MessageAttributes.entry.1.Value.StringValue=5&TopicArn=t&Version=2010-03-31`,
			`<PublishResponse><PublishResult><MessageId>m-1</MessageId></PublishResult></PublishResponse>`,
			map[string]any{"MessageId": "m-1"}},
		{"lambda", "ListFunctions", map[string]any{"MaxItems": "3"},
			`GET /2015-03-31/functions?MaxItems=3 `,
			`{"Functions":[{"FunctionName":"f","MemorySize":128}]}`,
			map[string]any{"Functions": []any{map[string]any{"FunctionName": "f", "MemorySize": int64(128)}}}},
		{"route53", "ChangeTagsForResource", map[string]any{"ResourceType": "hostedzone", "ResourceId": "Z1", "AddTags": []any{map[string]any{"Key": "k", "Value": "<v>"}}},
			`POST /2013-04-01/tags/hostedzone/Z1 <ChangeTagsForResourceRequest xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><AddTags><Tag><Key>k</Key><Value>&lt;v&gt;</Value></Tag></AddTags></ChangeTagsForResourceRequest>`,
			`<ChangeTagsForResourceResponse/>`, map[string]any{}},
		{"s3", "GetObject", map[string]any{"Bucket": "b", "Key": "dir/ü + 1"},
			`GET /b/dir/%C3%BC%20%2B%201 `, "\x00body", map[string]any{"Body": []byte("\x00body"), "ContentLength": int64(5), "ContentType": "application/octet-stream"}},
		{"stepfunctions", "StartExecution", map[string]any{"stateMachineArn": "arn:aws:states:eu-central-1:1:stateMachine:m"},
			`POST / {"stateMachineArn":"arn:aws:states:eu-central-1:1:stateMachine:m"}`, `{"executionArn":"e"}`, map[string]any{"executionArn": "e"}},
	}
	for _, tt := range tests {
		t.Run(tt.service, func(t *testing.T) {
			srv := serve(t, reply{status: 200, body: tt.answer})
			got := succeed(t, dial(t, Options{}), Scope{}, tt.service, tt.operation, tt.input)
			delete(got, "Metadata")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("answer: want -, got +\n%s", diff)
			}
			r := srv.requests()[0]
			if sent := r.Method + " " + r.RequestURI + " " + r.body; sent != tt.request {
				t.Errorf("sent %s\nwant %s", sent, tt.request)
			}
		})
	}
}

// What passes within seconds is tried again, with the same token.
func TestRetry(t *testing.T) {
	busy := reply{status: 503, body: "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>slow down</Message></Error></Errors><RequestID>r-9</RequestID></Response>"}
	internal := reply{status: 500, body: "<Response><Errors><Error><Code>InternalError</Code><Message>m</Message></Error></Errors></Response>"}
	launched := reply{status: 200, body: "<RunInstancesResponse><reservationId>r-1</reservationId></RunInstancesResponse>"}

	srv := serve(t, busy, internal, launched)
	if got := succeed(t, dial(t, Options{}), Scope{}, "ec2", "RunInstances", launch); got["ReservationId"] != "r-1" {
		t.Errorf("got %v", got)
	}
	for _, r := range srv.requests() {
		if token := r.form().Get("ClientToken"); token != "token-1" {
			t.Errorf("an attempt with the token %q", token)
		}
	}
	if n := len(srv.requests()); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}

	srv = serve(t, busy)
	if e := failure(t, dial(t, Options{}), Scope{}, "ec2", "RunInstances", launch); e.Class != Throttled || e.Code != "RequestLimitExceeded" || e.Message != "slow down" || e.Status != 503 {
		t.Errorf("%#v", e)
	}
	if n := len(srv.requests()); n != maxAttempts {
		t.Errorf("%d attempts, want %d", n, maxAttempts)
	}
}

// An effect without a token is not repeated where nobody knows whether it was
// done. Who calls finds out first.
func TestNoBlindRepetition(t *testing.T) {
	broken := reply{status: 200, body: `{"Command":{`, broken: true}
	internal := reply{status: 500, body: `{"__type":"InternalServerError","message":"m"}`}
	for _, a := range []reply{broken, internal} {
		srv := serve(t, a)
		c := dial(t, Options{})
		e := failure(t, c, Scope{}, "ssm", "SendCommand", map[string]any{"DocumentName": "d"})
		if e.Class != Unavailable || len(srv.requests()) != 1 {
			t.Errorf("SendCommand: %d requests, %#v", len(srv.requests()), e)
		}
		before := len(srv.requests())
		e = failure(t, c, Scope{}, "ssm", "DescribeParameters", nil)
		if n := len(srv.requests()) - before; e.Class != Unavailable || n != maxAttempts {
			t.Errorf("DescribeParameters: %d requests, %#v", n, e)
		}
	}

	// Nothing was sent to a server that is not there.
	srv := serve(t, internal)
	srv.Close()
	if e := failure(t, dial(t, Options{}), Scope{}, "ssm", "SendCommand", map[string]any{"DocumentName": "d"}); e.Class != Unavailable || e.Code != CodeConnection {
		t.Errorf("%#v", e)
	}
}

// Who answers proves who it is, by the system's authorities or AWS_CA_BUNDLE's.
func TestCertificates(t *testing.T) {
	clean(t)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(srv.Close)
	t.Setenv("AWS_ENDPOINT_URL", srv.URL)
	if e := failure(t, dial(t, Options{Region: "eu-central-1"}), Scope{}, "ssm", "DescribeParameters", nil); e.Class != Failed || !strings.Contains(e.Message, "certificate") {
		t.Errorf("%#v", e)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CA_BUNDLE", file)
	succeed(t, dial(t, Options{Region: "eu-central-1"}), Scope{}, "ssm", "DescribeParameters", nil)
}

func TestToken(t *testing.T) {
	c := client(t, Options{Region: "eu-central-1", HTTP: roundTrip(func(*http.Request) (*http.Response, error) {
		t.Error("a call without its token was sent")
		return nil, errors.New("no")
	})})
	for operation, input := range map[string]map[string]any{
		"RunInstances": {"MinCount": 1, "MaxCount": 1},
		"CreateVolume": {"AvailabilityZone": "a", "ClientToken": nil},
	} {
		if e := failure(t, c, Scope{}, "ec2", operation, input); e.Class != Invalid || e.Code != CodeToken || !strings.Contains(e.Message, "ClientToken") {
			t.Errorf("%#v", e)
		}
	}
}

func TestRefusals(t *testing.T) {
	c := client(t, Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		t.Errorf("sent to %s", r.URL)
		return nil, errors.New("no")
	})})
	here := Scope{Region: "eu-central-1"}
	tests := []struct {
		in                 Scope
		service, operation string
		input              map[string]any
		want               string
	}{
		{here, "ec3", "X", nil, `ec3 X: UnknownService: there is no AWS service "ec3"; did you mean "ec2"?`},
		{here, "eventbridge", "X", nil, `eventbridge X: UnknownService: there is no AWS service "eventbridge"; did you mean "events"?`},
		{here, "ec2", "RunInstance", nil, `ec2 RunInstance: UnknownOperation: AWS ec2 has no operation "RunInstance"; did you mean "RunInstances"?`},
		{here, "ec2", "StopInstances", map[string]any{"InstanceIds": "i-1"}, `ec2 StopInstances: ParamValidation: InstanceIds: needs a list, got "i-1"`},
		{here, "ec2", "StopInstances", map[string]any{"InstanceId": []any{}}, `ec2 StopInstances: ParamValidation: InstanceId: there is no such member; did you mean "InstanceIds"?`},
		{here, "ec2", "StopInstances", nil, `ec2 StopInstances: ParamValidation: InstanceIds: is required`},
		{here, "ssm", "PutParameter", map[string]any{"Name": "n", "Value": 1.1}, `ssm PutParameter: ParamValidation: Value: needs a string, got a number; quote it`},
		{here, "secretsmanager", "PutSecretValue", map[string]any{"SecretId": "s", "SecretString": 1.5, "ClientRequestToken": "t"}, `secretsmanager PutSecretValue: ParamValidation: SecretString: needs a string, got a number; quote it`},
		{here, "s3", "PutObject", map[string]any{"Bucket": "b", "Key": "k", "ContentType": "a\r\nX-Amz-Acl: public-read"}, `s3 PutObject: ParamValidation: header "Content-Type" would have a name or a value that HTTP does not allow`},
		{Scope{Region: "x.example/"}, "ec2", "DescribeInstances", nil, `ec2 DescribeInstances: ParamValidation: "x.example/" is no region`},
		{here, "s3", "GetObject", map[string]any{"Bucket": "b", "Key": ""}, `s3 GetObject: ParamValidation: Key: is required, and not empty`},
		{here, "sts", "GetCallerIdentity", map[string]any{"A": 1}, `sts GetCallerIdentity: ParamValidation: A: there is no such member; there are none`},
		{here, "logs", "StartLiveTail", map[string]any{"logGroupIdentifiers": []any{"g"}}, `logs StartLiveTail: EventStreamUnsupported: it answers or takes a stream of events (responseStream), which is not supported`},
		{Scope{}, "ec2", "DescribeInstances", nil, `ec2 DescribeInstances: NoEndpoint: no region is set: set AWS_REGION, or a region in the profile; a step may name one (aws: { region: … })`},
		{Scope{Region: "eu-central-1", Role: "r"}, "ec2", "DescribeInstances", nil, `ec2 DescribeInstances: ParamValidation: the role "r" is a name; give its ARN, or the account that it is in`},
	}
	for _, tt := range tests {
		e := failure(t, c, tt.in, tt.service, tt.operation, tt.input)
		if e.Error() != tt.want || e.Class != Invalid || e.Status != 0 {
			t.Errorf("got  %s (%s)\nwant %s", e, e.Class, tt.want)
		}
	}
}

func TestCredentials(t *testing.T) {
	serve(t, reply{status: 200})
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if e := failure(t, dial(t, Options{}), Scope{}, "ec2", "DescribeInstances", nil); e.Class != Denied || e.Code != CodeCredentials || !strings.Contains(e.Message, "AWS_PROFILE") {
		t.Errorf("without credentials: %#v", e)
	}

	serve(t, reply{status: 400, body: `{"__type":"ExpiredTokenException","message":"The security token included in the request is expired"}`})
	if e := failure(t, dial(t, Options{}), Scope{}, "ssm", "DescribeParameters", nil); e.Class != Denied || !strings.Contains(e.Message, "is expired; the credentials have expired: log in again") {
		t.Errorf("expired credentials: %#v", e)
	}
}

const (
	assumed  = `<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>` + secret + `</SecretAccessKey><SessionToken>session</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`
	identity = `<GetCallerIdentityResponse><GetCallerIdentityResult><Account>%s</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`
)

// A role is assumed once for many calls, and again when its session ends; the
// account is asked for once.
func TestRoleAndAccount(t *testing.T) {
	expires := time.Now().Add(time.Hour)
	srv := serveFunc(t, func(_ int, r received) reply {
		switch r.form().Get("Action") {
		case "AssumeRole":
			return reply{status: 200, body: fmt.Sprintf(assumed, expires.UTC().Format(time.RFC3339))}
		case "GetCallerIdentity":
			return reply{status: 200, body: fmt.Sprintf(identity, "123456789012")}
		}
		if r.Header.Get("X-Amz-Security-Token") != "session" {
			t.Error("called without the role's session")
		}
		return reply{status: 200, body: "<DescribeInstancesResponse/>"}
	})
	c := dial(t, Options{Session: "almanac-run-1"})
	in := Scope{Role: "deploy", Account: "123456789012"}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := c.Call(t.Context(), in, "ec2", "DescribeInstances", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	count := map[string]int{}
	for _, r := range srv.requests() {
		count[r.form().Get("Action")]++
		if r.form().Get("Action") == "AssumeRole" && (r.form().Get("RoleArn") != "arn:aws:iam::123456789012:role/deploy" || r.form().Get("RoleSessionName") != "almanac-run-1") {
			t.Errorf("assumed %v", r.form())
		}
	}
	if diff := cmp.Diff(map[string]int{"AssumeRole": 1, "GetCallerIdentity": 1, "DescribeInstances": 10}, count); diff != "" {
		t.Error(diff)
	}

	e := failure(t, c, Scope{Role: "arn:aws:iam::123456789012:role/deploy", Account: "210987654321"}, "ec2", "DescribeInstances", nil)
	if e.Class != Denied || e.Code != CodeAccount || !strings.Contains(e.Message, "123456789012") || !strings.Contains(e.Message, "210987654321") {
		t.Errorf("%#v", e)
	}
}

func TestRoleDenied(t *testing.T) {
	serve(t, reply{status: 403, body: `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not authorized to perform: sts:AssumeRole</Message></Error><RequestId>r</RequestId></ErrorResponse>`})
	e := failure(t, dial(t, Options{}), Scope{Role: "arn:aws:iam::1:role/r"}, "ec2", "DescribeInstances", nil)
	if e.Class != Denied || e.Code != "AccessDenied" || e.Operation != "AssumeRole" {
		t.Errorf("%#v", e)
	}
}

// Where a call goes: the environment, the profile and the rules.
func TestEndpointsOfEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	err := os.WriteFile(file, []byte(`
[default]
region = us-west-2
[profile local]
region = eu-west-3
services = mine
endpoint_url = http://all.example:1
[services mine]
ec2 =
  endpoint_url = http://ec2.example:2/base
[profile fips]
region = us-east-1
use_fips_endpoint = true
use_dualstack_endpoint = true
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		env     map[string]string
		in      Scope
		service string
		want    string
	}{
		{nil, Scope{}, "ec2", "https://ec2.us-west-2.amazonaws.com/"},
		{map[string]string{"AWS_REGION": "eu-central-1"}, Scope{}, "ec2", "https://ec2.eu-central-1.amazonaws.com/"},
		{map[string]string{"AWS_REGION": "eu-central-1"}, Scope{Region: "cn-north-1"}, "ec2", "https://ec2.cn-north-1.amazonaws.com.cn/"},
		{nil, Scope{}, "iam", "https://iam.amazonaws.com/"},
		{nil, Scope{}, "stepfunctions", "https://states.us-west-2.amazonaws.com/"},
		{map[string]string{"AWS_PROFILE": "local"}, Scope{}, "ec2", "http://ec2.example:2/base"},
		{map[string]string{"AWS_PROFILE": "local"}, Scope{}, "ssm", "http://all.example:1/"},
		{map[string]string{"AWS_PROFILE": "local", "AWS_ENDPOINT_URL_SSM": "http://ssm.example:3"}, Scope{}, "ssm", "http://ssm.example:3/"},
		{map[string]string{"AWS_ENDPOINT_URL": "http://env.example"}, Scope{}, "stepfunctions", "http://env.example/"},
		{map[string]string{"AWS_ENDPOINT_URL_SFN": "http://sfn.example"}, Scope{}, "stepfunctions", "http://sfn.example/"},
		{map[string]string{"AWS_ENDPOINT_URL": "http://env.example", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, Scope{}, "ec2", "https://ec2.us-west-2.amazonaws.com/"},
		{map[string]string{"AWS_PROFILE": "fips"}, Scope{}, "ec2", "https://ec2-fips.us-east-1.api.aws/"},
		{map[string]string{"AWS_USE_FIPS_ENDPOINT": "true"}, Scope{Region: "us-gov-west-1"}, "ssm", "https://ssm.us-gov-west-1.amazonaws.com/"},
		{map[string]string{"AWS_USE_DUALSTACK_ENDPOINT": "true"}, Scope{}, "ec2", "https://ec2.us-west-2.api.aws/"},
	}
	for _, tt := range tests {
		clean(t)
		t.Run(fmt.Sprint(tt.env, tt.service), func(t *testing.T) {
			t.Setenv("AWS_CONFIG_FILE", file)
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			c := dial(t, Options{HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
				if got := r.URL.String(); got != tt.want {
					t.Errorf("sent to %s, want %s", got, tt.want)
				}
				return respond(403, ""), nil
			})})
			operation := map[string]string{"ec2": "DescribeRegions", "iam": "ListRoles", "ssm": "DescribeParameters", "stepfunctions": "ListStateMachines"}[tt.service]
			failure(t, c, tt.in, tt.service, operation, nil)
		})
	}
}

// A host that the model wants, unless somebody set the endpoint.
func TestHostPrefix(t *testing.T) {
	var hosts []string
	c := client(t, Options{Region: "eu-central-1", HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		hosts = append(hosts, r.URL.Host)
		return respond(403, ""), nil
	})})
	failure(t, c, Scope{}, "s3control", "ListJobs", map[string]any{"AccountId": "123456789012"})
	failure(t, c, Scope{}, "servicediscovery", "DiscoverInstances", map[string]any{"NamespaceName": "n", "ServiceName": "s"})
	if e := failure(t, c, Scope{}, "s3control", "ListJobs", map[string]any{"AccountId": "a/b"}); e.Class != Invalid {
		t.Errorf("%#v", e)
	}
	want := []string{"123456789012.s3-control.eu-central-1.amazonaws.com", "data-servicediscovery.eu-central-1.amazonaws.com"}
	if diff := cmp.Diff(want, hosts); diff != "" {
		t.Error(diff)
	}
}

func TestAnswersOfErrors(t *testing.T) {
	tests := []struct {
		service, operation string
		input              map[string]any
		reply              reply
		code, message, id  string
		class              Class
	}{
		{"ec2", "DescribeInstances", nil,
			reply{status: 400, body: "<Response><Errors><Error><Code>InvalidInstanceID.NotFound</Code><Message>The instance ID 'i-1' does not exist</Message></Error></Errors><RequestID>q</RequestID></Response>"},
			"InvalidInstanceID.NotFound", "The instance ID 'i-1' does not exist", "", NotFound},
		{"iam", "GetRole", map[string]any{"RoleName": "r"},
			reply{status: 404, headers: map[string]string{"X-Amzn-RequestId": "q"}, body: "<ErrorResponse><Error><Type>Sender</Type><Code>NoSuchEntity</Code><Message>no role</Message></Error></ErrorResponse>"},
			"NoSuchEntity", "no role", "q", NotFound},
		{"sqs", "GetQueueUrl", map[string]any{"QueueName": "q"},
			reply{status: 400, headers: map[string]string{"X-Amzn-Query-Error": "AWS.SimpleQueueService.NonExistentQueue;Sender"}, body: `{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"no queue"}`},
			"AWS.SimpleQueueService.NonExistentQueue", "no queue", "", NotFound},
		{"lambda", "GetFunction", map[string]any{"FunctionName": "f"},
			reply{status: 404, headers: map[string]string{"X-Amzn-ErrorType": "ResourceNotFoundException:http://internal"}, body: `{"Message":"no function"}`},
			"ResourceNotFoundException", "no function", "", NotFound},
		{"s3", "HeadObject", map[string]any{"Bucket": "b", "Key": "k"}, reply{status: 404}, "NotFound", "HTTP status 404 Not Found without an error that AWS would send", "", NotFound},
		{"s3", "GetObject", map[string]any{"Bucket": "b", "Key": "k"},
			reply{status: 404, headers: map[string]string{"X-Amz-Request-Id": "q"}, body: `<Error><Code>NoSuchKey</Code><Message>no key</Message></Error>`}, "NoSuchKey", "no key", "q", NotFound},
		{"dynamodb", "GetItem", map[string]any{"TableName": "t", "Key": map[string]any{}},
			reply{status: 400, body: `{"__type":"com.amazonaws.dynamodb.v20120810#ResourceNotFoundException","message":"no table"}`}, "ResourceNotFoundException", "no table", "", NotFound},
		{"ssm", "GetParameter", map[string]any{"Name": "n"}, reply{status: 400, body: `{"__type":"ParameterNotFound"}`}, "ParameterNotFound", "Bad Request", "", NotFound},
		{"ssm", "GetParameter", map[string]any{"Name": "n"}, reply{status: 403, body: "<html>blocked by a proxy</html>"}, "Forbidden", "HTTP status 403 Forbidden without an error that AWS would send", "", Denied},
		{"ec2", "StartInstances", map[string]any{"InstanceIds": []any{"i"}},
			reply{status: 400, body: "<Response><Errors><Error><Code>IncorrectInstanceState</Code><Message>m</Message></Error></Errors></Response>"}, "IncorrectInstanceState", "m", "", Conflict},
	}
	for _, tt := range tests {
		t.Run(tt.service+" "+tt.code, func(t *testing.T) {
			serve(t, tt.reply)
			e := failure(t, dial(t, Options{}), Scope{}, tt.service, tt.operation, tt.input)
			want := &Error{Service: tt.service, Operation: tt.operation, Code: tt.code, Message: tt.message, Status: tt.reply.status, RequestID: tt.id, Class: tt.class}
			if diff := cmp.Diff(want, e); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestClasses(t *testing.T) {
	tests := map[Class]string{
		Throttled:   "Throttling ThrottlingException RequestLimitExceeded TooManyRequestsException SlowDown ProvisionedThroughputExceededException EC2ThrottledException PriorRequestNotComplete RequestThrottled",
		Denied:      "AccessDenied AccessDeniedException UnauthorizedOperation AuthFailure ExpiredToken ExpiredTokenException InvalidClientTokenId UnrecognizedClientException SignatureDoesNotMatch OptInRequired NotAuthorizedException UnauthorizedException InvalidAccessKeyId",
		NotFound:    "InvalidInstanceID.NotFound InvalidAMIID.NotFound InvalidAMIID.Unavailable NoSuchEntity NoSuchBucket ResourceNotFoundException ParameterNotFound InvocationDoesNotExist StackSetNotFoundException AWS.SimpleQueueService.NonExistentQueue NotFound DBInstanceNotFound LoadBalancerNotFound ImageNotFoundException ExecutionDoesNotExist",
		Conflict:    "InvalidAMIName.Duplicate InvalidGroup.Duplicate EntityAlreadyExists AlreadyExistsException ParameterAlreadyExists ResourceInUse ResourceInUseException VolumeInUse InvalidGroup.InUse IncorrectInstanceState IncorrectState InvalidInstanceId DependencyViolation DeleteConflict ConditionalCheckFailedException BucketAlreadyOwnedByYou BucketNotEmpty PreconditionFailed InvalidDBInstanceState KMSInvalidStateException IdempotentInstanceTerminated OperationNotPermitted ResourceConflictException ExecutionAlreadyExists",
		Invalid:     "ValidationError ValidationException InvalidParameterValue InvalidParameterCombination MalformedPolicyDocument MissingParameter InvalidAMIID.Malformed InvalidAction IdempotentParameterMismatch InvalidRequestException SerializationException UnknownParameter InvalidVolume.ZoneMismatch",
		Unavailable: "InternalError InternalFailure InternalServerError InternalServiceError ServiceUnavailable ServiceUnavailableException RequestTimeout InsufficientInstanceCapacity Unavailable",
		Failed:      "InstanceLimitExceeded VcpuLimitExceeded LimitExceeded ServiceQuotaExceededException AddressLimitExceeded TemplateErrors",
	}
	for class, codes := range tests {
		for code := range strings.FieldsSeq(codes) {
			if got := Classify(code, 0); got != class {
				t.Errorf("%s: %s, want %s", code, got, class)
			}
		}
	}
	for status, class := range map[int]Class{400: Invalid, 401: Denied, 403: Denied, 404: NotFound, 408: Unavailable, 409: Conflict, 412: Conflict, 429: Throttled, 500: Unavailable, 503: Unavailable, 301: Failed} {
		if got := Classify("Whatever", status); got != class {
			t.Errorf("%d: %s, want %s", status, got, class)
		}
	}
}

func TestBoundedAnswer(t *testing.T) {
	serve(t, reply{status: 200, body: strings.Repeat("x", 2000)})
	e := failure(t, dial(t, Options{MaxAnswer: 1000}), Scope{}, "s3", "GetObject", map[string]any{"Bucket": "b", "Key": "k"})
	if e.Code != CodeAnswer || e.Class != Failed || !strings.Contains(e.Message, "longer than 1000 bytes") {
		t.Errorf("%#v", e)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := client(t, Options{Region: "eu-central-1", HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		cancel()
		return nil, r.Context().Err()
	})})
	_, err := c.Call(ctx, Scope{}, "ec2", "DescribeInstances", nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// A clock that is wrong is corrected by AWS's.
func TestClockSkew(t *testing.T) {
	theirs := time.Now().Add(-time.Hour)
	srv := serveFunc(t, func(_ int, r received) reply {
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil {
			t.Error(err)
		}
		headers := map[string]string{"Date": theirs.UTC().Format(http.TimeFormat)}
		if at.Sub(theirs).Abs() > 5*time.Minute {
			return reply{status: 400, headers: headers, body: `{"__type":"InvalidSignatureException","message":"Signature expired"}`}
		}
		return reply{status: 200, headers: headers, body: "{}"}
	})
	c := dial(t, Options{})
	for range 2 {
		succeed(t, c, Scope{}, "ssm", "SendCommand", map[string]any{"DocumentName": "d"})
	}
	if n := len(srv.requests()); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

// A body that is read from a file is sent whole in every attempt.
func TestStreamIsRewound(t *testing.T) {
	srv := serve(t, reply{status: 500}, reply{status: 503}, reply{status: 200})
	body := strings.Repeat("0123456789", 10_000)
	succeed(t, dial(t, Options{}), Scope{}, "s3", "PutObject", map[string]any{"Bucket": "b", "Key": "k", "Body": io.ReadSeeker(bytes.NewReader([]byte(body))), "ContentType": "text/x"})
	if n := len(srv.requests()); n != 3 {
		t.Fatalf("%d requests", n)
	}
	for _, r := range srv.requests() {
		if r.body != body || r.ContentLength != int64(len(body)) || r.Header.Get("Content-Type") != "text/x" || r.Header.Get("X-Amz-Checksum-Crc32") == "" {
			t.Errorf("%d bytes of %d, %v", len(r.body), len(body), r.Header)
		}
	}
}

// A user's models come before ours.
func TestNewerModels(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "sqs", "2012-11-05")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	err := os.WriteFile(filepath.Join(at, "service-2.json"), []byte(`{
		"metadata": {"apiVersion": "2012-11-05", "endpointPrefix": "sqs", "jsonVersion": "1.0", "protocol": "json", "serviceId": "SQS", "targetPrefix": "AmazonSQS", "signatureVersion": "v4"},
		"operations": {"Brandish": {"name": "Brandish", "http": {"method": "POST", "requestUri": "/"}, "input": {"shape": "In"}}},
		"shapes": {"In": {"type": "structure", "members": {"Sword": {"shape": "Text"}}}, "Text": {"type": "string"}}
	}`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	srv := serve(t, reply{status: 200, body: "{}"})
	t.Setenv(ModelsVariable, dir)
	m, err := OpenModels("")
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, Options{Models: m})
	succeed(t, c, Scope{}, "sqs", "Brandish", map[string]any{"Sword": "s"}) // with our endpoint rules
	if r := srv.requests()[0]; r.body != `{"Sword":"s"}` || r.Header.Get("X-Amz-Target") != "AmazonSQS.Brandish" {
		t.Errorf("%s %v", r.body, r.Header)
	}
	if _, err := m.Operations("ec2"); err != nil {
		t.Error(err)
	}
	if _, err := OpenModels(t.TempDir()); err == nil {
		t.Error("a directory without models is taken")
	}
	if err := os.WriteFile(filepath.Join(at, "service-2.json"), []byte(`{"metadata":{"protocol":"json"},"operations":{"A":{"input":{"shape":"Nowhere"}}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err = OpenModels(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Operations("sqs"); err == nil || !strings.Contains(err.Error(), `there is no shape "Nowhere"`) {
		t.Errorf("a model with a hole: %v", err)
	}
}

// Some operations are not signed, or their bodies are not.
func TestSignatures(t *testing.T) {
	tests := []struct {
		service, operation string
		input              map[string]any
		signed             bool
		sum                string
	}{
		{"sso", "GetRoleCredentials", map[string]any{"roleName": "r", "accountId": "1", "accessToken": "t"}, false, ""},
		{"cognito-identity", "GetId", map[string]any{"IdentityPoolId": "p"}, false, ""},
		{"mediastore-data", "PutObject", map[string]any{"Path": "a/b", "Body": "text"}, true, unsignedPayload},
		{"lambda", "Invoke", map[string]any{"FunctionName": "f", "Payload": "{}"}, true, ""},
	}
	for _, tt := range tests {
		var body string
		c := client(t, Options{Region: "eu-central-1", HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			text, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			body = string(text)
			if signed := r.Header.Get("Authorization") != ""; signed != tt.signed {
				t.Errorf("%s %s: signed %v", tt.service, tt.operation, signed)
			}
			if sum := r.Header.Get("X-Amz-Content-Sha256"); sum != tt.sum {
				t.Errorf("%s %s: sum %q, want %q", tt.service, tt.operation, sum, tt.sum)
			}
			return respond(403, ""), nil
		})})
		failure(t, c, Scope{}, tt.service, tt.operation, tt.input)
		if tt.input["Body"] != nil && body != tt.input["Body"] {
			t.Errorf("%s %s: the body is %q", tt.service, tt.operation, body)
		}
	}
}

// What models do not say.
func TestCustoms(t *testing.T) {
	srv := serve(t, reply{status: 200, body: "{}"})
	c := dial(t, Options{})
	succeed(t, c, Scope{}, "apigateway", "GetRestApis", nil)
	if got := srv.requests()[0].Header.Get("Accept"); got != "application/json" {
		t.Errorf("apigateway: Accept %q", got)
	}

	srv = serve(t, reply{status: 200, body: "<GetHostedZoneResponse/>"})
	succeed(t, dial(t, Options{}), Scope{}, "route53", "GetHostedZone", map[string]any{"Id": "/hostedzone/Z1"})
	if got := srv.requests()[0].RequestURI; got != "/2013-04-01/hostedzone/Z1" {
		t.Errorf("route53: %s", got)
	}
}

// Some services say themselves where calls go. They are asked once.
func TestDiscovery(t *testing.T) {
	var hosts []string
	answer := `{"Endpoints":[{"Address":"cell-2.timestream.eu-west-1.amazonaws.com","CachePeriodInMinutes":60}]}`
	c := client(t, Options{Region: "eu-west-1", HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
		hosts = append(hosts, r.Host+" "+r.Header.Get("X-Amz-Target"))
		body := "{}"
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".DescribeEndpoints") {
			body = answer
		}
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	})})
	succeed(t, c, Scope{}, "timestream-write", "ListDatabases", nil)
	succeed(t, c, Scope{}, "timestream-write", "ListDatabases", nil)
	want := []string{
		"ingest.timestream.eu-west-1.amazonaws.com Timestream_20181101.DescribeEndpoints",
		"cell-2.timestream.eu-west-1.amazonaws.com Timestream_20181101.ListDatabases",
		"cell-2.timestream.eu-west-1.amazonaws.com Timestream_20181101.ListDatabases",
	}
	if !slices.Equal(hosts, want) {
		t.Errorf("requests to %q, want %q", hosts, want)
	}
	for _, hostile := range []string{`{}`, `{"Endpoints":[{"Address":"evil.test/x?","CachePeriodInMinutes":1}]}`, `{"Endpoints":[{"Address":"user@evil.test","CachePeriodInMinutes":1}]}`} {
		answer = hostile
		if e := failure(t, c, Scope{Region: "us-east-1"}, "timestream-write", "ListDatabases", nil); e.Code != CodeAnswer {
			t.Errorf("%s: %#v", hostile, e)
		}
	}

	srv := serve(t, reply{status: 200, body: "{}"})
	succeed(t, dial(t, Options{}), Scope{}, "timestream-write", "ListDatabases", nil)
	if n := len(srv.requests()); n != 1 {
		t.Errorf("%d requests to an endpoint of one's own, want 1", n)
	}
}

// Where one key is for several regions, the signature is another.
func TestSignatureOfSeveralRegions(t *testing.T) {
	for _, tt := range []struct {
		service, operation string
		input              map[string]any
		host, signs        string
	}{
		{"s3", "GetObject", map[string]any{"Bucket": "arn:aws:s3::123456789012:accesspoint/a.mrap", "Key": "k"}, "a.mrap.accesspoint.s3-global.amazonaws.com", "/s3/aws4_request"},
		{"cloudfront-keyvaluestore", "ListKeys", map[string]any{"KvsARN": "arn:aws:cloudfront::123456789012:key-value-store/x"}, "123456789012.cloudfront-kvs.global.api.aws", "/cloudfront-keyvaluestore/aws4_request"},
	} {
		var got *http.Request
		c := client(t, Options{Region: "eu-west-1", HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			got = r
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, nil
		})})
		succeed(t, c, Scope{}, tt.service, tt.operation, tt.input)
		auth := got.Header.Get("Authorization")
		if got.Host != tt.host || got.Header.Get("X-Amz-Region-Set") != "*" || !strings.HasPrefix(auth, "AWS4-ECDSA-P256-SHA256 Credential=AKIDEXAMPLE/") || !strings.Contains(auth, tt.signs) {
			t.Errorf("%s %s: to %s, signed %q for %q", tt.service, tt.operation, got.Host, auth, got.Header.Get("X-Amz-Region-Set"))
		}
	}
}

// A copy between regions carries a signed request to the source.
func TestCopyBetweenRegions(t *testing.T) {
	tests := []struct {
		service, operation, member string
		input                      map[string]any
	}{
		{"ec2", "CopySnapshot", "PresignedUrl", map[string]any{"SourceRegion": "us-east-1", "SourceSnapshotId": "snap-1", "Description": "a b"}},
		{"rds", "CopyDBSnapshot", "PreSignedUrl", map[string]any{"SourceRegion": "us-east-1", "SourceDBSnapshotIdentifier": "s", "TargetDBSnapshotIdentifier": "t"}},
	}
	for _, tt := range tests {
		var form url.Values
		c := client(t, Options{Region: "eu-central-1", HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			if form, err = url.ParseQuery(string(body)); err != nil {
				t.Error(err)
			}
			return respond(403, ""), nil
		})})
		failure(t, c, Scope{}, tt.service, tt.operation, tt.input)
		u, err := url.Parse(form.Get(strings.ToUpper(tt.member[:1]) + tt.member[1:]))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if u.Host != tt.service+".us-east-1.amazonaws.com" || q.Get("Action") != tt.operation || q.Get("SourceRegion") != "us-east-1" || q.Get("DestinationRegion") != "eu-central-1" || q.Get("X-Amz-Signature") == "" || !strings.Contains(q.Get("X-Amz-Credential"), "/us-east-1/"+tt.service) {
			t.Errorf("%s: %s", tt.service, u)
		}
		if tt.service == "rds" && form.Has("SourceRegion") {
			t.Error("rds: SourceRegion was sent")
		}
	}
}

func BenchmarkCall(b *testing.B) {
	var body strings.Builder
	for i := range 50 {
		fmt.Fprintf(&body, "<item><instancesSet><item><instanceId>i-%d</instanceId><instanceType>t3.micro</instanceType><launchTime>2026-01-01T00:00:00Z</launchTime><tagSet><item><key>a</key><value>b</value></item></tagSet></item></instancesSet></item>", i)
	}
	tests := []struct {
		name, service, operation string
		input                    map[string]any
		answer                   string
	}{
		{"json", "ssm", "GetParameter", map[string]any{"Name": "n"}, `{"Parameter":{"Name":"n","Value":"v","Version":1}}`},
		{"ec2", "ec2", "DescribeInstances", nil, "<DescribeInstancesResponse><reservationSet>" + body.String() + "</reservationSet></DescribeInstancesResponse>"},
	}
	for _, tt := range tests {
		b.Run(tt.name, func(b *testing.B) {
			c := client(b, Options{Region: "eu-central-1", HTTP: roundTrip(func(*http.Request) (*http.Response, error) { return respond(200, tt.answer), nil })})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Call(b.Context(), Scope{}, tt.service, tt.operation, tt.input); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	m := models(b)
	for b.Loop() {
		if p := m.Check("ec2", "RunInstances", launch); len(p) > 0 {
			b.Fatal(p)
		}
	}
}

// BenchmarkFirst is the first call of a process: to open the bundle, read EC2's
// model, compile one operation and sign.
func BenchmarkFirst(b *testing.B) {
	clean(b)
	for b.Loop() {
		m, err := OpenModels("")
		if err != nil {
			b.Fatal(err)
		}
		c := dial(b, Options{Models: m, Region: "eu-central-1", HTTP: roundTrip(func(*http.Request) (*http.Response, error) {
			return respond(200, "<RunInstancesResponse/>"), nil
		})})
		if _, err := c.Call(b.Context(), Scope{}, "ec2", "RunInstances", launch); err != nil {
			b.Fatal(err)
		}
	}
}
