package aws

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type startInstanceRefreshInput struct {
	Scope
	Group         string          `json:"auto_scaling_group" jsonschema:"Auto Scaling group whose instances are to be replaced"`
	Version       int64           `json:"launch_template_version,omitempty" jsonschema:"version of the group's launch template to go to" default:"the one that the group's settings say"`
	MinHealthy    int             `json:"min_healthy_percentage,omitempty" jsonschema:"how much of the group has to be healthy all the time, 1 to 100" default:"90"`
	MaxHealthy    int             `json:"max_healthy_percentage,omitempty" jsonschema:"how large the group may be meanwhile, 100 to 200" default:"100"`
	Warmup        action.Duration `json:"instance_warmup,omitempty" jsonschema:"how long a new instance takes until it counts" default:"the group's"`
	MatchingAgain bool            `json:"replace_matching,omitempty" jsonschema:"replace instances too that are as they are to be; these may be replaced twice if an answer is lost" default:"false"`
}

type startInstanceRefreshOutput struct {
	RefreshID       string `json:"instance_refresh_id" jsonschema:"the instance refresh"`
	PreviousVersion string `json:"previous_version" jsonschema:"version of the launch template that the instances had before; empty if there were none"`
}

func startInstanceRefresh(env Env) action.Action {
	return action.New(action.Def[startInstanceRefreshInput, startInstanceRefreshOutput]{
		Name:    "aws.autoscaling.start_instance_refresh",
		Summary: "Replace the instances of an Auto Scaling group and wait until all are",
		Details: `
Auto Scaling takes no token for this. Before it begins, the action notes on the group's launch template (tag ` + "`almanac:note:refresh-…`" + `) what the group was like
and which refresh was its last, so that later attempts and rollback know the one that this step has begun. Instances that are as they are to be are not replaced, so that a
refresh that is begun twice does nothing the second time.

Rollback turns round a refresh that is under way (or cancels it, where AWS cannot turn it round), then brings all instances back to the version of
before by a refresh in the other direction, and gives the group its settings of before. The group has to have a launch template; one
with a mixed instances policy is refused.
`,
		Example: `action: aws.autoscaling.start_instance_refresh
with: { auto_scaling_group: web, launch_template_version: 7, min_healthy_percentage: 90 }
timeout: 2h`,
		Timeout: 4 * time.Hour,
		Do: func(ctx context.Context, in startInstanceRefreshInput) (startInstanceRefreshOutput, error) {
			return env.in(ctx, in.Scope).refresh(ctx, in)
		},
		Compensate: func(ctx context.Context, in startInstanceRefreshInput, out *startInstanceRefreshOutput) error {
			return env.in(ctx, in.Scope).refreshBack(ctx, in, out)
		},
	})
}

// groupBefore is what a group was like before a refresh, as it is noted.
type groupBefore struct {
	Setting string `json:"setting"`           // version in the group's settings: a number, $Default or $Latest
	Version string `json:"version,omitempty"` // of the instances
	Refresh string `json:"refresh,omitempty"` // the last one that there was
}

func refreshNote(group string) string {
	sum := sha256.Sum256([]byte(group))
	return fmt.Sprintf("refresh-%x", sum[:4])
}

// group describes a group and its launch template.
func (c client) group(ctx context.Context, name string) (group members, template, setting string, err error) {
	answer, err := c.call(ctx, "autoscaling", "DescribeAutoScalingGroups", members{"AutoScalingGroupNames": []any{name}})
	if err != nil {
		return nil, "", "", err
	}
	groups := answer.list("AutoScalingGroups")
	if len(groups) == 0 {
		return nil, "", "", action.Errorf(action.NotFound, "there is no Auto Scaling group %s", name)
	}
	spec := groups[0].in("LaunchTemplate")
	if spec == nil {
		return nil, "", "", action.Errorf(action.Invalid, "the Auto Scaling group %s has no launch template of its own (a mixed instances policy or a launch configuration); call AWS by aws.call", name)
	}
	if setting = spec.text("Version"); setting == "" {
		setting = "$Default"
	}
	if template = spec.text("LaunchTemplateId"); template == "" {
		all, err := c.list(ctx, "ec2", "DescribeLaunchTemplates", "LaunchTemplates", members{"LaunchTemplateNames": []any{spec.text("LaunchTemplateName")}})
		if err != nil {
			return nil, "", "", err
		}
		for _, t := range all {
			template = t.text("LaunchTemplateId")
		}
	}
	return groups[0], template, setting, nil
}

// versionsOf are the versions of the instances that are to stay.
func versionsOf(group members) []string {
	var all []string
	for _, i := range group.list("Instances") {
		if !strings.HasPrefix(i.text("LifecycleState"), "Terminat") {
			all = append(all, i.in("LaunchTemplate").text("Version"))
		}
	}
	return all
}

