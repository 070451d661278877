package authorizer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	batchpb "go.temporal.io/api/batch/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	updatepb "go.temporal.io/api/update/v1"
	workerpb "go.temporal.io/api/worker/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The names by which Almanac's own workflows are known. Everything else is a runbook's execution. They are written
// here once more, since the server links no Almanac; a test compares them.
const (
	typePrefix = "almanac."
	nodeType   = "almanac.node"
	askType    = "almanac.ask"
	tellType   = "almanac.tell"
	syncType   = "almanac.sync"
	lockType   = "almanac.lock"

	nodePrefix = "node/" // of the workflow id and of the task queue
	askPrefix  = "ask/"
	tellPrefix = "tell/"
	syncPrefix = "sync/"
	lockPrefix = "lock/"
	slotPrefix = "slots/"

	outputPrefix = askPrefix + "host.output.read/"

	nodeAttribute = "AlmanacCompliance"
)

// own begin the ids of what is no runbook.
var own = []string{nodePrefix, askPrefix, tellPrefix, syncPrefix, lockPrefix, slotPrefix, "temporal-sys"}

// queries are those that show and are cheap, and answers what people say to an execution. What executions and locks say
// to each other is not for people.
var (
	queries = []string{"state", "targets"}
	answers = []string{"approve", "reject", "resume", "retry", "skip", "continue", "rollback", "stop"}
)

var errShape = errors.New("the request has not the form that is known")

// only allows a message that has no fields but these: one that a newer client fills is refused until it is known here.
func only(m proto.Message, fields ...string) error {
	var err error
	r := m.ProtoReflect()
	r.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !slices.Contains(fields, string(fd.Name())) {
			err = fmt.Errorf("the field %s is not allowed", fd.Name())
		}
		return err == nil
	})
	if err == nil && len(r.GetUnknown()) > 0 {
		err = errors.New("it has a field that this server does not know")
	}
	return err
}

func both(rs ...rule) rule {
	return func(c caller, req proto.Message) error {
		for _, r := range rs {
			if err := r(c, req); err != nil {
				return err
			}
		}
		return nil
	}
}

func any1(rs ...rule) rule {
	return func(c caller, req proto.Message) error {
		var first error
		for _, r := range rs {
			err := r(c, req)
			if err == nil {
				return nil
			}
			if first == nil {
				first = err
			}
		}
		return first
	}
}

// byName refuses to describe a namespace by its id, which need not be that of the name.
func byName(_ caller, req proto.Message) error { return only(req, "namespace", "consistency") }

func stateQuery(_ caller, req proto.Message) error {
	q, ok := req.(*workflowservice.QueryWorkflowRequest)
	if !ok {
		return errShape
	}
	return oneOf("query", q.GetQuery().GetQueryType(), queries)
}

// workflowID is the id of the one execution that a request is for.
func workflowID(req proto.Message) (string, error) {
	var id string
	switch r := req.(type) {
	case interface {
		GetWorkflowExecution() *commonpb.WorkflowExecution
	}:
		id = r.GetWorkflowExecution().GetWorkflowId()
	case interface {
		GetExecution() *commonpb.WorkflowExecution
	}:
		id = r.GetExecution().GetWorkflowId()
	case *workflowservice.PollWorkflowExecutionUpdateRequest:
		id = r.GetUpdateRef().GetWorkflowExecution().GetWorkflowId()
	default:
		return "", errShape
	}
	if id == "" {
		return "", errors.New("it names no execution")
	}
	return id, nil
}

func ownNode(c caller, req proto.Message) error {
	id, err := workflowID(req)
	if err == nil && id != nodePrefix+c.Name {
		err = fmt.Errorf("execution %q is not its node's, which is %s", id, nodePrefix+c.Name)
	}
	return err
}

func ownTell(c caller, req proto.Message) error {
	id, err := workflowID(req)
	if err == nil && !strings.HasPrefix(id, tellPrefix+c.Name+"/") {
		err = fmt.Errorf("execution %q is not its own", id)
	}
	return err
}

func anyNode(_ caller, req proto.Message) error {
	id, err := workflowID(req)
	if err == nil && !strings.HasPrefix(id, nodePrefix) {
		err = fmt.Errorf("execution %q is no node", id)
	}
	return err
}

