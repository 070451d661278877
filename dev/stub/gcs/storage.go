// Package storage has the part of Google Cloud Storage's client that the Temporal server's archiver names, and refuses
// to connect. It stands in for the package of the same path: a development server archives nothing, and the original
// brings gRPC's service mesh, Google's authentication and telemetry with it.
package storage

import (
	"context"
	"errors"

	"google.golang.org/api/option"
)

// ScopeFullControl is the permission that an archiver asks for.
const ScopeFullControl = "https://www.googleapis.com/auth/devstorage.full_control"

// errAbsent answers every call.
var errAbsent = errors.New("this server is built without Google Cloud Storage")

// Client cannot be made.
type Client struct{}

// NewClient refuses.
func NewClient(context.Context, ...option.ClientOption) (*Client, error) { return nil, errAbsent }

// Bucket gives a handle whose calls fail.
func (*Client) Bucket(string) *BucketHandle { return &BucketHandle{} }

// BucketHandle stands for a bucket.
type BucketHandle struct{}

// BucketAttrs is what is known about a bucket: nothing.
type BucketAttrs struct{}

// Attrs fails.
func (*BucketHandle) Attrs(context.Context) (*BucketAttrs, error) { return nil, errAbsent }

// Object gives a handle whose calls fail.
func (*BucketHandle) Object(string) *ObjectHandle { return &ObjectHandle{} }

// Objects gives an iterator that fails.
func (*BucketHandle) Objects(context.Context, *Query) *ObjectIterator { return &ObjectIterator{} }

// Query selects objects.
type Query struct{ Prefix string }

// ObjectIterator goes over no object.
type ObjectIterator struct{}

// Next fails.
func (*ObjectIterator) Next() (*ObjectAttrs, error) { return nil, errAbsent }

// ObjectHandle stands for an object.
type ObjectHandle struct{}

// ObjectAttrs is what is known about an object.
type ObjectAttrs struct{ Name string }

// Attrs fails.
func (*ObjectHandle) Attrs(context.Context) (*ObjectAttrs, error) { return nil, errAbsent }

// NewReader fails.
func (*ObjectHandle) NewReader(context.Context) (*Reader, error) { return nil, errAbsent }

// NewWriter gives a writer that fails.
func (*ObjectHandle) NewWriter(context.Context) *Writer { return &Writer{} }

// Reader cannot be made.
type Reader struct{}

// Read fails.
func (*Reader) Read([]byte) (int, error) { return 0, errAbsent }

// Close does nothing.
func (*Reader) Close() error { return nil }

// Writer fails.
type Writer struct{}

// Write fails.
func (*Writer) Write([]byte) (int, error) { return 0, errAbsent }

// Close fails, since nothing was written.
func (*Writer) Close() error { return errAbsent }

// CloseWithError does nothing.
func (*Writer) CloseWithError(error) error { return nil }