// usual is the text that is there most often.
func usual(texts []string) string {
	best, count := "", map[string]int{}
	for _, t := range texts {
		if count[t]++; count[t] > count[best] {
			best = t
		}
	}
	return best
}

// refreshes are a group's, newest first.
func (c client) refreshes(ctx context.Context, group string) ([]members, error) {
	return c.list(ctx, "autoscaling", "DescribeInstanceRefreshes", "InstanceRefreshes", members{"AutoScalingGroupName": group})
}

// begunSince is the first refresh after the one that was last before; nil if there is none.
func begunSince(refreshes []members, last string) members {
	at := slices.IndexFunc(refreshes, func(r members) bool { return r.text("InstanceRefreshId") == last })
	if at < 0 {
		at = len(refreshes)
	}
	if at == 0 {
		return nil
	}
	return refreshes[at-1]
}

func (c client) refresh(ctx context.Context, in startInstanceRefreshInput) (startInstanceRefreshOutput, error) {
	group, template, setting, err := c.group(ctx, in.Group)
	if err != nil {
		return startInstanceRefreshOutput{}, err
	}
	kind, on := refreshNote(in.Group), []string{template}
	notes, err := c.notes(ctx, kind, on, !c.first())
	if err != nil {
		return startInstanceRefreshOutput{}, err
	}
	refreshes, err := c.refreshes(ctx, in.Group)
	if err != nil {
		return startInstanceRefreshOutput{}, err
	}
	before := groupBefore{Setting: setting, Version: setting}
	text, noted := notes[template]
	if noted {
		if err := json.Unmarshal([]byte(text), &before); err != nil {
			return startInstanceRefreshOutput{}, action.Errorf(action.Conflict, "the note on %s was changed: %w", template, err)
		}
	} else {
		if strings.HasPrefix(setting, "$") {
			before.Version = usual(versionsOf(group))
		}
		if len(refreshes) > 0 {
			before.Refresh = refreshes[0].text("InstanceRefreshId")
		}
		text, err := json.Marshal(before)
		if err != nil {
			return startInstanceRefreshOutput{}, action.Errorf(action.Internal, "note: %w", err)
		}
		if err := c.note(ctx, kind, map[string]string{template: string(text)}); err != nil {
			return startInstanceRefreshOutput{}, err
		}
	}
	out := startInstanceRefreshOutput{PreviousVersion: before.Version}
	if noted {
		out.RefreshID = begunSince(refreshes, before.Refresh).text("InstanceRefreshId")
	}
	if out.RefreshID == "" {
		version := ""
		if in.Version != 0 {
			version = strconv.FormatInt(in.Version, 10)
		}
		out.RefreshID, err = c.beginRefresh(ctx, in, template, version)
		if err != nil {
			if action.KindOf(err) != action.Unavailable && ctx.Err() == nil { // AWS has said no
				err = errors.Join(err, c.forget(ctx, kind, on))
			}
			return out, err
		}
	}
	status, err := c.waitRefresh(ctx, in.Group, out.RefreshID)
	if err == nil && status.text("Status") != "Successful" {
		err = action.Errorf(action.Failed, "instance refresh %s of %s is %s: %s", out.RefreshID, in.Group, status.text("Status"), status.text("StatusReason"))
	}
	return out, err
}

func (c client) beginRefresh(ctx context.Context, in startInstanceRefreshInput, template, version string) (string, error) {
	preferences := map[string]any{"SkipMatching": !in.MatchingAgain}
	if in.MinHealthy != 0 {
		preferences["MinHealthyPercentage"] = int64(in.MinHealthy)
	}
	if in.MaxHealthy != 0 {
		preferences["MaxHealthyPercentage"] = int64(in.MaxHealthy)
		if in.MinHealthy == 0 {
			preferences["MinHealthyPercentage"] = int64(90) // AWS takes the two together only
		}
	}
	if in.Warmup != 0 {
		preferences["InstanceWarmup"] = seconds(in.Warmup, 0)
	}
	input := members{"AutoScalingGroupName": in.Group, "Preferences": preferences}
	if version != "" {
		input["DesiredConfiguration"] = map[string]any{"LaunchTemplate": map[string]any{"LaunchTemplateId": template, "Version": version}}
	}
	answer, err := c.call(ctx, "autoscaling", "StartInstanceRefresh", input)
	return answer.text("InstanceRefreshId"), err
}

