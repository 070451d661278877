package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

// An answer is a command that says something to a step which waits for a person.
type answer struct {
	name  string // of the command and of the update
	short string
	long  string
	past  string // what is printed: "approved"
	with  bool   // takes inputs
}

func (a *app) approveCommand() *cobra.Command {
	return a.answerCommand(answer{workflows.AnswerApprove, "Approve a step that waits for approval",
		"Approve. With a quorum the step goes on when enough people have approved.", "approved", false})
}

func (a *app) rejectCommand() *cobra.Command {
	return a.answerCommand(answer{workflows.AnswerReject, "Reject a step that waits for approval",
		"Reject: the step fails, and what was done is rolled back unless the runbook says otherwise. Say why with --comment.", "rejected", false})
}

func (a *app) resumeCommand() *cobra.Command {
	return a.answerCommand(answer{workflows.AnswerResume, "Let a paused execution go on",
		"Let an execution go on that stands at a pause: step.", "resumed", false})
}

func (a *app) retryCommand() *cobra.Command {
	return a.answerCommand(answer{workflows.AnswerRetry, "Run a failed step again",
		"Run a failed step again, in an execution that asks what to do (on_failure: ask). Of a step on several targets, on those that failed. --input changes inputs of the step's action.", "retried", true})
}

func (a *app) skipCommand() *cobra.Command {
	return a.answerCommand(answer{workflows.AnswerSkip, "Go on without a failed step",
		"Go on without a failed step, in an execution that asks what to do (on_failure: ask). Steps that need its outputs are skipped or fail. A step on several targets gives what it has.", "skipped", false})
}

func (a *app) continueCommand() *cobra.Command {
	return a.answerCommand(answer{workflows.AnswerContinue, "Go on with the targets that a halted step has left",
		"Go on with the targets that a step has not begun, which was halted because too many failed or its gate is closed (on_halt: ask). What has failed so far is accepted.", "continued", false})
}

func (a *app) rollbackCommand() *cobra.Command {
	cmd := a.answerCommand(answer{workflows.AnswerRollback, "Give up a failed step and roll back; or take back what an execution left",
		`End an execution that asks what to do (on_failure: ask), and take back what it did. To roll back one that runs, cancel it.

Of an execution that has ended, what it left is taken back: what could not be rolled back, once the reason is gone, and what
"on_failure: stop" or "starter stop" left as it was. That is an execution of its own, EXECUTION-rollback, which waits for the
runbook's locks like another.`, "chose rollback for", false})
	cmd.Example = a.examples("starter rollback demo-tour-20261123-101500-x2ab")
	return cmd
}

func (a *app) stopCommand() *cobra.Command {
	return a.answerCommand(answer{workflows.AnswerStop, "Give up a failed step and leave everything as it is",
		"End an execution that asks what to do (on_failure: ask) without rolling back.", "stopped at", false})
}

func (a *app) answerCommand(ans answer) *cobra.Command {
	var pairs []string
	var said workflows.Answer
	example := "starter " + ans.name + " demo-tour-20261123-101500-x2ab"
	if ans.with {
		example += " -i path=/etc/app.conf"
	}
	cmd := &cobra.Command{
		Use:   ans.name + " EXECUTION [STEP]",
		Short: ans.short,
		Long: ans.long + `

The step is its id or path, and may be left out if one step waits; show lists
those that do.`,
		Example: a.examples(example),
		Args:    oneOrTwo("EXECUTION", "STEP"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.executionArgs(cmd, args, typed)
			}
			var steps []string
			_ = a.with(cmd.Context(), func(ctx context.Context, s *server) error {
				v, err := s.view(ctx, args[0])
				for _, w := range forPeople(v) {
					steps = append(steps, w.Step)
				}
				return err
			})
			return steps, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				said.Step = args[1]
			}
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error {
				return a.answer(ctx, s, args[0], ans, said, pairs)
			})
		},
	}
	cmd.Flags().StringVar(&said.By, "by", caller(), "who answers")
	cmd.Flags().Lookup("by").DefValue = "" // the help text must not depend on who reads it
	cmd.Flags().Lookup("by").Usage = "who answers (default: the current user)"
	cmd.Flags().StringVarP(&said.Comment, "comment", "m", "", "why")
	if ans.with {
		cmd.Flags().StringArrayVarP(&pairs, "input", "i", nil, "change an input of the step, as name=value")
	}
	return cmd
}

