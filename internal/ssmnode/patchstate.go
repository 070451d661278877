package ssmnode

import (
	"fmt"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/registry"
)

// patchState is what Patch Manager found on a node at its last scan or installation.
type patchState struct {
	baseline, group, operation        string
	at                                time.Time
	installed, other, missing, failed int
	pending, rejected, notApplicable  int
	critical, security, others        int
}

func stateOf(s map[string]any) patchState {
	return patchState{
		baseline: text(s, "BaselineId"), group: text(s, "PatchGroup"), operation: text(s, "Operation"), at: when(s, "OperationEndTime"),
		installed: count(s, "InstalledCount"), other: count(s, "InstalledOtherCount"), missing: count(s, "MissingCount"), failed: count(s, "FailedCount"),
		pending: count(s, "InstalledPendingRebootCount"), rejected: count(s, "InstalledRejectedCount"), notApplicable: count(s, "NotApplicableCount"),
		critical: count(s, "CriticalNonCompliantCount"), security: count(s, "SecurityNonCompliantCount"), others: count(s, "OtherNonCompliantCount"),
	}
}

// why says what makes the node not compliant; empty if nothing does.
func (p patchState) why() string {
	var why []string
	for _, of := range []struct {
		n    int
		what string
	}{{p.missing, "missing"}, {p.failed, "failed"}, {p.rejected, "installed and rejected"}, {p.pending, "pending a reboot"}} {
		if of.n > 0 {
			why = append(why, fmt.Sprintf("%d %s", of.n, of.what))
		}
	}
	return strings.Join(why, "; ")
}

func (p patchState) compliance() registry.Compliance {
	c := registry.Compliance{Baseline: p.baseline, Status: registry.Compliant, Missing: map[string]int{}, Failed: p.failed, RebootPending: p.pending > 0, Message: p.why(), At: p.at}
	if c.Message != "" {
		c.Status = registry.NonCompliant
	}
	// Patch Manager counts by how its baseline reports a patch, not by the patch's own severity.
	if n := min(p.critical, p.missing); n > 0 {
		c.Missing["critical"] = n
	}
	if n := p.missing - min(p.critical, p.missing); n > 0 {
		c.Missing["other"] = n
	}
	return c
}

func count(m map[string]any, name string) int {
	switch n := m[name].(type) {
	case int64:
		return int(n)
	case float64:
		return int(n)
	}
	return 0
}

func when(m map[string]any, name string) time.Time {
	t, _ := m[name].(time.Time)
	return t
}
