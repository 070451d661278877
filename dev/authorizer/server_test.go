package authorizer_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/almanac-run/almanac/dev/authorizer"
	"github.com/almanac-run/almanac/dev/server"
)

// authority makes certificates for one test, in files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue("ca", &x509.Certificate{
		Subject: pkix.Name{CommonName: "trial"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	})
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issue writes name.crt and name.key; the first certificate signs itself.
func (a *authority) issue(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for suffix, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.file(name+suffix), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return made, key
}

func (a *authority) server() (cert, key string) {
	a.issue("server", &x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return a.file("server.crt"), a.file("server.key")
}

// client makes a certificate for role/name and returns its files without their ends.
func (a *authority) client(who string, notAfter time.Time) string {
	name := strings.ReplaceAll(who, "/", "-")
	c := &x509.Certificate{Subject: pkix.Name{CommonName: who}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if !notAfter.IsZero() {
		c.NotBefore, c.NotAfter = notAfter.Add(-time.Hour), notAfter
	}
	a.issue(name, c)
	return a.file(name)
}

// credential is how somebody comes to the server.
type credential struct {
	ca, cert, key, token string
}

func (c credential) env() []string {
	env := []string{"TEMPORAL_TLS_SERVER_CA_CERT_PATH=" + c.ca, "ALMANAC_INSECURE=1"}
	if c.cert != "" {
		env = append(env, "TEMPORAL_TLS_CLIENT_CERT_PATH="+c.cert, "TEMPORAL_TLS_CLIENT_KEY_PATH="+c.key)
	}
	if c.token != "" {
		env = append(env, "TEMPORAL_API_KEY="+c.token)
	}
	return env
}

// dial connects without the SDK: what is sent is what is asked.
func (c credential) dial(t *testing.T, address string) (*grpc.ClientConn, context.Context) {
	t.Helper()
	pool := x509.NewCertPool()
	raw, err := os.ReadFile(c.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(raw)
	config := &tls.Config{RootCAs: pool}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // the server wants one of who waits for work
	t.Cleanup(cancel)
	if c.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
	}
	return conn, ctx
}

// denied is the server's reason for a refusal; empty if it is none.
func denied(err error) string {
	var no *serviceerror.PermissionDenied
	if errors.As(serviceerror.FromStatus(status.Convert(err)), &no) {
		return no.Message
	}
	return ""
}

// installation is a server that knows its callers, and how they come.
type installation struct {
	t       *testing.T
	address string
	as      func(who string) credential
	cards   map[string]credential
	dir     string
	denials func() string
}

func install(t *testing.T, o server.Authorization, as func(string) credential) *installation {
	t.Helper()
	var mu sync.Mutex
	var log strings.Builder
	o.Denied = func(who, method, why string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(&log, who, method, why)
	}
	srv, err := server.Start(t.Context(), server.Options{File: filepath.Join(t.TempDir(), "db"), Authorization: &o, LogFile: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	return &installation{t: t, address: srv.Address(), as: as, cards: map[string]credential{}, dir: t.TempDir(), denials: func() string {
		mu.Lock()
		defer mu.Unlock()
		return log.String()
	}}
}

func (i *installation) card(who string) credential {
	if _, ok := i.cards[who]; !ok {
		i.cards[who] = i.as(who)
	}
	return i.cards[who]
}

func (i *installation) service(who string) (workflowservice.WorkflowServiceClient, context.Context) {
	conn, ctx := i.card(who).dial(i.t, i.address)
	return workflowservice.NewWorkflowServiceClient(conn), ctx
}

// programs are Almanac's own, as they are shipped; built are where, once a test has needed them.
var (
	built    string
	programs = sync.OnceValues(func() (string, error) {
		var err error
		if built, err = os.MkdirTemp("", "almanac-programs"); err != nil {
			return "", err
		}
		build := exec.Command("go", "build", "-o", built+string(filepath.Separator), "./starter", "./worker", "./agent")
		build.Dir = filepath.Join("..", "..")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, out)
		}
		return built, nil
	})
)

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

func (i *installation) command(who, program string, args ...string) *exec.Cmd {
	i.t.Helper()
	dir, err := programs()
	if err != nil {
		i.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, program), args...)
	cmd.Dir = i.dir
	cmd.Env = append(append(os.Environ(), "TEMPORAL_ADDRESS="+i.address, "TEMPORAL_NAMESPACE=default", "AWS_EC2_METADATA_DISABLED=true"), i.card(who).env()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run lets a program run until the test ends, and returns what it says.
func (i *installation) run(who, program string, args ...string) *output {
	i.t.Helper()
	cmd := i.command(who, program, args...)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
	out.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	i.t.Cleanup(func() {
		out.stop()
		if i.t.Failed() {
			i.t.Logf("%s as %s said:\n%s", program, who, out)
		}
	})
	return out
}

type output struct {
	mu   sync.Mutex
	b    bytes.Buffer
	stop func() // ends the program as a service manager does
}

func (o *output) Write(p []byte) (int, error) { o.mu.Lock(); defer o.mu.Unlock(); return o.b.Write(p) }
func (o *output) String() string              { o.mu.Lock(); defer o.mu.Unlock(); return o.b.String() }

func (o *output) wait(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); !strings.Contains(o.String(), text); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never said %q, but:\n%s", text, o)
		}
	}
}

