package http

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/httpcall"
)

// RequestInput is the input of http.request.
type RequestInput struct {
	Method       string                   `json:"method,omitempty" jsonschema:"HTTP method" enum:"GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS" default:"GET"`
	URL          string                   `json:"url" jsonschema:"http:// or https:// URL"`
	Query        map[string]string        `json:"query,omitempty" jsonschema:"query parameters, added to those of the URL and encoded"`
	Headers      map[string]action.Secret `json:"headers,omitempty" jsonschema:"request headers"`
	Username     string                   `json:"username,omitempty" jsonschema:"user for basic authentication"`
	Password     action.Secret            `json:"password,omitzero" jsonschema:"password for basic authentication"`
	Body         json.RawMessage          `json:"body,omitempty" jsonschema:"request body: text is sent as it is, anything else as JSON"`
	Timeout      action.Duration          `json:"timeout,omitempty" jsonschema:"how long the whole call may take, at most 10m" default:"30s"`
	ExpectStatus []int                    `json:"expect_status,omitempty" jsonschema:"the statuses that are no error" default:"200 to 299"`
	MaxBytes     int                      `json:"max_bytes,omitempty" jsonschema:"how much of the answer's body to read, at most 1048576" default:"65536"`
	Redirects    *int                     `json:"redirects,omitempty" jsonschema:"how many redirects of a GET or HEAD to follow, at most 20" default:"5"`
	CAFile       string                   `json:"ca_file,omitempty" jsonschema:"PEM file on the worker: certificates to trust besides the system's"`
}

// RequestOutput is the output of http.request.
type RequestOutput struct {
	Status    int               `json:"status" jsonschema:"HTTP status"`
	Headers   map[string]string `json:"headers" jsonschema:"answer headers by lower-case name, without set-cookie"`
	Body      string            `json:"body" jsonschema:"answer body as text"`
	JSON      json.RawMessage   `json:"json,omitempty" jsonschema:"answer body as data, if it is a JSON object or list"`
	Truncated bool              `json:"truncated" jsonschema:"the body was longer than max_bytes"`
	Duration  action.Duration   `json:"duration" jsonschema:"how long the call took"`
}

const (
	defaultTimeout   = 30 * time.Second
	maxTimeout       = 10 * time.Minute
	defaultBytes     = 64 << 10
	maxBytes         = 1 << 20
	defaultRedirects = 5
	maxRedirects     = 20

	// outputBytes bounds the output as JSON, where a byte of a body may become six:
	// package activities takes no more than 1 MiB, for the sake of history.
	outputBytes = 1000 << 10
)

func request(client *httpcall.Client) action.Action {
	return action.New(action.Def[RequestInput, RequestOutput]{
		Name:    "http.request",
		Summary: "Call a web server",
		Details: `
The call is made by the worker, from the worker's network. Redirects are followed for GET and HEAD only, and once a
redirect leaves the URL's origin (scheme, host and port) no header of yours goes along. A POST, PUT, PATCH or DELETE
carries an ` + "`Idempotency-Key`" + ` header, the same for every attempt of the step, unless ` + "`headers`" + ` has one.

| answer | kind of the error |
| --- | --- |
| 429 | throttled |
| 5xx, 408, no connection, no answer in time | unavailable |
| 401, 403, 407 | denied |
| 404, 410 | not_found |
| 409, 412, 423 | conflict |
| other 4xx | invalid |
| any other that ` + "`expect_status`" + ` does not list, a certificate that is not trusted, too many redirects | failed |
`,
		Example: `id: healthy
name: Wait until the service answers
action: http.request
with:
  url: https://status.example.com/health
  query: { probe: deep }
  expect_status: [200, 503]
until: result.status == 200
every: 5s
timeout: 5m`,
		Timeout: maxTimeout + time.Minute,
		Do: func(ctx context.Context, in RequestInput) (RequestOutput, error) {
			r, err := in.call()
			if err != nil {
				return RequestOutput{}, err
			}
			resp, err := client.Do(ctx, r)
			if err != nil {
				return RequestOutput{}, err
			}
			return output(resp), nil
		},
	})
}

// call checks the input and fills in what it leaves out.
func (in RequestInput) call() (httpcall.Request, error) {
	r := httpcall.Request{
		Method: "GET", URL: in.URL, Headers: in.Headers, Username: in.Username, Password: in.Password,
		CAFile: in.CAFile, Expect: in.ExpectStatus,
		Timeout: defaultTimeout, MaxBytes: defaultBytes, Redirects: defaultRedirects,
	}
	if in.Method != "" {
		r.Method = in.Method
	}
	if in.Timeout != 0 {
		r.Timeout = time.Duration(in.Timeout)
	}
	if in.MaxBytes != 0 {
		r.MaxBytes = int64(in.MaxBytes)
	}
	if in.Redirects != nil {
		r.Redirects = *in.Redirects
	}
	switch {
	case r.Timeout < 0 || r.Timeout > maxTimeout:
		return r, action.Errorf(action.Invalid, "timeout is %s; it may be up to %s", r.Timeout, maxTimeout)
	case r.MaxBytes < 0 || r.MaxBytes > maxBytes:
		return r, action.Errorf(action.Invalid, "max_bytes is %d; it may be up to %d", r.MaxBytes, maxBytes)
	case r.Redirects < 0 || r.Redirects > maxRedirects:
		return r, action.Errorf(action.Invalid, "redirects is %d; it may be 0 to %d", r.Redirects, maxRedirects)
	case in.Username == "" && !in.Password.IsZero():
		return r, action.Errorf(action.Invalid, "there is a password but no username")
	}
	if len(in.Query) > 0 {
		u, err := withQuery(in.URL, in.Query)
		if err != nil {
			return r, err
		}
		r.URL = u
	}
	if len(in.Body) > 0 && string(in.Body) != "null" {
		if r.Method == "GET" || r.Method == "HEAD" {
			return r, action.Errorf(action.Invalid, "a %s has no body; set method", r.Method)
		}
		var text string
		if json.Unmarshal(in.Body, &text) == nil {
			r.Body, r.ContentType = []byte(text), "text/plain; charset=utf-8"
		} else {
			r.Body, r.ContentType = in.Body, "application/json"
		}
	}
	return r, nil
}

// withQuery adds parameters to a URL's own, whose order and spelling stay.
func withQuery(text string, query map[string]string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", action.Errorf(action.Invalid, "the URL cannot be read; it should be like https://host/path")
	}
	more := url.Values{}
	for k, v := range query {
		more.Set(k, v)
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += more.Encode()
	return u.String(), nil
}

func output(r httpcall.Response) RequestOutput {
	out := RequestOutput{
		Status: r.Status, Headers: r.Headers, Body: r.Body,
		Truncated: r.Truncated, Duration: action.Duration(r.Duration.Round(time.Millisecond)),
	}
	if text := strings.TrimSpace(r.Body); text != "" && (text[0] == '{' || text[0] == '[') && !r.Truncated {
		var b bytes.Buffer
		if json.Compact(&b, []byte(text)) == nil {
			out.JSON = b.Bytes()
		}
	}
	if jsonSize(out) > outputBytes {
		out.JSON, out.Truncated = nil, true
		for jsonSize(out) > outputBytes {
			out.Body = strings.ToValidUTF8(out.Body[:len(out.Body)/2], "")
		}
	}
	return out
}

func jsonSize(out RequestOutput) int {
	b, err := json.Marshal(out)
	if err != nil {
		return 0
	}
	return len(b)
}