func aRunbook(_ caller, req proto.Message) error {
	id, err := workflowID(req)
	if err != nil {
		return err
	}
	return runbookID(id)
}

// runbookID refuses the ids of Almanac's own workflows. Since nobody starts those under another id, nor a runbook
// under theirs, the id says what runs.
func runbookID(id string) error {
	switch {
	case id == "":
		return errors.New("it names no execution")
	case slices.ContainsFunc(own, func(p string) bool { return strings.HasPrefix(id, p) }):
		return fmt.Errorf("execution %q is not of a runbook", id)
	}
	return nil
}

func ownQuestion(_ caller, req proto.Message) error {
	id, err := workflowID(req)
	if err == nil && !strings.HasPrefix(id, askPrefix) {
		err = fmt.Errorf("execution %q is no question, and only those are deleted", id)
	}
	return err
}

// outputQuestion is a question by which a worker fetches an output of a node.
func outputQuestion(_ caller, req proto.Message) error {
	id, err := workflowID(req)
	if err == nil && !strings.HasPrefix(id, outputPrefix) {
		err = fmt.Errorf("execution %q is no question for an output, and only those are deleted", id)
	}
	return err
}

func signal(names ...string) rule {
	return func(_ caller, req proto.Message) error {
		r, ok := req.(interface{ GetSignalName() string })
		if !ok {
			return errShape
		}
		return oneOf("signal", r.GetSignalName(), names)
	}
}

func oneOf(what, name string, names []string) error {
	if !slices.Contains(names, name) {
		return fmt.Errorf("%s %q is not among %s", what, name, strings.Join(names, ", "))
	}
	return nil
}

func update(names ...string) rule {
	return func(c caller, req proto.Message) error {
		r, ok := req.(*workflowservice.UpdateWorkflowExecutionRequest)
		if !ok {
			return errShape
		}
		if err := oneOf("update", r.GetRequest().GetInput().GetName(), names); err != nil {
			return err
		}
		return plainUpdate(c, req)
	}
}

// plainUpdate has nothing beside its input: a callback would make the server call an address of the caller's choice.
func plainUpdate(_ caller, req proto.Message) error {
	r, ok := req.(*workflowservice.UpdateWorkflowExecutionRequest)
	if !ok {
		return errShape
	}
	return only(orEmpty(r.GetRequest(), &updatepb.Request{}), "meta", "input", "request_id")
}

func orEmpty[M any, P interface {
	*M
	proto.Message
}](m, empty P) P {
	if m == nil {
		return empty
	}
	return m
}

func queueIs(q *taskqueuepb.TaskQueue, name string) error {
	if q.GetName() != name || q.GetNormalName() != "" || !normal(q.GetKind()) {
		return fmt.Errorf("task queue %q is not its own, which is %s", q.GetName(), name)
	}
	return nil
}

func normal(k enumspb.TaskQueueKind) bool {
	return k == enumspb.TASK_QUEUE_KIND_UNSPECIFIED || k == enumspb.TASK_QUEUE_KIND_NORMAL
}

func control(c caller, q *taskqueuepb.TaskQueue) error {
	if !slices.Contains(c.o.ControlQueue, q.GetName()) || q.GetNormalName() != "" || !normal(q.GetKind()) {
		return fmt.Errorf("task queue %q is not of control workers, as %s is", q.GetName(), strings.Join(c.o.ControlQueue, ", "))
	}
	return nil
}

func ownPoll(c caller, req proto.Message) error {
	r, ok := req.(*workflowservice.PollActivityTaskQueueRequest)
	if !ok {
		return errShape
	}
	if err := only(r, "namespace", "task_queue", "poller_group_id", "identity", "worker_instance_key", "worker_control_task_queue",
		"task_queue_metadata", "worker_version_capabilities", "deployment_options"); err != nil {
		return err
	}
	return queueIs(r.GetTaskQueue(), nodePrefix+c.Name)
}

func controlPoll(c caller, req proto.Message) error {
	r, ok := req.(interface{ GetTaskQueue() *taskqueuepb.TaskQueue })
	if !ok {
		return errShape
	}
	q := r.GetTaskQueue()
	if _, workflows := req.(*workflowservice.PollWorkflowTaskQueueRequest); workflows && q.GetKind() == enumspb.TASK_QUEUE_KIND_STICKY {
		if !slices.Contains(c.o.ControlQueue, q.GetNormalName()) {
			return fmt.Errorf("task queue %q belongs to %q, which is not of control workers", q.GetName(), q.GetNormalName())
		}
		return nil
	}
	return control(c, q)
}

