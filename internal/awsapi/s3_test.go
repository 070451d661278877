package awsapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// S3 says where a bucket is, in a header or in the body; we go there, and go
// there at once from then on.
func TestRegionRedirects(t *testing.T) {
	tests := map[string]reply{
		"301 with header":   {status: 301, headers: map[string]string{"X-Amz-Bucket-Region": "eu-west-1"}, body: "<Error><Code>PermanentRedirect</Code><Message>m</Message></Error>"},
		"307 with body":     {status: 307, body: "<Error><Code>TemporaryRedirect</Code><Message>m</Message><Region>eu-west-1</Region></Error>"},
		"malformed":         {status: 400, body: "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong; expecting 'eu-west-1'</Message><Region>eu-west-1</Region></Error>"},
		"HEAD with header":  {status: 400, headers: map[string]string{"X-Amz-Bucket-Region": "eu-west-1"}},
		"IllegalConstraint": {status: 400, body: "<Error><Code>IllegalLocationConstraintException</Code><Message>m</Message><Region>eu-west-1</Region></Error>"},
	}
	for name, elsewhere := range tests {
		t.Run(name, func(t *testing.T) {
			srv := serveFunc(t, func(_ int, r received) reply {
				if strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/s3/") {
					return reply{status: 200, body: "<ListBucketResult><KeyCount>1</KeyCount></ListBucketResult>"}
				}
				return elsewhere
			})
			c := dial(t, Options{})
			operation := "ListObjectsV2"
			if strings.HasPrefix(name, "HEAD") {
				operation = "HeadBucket"
			}
			succeed(t, c, Scope{}, "s3", operation, map[string]any{"Bucket": "b"})
			succeed(t, c, Scope{}, "s3", operation, map[string]any{"Bucket": "b"})
			if n := len(srv.requests()); n != 3 {
				t.Errorf("%d requests, want 3: the second call goes there at once", n)
			}
		})
	}

	// One that leads nowhere is an error, not a circle.
	n := 0
	srv := serveFunc(t, func(int, received) reply {
		n++
		return reply{status: 301, headers: map[string]string{"X-Amz-Bucket-Region": fmt.Sprintf("eu-west-%d", n)}, body: "<Error><Code>PermanentRedirect</Code><Message>m</Message></Error>"}
	})
	if e := failure(t, dial(t, Options{}), Scope{}, "s3", "ListObjectsV2", map[string]any{"Bucket": "b"}); e.Code != "PermanentRedirect" || len(srv.requests()) != 2 {
		t.Errorf("%d requests, %#v", len(srv.requests()), e)
	}
}

// An error may stand in an answer of status 200.
func TestErrorInside200(t *testing.T) {
	tests := []struct {
		operation string
		input     map[string]any
	}{
		{"CopyObject", map[string]any{"Bucket": "b", "Key": "k", "CopySource": "a/k"}},
		{"CompleteMultipartUpload", map[string]any{"Bucket": "b", "Key": "k", "UploadId": "u"}},
	}
	for _, tt := range tests {
		srv := serve(t, reply{status: 200, body: "<?xml version=\"1.0\"?>\n   \n<Error><Code>InternalError</Code><Message>try again</Message></Error>"}, reply{status: 200, body: "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"})
		if e := failure(t, dial(t, Options{}), Scope{}, "s3", tt.operation, tt.input); e.Code != "AccessDenied" || e.Class != Denied {
			t.Errorf("%s: %#v", tt.operation, e)
		}
		if n := len(srv.requests()); n != 2 {
			t.Errorf("%s: %d requests, want 2", tt.operation, n)
		}
	}
}

func TestBucketLocation(t *testing.T) {
	for body, want := range map[string]map[string]any{
		`<?xml version="1.0"?><LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/">eu-west-1</LocationConstraint>`: {"LocationConstraint": "eu-west-1"},
		`<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>`:                                                   {},
	} {
		serve(t, reply{status: 200, body: body})
		if diff := cmp.Diff(want, succeed(t, dial(t, Options{}), Scope{}, "s3", "GetBucketLocation", map[string]any{"Bucket": "b"})); diff != "" {
			t.Error(diff)
		}
	}
}

// Without an endpoint of somebody's, the bucket stands in the host if it can.
func TestBucketPlaces(t *testing.T) {
	for bucket, want := range map[string]string{
		"bucket":   "https://bucket.s3.eu-central-1.amazonaws.com/k",
		"with.dot": "https://s3.eu-central-1.amazonaws.com/with.dot/k",
		"arn:aws:s3:us-east-1:123456789012:accesspoint:ap": "https://ap-123456789012.s3-accesspoint.us-east-1.amazonaws.com/k",
	} {
		c := client(t, Options{Region: "eu-central-1", HTTP: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.String() != want {
				t.Errorf("sent to %s, want %s", r.URL, want)
			}
			return respond(403, ""), nil
		})})
		failure(t, c, Scope{}, "s3", "GetObject", map[string]any{"Bucket": bucket, "Key": "k"})
	}
}