func (i *installation) starter(who string, args ...string) (int, string) {
	i.t.Helper()
	cmd := i.command(who, "starter", args...)
	out, _ := cmd.CombinedOutput() // the exit code is looked at
	return cmd.ProcessState.ExitCode(), string(out)
}

const runbook = `
runbook: test/access
lock: access
inputs:
  nodes: { type: list<string>, default: [web-1] }
steps:
  - id: hello
    targets: { nodes: "${{ inputs.nodes }}" }
    run: echo hello from $ALMANAC_NODE
  - id: sure
    approval: { message: Sure, timeout: 1m }
  - id: again
    targets: [web-1]
    run: echo again; seq 30000
  - id: facts
    targets: [web-1]
    action: host.inventory.collect
`

// day is an ordinary one: worker, agent and starter, and what others may not do meanwhile.
func (i *installation) day() {
	t := i.t
	if err := os.WriteFile(filepath.Join(i.dir, "access.yaml"), []byte(runbook), 0o644); err != nil {
		t.Fatal(err)
	}
	central := t.TempDir()
	w := i.run("worker/w1", "worker", "--inventory", filepath.Join(t.TempDir(), "inventory.db"), "--output", central)
	w.wait(t, "control worker is ready")
	a := i.run("agent/web-1", "agent", "--id", "web-1", "--state-dir", filepath.Join(t.TempDir(), "web-1"), "--ec2-metadata", "off")
	a.wait(t, "node is ready")
	start := i.denials()

	has := func(what string, code int, out string, wantCode int, parts ...string) {
		t.Helper()
		if wantCode >= 0 && code != wantCode {
			t.Errorf("%s: exit code %d, want %d:\n%s", what, code, wantCode, out)
		}
		for _, part := range parts {
			if !strings.Contains(out, part) {
				t.Errorf("%s lacks %q:\n%s", what, part, out)
			}
		}
	}
	code, out := i.starter("operator/olga", "run", "./access.yaml", "--id", "first", "--detach")
	has("run", code, out, 0, "first")
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if code, out = i.starter("viewer/vera", "show", "first", "-o", "json"); strings.Contains(out, `"choices"`) {
			break
		}
	}
	has("show, as a viewer", code, out, 0, `"choices"`)
	code, out = i.starter("viewer/vera", "list")
	has("list, as a viewer", code, out, 0, "first")
	code, out = i.starter("viewer/vera", "nodes")
	has("nodes, as a viewer", code, out, 0, "web-1")
	ordinary := func(since string) {
		t.Helper()
		if refused := strings.TrimPrefix(i.denials(), since); refused != "" {
			t.Errorf("refused on an ordinary day:\n%s", refused)
		}
	}
	ordinary(start)

	// What is refused says who may not do what.
	code, out = i.starter("viewer/vera", "approve", "first")
	has("approve, as a viewer", code, out, 1, "viewer/vera may not call WorkflowService/UpdateWorkflowExecution")
	code, out = i.starter("viewer/vera", "run", "./access.yaml", "--detach")
	has("run, as a viewer", code, out, 1, "viewer/vera may not call WorkflowService/StartWorkflowExecution")
	code, out = i.starter("operator/olga", "nodes", "forget", "web-1")
	has("nodes forget, as an operator", code, out, 1, "operator/olga may not call WorkflowService/TerminateWorkflowExecution")
	code, out = i.starter("agent/web-1", "run", "./access.yaml", "--detach")
	has("run, as an agent", code, out, 1, "agent/web-1 may not call WorkflowService/StartWorkflowExecution")

	start = i.denials()
	code, out = i.starter("operator/olga", "approve", "first")
	has("approve", code, out, 0, "approved")
	code, out = i.starter("operator/olga", "watch", "first")
	has("watch", code, out, 0)
	code, out = i.starter("operator/olga", "logs", "first") // asks the node for its output
	has("logs", code, out, 0, "hello from web-1", "again")
	code, out = i.starter("viewer/vera", "show", "first")
	has("show", code, out, 0, "facts")
	look, ctx := i.service("viewer/vera")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) { // a heartbeat comes every ten seconds
		workers, err := look.ListWorkers(ctx, &workflowservice.ListWorkersRequest{Namespace: "default"})
		if text := fmt.Sprint(workers); strings.Contains(text, "node/web-1") && strings.Contains(text, `"almanac"`) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no heartbeats: %v %v", workers, err)
		}
	}
	// The agent has its outputs brought to the central store; the worker fetches the long one.
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if kept, _ := filepath.Glob(filepath.Join(central, "first", "*", "web-1.log")); len(kept) == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the outputs are not in the central store")
		}
	}
	ordinary(start)

	// A worker with a version: an admin makes it current, and it works as one without.
	start = i.denials()
	v := i.run("worker/w2", "worker", "--deployment", "almanac", "--build-id", "2", "--inventory", filepath.Join(t.TempDir(), "inventory.db"))
	v.wait(t, "control worker is ready")
	code, out = i.starter("admin/ada", "versions", "use", "2")
	has("versions use, as an admin", code, out, 0, "almanac:2 is current")
	code, out = i.starter("operator/olga", "run", "./access.yaml", "--id", "second", "--detach")
	has("run on a version", code, out, 0, "second")
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if code, out = i.starter("operator/olga", "approve", "second"); code == 0 {
			break
		}
	}
	has("approve on a version", code, out, 0, "approved")
	code, out = i.starter("operator/olga", "watch", "second")
	has("watch on a version", code, out, 0)
	code, out = i.starter("viewer/vera", "versions", "-o", "json")
	has("versions, as a viewer", code, out, 0, `"current"`)
	ordinary(start)
	code, out = i.starter("operator/olga", "versions", "use", "2")
	has("versions use, as an operator", code, out, 1, "operator/olga may not call WorkflowService/SetWorkerDeploymentCurrentVersion")

	// An agent that says it is another: its registration is refused, and it does not serve.
	thief := i.command("agent/web-2", "agent", "--id", "web-1", "--state-dir", filepath.Join(t.TempDir(), "thief"), "--ec2-metadata", "off")
	said := &output{}
	thief.Stdout, thief.Stderr = said, said
	if err := thief.Start(); err != nil {
		t.Fatal(err)
	}
	said.wait(t, "agent/web-2 may not call")
	_ = thief.Process.Kill()
	_ = thief.Wait()
	if strings.Contains(said.String(), "node is ready") {
		t.Errorf("agent/web-2 serves node web-1:\n%s", said)
	}
	s, ctx := i.service("agent/web-2")
	_, err := s.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: "default", TaskQueue: &taskqueuepb.TaskQueue{Name: "node/web-1"}, Identity: "agent/web-1"})
	if got, want := denied(err), `agent/web-2 may not call WorkflowService/PollActivityTaskQueue: task queue "node/web-1" is not its own, which is node/web-2`; got != want {
		t.Errorf("an agent that polls another's queue: %v, want %q", err, want)
	}

	start = i.denials()
	a.stop()
	w.stop()
	ordinary(start)
}

