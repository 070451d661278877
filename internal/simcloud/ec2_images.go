package simcloud

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

type image struct {
	*resource
	alias, description, arch string
	platform                 string // "windows" or ""
	details, root            string
	shared                   map[string]bool // accounts that may launch it; everyone
	phase                    phase
	created, deprecated      time.Time
	devices                  []device
	source, sourceRegion     string // of a copy
	sourceInstance           string
}

// everyone stands for all accounts among those that something is shared with.
const everyone = "all"

var imageNameForm = regexp.MustCompile(`^[a-zA-Z0-9()\[\] ./'@_-]{3,128}$`)

// usableImage finds an image that may be launched or copied.
func (k *call) usableImage(id string) (*image, error) {
	i, err := k.anyImage(id)
	if err != nil {
		return nil, err
	}
	if state := i.phase.at(k.now); state != "available" {
		return nil, k.fail("InvalidAMIID.Unavailable", "The image ID '%s' is not available: it is %s", id, state)
	}
	return i, nil
}

// anyImage finds an image that is the caller's, or shared with it.
func (k *call) anyImage(id string) (*image, error) {
	i, ok := k.images.get(id)
	if !ok || i.region != k.region || !i.may(k.account) || !k.sees(i.resource) {
		return nil, k.noSuch("image", id)
	}
	if i.removed {
		return nil, k.fail("InvalidAMIID.Unavailable", "The image ID '%s' is no longer available", id)
	}
	return i, nil
}

func (i *image) may(account string) bool {
	return i.account == account || i.shared[account] || i.shared[everyone]
}

// ownImage finds an image that the caller may change.
func (k *call) ownImage(id string) (*image, error) {
	i, err := k.anyImage(id)
	if err != nil {
		return nil, err
	}
	if i.account != k.account {
		return nil, k.fail("AuthFailure", "Not authorized for image:%s", id)
	}
	return i, nil
}

// imageName refuses a name that is not one, or is taken.
func (k *call) imageName() (string, error) {
	name := k.in.str("Name")
	if !imageNameForm.MatchString(name) {
		return "", k.fail("InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', '-', '/' and '_': %q", name)
	}
	for _, i := range k.images.all() {
		if i.place == k.place && i.name == name && !i.removed {
			return "", k.fail("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s", name, i.id)
		}
	}
	return name, nil
}

// newImage makes an image and the snapshots behind its devices.
func (k *call) newImage(name string, i *image, copies bool) *image {
	i.resource = k.make("image", k.mint("ami-", 17), name, k.in.tagsFor("image"))
	i.description, i.created = k.in.str("Description"), k.now
	i.phase = phase{during: "pending", after: "available", until: k.after(k.Delays.Image, "image", i.id)}
	if i.shared == nil {
		i.shared = map[string]bool{}
	}
	if k.Fails != nil {
		if why := k.Fails(i.resource.public()); why != "" {
			i.phase.after, i.phase.reason = "failed", why
		}
	}
	i.devices = slices.Clone(i.devices)
	for n := range i.devices {
		if !copies {
			break
		}
		d := &i.devices[n]
		s := k.newSnapshot(&snapshot{size: d.size, description: "Created by " + k.operation + " for " + i.id, encrypted: d.encrypted}, k.in.tagsFor("snapshot"))
		s.phase.until = i.phase.until
		d.snapshot = s.id
	}
	k.images.put(i.id, i)
	return i
}

func createImage(k *call) (map[string]any, error) {
	if err := k.tagSpecs("image", "snapshot"); err != nil {
		return nil, err
	}
	from, err := k.instance(k.in.str("InstanceId"))
	if err != nil {
		return nil, err
	}
	if state := from.phase.at(k.now); state != "running" && state != "stopped" {
		return nil, k.fail("IncorrectState", "The instance '%s' is %s; an image is made of one that is running or stopped", from.id, state)
	}
	name, err := k.imageName()
	if err != nil {
		return nil, err
	}
	disks := make([]device, len(from.volumes))
	for i, v := range from.volumes {
		disks[i] = v.device
	}
	if disks, err = k.devicesOf(k.in, disks); err != nil {
		return nil, err
	}
	made := k.newImage(name, &image{
		arch: from.image.arch, platform: from.image.platform, details: from.image.details, root: from.image.root,
		devices: disks, sourceInstance: from.id,
	}, true)
	if !k.in.bool("NoReboot") && from.phase.at(k.now) == "running" {
		from.boots++
		k.changed(from.resource, "reboot")
	}
	return object("ImageId", made.id), nil
}

