package simcloud

import (
	"context"
	"fmt"
	"time"
)

// FaultKind is what goes wrong.
type FaultKind string

// The kinds of faults.
const (
	Refuse   FaultKind = "refusal"      // the error Code, and no effect
	Drop     FaultKind = "lost request" // no effect, and no answer
	Lose     FaultKind = "lost answer"  // the effect, and no answer; or, if there is one, the error Code
	Throttle FaultKind = "throttling"   // the service's error for it, and no effect
	Delay    FaultKind = "delay"        // Wait passes before the call is carried out
	Hang     FaultKind = "hang"         // nothing until the caller gives up; no effect
)

// Fault is something that goes wrong with calls that match. The first fault of
// the list that applies to a call is the one that it meets.
type Fault struct {
	Service, Operation string          // "" matches any
	When               func(Call) bool // nil matches any

	From  int  // the first of the matching calls that meets it; 0 is 1
	Times int  // how many meet it; 0 is 1, -1 is all that follow
	Each  bool // From and Times count the calls of the same input, not all: independent of order

	Kind    FaultKind
	Code    string // of Refuse, where "" is InternalError, and of Lose
	Message string
	Wait    time.Duration // of Delay
}

// Chance is how likely a call meets a fault: a share from 0 to 1 of each kind.
// Which calls meet one depends on the seed and on what they say.
type Chance struct {
	Refuse, Drop, Lose, Throttle float64
	Only                         func(Call) bool // nil is all calls
}

// Call is a call as Fault.When sees it.
type Call struct {
	Account, Region, Role  string
	Service, Operation     string
	Token, Execution, Step string
	Nth                    int            // which of the calls of the same input it is, from 1
	Input                  map[string]any // not to be changed
}

// meets finds the fault that a call meets; the zero Fault if none.
func (c *Cloud) meets(k *call) Fault {
	if k.given {
		return Fault{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.met[k.identity]++
	call := Call{
		Account: k.account, Region: k.region, Role: k.role, Service: k.service, Operation: k.operation,
		Nth: c.met[k.identity], Input: k.in,
	}
	call.Token, call.Execution, call.Step = k.marks()
	var met Fault
	for i, f := range c.Faults {
		if f.Service != "" && f.Service != k.service || f.Operation != "" && f.Operation != k.operation ||
			f.When != nil && !f.When(call) {
			continue
		}
		counted := fmt.Sprint(i)
		if f.Each {
			counted += " " + k.identity
		}
		c.matched[counted]++
		n, from, times := c.matched[counted], max(f.From, 1), f.Times
		if times == 0 {
			times = 1
		}
		if met.Kind == "" && n >= from && (times < 0 || n < from+times) {
			met = f
		}
	}
	if met.Kind == "" && (c.Chance.Only == nil || c.Chance.Only(call)) {
		met.Kind = c.Chance.kind(c.share("fault", k.identity, call.Nth))
	}
	return met
}

func (p Chance) kind(share float64) FaultKind {
	for _, of := range []struct {
		kind  FaultKind
		share float64
	}{{Refuse, p.Refuse}, {Lose, p.Lose}, {Throttle, p.Throttle}, {Drop, p.Drop}} {
		if share -= of.share; share < 0 {
			return of.kind
		}
	}
	return ""
}

// wait passes the time that the fault costs.
func (f Fault) wait(k *call) error {
	err := k.ctx.Err()
	switch {
	case err != nil:
	case f.Kind == Hang:
		<-k.ctx.Done()
		err = k.ctx.Err()
	case f.Kind == Delay && k.Sleep != nil:
		err = k.Sleep(k.ctx, f.Wait)
	case f.Kind == Delay:
		err = sleep(k.ctx, f.Wait)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", k.service, k.operation, err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// loses is the error of a call that had its effect.
func (f Fault) loses(k *call) error {
	switch {
	case f.Kind == Lose && f.Code != "":
		return k.fail(f.Code, "%s", or(f.Message, "An internal error has occurred"))
	case f.Kind == Lose:
		return k.noAnswer("the connection was closed before an answer came")
	}
	return nil
}

// refuses is the error of a call that has no effect.
func (f Fault) refuses(k *call) error {
	switch f.Kind {
	case Refuse:
		return k.fail(or(f.Code, "InternalError"), "%s", or(f.Message, "An internal error has occurred"))
	case Drop:
		return k.noAnswer("the connection was reset before the request was read")
	case Throttle:
		return k.fail(servicesRules[k.service].throttled, "Rate exceeded")
	}
	return nil
}
