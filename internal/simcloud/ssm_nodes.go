package simcloud

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Hybrid is a machine outside AWS that is registered with Systems Manager.
type Hybrid struct {
	Name, Platform  string // linux, windows
	Region, Account string // empty: those of the cloud
	Tags            map[string]string
	Agent           Agent
}

// Register registers a hybrid node, as its agent does with an activation, and
// returns its id (mi-…).
func (c *Cloud) Register(h Hybrid) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := place{or(h.Account, c.Account), or(h.Region, c.Region)}
	id := "mi-" + hexOf(c.hash("hybrid", p, h.Name, len(c.instances.rows)))[:17]
	tags := map[string]string{}
	for k, v := range h.Tags {
		tags[k] = v
	}
	now := c.now()
	c.instances.put(id, &instance{
		resource: &resource{place: p, kind: "hybrid-node", id: id, name: h.Name, tags: tags, made: now, origin: byOther},
		launch:   launch{image: &image{resource: &resource{name: h.Name}, platform: map[string]string{"windows": "windows"}[h.Platform]}},
		phase:    phase{after: "running"}, running: now, registered: now, agent: h.Agent, boots: 1, hybrid: true,
	})
	return id
}

// Patch is a patch that Patch Manager knows of for an instance.
type Patch struct {
	Title, ID                string // ID is "bash.x86_64", or of Windows "KB5034123"
	Classification, Severity string
	State                    string // Missing, Installed, InstalledOther, InstalledRejected …
	CVEs                     string
	Fails                    bool // its installation fails
}

// patchState is what Patch Manager reported last of an instance.
type patchState struct {
	patches    []Patch
	operation  string
	reboot     string
	baseline   string
	start, end time.Time
	installed  map[string]time.Time // by id
}

// patch notes what a run of the patch baseline did.
func (c *Cloud) patch(cmd *command, v *invocation) {
	if cmd.in.str("DocumentName") != "AWS-RunPatchBaseline" {
		return
	}
	p := c.patched[v.instance.id]
	if p == nil {
		p = &patchState{patches: c.patchesOf(v.instance), installed: map[string]time.Time{}, baseline: "pb-0123456789abcdef0"}
		c.patched[v.instance.id] = p
	}
	params := cmd.in.sub("Parameters")
	p.start, p.end = v.start, v.end
	p.reboot = "RebootIfNeeded"
	if r := params.strs("RebootOption"); len(r) > 0 {
		p.reboot = r[0]
	}
	if p.operation = params.strs("Operation")[0]; p.operation != "Install" {
		return
	}
	changed := false
	for i := range p.patches {
		one := &p.patches[i]
		if one.State != "Missing" && one.State != "Failed" {
			continue
		}
		if one.Fails {
			one.State = "Failed"
			continue
		}
		one.State, changed = "InstalledPendingReboot", true
		p.installed[one.ID] = v.end
	}
	pending := slices.ContainsFunc(p.patches, func(one Patch) bool { return one.State == "InstalledPendingReboot" })
	if p.reboot == "NoReboot" || !pending && !changed {
		return
	}
	v.instance.boots++
	for i := range p.patches {
		if p.patches[i].State == "InstalledPendingReboot" {
			p.patches[i].State = "Installed"
		}
	}
}

// patchesOf are the patches of an instance before anything was done: without
// Options.Patches 200 that are installed, and up to 20 that are missing.
func (c *Cloud) patchesOf(i *instance) []Patch {
	if c.Patches != nil {
		return slices.Clone(c.Patches(i.public()))
	}
	severities := []string{"Critical", "Important", "Medium", "Low"}
	var all []Patch
	for n := range 200 + int(c.share("patches", i.id)*20) {
		h := c.hash("patch", i.id, n)
		one := Patch{ID: "package-" + hex.EncodeToString(h[:3]) + ".x86_64", Classification: "Security", Severity: severities[int(h[4])%4], State: "Installed"}
		one.Title = strings.TrimSuffix(one.ID, ".x86_64") + "-1." + hex.EncodeToString(h[3:4])
		if n >= 200 {
			one.State = "Missing"
		}
		all = append(all, one)
	}
	return all
}

func (p *patchState) count(states ...string) int {
	n := 0
	for _, one := range p.patches {
		if slices.Contains(states, one.State) {
			n++
		}
	}
	return n
}