// reports: a task is reported by whom it was given to, and the history says by whom, whatever they call themselves.
func (i *installation) reports() {
	t := i.t
	start, ctx := i.service("operator/olga")
	queue := &taskqueuepb.TaskQueue{Name: "almanac"}
	_, err := start.StartWorkflowExecution(ctx, &workflowservice.StartWorkflowExecutionRequest{
		Namespace: "default", WorkflowId: "reports", WorkflowType: &commonpb.WorkflowType{Name: "test/reports"}, TaskQueue: queue, Identity: "alice", RequestId: "1",
	})
	if err != nil {
		t.Fatal(err)
	}
	w, wctx := i.service("worker/w1")
	task, err := w.PollWorkflowTaskQueue(wctx, &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "default", TaskQueue: queue, Identity: "w"})
	if err != nil {
		t.Fatal(err)
	}
	minute := durationpb.New(time.Minute)
	_, err = w.RespondWorkflowTaskCompleted(wctx, &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "default", TaskToken: task.GetTaskToken(), Identity: "w",
		Commands: []*commandpb.Command{{CommandType: enumspb.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK, Attributes: &commandpb.Command_ScheduleActivityTaskCommandAttributes{
			ScheduleActivityTaskCommandAttributes: &commandpb.ScheduleActivityTaskCommandAttributes{
				ActivityId: "a", ActivityType: &commonpb.ActivityType{Name: "x"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "node/web-2"}, StartToCloseTimeout: minute, ScheduleToCloseTimeout: minute,
			},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	right, rctx := i.service("agent/web-2")
	given, err := right.PollActivityTaskQueue(rctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: "default", TaskQueue: &taskqueuepb.TaskQueue{Name: "node/web-2"}, Identity: "web-2"})
	if err != nil {
		t.Fatal(err)
	}
	token := given.GetTaskToken()
	wrong, xctx := i.service("agent/web-1")
	for what, stolen := range map[string][]byte{"the token": token, "the token without its seal": token[:len(token)-38]} {
		_, err = wrong.RespondActivityTaskCompleted(xctx, &workflowservice.RespondActivityTaskCompletedRequest{Namespace: "default", TaskToken: stolen, Identity: "web-2"})
		if denied(err) == "" {
			t.Errorf("another agent reported with %s: %v", what, err)
		}
		_, err = wrong.RecordActivityTaskHeartbeat(xctx, &workflowservice.RecordActivityTaskHeartbeatRequest{Namespace: "default", TaskToken: stolen})
		if denied(err) == "" {
			t.Errorf("another agent sent a heartbeat with %s: %v", what, err)
		}
	}
	if _, err := right.RecordActivityTaskHeartbeat(rctx, &workflowservice.RecordActivityTaskHeartbeatRequest{Namespace: "default", TaskToken: token}); err != nil {
		t.Error(err)
	}
	if _, err := right.RespondActivityTaskCompleted(rctx, &workflowservice.RespondActivityTaskCompletedRequest{Namespace: "default", TaskToken: token, Identity: "mallory"}); err != nil {
		t.Error(err)
	}
	look, lctx := i.service("viewer/vera")
	history, err := look.GetWorkflowExecutionHistory(lctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "default", Execution: &commonpb.WorkflowExecution{WorkflowId: "reports"}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[enumspb.EventType]string{}
	for _, e := range history.GetHistory().GetEvents() {
		got[e.GetEventType()] = e.GetPrincipal().GetName()
	}
	for event, want := range map[enumspb.EventType]string{
		enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED: "operator/olga",
		enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:    "agent/web-2",
	} {
		if got[event] != want {
			t.Errorf("%s was caused by %q, want %q", event, got[event], want)
		}
	}
	admin, actx := i.service("admin/ada")
	if _, err := admin.TerminateWorkflowExecution(actx, &workflowservice.TerminateWorkflowExecutionRequest{Namespace: "default", WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "reports"}}); err != nil {
		t.Error(err)
	}
}

// cells calls every method that a role may not call at all, over the wire.
func (i *installation) cells(nobody *credential) {
	t := i.t
	called, wrong := 0, 0
	people := map[string]string{"viewer": "viewer/vera", "agent": "agent/web-1", "operator": "operator/olga", "worker": "worker/w1", "admin": "admin/ada", "nobody": ""}
	rows, server := authorizer.TableForTest(t)
	conns := map[string]*grpc.ClientConn{}
	ctxs := map[string]context.Context{}
	for role, who := range people {
		switch {
		case who != "":
			conns[role], ctxs[role] = i.card(who).dial(t, i.address)
		case nobody != nil:
			conns[role], ctxs[role] = nobody.dial(t, i.address)
		}
	}
	for name, row := range rows {
		m := server[name]
		for role, cell := range row {
			conn := conns[role]
			if cell != "-" || conn == nil {
				continue
			}
			called++
			ctx, cancel := context.WithTimeout(ctxs[role], 5*time.Second)
			err := call(ctx, conn, m)
			cancel()
			if denied(err) == "" {
				wrong++
				t.Errorf("%s as %s: %v", name, role, err)
			}
		}
	}
	t.Logf("RPC × role cells wrong over the wire: %d of %d", wrong, called)
}

func call(ctx context.Context, conn *grpc.ClientConn, m authorizer.MethodForTest) error {
	if !m.Stream {
		return conn.Invoke(ctx, m.Full, m.Request, m.Response)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, m.Full)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(m.Request); err != nil {
		return err
	}
	return stream.RecvMsg(m.Response)
}

// TestCertificatesAtServer has everybody come with a client certificate.
func TestCertificatesAtServer(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	cert, key := ca.server()
	by := func(a *authority, who string, notAfter time.Time) credential {
		c := a.client(who, notAfter)
		return credential{ca: ca.file("ca.crt"), cert: c + ".crt", key: c + ".key"}
	}
	i := install(t, server.Authorization{Cert: cert, Key: key, ClientCA: ca.file("ca.crt")}, func(who string) credential { return by(ca, who, time.Time{}) })
	i.reports()
	i.cells(nil)
	i.day()
	for what, c := range map[string]credential{
		"of another authority": by(other, "admin/eve", time.Time{}),
		"expired":              by(ca, "admin/old", time.Now().Add(-time.Minute)),
		"none":                 {ca: ca.file("ca.crt")},
	} {
		conn, ctx := c.dial(t, i.address)
		if _, err := workflowservice.NewWorkflowServiceClient(conn).GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{}); err == nil {
			t.Errorf("a certificate that is %s is good", what)
		}
	}
	s, ctx := i.service("root/r")
	if _, err := s.GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{}); !strings.Contains(denied(err), `"root" is no role`) {
		t.Errorf("a certificate without a role: %v", err)
	}
	// A token does not help where none is good.
	with := i.card("viewer/vera")
	with.token = "e30.e30.e30"
	conn, ctx := with.dial(t, i.address)
	if _, err := workflowservice.NewWorkflowServiceClient(conn).GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{}); denied(err) == "" {
		t.Errorf("a token where none is taken: %v", err)
	}
}

