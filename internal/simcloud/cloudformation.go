package simcloud

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"time"
)

var cloudformationOperations = map[string]func(*call) (map[string]any, error){
	"CreateStack": createStack, "UpdateStack": updateStack, "DeleteStack": deleteStack, "DescribeStacks": describeStacks,
	"DescribeStackEvents": describeStackEvents,
}

// Stack is a stack as Options.Stack sees it. What its template describes is not
// made: outputs are what that function answers.
type Stack struct {
	Name, Region, Account string
	Template              string
	Parameters            map[string]string
}

type stack struct {
	*resource
	arn        string
	template   string
	parameters map[string]string
	phase      phase
	events     []stackEvent
	updated    time.Time
	deleted    time.Time // when deletion ends; zero while it is not being deleted
	outputs    map[string]string
	tokens     map[string]string // operations, by ClientRequestToken
	protected  bool
}

type stackEvent struct {
	logical, kind, status, reason, token string
	at                                   time.Time
}

var stackForm = regexp.MustCompile(`^[a-zA-Z][-a-zA-Z0-9]{0,127}$`)

// stack finds a stack by name, or by ARN even when it has been deleted.
func (k *call) stack(name string) (*stack, error) {
	for _, s := range k.stacks.all() {
		if s.place == k.place && (s.arn == name || s.name == name && !s.isDeleted(k.now)) {
			return s, nil
		}
	}
	return nil, k.fail("ValidationError", "Stack with id %s does not exist", name)
}

func (s *stack) isDeleted(now time.Time) bool { return !s.deleted.IsZero() && !now.Before(s.deleted) }

func (k *call) stackParameters(before map[string]string) map[string]string {
	all := map[string]string{}
	for _, p := range k.in.subs("Parameters") {
		if name := p.str("ParameterKey"); p.bool("UsePreviousValue") {
			all[name] = before[name]
		} else {
			all[name] = p.str("ParameterValue")
		}
	}
	return all
}

// begins starts an operation of a stack and says what it ends as.
func (k *call) begins(s *stack, during, after, failure string) {
	p := phase{during: during, after: after, until: k.after(k.Delays.Stack, "stack", s.arn, len(s.events))}
	if k.Fails != nil && failure != "" {
		if p.reason = k.Fails(s.resource.public()); p.reason != "" {
			p.after = failure
		}
	}
	s.phase = p
	token := k.in.str("ClientRequestToken")
	s.events = append(s.events, stackEvent{s.name, "AWS::CloudFormation::Stack", p.during, "User Initiated", token, k.now})
	for _, logical := range logicalNames(s.template) {
		s.events = append(s.events, stackEvent{logical.name, logical.kind, p.after, "", token, p.until})
	}
	s.events = append(s.events, stackEvent{s.name, "AWS::CloudFormation::Stack", p.after, p.reason, token, p.until})
	if p.reason == "" && k.Stack != nil && failure != "" {
		s.outputs = k.Stack(Stack{s.name, s.region, s.account, s.template, maps.Clone(s.parameters)})
	}
}

// logicalNames reads the resources of a template in JSON; one in YAML shows none.
func logicalNames(template string) (all []struct{ name, kind string }) {
	var t struct {
		Resources map[string]struct{ Type string }
	}
	if json.Unmarshal([]byte(template), &t) != nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(t.Resources)) {
		all = append(all, struct{ name, kind string }{name, t.Resources[name].Type})
	}
	return all
}

// stackToken says whether the call was made before under its token.
func (k *call) stackToken(s *stack) (again bool, err error) {
	token := k.in.str("ClientRequestToken")
	if token == "" {
		return false, nil
	}
	switch before := s.tokens[token]; before {
	case k.operation + " " + k.identity:
		return true, nil
	case "":
		return false, nil
	default:
		return false, k.fail("TokenAlreadyExistsException", "The client request token %s was used for another operation", token)
	}
}

func createStack(k *call) (map[string]any, error) {
	name := k.in.str("StackName")
	if !stackForm.MatchString(name) {
		return nil, k.fail("ValidationError", "1 validation error detected: Value '%s' at 'stackName' failed to satisfy constraint: Member must satisfy regular expression pattern", name)
	}
	if s, err := k.stack(name); err == nil {
		again, err := k.stackToken(s)
		if err != nil {
			return nil, err
		}
		if !again {
			return nil, k.fail("AlreadyExistsException", "Stack [%s] already exists", name)
		}
		return object("StackId", s.arn), nil
	}
	if !k.in.has("TemplateBody") && !k.in.has("TemplateURL") {
		return nil, k.fail("ValidationError", "Either Template URL or Template Body must be specified.")
	}
	s := &stack{resource: k.make("stack", name, name, k.in.tags("Tags")), template: or(k.in.str("TemplateBody"), k.in.str("TemplateURL")),
		parameters: k.stackParameters(nil), tokens: map[string]string{}, protected: k.in.bool("EnableTerminationProtection")}
	s.arn = "arn:aws:cloudformation:" + k.region + ":" + k.account + ":stack/" + name + "/" + k.uuid()
	k.stacks.put(s.arn, s)
	s.tokens[k.in.str("ClientRequestToken")] = k.operation + " " + k.identity
	failure := "ROLLBACK_COMPLETE"
	if k.in.bool("DisableRollback") || k.in.str("OnFailure") == "DO_NOTHING" {
		failure = "CREATE_FAILED"
	}
	k.begins(s, "CREATE_IN_PROGRESS", "CREATE_COMPLETE", failure)
	return object("StackId", s.arn), nil
}

