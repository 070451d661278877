package simcloud

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
)

var autoscalingOperations = map[string]func(*call) (map[string]any, error){
	"CreateAutoScalingGroup": createAutoScalingGroup, "DescribeAutoScalingGroups": describeAutoScalingGroups,
	"UpdateAutoScalingGroup": updateAutoScalingGroup, "StartInstanceRefresh": startInstanceRefresh,
	"DescribeInstanceRefreshes": describeInstanceRefreshes, "CancelInstanceRefresh": cancelInstanceRefresh,
	"RollbackInstanceRefresh": rollbackInstanceRefresh,
}

// Group is an Auto Scaling group to set up, with a launch template of its name.
type Group struct {
	Name         string
	ImageID      string
	InstanceType string // "" is m6i.large, or m6g.large for arm64
	Size         int
	Min, Max     int    // 0 is Size, 2·Size
	Profile      string // instance profile; "" is of the group's name
	Tags         map[string]string
}

// AddGroup sets up a group and its instances.
func (c *Cloud) AddGroup(ctx context.Context, in awsapi.Scope, g Group) error {
	tags := tagList(g.Tags)
	for _, t := range tags {
		t.(map[string]any)["PropagateAtLaunch"] = true
	}
	kind := g.InstanceType
	if kind == "" {
		kind = "m6i.large"
		c.mu.Lock()
		if i, ok := c.images.get(g.ImageID); ok && i.arch == "arm64" {
			kind = "m6g.large"
		}
		c.mu.Unlock()
	}
	if _, err := c.Given().Call(ctx, in, "ec2", "CreateLaunchTemplate", map[string]any{
		"LaunchTemplateName": g.Name,
		"LaunchTemplateData": map[string]any{
			"ImageId": g.ImageID, "InstanceType": kind, "IamInstanceProfile": map[string]any{"Name": or(g.Profile, g.Name)},
		},
	}); err != nil {
		return err
	}
	low, high := g.Min, g.Max
	if low == 0 {
		low = g.Size
	}
	if high == 0 {
		high = 2 * g.Size
	}
	region := or(in.Region, c.Region)
	_, err := c.Given().Call(ctx, in, "autoscaling", "CreateAutoScalingGroup", map[string]any{
		"AutoScalingGroupName": g.Name, "MinSize": low, "MaxSize": high, "DesiredCapacity": g.Size, "Tags": tags,
		"LaunchTemplate":    map[string]any{"LaunchTemplateName": g.Name, "Version": "1"},
		"AvailabilityZones": []any{region + "a", region + "b", region + "c"},
	})
	return err
}

type group struct {
	*resource
	template       input // LaunchTemplateSpecification
	low, high      int64
	desired        int64
	zones, subnets []string
	instances      []*instance
	carried        map[string]string // tags for instances
	nextTry        time.Time         // after a launch that failed
}

// groupNamed finds a group.
func (k *call) groupNamed(name string) (*group, error) {
	g, ok := k.groups.get(k.key(name))
	if !ok {
		return nil, k.fail("ValidationError", "AutoScalingGroup name not found - no such group: %s", name)
	}
	return g, nil
}

// templateSpec reads the launch template of a group, nil if the input names none.
func templateSpec(in input) input {
	if t := in.sub("LaunchTemplate"); t != nil {
		return t
	}
	return in.sub("MixedInstancesPolicy").sub("LaunchTemplate").sub("LaunchTemplateSpecification")
}

func createAutoScalingGroup(k *call) (map[string]any, error) {
	if err := k.unsimulated("LaunchConfigurationName", "InstanceId"); err != nil {
		return nil, err
	}
	name := k.in.str("AutoScalingGroupName")
	if _, ok := k.groups.get(k.key(name)); ok {
		return nil, k.fail("AlreadyExists", "AutoScalingGroup by this name already exists - A group with the name %s already exists", name)
	}
	g := &group{template: templateSpec(k.in), zones: k.in.strs("AvailabilityZones"), carried: map[string]string{"aws:autoscaling:groupName": name}}
	if v := k.in.str("VPCZoneIdentifier"); v != "" {
		g.subnets = strings.Split(v, ",")
	}
	if g.template == nil {
		return nil, k.fail("ValidationError", "Valid requests must contain either LaunchTemplate, LaunchConfigurationName, InstanceId or MixedInstancesPolicy parameter.")
	}
	if len(g.zones)+len(g.subnets) == 0 {
		return nil, k.fail("ValidationError", "At least one Availability Zone or VPC Subnet is required.")
	}
	if err := k.sized(g); err != nil {
		return nil, err
	}
	if _, err := k.launchFor(g, g.template, 0); err != nil {
		return nil, k.fail("ValidationError", "You must use a valid fully-formed launch template. %s", err)
	}
	for _, t := range k.in.subs("Tags") {
		if t.bool("PropagateAtLaunch") {
			g.carried[t.str("Key")] = t.str("Value")
		}
	}
	g.resource = k.make("auto-scaling-group", name, name, k.in.tags("Tags"))
	k.groups.put(k.key(name), g)
	k.scale(g)
	return map[string]any{}, nil
}

