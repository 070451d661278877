package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/workflows"
)

// statuses notes what a node's search attribute is set to.
type statuses struct {
	interceptor.WorkerInterceptorBase
	told []string
}

func (s *statuses) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &inbound{interceptor.WorkflowInboundInterceptorBase{Next: next}, s}
}

type inbound struct {
	interceptor.WorkflowInboundInterceptorBase
	s *statuses
}

func (i *inbound) Init(out interceptor.WorkflowOutboundInterceptor) error {
	return i.Next.Init(&outbound{interceptor.WorkflowOutboundInterceptorBase{Next: out}, i.s})
}

type outbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	s *statuses
}

func (o *outbound) UpsertTypedSearchAttributes(_ workflow.Context, updates ...temporal.SearchAttributeUpdate) error {
	status, _ := temporal.NewSearchAttributes(updates...).GetKeyword(temporal.NewSearchAttributeKeyKeyword(registry.AttrCompliance))
	o.s.told = append(o.s.told, status)
	return nil
}

func (o *outbound) UpsertMemo(workflow.Context, map[string]any) error { return nil }

// While the store is away the registry goes on to take what is found.
func TestNodeWithoutStore(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	s := &statuses{}
	env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{s}})
	env.RegisterActivityWithOptions(func(context.Context, string, workflows.ComplianceRecord) error {
		return errors.New("the store is away")
	}, activity.RegisterOptions{Name: workflows.ActionRecordCompliance})
	for i, status := range []string{registry.NonCompliant, registry.Compliant} {
		env.RegisterDelayedCallback(func() {
			env.SignalWorkflow(registry.SignalFacts, registry.Compliance{Baseline: "b", Status: status})
		}, time.Duration(i+1)*time.Second)
	}
	looked := false
	env.RegisterDelayedCallback(func() {
		looked = true
		if got := fmt.Sprint(s.told); got != "[unknown non_compliant compliant]" {
			t.Errorf("three seconds later the attribute was %s", got)
		}
		env.CancelWorkflow()
	}, 3*time.Second)
	env.ExecuteWorkflow(workflows.Node, registry.Node{ID: "n", Reach: registry.ReachAgent})
	if !looked {
		t.Error("the workflow ended before")
	}
}
