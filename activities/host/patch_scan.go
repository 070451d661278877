package host

import (
	"context"
	"encoding/json"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/patch"
)

type patchScanInput struct {
	Baseline json.RawMessage `json:"baseline" jsonschema:"which updates are wanted: a baseline, as an object"`
}

type patchScanOutput struct {
	patch.Report
	OS      string `json:"os" jsonschema:"the node's operating system: debian, amzn, rhel"`
	Version string `json:"version" jsonschema:"that of the operating system; may be empty"`
}

func patchScan(n Node) action.Action {
	return action.New(action.Def[patchScanInput, patchScanOutput]{
		Name:    "host.patch.scan",
		Summary: "Find the updates that a node lacks",
		Details: patchScanDetails,
		Example: `id: scan
targets: [web-1]
action: host.patch.scan
with:
  baseline:
    baseline: security
    rules:
      - { approve: 'patch.classification == "security"' }`,
		Timeout: 30 * time.Minute,
		Inspect: inspectBaseline,
		Do:      n.scanPatches,
	})
}

const patchScanDetails = `Asks the package manager that the node has: apt, dnf or yum, zypper. Its repositories are asked for what they offer
now; one that cannot be reached fails the step with kind unavailable and is named. Nothing else on the node changes.

How severe an update is comes from the distribution: from updateinfo with dnf, yum and zypper; with apt, security updates are those of a
-security suite, and their urgency, CVEs and date come from the changelogs, where those can be reached. What is not said stays empty; an update without a date gets ` + "`first_seen`" + `, when this node was first
offered it, from which a rule's ` + "`after:`" + ` is then counted.

A node with a root directory has its packages there; its agent has to run as root.`

func (n Node) scanPatches(ctx context.Context, in patchScanInput) (patchScanOutput, error) {
	baseline, err := parseBaseline(in.Baseline)
	if err != nil {
		return patchScanOutput{}, err
	}
	manager, err := n.packages()
	if err != nil {
		return patchScanOutput{}, err
	}
	machine, err := manager.Machine(ctx)
	if err != nil {
		return patchScanOutput{}, packagesError(err)
	}
	if err := n.firstSeen(&machine, time.Now()); err != nil {
		return patchScanOutput{}, err
	}
	report := patch.Decide(baseline, machine, time.Now())
	n.comply(ctx, report)
	return patchScanOutput{Report: report, OS: machine.OS, Version: machine.Version}, nil
}
