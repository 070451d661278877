package simcloud

import (
	"maps"
	"slices"
	"strings"
	"time"
)

var securityhubOperations = map[string]func(*call) (map[string]any, error){
	"BatchImportFindings": batchImportFindings, "BatchUpdateFindings": batchUpdateFindings, "GetFindings": getFindings,
}

type finding struct {
	at      string // account and region, as a key begins
	id      string
	content input
	updated time.Time
}

// Findings returns the findings of Security Hub, in the order of their ids.
func (c *Cloud) Findings() []map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []map[string]any
	for _, f := range c.findings.all() {
		all = append(all, maps.Clone(f.content))
	}
	return all
}

var findingNeeds = []string{
	"SchemaVersion", "Id", "ProductArn", "GeneratorId", "AwsAccountId", "CreatedAt", "UpdatedAt", "Title", "Description", "Resources",
}

func batchImportFindings(k *call) (map[string]any, error) {
	all := k.in.subs("Findings")
	if len(all) == 0 || len(all) > 100 {
		return nil, k.fail("InvalidInputException", "Findings must have from 1 to 100 elements")
	}
	var failed []any
	for _, f := range all {
		if why := k.importFinding(f); why != "" {
			failed = append(failed, object("Id", f.str("Id"), "ErrorCode", "InvalidInput", "ErrorMessage", why))
		}
	}
	return object("SuccessCount", len(all)-len(failed), "FailedCount", len(failed), "FailedFindings", failed), nil
}

// importFinding takes a finding, or says why it does not.
func (k *call) importFinding(f input) string {
	for _, name := range findingNeeds {
		if !f.has(name) {
			return "Finding does not adhere to Amazon Finding Format. data should have required property '" + name + "'"
		}
	}
	updated := f.time("UpdatedAt")
	switch {
	case updated.IsZero():
		return "UpdatedAt is no date"
	case f.str("AwsAccountId") != k.account:
		return "AwsAccountId is not the account of the caller"
	}
	key := k.key(f.str("ProductArn") + " " + f.str("Id"))
	before, ok := k.findings.get(key)
	switch {
	case ok && !updated.After(before.updated):
		return "" // accepted, and an older one changes nothing
	case ok:
		before.content, before.updated = reimported(before.content, f), updated
		k.effects = append(k.effects, Effect{Change: "changed", Kind: "finding", ID: f.str("Id")})
	default:
		f = maps.Clone(f)
		if !f.has("RecordState") {
			f["RecordState"] = "ACTIVE"
		}
		if f.sub("Workflow").str("Status") == "" {
			f["Workflow"] = map[string]any{"Status": "NEW"}
		}
		k.findings.put(key, &finding{k.key(""), f.str("Id"), f, updated})
		k.effects = append(k.effects, Effect{Change: "made", Kind: "finding", ID: f.str("Id")})
	}
	return ""
}

// reimported is a finding as its provider says it is now. What is people's stays:
// an import changes neither workflow nor notes. But the workflow begins anew when
// the finding comes back or its check fails again, unless it is suppressed.
func reimported(before, f input) input {
	f = maps.Clone(f)
	if !f.has("RecordState") {
		f["RecordState"] = "ACTIVE"
	}
	for _, name := range []string{"Note", "UserDefinedFields", "VerificationState", "Workflow"} {
		delete(f, name)
		if before.has(name) {
			f[name] = before[name]
		}
	}
	returns := before.str("RecordState") == "ARCHIVED" && f.str("RecordState") == "ACTIVE"
	fails := before.sub("Compliance").str("Status") == "PASSED" && f.sub("Compliance").str("Status") != "PASSED"
	if (returns || fails) && before.sub("Workflow").str("Status") != "SUPPRESSED" {
		f["Workflow"] = map[string]any{"Status": "NEW"}
	}
	return f
}

// batchUpdateFindings is what people do to findings: as far as the workflow.
func batchUpdateFindings(k *call) (map[string]any, error) {
	all := k.in.subs("FindingIdentifiers")
	if len(all) == 0 || len(all) > 100 {
		return nil, k.fail("InvalidInputException", "FindingIdentifiers must have from 1 to 100 elements")
	}
	for name := range k.in {
		if name != "FindingIdentifiers" && name != "Workflow" {
			return nil, k.fail("NotSimulated", "%s of BatchUpdateFindings is not simulated; give an answer to it", name)
		}
	}
	status := k.in.sub("Workflow").str("Status")
	if !slices.Contains([]string{"NEW", "NOTIFIED", "RESOLVED", "SUPPRESSED"}, status) {
		return nil, k.fail("InvalidInputException", "Workflow.Status is %q", status)
	}
	var done, not []any
	for _, id := range all {
		f, ok := k.findings.get(k.key(id.str("ProductArn") + " " + id.str("Id")))
		if !ok {
			not = append(not, object("FindingIdentifier", map[string]any(id), "ErrorCode", "FindingNotFound", "ErrorMessage", "Finding not found"))
			continue
		}
		done = append(done, map[string]any(id))
		if f.content.sub("Workflow").str("Status") != status {
			f.content = maps.Clone(f.content)
			f.content["Workflow"] = map[string]any{"Status": status}
			k.effects = append(k.effects, Effect{Change: "changed", Kind: "finding", ID: f.id})
		}
	}
	return object("ProcessedFindings", done, "UnprocessedFindings", not), nil
}

// findingFilters are the ones that are simulated.
var findingFilters = map[string]func(input) string{
	"Id":               func(f input) string { return f.str("Id") },
	"ProductArn":       func(f input) string { return f.str("ProductArn") },
	"GeneratorId":      func(f input) string { return f.str("GeneratorId") },
	"RecordState":      func(f input) string { return f.str("RecordState") },
	"ComplianceStatus": func(f input) string { return f.sub("Compliance").str("Status") },
	"WorkflowStatus":   func(f input) string { return f.sub("Workflow").str("Status") },
}

func getFindings(k *call) (map[string]any, error) {
	if k.in.intOr("MaxResults", 100) > 100 {
		return nil, k.fail("InvalidInputException", "MaxResults is at most 100")
	}
	rows := slices.DeleteFunc(k.findings.all(), func(f *finding) bool { return f.at != k.key("") })
	asked := k.in.sub("Filters")
	for name := range asked {
		of, ok := findingFilters[name]
		if !ok {
			return nil, k.fail("NotSimulated", "the filter %s of securityhub GetFindings is not simulated; give an answer to it", name)
		}
		for _, f := range asked.subs(name) {
			if c := f.str("Comparison"); c != "EQUALS" && c != "PREFIX" {
				return nil, k.fail("NotSimulated", "the comparison %s of securityhub GetFindings is not simulated; give an answer to it", c)
			}
		}
		rows = slices.DeleteFunc(rows, func(f *finding) bool {
			return !slices.ContainsFunc(asked.subs(name), func(want input) bool {
				if want.str("Comparison") == "PREFIX" {
					return strings.HasPrefix(of(f.content), want.str("Value"))
				}
				return of(f.content) == want.str("Value")
			})
		})
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "Findings", list(rows, func(f *finding) map[string]any { return maps.Clone(f.content) })), nil
}
