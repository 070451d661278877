// Package s3 keeps outputs in a bucket of S3, or of what speaks like it.
//
// It gives Store, an output.Central. An output is an object, <prefix>/<reference>, and the note of
// one that was removed another beside it. It promises that an object is there as a whole or not
// at all, and never more than a part of one in memory. It refuses to know AWS: all calls are awsapi's.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/output"
)

// Store is a bucket, or what is below a prefix of one. It is safe for concurrent use. Made by New.
type Store struct {
	aws            awsapi.Caller
	models         *awsapi.Models
	bucket, prefix string // prefix is empty or ends in /
}

var _ output.Central = (*Store)(nil)

var bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// New returns the store that s3://bucket/prefix names. It calls nobody.
func New(aws awsapi.Caller, models *awsapi.Models, address string) (*Store, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "s3" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !bucketForm.MatchString(u.Host) {
		return nil, errors.New("output store: want s3://bucket/prefix") // who puts a key there does not want to read it in a log
	}
	s := &Store{aws: aws, models: models, bucket: u.Host}
	if p := strings.Trim(path.Clean("/"+u.Path), "/"); p != "" {
		s.prefix = p + "/"
	}
	return s, nil
}

func (s *Store) String() string { return "s3://" + s.bucket + "/" + strings.TrimSuffix(s.prefix, "/") }

// Check finds out whether the bucket is there and may be looked at.
func (s *Store) Check(ctx context.Context) error {
	_, err := s.call(ctx, "ListObjectsV2", map[string]any{"Prefix": s.prefix, "MaxKeys": 1})
	return err
}

// call calls an operation of S3 about the bucket.
func (s *Store) call(ctx context.Context, operation string, input map[string]any) (map[string]any, error) {
	input["Bucket"] = s.bucket
	out, err := s.aws.Call(ctx, awsapi.Scope{}, "s3", operation, input)
	if err != nil {
		return nil, s.wrap(err)
	}
	return out, nil
}

func (s *Store) wrap(err error) error { return fmt.Errorf("output store %s: %w", s, err) }

func absent(err error) bool {
	var e *awsapi.Error
	return errors.As(err, &e) && e.Class == awsapi.NotFound && e.Code != "NoSuchBucket"
}

// small is what is sent in one request, and is in memory as a whole.
const small = 1 << 20

// Put implements output.Central.
func (s *Store) Put(ctx context.Context, ref string, from io.Reader, size int64) error {
	if err := output.Check(ref); err != nil {
		return err
	}
	from = output.Exactly(from, size)
	if size <= small {
		body, err := io.ReadAll(from)
		if err != nil {
			return s.wrap(err)
		}
		if _, err := s.call(ctx, "PutObject", map[string]any{"Key": s.prefix + ref, "Body": body}); err != nil {
			return err
		}
	} else if _, err := awsapi.Upload(ctx, s.aws, s.models, awsapi.Scope{}, map[string]any{"Bucket": s.bucket, "Key": s.prefix + ref}, from); err != nil {
		return s.wrap(err)
	}
	return s.Forget(ctx, ref)
}

// ReadAt implements output.Central.
func (s *Store) ReadAt(ctx context.Context, ref string, p []byte, offset int64) (int, error) {
	if err := output.Check(ref); err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, fmt.Errorf("output %s: read at %d", ref, offset)
	}
	if len(p) == 0 {
		return 0, nil
	}
	out, err := s.call(ctx, "GetObject", map[string]any{"Key": s.prefix + ref, "Range": fmt.Sprintf("bytes=%d-%d", offset, offset+int64(len(p))-1)})
	var e *awsapi.Error
	switch {
	case errors.As(err, &e) && (e.Code == "InvalidRange" || e.Status == 416):
		return 0, io.EOF
	case absent(err):
		return 0, s.none(ctx, ref)
	case err != nil:
		return 0, err
	}
	body, _ := out["Body"].([]byte)
	n := copy(p, body)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Size implements output.Central.
