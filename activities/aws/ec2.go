package aws

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

// What several actions of EC2 need: instances by their state, and images with
// their snapshots.

var (
	instanceForm = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)
	imageForm    = regexp.MustCompile(`^ami-[0-9a-f]{8,17}$`)
)

// wellFormed refuses ids that cannot be: EC2 finds nothing by them, which would
// read as gone.
func wellFormed(form *regexp.Regexp, what string, ids ...string) error {
	if len(ids) == 0 {
		return action.Errorf(action.Invalid, "no %s is named", what)
	}
	for _, id := range ids {
		if !form.MatchString(id) {
			return action.Errorf(action.Invalid, "%q is no id of an %s", id, what)
		}
	}
	return nil
}

// instances describes instances, by id. Which EC2 does not see are absent.
func (c client) instances(ctx context.Context, filters ...any) (map[string]members, error) {
	all := map[string]members{}
	reservations, err := c.list(ctx, "ec2", "DescribeInstances", "Reservations", members{"Filters": filters})
	for _, r := range reservations {
		for _, i := range r.list("Instances") {
			all[i.text("InstanceId")] = i
		}
	}
	return all, err
}

// theseInstances are instances by their ids.
func (c client) theseInstances(ctx context.Context, ids []string) (map[string]members, error) {
	all := map[string]members{}
	for some := range slices.Chunk(ids, 200) {
		found, err := c.instances(ctx, filter("instance-id", some...))
		if err != nil {
			return nil, err
		}
		for id, i := range found {
			all[id] = i
		}
	}
	return all, nil
}

func stateOf(instance members) string { return instance.in("State").text("Name") }

// reason is why something is in the state in which it is.
func reason(m members) string {
	why := m.in("StateReason")
	text := strings.TrimSpace(why.text("Code") + ": " + why.text("Message"))
	if text == ":" {
		return "AWS gives no reason"
	}
	return text
}

// waitSeen waits until all instances are seen, and returns them.
func (c client) waitSeen(ctx context.Context, ids []string) (map[string]members, error) {
	var now map[string]members
	var missing []string
	ok, err := c.within(ctx, newsTakes, "look for instances", func() (bool, string, error) {
		var err error
		now, err = c.theseInstances(ctx, ids)
		missing = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return now[id] != nil })
		return len(missing) == 0, named(missing) + " not found so far", err
	})
	if err == nil && !ok {
		err = action.Errorf(action.NotFound, "there is no instance %s", named(missing))
	}
	return now, err
}

// waitStates waits until all instances are in a state. One that ends on the way
// is an error, unless it may.
func (c client) waitStates(ctx context.Context, ids []string, want string, mayEnd bool) (map[string]members, error) {
	var now map[string]members
	err := c.wait(ctx, 30*time.Minute, "instances to be "+want, func() (bool, string, error) {
		var err error
		if now, err = c.theseInstances(ctx, ids); err != nil {
			return false, "", err
		}
		var not []string
		for _, id := range ids {
			state := stateOf(now[id])
			ended := state == "shutting-down" || state == "terminated"
			switch {
			case state == want || ended && mayEnd:
			case ended:
				return false, "", action.Errorf(action.Failed, "instance %s is %s: %s", id, state, reason(now[id]))
			case state == "":
				not = append(not, id+" not seen yet")
			default:
				not = append(not, id+" "+state)
			}
		}
		return len(not) == 0, named(not), nil
	})
	return now, err
}

// terminate terminates instances and waits until they are: what is not found is
// taken for gone only after goneTakes without it.
func (c client) terminate(ctx context.Context, ids []string) error {
	left, began := sorted(ids), c.Now()
	seen := map[string]time.Time{}
	return c.wait(ctx, 30*time.Minute, "terminate instances", func() (bool, string, error) {
		now, err := c.theseInstances(ctx, left)
		if err != nil {
			return false, "", err
		}
		var todo, states []string
		left = slices.DeleteFunc(left, func(id string) bool {
			state := stateOf(now[id])
			switch state {
			case "terminated":
				return true
			case "":
				last := began
				if at, ok := seen[id]; ok {
					last = at
				}
				if c.Now().Sub(last) >= goneTakes {
					return true
				}
				state = "not found so far"
			case "shutting-down":
				seen[id] = c.Now()
			default:
				seen[id], todo = c.Now(), append(todo, id)
			}
			states = append(states, id+" "+state)
			return false
		})
		return len(left) == 0, named(states), c.askToTerminate(ctx, todo)
	})
}

// askToTerminate asks for all at once, or, since AWS refuses all for one's
// sake, for each.
func (c client) askToTerminate(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := c.call(ctx, "ec2", "TerminateInstances", members{"InstanceIds": anys(ids)})
	if err == nil || notFound(err) && len(ids) == 1 {
		return nil // the one that answered may not know it yet; the next look tells
	}
	if len(ids) == 1 || passing(err) || ctx.Err() != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, c.askToTerminate(ctx, []string{id}))
	}
	return errors.Join(errs...)
}

