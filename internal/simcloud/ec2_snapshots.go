package simcloud

import (
	"maps"
	"slices"
)

type snapshot struct {
	*resource
	volume, description string
	size                int64
	encrypted           bool
	shared              map[string]bool
	phase               phase
}

// newSnapshot makes a snapshot.
func (k *call) newSnapshot(s *snapshot, tags map[string]string) *snapshot {
	s.resource = k.make("snapshot", k.mint("snap-", 17), "", maps.Clone(tags))
	s.shared = map[string]bool{}
	s.phase = phase{during: "pending", after: "completed", until: k.after(k.Delays.Snapshot, "snapshot", s.id)}
	if k.Fails != nil {
		if why := k.Fails(s.resource.public()); why != "" {
			s.phase.after, s.phase.reason = "error", why
		}
	}
	k.snapshots.put(s.id, s)
	return s
}

func (s *snapshot) may(account string) bool {
	return s.account == account || s.shared[account] || s.shared[everyone]
}

// usableSnapshot finds a completed snapshot that is the caller's or shared with it.
func (k *call) usableSnapshot(id string) (*snapshot, error) {
	s, ok := k.snapshots.get(id)
	if !ok || s.removed || s.region != k.region || !s.may(k.account) || !k.sees(s.resource) {
		return nil, k.noSuch("snapshot", id)
	}
	if state := s.phase.at(k.now); state != "completed" {
		return nil, k.fail("IncorrectState", "Snapshot is in invalid state - %s", state)
	}
	return s, nil
}

func createSnapshot(k *call) (map[string]any, error) {
	if err := k.tagSpecs("snapshot"); err != nil {
		return nil, err
	}
	v, err := byID(k, "volume", &k.volumes, k.in.str("VolumeId"))
	if err != nil {
		return nil, err
	}
	return k.describeSnapshot(k.snapshotOf(v)), nil
}

func (k *call) snapshotOf(v *volume) *snapshot {
	return k.newSnapshot(&snapshot{volume: v.id, size: v.device.size, encrypted: v.device.encrypted, description: k.in.str("Description")}, k.in.tagsFor("snapshot"))
}

func createSnapshots(k *call) (map[string]any, error) {
	if err := k.tagSpecs("snapshot"); err != nil {
		return nil, err
	}
	spec := k.in.sub("InstanceSpecification")
	i, err := k.instance(spec.str("InstanceId"))
	if err != nil {
		return nil, err
	}
	var made []*snapshot
	for _, v := range i.volumes {
		if v.removed || spec.bool("ExcludeBootVolume") && v.device.name == i.image.root || slices.Contains(spec.strs("ExcludeDataVolumeIds"), v.id) {
			continue
		}
		s := k.snapshotOf(v)
		if k.in.str("CopyTagsFromSource") == "volume" {
			tags := maps.Clone(v.tags)
			maps.Copy(tags, s.tags)
			s.tags = tags
		}
		made = append(made, s)
	}
	return object("Snapshots", list(made, k.describeSnapshot)), nil
}

func copySnapshot(k *call) (map[string]any, error) {
	if err := k.tagSpecs("snapshot"); err != nil {
		return nil, err
	}
	source := *k
	source.region = k.in.str("SourceRegion")
	from, err := source.usableSnapshot(k.in.str("SourceSnapshotId"))
	if err != nil {
		return nil, err
	}
	s := k.newSnapshot(&snapshot{
		volume: "vol-ffffffff", size: from.size, encrypted: from.encrypted || k.in.bool("Encrypted"), description: k.in.str("Description"),
	}, k.in.tagsFor("snapshot"))
	return object("SnapshotId", s.id, "Tags", tagList(s.tags)), nil
}

func describeSnapshots(k *call) (map[string]any, error) {
	named, owners := k.in.strs("SnapshotIds"), k.in.strs("OwnerIds")
	var rows []*snapshot
	for _, s := range k.snapshots.all() {
		if s.region == k.region && !s.removed && s.may(k.account) && k.sees(s.resource) &&
			(named == nil || slices.Contains(named, s.id)) &&
			(owners == nil || slices.Contains(owners, s.account) || s.account == k.account && slices.Contains(owners, "self")) {
			rows = append(rows, s)
		}
	}
	for _, id := range named {
		if !slices.ContainsFunc(rows, func(s *snapshot) bool { return s.id == id }) {
			return nil, k.noSuch("snapshot", id)
		}
	}
	rows, err := filter(k, rows, fields[*snapshot]{
		"snapshot-id": field(func(s *snapshot) string { return s.id }),
		"volume-id":   field(func(s *snapshot) string { return s.volume }),
		"status":      field(func(s *snapshot) string { return s.phase.at(k.now) }),
		"description": field(func(s *snapshot) string { return s.description }),
		"owner-id":    field(func(s *snapshot) string { return s.account }),
	})
	if err != nil {
		return nil, err
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "Snapshots", list(rows, k.describeSnapshot)), nil
}