// beats checks the queues of heartbeats, which say who is alive.
func beats(list []*workerpb.WorkerHeartbeat, queues ...string) error {
	for _, b := range list {
		if !slices.Contains(queues, b.GetTaskQueue()) {
			return fmt.Errorf("a heartbeat of task queue %q is not its own, as of %s is", b.GetTaskQueue(), strings.Join(queues, ", "))
		}
	}
	return nil
}

func heartbeat(req proto.Message, queues ...string) error {
	r, ok := req.(*workflowservice.RecordWorkerHeartbeatRequest)
	if !ok {
		return errShape
	}
	return beats(r.GetWorkerHeartbeat(), queues...)
}

func ownHeartbeat(c caller, req proto.Message) error     { return heartbeat(req, nodePrefix+c.Name) }
func controlHeartbeat(c caller, req proto.Message) error { return heartbeat(req, c.o.ControlQueue...) }

func shutdown(req proto.Message, queues ...string) error {
	r, ok := req.(*workflowservice.ShutdownWorkerRequest)
	if !ok {
		return errShape
	}
	if !slices.Contains(queues, r.GetTaskQueue()) {
		return fmt.Errorf("task queue %q is not its own, as %s is", r.GetTaskQueue(), strings.Join(queues, ", "))
	}
	if r.GetWorkerHeartbeat() == nil {
		return nil
	}
	return beats([]*workerpb.WorkerHeartbeat{r.GetWorkerHeartbeat()}, queues...)
}

func ownShutdown(c caller, req proto.Message) error {
	if r, ok := req.(*workflowservice.ShutdownWorkerRequest); ok && r.GetStickyTaskQueue() != "" {
		return errors.New("it has no sticky task queue")
	}
	return shutdown(req, nodePrefix+c.Name)
}

func controlShutdown(c caller, req proto.Message) error { return shutdown(req, c.o.ControlQueue...) }

// ownWorkers allows the one question that an agent has: whether another one serves its node.
func ownWorkers(c caller, req proto.Message) error {
	r, ok := req.(*workflowservice.ListWorkersRequest)
	if !ok {
		return errShape
	}
	if err := only(r, "namespace", "page_size", "next_page_token", "query"); err != nil {
		return err
	}
	if want := fmt.Sprintf("TaskQueue = '%s%s'", nodePrefix, c.Name); r.GetQuery() != want {
		return fmt.Errorf("of workers it may ask for %s only", want)
	}
	return nil
}

// A start is what all requests that start an execution have.
type start interface {
	proto.Message
	GetWorkflowId() string
	GetWorkflowType() *commonpb.WorkflowType
	GetTaskQueue() *taskqueuepb.TaskQueue
	GetWorkflowIdReusePolicy() enumspb.WorkflowIdReusePolicy
	GetSearchAttributes() *commonpb.SearchAttributes
}

var (
	_ start = (*workflowservice.StartWorkflowExecutionRequest)(nil)
	_ start = (*workflowservice.SignalWithStartWorkflowExecutionRequest)(nil)
	_ start = (*workflowpb.NewWorkflowExecutionInfo)(nil)
)

// startFields are what a start may say. Others would give the caller the first task (eager), make the server call
// addresses (callbacks), attach to executions of others, or run without end (cron).
var startFields = []string{
	"namespace", "workflow_id", "workflow_type", "task_queue", "input", "workflow_execution_timeout", "workflow_run_timeout", "workflow_task_timeout",
	"identity", "request_id", "workflow_id_reuse_policy", "workflow_id_conflict_policy", "memo", "search_attributes", "header", "user_metadata",
	"priority", "workflow_start_delay",
}

// plainStart checks what holds for every start by anyone but an admin: it goes to control workers and ends nothing.
func plainStart(c caller, s start, more ...string) error {
	if err := only(s, append(more, startFields...)...); err != nil {
		return err
	}
	//lint:ignore SA1019 the server still knows it
	if s.GetWorkflowIdReusePolicy() == enumspb.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING {
		return errors.New("it may not terminate an execution that runs")
	}
	if p, ok := s.(interface {
		GetWorkflowIdConflictPolicy() enumspb.WorkflowIdConflictPolicy
	}); ok && p.GetWorkflowIdConflictPolicy() == enumspb.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING {
		return errors.New("it may not terminate an execution that runs")
	}
	return control(c, s.GetTaskQueue())
}

