package authorizer

import (
	_ "embed"
	"strings"

	"google.golang.org/protobuf/proto"
)

// caller is who is decided about, and what the servers are told.
type caller struct {
	Identity
	o *Options
}

// A rule decides about one request of a method that a role may call: an error says why not. A nil rule allows all of
// them, in the namespace.
type rule func(c caller, req proto.Message) error

// everyone is what a client calls before anything else.
var everyone = map[string]rule{
	"Health/Check":                      nil,
	"WorkflowService/GetSystemInfo":     nil,
	"WorkflowService/DescribeNamespace": byName,
}

// looking shows and changes nothing.
var looking = map[string]rule{
	"OperatorService/ListSearchAttributes":               nil,
	"WorkflowService/CountSchedules":                     nil,
	"WorkflowService/CountWorkers":                       nil,
	"WorkflowService/CountWorkflowExecutions":            nil,
	"WorkflowService/DescribeBatchOperation":             nil,
	"WorkflowService/DescribeSchedule":                   nil,
	"WorkflowService/DescribeTaskQueue":                  nil,
	"WorkflowService/DescribeWorker":                     nil,
	"WorkflowService/DescribeWorkerDeployment":           nil,
	"WorkflowService/DescribeWorkerDeploymentVersion":    nil,
	"WorkflowService/DescribeWorkflowExecution":          nil,
	"WorkflowService/GetWorkflowExecutionHistory":        nil,
	"WorkflowService/GetWorkflowExecutionHistoryReverse": nil,
	"WorkflowService/ListBatchOperations":                nil,
	"WorkflowService/ListScheduleMatchingTimes":          nil,
	"WorkflowService/ListSchedules":                      nil,
	"WorkflowService/ListWorkerDeployments":              nil,
	"WorkflowService/ListWorkers":                        nil,
	"WorkflowService/ListWorkflowExecutions":             nil,
	"WorkflowService/QueryWorkflow":                      stateQuery,
}

// rules is who may call what. What is not here is refused, to everybody: a method that a new version of the server
// brings, too. testdata/table.txt says the same from without, with examples, and a test compares the two.
var rules = map[Role]map[string]rule{
	Viewer: join(everyone, looking),

	// An agent works for its node: it registers it, reports about it, and does what its task queue has.
	Agent: join(everyone, map[string]rule{
		"WorkflowService/DescribeWorkflowExecution":    any1(ownNode, ownTell),
		"WorkflowService/GetWorkflowExecutionHistory":  ownTell,
		"WorkflowService/ListWorkers":                  ownWorkers,
		"WorkflowService/PollActivityTaskQueue":        ownPoll,
		"WorkflowService/PollWorkflowExecutionUpdate":  ownNode,
		"WorkflowService/RecordActivityTaskHeartbeat":  ownTask,
		"WorkflowService/RecordWorkerHeartbeat":        ownHeartbeat,
		"WorkflowService/RespondActivityTaskCanceled":  ownTask,
		"WorkflowService/RespondActivityTaskCompleted": ownTask,
		"WorkflowService/RespondActivityTaskFailed":    ownTask,
		"WorkflowService/ShutdownWorker":               ownShutdown,
		"WorkflowService/SignalWorkflowExecution":      both(ownNode, signal("compliance")),
		"WorkflowService/StartWorkflowExecution":       agentStart,
		"WorkflowService/UpdateWorkflowExecution":      both(ownNode, update("report")),
	}),

	// A control worker runs all executions, and so decides what every node does: that it serves only the control queue
	// keeps mistakes away, and no attacker who has its key.
	Worker: join(everyone, map[string]rule{
		"WorkflowService/CountWorkflowExecutions":          nil,
		"WorkflowService/DeleteWorkflowExecution":          outputQuestion,
		"WorkflowService/DescribeWorkflowExecution":        nil,
		"WorkflowService/GetWorkflowExecutionHistory":      nil,
		"WorkflowService/ListWorkers":                      nil,
		"WorkflowService/ListWorkflowExecutions":           nil,
		"WorkflowService/PollActivityTaskQueue":            controlPoll,
		"WorkflowService/PollWorkflowExecutionUpdate":      anyNode,
		"WorkflowService/PollWorkflowTaskQueue":            controlPoll,
		"WorkflowService/RecordActivityTaskHeartbeat":      nil,
		"WorkflowService/RecordWorkerHeartbeat":            controlHeartbeat,
		"WorkflowService/RespondActivityTaskCanceled":      nil,
		"WorkflowService/RespondActivityTaskCompleted":     nil,
		"WorkflowService/RespondActivityTaskFailed":        nil,
		"WorkflowService/RespondQueryTaskCompleted":        nil,
		"WorkflowService/RespondWorkflowTaskCompleted":     nil,
		"WorkflowService/RespondWorkflowTaskFailed":        nil,
		"WorkflowService/ShutdownWorker":                   controlShutdown,
		"WorkflowService/SignalWithStartWorkflowExecution": workerSignalWithStart,
		"WorkflowService/SignalWorkflowExecution":          both(anyNode, signal("compliance")),
		"WorkflowService/StartWorkflowExecution":           workerStart,
		"WorkflowService/TerminateWorkflowExecution":       anyNode,
		"WorkflowService/UpdateWorkflowExecution":          both(anyNode, update("report")),
	}),

	// An operator runs runbooks, and does nothing to nodes but by them.
	Operator: join(everyone, looking, map[string]rule{
		"WorkflowService/CreateSchedule":                   createSchedule,
		"WorkflowService/DeleteSchedule":                   nil,
		"WorkflowService/DeleteWorkflowExecution":          ownQuestion,
		"WorkflowService/PatchSchedule":                    patchSchedule,
		"WorkflowService/PollWorkflowExecutionUpdate":      aRunbook,
		"WorkflowService/RequestCancelWorkflowExecution":   aRunbook,
		"WorkflowService/SignalWithStartWorkflowExecution": signalWithStart,
		"WorkflowService/SignalWorkflowExecution":          both(aRunbook, signal(answers...)),
		"WorkflowService/StartBatchOperation":              startBatch,
		"WorkflowService/StartWorkflowExecution":           operatorStart,
		"WorkflowService/UpdateSchedule":                   updateSchedule,
		"WorkflowService/UpdateWorkflowExecution":          both(aRunbook, update(answers...)),
	}),

	Admin: adminRules(),
}

// The rules of what is inside refer to rules again.
func init() { rules[Operator]["WorkflowService/ExecuteMultiOperation"] = multiOperation }

//go:embed methods.txt
var methods string

// adminRules are all methods that methods.txt lists without a "-" before them.
func adminRules() map[string]rule {
	all := map[string]rule{}
	for line := range strings.Lines(methods) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "-") {
			all[line] = nil
		}
	}
	return all
}

func join(lists ...map[string]rule) map[string]rule {
	all := map[string]rule{}
	for _, list := range lists {
		for method, r := range list {
			all[method] = r
		}
	}
	return all
}