func (s *Store) Size(ctx context.Context, ref string) (int64, error) {
	if err := output.Check(ref); err != nil {
		return 0, err
	}
	out, err := s.call(ctx, "HeadObject", map[string]any{"Key": s.prefix + ref})
	if absent(err) {
		return 0, s.none(ctx, ref)
	}
	if err != nil {
		return 0, err
	}
	size, _ := out["ContentLength"].(int64)
	return size, nil
}

// none is the error about an output that is not there.
func (s *Store) none(ctx context.Context, ref string) error {
	out, err := s.call(ctx, "GetObject", map[string]any{"Key": s.prefix + output.NoteName(ref), "Range": fmt.Sprintf("bytes=0-%d", output.MaxNote-1)})
	if err != nil && !absent(err) {
		return err
	}
	note, _ := out["Body"].([]byte)
	return output.None(ref, string(note))
}

// List implements output.Shelf. It also takes parts away that a worker left behind which was killed while it uploaded.
func (s *Store) List(ctx context.Context, each func(output.Entry) error) error {
	s.sweep(ctx)
	for token := ""; ; {
		input := map[string]any{"Prefix": s.prefix}
		if token != "" {
			input["ContinuationToken"] = token
		}
		page, err := s.call(ctx, "ListObjectsV2", input)
		if err != nil {
			return err
		}
		objects, _ := page["Contents"].([]any)
		for _, o := range objects {
			object, _ := o.(map[string]any)
			key, _ := object["Key"].(string)
			e := output.Entry{Ref: strings.TrimPrefix(key, s.prefix)}
			if ref, ok := output.RefOfNote(e.Ref); ok {
				e.Ref, e.Note = ref, true
			}
			if output.Check(e.Ref) != nil {
				continue // somebody else's
			}
			e.Size, _ = object["Size"].(int64)
			e.At, _ = object["LastModified"].(time.Time)
			if err := each(e); err != nil {
				return err
			}
		}
		if token, _ = page["NextContinuationToken"].(string); token == "" {
			return nil
		}
	}
}

// leftAfter is how old an upload is that nobody goes on with.
const leftAfter = 24 * time.Hour

// sweep aborts uploads that were left behind: what they have costs money. What does not work, for lack of a
// permission, is left to a lifecycle rule of the bucket.
func (s *Store) sweep(ctx context.Context) {
	out, err := s.call(ctx, "ListMultipartUploads", map[string]any{"Prefix": s.prefix})
	if err != nil {
		return
	}
	uploads, _ := out["Uploads"].([]any)
	for _, u := range uploads {
		upload, _ := u.(map[string]any)
		begun, _ := upload["Initiated"].(time.Time)
		if key, _ := upload["Key"].(string); !begun.IsZero() && time.Since(begun) > leftAfter && output.Check(strings.TrimPrefix(key, s.prefix)) == nil {
			_, _ = s.call(ctx, "AbortMultipartUpload", map[string]any{"Key": key, "UploadId": upload["UploadId"]}) // the next pass tries again
		}
	}
}

// Expire implements output.Shelf.
func (s *Store) Expire(ctx context.Context, ref, note string) error {
	if err := output.Check(ref); err != nil {
		return err
	}
	if _, err := s.call(ctx, "PutObject", map[string]any{"Key": s.prefix + output.NoteName(ref), "Body": []byte(note)}); err != nil {
		return err
	}
	_, err := s.call(ctx, "DeleteObject", map[string]any{"Key": s.prefix + ref})
	return err
}

// Forget implements output.Shelf.
func (s *Store) Forget(ctx context.Context, ref string) error {
	if err := output.Check(ref); err != nil {
		return err
	}
	_, err := s.call(ctx, "DeleteObject", map[string]any{"Key": s.prefix + output.NoteName(ref)})
	return err
}
