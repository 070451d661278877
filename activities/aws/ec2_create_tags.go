package aws

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type createTagsInput struct {
	Scope
	Resources []string          `json:"resources" jsonschema:"ids of resources of EC2"`
	Tags      map[string]string `json:"tags" jsonschema:"tags to set"`
}

const retagDetails = `
Before it changes anything, the action notes on each resource what those tags were (tag ` + "`almanac:note:tags`" + `, more than one if that is long), so that rollback can
set them as they were, also if an answer was lost. The note stays until rollback or the next such step. A tag that somebody else has
changed since is left as it is.
`

func createTags(env Env) action.Action {
	return action.New(action.Def[createTagsInput, struct{}]{
		Name:    "aws.ec2.create_tags",
		Summary: "Set tags of instances, images, volumes and other resources of EC2",
		Details: retagDetails,
		Example: `action: aws.ec2.create_tags
with: { resources: [ami-0123456789abcdef0], tags: { stage: released } }`,
		Timeout: 10 * time.Minute,
		Do: func(ctx context.Context, in createTagsInput) (struct{}, error) {
			return struct{}{}, env.in(ctx, in.Scope).retag(ctx, in.Resources, in.wanted())
		},
		Compensate: func(ctx context.Context, in createTagsInput, out *struct{}) error {
			return env.in(ctx, in.Scope).retagBack(ctx, in.Resources, in.wanted(), out != nil)
		},
	})
}

func (in createTagsInput) wanted() map[string]*string {
	wanted := map[string]*string{}
	for key, v := range in.Tags {
		wanted[key] = &v
	}
	return wanted
}

// retag gives resources the tags that are wanted; nil is that there is to be no such tag.
func (c client) retag(ctx context.Context, ids []string, wanted map[string]*string) error {
	ids = sorted(ids)
	if len(ids) == 0 || len(wanted) == 0 {
		return action.Errorf(action.Invalid, "resources or tags is empty")
	}
	for key := range wanted {
		if strings.HasPrefix(key, tagPrefix) {
			return action.Errorf(action.Invalid, "the tag %s begins with %s: those are Almanac's own", key, tagPrefix)
		}
	}
	noted, err := c.notes(ctx, "tags", ids, !c.first())
	if err != nil {
		return err
	}
	now, err := c.tagsNow(ctx, ids)
	if err != nil {
		return err
	}
	write := map[string]string{}
	for _, id := range ids {
		if _, ok := noted[id]; ok {
			continue
		}
		before := map[string]string{}
		for key := range wanted {
			if v, ok := now[id][key]; ok {
				before[key] = v
			}
		}
		if write[id] = ""; len(before) > 0 {
			text, err := json.Marshal(before)
			if err != nil {
				return action.Errorf(action.Internal, "tags of %s: %w", id, err)
			}
			write[id] = string(text)
		}
	}
	if err := c.note(ctx, "tags", write); err != nil {
		return err
	}
	for _, id := range ids {
		if err := c.setTags(ctx, id, now[id], wanted); err != nil {
			return err
		}
	}
	return nil
}

// setTags sets and deletes tags of a resource, which are now those.
func (c client) setTags(ctx context.Context, id string, now map[string]string, wanted map[string]*string) error {
	set, gone := map[string]string{}, []any{}
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		v, has := now[key]
		switch want := wanted[key]; {
		case want != nil && (!has || v != *want):
			set[key] = *want
		case want == nil && has:
			gone = append(gone, map[string]any{"Key": key})
		}
	}
	if len(set) > 0 {
		if err := c.tag(ctx, []string{id}, set); err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		if _, err := c.news(ctx, "ec2", "DeleteTags", members{"Resources": []any{id}, "Tags": gone}); err != nil {
			return err
		}
	}
	return nil
}

// retagBack gives resources the tags that they had before retag. done says that
// retag came to its end, so that its notes are there if they were not taken away.
func (c client) retagBack(ctx context.Context, ids []string, wanted map[string]*string, done bool) error {
	ids = sorted(ids)
	noted, err := c.notes(ctx, "tags", ids, !done)
	if err != nil {
		return err
	}
	now, err := c.tagsNow(ctx, ids)
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(noted)) {
		before := map[string]string{}
		if text := noted[id]; text != "" {
			if err := json.Unmarshal([]byte(text), &before); err != nil {
				return action.Errorf(action.Conflict, "the note on %s was changed: %w", id, err)
			}
		}
		back := map[string]*string{}
		for key, want := range wanted {
			v, has := now[id][key]
			if want == nil && has || want != nil && (!has || v != *want) {
				continue // somebody else's, or not changed
			}
			if old, was := before[key]; was {
				back[key] = &old
			} else {
				back[key] = nil
			}
		}
		if err := c.setTags(ctx, id, now[id], back); err != nil {
			if notFound(err) {
				continue
			}
			return err
		}
		if err := c.forget(ctx, "tags", []string{id}); err != nil {
			return err
		}
	}
	return nil
}