func isStart(req proto.Message) (start, error) {
	s, ok := req.(*workflowservice.StartWorkflowExecutionRequest)
	if !ok {
		return nil, errShape
	}
	return s, nil
}

func agentStart(c caller, req proto.Message) error {
	s, err := isStart(req)
	if err != nil {
		return err
	}
	id, kind := s.GetWorkflowId(), s.GetWorkflowType().GetName()
	node := kind == nodeType && id == nodePrefix+c.Name
	tell := kind == tellType && strings.HasPrefix(id, tellPrefix+c.Name+"/")
	if !node && !tell {
		return fmt.Errorf("it may not start %q of type %q: an agent starts %s%s of type %s, and %s%s/… of type %s", id, kind, nodePrefix, c.Name, nodeType, tellPrefix, c.Name, tellType)
	}
	for attribute := range s.GetSearchAttributes().GetIndexedFields() {
		if attribute != nodeAttribute {
			return fmt.Errorf("the search attribute %s is not a node's", attribute)
		}
	}
	return plainStart(c, s)
}

func workerStart(c caller, req proto.Message) error {
	s, err := isStart(req)
	if err != nil {
		return err
	}
	id, kind := s.GetWorkflowId(), s.GetWorkflowType().GetName()
	if !(kind == nodeType && strings.HasPrefix(id, nodePrefix)) && !(kind == syncType && strings.HasPrefix(id, syncPrefix)) && !(kind == askType && strings.HasPrefix(id, outputPrefix)) {
		return fmt.Errorf("it may not start %q of type %q: a worker starts nodes, %s and questions for outputs", id, kind, syncType)
	}
	return plainStart(c, s)
}

func operatorStart(c caller, req proto.Message) error {
	s, err := isStart(req)
	if err != nil {
		return err
	}
	if s.GetWorkflowType().GetName() == askType && strings.HasPrefix(s.GetWorkflowId(), askPrefix) {
		return plainStart(c, s)
	}
	return runbookStart(c, s)
}

// runbookStart allows the start of a runbook, whichever.
func runbookStart(c caller, s start, more ...string) error {
	if kind := s.GetWorkflowType().GetName(); kind == "" || strings.HasPrefix(kind, typePrefix) || strings.HasPrefix(kind, "temporal-sys") {
		return fmt.Errorf("the workflow type %q is no runbook", kind)
	}
	if err := runbookID(s.GetWorkflowId()); err != nil {
		return err
	}
	return plainStart(c, s, more...)
}

func signalWithStart(c caller, req proto.Message) error {
	s, ok := req.(*workflowservice.SignalWithStartWorkflowExecutionRequest)
	if !ok {
		return errShape
	}
	if err := oneOf("signal", s.GetSignalName(), answers); err != nil {
		return err
	}
	return runbookStart(c, s, "signal_name", "signal_input")
}

func workerSignalWithStart(c caller, req proto.Message) error {
	s, ok := req.(*workflowservice.SignalWithStartWorkflowExecutionRequest)
	if !ok {
		return errShape
	}
	id, kind := s.GetWorkflowId(), s.GetWorkflowType().GetName()
	if kind != lockType || !strings.HasPrefix(id, lockPrefix) && !strings.HasPrefix(id, slotPrefix) {
		return fmt.Errorf("it may not start %q of type %q: a worker starts and signals %s", id, kind, lockType)
	}
	if err := oneOf("signal", s.GetSignalName(), []string{"lock"}); err != nil {
		return err
	}
	return plainStart(c, s, "signal_name", "signal_input")
}