// sized reads the sizes of a group, where the input gives them.
func (k *call) sized(g *group) error {
	g2 := *g
	g2.low, g2.high = k.in.intOr("MinSize", g.low), k.in.intOr("MaxSize", g.high)
	g2.desired = k.in.intOr("DesiredCapacity", max(g.desired, g2.low))
	if !k.in.has("DesiredCapacity") {
		g2.desired = min(g2.desired, g2.high)
	}
	if g2.low < 0 || g2.low > g2.high {
		return k.fail("ValidationError", "Max bound, %d, must be greater than or equal to min bound, %d", g2.high, g2.low)
	}
	if g2.desired < g2.low || g2.desired > g2.high {
		return k.fail("ValidationError", "Desired capacity:%d must be between the specified min size:%d and max size:%d", g2.desired, g2.low, g2.high)
	}
	*g = g2
	return nil
}

// launchFor is what the nth instance of a group is launched from.
func (k *call) launchFor(g *group, template input, n int) (launch, error) {
	in, err := k.withTemplate(input{}, template)
	if err != nil {
		return launch{}, err
	}
	in = maps.Clone(in)
	zone := ""
	if len(g.subnets) > 0 {
		in["SubnetId"] = strings.TrimSpace(g.subnets[n%len(g.subnets)])
	} else {
		zone = g.zones[n%len(g.zones)]
	}
	what, err := k.launchOf(in, zone)
	if err != nil {
		return what, err
	}
	maps.Copy(what.instanceTags, g.carried)
	if t, err := k.template(template); err == nil {
		if what.version, err = k.version(t, template.str("Version")); err != nil {
			return what, err
		}
		what.instanceTags["aws:ec2launchtemplate:id"] = t.id
		what.instanceTags["aws:ec2launchtemplate:version"] = strconv.FormatInt(what.version.number, 10)
	}
	return what, nil
}

// grow launches an instance of a group; nil if it cannot be launched.
func (k *call) grow(g *group, template input) *instance {
	what, err := k.launchFor(g, template, len(g.instances))
	if err != nil {
		return nil
	}
	what.group = g.name
	i := k.launch(what, k.mint("r-", 17), 0)
	i.owner = g.name
	g.instances = append(g.instances, i)
	return i
}

func (g *group) live() []*instance {
	return slices.DeleteFunc(slices.Clone(g.instances), func(i *instance) bool { return i.removed })
}

// scale brings a group to its size.
func (k *call) scale(g *group) {
	live := g.live()
	for n := int64(len(live)); n < g.desired; n++ {
		if i := k.grow(g, g.template); i == nil || i.phase.reason != "" {
			g.nextTry = k.now.Add(time.Minute)
			return
		}
	}
	for n := int64(len(live)); n > g.desired; n-- {
		live[int64(len(live))-n].terminate(k) // the oldest first
	}
}

// keepUp replaces what a group has lost.
func (c *Cloud) keepUp(g *group, now time.Time) {
	if int64(len(g.live())) < g.desired && !now.Before(g.nextTry) {
		c.byItself("autoscaling", g.place, "group "+g.key(g.name), now, func(k *call) { k.scale(g) })
	}
}

