package authorizer

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/server/api/adminservice/v1"
	"go.temporal.io/server/common/authorization"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// services are what the server's frontend registers.
var services = []grpc.ServiceDesc{
	workflowservice.WorkflowService_ServiceDesc, operatorservice.OperatorService_ServiceDesc,
	adminservice.AdminService_ServiceDesc, healthpb.Health_ServiceDesc,
}

// method is one method as the server has it.
type method struct {
	short, full   string
	input, output protoreflect.MessageType
	stream        bool
}

func methodsOfServer(t *testing.T) map[string]method {
	t.Helper()
	all := map[string]method{}
	for _, s := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(s.ServiceName))
		if err != nil {
			t.Fatal(err)
		}
		ms := d.(protoreflect.ServiceDescriptor).Methods()
		if ms.Len() != len(s.Methods)+len(s.Streams) {
			t.Fatalf("%s registers %d methods and describes %d", s.ServiceName, len(s.Methods)+len(s.Streams), ms.Len())
		}
		for i := range ms.Len() {
			m := ms.Get(i)
			input, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
			if err != nil {
				t.Fatal(err)
			}
			output, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
			if err != nil {
				t.Fatal(err)
			}
			full := "/" + s.ServiceName + "/" + string(m.Name())
			all[short(full)] = method{short(full), full, input, output, m.IsStreamingClient() || m.IsStreamingServer()}
		}
	}
	return all
}

// table is testdata/table.txt: method, then role, then the cell.
func table(t *testing.T) (cells map[string]map[string]string, columns []string) {
	t.Helper()
	raw, err := os.ReadFile("testdata/table.txt")
	if err != nil {
		t.Fatal(err)
	}
	cells = map[string]map[string]string{}
	for i, line := range strings.Split(string(raw), "\n") {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "# method"):
			columns = fields[2:]
		case len(fields) == 0 || strings.HasPrefix(line, "#"):
		case len(fields) != len(columns)+1 || cells[fields[0]] != nil:
			t.Fatalf("table.txt:%d: %s", i+1, line)
		default:
			row := map[string]string{}
			for j, cell := range fields[1:] {
				if !slices.Contains([]string{"yes", "if", "-"}, cell) {
					t.Fatalf("table.txt:%d: cell %q", i+1, cell)
				}
				row[columns[j]] = cell
			}
			cells[fields[0]] = row
		}
	}
	return cells, columns
}

// example is a line of testdata/cases.txt.
type example struct {
	line   int
	who    Identity
	method string
	allow  bool
	json   string
}

func examples(t *testing.T) []example {
	t.Helper()
	raw, err := os.ReadFile("testdata/cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []example
	var who Identity
	var of string
	for i, line := range strings.Split(string(raw), "\n") {
		verdict, json, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case !strings.HasPrefix(line, " "):
			role, name, _ := strings.Cut(verdict, "/")
			if who, err = identity(role, name); err != nil {
				t.Fatalf("cases.txt:%d: %v", i+1, err)
			}
			of = json
		case verdict == "yes" || verdict == "no":
			all = append(all, example{i + 1, who, of, verdict == "yes", strings.TrimSpace(json)})
		default:
			t.Fatalf("cases.txt:%d: %s", i+1, line)
		}
	}
	return all
}

var testKey = bytes.Repeat([]byte{7}, 32)

// request makes a request from its JSON. An empty namespace means none at all.
func request(t *testing.T, m method, json, namespace string) proto.Message {
	t.Helper()
	token := []byte("\x0a\x03abc")
	for {
		before, rest, ok := strings.Cut(json, "$sealed(")
		if !ok {
			break
		}
		name, after, _ := strings.Cut(rest, ")")
		role, who, _ := strings.Cut(name, "/")
		json = before + base64.StdEncoding.EncodeToString(sealed(testKey, Identity{Role(role), who}, token)) + after
	}
	json = strings.ReplaceAll(json, "$token", base64.StdEncoding.EncodeToString(token))
	json, unknown := strings.CutSuffix(json, `, "$unknown": true}`)
	if unknown {
		json += "}"
	}
	req := m.input.New().Interface()
	if err := protojson.Unmarshal([]byte(json), req); err != nil {
		t.Fatalf("%s: %v\n%s", m.short, err, json)
	}
	r := req.ProtoReflect()
	if f := r.Descriptor().Fields().ByName("namespace"); f != nil && namespace != "" {
		r.Set(f, protoreflect.ValueOfString(namespace))
	}
	if unknown {
		r.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 4711, protowire.VarintType), 1))
	}
	return req
}

