package simcloud

import (
	"maps"
	"time"
)

var securityhubOperations = map[string]func(*call) (map[string]any, error){"BatchImportFindings": batchImportFindings}

type finding struct {
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
		before.content, before.updated = maps.Clone(f), updated
		k.effects = append(k.effects, Effect{Change: "changed", Kind: "finding", ID: f.str("Id")})
	default:
		k.findings.put(key, &finding{f.str("Id"), maps.Clone(f), updated})
		k.effects = append(k.effects, Effect{Change: "made", Kind: "finding", ID: f.str("Id")})
	}
	return ""
}