func describeAutoScalingGroups(k *call) (map[string]any, error) {
	names := k.in.strs("AutoScalingGroupNames")
	var rows []*group
	for _, g := range k.groups.all() {
		if g.place == k.place && (names == nil || slices.Contains(names, g.name)) {
			rows = append(rows, g)
		}
	}
	rows, err := filter(k, rows, fields[*group]{})
	if err != nil {
		return nil, err
	}
	rows, next := page(k, rows, "MaxRecords")
	return object("NextToken", next, "AutoScalingGroups", list(rows, func(g *group) map[string]any {
		var tags []any
		for _, t := range tagList(g.tags) {
			t := t.(map[string]any)
			_, carried := g.carried[t["Key"].(string)]
			tags = append(tags, object("Key", t["Key"], "Value", t["Value"], "ResourceId", g.name, "ResourceType", "auto-scaling-group", "PropagateAtLaunch", carried))
		}
		instances := []any{}
		for _, i := range g.instances {
			state := i.phase.at(k.now)
			if state == "terminated" {
				continue
			}
			health := "Healthy"
			if i.removed || state != "pending" && state != "running" {
				health = "Unhealthy"
			}
			life := map[string]string{"pending": "Pending", "running": "InService"}[state]
			one := object("InstanceId", i.id, "InstanceType", i.instanceType, "AvailabilityZone", i.zone, "LifecycleState", or(life, "Terminating"),
				"HealthStatus", health, "ProtectedFromScaleIn", false)
			if t, err := k.template(g.template); err == nil && i.version != nil {
				one["LaunchTemplate"] = object("LaunchTemplateId", t.id, "LaunchTemplateName", t.name, "Version", strconv.FormatInt(i.version.number, 10))
			}
			instances = append(instances, one)
		}
		template := maps.Clone(g.template)
		if t, err := k.template(g.template); err == nil { // AWS tells both, whichever it was given
			template["LaunchTemplateId"], template["LaunchTemplateName"] = t.id, t.name
		}
		return object("AutoScalingGroupName", g.name, "AutoScalingGroupARN", "arn:aws:autoscaling:"+g.region+":"+g.account+":autoScalingGroup:"+asUUID(hexOf(k.hash("group", g.name)))+":autoScalingGroupName/"+g.name,
			"MinSize", g.low, "MaxSize", g.high, "DesiredCapacity", g.desired, "DefaultCooldown", 300, "HealthCheckType", "EC2", "CreatedTime", g.made,
			"AvailabilityZones", append([]string{}, g.zones...), "VPCZoneIdentifier", strings.Join(g.subnets, ","), "LaunchTemplate", template,
			"Instances", instances, "Tags", tags)
	})), nil
}

func updateAutoScalingGroup(k *call) (map[string]any, error) {
	if err := k.unsimulated("LaunchConfigurationName"); err != nil {
		return nil, err
	}
	g, err := k.groupNamed(k.in.str("AutoScalingGroupName"))
	if err != nil {
		return nil, err
	}
	template := templateSpec(k.in)
	if template != nil {
		if _, err := k.launchFor(g, template, 0); err != nil {
			return nil, k.fail("ValidationError", "You must use a valid fully-formed launch template. %s", err)
		}
	}
	if err := k.sized(g); err != nil {
		return nil, err
	}
	if template != nil {
		g.template = maps.Clone(template)
	}
	k.changed(g.resource, "settings")
	k.scale(g)
	return map[string]any{}, nil
}

// refresh replaces the instances of a group, a batch at a time.
type refresh struct {
	place
	id          string
	group       *group
	in          input
	before      input // the group's launch template when it began
	after       input // what the new ones are launched from
	status      string
	reason      string
	began, over time.Time
	old         []*instance // to be replaced; what has been comes first
	fresh       []*instance // in their place
	all, done   int         // of the direction in which it goes
	next        time.Time   // when the batch under way is done
	batch       int         // size of the batch under way; 0 if none is
	bake        time.Time   // when it has been watched for long enough
	checkpoints []int64     // to come
	rolledBack  time.Time
}

// active says whether a refresh is under way.
func (r *refresh) active() bool { return r.over.IsZero() }

func (k *call) activeRefresh(g *group) *refresh {
	for _, r := range k.refreshes.all() {
		if r.group == g && r.active() {
			return r
		}
	}
	return nil
}