func updateStack(k *call) (map[string]any, error) {
	s, err := k.stack(k.in.str("StackName"))
	if err != nil {
		return nil, err
	}
	if again, err := k.stackToken(s); again || err != nil {
		return object("StackId", s.arn), err
	}
	if status := s.phase.at(k.now); !slices.Contains([]string{"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"}, status) {
		return nil, k.fail("ValidationError", "Stack:%s is in %s state and can not be updated.", s.arn, status)
	}
	template := or(k.in.str("TemplateBody"), k.in.str("TemplateURL"))
	if k.in.bool("UsePreviousTemplate") {
		template = s.template
	}
	if template == "" {
		return nil, k.fail("ValidationError", "Either Template URL or Template Body must be specified.")
	}
	parameters := k.stackParameters(s.parameters)
	if template == s.template && maps.Equal(parameters, s.parameters) && (!k.in.has("Tags") || maps.Equal(k.in.tags("Tags"), s.tags)) {
		return nil, k.fail("ValidationError", "No updates are to be performed.")
	}
	oldTemplate, oldParameters := s.template, s.parameters
	s.template, s.parameters, s.updated = template, parameters, k.now
	if k.in.has("Tags") {
		s.tags = k.in.tags("Tags")
	}
	s.tokens[k.in.str("ClientRequestToken")] = k.operation + " " + k.identity
	k.begins(s, "UPDATE_IN_PROGRESS", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
	if s.phase.reason != "" {
		s.template, s.parameters = oldTemplate, oldParameters
	}
	k.changed(s.resource, "update")
	return object("StackId", s.arn), nil
}

func deleteStack(k *call) (map[string]any, error) {
	s, err := k.stack(k.in.str("StackName"))
	if err != nil || !s.deleted.IsZero() {
		return map[string]any{}, nil // what is not there is deleted
	}
	if again, err := k.stackToken(s); again || err != nil {
		return map[string]any{}, err
	}
	if s.protected {
		return nil, k.fail("ValidationError", "Stack [%s] cannot be deleted while TerminationProtection is enabled", s.name)
	}
	s.tokens[k.in.str("ClientRequestToken")] = k.operation + " " + k.identity
	k.begins(s, "DELETE_IN_PROGRESS", "DELETE_COMPLETE", "")
	s.deleted = s.phase.until
	k.remove(s.resource)
	return map[string]any{}, nil
}

func describeStacks(k *call) (map[string]any, error) {
	var rows []*stack
	if name := k.in.str("StackName"); name != "" {
		s, err := k.stack(name)
		if err != nil {
			return nil, err
		}
		rows = append(rows, s)
	} else {
		for _, s := range k.stacks.all() {
			if s.place == k.place && !s.isDeleted(k.now) {
				rows = append(rows, s)
			}
		}
	}
	rows, next := page(k, rows, "")
	return object("NextToken", next, "Stacks", list(rows, func(s *stack) map[string]any {
		status, reason := s.phase.at(k.now), ""
		if status == s.phase.after {
			reason = s.phase.reason
		}
		out := object("StackId", s.arn, "StackName", s.name, "StackStatus", status, "StackStatusReason", reason, "CreationTime", s.made,
			"LastUpdatedTime", s.updated, "DeletionTime", s.deleted, "Tags", tagList(s.tags), "EnableTerminationProtection", s.protected,
			"Parameters", list(slices.Sorted(maps.Keys(s.parameters)), func(name string) map[string]any {
				return object("ParameterKey", name, "ParameterValue", s.parameters[name])
			}))
		if status == "CREATE_COMPLETE" || status == "UPDATE_COMPLETE" {
			out["Outputs"] = list(slices.Sorted(maps.Keys(s.outputs)), func(name string) map[string]any {
				return object("OutputKey", name, "OutputValue", s.outputs[name])
			})
		}
		return out
	})), nil
}

func describeStackEvents(k *call) (map[string]any, error) {
	s, err := k.stack(k.in.str("StackName"))
	if err != nil {
		return nil, err
	}
	var rows []int
	for n, e := range slices.Backward(s.events) {
		if !e.at.After(k.now) {
			rows = append(rows, n)
		}
	}
	rows, next := page(k, rows, "")
	return object("NextToken", next, "StackEvents", list(rows, func(n int) map[string]any {
		e := s.events[n]
		return object("StackId", s.arn, "StackName", s.name, "EventId", asUUID(hexOf(k.hash("event", s.arn, n))), "LogicalResourceId", e.logical,
			"ResourceType", e.kind, "ResourceStatus", e.status, "ResourceStatusReason", e.reason, "Timestamp", e.at, "ClientRequestToken", e.token)
	})), nil
}
