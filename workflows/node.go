package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/internal/registry"
)

// ActionRecordCompliance is the control worker's activity that keeps what nodes
// come to over time. Its arguments are (token, ComplianceRecord).
const ActionRecordCompliance = "almanac.compliance.record"

// ComplianceRecord is what a node came to against a baseline.
type ComplianceRecord struct {
	Node string `json:"node"`
	registry.Compliance
}

var attrCompliance = temporal.NewSearchAttributeKeyKeyword(registry.AttrCompliance)

// Node is the workflow of one node: what the registry knows of it. It starts
// with the first report, lives until it is terminated (starter nodes forget),
// and has an event only when a report says something or a scan has ended.
func Node(ctx workflow.Context, n registry.Node) error {
	if n.Registered.IsZero() {
		n.Registered, n.Reported = workflow.Now(ctx), workflow.Now(ctx)
	}
	known := "" // status that the search attribute has
	keep := func() error {
		if err := workflow.UpsertMemo(ctx, map[string]any{registry.Memo: n}); err != nil {
			return err
		}
		if status := n.Status(); status != known {
			known = status
			return workflow.UpsertTypedSearchAttributes(ctx, attrCompliance.ValueSet(status))
		}
		return nil
	}
	if err := keep(); err != nil {
		return err
	}
	err := workflow.SetUpdateHandlerWithOptions(ctx, registry.UpdateReport, func(ctx workflow.Context, report registry.Node) (registry.Reported, error) {
		now := workflow.Now(ctx)
		n = n.Merge(report, now)
		workflow.SetCurrentDetails(ctx, nodeDetails(n))
		return registry.Reported{Now: now}, keep()
	}, workflow.UpdateHandlerOptions{
		Description: "what the node says of itself",
		Validator:   func(_ workflow.Context, report registry.Node) error { return n.Admit(report) },
	})
	if err != nil {
		return err
	}
	workflow.SetCurrentDetails(ctx, nodeDetails(n))
	var unkept []ComplianceRecord
	facts := workflow.GetSignalChannel(ctx, registry.SignalFacts)
	take := func(c registry.Compliance) error {
		if c.Baseline == "" || c.Status != registry.Compliant && c.Status != registry.NonCompliant {
			workflow.GetLogger(ctx).Warn("not a finding about compliance", "baseline", c.Baseline, "status", c.Status)
			return nil
		}
		n = n.Assess(c, workflow.Now(ctx))
		for _, have := range n.Compliance {
			if have.Baseline == c.Baseline {
				unkept = append(unkept, ComplianceRecord{Node: n.ID, Compliance: have})
			}
		}
		workflow.SetCurrentDetails(ctx, nodeDetails(n))
		return keep()
	}
	// Beside the rest: a store that is away must not keep the registry from what is found meanwhile.
	workflow.Go(ctx, func(ctx workflow.Context) {
		for workflow.Await(ctx, func() bool { return len(unkept) > 0 }) == nil {
			record := unkept[0]
			o := workflow.ActivityOptions{
				StartToCloseTimeout: time.Minute,
				RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 10 * time.Minute, MaximumAttempts: 20},
				Summary:             record.Baseline,
			}
			token := fmt.Sprintf("%s/%s/%d", record.Node, record.Baseline, record.At.UnixNano())
			// After three hours it is given up: the next scan finds it again.
			if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), ActionRecordCompliance, token, record).Get(ctx, nil); err != nil {
				workflow.GetLogger(ctx).Warn("compliance is not in the store", "node", n.ID, "error", err)
			}
			unkept = unkept[1:]
		}
	})
	over := func() bool {
		return len(unkept) == 0 && workflow.GetInfo(ctx).GetContinueAsNewSuggested() && workflow.AllHandlersFinished(ctx)
	}
	for {
		for facts.Len() > 0 {
			var c registry.Compliance
			facts.ReceiveAsync(&c)
			if err := take(c); err != nil {
				return err
			}
		}
		if over() {
			return workflow.NewContinueAsNewError(ctx, registry.WorkflowType, n)
		}
		if err := workflow.Await(ctx, func() bool { return facts.Len() > 0 || over() }); err != nil {
			return err
		}
	}
}

// nodeDetails is what the Web UI shows of a node.
func nodeDetails(n registry.Node) string {
	text := fmt.Sprintf("| | |\n| --- | --- |\n| node | %s |\n| host name | %s |\n| system | %s %s, %s |\n| reach | %s |\n| agent | %s |\n| clock | %s |\n| compliance | %s |\n",
		cell(n.ID), cell(n.Name), cell(n.OS), cell(n.Version), cell(n.Arch), cell(n.Reach), cell(n.AgentVersion), clock(n), n.Status())
	for _, c := range n.Compliance {
		text += fmt.Sprintf("| %s | %s since %s %s |\n", cell(c.Baseline), c.Status, c.Since.UTC().Format(time.DateTime), cell(c.Message))
	}
	return text
}

func clock(n registry.Node) string {
	off := time.Duration(n.Clock).Round(time.Second)
	switch {
	case n.ClockWrong():
		return fmt.Sprintf("**off by %s**: no target until it is right", off)
	case off == 0:
		return "right"
	}
	return "off by " + off.String()
}