func describeInstancePatchStates(k *call) (map[string]any, error) {
	named := k.in.strs("InstanceIds")
	if len(named) > 50 {
		return nil, k.fail("ValidationException", "Value at 'instanceIds' failed to satisfy constraint: Member must have length less than or equal to 50")
	}
	var rows []string
	for _, id := range named {
		if p := k.patched[id]; p != nil && !k.now.Before(p.end) {
			rows = append(rows, id)
		}
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "InstancePatchStates", list(rows, func(id string) map[string]any {
		p := k.patched[id]
		critical, other := 0, 0
		for _, one := range p.patches {
			if slices.Contains([]string{"Missing", "Failed", "InstalledRejected", "InstalledPendingReboot"}, one.State) {
				if one.Severity == "Critical" {
					critical++
				} else {
					other++
				}
			}
		}
		return object("InstanceId", id, "PatchGroup", "default", "BaselineId", p.baseline, "Operation", p.operation, "RebootOption", p.reboot,
			"OperationStartTime", p.start, "OperationEndTime", p.end, "InstalledCount", p.count("Installed"), "MissingCount", p.count("Missing"),
			"InstalledOtherCount", p.count("InstalledOther"), "InstalledRejectedCount", p.count("InstalledRejected"),
			"InstalledPendingRebootCount", p.count("InstalledPendingReboot"), "FailedCount", p.count("Failed"), "NotApplicableCount", 0,
			"CriticalNonCompliantCount", critical, "SecurityNonCompliantCount", 0, "OtherNonCompliantCount", other)
	})), nil
}

func describeInstancePatches(k *call) (map[string]any, error) {
	id := k.in.str("InstanceId")
	if i, ok := k.instances.get(id); !ok || i.place != k.place {
		return nil, k.fail("InvalidInstanceId", "The instance %s is not valid", id)
	}
	if size := k.in.intOr("MaxResults", 10); size < 10 || size > 100 {
		return nil, k.fail("ValidationException", "Value '%d' at 'maxResults' failed to satisfy constraint: Member must have value from 10 to 100", size)
	}
	var rows []Patch
	p := k.patched[id]
	if p != nil && !k.now.Before(p.end) {
		rows = slices.Clone(p.patches)
	}
	for _, f := range k.in.subs("Filters") {
		if f.str("Key") != "State" {
			return nil, k.fail("NotSimulated", "filters by %s are not simulated", f.str("Key"))
		}
		rows = slices.DeleteFunc(rows, func(one Patch) bool { return !slices.Contains(f.strs("Values"), one.State) })
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "Patches", list(rows, func(one Patch) map[string]any {
		out := object("Title", one.Title, "KBId", one.ID, "Classification", one.Classification, "Severity", one.Severity, "State", one.State, "CVEIds", one.CVEs)
		out["InstalledTime"] = p.installed[one.ID]
		if p.installed[one.ID].IsZero() {
			out["InstalledTime"] = time.Unix(0, 0).UTC()
		}
		return out
	})), nil
}

// inventoryType is what an instance told of one type.
type inventoryType struct {
	name, schema, captured, hash string
	entries                      []any
}

var captureForm = regexp.MustCompile(`^20\d\d-(0[1-9]|1[012])-([12]\d|3[01]|0[1-9])T(2[0-3]|[01]\d)(:[0-5]\d){2}Z$`)

func (k *call) inventoryOf(name string) string { return k.key(k.in.str("InstanceId") + " " + name) }

func putInventory(k *call) (map[string]any, error) {
	if i, ok := k.instances.get(k.in.str("InstanceId")); !ok || i.place != k.place {
		return nil, k.fail("InvalidInstanceId", "The instance %s is not valid", k.in.str("InstanceId"))
	}
	for _, item := range k.in.subs("Items") {
		if !captureForm.MatchString(item.str("CaptureTime")) {
			return nil, k.fail("ValidationException", "Value '%s' at 'captureTime' failed to satisfy constraint", item.str("CaptureTime"))
		}
		entries := elements(item["Content"])
		if len(entries) > 10000 {
			return nil, k.fail("ItemSizeLimitExceededException", "The inventory item size has exceeded the size limit.")
		}
		text, _ := json.Marshal(entries)
		sum := md5.Sum(text)
		k.inventory.put(k.inventoryOf(item.str("TypeName")), &inventoryType{item.str("TypeName"), item.str("SchemaVersion"), item.str("CaptureTime"), hex.EncodeToString(sum[:]), entries})
	}
	return object("Message", "Inventory was put"), nil
}

func listInventoryEntries(k *call) (map[string]any, error) {
	if err := k.unsimulated("Filters"); err != nil {
		return nil, err
	}
	if i, ok := k.instances.get(k.in.str("InstanceId")); !ok || i.place != k.place {
		return nil, k.fail("InvalidInstanceId", "The instance %s is not valid", k.in.str("InstanceId"))
	}
	if size := k.in.intOr("MaxResults", 50); size < 1 || size > 50 {
		return nil, k.fail("ValidationException", "Value '%d' at 'maxResults' failed to satisfy constraint: Member must have value from 1 to 50", size)
	}
	t, ok := k.inventory.get(k.inventoryOf(k.in.str("TypeName")))
	if !ok {
		return object("TypeName", k.in.str("TypeName"), "InstanceId", k.in.str("InstanceId"), "Entries", []any{}), nil
	}
	if !k.in.has("MaxResults") {
		k.in["MaxResults"] = int64(50)
	}
	rows, next := page(k, t.entries, "MaxResults")
	return object("TypeName", t.name, "InstanceId", k.in.str("InstanceId"), "SchemaVersion", t.schema, "CaptureTime", t.captured, "Entries", slices.Clone(rows), "NextToken", next), nil
}
