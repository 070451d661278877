package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

type deleteTagsInput struct {
	Scope
	Resources []string `json:"resources" jsonschema:"ids of resources of EC2"`
	Keys      []string `json:"keys" jsonschema:"keys of the tags to delete; one that is not there is fine"`
}

func deleteTags(env Env) action.Action {
	return action.New(action.Def[deleteTagsInput, struct{}]{
		Name:    "aws.ec2.delete_tags",
		Summary: "Delete tags of instances, images, volumes and other resources of EC2",
		Details: retagDetails,
		Example: `action: aws.ec2.delete_tags
with: { resources: [ami-0123456789abcdef0], keys: [candidate] }`,
		Timeout: 10 * time.Minute,
		Do: func(ctx context.Context, in deleteTagsInput) (struct{}, error) {
			return struct{}{}, env.in(ctx, in.Scope).retag(ctx, in.Resources, in.wanted())
		},
		Compensate: func(ctx context.Context, in deleteTagsInput, out *struct{}) error {
			return env.in(ctx, in.Scope).retagBack(ctx, in.Resources, in.wanted(), out != nil)
		},
	})
}

func (in deleteTagsInput) wanted() map[string]*string {
	wanted := map[string]*string{}
	for _, key := range in.Keys {
		wanted[key] = nil
	}
	return wanted
}
