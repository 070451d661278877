package ssmnode

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/inventory"
)

// inventoryTypes are what Systems Manager collects, by the kind that it is here.
// Others (kernel, port, user) it does not know.
var inventoryTypes = map[string]struct {
	name string
	item func(node string, e map[string]any) inventory.Item
}{
	"package":   {"AWS:Application", packageItem},
	"interface": {"AWS:Network", interfaceItem},
	"service":   {"AWS:Service", serviceItem}, // of Windows only
	"instance":  {"AWS:InstanceInformation", instanceItem},
}

// staleAfter is how old an inventory may be without a word about it: twice of what
// its association collects at the least.
const staleAfter = 48 * time.Hour

// mostEntries bounds what is read of a type, as Systems Manager bounds what it takes.
const mostEntries = 10_000

// reports is what this worker has reported, so that a step can tell what changed.
// A worker that has just started knows nothing, and everything has changed.
type reports struct {
	mu   sync.Mutex
	last map[string]string // digest, by node and section
}

func collector() *reports { return &reports{last: map[string]string{}} }

func (r *reports) collect(n node, ctx context.Context, in host.InventoryCollectInput) (host.InventoryCollectOutput, error) {
	out := host.InventoryCollectOutput{Counts: map[string]int{}, Problems: []string{}}
	asked := in.Kinds != nil
	if err := host.CheckInventory(&in); err != nil {
		return out, err
	}
	if len(in.Files)+len(in.Facts) > 0 {
		return out, action.Errorf(action.Invalid, "files and facts: Systems Manager's inventory has what its association with the node collects, and nothing that a step asks for; use host.command.run, or put Almanac's agent on the node")
	}
	snap := inventory.Snapshot{Node: n.target.ID}
	for _, kind := range slices.Compact(slices.Sorted(slices.Values(in.Kinds))) {
		items, at, err := n.entries(ctx, kind)
		switch {
		case err != nil:
			return out, err
		case inventoryTypes[kind].name == "":
			if asked {
				out.Problems = append(out.Problems, kind+": Systems Manager's inventory has nothing of that kind")
			}
			continue
		case at.IsZero():
			if asked || kind != "service" {
				out.Problems = append(out.Problems, kind+": Systems Manager has no "+inventoryTypes[kind].name+" of this node")
			}
			continue
		}
		section, err := inventory.NewSection(kind, "", items)
		if err != nil {
			out.Problems = append(out.Problems, err.Error())
			continue
		}
		if age := n.AWS.Time().Sub(at); age > staleAfter {
			out.Problems = append(out.Problems, fmt.Sprintf("%s: collected %s ago; look at the association of AWS-GatherSoftwareInventory", kind, age.Round(time.Hour)))
		}
		if snap.At.IsZero() || at.Before(snap.At) {
			snap.At = at
		}
		out.Counts[kind] = len(section.Items)
		snap.Sections = append(snap.Sections, section)
	}
	if len(snap.Sections) == 0 {
		return out, action.Errorf(action.Failed, "Systems Manager has no inventory of %s: associate the document AWS-GatherSoftwareInventory with it, and see whether its instance profile allows ssm:PutInventory (%s)",
			n.target.ID, strings.Join(out.Problems, "; "))
	}
	out.Digest = snap.Digest()
	if n.Report != nil {
		parts, err := snap.Parts()
		if err != nil {
			return out, action.Errorf(action.Failed, "%w", err)
		}
		for _, part := range parts {
			if err := n.Report(ctx, part); err != nil {
				return out, action.Errorf(action.Unavailable, "the inventory did not take the report; it is sent again: %w", err)
			}
		}
		out.Reported = true
	}
	out.Changed = r.changed(snap)
	return out, nil
}

// changed tells whether anything differs from the last report, and notes this one.
func (r *reports) changed(s inventory.Snapshot) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	differs := false
	for _, section := range s.Sections {
		key := s.Node + " " + section.Name()
		differs = differs || r.last[key] != section.Digest
		r.last[key] = section.Digest
	}
	return differs
}

// entries are the items of a kind, and when they were collected; the zero time if
// there is no inventory of that kind.
func (n node) entries(ctx context.Context, kind string) (items []inventory.Item, at time.Time, err error) {
	of, ok := inventoryTypes[kind]
	if !ok {
		return nil, at, nil
	}
	in := map[string]any{"InstanceId": n.target.ID, "TypeName": of.name, "MaxResults": int64(mostNodes)}
	for {
		out, err := n.Call(ctx, "ssm", "ListInventoryEntries", in)
		if err != nil {
			return nil, at, err
		}
		if t, err := time.Parse(time.RFC3339, text(out, "CaptureTime")); err == nil {
			at = t
		}
		for _, e := range objects(out, "Entries") {
			if item := of.item(n.target.ID, e); item.Key != "" {
				items = append(items, item)
			}
		}
		if text(out, "NextToken") == "" || len(items) > mostEntries {
			return items, at, nil
		}
		in["NextToken"] = text(out, "NextToken")
	}
}

// values are those of the entry that are not empty, by our names for them.
func values(e map[string]any, names map[string]string) map[string]any {
	all := map[string]any{}
	for theirs, ours := range names {
		if v := text(e, theirs); v != "" {
			all[ours] = v
		}
	}
	return all
}

func packageItem(_ string, e map[string]any) inventory.Item {
	v := values(e, map[string]string{"Name": "name", "Architecture": "arch", "Publisher": "publisher", "Summary": "summary"})
	version := text(e, "Version")
	if release := text(e, "Release"); release != "" && release != "(none)" {
		version += "-" + release
	}
	if epoch := text(e, "Epoch"); epoch != "" && epoch != "0" && epoch != "(none)" {
		version = epoch + ":" + version
	}
	v["version"] = version
	return inventory.Item{Kind: "package", Key: clip(text(e, "Name")), Values: v}
}

func interfaceItem(_ string, e map[string]any) inventory.Item {
	addresses := []string{}
	for _, name := range []string{"IPV4", "IPV6"} {
		for a := range strings.FieldsFuncSeq(text(e, name), func(r rune) bool { return r == ',' || r == ' ' || r == ';' }) {
			addresses = append(addresses, a)
		}
	}
	slices.Sort(addresses)
	v := values(e, map[string]string{"MacAddress": "mac", "Gateway": "gateway", "SubnetMask": "mask", "DNSServer": "dns"})
	v["addresses"] = addresses
	return inventory.Item{Kind: "interface", Key: clip(text(e, "Name")), Values: v}
}

func serviceItem(_ string, e map[string]any) inventory.Item {
	v := values(e, map[string]string{"DisplayName": "display_name", "StartType": "state"})
	v["active"] = strings.EqualFold(text(e, "Status"), "Running")
	v["enabled"] = strings.HasPrefix(strings.ToLower(text(e, "StartType")), "auto")
	return inventory.Item{Kind: "service", Key: clip(text(e, "Name")), Values: v}
}

func instanceItem(node string, e map[string]any) inventory.Item {
	return inventory.Item{Kind: "instance", Key: node, Values: values(e, map[string]string{
		"ComputerName": "hostname", "PlatformName": "os_name", "PlatformVersion": "os_version", "PlatformType": "platform",
		"IpAddress": "address", "AgentVersion": "ssm_agent", "ResourceType": "resource_type",
	})}
}

// clip keeps a key within what the inventory takes.
func clip(s string) string {
	if len(s) > inventory.MaxKey {
		s = strings.ToValidUTF8(s[:inventory.MaxKey], "")
	}
	return strings.ReplaceAll(s, "\x00", "")
}
