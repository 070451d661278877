package awsapi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// paginator says how an operation's answer is cut in pages.
type paginator struct {
	InputToken  texts  `json:"input_token"`
	OutputToken texts  `json:"output_token"`
	ResultKey   texts  `json:"result_key"`
	MoreResults string `json:"more_results"`
	LimitKey    string `json:"limit_key"`
	Aggregate   texts  `json:"non_aggregate_keys"`
}

// texts is one text or a list of them.
type texts []string

func (t *texts) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*t = texts{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(t))
}

// MaxPages bounds how many pages All collects, and Pages asks for.
const MaxPages = 1000

// Pages calls an operation until there are no more pages. yield gets each
// answer, and says whether to go on. An operation that has no pages has one.
// With more than MaxPages, or a page that leads to itself, it is an error.
func Pages(ctx context.Context, c Caller, m *Models, in Scope, service, operation string, input map[string]any, yield func(page map[string]any) bool) error {
	s, op, err := m.lookup(service, operation)
	if err != nil {
		return err
	}
	p := s.paginator(op)
	input = maps.Clone(orEmpty(input))
	for n := 1; ; n++ {
		page, err := c.Call(ctx, in, service, operation, input)
		if err != nil || !yield(page) || p == nil {
			return err
		}
		if p.MoreResults != "" {
			if more, ok := search(page, p.MoreResults).(bool); ok && !more {
				return nil
			}
		}
		var before, after []any
		for i, token := range p.InputToken {
			var next any
			if i < len(p.OutputToken) {
				next = search(page, p.OutputToken[i])
			}
			before, after = append(before, input[token]), append(after, next)
			input[token] = next
		}
		if !slices.ContainsFunc(after, func(v any) bool { return v != nil && v != "" }) {
			return nil
		}
		if reflect.DeepEqual(before, after) {
			return &Error{Service: service, Operation: operation, Code: CodeAnswer, Class: Failed, Message: "a page leads to itself"}
		}
		if n == MaxPages {
			return &Error{Service: service, Operation: operation, Code: CodeAnswer, Class: Failed, Message: fmt.Sprintf("there are more than %d pages; narrow the call down", MaxPages)}
		}
	}
}

// All calls an operation for all its pages and returns one answer: the lists
// that go over pages are joined, and the rest is the first page's. It is an
// error if they hold more than most items, 0 being no bound but MaxPages.
func All(ctx context.Context, c Caller, m *Models, in Scope, service, operation string, input map[string]any, most int) (map[string]any, error) {
	s, op, err := m.lookup(service, operation)
	if err != nil {
		return nil, err
	}
	p := s.paginator(op)
	var out map[string]any
	items, over := 0, false
	err = Pages(ctx, c, m, in, service, operation, input, func(page map[string]any) bool {
		if p != nil {
			for _, key := range p.ResultKey {
				if list, ok := search(page, key).([]any); ok {
					items += len(list)
				}
			}
			over = most > 0 && items > most
		}
		if out == nil {
			out = page
			return !over
		}
		for _, key := range p.ResultKey {
			join(out, page, strings.Split(key, "."))
		}
		return !over
	})
	if err != nil {
		return nil, err
	}
	if over {
		return nil, &Error{Service: service, Operation: operation, Code: CodeAnswer, Class: Failed,
			Message: fmt.Sprintf("there are more than %d items; narrow the call down", most)}
	}
	if p != nil {
		// What led to the next page has led there.
		for _, token := range append(slices.Clone(p.OutputToken), p.MoreResults) {
			delete(out, token)
		}
	}
	return out, nil
}

func (s *service) paginator(op *operation) *paginator {
	if s.pages == nil {
		return nil
	}
	return s.pages.Pagination[op.name]
}

// join adds what a page holds at a path to what is there already: lists are
// joined, maps merged and numbers added, as botocore does it.
func join(out, page map[string]any, path []string) {
	name := path[0]
	more, ok := page[name]
	if !ok {
		return
	}
	have, ok := out[name]
	if !ok {
		out[name] = more
		return
	}
	if len(path) > 1 {
		a, ok := have.(map[string]any)
		b, also := more.(map[string]any)
		if ok && also {
			join(a, b, path[1:])
		}
		return
	}
	switch have := have.(type) {
	case []any:
		if more, ok := more.([]any); ok {
			out[name] = append(have, more...)
		}
	case map[string]any:
		if more, ok := more.(map[string]any); ok {
			maps.Copy(have, more)
		}
	case int64:
		if more, ok := more.(int64); ok {
			out[name] = have + more
		}
	case float64:
		if more, ok := more.(float64); ok {
			out[name] = have + more
		}
	}
}

// search follows an expression of a paginator. They are JMESPath, of which they
// use three things: names with dots, an index, and "or".
func search(v any, expression string) any {
	for path := range strings.SplitSeq(expression, "||") {
		if got := attr(v, strings.TrimSpace(path)); got != nil && got != "" {
			return got
		}
	}
	return nil
}