func startInstanceRefresh(k *call) (map[string]any, error) {
	if s := k.in.str("Strategy"); s != "" && s != "Rolling" {
		return nil, k.fail("NotSimulated", "strategy %s of an instance refresh is not simulated", s)
	}
	g, err := k.groupNamed(k.in.str("AutoScalingGroupName"))
	if err != nil {
		return nil, err
	}
	if k.activeRefresh(g) != nil {
		return nil, k.fail("InstanceRefreshInProgress", "An Instance Refresh is already in progress and blocks the execution of this Instance Refresh.")
	}
	r := &refresh{place: k.place, id: k.uuid(), group: g, in: maps.Clone(k.in), before: g.template, after: g.template, status: "Pending", began: k.now}
	if t := templateSpec(k.in.sub("DesiredConfiguration")); t != nil {
		r.after = maps.Clone(t)
	}
	new, err := k.launchFor(g, r.after, 0)
	if err != nil {
		return nil, k.fail("ValidationError", "%s", err)
	}
	prefs := k.in.sub("Preferences")
	if p := prefs.intOr("MinHealthyPercentage", 90); p < 0 || p > 100 {
		return nil, k.fail("ValidationError", "MinHealthyPercentage is from 0 to 100")
	}
	if prefs.bool("AutoRollback") {
		if why := r.irreversible(k); why != "" {
			return nil, k.fail("ValidationError", "AutoRollback cannot be used: %s", why)
		}
	}
	for _, v := range elements(prefs["CheckpointPercentages"]) {
		n, _ := number(v)
		r.checkpoints = append(r.checkpoints, n)
	}
	for _, i := range g.live() {
		if !prefs.bool("SkipMatching") || i.version != new.version || i.image != new.image {
			r.old = append(r.old, i)
		}
	}
	r.all = len(r.old)
	r.next = k.now
	k.refreshes.put(r.id, r)
	k.effects = append(k.effects, Effect{Change: "made", Kind: "instance-refresh", ID: r.id, What: g.name})
	return object("InstanceRefreshId", r.id), nil
}

// irreversible says why a refresh cannot be rolled back; "" if it can.
func (r *refresh) irreversible(k *call) string {
	if templateSpec(r.in.sub("DesiredConfiguration")) == nil {
		return "it has no desired configuration"
	}
	if v := r.before.str("Version"); v == "" || strings.HasPrefix(v, "$") {
		return "the group's launch template has no fixed version"
	}
	if in, err := k.withTemplate(input{}, r.before); err == nil && strings.HasPrefix(in.str("ImageId"), "resolve:ssm:") {
		return "the group's image comes from a parameter"
	}
	return ""
}

// proceed lets a refresh get as far as it has got by now.
func (c *Cloud) proceed(r *refresh, now time.Time) {
	for r.active() && !now.Before(r.next) {
		c.byItself("autoscaling", r.place, r.id, r.next, r.step)
	}
}

// step ends the batch under way, and begins the next one or ends the refresh.
func (r *refresh) step(k *call) {
	back := r.status == "RollbackInProgress"
	if r.batch > 0 {
		gone := r.old[r.done : r.done+r.batch]
		if back {
			gone = r.fresh[r.done : r.done+r.batch]
		}
		for _, i := range gone {
			i.terminate(k)
		}
		r.done, r.batch = r.done+r.batch, 0
	}
	switch {
	case r.status == "Cancelling":
		r.end(k, "Cancelled", "Cancelled by user")
		return
	case r.done == r.all && back:
		r.end(k, "RollbackSuccessful", "")
		return
	case r.done == r.all && r.bake.IsZero():
		r.bake = k.now.Add(time.Duration(r.in.sub("Preferences").int("BakeTime")) * time.Second)
		r.status, r.next = "Baking", r.bake
		return
	case r.done == r.all:
		r.group.template = r.after
		k.changed(r.group.resource, "launch template")
		r.end(k, "Successful", "")
		return
	}
	if !back {
		r.status = "InProgress"
	}
	if wait := r.checkpoint(); wait > 0 {
		r.next = k.now.Add(wait)
		return
	}
	if !r.replace(k, back) {
		r.trouble(k, back, "The new instances could not be launched or failed their health checks")
	}
}

// checkpoint says how long to wait for a person, if one is reached.
func (r *refresh) checkpoint() time.Duration {
	if len(r.checkpoints) == 0 || int64(r.done*100/r.all) < r.checkpoints[0] {
		return 0
	}
	r.checkpoints = r.checkpoints[1:]
	if len(r.checkpoints) == 0 {
		r.all = r.done // a last one below 100 is where it ends
	}
	return time.Duration(r.in.sub("Preferences").intOr("CheckpointDelay", 3600)) * time.Second
}

// replace begins a batch. It says whether its instances could be launched.
func (r *refresh) replace(k *call, back bool) bool {
	prefs := r.in.sub("Preferences")
	healthy := prefs.intOr("MinHealthyPercentage", 90)
	size := max(1, len(r.group.live())*int(100-healthy)/100)
	r.batch = min(size, r.all-r.done)
	from := r.after
	if back {
		from = r.before
	}
	replaced := r.old
	if back {
		replaced = r.fresh
	}
	launchFirst := healthy == 100 || prefs.int("MaxHealthyPercentage") > 100
	for n := range r.batch {
		if !launchFirst {
			replaced[r.done+n].terminate(k)
		}
		i := k.grow(r.group, from)
		if i == nil || i.phase.reason != "" {
			r.batch = 0
			return false
		}
		if !back {
			r.fresh = append(r.fresh, i)
		}
	}
	r.next = k.now.Add(k.pick(k.Delays.Replace, "replace", r.id, r.status, r.done) + time.Duration(prefs.int("InstanceWarmup"))*time.Second)
	return true
}