func copyImage(k *call) (map[string]any, error) {
	if err := k.tagSpecs("image", "snapshot"); err != nil {
		return nil, err
	}
	made, err := once(k, "ClientToken", "CopyImage", "IdempotentParameterMismatch", func() (*image, error) {
		source := *k
		source.region = k.in.str("SourceRegion")
		if !slices.Contains(regions, source.region) {
			return nil, k.fail("InvalidParameterValue", "Invalid source region: %s", source.region)
		}
		k.world(source.place)
		from, err := source.usableImage(k.in.str("SourceImageId"))
		if err != nil {
			return nil, err
		}
		if from.account != k.account && !from.shared[everyone] {
			for _, d := range from.devices {
				if s, ok := k.snapshots.get(d.snapshot); !ok || !s.may(k.account) {
					return nil, k.fail("InvalidRequest", "You do not have permission to access the storage of this ami")
				}
			}
		}
		name, err := k.imageName()
		if err != nil {
			return nil, err
		}
		i := k.newImage(name, &image{
			arch: from.arch, platform: from.platform, details: from.details, root: from.root, devices: from.devices,
			source: from.id, sourceRegion: from.region,
		}, true)
		if k.in.bool("CopyImageTags") {
			tags := maps.Clone(from.tags)
			maps.Copy(tags, i.tags)
			i.tags = tags
		}
		return i, nil
	})
	if err != nil {
		return nil, err
	}
	return object("ImageId", made.id), nil
}

func registerImage(k *call) (map[string]any, error) {
	if err := k.tagSpecs("image"); err != nil {
		return nil, err
	}
	name, err := k.imageName()
	if err != nil {
		return nil, err
	}
	disks, err := k.devicesOf(k.in, nil)
	if err != nil {
		return nil, err
	}
	root := k.in.str("RootDeviceName")
	if at := slices.IndexFunc(disks, func(d device) bool { return d.name == root }); at < 0 || disks[at].snapshot == "" {
		return nil, k.fail("InvalidBlockDeviceMapping", "No snapshot for the root device %q", root)
	}
	arch := k.in.str("Architecture")
	if arch == "" {
		arch = "i386"
	}
	made := k.newImage(name, &image{arch: arch, details: "Linux/UNIX", root: root, devices: disks}, false)
	made.phase.until = k.now // what it is made of is there already
	return object("ImageId", made.id), nil
}

func deregisterImage(k *call) (map[string]any, error) {
	i, err := k.ownImage(k.in.str("ImageId"))
	if err != nil {
		return nil, err
	}
	k.remove(i.resource)
	var results []any
	if k.in.bool("DeleteAssociatedSnapshots") {
		for _, d := range i.devices {
			s, ok := k.snapshots.get(d.snapshot)
			if !ok || s.removed {
				continue
			}
			code := "skipped"
			if k.imageOf(s.id) == nil {
				code = "success"
				k.remove(s.resource)
			}
			results = append(results, object("SnapshotId", d.snapshot, "ReturnCode", code))
		}
	}
	return object("Return", true, "DeleteSnapshotResults", results), nil
}

// imageOf finds an image that needs a snapshot; nil if none does.
func (k *call) imageOf(snapshotID string) *image {
	for _, i := range k.images.all() {
		if !i.removed && slices.ContainsFunc(i.devices, func(d device) bool { return d.snapshot == snapshotID }) {
			return i
		}
	}
	return nil
}

