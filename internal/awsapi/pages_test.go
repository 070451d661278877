package awsapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// book answers pages; it is a Caller.
type book struct {
	pages  []map[string]any
	inputs []map[string]any
}

func (b *book) Call(_ context.Context, _ Scope, _, _ string, input map[string]any) (map[string]any, error) {
	b.inputs = append(b.inputs, maps.Clone(input))
	n := len(b.inputs) - 1
	if n >= len(b.pages) {
		n = len(b.pages) - 1
	}
	return maps.Clone(b.pages[n]), nil
}

func TestAll(t *testing.T) {
	m := models(t)
	one := map[string]any{"Bucket": "b"}
	tests := []struct {
		service, operation string
		input              map[string]any
		pages              []map[string]any
		want               map[string]any
		inputs             []map[string]any
	}{
		{"ec2", "DescribeInstances", nil,
			[]map[string]any{{"Reservations": []any{"a"}, "NextToken": "1"}, {"Reservations": []any{"b", "c"}, "NextToken": "2"}, {"Reservations": []any{"d"}, "NextToken": ""}},
			map[string]any{"Reservations": []any{"a", "b", "c", "d"}}, []map[string]any{{}, {"NextToken": "1"}, {"NextToken": "2"}}},
		{"s3", "ListObjects", one, // "NextMarker || Contents[-1].Key", and a flag that says whether there is more
			[]map[string]any{{"Contents": []any{map[string]any{"Key": "a"}, map[string]any{"Key": "b"}}, "IsTruncated": true}, {"Contents": []any{map[string]any{"Key": "c"}}, "IsTruncated": false}},
			map[string]any{"Contents": []any{map[string]any{"Key": "a"}, map[string]any{"Key": "b"}, map[string]any{"Key": "c"}}}, []map[string]any{one, {"Bucket": "b", "Marker": "b"}}},
		{"route53", "ListResourceRecordSets", map[string]any{"HostedZoneId": "z"}, // three tokens
			[]map[string]any{{"ResourceRecordSets": []any{1}, "IsTruncated": true, "NextRecordName": "n", "NextRecordType": "A"}, {"ResourceRecordSets": []any{2}, "IsTruncated": false}},
			map[string]any{"ResourceRecordSets": []any{1, 2}},
			[]map[string]any{{"HostedZoneId": "z"}, {"HostedZoneId": "z", "StartRecordName": "n", "StartRecordType": "A", "StartRecordIdentifier": nil}}},
		{"kinesis", "DescribeStream", map[string]any{"StreamName": "s"}, // keys with dots
			[]map[string]any{{"StreamDescription": map[string]any{"Shards": []any{map[string]any{"ShardId": "1"}}, "HasMoreShards": true}}, {"StreamDescription": map[string]any{"Shards": []any{map[string]any{"ShardId": "2"}}, "HasMoreShards": false}}},
			map[string]any{"StreamDescription": map[string]any{"Shards": []any{map[string]any{"ShardId": "1"}, map[string]any{"ShardId": "2"}}, "HasMoreShards": true}},
			[]map[string]any{{"StreamName": "s"}, {"StreamName": "s", "ExclusiveStartShardId": "1"}}},
		{"sts", "GetCallerIdentity", nil, []map[string]any{{"Account": "1"}}, map[string]any{"Account": "1"}, []map[string]any{{}}},
	}
	for _, tt := range tests {
		b := &book{pages: tt.pages}
		got, err := All(t.Context(), b, m, Scope{}, tt.service, tt.operation, tt.input, 0)
		if err != nil {
			t.Errorf("%s: %v", tt.operation, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: want -, got +\n%s", tt.operation, diff)
		}
		if diff := cmp.Diff(tt.inputs, b.inputs); diff != "" {
			t.Errorf("%s: inputs want -, got +\n%s", tt.operation, diff)
		}
	}
}

func TestPagesEnd(t *testing.T) {
	m := models(t)
	fails := func(want string, most int, pages ...map[string]any) {
		t.Helper()
		_, err := All(t.Context(), &book{pages: pages}, m, Scope{}, "ec2", "DescribeInstances", nil, most)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Message, want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	fails("leads to itself", 0, map[string]any{"NextToken": "1"})
	fails("more than 3 items", 3, map[string]any{"Reservations": []any{1, 2}, "NextToken": "1"}, map[string]any{"Reservations": []any{1, 2}, "NextToken": "2"})
	var endless []map[string]any
	for i := range MaxPages + 1 {
		endless = append(endless, map[string]any{"NextToken": fmt.Sprint(i)})
	}
	fails("more than 1000 pages", 0, endless...)

	n := 0
	err := Pages(t.Context(), &book{pages: endless}, m, Scope{}, "ec2", "DescribeInstances", nil, func(map[string]any) bool { n++; return n < 3 })
	if err != nil || n != 3 {
		t.Errorf("%d pages, %v", n, err)
	}
}

// What the paginators of all services say can be followed.
func TestPaginators(t *testing.T) {
	m := models(t)
	count := 0
	for _, service := range m.Services() {
		s, err := m.service(service)
		if err != nil {
			t.Fatal(err)
		}
		if s.pages == nil {
			continue
		}
		for name, p := range s.pages.Pagination {
			count++
			op := s.Operations[name]
			if op == nil {
				t.Errorf("%s %s: there is no such operation", service, name)
				continue
			}
			for _, token := range p.InputToken {
				if s.Shapes[op.Input.Shape].Members[token] == nil {
					t.Errorf("%s %s: %s is no input", service, name, token)
				}
			}
			for _, e := range append(append(texts{}, p.OutputToken...), p.ResultKey...) {
				if strings.ContainsAny(e, "*@()?`'{}") {
					t.Errorf("%s %s: %s is more than we read", service, name, e)
				}
			}
		}
	}
	t.Logf("%d paginators", count)
	if count < 3000 {
		t.Errorf("only %d paginators", count)
	}
}
