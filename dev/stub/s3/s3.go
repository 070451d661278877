// Package s3 has the part of the S3 client that the Temporal server's archiver names, and refuses every call. It stands
// in for the package of the same path: a development server archives nothing, and the original is one of the largest
// packages of the build.
package s3

import (
	"context"
	"errors"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// errAbsent answers every call.
var errAbsent = errors.New("this server is built without S3")

// Options are what the archiver sets.
type Options struct {
	BaseEndpoint *string
	UsePathStyle bool
}

// Client refuses every call.
type Client struct{}

// NewFromConfig ignores its arguments.
func NewFromConfig(aws.Config, ...func(*Options)) *Client { return &Client{} }

// HeadBucketInput names a bucket.
type HeadBucketInput struct{ Bucket *string }

// HeadBucketOutput is empty.
type HeadBucketOutput struct{}

// HeadBucket fails.
func (*Client) HeadBucket(context.Context, *HeadBucketInput, ...func(*Options)) (*HeadBucketOutput, error) {
	return nil, errAbsent
}

// HeadObjectInput names an object.
type HeadObjectInput struct{ Bucket, Key *string }

// HeadObjectOutput is empty.
type HeadObjectOutput struct{}

// HeadObject fails.
func (*Client) HeadObject(context.Context, *HeadObjectInput, ...func(*Options)) (*HeadObjectOutput, error) {
	return nil, errAbsent
}

// PutObjectInput is an object to write.
type PutObjectInput struct {
	Bucket, Key *string
	Body        io.Reader
}

// PutObjectOutput is empty.
type PutObjectOutput struct{}

// PutObject fails.
func (*Client) PutObject(context.Context, *PutObjectInput, ...func(*Options)) (*PutObjectOutput, error) {
	return nil, errAbsent
}

// GetObjectInput names an object.
type GetObjectInput struct{ Bucket, Key *string }

// GetObjectOutput is an object.
type GetObjectOutput struct{ Body io.ReadCloser }

// GetObject fails.
func (*Client) GetObject(context.Context, *GetObjectInput, ...func(*Options)) (*GetObjectOutput, error) {
	return nil, errAbsent
}

// ListObjectsV2Input selects objects.
type ListObjectsV2Input struct {
	Bucket, Prefix, Delimiter, ContinuationToken *string
	MaxKeys                                      *int32
}

// ListObjectsV2Output is a page of objects.
type ListObjectsV2Output struct {
	CommonPrefixes        []types.CommonPrefix
	Contents              []types.Object
	IsTruncated           *bool
	NextContinuationToken *string
}

// ListObjectsV2 fails.
func (*Client) ListObjectsV2(context.Context, *ListObjectsV2Input, ...func(*Options)) (*ListObjectsV2Output, error) {
	return nil, errAbsent
}