// ask is the authorizer's answer to one call, as the server's interceptor would ask.
func ask(a *Authorizer, who Identity, m method, req proto.Message) error {
	var claims *authorization.Claims
	if who.Role != "" {
		claims = &authorization.Claims{Subject: who.String(), AuthType: "mtls", Extensions: who}
	}
	target := &authorization.CallTarget{APIName: m.full, Request: req}
	if m.stream {
		target.Request = nil
	} else if n, ok := req.(interface{ GetNamespace() string }); ok {
		target.Namespace = n.GetNamespace()
	}
	result, err := a.Authorize(context.Background(), claims, target)
	if err == nil && result.Decision != authorization.DecisionAllow {
		err = fmt.Errorf("no decision")
	}
	return err
}

// wrong is the cells that the authorizer has otherwise than the table, with the first reason.
func wrong(t *testing.T, a *Authorizer) (bad map[string]string, cells, asked int) {
	t.Helper()
	bad = map[string]string{}
	server := methodsOfServer(t)
	rows, columns := table(t)
	for name := range server {
		if rows[name] == nil {
			bad[name] = "the server has it, and testdata/table.txt does not: look at what it does, and add it there and to methods.txt"
		}
	}
	yes := map[string][]example{} // by method
	by := map[string][]example{}  // by method and role
	for _, x := range examples(t) {
		if x.allow {
			yes[x.method] = append(yes[x.method], x)
		}
		key := x.method + " " + string(x.who.Role)
		by[key] = append(by[key], x)
	}
	used := 0
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		m, there := server[name]
		if !there {
			bad[name] = "the table has it, and the server does not"
			continue
		}
		for _, role := range columns {
			cells++
			cell, key := rows[name][role], name+" "+role
			fail := func(format string, args ...any) {
				if bad[key] == "" {
					bad[key] = fmt.Sprintf(format, args...)
				}
			}
			who := map[string]Identity{"nobody": {}, "agent": {Agent, "web-1"}}[role]
			if role != "nobody" && role != "agent" {
				who = Identity{Role(role), "someone"}
			}
			check := func(want bool, who Identity, json, namespace, what string) {
				asked++
				if err := ask(a, who, m, request(t, m, json, namespace)); (err == nil) != want {
					fail("table says %s, %s: %v", cell, what, err)
				}
			}
			hasNamespace := m.input.Descriptor().Fields().ByName("namespace") != nil && !m.stream
			mine := by[key]
			used += len(mine)
			switch cell {
			case "-":
				check(false, who, "{}", "default", "an empty request")
				check(false, who, "{}", "", "a request without a namespace")
				for _, x := range yes[name] {
					check(false, who, x.json, "default", fmt.Sprintf("the request of cases.txt:%d", x.line))
				}
				if len(mine) > 0 {
					fail("cases.txt:%d: the table says %s", mine[0].line, cell)
				}
			case "yes":
				check(true, who, "{}", "default", "an empty request")
				if hasNamespace && role != "admin" {
					check(false, who, "{}", "other", "another namespace")
					check(false, who, "{}", "", "no namespace")
				}
				for _, x := range yes[name] {
					check(true, who, x.json, "default", fmt.Sprintf("the request of cases.txt:%d", x.line))
				}
			case "if":
				if !slices.ContainsFunc(mine, func(x example) bool { return x.allow }) || !slices.ContainsFunc(mine, func(x example) bool { return !x.allow }) {
					fail("cases.txt does not show which requests are allowed and which are not")
				}
				for _, x := range mine {
					at := fmt.Sprintf("cases.txt:%d", x.line)
					check(x.allow, x.who, x.json, "default", at)
					if hasNamespace {
						check(false, x.who, x.json, "other", at+" in another namespace")
						check(false, x.who, x.json, "", at+" without a namespace")
					}
					if x.allow && role == "agent" && strings.Contains(x.json, "web-1") {
						for _, node := range []string{"web-2", "web-10", "web", "xweb-1", "WEB-1", "../web-1"} {
							other := strings.ReplaceAll(x.json, "web-1", node)
							check(false, x.who, other, "default", at+" for node "+node)
						}
					}
				}
			}
		}
	}
	if all := len(examples(t)); used != all {
		bad["cases.txt"] = fmt.Sprintf("%d of %d examples are of methods or roles that the table does not have", all-used, all)
	}
	return bad, cells, asked
}