func describeImages(k *call) (map[string]any, error) {
	named, owners := k.in.strs("ImageIds"), k.in.strs("Owners")
	var rows []*image
	for _, id := range named {
		i, ok := k.images.get(id)
		if !ok || i.removed || i.region != k.region || !i.may(k.account) || !k.sees(i.resource) {
			return nil, k.noSuch("image", id)
		}
		rows = append(rows, i)
	}
	if named == nil {
		for _, i := range k.images.all() {
			old := !i.deprecated.IsZero() && !k.now.Before(i.deprecated)
			if i.removed || i.region != k.region || !i.may(k.account) || !k.sees(i.resource) ||
				old && i.account != k.account && !k.in.bool("IncludeDeprecated") {
				continue
			}
			rows = append(rows, i)
		}
	}
	if owners != nil {
		rows = slices.DeleteFunc(rows, func(i *image) bool {
			return !slices.Contains(owners, i.account) && (i.alias == "" || !slices.Contains(owners, i.alias)) &&
				(i.account != k.account || !slices.Contains(owners, "self"))
		})
	}
	for _, user := range k.in.strs("ExecutableUsers") {
		rows = slices.DeleteFunc(rows, func(i *image) bool {
			return user == "self" && !i.shared[k.account] || user == everyone && !i.shared[everyone] || user != "self" && user != everyone && !i.shared[user]
		})
	}
	rows, err := filter(k, rows, fields[*image]{
		"image-id":         field(func(i *image) string { return i.id }),
		"name":             field(func(i *image) string { return i.name }),
		"description":      field(func(i *image) string { return i.description }),
		"state":            field(func(i *image) string { return i.phase.at(k.now) }),
		"owner-id":         field(func(i *image) string { return i.account }),
		"owner-alias":      field(func(i *image) string { return i.alias }),
		"architecture":     field(func(i *image) string { return i.arch }),
		"platform":         field(func(i *image) string { return i.platform }),
		"platform-details": field(func(i *image) string { return i.details }),
		"is-public": field(func(i *image) string {
			if i.shared[everyone] {
				return "true"
			}
			return "false"
		}),
		"image-type":          field(func(*image) string { return "machine" }),
		"root-device-type":    field(func(*image) string { return "ebs" }),
		"virtualization-type": field(func(*image) string { return "hvm" }),
		"source-instance-id":  field(func(i *image) string { return i.sourceInstance }),
		"source-image-id":     field(func(i *image) string { return i.source }),
		"creation-date":       field(func(i *image) string { return i.created.UTC().Format(stamp) }),
		"block-device-mapping.snapshot-id": func(i *image) []string {
			var all []string
			for _, d := range i.devices {
				all = append(all, d.snapshot)
			}
			return all
		},
	})
	if err != nil {
		return nil, err
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "Images", list(rows, k.describeImage)), nil
}

// stamp is how EC2 writes the times that are texts in its model.
const stamp = "2006-01-02T15:04:05.000Z"

func (k *call) describeImage(i *image) map[string]any {
	var reason map[string]any
	state := i.phase.at(k.now)
	if i.phase.reason != "" && state == i.phase.after {
		reason = object("Code", "Client.InternalError", "Message", i.phase.reason)
	}
	deprecated := ""
	if !i.deprecated.IsZero() {
		deprecated = i.deprecated.UTC().Format(stamp)
	}
	tags := i.tags
	if i.account != k.account {
		tags = nil // tags are seen by the account that gave them
	}
	return object(
		"ImageId", i.id, "Name", i.name, "Description", i.description, "State", state, "StateReason", reason, "OwnerId", i.account,
		"ImageOwnerAlias", i.alias, "ImageLocation", strings.TrimPrefix(i.alias+"/", "/")+i.name, "Public", i.shared[everyone],
		"CreationDate", i.created.UTC().Format(stamp), "DeprecationTime", deprecated, "Architecture", i.arch, "ImageType", "machine",
		"Platform", i.platform, "PlatformDetails", i.details, "RootDeviceName", i.root, "RootDeviceType", "ebs", "VirtualizationType", "hvm",
		"Hypervisor", "xen", "EnaSupport", true, "SourceImageId", i.source, "SourceImageRegion", i.sourceRegion,
		"SourceInstanceId", i.sourceInstance, "Tags", tagList(tags),
		"BlockDeviceMappings", list(i.devices, func(d device) map[string]any {
			return object("DeviceName", d.name, "Ebs", object("SnapshotId", d.snapshot, "VolumeSize", d.size, "VolumeType", d.kind,
				"DeleteOnTermination", d.goes, "Encrypted", d.encrypted))
		}),
	)
}