// multiOperation checks each request inside as if it came alone.
func multiOperation(c caller, req proto.Message) error {
	m, ok := req.(*workflowservice.ExecuteMultiOperationRequest)
	if !ok {
		return errShape
	}
	if err := only(m, "namespace", "operations", "resource_id"); err != nil {
		return err
	}
	for _, op := range m.GetOperations() {
		if err := only(orEmpty(op, &workflowservice.ExecuteMultiOperationRequest_Operation{}), "start_workflow", "update_workflow"); err != nil {
			return err
		}
		var inner interface {
			proto.Message
			GetNamespace() string
		}
		var r rule
		switch {
		case op.GetStartWorkflow() != nil:
			inner, r = op.GetStartWorkflow(), rules[c.Role]["WorkflowService/StartWorkflowExecution"]
		case op.GetUpdateWorkflow() != nil:
			inner, r = op.GetUpdateWorkflow(), rules[c.Role]["WorkflowService/UpdateWorkflowExecution"]
		}
		if r == nil {
			return errors.New("it has an operation that is not known")
		}
		if inner.GetNamespace() != c.o.Namespace {
			return fmt.Errorf("an operation inside is for namespace %q", inner.GetNamespace())
		}
		if err := r(c, inner); err != nil {
			return fmt.Errorf("inside: %w", err)
		}
	}
	return nil
}

// schedule allows one that starts a runbook.
func schedule(c caller, s *schedulepb.Schedule) error {
	if s == nil {
		return errors.New("it has no schedule")
	}
	if err := only(s, "spec", "action", "policies", "state"); err != nil {
		return err
	}
	act := s.GetAction()
	if act == nil {
		return errors.New("the schedule has no action")
	}
	if err := only(act, "start_workflow"); err != nil {
		return err
	}
	w := act.GetStartWorkflow()
	if w == nil {
		return errors.New("the schedule starts nothing")
	}
	if err := runbookStart(c, w); err != nil {
		return fmt.Errorf("inside: %w", err)
	}
	return nil
}

func createSchedule(c caller, req proto.Message) error {
	r, ok := req.(*workflowservice.CreateScheduleRequest)
	if !ok {
		return errShape
	}
	if err := only(r, "namespace", "schedule_id", "schedule", "initial_patch", "identity", "request_id", "memo", "search_attributes"); err != nil {
		return err
	}
	if p := r.GetInitialPatch(); p != nil {
		if err := patch(p); err != nil {
			return err
		}
	}
	return schedule(c, r.GetSchedule())
}

func updateSchedule(c caller, req proto.Message) error {
	r, ok := req.(*workflowservice.UpdateScheduleRequest)
	if !ok {
		return errShape
	}
	if err := only(r, "namespace", "schedule_id", "schedule", "conflict_token", "identity", "request_id", "search_attributes", "memo"); err != nil {
		return err
	}
	return schedule(c, r.GetSchedule())
}

func patchSchedule(_ caller, req proto.Message) error {
	r, ok := req.(*workflowservice.PatchScheduleRequest)
	if !ok {
		return errShape
	}
	if err := only(r, "namespace", "schedule_id", "patch", "identity", "request_id"); err != nil {
		return err
	}
	return patch(orEmpty(r.GetPatch(), &schedulepb.SchedulePatch{}))
}

// patch allows what makes a schedule do what it does anyway. It starts what the schedule was made with, which was checked then.
func patch(p *schedulepb.SchedulePatch) error {
	return only(p, "trigger_immediately", "backfill_request", "pause", "unpause")
}

// startBatch allows to signal and to cancel executions of runbooks that are named: what a query finds nobody knows before.
func startBatch(_ caller, req proto.Message) error {
	r, ok := req.(*workflowservice.StartBatchOperationRequest)
	if !ok {
		return errShape
	}
	if err := only(r, "namespace", "job_id", "reason", "executions", "max_operations_per_second", "signal_operation", "cancellation_operation"); err != nil {
		return err
	}
	//lint:ignore SA1019 the server still reads it
	executions := r.GetExecutions()
	if r.GetSignalOperation() == nil && r.GetCancellationOperation() == nil || len(executions) == 0 {
		return errors.New("a batch signals or cancels executions that are named")
	}
	if s := r.GetSignalOperation(); s != nil {
		if err := only(s, "signal", "input", "header", "identity"); err != nil {
			return err
		}
		if err := oneOf("signal", s.GetSignal(), answers); err != nil {
			return err
		}
	}
	if s := r.GetCancellationOperation(); s != nil {
		if err := only(orEmpty(s, &batchpb.BatchOperationCancellation{}), "identity"); err != nil {
			return err
		}
	}
	for _, x := range executions {
		if err := runbookID(x.GetWorkflowId()); err != nil {
			return fmt.Errorf("inside: %w", err)
		}
	}
	return nil
}
