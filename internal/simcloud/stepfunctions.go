package simcloud

import (
	"encoding/json"
	"regexp"
	"strings"
	"time"
)

var stepfunctionsOperations = map[string]func(*call) (map[string]any, error){
	"CreateStateMachine": createStateMachine, "StartExecution": startExecution, "DescribeExecution": describeExecution, "StopExecution": stopExecution,
}

// Machine is what a state machine makes of its input. An error is its failure.
type Machine func(input string) (output string, err error)

type machine struct {
	*resource
	arn string
}

type execution struct {
	place
	arn, machine, name, input string
	started, ends             time.Time
	output, err, cause        string
	status                    string // once it has ended
}

// nameKept is how long the name of an execution is taken after its end.
const nameKept = 90 * 24 * time.Hour

var executionForm = regexp.MustCompile(`^[^\s<>{}\[\]?*"#%\\^|~` + "`" + `$&,;:/[:cntrl:]]{1,80}$`)

func createStateMachine(k *call) (map[string]any, error) {
	name := k.in.str("name")
	arn := "arn:aws:states:" + k.region + ":" + k.account + ":stateMachine:" + name
	if _, ok := k.machines.get(arn); !ok {
		k.machines.put(arn, &machine{k.make("state-machine", name, name, nil), arn})
	}
	return object("stateMachineArn", arn, "creationDate", k.now), nil
}

func startExecution(k *call) (map[string]any, error) {
	arn := k.in.str("stateMachineArn")
	parts := strings.Split(arn, ":")
	if len(parts) < 7 || parts[5] != "stateMachine" {
		return nil, k.fail("InvalidArn", "Invalid Arn: '%s'", arn)
	}
	do := k.Machines[parts[6]]
	if m, ok := k.machines.get(arn); do == nil && (!ok || m.place != k.place) || parts[3] != k.region || parts[4] != k.account {
		return nil, k.fail("StateMachineDoesNotExist", "State Machine Does Not Exist: '%s'", arn)
	}
	input := or(k.in.str("input"), "{}")
	if !json.Valid([]byte(input)) {
		return nil, k.fail("InvalidExecutionInput", "Invalid State Machine Execution Input: not JSON")
	}
	name := k.in.str("name")
	if name == "" {
		name = k.uuid()
	}
	if !executionForm.MatchString(name) {
		return nil, k.fail("InvalidName", "Invalid Name: '%s'", name)
	}
	e := &execution{place: k.place, arn: strings.Replace(arn, ":stateMachine:", ":execution:", 1) + ":" + name, machine: arn, name: name, input: input, started: k.now}
	if before, ok := k.executions.get(e.arn); ok && k.now.Before(before.ends.Add(nameKept)) {
		if before.input == input && k.now.Before(before.ends) {
			return object("executionArn", before.arn, "startDate", before.started), nil
		}
		return nil, k.fail("ExecutionAlreadyExists", "Execution Already Exists: '%s'", e.arn)
	}
	e.ends = k.after(k.Delays.Machine, "machine", e.arn)
	e.status, e.output = "SUCCEEDED", input
	k.executions.put(e.arn, e)
	k.effects = append(k.effects, Effect{Change: "made", Kind: "execution", ID: e.arn})
	if do != nil {
		var err error
		k.unlocked(func() { e.output, err = do(input) })
		if err != nil {
			e.status, e.output, e.err, e.cause = "FAILED", "", "States.TaskFailed", err.Error()
		}
	}
	return object("executionArn", e.arn, "startDate", e.started), nil
}

func (k *call) execution() (*execution, error) {
	e, ok := k.executions.get(k.in.str("executionArn"))
	if !ok || e.place != k.place {
		return nil, k.fail("ExecutionDoesNotExist", "Execution Does Not Exist: '%s'", k.in.str("executionArn"))
	}
	return e, nil
}

func describeExecution(k *call) (map[string]any, error) {
	e, err := k.execution()
	if err != nil {
		return nil, err
	}
	out := object("executionArn", e.arn, "stateMachineArn", e.machine, "name", e.name, "startDate", e.started, "input", e.input, "status", "RUNNING")
	if !k.now.Before(e.ends) {
		for name, v := range object("status", e.status, "stopDate", e.ends, "output", e.output, "error", e.err, "cause", e.cause) {
			out[name] = v
		}
	}
	return out, nil
}

func stopExecution(k *call) (map[string]any, error) {
	e, err := k.execution()
	if err != nil {
		return nil, err
	}
	if k.now.Before(e.ends) {
		e.ends, e.status, e.output, e.err, e.cause = k.now, "ABORTED", "", k.in.str("error"), k.in.str("cause")
		k.effects = append(k.effects, Effect{Change: "changed", Kind: "execution", ID: e.arn, What: "stop"})
	}
	return object("stopDate", e.ends), nil
}
