package aws

import (
	"context"
	"time"
	"unicode/utf8"

	"github.com/almanac-run/almanac/action"
)

type getObjectInput struct {
	Scope
	Bucket    string `json:"bucket" jsonschema:"bucket to read from"`
	Key       string `json:"key" jsonschema:"key of the object"`
	VersionID string `json:"version_id,omitempty" jsonschema:"version to read" default:"the current one"`
	MaxBytes  int    `json:"max_bytes,omitempty" jsonschema:"a larger object is an error; at most 524288" default:"65536"`
}

type getObjectOutput struct {
	Body        string `json:"body" jsonschema:"what it holds"`
	ETag        string `json:"etag" jsonschema:"its ETag"`
	ContentType string `json:"content_type,omitempty" jsonschema:"its media type"`
	VersionID   string `json:"version_id,omitempty" jsonschema:"its version, in a bucket with versioning"`
}

const (
	defaultObject = 64 << 10
	mostObject    = 512 << 10
)

func getObject(env Env) action.Action {
	return action.New(action.Def[getObjectInput, getObjectOutput]{
		Name:    "aws.s3.get_object",
		Summary: "Read a small object of S3, which holds text",
		Details: `
It reads only. What it reads becomes an output, which is kept in clear with the execution: do not read secrets with it.
`,
		Example: `id: manifest
action: aws.s3.get_object
with: { bucket: releases, key: latest.json }`,
		Timeout: 10 * time.Minute,
		Do: func(ctx context.Context, in getObjectInput) (getObjectOutput, error) {
			most := in.MaxBytes
			if most == 0 {
				most = defaultObject
			}
			if most < 0 || most > mostObject {
				return getObjectOutput{}, action.Errorf(action.Invalid, "max_bytes is %d; it may be up to %d", in.MaxBytes, mostObject)
			}
			c, at := env.in(ctx, in.Scope), members{"Bucket": in.Bucket, "Key": in.Key}.with(members{"VersionId": in.VersionID})
			head, err := c.call(ctx, "s3", "HeadObject", at)
			if err != nil {
				return getObjectOutput{}, err
			}
			if size := head.int("ContentLength"); size > int64(most) {
				return getObjectOutput{}, action.Errorf(action.Invalid, "s3://%s/%s is %d bytes, over max_bytes (%d)", in.Bucket, in.Key, size, most)
			}
			// What is read is what was looked at.
			answer, err := c.call(ctx, "s3", "GetObject", members(at).with(members{"IfMatch": head.text("ETag")}))
			if err != nil {
				return getObjectOutput{}, err
			}
			body, _ := answer["Body"].([]byte)
			if !utf8.Valid(body) {
				return getObjectOutput{}, action.Errorf(action.Invalid, "s3://%s/%s is no text in UTF-8", in.Bucket, in.Key)
			}
			return getObjectOutput{Body: string(body), ETag: answer.text("ETag"), ContentType: answer.text("ContentType"), VersionID: answer.text("VersionId")}, nil
		},
	})
}
