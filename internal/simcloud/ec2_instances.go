package simcloud

import (
	"encoding/base64"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Instance is an instance as Options' functions see it.
type Instance struct {
	ID, ImageID, Type string
	Platform          string // linux, windows
	Account, Region   string
	Zone              string
	Tags              map[string]string
	Group             string // Auto Scaling group; "" if none
	Boots             int    // how often it has booted: another number, another boot id
}

type instance struct {
	*resource
	launch
	reservation string
	index       int
	phase       phase
	launched    time.Time // the last start
	running     time.Time // after the last start
	checked     time.Time // status checks pass
	boots       int
	volumes     []*volume
	gone        time.Time // no longer described; zero while it is not terminated
	agent       Agent
	registered  time.Time // of the SSM agent; zero is never
	hybrid      bool      // no instance, but a machine elsewhere that Systems Manager knows
}

type volume struct {
	*resource
	instance string // "" when left over
	device   device
	zone     string
}

// device is a disk of an image or an instance.
type device struct {
	name, snapshot, kind string
	size                 int64
	goes                 bool // deleted with its instance
	encrypted            bool
}

// launch is what is launched.
type launch struct {
	image                                       *image
	instanceType, keyName, profile, token, zone string
	subnet                                      *subnet
	groups                                      []string
	instanceTags, volumeTags                    map[string]string
	devices                                     []device
	protected                                   bool
	group                                       string
	version                                     *templateVersion // of a group's launch template; nil without one
}

// stays is how long a terminated instance is described.
const stays = time.Hour

var stateCodes = map[string]int64{"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}

var (
	typeForm = regexp.MustCompile(`^[a-z][a-z0-9-]*\.[a-z0-9-]+$`)
	armForm  = regexp.MustCompile(`^(a1|[a-z]+[0-9]+g[a-z]*)\.`)
)

func runInstances(k *call) (map[string]any, error) {
	if err := k.tagSpecs("instance", "volume", "network-interface", "spot-instances-request"); err != nil {
		return nil, err
	}
	if err := k.unsimulated("InstanceMarketOptions", "CapacityReservationSpecification"); err != nil {
		return nil, err
	}
	low, high := k.in.int("MinCount"), k.in.int("MaxCount")
	if low < 1 || high < low {
		return nil, k.fail("InvalidParameterValue", "MinCount is %d and MaxCount is %d; MinCount is from 1 to MaxCount", low, high)
	}
	in, err := k.withTemplate(k.in, k.in.sub("LaunchTemplate"))
	if err != nil {
		return nil, err
	}
	// A token's scope is the zone, if one is named: the same token makes another
	// instance in another zone.
	zone := in.sub("Placement").str("AvailabilityZone")
	if s, ok := k.subnets.get(subnetOf(in)); ok && s.place == k.place {
		zone = s.zone
	}
	all, err := once(k, "ClientToken", "RunInstances "+zone, "IdempotentParameterMismatch", func() ([]*instance, error) {
		what, err := k.launchOf(in, zone)
		if err != nil {
			return nil, err
		}
		if err := k.hasRoom(high); err != nil {
			return nil, err
		}
		reservation := k.mint("r-", 17)
		var all []*instance
		for i := range int(high) {
			all = append(all, k.launch(what, reservation, i))
		}
		return all, nil
	})
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if state := i.phase.at(k.now); i.removed && i.phase.reason == "" {
			return nil, k.fail("IdempotentInstanceTerminated", "The instance '%s' that this client token made is %s", i.id, state)
		}
	}
	return k.reservation(all), nil
}

func subnetOf(in input) string {
	if s := in.str("SubnetId"); s != "" {
		return s
	}
	for _, card := range in.subs("NetworkInterfaces") {
		if s := card.str("SubnetId"); s != "" {
			return s
		}
	}
	return ""
}

// launchOf reads what is to be launched and refuses what cannot be.
func (k *call) launchOf(in input, zone string) (launch, error) {
	what := launch{
		instanceType: in.str("InstanceType"), keyName: in.str("KeyName"), token: in.str("ClientToken"), zone: zone,
		groups: in.strs("SecurityGroupIds"), instanceTags: in.tagsFor("instance"), volumeTags: in.tagsFor("volume"),
		protected: in.bool("DisableApiTermination"),
	}
	what.profile = in.sub("IamInstanceProfile").str("Name")
	if arn := in.sub("IamInstanceProfile").str("Arn"); what.profile == "" && arn != "" {
		what.profile = arn[strings.LastIndex(arn, "/")+1:]
	}
	if what.instanceType == "" {
		what.instanceType = "m1.small"
	}
	if !typeForm.MatchString(what.instanceType) {
		return what, k.fail("InvalidParameterValue", "Invalid value '%s' for InstanceType.", what.instanceType)
	}
	ami := in.str("ImageId")
	if ami == "" {
		return what, k.fail("MissingParameter", "The request must contain the parameter ImageId")
	}
	if name, ok := strings.CutPrefix(ami, "resolve:ssm:"); ok {
		v, err := k.parameter(name)
		if err != nil {
			return what, err
		}
		ami = v.value
	}
	var err error
	if what.image, err = k.usableImage(ami); err != nil {
		return what, err
	}
	if arch := archOf(what.instanceType); arch != what.image.arch {
		return what, k.fail("InvalidParameterValue", "The architecture '%s' of the specified instance type does not match the architecture '%s' of the specified AMI.", arch, what.image.arch)
	}
	if what.devices, err = k.devicesOf(in, what.image.devices); err != nil {
		return what, err
	}
	for _, sg := range what.groups {
		if g, ok := k.securityGroups.get(sg); !ok || g.place != k.place {
			return what, k.noSuch("security-group", sg)
		}
	}
	if what.zone != "" && !zoneOf(k.region, what.zone) {
		return what, k.fail("InvalidParameterValue", "Invalid availability zone: [%s]", what.zone)
	}
	if named := subnetOf(in); named != "" {
		if what.subnet, err = byID(k, "subnet", &k.subnets, named); err != nil {
			return what, err
		}
		what.zone = what.subnet.zone
	}
	return what, k.placed(&what)
}

func archOf(instanceType string) string {
	if armForm.MatchString(instanceType) {
		return "arm64"
	}
	return "x86_64"
}

// placed finds a zone with capacity and its default subnet.
func (k *call) placed(what *launch) error {
	has := func(zone string) bool {
		return k.Limits.NoCapacity == nil || !k.Limits.NoCapacity(zone, what.instanceType)
	}
	zones := []string{what.zone}
	if what.zone == "" {
		zones = []string{k.region + "a", k.region + "b", k.region + "c"}
		first := int(k.share("zone", k.identity, k.nth) * 3)
		zones = append(zones[first:], zones[:first]...)
	}
	free := slices.IndexFunc(zones, has)
	if free < 0 {
		return k.fail("InsufficientInstanceCapacity", "We currently do not have sufficient %s capacity in the Availability Zone you requested (%s).", what.instanceType, zones[0])
	}
	what.zone = zones[free]
	for _, s := range k.subnets.all() {
		if what.subnet == nil && s.place == k.place && s.zone == what.zone {
			what.subnet = s
		}
	}
	if what.groups == nil {
		for _, g := range k.securityGroups.all() {
			if g.place == k.place && g.name == "default" {
				what.groups = []string{g.id}
			}
		}
	}
	return nil
}

// hasRoom takes n from what the account may have.
func (k *call) hasRoom(n int64) error {
	have := 0
	for _, i := range k.instances.all() {
		if i.place == k.place && !i.hybrid && !i.isGone(k.now) {
			have++
		}
	}
	if limit := k.Limits.Instances; limit > 0 && have+int(n) > limit {
		return k.fail("InstanceLimitExceeded", "You have requested more instances (%d) than your current instance limit of %d allows.", have+int(n), limit)
	}
	if !k.take("instances", k.Limits.Resources, float64(n)) {
		return k.fail("RequestLimitExceeded", "Request limit exceeded: too many instances were asked for.")
	}
	return nil
}

// launch launches one instance.
func (k *call) launch(what launch, reservation string, index int) *instance {
	id := k.mint("i-", 17)
	i := &instance{launch: what, reservation: reservation, index: index}
	i.resource = k.make("instance", id, "", maps.Clone(what.instanceTags))
	if what.group != "" {
		i.origin = byOther
	}
	k.instances.put(id, i)
	i.started(k)
	for _, d := range what.devices {
		v := &volume{resource: k.make("volume", k.mint("vol-", 17), "", maps.Clone(what.volumeTags)), instance: id, device: d, zone: what.zone}
		if v.owner = id; !d.goes {
			v.owner = ""
		}
		k.volumes.put(v.id, v)
		i.volumes = append(i.volumes, v)
	}
	if k.Agent != nil {
		i.agent = k.Agent(i.public())
	}
	if !i.agent.Never && (what.profile != "" || k.HostManagement) {
		i.registered = i.running.Add(i.agent.Late + k.pick(k.Delays.Register, "register", id))
		if k.given {
			i.registered = i.running
		}
	}
	if k.Fails != nil {
		if why := k.Fails(i.resource.public()); why != "" {
			i.phase.after, i.phase.reason = "terminated", why
			i.ended(k)
		}
	}
	return i
}

// started begins a boot.
func (i *instance) started(k *call) {
	i.boots++
	i.launched = k.now
	i.running = k.after(k.Delays.Launch, "launch", i.id, i.boots)
	i.checked = i.running.Add(k.pick(k.Delays.Checks, "checks", i.id, i.boots))
	if k.given {
		i.checked = i.running
	}
	i.phase = phase{during: "pending", after: "running", until: i.running}
}

// ended gives back what goes with an instance that is being terminated.
func (i *instance) ended(k *call) {
	i.gone = i.phase.until.Add(stays)
	k.remove(i.resource)
	for _, v := range i.volumes {
		if v.device.goes {
			k.remove(v.resource)
		} else {
			v.instance = ""
		}
	}
}

func (i *instance) isGone(now time.Time) bool { return !i.gone.IsZero() && !now.Before(i.gone) }

func (i *instance) platform() string {
	if i.image.platform != "" {
		return i.image.platform
	}
	return "linux"
}

func (i *instance) public() Instance {
	return Instance{
		ID: i.id, ImageID: i.image.id, Type: i.instanceType, Platform: i.platform(), Account: i.account, Region: i.region,
		Zone: i.zone, Tags: maps.Clone(i.tags), Group: i.group, Boots: i.boots,
	}
}

// describedInstances are those that a call asks for. What is terminated is among
// them for a while.
func (k *call) describedInstances() ([]*instance, error) {
	named := k.in.strs("InstanceIds")
	var rows []*instance
	for _, id := range named {
		i, err := k.instance(id)
		if err != nil {
			return nil, err
		}
		rows = append(rows, i)
	}
	if named == nil {
		for _, i := range k.instances.all() {
			if i.place == k.place && !i.hybrid && !i.isGone(k.now) && k.sees(i.resource) {
				rows = append(rows, i)
			}
		}
	}
	return filter(k, rows, fields[*instance]{
		"instance-id":              field(func(i *instance) string { return i.id }),
		"instance-state-name":      field(func(i *instance) string { return i.phase.at(k.now) }),
		"instance-state-code":      field(func(i *instance) string { return fmt.Sprint(stateCodes[i.phase.at(k.now)]) }),
		"instance-type":            field(func(i *instance) string { return i.instanceType }),
		"image-id":                 field(func(i *instance) string { return i.image.id }),
		"client-token":             field(func(i *instance) string { return i.token }),
		"availability-zone":        field(func(i *instance) string { return i.zone }),
		"subnet-id":                field(func(i *instance) string { return i.subnet.id }),
		"vpc-id":                   field(func(i *instance) string { return i.subnet.vpc }),
		"key-name":                 field(func(i *instance) string { return i.keyName }),
		"reservation-id":           field(func(i *instance) string { return i.reservation }),
		"architecture":             field(func(i *instance) string { return i.image.arch }),
		"platform":                 field(func(i *instance) string { return i.image.platform }),
		"platform-details":         field(func(i *instance) string { return i.image.details }),
		"instance.group-id":        func(i *instance) []string { return i.groups },
		"iam-instance-profile.arn": field(func(i *instance) string { return i.profileARN() }),
	})
}

// instance finds an instance, terminated or not.
func (k *call) instance(id string) (*instance, error) {
	i, ok := k.instances.get(id)
	if !ok || i.place != k.place || i.hybrid || i.isGone(k.now) || !k.sees(i.resource) {
		return nil, k.noSuch("instance", id)
	}
	return i, nil
}

func (i *instance) profileARN() string {
	if i.profile == "" {
		return ""
	}
	return "arn:aws:iam::" + i.account + ":instance-profile/" + i.profile
}

func describeInstances(k *call) (map[string]any, error) {
	rows, err := k.describedInstances()
	if err != nil {
		return nil, err
	}
	rows, next := page(k, rows, "MaxResults")
	by := map[string][]*instance{}
	for _, i := range rows {
		by[i.reservation] = append(by[i.reservation], i)
	}
	return object("NextToken", next, "Reservations", list(slices.Sorted(maps.Keys(by)), func(r string) map[string]any {
		return k.reservation(by[r])
	})), nil
}

func (k *call) reservation(all []*instance) map[string]any {
	slices.SortFunc(all, func(a, b *instance) int { return a.index - b.index })
	return object("ReservationId", all[0].reservation, "OwnerId", all[0].account, "Instances", list(all, k.describe))
}

func (k *call) describe(i *instance) map[string]any {
	state := i.phase.at(k.now)
	var reason map[string]any
	if i.phase.reason != "" && state == i.phase.after {
		reason = object("Code", "Server.InternalError", "Message", i.phase.reason)
	}
	groups := list(i.groups, func(id string) map[string]any { return object("GroupId", id) })
	disks := list(i.volumes, func(v *volume) map[string]any {
		return object("DeviceName", v.device.name, "Ebs", object("VolumeId", v.id, "DeleteOnTermination", v.device.goes, "Status", "attached"))
	})
	var profile map[string]any
	if i.profile != "" {
		profile = object("Arn", i.profileARN())
	}
	var platform string
	if i.image.platform == "windows" {
		platform = "windows" // as EC2 answers, whatever its model's enum says
	}
	out := object(
		"InstanceId", i.id, "ImageId", i.image.id, "InstanceType", i.instanceType, "AmiLaunchIndex", i.index, "ClientToken", i.token,
		"State", object("Name", state, "Code", stateCodes[state]), "StateReason", reason, "LaunchTime", i.launched, "KeyName", i.keyName,
		"Placement", object("AvailabilityZone", i.zone, "Tenancy", "default"), "Architecture", i.image.arch,
		"Platform", platform, "PlatformDetails", i.image.details, "RootDeviceName", i.image.root, "RootDeviceType", "ebs",
		"VirtualizationType", "hvm", "Hypervisor", "xen", "SecurityGroups", groups, "BlockDeviceMappings", disks,
		"IamInstanceProfile", profile, "Tags", tagList(i.tags),
	)
	if state != "terminated" {
		h := k.hash("address", i.id)
		ip := fmt.Sprintf("172.31.%d.%d", h[0]%64, h[1])
		maps.Copy(out, object("SubnetId", i.subnet.id, "VpcId", i.subnet.vpc, "PrivateIpAddress", ip,
			"PrivateDnsName", "ip-"+strings.ReplaceAll(ip, ".", "-")+"."+k.region+".compute.internal"))
	}
	return out
}

func describeInstanceStatus(k *call) (map[string]any, error) {
	rows, err := k.describedInstances()
	if err != nil {
		return nil, err
	}
	if !k.in.bool("IncludeAllInstances") {
		rows = slices.DeleteFunc(rows, func(i *instance) bool { return i.phase.at(k.now) != "running" })
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "InstanceStatuses", list(rows, func(i *instance) map[string]any {
		state, health := i.phase.at(k.now), "not-applicable"
		if state == "running" {
			if health = "ok"; k.now.Before(i.checked) {
				health = "initializing"
			}
		}
		return object("InstanceId", i.id, "AvailabilityZone", i.zone, "InstanceState", object("Name", state, "Code", stateCodes[state]),
			"InstanceStatus", object("Status", health), "SystemStatus", object("Status", health))
	})), nil
}

// each changes the state of the instances that are named, or of none if one of
// them cannot be found or does not allow it.
func (k *call) each(member string, allows func(state string) string, change func(*instance)) (map[string]any, error) {
	var all []*instance
	for _, id := range k.in.strs("InstanceIds") {
		i, err := k.instance(id)
		if err != nil {
			return nil, err
		}
		if code := allows(i.phase.at(k.now)); code != "" {
			return nil, k.fail(code, "The instance '%s' is not in a state from which it can be changed: it is %s.", id, i.phase.at(k.now))
		}
		all = append(all, i)
	}
	if len(all) == 0 {
		return nil, k.fail("MissingParameter", "The request must contain the parameter InstanceIds")
	}
	answers := list(all, func(i *instance) map[string]any {
		before := i.phase.at(k.now)
		change(i)
		after := i.phase.at(k.now)
		if k.now.Before(i.phase.until) {
			after = i.phase.during
		}
		return object("InstanceId", i.id, "PreviousState", object("Name", before, "Code", stateCodes[before]),
			"CurrentState", object("Name", after, "Code", stateCodes[after]))
	})
	if member == "" {
		return map[string]any{}, nil
	}
	return object(member, answers), nil
}

func startInstances(k *call) (map[string]any, error) {
	return k.each("StartingInstances", func(state string) string {
		if state == "stopping" || state == "shutting-down" || state == "terminated" {
			return "IncorrectInstanceState"
		}
		return ""
	}, func(i *instance) {
		if i.phase.at(k.now) == "stopped" {
			i.started(k)
			k.changed(i.resource, "start")
		}
	})
}

func stopInstances(k *call) (map[string]any, error) {
	return k.each("StoppingInstances", func(state string) string {
		if state == "pending" || state == "shutting-down" || state == "terminated" {
			return "IncorrectInstanceState"
		}
		return ""
	}, func(i *instance) {
		if i.phase.at(k.now) == "running" {
			i.phase = phase{during: "stopping", after: "stopped", until: k.after(k.Delays.Stop, "stop", i.id, i.boots)}
			k.changed(i.resource, "stop")
		}
	})
}

func rebootInstances(k *call) (map[string]any, error) {
	return k.each("", func(state string) string {
		if state != "running" {
			return "IncorrectState"
		}
		return ""
	}, func(i *instance) {
		i.boots++
		i.checked = k.after(k.Delays.Checks, "checks", i.id, i.boots)
		k.changed(i.resource, "reboot")
	})
}

func terminateInstances(k *call) (map[string]any, error) {
	for _, id := range k.in.strs("InstanceIds") {
		if i, ok := k.instances.get(id); ok && i.protected && !i.removed {
			return nil, k.fail("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", id)
		}
	}
	return k.each("TerminatingInstances", func(string) string { return "" }, func(i *instance) { i.terminate(k) })
}

func (i *instance) terminate(k *call) {
	if i.removed {
		return
	}
	i.phase = phase{during: "shutting-down", after: "terminated", until: k.after(k.Delays.Shutdown, "shutdown", i.id)}
	i.ended(k)
}

func getConsoleOutput(k *call) (map[string]any, error) {
	i, err := k.instance(k.in.str("InstanceId"))
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("[    0.000000] boot %d of %s\n", i.boots, i.id)
	return object("InstanceId", i.id, "Timestamp", i.launched, "Output", base64.StdEncoding.EncodeToString([]byte(text))), nil
}

// devicesOf reads BlockDeviceMappings over those that an image has.
func (k *call) devicesOf(in input, from []device) ([]device, error) {
	devices := slices.Clone(from)
	for _, m := range in.subs("BlockDeviceMappings") {
		name, ebs := m.str("DeviceName"), m.sub("Ebs")
		at := slices.IndexFunc(devices, func(d device) bool { return d.name == name })
		if m.has("NoDevice") {
			if at >= 0 {
				devices = slices.Delete(devices, at, at+1)
			}
			continue
		}
		if ebs == nil {
			continue // an instance store: no volume
		}
		d := device{name: name, kind: "gp2", size: 8, goes: true}
		if at >= 0 {
			d = devices[at]
		}
		if id := ebs.str("SnapshotId"); id != "" && id != d.snapshot {
			s, err := k.usableSnapshot(id)
			if err != nil {
				return nil, err
			}
			d.snapshot, d.size = id, s.size
		}
		if size := ebs.int("VolumeSize"); size != 0 {
			if size < d.size && d.snapshot != "" {
				return nil, k.fail("InvalidBlockDeviceMapping", "Volume of size %dGB is smaller than snapshot '%s', expect size >= %dGB", size, d.snapshot, d.size)
			}
			d.size = size
		}
		if kind := ebs.str("VolumeType"); kind != "" {
			d.kind = kind
		}
		if ebs.has("DeleteOnTermination") {
			d.goes = ebs.bool("DeleteOnTermination")
		}
		d.encrypted = d.encrypted || ebs.bool("Encrypted")
		if at >= 0 {
			devices[at] = d
		} else {
			devices = append(devices, d)
		}
	}
	return devices, nil
}
