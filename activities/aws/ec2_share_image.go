package aws

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type shareImageInput struct {
	Scope
	ImageID   string   `json:"image_id" jsonschema:"image to share"`
	Accounts  []string `json:"accounts" jsonschema:"accounts that may launch it"`
	Snapshots bool     `json:"snapshots,omitempty" jsonschema:"share its snapshots as well, so that they may copy the image" default:"false"`
}

type shareImageOutput struct {
	Added []string `json:"added" jsonschema:"accounts that it was not shared with before"`
}

func shareImage(env Env) action.Action {
	return action.New(action.Def[shareImageInput, shareImageOutput]{
		Name:    "aws.ec2.share_image",
		Summary: "Let other accounts use an image",
		Details: `
To share what is shared changes nothing. Before it shares, the action notes on the image (tag ` + "`almanac:note:share`" + `) which accounts are new, so that rollback takes the
image from those only, also if an answer was lost. Rollback of an image that is gone is done.
`,
		Example: `action: aws.ec2.share_image
with: { image_id: ami-0123456789abcdef0, accounts: ["210987654321"] }`,
		Timeout: 10 * time.Minute,
		Do: func(ctx context.Context, in shareImageInput) (shareImageOutput, error) {
			c := env.in(ctx, in.Scope)
			if err := wellFormed(imageForm, "image", in.ImageID); err != nil {
				return shareImageOutput{}, err
			}
			added, noted, err := c.sharedByUs(ctx, in.ImageID, !c.first())
			if err != nil {
				return shareImageOutput{}, err
			}
			if !noted {
				before, err := c.news(ctx, "ec2", "DescribeImageAttribute", members{"ImageId": in.ImageID, "Attribute": "launchPermission"})
				if err != nil {
					return shareImageOutput{}, err
				}
				for _, account := range sorted(in.Accounts) {
					if !slices.ContainsFunc(before.list("LaunchPermissions"), func(p members) bool { return p.text("UserId") == account }) {
						added = append(added, account)
					}
				}
				if err := c.note(ctx, "share", map[string]string{in.ImageID: strings.Join(added, " ")}); err != nil {
					return shareImageOutput{}, err
				}
			}
			return shareImageOutput{Added: append([]string{}, added...)}, c.share(ctx, in, "Add", sorted(in.Accounts))
		},
		Compensate: func(ctx context.Context, in shareImageInput, out *shareImageOutput) error {
			c := env.in(ctx, in.Scope)
			added, _, err := c.sharedByUs(ctx, in.ImageID, out == nil)
			if out != nil {
				added = out.Added
			}
			if err != nil || len(added) == 0 {
				return err
			}
			if err := c.share(ctx, in, "Remove", added); err != nil {
				if notFound(err) {
					return nil
				}
				return err
			}
			return c.forget(ctx, "share", []string{in.ImageID})
		},
	})
}

// sharedByUs reads this step's note; whether there is one.
func (c client) sharedByUs(ctx context.Context, image string, mayHave bool) ([]string, bool, error) {
	notes, err := c.notes(ctx, "share", []string{image}, mayHave)
	text, ok := notes[image]
	return strings.Fields(text), ok, err
}

// share adds or removes accounts.
func (c client) share(ctx context.Context, in shareImageInput, verb string, accounts []string) error {
	var who []any
	for _, account := range accounts {
		who = append(who, map[string]any{"UserId": account})
	}
	if len(who) == 0 {
		return nil
	}
	change := map[string]any{verb: who}
	if _, err := c.news(ctx, "ec2", "ModifyImageAttribute", members{"ImageId": in.ImageID, "LaunchPermission": change}); err != nil {
		return err
	}
	if !in.Snapshots {
		return nil
	}
	image, err := c.image(ctx, filter("image-id", in.ImageID))
	if err != nil {
		return err
	}
	for _, id := range snapshotsOf(image) {
		if _, err := c.news(ctx, "ec2", "ModifySnapshotAttribute", members{"SnapshotId": id, "CreateVolumePermission": change}); err != nil {
			return err
		}
	}
	return nil
}