func (a *app) answer(ctx context.Context, s *server, id string, ans answer, said workflows.Answer, pairs []string) error {
	if ans.name == workflows.AnswerRollback {
		d, err := s.describe(ctx, id)
		if err != nil {
			return a.explain(s, id, err)
		}
		if info := d.GetWorkflowExecutionInfo(); info.GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
			return a.takeBack(ctx, s, info, said)
		}
	}
	v, err := s.view(ctx, id)
	if err != nil {
		d, derr := s.describe(ctx, id)
		if derr != nil {
			return a.explain(s, id, derr)
		}
		if name := s.deserted(ctx, d.GetWorkflowExecutionInfo()); name != "" {
			return fmt.Errorf("nobody can take the answer: %s", a.waitsForVersion(name))
		}
		if n, perr := s.pollers(ctx); perr == nil && n == 0 {
			return fmt.Errorf("no worker is polling task queue %s, so nobody can take the answer: start one (make dev runs one)", workflows.TaskQueue)
		}
		return fmt.Errorf("execution %s does not answer: %w", id, err)
	}
	wait, err := a.waitFor(v, id, ans, said.Step)
	if err != nil {
		return err
	}
	said.Step = wait.Step
	if said.With, err = answerInputs(wait, pairs); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*queryTimeout)
	defer cancel()
	update, err := s.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: id, UpdateName: ans.name, Args: []any{said}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err == nil {
		err = update.Get(ctx, nil)
	}
	var refused *temporal.ApplicationError
	if errors.As(err, &refused) {
		return fmt.Errorf("%s %s: %s", ans.name, wait.Step, refused.Message())
	}
	if err != nil {
		return a.explain(s, id, err)
	}
	if a.json() {
		return printJSON(a.stdout, struct {
			ID     string           `json:"id"`
			Answer string           `json:"answer"`
			Said   workflows.Answer `json:"said"`
		}{id, ans.name, said})
	}
	fmt.Fprintf(a.stdout, "%s %s as %s; follow it with: %s watch %s\n", ans.past, wait.Step, said.By, a.again(), runview.Quote(id))
	return nil
}

// waitFor finds what an answer is for: the step named, else the one that waits
// for such an answer.
func (a *app) waitFor(v workflows.View, id string, ans answer, step string) (workflows.Wait, error) {
	if runview.Finished(v.Status) {
		return workflows.Wait{}, fmt.Errorf("execution %s has ended (%s): there is nothing to %s", id, v.Status, ans.name)
	}
	var fit []workflows.Wait
	asked := forPeople(v)
	for _, w := range asked {
		if slices.Contains(w.Choices, ans.name) && (step == "" || isStep(w.Step, step)) {
			fit = append(fit, w)
		}
	}
	if i := slices.IndexFunc(fit, func(w workflows.Wait) bool { return w.Step == step }); i >= 0 {
		return fit[i], nil
	}
	if len(fit) == 1 {
		return fit[0], nil
	}
	var b strings.Builder
	switch {
	case len(fit) > 1:
		b.WriteString("several steps wait; name one:")
	case len(asked) == 0:
		return workflows.Wait{}, fmt.Errorf("no step of execution %s waits for a person (it is %s)", id, v.Status)
	case step != "":
		fmt.Fprintf(&b, "no step %s waits for %s; these answers are possible:", step, ans.name)
	default:
		fmt.Fprintf(&b, "no step waits for %s; these answers are possible:", ans.name)
	}
	waits := fit
	if len(fit) == 0 {
		waits = asked
	}
	for _, w := range waits {
		if len(fit) > 1 {
			w.Choices = []string{ans.name}
		}
		for _, c := range runview.AnswerCommands(w, runview.Execution{ID: id}, true, a.again()) {
			b.WriteString("\n  " + c)
		}
	}
	return workflows.Wait{}, usagef("%s", b.String())
}

// forPeople is what waits for an answer: nobody answers a lock.
func forPeople(v workflows.View) []workflows.Wait {
	return slices.DeleteFunc(slices.Clone(v.Waiting), func(w workflows.Wait) bool { return len(w.Choices) == 0 })
}

// isStep tells whether a person means the step at path: by it, or by its id alone.
func isStep(path, said string) bool {
	return path == said || strings.HasSuffix(path, "."+said)
}

// answerInputs reads changed inputs by the types of the failed step's action;
// of an action that is not known here, as JSON or else as text.
func answerInputs(w workflows.Wait, pairs []string) (map[string]json.RawMessage, error) {
	with := map[string]json.RawMessage{}
	var fields []action.Field
	if w.Failure != nil {
		for _, info := range actionInfos() {
			if info.Name == w.Failure.Action {
				fields = info.Inputs
			}
		}
	}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, usagef("--input %s is not name=value", runview.Quote(pair))
		}
		if with[name] != nil {
			return nil, usagef("input %s is given twice", name)
		}
		i := slices.IndexFunc(fields, func(f action.Field) bool { return f.Name == name })
		switch {
		case i >= 0:
			raw, err := program.ParseInput(fields[i].Type, value)
			if err != nil {
				return nil, usagef("input %s: %w", name, err)
			}
			with[name] = raw
		case fields != nil:
			var names []string
			for _, f := range fields {
				names = append(names, f.Name)
			}
			return nil, usagef("%s has no input %s; it has %s", w.Failure.Action, name, strings.Join(names, ", "))
		case json.Valid([]byte(value)):
			with[name] = json.RawMessage(value)
		default:
			with[name], _ = json.Marshal(value) // a string always has a JSON form
		}
	}
	return with, nil
}