func TestChecksums(t *testing.T) {
	tests := []struct {
		operation    string
		input        map[string]any
		header, want string
	}{
		{"PutObject", map[string]any{"Body": "hello"}, "X-Amz-Checksum-Crc32", "NhCmhg=="},
		{"PutObject", map[string]any{"Body": "hello", "ChecksumAlgorithm": "CRC32C"}, "X-Amz-Checksum-Crc32c", "mnG7TA=="},
		{"PutObject", map[string]any{"Body": "123456789", "ChecksumAlgorithm": "CRC64NVME"}, "X-Amz-Checksum-Crc64nvme", "rosUhgp5mIg="},
		{"PutObject", map[string]any{"Body": "hello", "ChecksumAlgorithm": "SHA256"}, "X-Amz-Checksum-Sha256", "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="},
		{"PutObject", map[string]any{"Body": "hello", "ChecksumSHA1": "mine"}, "X-Amz-Checksum-Sha1", "mine"},
		{"PutBucketTagging", map[string]any{"Tagging": map[string]any{"TagSet": []any{}}}, "X-Amz-Checksum-Crc32", ""},
	}
	for _, tt := range tests {
		srv := serve(t, reply{status: 200})
		tt.input["Bucket"] = "b"
		if tt.operation == "PutObject" {
			tt.input["Key"] = "k"
		}
		succeed(t, dial(t, Options{}), Scope{}, "s3", tt.operation, tt.input)
		h := srv.requests()[0].Header
		if got := h.Get(tt.header); got != tt.want && (tt.want != "" || got == "") {
			t.Errorf("%s: %s is %q, want %q", tt.operation, tt.header, got, tt.want)
		}
		if tt.want == "mine" && h.Get("X-Amz-Checksum-Crc32") != "" {
			t.Error("a second checksum")
		}
	}
}

// bucket is a part of S3 that takes uploads.
type bucket struct {
	parts   map[string]string
	object  string
	aborted bool
	fail    string // the part that is refused
}

func (b *bucket) answer(_ int, r received) reply {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && q.Has("uploads"):
		if r.Header.Get("Content-Type") != "text/x" || r.Header.Get("X-Amz-Checksum-Algorithm") != "CRC32" {
			return reply{status: 400, body: "<Error><Code>NoType</Code></Error>"}
		}
		return reply{status: 200, body: "<InitiateMultipartUploadResult><UploadId>u-1</UploadId></InitiateMultipartUploadResult>"}
	case r.Method == http.MethodPut && q.Has("partNumber"):
		n := q.Get("partNumber")
		if r.Header.Get("Content-Md5") != "" || r.Header.Get("X-Amz-Checksum-Crc32") == "" {
			return reply{status: 400, body: "<Error><Code>WrongChecksum</Code></Error>"}
		}
		if n == b.fail {
			return reply{status: 403, body: "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"}
		}
		b.parts[n] = r.body
		return reply{status: 200, headers: map[string]string{"ETag": `"e` + n + `"`, "X-Amz-Checksum-Crc32": r.Header.Get("X-Amz-Checksum-Crc32")}}
	case r.Method == http.MethodPost && q.Get("uploadId") == "u-1":
		for n := 1; strings.Contains(r.body, fmt.Sprintf("<PartNumber>%d</PartNumber>", n)) && strings.Contains(r.body, fmt.Sprintf("<ETag>&#34;e%d&#34;</ETag>", n)); n++ {
			b.object += b.parts[fmt.Sprint(n)]
		}
		return reply{status: 200, body: "<CompleteMultipartUploadResult><ETag>done</ETag></CompleteMultipartUploadResult>"}
	case r.Method == http.MethodDelete && q.Get("uploadId") == "u-1":
		b.aborted = true
		return reply{status: 204}
	case r.Method == http.MethodPut:
		b.object = r.body
		return reply{status: 200, headers: map[string]string{"ETag": "done"}}
	}
	return reply{status: 400, body: "<Error><Code>Unexpected</Code></Error>"}
}

func TestUpload(t *testing.T) {
	input := map[string]any{"Bucket": "b", "Key": "k", "ContentType": "text/x"}
	for _, length := range []int{0, 10, partSize, partSize + 1, 3*partSize - 5} {
		b := &bucket{parts: map[string]string{}}
		srv := serveFunc(t, b.answer)
		c := dial(t, Options{})
		body := strings.Repeat("0123456789abcdef", length/16+1)[:length]
		got, err := Upload(t.Context(), c, c.Models(), Scope{}, input, iotest.HalfReader(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		if b.object != body || b.aborted || got["ETag"] != "done" {
			t.Errorf("%d bytes: stored %d in %d requests, %v", length, len(b.object), len(srv.requests()), got)
		}
	}
}

func TestUploadFails(t *testing.T) {
	input := map[string]any{"Bucket": "b", "Key": "k", "ContentType": "text/x"}
	b := &bucket{parts: map[string]string{}, fail: "2"}
	serveFunc(t, b.answer)
	c := dial(t, Options{})
	_, err := Upload(t.Context(), c, c.Models(), Scope{}, input, bytes.NewReader(make([]byte, 2*partSize)))
	var e *Error
	if !errors.As(err, &e) || e.Class != Denied || !b.aborted {
		t.Errorf("a part that is refused: aborted %v, %v", b.aborted, err)
	}

	b = &bucket{parts: map[string]string{}}
	serveFunc(t, b.answer)
	c = dial(t, Options{})
	lost := errors.New("lost")
	_, err = Upload(t.Context(), c, c.Models(), Scope{}, input, io.MultiReader(bytes.NewReader(make([]byte, partSize)), iotest.ErrReader(lost)))
	if !errors.Is(err, lost) || !b.aborted {
		t.Errorf("a reader that fails: aborted %v, %v", b.aborted, err)
	}
}