// image describes an image of this account; nil if it is not seen.
func (c client) image(ctx context.Context, by ...any) (members, error) {
	found, err := c.list(ctx, "ec2", "DescribeImages", "Images", members{"Owners": []any{"self"}, "Filters": by})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

// waitImage waits until an image is available.
func (c client) waitImage(ctx context.Context, id string) (members, error) {
	var image members
	err := c.wait(ctx, 2*time.Hour, "image "+id, func() (bool, string, error) {
		now, err := c.image(ctx, filter("image-id", id))
		if err != nil || now == nil {
			return false, "not seen yet", err
		}
		image = now
		switch state := now.text("State"); state {
		case "available":
			return true, "", nil
		case "failed", "error", "invalid", "deregistered":
			return false, "", action.Errorf(action.Failed, "image %s is %s: %s", id, state, reason(now))
		default:
			return false, state, nil
		}
	})
	return image, err
}

// adopt finds the image whose name stopped ours from being made. It is this
// step's own if its token is on it, from an attempt whose answer was lost.
func (c client) adopt(ctx context.Context, name string, duplicate error) (string, error) {
	var image members
	_, err := c.within(ctx, newsTakes, "look for image "+name, func() (bool, string, error) {
		var err error
		image, err = c.image(ctx, filter("name", name))
		return image != nil, "not seen yet", err
	})
	if err != nil {
		return "", err
	}
	if image == nil {
		return "", duplicate
	}
	tags := tagsOf(image)
	if tags[tagToken] == c.step.Token {
		return image.text("ImageId"), nil
	}
	return "", action.Errorf(action.Conflict, "the name %s is taken by %s, which was %s; choose another name, or deregister that image",
		name, image.text("ImageId"), whose(tags))
}

func snapshotsOf(image members) []string {
	var ids []string
	for _, d := range image.list("BlockDeviceMappings") {
		if id := d.in("Ebs").text("SnapshotId"); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// imageOutput is the output of actions that make an image.
type imageOutput struct {
	ImageID     string   `json:"image_id" jsonschema:"the image"`
	Name        string   `json:"name" jsonschema:"its name"`
	SnapshotIDs []string `json:"snapshot_ids" jsonschema:"the snapshots that it consists of"`
}

func imageMade(image members) imageOutput {
	return imageOutput{ImageID: image.text("ImageId"), Name: image.text("Name"), SnapshotIDs: append([]string{}, snapshotsOf(image)...)}
}

// unmakeImage removes the image that this step has made, and its snapshots. They
// are found by the token as well: an image that failed, or was not described yet,
// does not name them.
func (c client) unmakeImage(ctx context.Context, out *imageOutput) error {
	var images, snapshots []string
	if out != nil {
		images, snapshots = []string{out.ImageID}, out.SnapshotIDs
	} else if _, err := c.within(ctx, newsTakes, "look for an image of this step", func() (bool, string, error) {
		image, err := c.image(ctx, c.ours())
		if image != nil {
			images, snapshots = []string{image.text("ImageId")}, snapshotsOf(image)
		}
		return image != nil, "none so far", err
	}); err != nil {
		return err
	}
	if err := c.deregisterImages(ctx, images); err != nil {
		return err
	}
	_, err := c.within(ctx, newsTakes, "look for snapshots of this step", func() (bool, string, error) {
		found, err := c.list(ctx, "ec2", "DescribeSnapshots", "Snapshots", members{"OwnerIds": []any{"self"}, "Filters": []any{c.ours()}})
		for _, s := range found {
			snapshots = append(snapshots, s.text("SnapshotId"))
		}
		return len(snapshots) > 0 || len(images) == 0, "none so far", err
	})
	if err != nil {
		return err
	}
	return c.deleteSnapshots(ctx, snapshots)
}

func (c client) deregisterImages(ctx context.Context, ids []string) error {
	return c.removed(ctx, "images", ids, nil, func(id string) error {
		deregister := func() error {
			_, err := c.call(ctx, "ec2", "DeregisterImage", members{"ImageId": id})
			return err
		}
		err := deregister()
		if !is(err, "InvalidAMIID.Unavailable") {
			return err
		}
		// That is AWS's word for one that was deregistered, and for one that is not ready.
		ready := false
		if err := c.wait(ctx, 2*time.Hour, "image "+id+" before it is removed", func() (bool, string, error) {
			image, err := c.image(ctx, filter("image-id", id))
			state := image.text("State")
			ready = state != "" && state != "deregistered"
			return err == nil && state != "pending", state, err
		}); err != nil || !ready {
			return err
		}
		return deregister()
	})
}

func (c client) deleteSnapshots(ctx context.Context, ids []string) error {
	return c.removed(ctx, "snapshots", ids, inUse, func(id string) error {
		_, err := c.call(ctx, "ec2", "DeleteSnapshot", members{"SnapshotId": id})
		return err
	})
}

// inUse tells whether something else needs a snapshot or a volume, or did so a
// moment ago.
func inUse(err error) bool { return is(err, "InvalidSnapshot.InUse", "VolumeInUse") }
