package aws

import (
	"context"
	"crypto/md5" // what S3 calls an ETag; nothing depends on its strength
	"encoding/hex"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type putObjectInput struct {
	Scope
	Bucket      string        `json:"bucket" jsonschema:"bucket to write to"`
	Key         string        `json:"key" jsonschema:"key of the object"`
	Body        action.Secret `json:"body" jsonschema:"what it is to hold, as text"`
	ContentType string        `json:"content_type,omitempty" jsonschema:"its media type" default:"text/plain; charset=utf-8"`
	KMSKeyID    string        `json:"kms_key_id,omitempty" jsonschema:"KMS key to encrypt it with" default:"as the bucket says"`
	Overwrite   bool          `json:"overwrite,omitempty" jsonschema:"write over an object that holds something else; else it is an error of kind conflict" default:"false"`
}

type putObjectOutput struct {
	ETag      string `json:"etag" jsonschema:"the object's ETag"`
	VersionID string `json:"version_id,omitempty" jsonschema:"its version, in a bucket with versioning"`
	Changed   bool   `json:"changed" jsonschema:"false if it held that already"`
}

func putObject(env Env) action.Action {
	return action.New(action.Def[putObjectInput, putObjectOutput]{
		Name:    "aws.s3.put_object",
		Summary: "Write an object of S3",
		Details: `
The object is made only if there is none of that key; the step's token stands in its metadata, by which a later attempt recognises it. With ` + "`overwrite: true`" + ` an object is written over
only as it was seen a moment before.

Rollback deletes the object that the step has made. In a bucket with versioning that brings back what was written over; in one without, what was written over is gone:
rollback then fails with kind conflict. An object that somebody else has written since is left.
`,
		Example: `action: aws.s3.put_object
with: { bucket: reports, key: "patch/${{ execution.id }}.txt", body: "all nodes are patched" }`,
		Timeout: 10 * time.Minute,
		Do: func(ctx context.Context, in putObjectInput) (putObjectOutput, error) {
			body, err := in.Body.Reveal(ctx)
			if err != nil {
				return putObjectOutput{}, err
			}
			return env.in(ctx, in.Scope).putObject(ctx, in, body)
		},
		Compensate: func(ctx context.Context, in putObjectInput, out *putObjectOutput) error {
			if out != nil && !out.Changed {
				return nil
			}
			return env.in(ctx, in.Scope).putObjectBack(ctx, in)
		},
	})
}

// Metadata of objects that a step has written.
const (
	metaToken = "almanac-token"
	metaOver  = "almanac-wrote-over" // "yes" if there was another object before
)

func (c client) putObject(ctx context.Context, in putObjectInput, body string) (putObjectOutput, error) {
	metadata := map[string]any{}
	for name, v := range c.asAttributes() {
		metadata[name] = tagValue(v)
	}
	at := members{"Bucket": in.Bucket, "Key": in.Key}
	kind := in.ContentType
	if kind == "" {
		kind = "text/plain; charset=utf-8"
	}
	input := members(at.with(members{"ContentType": kind, "Metadata": metadata}))
	input["Body"] = []byte(body)
	if in.KMSKeyID != "" {
		input["ServerSideEncryption"], input["SSEKMSKeyId"] = "aws:kms", in.KMSKeyID
	}
	answer, err := c.call(ctx, "s3", "PutObject", input.with(members{"IfNoneMatch": "*"}))
	if !taken(err) {
		return putObjectOutput{ETag: answer.text("ETag"), VersionID: answer.text("VersionId"), Changed: true}, err
	}
	now, err := c.call(ctx, "s3", "HeadObject", at)
	if err != nil {
		return putObjectOutput{}, err
	}
	sum := md5.Sum([]byte(body))
	switch {
	case now.in("Metadata").text(metaToken) == c.token():
		return putObjectOutput{ETag: now.text("ETag"), VersionID: now.text("VersionId"), Changed: true}, nil
	case strings.Trim(now.text("ETag"), `"`) == hex.EncodeToString(sum[:]):
		return putObjectOutput{ETag: now.text("ETag"), VersionID: now.text("VersionId")}, nil
	case !in.Overwrite:
		return putObjectOutput{}, action.Errorf(action.Conflict, "s3://%s/%s exists and holds something else; to write over it set overwrite: true", in.Bucket, in.Key)
	}
	metadata[metaOver] = "yes"
	answer, err = c.call(ctx, "s3", "PutObject", input.with(members{"IfMatch": now.text("ETag")}))
	if taken(err) {
		// By somebody else meanwhile, or by this request: the caller sends it again when its answer is lost.
		if then, headErr := c.call(ctx, "s3", "HeadObject", at); headErr == nil && then.in("Metadata").text(metaToken) == c.token() {
			answer, err = then, nil
		}
	}
	return putObjectOutput{ETag: answer.text("ETag"), VersionID: answer.text("VersionId"), Changed: true}, err
}

// taken tells whether there is an object of that key, or is just being made one.
func taken(err error) bool { return is(err, "PreconditionFailed", "ConditionalRequestConflict") }

func (c client) putObjectBack(ctx context.Context, in putObjectInput) error {
	at := members{"Bucket": in.Bucket, "Key": in.Key}
	now, err := c.call(ctx, "s3", "HeadObject", at)
	if notFound(err) {
		return nil
	}
	if err != nil || now.in("Metadata").text(metaToken) != c.token() {
		return err
	}
	version := now.text("VersionId")
	if now.in("Metadata").text(metaOver) != "" && (version == "" || version == "null") {
		return action.Errorf(action.Conflict, "s3://%s/%s was written over in a bucket without versioning: what it held before is gone", in.Bucket, in.Key)
	}
	_, err = c.call(ctx, "s3", "DeleteObject", at.with(members{"VersionId": version}))
	return err
}
