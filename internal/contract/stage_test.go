package contract

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// scenario is a story that every back end has to tell in the same way.
type scenario struct {
	name    string
	by      string // what of AWS's documentation says so
	run     func(s *stage)
	options []func(*simcloud.Options) // what simcloud is given to stand for code of a user
}

// object is input or output of a call.
type object = map[string]any

func list(items ...any) []any { return items }

// stage is a scenario while it is played. What it claims is held or failed;
// a call without which there is nothing to go on with ends it.
type stage struct {
	place
	outcome
	claims []string
}

// outcome is what came of a scenario.
type outcome struct {
	held     int
	failures []failure
}

type failure struct{ claim, detail string }

func (o outcome) failed(claim string) bool {
	return slices.ContainsFunc(o.failures, func(f failure) bool { return f.claim == claim })
}

// over is the panic with which a scenario ends early.
type over struct{}

func (sc scenario) play(p place) outcome {
	s := &stage{place: p}
	func() {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(over); !ok {
					panic(r)
				}
			}
		}()
		sc.run(s)
	}()
	return s.outcome
}

func (s *stage) settles(claim, detail string) bool {
	if slices.Contains(s.claims, claim) {
		detail = "the scenario claims this twice; " + detail
		s.failures = append(s.failures, failure{claim + " (again)", detail})
		return false
	}
	s.claims = append(s.claims, claim)
	if detail == "" {
		s.held++
		return true
	}
	s.failures = append(s.failures, failure{claim, detail})
	return false
}

// call makes a call as the scenario's account.
func (s *stage) call(service, operation string, in object) (object, error) {
	return s.in("", service, operation, in)
}

// in makes a call in a region.
func (s *stage) in(region, service, operation string, in object) (object, error) {
	scope := s.scope
	scope.Region = region
	return s.caller.Call(context.Background(), scope, service, operation, in)
}

// do makes a call that has to be carried out.
func (s *stage) do(service, operation string, in object) object {
	out, err := s.call(service, operation, in)
	if err != nil {
		s.settles(service+" "+operation, err.Error())
		panic(over{})
	}
	return out
}

// may makes a call that has to be carried out, and goes on if it is not.
func (s *stage) may(claim, service, operation string, in object) (object, bool) {
	out, err := s.call(service, operation, in)
	detail := ""
	if err != nil {
		detail = err.Error()
	}
	return out, s.settles(claim, detail)
}

// refused makes a call that AWS does not carry out.
func (s *stage) refused(claim, code, service, operation string, in object) {
	out, err := s.call(service, operation, in)
	s.settles(claim, refusal(code, out, err))
}

// conflicts makes a call that AWS refuses for the state of things. Where its
// documentation does not say with which code, the class has to do.
func (s *stage) conflicts(claim, service, operation string, in object) {
	out, err := s.call(service, operation, in)
	var e *awsapi.Error
	switch {
	case err == nil:
		s.settles(claim, fmt.Sprintf("carried out, want a conflict: %.300s", fmt.Sprint(out)))
	case !errors.As(err, &e) || e.Class != awsapi.Conflict:
		s.settles(claim, "want a conflict: "+err.Error())
	default:
		s.settles(claim, "")
	}
}

// refusal is what is wrong with an answer that should be this code, "" if nothing.
func refusal(code string, out object, err error) string {
	var e *awsapi.Error
	switch {
	case err == nil:
		return fmt.Sprintf("carried out, want the error %s: %.300s", code, fmt.Sprint(out))
	case !errors.As(err, &e):
		return err.Error()
	case e.Code != code:
		return fmt.Sprintf("error %s, want %s: %s", e.Code, code, e.Message)
	}
	return ""
}

func (s *stage) equal(claim string, got, want any) {
	detail := ""
	if !reflect.DeepEqual(got, want) {
		detail = "(-want +got)\n" + cmp.Diff(want, got)
	}
	s.settles(claim, detail)
}

func (s *stage) holds(claim string, ok bool, about ...any) {
	detail := ""
	if !ok {
		detail = "it does not: " + fmt.Sprint(about...)
	}
	s.settles(claim, detail)
}

// get follows a path such as "Reservations.0.Instances.0.InstanceId".
func get(v any, path string) any {
	for part := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[part]
		case []any:
			n, err := strconv.Atoi(part)
			if err != nil || n >= len(in) {
				return nil
			}
			v = in[n]
		default:
			return nil
		}
	}
	return v
}

func text(v any, path string) string {
	s, _ := get(v, path).(string)
	return s
}

// items are the structures of a list.
func items(v any, path string) []object {
	var all []object
	list, _ := get(v, path).([]any)
	for _, item := range list {
		if one, ok := item.(map[string]any); ok {
			all = append(all, one)
		}
	}
	return all
}

// texts are one text of each structure of a list, sorted.
func texts(v any, path, of string) []string {
	all := []string{}
	for _, item := range items(v, path) {
		all = append(all, text(item, of))
	}
	slices.Sort(all)
	return all
}

// tags reads a list of Key and Value.
func tags(v any) map[string]string {
	all := map[string]string{}
	for _, t := range items(object{"Tags": v}, "Tags") {
		all[text(t, "Key")] = text(t, "Value")
	}
	return all
}

func tag(key, value string) object { return object{"Key": key, "Value": value} }

// spec are TagSpecifications of one kind of resource.
func spec(kind string, of ...any) []any { return list(object{"ResourceType": kind, "Tags": of}) }

func filter(name string, values ...any) object { return object{"Name": name, "Values": values} }

// Nothing is claimed twice under one name, or a listed difference would hide another one.
func TestStage(t *testing.T) {
	got := scenario{run: func(s *stage) {
		s.equal("a", 1, 1)
		s.equal("a", 1, 1)
		s.holds("b", false)
	}}.play(place{})
	if got.held != 1 || !got.failed("a (again)") || !got.failed("b") {
		t.Errorf("%+v", got)
	}
}