// TestTokensAtServer has everybody come with a token, and then with bad ones.
func TestTokensAtServer(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.server()
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(issuer.Public())
	if err != nil {
		t.Fatal(err)
	}
	keys := ca.file("issuer.pem")
	if err := os.WriteFile(keys, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600); err != nil {
		t.Fatal(err)
	}
	claims := func(who string, expires time.Duration) []byte {
		role, name, _ := strings.Cut(who, "/")
		raw, err := json.Marshal(map[string]any{"iss": "https://login.example", "aud": "almanac", "sub": name, "almanac_role": role, "exp": time.Now().Add(expires).Unix()})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	signed := func(key crypto.PrivateKey, who string, expires time.Duration) credential {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		jws, err := s.Sign(claims(who, expires))
		if err != nil {
			t.Fatal(err)
		}
		text, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return credential{ca: ca.file("ca.crt"), token: text}
	}
	o := server.Authorization{Cert: cert, Key: key, ClientCA: ca.file("ca.crt")}
	o.Tokens = &authorizer.Tokens{Issuer: "https://login.example", Audience: "almanac", Keys: keys}
	i := install(t, o, func(who string) credential {
		if who == "agent/web-1" { // machines may have certificates where people have tokens
			c := ca.client(who, time.Time{})
			return credential{ca: ca.file("ca.crt"), cert: c + ".crt", key: c + ".key"}
		}
		return signed(issuer, who, time.Hour)
	})
	nobody := credential{ca: ca.file("ca.crt")}
	i.reports()
	i.cells(&nobody)
	i.day()

	forger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	byHand := func(header string, signature func(input string) []byte) credential {
		input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(claims("admin/eve", time.Hour))
		return credential{ca: ca.file("ca.crt"), token: input + "." + base64.RawURLEncoding.EncodeToString(signature(input))}
	}
	pemKey, err := os.ReadFile(keys)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		credential
		want string
	}{
		"forged":   {signed(forger, "admin/eve", time.Hour), "the token is not valid here"},
		"expired":  {signed(issuer, "admin/ada", -time.Hour), "the token has expired: get a new one"},
		"unsigned": {byHand(`{"alg":"none","typ":"JWT"}`, func(string) []byte { return nil }), "the token is not valid here"},
		"signed with the public key": {byHand(`{"alg":"HS256","typ":"JWT"}`, func(input string) []byte {
			h := hmac.New(sha256.New, pemKey)
			h.Write([]byte(input))
			return h.Sum(nil)
		}), "the token is not valid here"},
		"none": {nobody, "no client certificate and no token"},
	} {
		conn, ctx := c.dial(t, i.address)
		_, err := workflowservice.NewWorkflowServiceClient(conn).GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
		if !strings.HasPrefix(denied(err), c.want) {
			t.Errorf("a token that is %s: %v, want %q", what, err, c.want)
		}
	}
	foreign := newAuthority(t).client("admin/eve", time.Time{})
	conn, ctx := credential{ca: ca.file("ca.crt"), cert: foreign + ".crt", key: foreign + ".key"}.dial(t, i.address)
	if _, err := workflowservice.NewWorkflowServiceClient(conn).GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{}); err == nil {
		t.Error("a certificate of another authority is good where tokens are")
	}
}
