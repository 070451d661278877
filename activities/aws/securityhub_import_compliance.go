package aws

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/registry"
)

type importComplianceInput struct {
	Scope
	Baseline string `json:"baseline,omitempty" jsonschema:"only what nodes come to against this baseline" default:"all baselines"`
	Fleet    string `json:"fleet,omitempty" jsonschema:"name that tells these findings from those of another fleet that reports to the same account" default:"main"`
}

type importComplianceOutput struct {
	Compliant    int `json:"compliant" jsonschema:"findings that say passed"`
	NonCompliant int `json:"non_compliant" jsonschema:"findings that say failed"`
	Archived     int `json:"archived" jsonschema:"findings archived, since their node or baseline is gone"`
	Unknown      int `json:"unknown" jsonschema:"nodes without a finding, since nobody has looked"`
}

func importCompliance(env Env) action.Action {
	return action.New(action.Def[importComplianceInput, importComplianceOutput]{
		Name:    "aws.securityhub.import_compliance",
		Summary: "Report the fleet's compliance to Security Hub",
		Details: `
There is one finding for each node and baseline, always under the same id: a later report updates it. It passes if the node is compliant, and its workflow is then set to
resolved; when the node is no longer compliant it fails, and Security Hub sets its workflow back to new. What a person has suppressed stays suppressed. The severity is that of the
worst update that is missing. A finding whose node has left the registry, or was not looked at by that baseline any more, is archived. A node that nobody has looked at has no finding.

Findings that are not updated Security Hub deletes after 90 days: report at least that often. They are in the account of the worker (or of the role), whatever account a node is in.

What was reported stays reported: rollback leaves it.
`,
		Example: `action: aws.securityhub.import_compliance
with: { baseline: linux-production, region: eu-central-1 }`,
		Timeout: 30 * time.Minute,
		Do: func(ctx context.Context, in importComplianceInput) (importComplianceOutput, error) {
			return env.in(ctx, in.Scope).importCompliance(ctx, in)
		},
	})
}

// complianceGenerator begins the GeneratorId of these findings; the fleet and the baseline follow.
const complianceGenerator = "almanac/compliance"