// TestTable holds the authorizer against testdata/table.txt and cases.txt, for every method that the server has.
func TestTable(t *testing.T) {
	a, err := New(Options{Namespace: "default", SealKey: testKey})
	if err != nil {
		t.Fatal(err)
	}
	bad, cells, asked := wrong(t, a)
	for _, key := range slices.Sorted(maps.Keys(bad)) {
		t.Errorf("%s: %s", key, bad[key])
	}
	t.Logf("RPC × role cells wrong: %d of %d (%d requests tried)", len(bad), cells, asked)
}

// TestMethods holds methods.txt and the lists of the roles against the methods that the server has: a rule for one that
// is misspelt would allow nothing, and say nothing.
func TestMethods(t *testing.T) {
	server := methodsOfServer(t)
	listed := map[string]bool{}
	for line := range strings.Lines(methods) {
		if name := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "-")); name != "" && !strings.HasPrefix(name, "#") {
			listed[name] = true
		}
	}
	for name := range server {
		if !listed[name] {
			t.Errorf("methods.txt lacks %s", name)
		}
	}
	for name := range listed {
		if _, ok := server[name]; !ok {
			t.Errorf("methods.txt has %s, which the server has not", name)
		}
	}
	for role, list := range rules {
		for name := range list {
			if _, ok := server[name]; !ok {
				t.Errorf("role %s has a rule for %s, which the server has not", role, name)
			}
		}
	}
}

// TestUnknown asks for methods that are on no list: those of other services, of Nexus over HTTP, and one that does not exist yet.
func TestUnknown(t *testing.T) {
	a, err := New(Options{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	for _, full := range []string{
		"/temporal.api.workflowservice.v1.WorkflowService/NewInTheNextVersion",
		"/temporal.api.nexusservice.v1.NexusService/DispatchByNamespaceAndTaskQueue",
		"/temporal.api.nexusservice.v1.NexusService/DispatchByEndpoint",
		"/temporal.api.nexusservice.v1.NexusService/CompleteNexusOperation",
		"/temporal.api.openapi.v1.OpenAPIService/GetOpenAPIV3Docs",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/temporal.server.api.historyservice.v1.HistoryService/StartWorkflowExecution",
		"WorkflowService/GetSystemInfo/", "/x.WorkflowService/GetSystemInfo", "",
	} {
		for _, role := range Roles {
			if err := ask(a, Identity{role, "x"}, method{full: full}, &workflowservice.GetSystemInfoRequest{}); err == nil {
				t.Errorf("%s may call %q", role, full)
			}
		}
	}
}

// TestCommands asks for a start in another namespace as the server's interceptor does for the commands of a worker,
// with a request of another type: rules must not be fooled by that.
func TestCommands(t *testing.T) {
	a, err := New(Options{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []Role{Agent, Worker, Operator} {
		claims := &authorization.Claims{Extensions: Identity{role, "x"}}
		_, err := a.Authorize(t.Context(), claims, &authorization.CallTarget{
			APIName:   "/temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution",
			Namespace: "other", Request: &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "default"},
		})
		if err == nil {
			t.Errorf("%s may start in another namespace by a command", role)
		}
	}
	_, err = a.Authorize(t.Context(), &authorization.Claims{Extensions: Identity{Viewer, "x"}}, &authorization.CallTarget{
		APIName:   "/temporal.api.workflowservice.v1.WorkflowService/DescribeWorkflowExecution",
		Namespace: "other", Request: &workflowservice.DescribeWorkflowExecutionRequest{Namespace: "default"},
	})
	if err == nil {
		t.Error("the namespace of the target does not count")
	}
}

// MethodForTest is a method with an empty request for the right namespace.
type MethodForTest struct {
	Full              string
	Request, Response proto.Message
	Stream            bool
}

// TableForTest gives the table and the server's methods to the tests with a real server, which are in another package.
func TableForTest(t *testing.T) (map[string]map[string]string, map[string]MethodForTest) {
	t.Helper()
	rows, _ := table(t)
	all := map[string]MethodForTest{}
	for name, m := range methodsOfServer(t) {
		all[name] = MethodForTest{m.full, request(t, m, "{}", "default"), m.output.New().Interface(), m.stream}
	}
	return rows, all
}
