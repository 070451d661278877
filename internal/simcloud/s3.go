package simcloud

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var s3Operations = map[string]func(*call) (map[string]any, error){
	"CreateBucket": createBucket, "HeadBucket": headBucket, "PutObject": putObject, "GetObject": getObject, "HeadObject": headObject,
	"DeleteObject": deleteObject, "ListObjectsV2": listObjects, "CopyObject": copyObject, "GetBucketLocation": getBucketLocation,
}

// s3Bucket has a name that nobody else in the world has.
type s3Bucket struct {
	*resource
	objects table[*s3Object]
}

type s3Object struct {
	*resource
	key, etag, contentType string
	body                   []byte
	metadata               map[string]string
	written                time.Time
}

var bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

func newObject(key string, body []byte, now time.Time) *s3Object {
	sum := md5.Sum(body)
	return &s3Object{key: key, body: slices.Clone(body), etag: `"` + hex.EncodeToString(sum[:]) + `"`, written: now}
}

// bucketNamed finds a bucket that the caller may use, in its own region.
func (k *call) bucketNamed(name string) (*s3Bucket, error) {
	b, ok := k.buckets3.get(name)
	switch {
	case !ok:
		return nil, k.fail("NoSuchBucket", "The specified bucket does not exist")
	case b.account != k.account:
		return nil, k.fail("AccessDenied", "Access Denied")
	case b.region != k.region:
		return nil, k.fail("PermanentRedirect", "The bucket is in %s; it must be addressed there", b.region)
	}
	if owner := k.in.str("ExpectedBucketOwner"); owner != "" && owner != b.account {
		return nil, k.fail("AccessDenied", "Access Denied")
	}
	return b, nil
}

func createBucket(k *call) (map[string]any, error) {
	name := k.in.str("Bucket")
	if !bucketForm.MatchString(name) {
		return nil, k.fail("InvalidBucketName", "The specified bucket is not valid: %q", name)
	}
	want := k.in.sub("CreateBucketConfiguration").str("LocationConstraint")
	if k.region == "us-east-1" && want != "" && want != "EU" || k.region != "us-east-1" && want != k.region {
		return nil, k.fail("IllegalLocationConstraintException", "The location constraint %q is incompatible for the region %s this request was sent to.", want, k.region)
	}
	if b, ok := k.buckets3.get(name); ok {
		switch {
		case b.account != k.account:
			return nil, k.fail("BucketAlreadyExists", "The requested bucket name is not available.")
		case k.region != "us-east-1":
			return nil, k.fail("BucketAlreadyOwnedByYou", "Your previous request to create the named bucket succeeded and you already own it.")
		}
		return object("Location", "/"+name), nil
	}
	k.buckets3.put(name, &s3Bucket{resource: k.make("bucket", name, name, k.in.sub("CreateBucketConfiguration").tags("Tags"))})
	return object("Location", "/"+name, "BucketArn", "arn:aws:s3:::"+name), nil
}

func headBucket(k *call) (map[string]any, error) {
	b, ok := k.buckets3.get(k.in.str("Bucket"))
	if !ok {
		return nil, k.fail("404", "Not Found")
	}
	if b.account != k.account {
		return nil, k.fail("AccessDenied", "Forbidden")
	}
	return object("BucketRegion", b.region), nil
}

func getBucketLocation(k *call) (map[string]any, error) {
	b, ok := k.buckets3.get(k.in.str("Bucket"))
	if !ok {
		return nil, k.fail("NoSuchBucket", "The specified bucket does not exist")
	}
	if b.region == "us-east-1" {
		return map[string]any{}, nil // absent, as ever
	}
	return object("LocationConstraint", b.region), nil
}