func (c client) importCompliance(ctx context.Context, in importComplianceInput) (importComplianceOutput, error) {
	var out importComplianceOutput
	in.Fleet = cmp.Or(in.Fleet, "main")
	if strings.ContainsAny(in.Fleet, "/ ") || len(in.Fleet) > 64 {
		return out, action.Errorf(action.Invalid, "fleet is %q; it is a name of at most 64 characters without slashes and spaces", shortened(in.Fleet, 64))
	}
	if c.Nodes == nil {
		return out, action.Errorf(action.Denied, "this worker knows no nodes: it was started without a registry")
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return out, action.Errorf(action.Unavailable, "list the nodes: %w", err)
	}
	common, err := c.findingsHave(ctx, "")
	if err != nil {
		return out, err
	}
	was, err := c.complianceBefore(ctx, common, in)
	if err != nil {
		return out, err
	}

	var all, resolved []any
	now := map[string]bool{} // ids of the findings of this report
	for i := range nodes {
		if len(nodes[i].Compliance) == 0 {
			out.Unknown++
		}
		for _, found := range nodes[i].Compliance {
			if in.Baseline != "" && found.Baseline != in.Baseline {
				continue
			}
			finding := complianceFinding(common, in.Fleet, &nodes[i].Node, found)
			id := members(finding).text("Id")
			now[id] = true
			all = append(all, finding)
			if found.Status != registry.Compliant {
				out.NonCompliant++
				continue
			}
			out.Compliant++
			// Of a finding that is new the import sets the workflow, of one that is known it cannot.
			before, known := was[id]
			// One that comes back from the archive begins as new.
			workflow := before.in("Workflow").text("Status")
			if known && workflow != "SUPPRESSED" && (workflow != "RESOLVED" || before.text("RecordState") == "ARCHIVED") {
				resolved = append(resolved, map[string]any{"Id": id, "ProductArn": common.text("ProductArn")})
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(was)) {
		if gone := was[id]; !now[id] && gone.text("RecordState") != "ARCHIVED" {
			out.Archived++
			all = append(all, archived(gone, common.text("UpdatedAt")))
		}
	}

	refused, _, err := c.batchImport(ctx, all)
	if err != nil {
		return out, err
	}
	for some := range slices.Chunk(resolved, mostFindings) {
		answer, err := c.call(ctx, "securityhub", "BatchUpdateFindings", members{"FindingIdentifiers": some, "Workflow": map[string]any{"Status": "RESOLVED"}})
		if err != nil {
			return out, err
		}
		for _, f := range answer.list("UnprocessedFindings") {
			refused = append(refused, fmt.Sprintf("%s: %s: %s", f.in("FindingIdentifier").text("Id"), f.text("ErrorCode"), f.text("ErrorMessage")))
		}
	}
	if len(refused) > 0 {
		return out, refusedFindings(refused, len(all))
	}
	return out, nil
}

// complianceBefore are the findings of earlier reports of the fleet (and the
// baseline), by id.
func (c client) complianceBefore(ctx context.Context, common members, in importComplianceInput) (map[string]members, error) {
	equals := func(value, comparison string) []any {
		return []any{map[string]any{"Value": value, "Comparison": comparison}}
	}
	filters := map[string]any{"ProductArn": equals(common.text("ProductArn"), "EQUALS"), "GeneratorId": equals(complianceGenerator+"/"+in.Fleet+"/", "PREFIX")}
	if in.Baseline != "" {
		filters["GeneratorId"] = equals(generator(in.Fleet, in.Baseline), "EQUALS")
	}
	found, err := c.list(ctx, "securityhub", "GetFindings", "Findings", members{"Filters": filters, "MaxResults": mostFindings})
	if err != nil {
		return nil, err
	}
	was := make(map[string]members, len(found))
	for _, f := range found {
		// What is kept is what is needed, since a fleet may have many.
		was[f.text("Id")] = members(members{}.with(members{
			"SchemaVersion": f.text("SchemaVersion"), "Id": f.text("Id"), "ProductArn": f.text("ProductArn"), "GeneratorId": f.text("GeneratorId"),
			"AwsAccountId": f.text("AwsAccountId"), "CreatedAt": f.text("CreatedAt"), "Title": f.text("Title"), "Description": f.text("Description"),
			"Types": f["Types"], "Severity": f["Severity"], "Resources": f["Resources"], "Compliance": f["Compliance"],
			"RecordState": f.text("RecordState"), "Workflow": f["Workflow"],
		}))
	}
	return was, nil
}

// archived is a finding as it was, put away.
func archived(was members, now string) map[string]any {
	return was.with(members{"UpdatedAt": now, "RecordState": "ARCHIVED"})
}

// What ASFF takes of a finding's texts, in characters.
const (
	mostFindingTitle = 256
	mostFindingText  = 1024
	mostFindingID    = 512
)

// complianceFinding is what a node comes to against a baseline, in ASFF.
func complianceFinding(common members, fleet string, n *registry.Node, found registry.Compliance) map[string]any {
	passes := found.Status == registry.Compliant
	status, workflow := "FAILED", "NEW"
	if passes {
		status, workflow = "PASSED", "RESOLVED"
	}
	severity := map[string]any{"Label": severityOf(found)}
	types := []any{"Software and Configuration Checks/Patch Management"}
	missing := 0
	for _, n := range found.Missing {
		missing += n
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	return common.with(members{
		"Id":          bounded(fmt.Sprintf("%s/%s/%s/%s", complianceGenerator, fleet, n.ID, found.Baseline), mostFindingID),
		"GeneratorId": generator(fleet, found.Baseline),
		"Title":       shortened(fmt.Sprintf("Compliance of node %s with baseline %s", n.ID, found.Baseline), mostFindingTitle),
		"Description": shortened(complianceText(n, found), mostFindingText),
		"CreatedAt":   at(found.Since), "FirstObservedAt": at(found.Since), "LastObservedAt": at(found.At),
		"Types": types, "Severity": severity,
		"FindingProviderFields": map[string]any{"Severity": severity, "Types": types}, // what updates take the two from
		"Compliance":            map[string]any{"Status": status},
		"Workflow":              map[string]any{"Status": workflow},
		"RecordState":           "ACTIVE",
		"Resources":             []any{resourceOf(common, n)},
		"PatchSummary":          map[string]any{"Id": bounded(found.Baseline, 256), "MissingCount": missing, "FailedCount": found.Failed},
	})
}

// resourceOf is the machine. What is no instance has a type of no service.
func resourceOf(common members, n *registry.Node) map[string]any {
	partition := strings.Split(common.text("ProductArn"), ":")[1]
	region := cmp.Or(n.Region, strings.Split(common.text("ProductArn"), ":")[3])
	if !instanceForm.MatchString(n.ID) {
		return members{"Type": "Other", "Id": n.ID}.with(members{"Region": n.Region})
	}
	return map[string]any{"Type": "AwsEc2Instance", "Partition": partition, "Region": region,
		"Id": fmt.Sprintf("arn:%s:ec2:%s:%s:instance/%s", partition, region, cmp.Or(n.Account, common.text("AwsAccountId")), n.ID)}
}

// severityOf is that of the worst update that is missing. What could not be
// installed may be anything; a restart that is due is little.
func severityOf(c registry.Compliance) string {
	switch {
	case c.Status == registry.Compliant:
		return "INFORMATIONAL"
	case c.Missing["critical"] > 0:
		return "CRITICAL"
	case c.Missing["important"] > 0:
		return "HIGH"
	case c.Missing["moderate"] > 0 || c.Failed > 0:
		return "MEDIUM"
	}
	return "LOW"
}

func complianceText(n *registry.Node, c registry.Compliance) string {
	var parts []string
	for _, s := range []string{"critical", "important", "moderate", "low", "other"} {
		if c.Missing[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s missing", c.Missing[s], s))
		}
	}
	if c.Failed > 0 {
		parts = append(parts, fmt.Sprintf("%d could not be installed", c.Failed))
	}
	if c.RebootPending {
		parts = append(parts, "a restart is due")
	}
	verb := "does not comply"
	if c.Status == registry.Compliant {
		verb = "complies"
	}
	text := fmt.Sprintf("Node %s", n.ID)
	if n.Name != "" && n.Name != n.ID {
		text += " (" + n.Name + ")"
	}
	text += fmt.Sprintf(" %s with baseline %s", verb, c.Baseline)
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	text += "."
	if c.Message != "" {
		text += " " + c.Message
	}
	return text
}

func generator(fleet, baseline string) string {
	return bounded(complianceGenerator+"/"+fleet+"/"+baseline, mostFindingID)
}

// shortened cuts a text that people read to so many characters.
func shortened(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// bounded cuts a text by which something is found: of two that differ, what is
// left differs.
func bounded(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return strings.ToValidUTF8(s[:most-33], "") + fmt.Sprintf("~%x", sum[:16])
}
