package contract

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
)

var storeScenarios = []scenario{
	{name: "ssm parameters", by: "Systems Manager API Reference, PutParameter, GetParameter, GetParametersByPath, GetParameterHistory, LabelParameterVersion, DeleteParameter",
		run: func(s *stage) {
			out := s.do("ssm", "PutParameter", object{"Name": "/app/image", "Type": "String", "Value": "ami-1", "Description": "first", "Tags": list(tag("stage", "new"))})
			s.equal("a parameter begins with version 1", get(out, "Version"), any(int64(1)))
			s.refused("it is not written over by accident", "ParameterAlreadyExists", "ssm", "PutParameter", object{"Name": "/app/image", "Type": "String", "Value": "ami-2"})
			out = s.do("ssm", "PutParameter", object{"Name": "/app/image", "Value": "ami-2", "Description": "second", "Overwrite": true})
			s.equal("written over it has the next version", get(out, "Version"), any(int64(2)))
			out = s.do("ssm", "PutParameter", object{"Name": "/app/image", "Value": "ami-2", "Description": "third", "Overwrite": true})
			s.equal("also with the same value", get(out, "Version"), any(int64(3)))
			out = s.do("ssm", "GetParameter", object{"Name": "/app/image"})
			s.equal("the last version is read", []any{get(out, "Parameter.Value"), get(out, "Parameter.Version"), get(out, "Parameter.Type")}, []any{"ami-2", int64(3), "String"})
			s.equal("its ARN is", text(out, "Parameter.ARN"), "arn:aws:ssm:us-east-1:"+s.account+":parameter/app/image")
			out = s.do("ssm", "GetParameter", object{"Name": "/app/image:1"})
			s.equal("an older one by its number", text(out, "Parameter.Value"), "ami-1")
			s.equal("which stands in the answer", text(out, "Parameter.Selector"), ":1")
			s.refused("one that there is not is not read", "ParameterVersionNotFound", "ssm", "GetParameter", object{"Name": "/app/image:9"})
			out = s.do("ssm", "ListTagsForResource", object{"ResourceType": "Parameter", "ResourceId": "/app/image"})
			s.equal("it has its tags from the beginning", tags(out["TagList"]), map[string]string{"stage": "new"})
			s.refused("tags do not go with writing over", "ValidationException", "ssm", "PutParameter", object{"Name": "/app/image", "Value": "x", "Overwrite": true, "Tags": list(tag("a", "b"))})

			out = s.do("ssm", "LabelParameterVersion", object{"Name": "/app/image", "ParameterVersion": 1, "Labels": list("stable", "aws-not")})
			s.equal("a label that is AWS's is told apart", get(out, "InvalidLabels"), any(list("aws-not")))
			out, ok := s.may("a version is read by its label", "ssm", "GetParameter", object{"Name": "/app/image:stable"})
			if ok {
				s.equal("and is that one", text(out, "Parameter.Value"), "ami-1")
			}
			s.do("ssm", "LabelParameterVersion", object{"Name": "/app/image", "ParameterVersion": 2, "Labels": list("stable")})
			out = s.do("ssm", "GetParameterHistory", object{"Name": "/app/image"})
			s.equal("the history is oldest first", []string{text(out, "Parameters.0.Description"), text(out, "Parameters.1.Description"), text(out, "Parameters.2.Description")}, []string{"first", "second", "third"})
			s.equal("a label moves", []int{len(labels(out, 0)), len(labels(out, 1))}, []int{0, 1})

			s.do("ssm", "PutParameter", object{"Name": "/app/zones", "Type": "StringList", "Value": "a,b"})
			out = s.do("ssm", "GetParameter", object{"Name": "/app/zones"})
			s.equal("a list is text", []string{text(out, "Parameter.Type"), text(out, "Parameter.Value")}, []string{"StringList", "a,b"})
			s.do("ssm", "PutParameter", object{"Name": "/app/db/password", "Type": "SecureString", "Value": "hunter2"})
			out = s.do("ssm", "GetParameter", object{"Name": "/app/db/password"})
			s.holds("a secret is not read without decryption", !strings.Contains(text(out, "Parameter.Value"), "hunter2"), out)
			out = s.do("ssm", "GetParameter", object{"Name": "/app/db/password", "WithDecryption": true})
			s.equal("but with it", text(out, "Parameter.Value"), "hunter2")
			out = s.do("ssm", "GetParametersByPath", object{"Path": "/app"})
			s.equal("a path has its own", texts(out, "Parameters", "Name"), []string{"/app/image", "/app/zones"})
			out = s.do("ssm", "GetParametersByPath", object{"Path": "/app", "Recursive": true})
			s.equal("and what is below", texts(out, "Parameters", "Name"), []string{"/app/db/password", "/app/image", "/app/zones"})
			out = s.do("ssm", "GetParameters", object{"Names": list("/app/zones", "/app/none")})
			s.equal("of several, some may not be", get(out, "InvalidParameters"), any(list("/app/none")))
			s.refused("a pattern is held against", "ParameterPatternMismatchException", "ssm", "PutParameter", object{"Name": "/app/n", "Type": "String", "Value": "x", "AllowedPattern": "^[0-9]+$"})
			s.refused("4097 characters are too many", "ValidationException", "ssm", "PutParameter", object{"Name": "/app/long", "Type": "String", "Value": strings.Repeat("x", 4097)})
			s.refused("AWS's names are not ours", "AccessDeniedException", "ssm", "PutParameter", object{"Name": "/aws/x", "Type": "String", "Value": "x"})
			s.refused("a parameter has a type", "ValidationException", "ssm", "PutParameter", object{"Name": "/app/untyped", "Value": "x"})
			s.do("ssm", "DeleteParameter", object{"Name": "/app/image"})
			s.refused("what is deleted is not read", "ParameterNotFound", "ssm", "GetParameter", object{"Name": "/app/image"})
			s.refused("nor deleted again", "ParameterNotFound", "ssm", "DeleteParameter", object{"Name": "/app/image"})
			s.refused("nor has it a history", "ParameterNotFound", "ssm", "GetParameterHistory", object{"Name": "/app/image"})
		}},
	{name: "secretsmanager", by: "Secrets Manager API Reference, CreateSecret, PutSecretValue, UpdateSecretVersionStage, DeleteSecret",
		run: func(s *stage) {
			one, two, three := strings.Repeat("1", 32), strings.Repeat("2", 32), strings.Repeat("3", 32)
			in := object{"Name": "app/db", "SecretString": "old", "ClientRequestToken": one, "Tags": list(tag("stage", "new"))}
			made := s.do("secretsmanager", "CreateSecret", in)
			s.equal("the token is the version", text(made, "VersionId"), one)
			s.holds("an ARN ends in six characters", len(text(made, "ARN")) == len("arn:aws:secretsmanager:us-east-1:123456789012:secret:app/db-abcdef"), made)
			again, ok := s.may("the same token and value are answered again", "secretsmanager", "CreateSecret", in)
			if ok {
				s.equal("with the same version", text(again, "VersionId"), one)
			}
			s.refused("another token finds it taken", "ResourceExistsException", "secretsmanager", "CreateSecret", object{"Name": "app/db", "SecretString": "other", "ClientRequestToken": two})
			out := s.do("secretsmanager", "DescribeSecret", object{"SecretId": "app/db"})
			s.equal("it has its tags from the beginning", tags(out["Tags"]), map[string]string{"stage": "new"})
			put := object{"SecretId": "app/db", "SecretString": "new", "ClientRequestToken": two}
			out = s.do("secretsmanager", "PutSecretValue", put)
			s.equal("a new version is current", []any{get(out, "VersionId"), get(out, "VersionStages")}, []any{two, list("AWSCURRENT")})
			out = s.do("secretsmanager", "PutSecretValue", put)
			s.equal("the same token is the same version", text(out, "VersionId"), two)
			put["SecretString"] = "another"
			s.refused("the same token with another value is refused", "ResourceExistsException", "secretsmanager", "PutSecretValue", put)
			out = s.do("secretsmanager", "GetSecretValue", object{"SecretId": text(made, "ARN")})
			s.equal("the current value is read, by ARN too", []string{text(out, "SecretString"), text(out, "VersionId")}, []string{"new", two})
			out = s.do("secretsmanager", "GetSecretValue", object{"SecretId": "app/db", "VersionStage": "AWSPREVIOUS"})
			s.equal("so is the previous one", []string{text(out, "SecretString"), text(out, "VersionId")}, []string{"old", one})
			out = s.do("secretsmanager", "DescribeSecret", object{"SecretId": "app/db"})
			s.equal("versions and stages are described", out["VersionIdsToStages"], any(object{one: list("AWSPREVIOUS"), two: list("AWSCURRENT")}))
			s.refused("a stage is not taken from a version without naming it", "InvalidParameterException", "secretsmanager", "UpdateSecretVersionStage",
				object{"SecretId": "app/db", "VersionStage": "AWSCURRENT", "MoveToVersionId": one})
			s.do("secretsmanager", "UpdateSecretVersionStage", object{"SecretId": "app/db", "VersionStage": "AWSCURRENT", "MoveToVersionId": one, "RemoveFromVersionId": two})
			out = s.do("secretsmanager", "DescribeSecret", object{"SecretId": "app/db"})
			s.equal("the previous stage follows the current one", out["VersionIdsToStages"], any(object{one: list("AWSCURRENT"), two: list("AWSPREVIOUS")}))
			out = s.do("secretsmanager", "GetSecretValue", object{"SecretId": "app/db"})
			s.equal("and is what is read", text(out, "SecretString"), "old")
			s.refused("a short token is refused", "InvalidParameterException", "secretsmanager", "PutSecretValue", object{"SecretId": "app/db", "SecretString": "x", "ClientRequestToken": "short"})
			s.do("secretsmanager", "PutSecretValue", object{"SecretId": "app/db", "SecretBinary": []byte{0, 1, 2}, "ClientRequestToken": three})
			out = s.do("secretsmanager", "GetSecretValue", object{"SecretId": "app/db"})
			s.equal("a value may be bytes", out["SecretBinary"], any([]byte{0, 1, 2}))
			s.refused("what there is not is not read", "ResourceNotFoundException", "secretsmanager", "GetSecretValue", object{"SecretId": "none"})
			s.do("secretsmanager", "DeleteSecret", object{"SecretId": "app/db", "RecoveryWindowInDays": 7})
			s.refused("what is to be deleted is not read", "InvalidRequestException", "secretsmanager", "GetSecretValue", object{"SecretId": "app/db"})
			s.refused("and keeps its name", "InvalidRequestException", "secretsmanager", "CreateSecret", object{"Name": "app/db", "SecretString": "x", "ClientRequestToken": strings.Repeat("4", 32)})
			out = s.do("secretsmanager", "DescribeSecret", object{"SecretId": "app/db"})
			s.holds("it says when it goes", out["DeletedDate"] != nil, out)
			s.do("secretsmanager", "CreateSecret", object{"Name": "app/gone", "SecretString": "x", "ClientRequestToken": one})
			s.do("secretsmanager", "DeleteSecret", object{"SecretId": "app/gone", "ForceDeleteWithoutRecovery": true})
			s.settle()
			s.refused("deleted by force, it is gone", "ResourceNotFoundException", "secretsmanager", "DescribeSecret", object{"SecretId": "app/gone"})
			s.may("by force, what never was is deleted too", "secretsmanager", "DeleteSecret", object{"SecretId": "app/never", "ForceDeleteWithoutRecovery": true})
		}},
	{name: "s3 objects", by: "S3 API Reference, PutObject, GetObject, HeadObject, DeleteObject, ListObjectsV2, Conditional requests",
		run: func(s *stage) {
			bucket := "contract-" + s.account
			s.do("s3", "CreateBucket", object{"Bucket": bucket})
			at := func(more object) object {
				in := object{"Bucket": bucket, "Key": "reports/a.txt"}
				for name, v := range more {
					in[name] = v
				}
				return in
			}
			out := s.do("s3", "PutObject", at(object{"Body": []byte("hello"), "ContentType": "text/plain", "Metadata": object{"almanac-token": "t"}, "IfNoneMatch": "*"}))
			s.equal("an ETag is the MD5 sum", text(out, "ETag"), `"5d41402abc4b2a76b9719d911017c592"`)
			s.refused("If-None-Match does not write over", "PreconditionFailed", "s3", "PutObject", at(object{"Body": []byte("other"), "IfNoneMatch": "*"}))
			out = s.do("s3", "GetObject", at(nil))
			s.equal("what is read is what was written", []any{get(out, "Body"), get(out, "ContentLength"), get(out, "ContentType")}, []any{[]byte("hello"), int64(5), "text/plain"})
			s.equal("with its metadata", out["Metadata"], any(object{"almanac-token": "t"}))
			out = s.do("s3", "HeadObject", at(nil))
			s.equal("so is its head", []any{get(out, "ETag"), get(out, "ContentLength"), get(out, "Metadata")}, []any{`"5d41402abc4b2a76b9719d911017c592"`, int64(5), object{"almanac-token": "t"}})
			s.refused("If-Match writes over what it names only", "PreconditionFailed", "s3", "PutObject", at(object{"Body": []byte("other"), "IfMatch": `"5d41402abc4b2a76b9719d911017c593"`}))
			s.may("and that it does", "s3", "PutObject", at(object{"Body": []byte("other"), "IfMatch": `"5d41402abc4b2a76b9719d911017c592"`}))
			s.do("s3", "PutObject", object{"Bucket": bucket, "Key": "a key/ü+%.txt", "Body": []byte{}})
			out = s.do("s3", "GetObject", object{"Bucket": bucket, "Key": "a key/ü+%.txt"})
			s.equal("a key may be strange", out["ContentLength"], any(int64(0)))
			s.equal("a body that is empty is there", out["Body"], any([]byte{}))
			s.do("s3", "CopyObject", object{"Bucket": bucket, "Key": "reports/b.txt", "CopySource": bucket + "/reports/a.txt"})
			out = s.do("s3", "GetObject", object{"Bucket": bucket, "Key": "reports/b.txt"})
			s.equal("a copy is the same", out["Body"], any([]byte("other")))
			out = s.do("s3", "GetObject", object{"Bucket": bucket, "Key": "reports/b.txt", "Range": "bytes=1-2"})
			s.equal("a part of it is read", []any{get(out, "Body"), get(out, "ContentRange")}, []any{[]byte("th"), "bytes 1-2/5"})
			out = s.do("s3", "GetObject", object{"Bucket": bucket, "Key": "reports/b.txt", "Range": "bytes=3-99"})
			s.equal("up to its end", out["Body"], any([]byte("er")))
			s.refused("and nothing behind it", "InvalidRange", "s3", "GetObject", object{"Bucket": bucket, "Key": "reports/b.txt", "Range": "bytes=5-9"})
			out = s.do("s3", "ListObjectsV2", object{"Bucket": bucket})
			s.equal("a list is sorted by key", texts(out, "Contents", "Key"), []string{"a key/ü+%.txt", "reports/a.txt", "reports/b.txt"})
			out = s.do("s3", "ListObjectsV2", object{"Bucket": bucket, "Delimiter": "/"})
			s.equal("folders are prefixes", texts(out, "CommonPrefixes", "Prefix"), []string{"a key/", "reports/"})
			out = s.do("s3", "ListObjectsV2", object{"Bucket": bucket, "Prefix": "reports/", "MaxKeys": 1})
			s.equal("a page says that there is another", []any{get(out, "IsTruncated"), len(items(out, "Contents"))}, []any{true, 1})
			all, err := awsapi.All(context.Background(), s.caller, s.models, s.scope, "s3", "ListObjectsV2", object{"Bucket": bucket, "MaxKeys": 1}, 10)
			s.holds("all pages are read", err == nil && len(items(all, "Contents")) == 3, all, err)
			s.refused("what there is not is not read", "NoSuchKey", "s3", "GetObject", object{"Bucket": bucket, "Key": "none"})
			_, err = s.call("s3", "HeadObject", object{"Bucket": bucket, "Key": "none"})
			e, _ := err.(*awsapi.Error)
			s.holds("nor has it a head", e != nil && e.Status == 404 && e.Class == awsapi.NotFound, err)
			s.do("s3", "DeleteObject", at(nil))
			s.may("what is deleted may be deleted again", "s3", "DeleteObject", at(nil))
			s.refused("and is not there", "NoSuchKey", "s3", "GetObject", at(nil))
			s.refused("nor is a bucket that never was", "NoSuchBucket", "s3", "GetObject", object{"Bucket": "contract-none-" + s.account, "Key": "a"})
			_, err = s.in("eu-west-1", "s3", "CreateBucket", object{"Bucket": bucket + "-eu", "CreateBucketConfiguration": object{"LocationConstraint": "us-west-2"}})
			s.settles("a bucket is made where it is asked for", refusal("IllegalLocationConstraintException", nil, err))
		}},
	{name: "logs streams", by: "CloudWatch Logs API Reference, CreateLogGroup, CreateLogStream, PutLogEvents, DescribeLogStreams, GetLogEvents",
		run: func(s *stage) {
			group := "/contract/" + s.account
			s.do("logs", "CreateLogGroup", object{"logGroupName": group})
			s.refused("a group is made once", "ResourceAlreadyExistsException", "logs", "CreateLogGroup", object{"logGroupName": group})
			s.do("logs", "CreateLogStream", object{"logGroupName": group, "logStreamName": "c/i/stdout"})
			s.do("logs", "CreateLogStream", object{"logGroupName": group, "logStreamName": "d/i/stdout"})
			now := time.Now().UnixMilli()
			s.do("logs", "PutLogEvents", object{"logGroupName": group, "logStreamName": "c/i/stdout", "logEvents": list(
				object{"timestamp": now, "message": "one\ntwo"}, object{"timestamp": now, "message": "three"}, object{"timestamp": now + 1, "message": "four"})})
			out := s.do("logs", "DescribeLogStreams", object{"logGroupName": group, "logStreamNamePrefix": "c/"})
			s.equal("streams are found by prefix", texts(out, "logStreams", "logStreamName"), []string{"c/i/stdout"})
			in := object{"logGroupName": group, "logStreamName": "c/i/stdout", "startFromHead": true, "limit": 2}
			out = s.do("logs", "GetLogEvents", in)
			s.equal("the first events first", texts(out, "events", "message"), []string{"one\ntwo", "three"})
			in["nextToken"] = out["nextForwardToken"]
			out = s.do("logs", "GetLogEvents", in)
			s.equal("then the others", texts(out, "events", "message"), []string{"four"})
			in["nextToken"] = out["nextForwardToken"]
			out = s.do("logs", "GetLogEvents", in)
			s.equal("at the end the token stays", []any{len(items(out, "events")), out["nextForwardToken"]}, []any{0, in["nextToken"]})
			s.refused("there is no other group", "ResourceNotFoundException", "logs", "DescribeLogStreams", object{"logGroupName": group + "x"})
			s.refused("and no other stream", "ResourceNotFoundException", "logs", "GetLogEvents", object{"logGroupName": group, "logStreamName": "x", "startFromHead": true})
		}},
	{name: "s3 multipart upload", by: "S3 API Reference, CreateMultipartUpload, UploadPart, CompleteMultipartUpload",
		run: func(s *stage) {
			bucket := "contract-" + s.account
			s.do("s3", "CreateBucket", object{"Bucket": bucket})
			body := bytes.Repeat([]byte("0123456789abcdef"), 1<<20+7) // 16 MiB and a bit
			out, err := awsapi.Upload(context.Background(), s.caller, s.models, s.scope, object{"Bucket": bucket, "Key": "large", "ContentType": "text/plain", "Metadata": object{"a": "b"}}, bytes.NewReader(body))
			if err != nil {
				s.settles("a large object is uploaded in parts", err.Error())
				return
			}
			s.holds("a large object is uploaded in parts", strings.Contains(text(out, "ETag"), "-"), out)
			got := s.do("s3", "GetObject", object{"Bucket": bucket, "Key": "large"})
			read, _ := got["Body"].([]byte)
			s.holds("and is what it was", bytes.Equal(read, body), len(read))
			s.equal("with type and metadata", []any{got["ContentType"], got["Metadata"]}, []any{"text/plain", object{"a": "b"}})
			uploads := s.do("s3", "ListMultipartUploads", object{"Bucket": bucket})
			s.equal("nothing of it is left", len(items(uploads, "Uploads")), 0)
		}},
	{name: "s3 regions", by: "S3 User Guide, Making requests: Amazon S3 request redirection; S3 API Reference, GetBucketLocation, HeadBucket",
		run: func(s *stage) {
			bucket := "contract-" + s.account
			_, err := s.in("eu-west-1", "s3", "CreateBucket", object{"Bucket": bucket, "CreateBucketConfiguration": object{"LocationConstraint": "eu-west-1"}})
			s.holds("a bucket is made in a region", err == nil, err)
			out := s.do("s3", "GetBucketLocation", object{"Bucket": bucket})
			s.equal("which its location is", out["LocationConstraint"], any("eu-west-1"))
			out = s.do("s3", "HeadBucket", object{"Bucket": bucket})
			s.equal("and its head says", out["BucketRegion"], any("eu-west-1"))
			_, err = s.in("eu-west-1", "s3", "PutObject", object{"Bucket": bucket, "Key": "a", "Body": []byte("x")})
			s.holds("it is written to there", err == nil, err)
			// S3 redirects and our client follows, so that a caller does not see it.
			s.may("it is read from elsewhere", "s3", "GetObject", object{"Bucket": bucket, "Key": "a"})
		}},
}

func labels(history object, version int) []any {
	all, _ := get(history, "Parameters").([]any)
	if version >= len(all) {
		return nil
	}
	of, _ := get(all[version], "Labels").([]any)
	return of
}
