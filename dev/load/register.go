package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	workerpb "go.temporal.io/api/worker/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/almanac-run/almanac/dev/settings"
	"github.com/almanac-run/almanac/internal/node"
	"github.com/almanac-run/almanac/internal/registry"
)

// Nodes makes up so many nodes, each different from all others: of two systems,
// with the tags that machines have.
func Nodes(n int) []registry.Node {
	roles := []string{"web", "db", "cache", "batch", "build"}
	stages := []string{"prod", "prod", "prod", "stage", "dev"}
	random := rand.New(rand.NewPCG(1, 1)) // ids that can be compressed no better than real ones, and the same each time
	nodes := make([]registry.Node, n)
	for i := range nodes {
		id := fmt.Sprintf("node-%05d", i)
		system, version := "debian", "13"
		if i%3 == 0 {
			system, version = "amzn", "2023"
		}
		nodes[i] = registry.Node{
			ID: id, Name: fmt.Sprintf("ip-10-%d-%d-%d.internal", i>>16, i>>8&255, i&255),
			Platform: "linux", OS: system, Version: version, Arch: "amd64", AgentVersion: "v1.4.2", Reach: registry.ReachAgent,
			Tags:         map[string]string{"role": roles[i%len(roles)], "stage": stages[i/7%len(stages)], "rack": fmt.Sprintf("r%03d", i/40), "owner": fmt.Sprintf("team-%d", i%17)},
			BootID:       fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", random.Uint32(), random.IntN(1<<16), random.IntN(1<<12), random.IntN(1<<12), random.Int64N(1<<48)),
			Installation: fmt.Sprintf("%016x%016x", random.Uint64(), random.Uint64()),
			Limit:        registry.Duration(node.ClockLimit), Uncertain: registry.Duration(3 * time.Millisecond),
		}
	}
	return nodes
}

// IDs lists the ids of nodes.
func IDs(nodes []registry.Node) []string {
	ids := make([]string, len(nodes))
	for i := range nodes {
		ids[i] = nodes[i].ID
	}
	return ids
}

// Register enters nodes that are not registered yet, as their agents would, with a
// heartbeat of each. It returns when the control worker, which has to run, has
// dealt with all of them and the server lists them so.
func Register(ctx context.Context, c client.Client, nodes []registry.Node) error {
	return register(ctx, c, nodes, 0)
}

// RegisterAsleep enters nodes that were registered an hour ago and have nothing to
// say for another: their workflows do not begin. The server keeps and lists them
// like all others, for a quarter of the work; the control worker does not know them.
func RegisterAsleep(ctx context.Context, c client.Client, nodes []registry.Node) error {
	registered := slices.Clone(nodes)
	for i := range registered {
		registered[i].Registered = time.Now().Add(-time.Hour)
		registered[i].Reported = registered[i].Registered
	}
	return register(ctx, c, registered, time.Hour)
}

func register(ctx context.Context, c client.Client, nodes []registry.Node, asleep time.Duration) error {
	start, each := errgroup.WithContext(ctx)
	start.SetLimit(50)
	for _, n := range nodes {
		start.Go(func() error {
			_, err := c.ExecuteWorkflow(each, client.StartWorkflowOptions{
				ID: registry.WorkflowID(n.ID), TaskQueue: registry.TaskQueue, StartDelay: asleep,
				WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
				WorkflowExecutionErrorWhenAlreadyStarted: true,
				Memo:                                     map[string]any{registry.Memo: n},
				TypedSearchAttributes:                    temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword(registry.AttrCompliance).ValueSet(registry.Unknown)),
				StaticSummary:                            "node " + n.ID,
			}, registry.WorkflowType, n)
			return err
		})
	}
	if err := start.Wait(); err != nil {
		return fmt.Errorf("register nodes: %w", err)
	}
	if err := Beat(ctx, c, nodes); err != nil {
		return err
	}
	lister := registry.Lister{Service: c.WorkflowService(), Namespace: settings.Namespace}
	// To list them costs the server as much as to register hundreds of them.
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 8*time.Second) {
		all, err := lister.All(ctx, time.Now())
		if err != nil {
			return fmt.Errorf("register nodes: %w", err)
		}
		listed := 0
		for i := range all {
			if !all[i].Registered.IsZero() {
				listed++
			}
		}
		if listed >= len(nodes) {
			return nil
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("register nodes: %d of %d are: %w", listed, len(nodes), context.Cause(ctx))
		}
	}
}

// Beat gives one heartbeat of each node's worker, with what the SDK puts into
// it. It is worth 45 seconds of life.
func Beat(ctx context.Context, c client.Client, nodes []registry.Node) error {
	now := time.Now()
	for part := range slices.Chunk(nodes, 1000) {
		beats := make([]*workerpb.WorkerHeartbeat, len(part))
		for i, n := range part {
			slots := func(free int32) *workerpb.WorkerSlotsInfo {
				return &workerpb.WorkerSlotsInfo{CurrentAvailableSlots: free, SlotSupplierKind: "Fixed", TotalProcessedTasks: 12}
			}
			beats[i] = &workerpb.WorkerHeartbeat{
				WorkerInstanceKey: n.Installation + "-0000", WorkerIdentity: "1234@" + n.Name, TaskQueue: node.Queue(n.ID),
				HostInfo: &workerpb.WorkerHostInfo{HostName: n.Name, WorkerGroupingKey: n.Installation, ProcessId: "1234", CurrentHostCpuUsage: 0.12, CurrentHostMemUsage: 0.34},
				SdkName:  "temporal-go", SdkVersion: temporal.SDKVersion, Status: enumspb.WORKER_STATUS_RUNNING,
				StartTime: timestamppb.New(now.Add(-time.Hour)), HeartbeatTime: timestamppb.New(now), ElapsedSinceLastHeartbeat: durationpb.New(10 * time.Second),
				WorkflowTaskSlotsInfo: slots(0), ActivityTaskSlotsInfo: slots(100), LocalActivitySlotsInfo: slots(0), NexusTaskSlotsInfo: slots(0),
				ActivityPollerInfo: &workerpb.WorkerPollerInfo{CurrentPollers: 1, LastSuccessfulPollTime: timestamppb.New(now)},
			}
		}
		_, err := c.WorkflowService().RecordWorkerHeartbeat(ctx, &workflowservice.RecordWorkerHeartbeatRequest{Namespace: settings.Namespace, Identity: "load", WorkerHeartbeat: beats})
		if err != nil {
			return fmt.Errorf("heartbeats of nodes: %w", err)
		}
	}
	return nil
}
