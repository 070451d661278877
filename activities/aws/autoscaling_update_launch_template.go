package aws

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type updateLaunchTemplateInput struct {
	Scope
	LaunchTemplate string `json:"launch_template" jsonschema:"launch template, by id (lt-…) or name"`
	ImageID        string `json:"image_id" jsonschema:"image of the new version; all else is as in the default version"`
	Description    string `json:"description,omitempty" jsonschema:"what the version is; the step's token is put behind it"`
}

type updateLaunchTemplateOutput struct {
	LaunchTemplateID string `json:"launch_template_id" jsonschema:"the launch template"`
	Version          int64  `json:"version" jsonschema:"the new version, which is the default now"`
	PreviousVersion  int64  `json:"previous_version" jsonschema:"the default version of before"`
}

func updateLaunchTemplate(env Env) action.Action {
	return action.New(action.Def[updateLaunchTemplateInput, updateLaunchTemplateOutput]{
		Name:    "aws.autoscaling.update_launch_template",
		Summary: "Make a new version of a launch template with another image, and make it the default",
		Details: `
The client token of the version is the step's; token and previous default version also stand in the version's description, by which later attempts and rollback find it.
Groups that follow the default version launch the new image from then on; what runs is replaced by aws.autoscaling.start_instance_refresh.

Rollback makes the previous version the default again, unless somebody has chosen another one since, and deletes the version.
`,
		Example: `id: template
action: aws.autoscaling.update_launch_template
with: { launch_template: web, image_id: ami-0123456789abcdef0 }`,
		Timeout: 10 * time.Minute,
		Do: func(ctx context.Context, in updateLaunchTemplateInput) (updateLaunchTemplateOutput, error) {
			return env.in(ctx, in.Scope).updateTemplate(ctx, in)
		},
		Compensate: func(ctx context.Context, in updateLaunchTemplateInput, out *updateLaunchTemplateOutput) error {
			return env.in(ctx, in.Scope).updateTemplateBack(ctx, in.LaunchTemplate, out)
		},
	})
}

// templateRef names a launch template in a call.
func templateRef(idOrName string) members {
	if strings.HasPrefix(idOrName, "lt-") {
		return members{"LaunchTemplateId": idOrName}
	}
	return members{"LaunchTemplateName": idOrName}
}

// versionMark ends the description of a version that a step makes.
var versionMark = regexp.MustCompile(`\[almanac ([a-z2-7]+) before ([0-9]+)\]$`)

const mostVersionDescription = 255

func (c client) updateTemplate(ctx context.Context, in updateLaunchTemplateInput) (updateLaunchTemplateOutput, error) {
	ref := templateRef(in.LaunchTemplate)
	out, standard, err := c.ourVersion(ctx, ref)
	if err != nil {
		return out, err
	}
	if out.Version == 0 {
		mark := "[almanac " + c.token() + " before " + strconv.FormatInt(standard, 10) + "]"
		about := in.Description
		if room := mostVersionDescription - len(mark) - 1; len(about) > room {
			about = strings.ToValidUTF8(about[:room], "")
		}
		answer, err := c.news(ctx, "ec2", "CreateLaunchTemplateVersion", ref.with(members{
			"ClientToken": c.token(), "SourceVersion": strconv.FormatInt(standard, 10), "VersionDescription": strings.TrimSpace(about + " " + mark),
			"LaunchTemplateData": map[string]any{"ImageId": in.ImageID},
		}))
		if err != nil {
			return out, err
		}
		out.Version, out.PreviousVersion = answer.in("LaunchTemplateVersion").int("VersionNumber"), standard
	}
	_, err = c.news(ctx, "ec2", "ModifyLaunchTemplate", ref.with(members{
		"ClientToken": c.uuid("default"), "DefaultVersion": strconv.FormatInt(out.Version, 10),
	}))
	return out, err
}

// ourVersion finds the version that this step has made, 0 if there is none, and the default version.
func (c client) ourVersion(ctx context.Context, ref members) (out updateLaunchTemplateOutput, standard int64, err error) {
	answer, err := c.news(ctx, "ec2", "DescribeLaunchTemplateVersions", ref.with(members{"Versions": []any{"$Default"}}))
	if err != nil {
		return out, 0, err
	}
	for _, v := range answer.list("LaunchTemplateVersions") {
		out.LaunchTemplateID, standard = v.text("LaunchTemplateId"), v.int("VersionNumber")
	}
	versions, err := c.list(ctx, "ec2", "DescribeLaunchTemplateVersions", "LaunchTemplateVersions", ref)
	if err != nil {
		return out, 0, err
	}
	for _, v := range versions {
		if m := versionMark.FindStringSubmatch(v.text("VersionDescription")); m != nil && m[1] == c.token() {
			out.Version = v.int("VersionNumber")
			if out.PreviousVersion, err = strconv.ParseInt(m[2], 10, 64); err != nil {
				return out, 0, action.Errorf(action.Conflict, "the description of version %d was changed: %w", out.Version, err)
			}
		}
	}
	return out, standard, nil
}

func (c client) updateTemplateBack(ctx context.Context, idOrName string, known *updateLaunchTemplateOutput) error {
	ref := templateRef(idOrName)
	var out updateLaunchTemplateOutput
	var standard int64
	_, err := c.within(ctx, commandNewsTakes, "look for the version of this step", func() (bool, string, error) {
		var err error
		out, standard, err = c.ourVersion(ctx, ref)
		return out.Version != 0 || known != nil, "none so far", err
	})
	if notFound(err) || err == nil && out.Version == 0 {
		return nil // the template is gone, or the version
	}
	if err != nil {
		return err
	}
	if standard == out.Version {
		if _, err := c.news(ctx, "ec2", "ModifyLaunchTemplate", ref.with(members{
			"ClientToken": c.uuid("default back"), "DefaultVersion": strconv.FormatInt(out.PreviousVersion, 10),
		})); err != nil {
			return err
		}
	}
	answer, err := c.news(ctx, "ec2", "DeleteLaunchTemplateVersions", ref.with(members{"Versions": []any{strconv.FormatInt(out.Version, 10)}}))
	if err != nil {
		return err
	}
	for _, u := range answer.list("UnsuccessfullyDeletedLaunchTemplateVersions") {
		if why := u.in("ResponseError"); why.text("Code") != "launchTemplateVersionDoesNotExist" {
			return action.Errorf(action.Conflict, "ec2 DeleteLaunchTemplateVersions: version %d: %s: %s", out.Version, why.text("Code"), why.text("Message"))
		}
	}
	return nil
}
