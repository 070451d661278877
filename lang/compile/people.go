package compile

import (
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/lang/syntax"
)

// The forms that wait, judge or end.

func nothing() program.Type { return program.Type{Kind: program.Object, Fields: []program.Field{}} }

func (c *compiler) approval(step *program.Step, m keyed, sc *scope) program.Type {
	a := c.keys(m.get("approval"), "`approval:`", approvalKeys, nil)
	step.Approval = &program.Approval{
		Quorum:    c.count(a.get("quorum"), sc, 1),
		Timeout:   c.duration(a.get("timeout"), sc, positive),
		OnTimeout: program.OnTimeoutFail,
	}
	if v := c.message(a.get("message"), sc); v != nil {
		step.Approval.Message = *v
	}
	if n := a.get("approvers"); n != nil {
		step.Approval.Approvers, _ = c.value(n, program.ListOf(stringType), sc, valueOpts{})
		if q := a.get("quorum"); q != nil && q.Kind == syntax.Int && n.Kind == syntax.List && len(n.Items) > 0 {
			if v, ok := step.Approval.Quorum, step.Approval.Quorum != nil; ok && intOf(v.Lit) > int64(len(n.Items)) {
				c.errorf(q, "wrong-value", "a quorum of %s can never be reached by %d approvers", q.Value, len(n.Items))
			}
		}
	}
	if n := a.get("on_timeout"); n != nil {
		step.Approval.OnTimeout = c.oneOf(n, "on_timeout", program.OnTimeoutFail, program.OnTimeoutApprove, program.OnTimeoutReject)
		if a.get("timeout") == nil {
			c.errorf(n, "misplaced-key", "`on_timeout:` means nothing without `timeout:`")
		}
	}
	return object("decision", stringType, "by", program.ListOf(stringType), "comment", stringType)
}

func (c *compiler) message(n *syntax.Node, sc *scope) *program.Value {
	if n == nil {
		return nil
	}
	v, _ := c.value(n, stringType, sc, valueOpts{})
	return v
}

func (c *compiler) wait(step *program.Step, m keyed, sc *scope) program.Type {
	step.Wait = c.duration(m.get("wait"), sc, zeroOrMore)
	return nothing()
}

func (c *compiler) waitUntil(step *program.Step, m keyed, sc *scope) program.Type {
	step.Wait, _ = c.value(m.get("wait_until"), program.Type{Kind: program.Timestamp}, sc, valueOpts{})
	return nothing()
}

func (c *compiler) pause(step *program.Step, m keyed, sc *scope) program.Type {
	step.Message = c.message(m.get("pause"), sc)
	return nothing()
}

func (c *compiler) assert(step *program.Step, m keyed, sc *scope) program.Type {
	step.Assert = c.bare(m.get("assert"), "assert", sc, boolType)
	step.Message = c.message(m.get("message"), sc)
	return nothing()
}

// stop compiles `stop:` and `fail:`, which differ in their kind alone.
func (c *compiler) stop(step *program.Step, m keyed, sc *scope) program.Type {
	step.Message = c.message(m.get(string(step.Kind)), sc)
	return nothing()
}