// waitRefresh waits until a refresh has ended, however.
func (c client) waitRefresh(ctx context.Context, group, id string) (members, error) {
	var refresh members
	err := c.wait(ctx, 4*time.Hour, "instance refresh of "+group, func() (bool, string, error) {
		answer, err := c.call(ctx, "autoscaling", "DescribeInstanceRefreshes", members{"AutoScalingGroupName": group, "InstanceRefreshIds": []any{id}})
		if err != nil {
			return false, "", err
		}
		all := answer.list("InstanceRefreshes")
		if len(all) == 0 {
			return false, "not known yet", nil
		}
		refresh = all[0]
		return !underWay(refresh), fmt.Sprintf("%s %d%%", refresh.text("Status"), refresh.int("PercentageComplete")), nil
	})
	return refresh, err
}

func underWay(refresh members) bool {
	return slices.Contains([]string{"Pending", "InProgress", "Baking", "Cancelling", "RollbackInProgress"}, refresh.text("Status"))
}

func (c client) refreshBack(ctx context.Context, in startInstanceRefreshInput, out *startInstanceRefreshOutput) error {
	_, template, _, err := c.group(ctx, in.Group)
	if notFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	kind, on := refreshNote(in.Group), []string{template}
	notes, err := c.notes(ctx, kind, on, out == nil)
	text, noted := notes[template]
	if err != nil || !noted {
		return err // nothing was begun, or all is taken back
	}
	var before groupBefore
	if err := json.Unmarshal([]byte(text), &before); err != nil {
		return action.Errorf(action.Conflict, "the note on %s was changed: %w", template, err)
	}
	var begun members
	if _, err := c.within(ctx, commandNewsTakes, "look for the refresh of this step", func() (bool, string, error) {
		refreshes, err := c.refreshes(ctx, in.Group)
		begun = begunSince(refreshes, before.Refresh)
		return begun != nil, "none so far", err
	}); err != nil {
		return err
	}
	if begun != nil {
		if err := c.turnRound(ctx, in.Group, begun); err != nil {
			return err
		}
		if err := c.restore(ctx, in, template, before); err != nil {
			return err
		}
	}
	return c.forget(ctx, kind, on)
}

// turnRound ends a refresh that is under way, going back where AWS can.
func (c client) turnRound(ctx context.Context, group string, refresh members) error {
	if underWay(refresh) {
		name := members{"AutoScalingGroupName": group}
		_, err := c.call(ctx, "autoscaling", "RollbackInstanceRefresh", name)
		if is(err, "IrreversibleInstanceRefresh", "ValidationError") {
			_, err = c.call(ctx, "autoscaling", "CancelInstanceRefresh", name)
		}
		if err != nil && !is(err, "ActiveInstanceRefreshNotFound") {
			return err
		}
	}
	_, err := c.waitRefresh(ctx, group, refresh.text("InstanceRefreshId"))
	return err
}

// groupSettles is how long an instance that does not start may still be among
// those of a group.
const groupSettles = 10 * time.Minute

// restore brings a group back to what it was: its instances, then its settings.
func (c client) restore(ctx context.Context, in startInstanceRefreshInput, template string, before groupBefore) error {
	for turn := range 3 {
		refreshes, err := c.refreshes(ctx, in.Group)
		if err != nil {
			return err
		}
		if len(refreshes) > 0 && underWay(refreshes[0]) { // our own way back, of an attempt before, or somebody's
			if _, err := c.waitRefresh(ctx, in.Group, refreshes[0].text("InstanceRefreshId")); err != nil {
				return err
			}
		}
		setting, settles := "", groupSettles
		if turn == 0 {
			settles = 0 // nobody has tried yet
		}
		back, err := c.within(ctx, settles, "instances of "+in.Group, func() (bool, string, error) {
			var group members
			if group, _, setting, err = c.group(ctx, in.Group); err != nil {
				return false, "", err
			}
			versions := versionsOf(group)
			return before.Version == "" || !slices.ContainsFunc(versions, func(v string) bool { return v != before.Version }), "versions " + named(versions), nil
		})
		if err != nil {
			return err
		}
		if back {
			if setting == before.Setting {
				return nil
			}
			_, err := c.call(ctx, "autoscaling", "UpdateAutoScalingGroup", members{"AutoScalingGroupName": in.Group,
				"LaunchTemplate": map[string]any{"LaunchTemplateId": template, "Version": before.Setting}})
			return err
		}
		again := in
		again.MatchingAgain = false
		id, err := c.beginRefresh(ctx, again, template, before.Version)
		if is(err, "InstanceRefreshInProgress") {
			continue
		}
		if err != nil {
			return err
		}
		if _, err := c.waitRefresh(ctx, in.Group, id); err != nil {
			return err
		}
	}
	return action.Errorf(action.Failed, "the instances of %s could not all be brought back to version %s of %s", in.Group, before.Version, template)
}