// mayPut holds against IfNoneMatch and IfMatch.
func (k *call) mayPut(b *s3Bucket, key string) error {
	now, exists := b.objects.get(key)
	if want := k.in.str("IfNoneMatch"); want != "" {
		if want != "*" {
			return k.fail("NotImplemented", "A header you provided implies functionality that is not implemented: If-None-Match other than *")
		}
		if exists {
			return k.fail("PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
		}
	}
	if want := k.in.str("IfMatch"); want != "" {
		if !exists {
			return k.fail("NoSuchKey", "The specified key does not exist.")
		}
		if now.etag != want {
			return k.fail("PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
		}
	}
	return nil
}

func (k *call) putIn(b *s3Bucket, o *s3Object) {
	if before, exists := b.objects.get(o.key); exists {
		o.resource = before.resource
		k.changed(o.resource, "content")
	} else {
		o.resource = k.make("object", b.name+"/"+o.key, o.key, nil)
	}
	b.objects.put(o.key, o)
}

func putObject(k *call) (map[string]any, error) {
	b, err := k.bucketNamed(k.in.str("Bucket"))
	if err != nil {
		return nil, err
	}
	key := k.in.str("Key")
	if len(key) > 1024 {
		return nil, k.fail("KeyTooLongError", "Your key is too long")
	}
	if err := k.mayPut(b, key); err != nil {
		return nil, err
	}
	o := newObject(key, k.in.bytes("Body"), k.now)
	o.contentType, o.metadata = or(k.in.str("ContentType"), "binary/octet-stream"), k.in.texts("Metadata")
	k.putIn(b, o)
	return object("ETag", o.etag, "ServerSideEncryption", "AES256"), nil
}

func copyObject(k *call) (map[string]any, error) {
	source, err := url.PathUnescape(strings.TrimPrefix(k.in.str("CopySource"), "/"))
	if err != nil {
		return nil, k.fail("InvalidArgument", "Invalid copy source encoding.")
	}
	bucketName, key, ok := strings.Cut(source, "/")
	if !ok {
		return nil, k.fail("InvalidArgument", "Invalid copy source object key")
	}
	from, ok := k.buckets3.get(bucketName)
	if !ok || from.account != k.account {
		return nil, k.fail("NoSuchBucket", "The specified bucket does not exist")
	}
	o, ok := from.objects.get(key)
	if !ok {
		return nil, k.fail("NoSuchKey", "The specified key does not exist.")
	}
	b, err := k.bucketNamed(k.in.str("Bucket"))
	if err != nil {
		return nil, err
	}
	if err := k.mayPut(b, k.in.str("Key")); err != nil {
		return nil, err
	}
	made := newObject(k.in.str("Key"), o.body, k.now)
	made.contentType, made.metadata = o.contentType, o.metadata
	if k.in.str("MetadataDirective") == "REPLACE" {
		made.contentType, made.metadata = or(k.in.str("ContentType"), "binary/octet-stream"), k.in.texts("Metadata")
	} else if from == b && made.key == key {
		return nil, k.fail("InvalidRequest", "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata.")
	}
	k.putIn(b, made)
	return object("CopyObjectResult", object("ETag", made.etag, "LastModified", k.now)), nil
}

// read finds the object that a call reads.
func (k *call) read(missing string) (*s3Object, error) {
	if err := k.unsimulated("VersionId", "PartNumber", "IfModifiedSince", "IfUnmodifiedSince"); err != nil {
		return nil, err
	}
	b, err := k.bucketNamed(k.in.str("Bucket"))
	if err != nil {
		return nil, err
	}
	o, ok := b.objects.get(k.in.str("Key"))
	switch {
	case !ok:
		return nil, k.fail(missing, "The specified key does not exist.")
	case k.in.has("IfMatch") && k.in.str("IfMatch") != o.etag:
		return nil, k.fail("PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
	case k.in.has("IfNoneMatch") && k.in.str("IfNoneMatch") == o.etag:
		return nil, k.fail("NotModified", "Not Modified")
	}
	return o, nil
}

func headOf(o *s3Object) map[string]any {
	out := object("ETag", o.etag, "ContentLength", len(o.body), "ContentType", o.contentType, "LastModified", o.written, "AcceptRanges", "bytes", "ServerSideEncryption", "AES256")
	if len(o.metadata) > 0 {
		out["Metadata"] = answer(o.metadata)
	}
	return out
}

func getObject(k *call) (map[string]any, error) {
	o, err := k.read("NoSuchKey")
	if err != nil {
		return nil, err
	}
	out := headOf(o)
	body := o.body
	if text := k.in.str("Range"); text != "" {
		from, to, err := k.byteRange(text, len(o.body))
		if err != nil {
			return nil, err
		}
		body = o.body[from : to+1]
		maps.Copy(out, object("ContentLength", len(body), "ContentRange", fmt.Sprintf("bytes %d-%d/%d", from, to, len(o.body))))
	}
	out["Body"] = append([]byte{}, body...)
	return out, nil
}

// byteRange reads "bytes=0-99"; both ends are included. An end beyond the object's
// is the object's.
func (k *call) byteRange(text string, size int) (from, to int, err error) {
	first, last, ok := strings.Cut(strings.TrimPrefix(text, "bytes="), "-")
	from, errFrom := strconv.Atoi(first)
	to, errTo := strconv.Atoi(last)
	switch {
	case !ok || errFrom != nil || errTo != nil || to < from:
		return 0, 0, k.fail("NotSimulated", "the range %q is not simulated", text)
	case from >= size:
		return 0, 0, k.fail("InvalidRange", "The requested range is not satisfiable")
	}
	return from, min(to, size-1), nil
}

func headObject(k *call) (map[string]any, error) {
	if err := k.unsimulated("Range"); err != nil {
		return nil, err
	}
	o, err := k.read("404")
	if err != nil {
		return nil, err
	}
	return headOf(o), nil
}

func deleteObject(k *call) (map[string]any, error) {
	if err := k.unsimulated("VersionId", "IfMatch"); err != nil {
		return nil, err
	}
	b, err := k.bucketNamed(k.in.str("Bucket"))
	if err != nil {
		return nil, err
	}
	if o, exists := b.objects.get(k.in.str("Key")); exists {
		b.objects.drop(o.key)
		k.remove(o.resource)
	}
	return map[string]any{}, nil
}

func listObjects(k *call) (map[string]any, error) {
	b, err := k.bucketNamed(k.in.str("Bucket"))
	if err != nil {
		return nil, err
	}
	prefix, delimiter := k.in.str("Prefix"), k.in.str("Delimiter")
	after := max(k.in.str("StartAfter"), strings.TrimPrefix(k.in.str("ContinuationToken"), "after-"))
	most := int(min(k.in.intOr("MaxKeys", 1000), int64(k.PageSize), 1000))
	contents, folders := []any{}, []any{}
	last, more := "", false
	for _, o := range b.objects.all() {
		rest, below := strings.CutPrefix(o.key, prefix)
		if !below || o.key <= after || last != "" && strings.HasSuffix(last, delimiter) && delimiter != "" && strings.HasPrefix(o.key, last) ||
			delimiter != "" && strings.HasSuffix(after, delimiter) && strings.HasPrefix(o.key, after) {
			continue
		}
		if more = len(contents)+len(folders) >= most; more {
			break
		}
		if head, _, inFolder := strings.Cut(rest, delimiter); delimiter != "" && inFolder {
			last = prefix + head + delimiter
			folders = append(folders, object("Prefix", last))
			continue
		}
		last = o.key
		contents = append(contents, object("Key", o.key, "Size", len(o.body), "ETag", o.etag, "LastModified", o.written, "StorageClass", "STANDARD"))
	}
	next := ""
	if more {
		next = "after-" + last
	}
	out := object("Name", b.name, "Prefix", prefix, "Delimiter", delimiter, "MaxKeys", most, "KeyCount", len(contents)+len(folders),
		"IsTruncated", more, "NextContinuationToken", next)
	if len(contents) > 0 {
		out["Contents"] = contents
	}
	if len(folders) > 0 {
		out["CommonPrefixes"] = folders
	}
	return out, nil
}