// trouble ends a refresh that cannot go on, or turns it round.
func (r *refresh) trouble(k *call, back bool, why string) {
	switch {
	case back:
		r.end(k, "RollbackFailed", why)
	case r.in.sub("Preferences").bool("AutoRollback"):
		r.turnBack(k, why)
	default:
		r.end(k, "Failed", why)
	}
}

func (r *refresh) turnBack(k *call, why string) {
	r.status, r.reason, r.rolledBack = "RollbackInProgress", why, k.now
	r.all, r.done, r.batch, r.next = len(r.fresh), 0, 0, k.now
	r.checkpoints = nil
}

func (r *refresh) end(k *call, status, why string) {
	r.status, r.over = status, k.now
	if why != "" {
		r.reason = why
	}
	k.effects = append(k.effects, Effect{Change: "changed", Kind: "instance-refresh", ID: r.id, What: status})
	k.scale(r.group)
}

func describeInstanceRefreshes(k *call) (map[string]any, error) {
	g, err := k.groupNamed(k.in.str("AutoScalingGroupName"))
	if err != nil {
		return nil, err
	}
	named := k.in.strs("InstanceRefreshIds")
	var rows []*refresh
	for _, r := range k.refreshes.all() {
		if r.group == g && (named == nil || slices.Contains(named, r.id)) {
			rows = append(rows, r)
		}
	}
	slices.SortStableFunc(rows, func(a, b *refresh) int { return b.began.Compare(a.began) })
	rows, next := page(k, rows, "MaxRecords")
	return object("NextToken", next, "InstanceRefreshes", list(rows, func(r *refresh) map[string]any {
		percent := 100
		if r.all > 0 {
			percent = r.done * 100 / r.all
		}
		out := object("InstanceRefreshId", r.id, "AutoScalingGroupName", g.name, "Status", r.status, "StatusReason", r.reason, "StartTime", r.began,
			"EndTime", r.over, "PercentageComplete", percent, "InstancesToUpdate", r.all-r.done, "Strategy", "Rolling", "Preferences", r.in.sub("Preferences"),
			"DesiredConfiguration", r.in.sub("DesiredConfiguration"))
		if !r.rolledBack.IsZero() {
			out["RollbackDetails"] = object("RollbackReason", r.reason, "RollbackStartTime", r.rolledBack,
				"PercentageCompleteOnRollback", percent, "InstancesToUpdateOnRollback", r.all-r.done)
		}
		return out
	})), nil
}

// toEnd finds the refresh that a call wants to end.
func (k *call) toEnd() (*refresh, error) {
	g, err := k.groupNamed(k.in.str("AutoScalingGroupName"))
	if err != nil {
		return nil, err
	}
	if r := k.activeRefresh(g); r != nil {
		return r, nil
	}
	return nil, k.fail("ActiveInstanceRefreshNotFound", "No in progress or pending Instance Refresh found for Auto Scaling group %s", g.name)
}

func cancelInstanceRefresh(k *call) (map[string]any, error) {
	r, err := k.toEnd()
	if err != nil {
		return nil, err
	}
	r.status = "Cancelling"
	k.effects = append(k.effects, Effect{Change: "changed", Kind: "instance-refresh", ID: r.id, What: "cancel"})
	return object("InstanceRefreshId", r.id), nil
}

func rollbackInstanceRefresh(k *call) (map[string]any, error) {
	r, err := k.toEnd()
	if err != nil {
		return nil, err
	}
	if why := r.irreversible(k); why != "" {
		return nil, k.fail("IrreversibleInstanceRefresh", "The instance refresh cannot be rolled back: %s", why)
	}
	if r.status != "RollbackInProgress" {
		if r.batch > 0 { // the old ones of the batch under way are as good as gone
			for _, i := range r.old[r.done : r.done+r.batch] {
				i.terminate(k)
			}
		}
		r.turnBack(k, "Rolled back by user")
		k.effects = append(k.effects, Effect{Change: "changed", Kind: "instance-refresh", ID: r.id, What: "rollback"})
	}
	return object("InstanceRefreshId", r.id), nil
}
