// Package types has the types of S3 that the Temporal server's archiver names; see package s3 above it.
package types

// CommonPrefix is a folder.
type CommonPrefix struct{ Prefix *string }

// Object is an object in a list.
type Object struct{ Key *string }

// NoSuchBucket says that there is no such bucket.
type NoSuchBucket struct{}

func (*NoSuchBucket) Error() string { return "no such bucket" }

// NoSuchKey says that there is no such object.
type NoSuchKey struct{}

func (*NoSuchKey) Error() string { return "no such key" }