func modifyImageAttribute(k *call) (map[string]any, error) {
	i, err := k.ownImage(k.in.str("ImageId"))
	if err != nil {
		return nil, err
	}
	if state := i.phase.at(k.now); state != "available" {
		return nil, k.fail("InvalidAMIID.Unavailable", "The image ID '%s' is not available: it is %s", i.id, state)
	}
	if err := k.unsimulated("ProductCodes", "OrganizationArns", "OrganizationalUnitArns", "ImdsSupport"); err != nil {
		return nil, err
	}
	if k.in.has("Description") {
		i.description = k.in.sub("Description").str("Value")
		k.changed(i.resource, "description")
	}
	return map[string]any{}, k.grant(i.resource, i.shared, "LaunchPermission", "UserGroups")
}

// grant adds and removes those whom something is shared with, in either of the
// two forms in which AWS takes them.
func (k *call) grant(r *resource, with map[string]bool, structure, groups string) error {
	by := map[string][]string{}
	for verb, member := range map[string]string{"add": "Add", "remove": "Remove"} {
		for _, one := range k.in.sub(structure).subs(member) {
			switch {
			case one.str("UserId") != "":
				by[verb] = append(by[verb], one.str("UserId"))
			case one.str("Group") != "":
				by[verb] = append(by[verb], one.str("Group"))
			default:
				return k.fail("NotSimulated", "sharing with an organization is not simulated")
			}
		}
	}
	named := slices.Concat(k.in.strs("UserIds"), k.in.strs(groups))
	if verb := k.in.str("OperationType"); len(named) > 0 {
		if verb != "add" && verb != "remove" {
			return k.fail("InvalidParameterValue", "Value (%s) for parameter OperationType is invalid", verb)
		}
		by[verb] = append(by[verb], named...)
	}
	if len(by) == 0 && !k.in.has("Description") {
		return k.fail("InvalidParameterCombination", "No attributes specified.")
	}
	for _, all := range by {
		for _, who := range all {
			if !accountForm.MatchString(who) && who != everyone {
				return k.fail("InvalidAMIAttributeItemValue", "Invalid attribute item value \"%s\" for userId item type.", who)
			}
		}
	}
	if len(by) == 0 {
		return nil
	}
	for _, who := range by["add"] {
		with[who] = true
	}
	for _, who := range by["remove"] {
		delete(with, who)
	}
	k.changed(r, "shared with "+strings.Join(slices.Sorted(maps.Keys(with)), " "))
	return nil
}

var accountForm = regexp.MustCompile(`^[0-9]{12}$`)

// permissions answers whom something is shared with.
func permissions(with map[string]bool) []any {
	return list(slices.Sorted(maps.Keys(with)), func(who string) map[string]any {
		if who == everyone {
			return object("Group", who)
		}
		return object("UserId", who)
	})
}

func describeImageAttribute(k *call) (map[string]any, error) {
	i, err := k.ownImage(k.in.str("ImageId"))
	if err != nil {
		return nil, err
	}
	switch attribute := k.in.str("Attribute"); attribute {
	case "launchPermission":
		return object("ImageId", i.id, "LaunchPermissions", permissions(i.shared)), nil
	case "description":
		return object("ImageId", i.id, "Description", object("Value", i.description)), nil
	default:
		return nil, k.fail("NotSimulated", "attribute %s of an image is not simulated", attribute)
	}
}

func enableImageDeprecation(k *call) (map[string]any, error) {
	at := k.in.time("DeprecateAt")
	if !at.After(k.now) {
		return nil, k.fail("InvalidParameterValue", "DeprecateAt must be in the future")
	}
	return k.deprecate(at)
}

func disableImageDeprecation(k *call) (map[string]any, error) { return k.deprecate(time.Time{}) }

func (k *call) deprecate(at time.Time) (map[string]any, error) {
	i, err := k.ownImage(k.in.str("ImageId"))
	if err != nil {
		return nil, err
	}
	i.deprecated = at
	k.changed(i.resource, "deprecation")
	return object("Return", true), nil
}