func (k *call) describeSnapshot(s *snapshot) map[string]any {
	state, progress, message := s.phase.at(k.now), "100%", ""
	if state == "pending" {
		progress = "40%"
	}
	if state == "error" {
		message = s.phase.reason
	}
	return object("SnapshotId", s.id, "VolumeId", s.volume, "VolumeSize", s.size, "State", state, "StateMessage", message,
		"Progress", progress, "StartTime", s.made, "OwnerId", s.account, "Description", s.description, "Encrypted", s.encrypted,
		"Tags", tagList(s.tags))
}

func deleteSnapshot(k *call) (map[string]any, error) {
	s, err := byID(k, "snapshot", &k.snapshots, k.in.str("SnapshotId"))
	if err != nil {
		return nil, err
	}
	if i := k.imageOf(s.id); i != nil {
		return nil, k.fail("InvalidSnapshot.InUse", "The snapshot %s is currently in use by %s", s.id, i.id)
	}
	k.remove(s.resource)
	return map[string]any{}, nil
}

func modifySnapshotAttribute(k *call) (map[string]any, error) {
	s, err := byID(k, "snapshot", &k.snapshots, k.in.str("SnapshotId"))
	if err != nil {
		return nil, err
	}
	return map[string]any{}, k.grant(s.resource, s.shared, "CreateVolumePermission", "GroupNames")
}

func describeSnapshotAttribute(k *call) (map[string]any, error) {
	s, err := byID(k, "snapshot", &k.snapshots, k.in.str("SnapshotId"))
	if err != nil {
		return nil, err
	}
	if attribute := k.in.str("Attribute"); attribute != "createVolumePermission" {
		return nil, k.fail("NotSimulated", "attribute %s of a snapshot is not simulated", attribute)
	}
	return object("SnapshotId", s.id, "CreateVolumePermissions", permissions(s.shared)), nil
}

func describeVolumes(k *call) (map[string]any, error) {
	rows, err := described(k, "volume", &k.volumes, k.in.strs("VolumeIds"))
	if err != nil {
		return nil, err
	}
	rows, err = filter(k, rows, fields[*volume]{
		"volume-id":              field(func(v *volume) string { return v.id }),
		"attachment.instance-id": field(func(v *volume) string { return v.instance }),
		"attachment.device":      field(func(v *volume) string { return v.device.name }),
		"status":                 field((*volume).state),
		"snapshot-id":            field(func(v *volume) string { return v.device.snapshot }),
		"availability-zone":      field(func(v *volume) string { return v.zone }),
	})
	if err != nil {
		return nil, err
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "Volumes", list(rows, func(v *volume) map[string]any {
		attachments := []any{}
		if v.instance != "" {
			attachments = append(attachments, object("InstanceId", v.instance, "VolumeId", v.id, "Device", v.device.name,
				"State", "attached", "DeleteOnTermination", v.device.goes))
		}
		return object("VolumeId", v.id, "State", v.state(), "Size", v.device.size, "VolumeType", v.device.kind, "Encrypted", v.device.encrypted,
			"SnapshotId", v.device.snapshot, "AvailabilityZone", v.zone, "CreateTime", v.made, "Attachments", attachments, "Tags", tagList(v.tags))
	})), nil
}

func (v *volume) state() string {
	if v.instance != "" {
		return "in-use"
	}
	return "available"
}

func deleteVolume(k *call) (map[string]any, error) {
	v, err := byID(k, "volume", &k.volumes, k.in.str("VolumeId"))
	if err != nil {
		return nil, err
	}
	if v.instance != "" {
		return nil, k.fail("VolumeInUse", "Volume %s is currently attached to %s", v.id, v.instance)
	}
	k.remove(v.resource)
	return map[string]any{}, nil
}
