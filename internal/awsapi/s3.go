package awsapi

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"
)

// rootElement is the name of the outermost element of an XML text, or "".
func rootElement(text []byte) string {
	dec := xml.NewDecoder(bytes.NewReader(text))
	for {
		tok, err := dec.Token()
		if err != nil {
			return ""
		}
		if start, ok := tok.(xml.StartElement); ok {
			return start.Name.Local
		}
	}
}

// bucketLocation reads GetBucketLocation's answer, whose root element is not the
// structure of the model but its only member. us-east-1 is an empty one.
func bucketLocation(text []byte) string {
	var location string
	if rootElement(text) != "LocationConstraint" || xml.Unmarshal(text, &location) != nil {
		return ""
	}
	return strings.TrimSpace(location)
}

// redirect returns the region where S3 says the bucket is, if it is another. It
// is kept for the calls to come.
func (c *Client) redirect(k *call, failed *attemptError) string {
	a, ok := failed.cause.(*answered)
	if !ok || k.bucket == "" {
		return ""
	}
	switch {
	case failed.answer.Status == http.StatusMovedPermanently, failed.answer.Status == http.StatusTemporaryRedirect:
	case failed.answer.Code == "PermanentRedirect", failed.answer.Code == "AuthorizationHeaderMalformed", failed.answer.Code == "IllegalLocationConstraintException":
	case failed.answer.Status == http.StatusBadRequest && k.op.HTTP.Method == http.MethodHead:
	default:
		return ""
	}
	region := a.header.Get("X-Amz-Bucket-Region")
	if region == "" {
		var body struct{ Region string }
		if xml.Unmarshal(a.body, &body) == nil {
			region = body.Region
		}
	}
	if region == k.region || !hostLabel.MatchString(region) {
		return ""
	}
	c.buckets.Store(k.bucket, region)
	return region
}

const (
	partSize = 8 << 20
	// S3 takes 10,000 parts; the size doubles every 2,000, so that they suffice
	// for 496 GiB of which nobody knows the length beforehand.
	partsOfSize = 2000
	maxParts    = 10_000
)

// Upload puts an object of any length: in one call if it is at most one part,
// or else in parts, which are taken away again if it fails. input holds members
// of PutObject other than Body; from reads the body, once, and an attempt that
// fails sends a part again from memory. The answer is that of PutObject or
// CompleteMultipartUpload.
func Upload(ctx context.Context, c Caller, m *Models, in Scope, input map[string]any, from io.Reader) (map[string]any, error) {
	first := make([]byte, partSize)
	n, err := io.ReadFull(from, first)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		put := membersOf(m, "PutObject", input)
		put["Body"] = first[:n]
		return c.Call(ctx, in, "s3", "PutObject", put)
	case err != nil:
		return nil, fmt.Errorf("reading what to upload: %w", err)
	}

	input = maps.Clone(input)
	for _, name := range []string{"ContentMD5", "ContentLength", "ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA1", "ChecksumSHA256"} {
		delete(input, name) // they are the whole's, not a part's
	}
	if input["ChecksumAlgorithm"] == nil {
		input["ChecksumAlgorithm"] = "CRC32" // what parts have must be said before the first
	}
	begun, err := c.Call(ctx, in, "s3", "CreateMultipartUpload", membersOf(m, "CreateMultipartUpload", input))
	if err != nil {
		return nil, err
	}
	input = membersOf(m, "PutObject", input)
	input["UploadId"] = begun["UploadId"]
	out, err := parts(ctx, c, m, in, input, first, from)
	if err != nil {
		// The parts cost money until they are gone, also after a cancellation.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if _, gone := c.Call(ctx, in, "s3", "AbortMultipartUpload", membersOf(m, "AbortMultipartUpload", input)); gone != nil {
			err = errors.Join(err, fmt.Errorf("taking the parts away again: %w", gone))
		}
		return nil, err
	}
	return out, nil
}

func parts(ctx context.Context, c Caller, m *Models, in Scope, input map[string]any, part []byte, from io.Reader) (map[string]any, error) {
	var done []any
	for n := int64(1); len(part) > 0; n++ {
		if n > maxParts {
			return nil, &Error{Service: "s3", Operation: "UploadPart", Code: CodeParameters, Class: Invalid, Message: fmt.Sprintf("it is too long for %d parts", maxParts)}
		}
		up := membersOf(m, "UploadPart", input)
		up["PartNumber"], up["Body"] = n, part
		got, err := c.Call(ctx, in, "s3", "UploadPart", up)
		if err != nil {
			return nil, err
		}
		one := map[string]any{"PartNumber": n, "ETag": got["ETag"]}
		for name, v := range got {
			if strings.HasPrefix(name, "Checksum") && name != "ChecksumType" {
				one[name] = v
			}
		}
		done = append(done, one)

		size := partSize << (n / partsOfSize)
		if len(part) < cap(part) { // the last one, since only that is short
			break
		}
		if cap(part) != size {
			part = make([]byte, size)
		}
		read, err := io.ReadFull(from, part[:size])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("reading what to upload: %w", err)
		}
		part = part[:read]
	}
	complete := membersOf(m, "CompleteMultipartUpload", input)
	complete["MultipartUpload"] = map[string]any{"Parts": done}
	return c.Call(ctx, in, "s3", "CompleteMultipartUpload", complete)
}

// membersOf leaves of input what an operation of S3 has as a member.
func membersOf(m *Models, operation string, input map[string]any) map[string]any {
	out := map[string]any{}
	s, op, err := m.lookup("s3", operation)
	for name, v := range input {
		// What no operation knows stays: the first call says so.
		if err != nil || s.Shapes[op.Input.Shape].Members[name] != nil || operation == "PutObject" {
			out[name] = v
		}
	}
	return out
}
