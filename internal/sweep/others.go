package sweep

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// What only the tagging API finds.

func stacks() *kind {
	k := &kind{name: "stack", arn: [2]string{"cloudformation", "stack/"}, byARN: true, wait: time.Hour}
	k.read = func(ctx context.Context, c client, arn string) (*Resource, error) {
		out, err := c.call(ctx, "cloudformation", "DescribeStacks", members{"StackName": arn})
		if is(err, "ValidationError") && strings.Contains(err.Error(), "does not exist") {
			return nil, nil // CloudFormation has no code for it
		}
		found := out.list("Stacks")
		if err != nil || len(found) == 0 || found[0].text("StackStatus") == "DELETE_COMPLETE" {
			return nil, err
		}
		s := found[0]
		r := k.described(c, s.text("StackId"), s.tags("Tags"))
		r.Name, r.State, r.Made = s.text("StackName"), s.text("StackStatus"), s.time("CreationTime")
		r.changed = !s.time("LastUpdatedTime").IsZero()
		return &r, nil
	}
	k.remove = func(ctx context.Context, c client, r Resource) error {
		// One that could not be deleted may be asked for again, as something new.
		sum := sha256.Sum256([]byte(r.ID + " " + r.State))
		_, err := c.call(ctx, "cloudformation", "DeleteStack", members{"StackName": r.ID, "ClientRequestToken": fmt.Sprintf("sweep-%x", sum[:16])})
		return err
	}
	return k
}

func parameters() *kind {
	k := &kind{name: "parameter", arn: [2]string{"ssm", "parameter/"}}
	k.read = func(ctx context.Context, c client, name string) (*Resource, error) {
		// The ARN of /a/b and that of a end in a name without its first slash. A name
		// with slashes begins with one; of one without, the tags tell.
		names := []string{name}
		switch {
		case strings.HasPrefix(name, "/"):
		case strings.Contains(name, "/"):
			names = []string{"/" + name}
		default:
			names = append(names, "/"+name)
		}
		for _, name := range names {
			out, err := c.call(ctx, "ssm", "ListTagsForResource", members{"ResourceType": "Parameter", "ResourceId": name})
			if is(err, "InvalidResourceId") || isGone(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			tags := out.tags("TagList")
			if tags[TagExecution] == "" {
				continue
			}
			out, err = c.call(ctx, "ssm", "GetParameter", members{"Name": name}) // a secret one stays encrypted
			if isGone(err) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			r := k.described(c, name, tags)
			r.Name, r.changed = name, out.in("Parameter").int("Version") > 1
			if !r.changed {
				r.Made = out.in("Parameter").time("LastModifiedDate")
			}
			return &r, nil
		}
		return nil, nil
	}
	k.remove = func(ctx context.Context, c client, r Resource) error {
		_, err := c.call(ctx, "ssm", "DeleteParameter", members{"Name": r.ID})
		return err
	}
	return k
}

func secrets() *kind {
	k := &kind{name: "secret", arn: [2]string{"secretsmanager", "secret:"}, byARN: true}
	k.read = func(ctx context.Context, c client, id string) (*Resource, error) {
		out, err := c.call(ctx, "secretsmanager", "DescribeSecret", members{"SecretId": id})
		if isGone(err) || err == nil && !out.time("DeletedDate").IsZero() {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		r := k.described(c, out.text("ARN"), out.tags("Tags"))
		r.Name, r.Made = out.text("Name"), out.time("CreatedDate")
		r.changed = len(out.in("VersionIdsToStages")) > 1
		return &r, nil
	}
	// AWS keeps it for 30 days, in which it can be restored.
	k.remove = func(ctx context.Context, c client, r Resource) error {
		_, err := c.call(ctx, "secretsmanager", "DeleteSecret", members{"SecretId": r.ID})
		return err
	}
	return k
}
