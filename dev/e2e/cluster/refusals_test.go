//go:build linux

package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// refusals tries what nobody may, with the certificates that people and machines have, at every port that there is.
func (h *house) refusals() {
	t := h.t
	t.Helper()
	tried, refused := 0, 0
	expect := func(what, says string, err error) {
		t.Helper()
		tried++
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", what, err, says)
			return
		}
		refused++
	}

	// Past the door, but not further.
	expect("a node's agent asks for another node's work", "is not its own", h.poll("agent-web-1", "node/web-2"))
	expect("a node's agent asks for the control workers' work", "is not its own", h.poll("agent-web-1", "almanac"))
	expect("an operator asks for a node's work", "not on the list of the role operator", h.poll("operator-ana", "node/web-1"))
	for who, says := range map[string]string{"viewer-vic": "not on the list of the role viewer", "agent-web-1": "may not"} {
		cmd := h.program(who, "starter", "run", "./work.yaml", "--id", "refused", "--detach", "-i", "dir=x", "-i", "nodes=web-1")
		out, _ := cmd.CombinedOutput() // it fails, which is looked at
		err := fmt.Errorf("%s", out)
		if cmd.ProcessState.Success() {
			err = nil
		}
		expect(who+" starts a runbook", says, err)
	}
	if err := h.poll("agent-web-1", "node/web-1"); err != nil && !strings.Contains(err.Error(), "DeadlineExceeded") {
		t.Errorf("a node's agent asks for its own work: %v", err)
	}

	// Not through the door.
	front := net.JoinHostPort(h.net.address(server1), "7233")
	authority, ana, eve := h.pool("operator-ana/ca.crt"), h.pair("certificates/operator-ana/tls"), h.pair("elsewhere/operator-eve/tls")
	if err := shake(front, &tls.Config{RootCAs: authority, Certificates: ana}); err != nil {
		t.Errorf("an operator at the front door: %v", err)
	}
	expect("nobody at the front door", "certificate required", shake(front, &tls.Config{RootCAs: authority}))
	expect("a certificate of another authority", "tls: ", shake(front, &tls.Config{RootCAs: authority, Certificates: eve}))
	expect("a client that does not know the server's authority", "x509: ", shake(front, &tls.Config{Certificates: ana, RootCAs: h.pool("server/inside-ca.crt")}))
	// A worker's machine has this one, and the servers among themselves must not take it.
	blind := func(pair []tls.Certificate) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, Certificates: pair}
	}
	members := []int{7234, 7235, 7236, 7239, 6933, 6934, 6935, 6936, 6939}
	for _, port := range members {
		address := net.JoinHostPort(h.net.address(server1), fmt.Sprint(port))
		for who, pair := range map[string][]tls.Certificate{
			"nobody": nil, "an operator": ana, "a worker's certificate for the database": h.pair("certificates/worker-w1/database"), "the server's own for its front": h.pair("certificates/server/tls"),
		} {
			expect(fmt.Sprintf("%s at port %d, which is for members", who, port), "tls: ", shake(address, blind(pair)))
		}
		if err := shake(address, blind(h.pair("certificates/server/inside"))); err != nil {
			t.Errorf("a member at port %d: %v", port, err)
		}
	}

	// The database.
	for what, try := range map[string]struct{ role, cert, mode, says string }{
		"nobody at the database": {"temporal", "", "require", "requires a valid client certificate"},
		"without TLS":            {"temporal", "", "disable", "no pg_hba.conf entry"},
		"a worker's certificate in the servers' name":        {"temporal", "certificates/worker-w1/database", "require", "certificate authentication failed"},
		"a client's certificate at the database":             {"almanac", "certificates/operator-ana/tls", "require", ""},
		"a worker at the executions, in its own name":        {"almanac", "certificates/worker-w1/database", "require", "permission denied for database"},
		"the servers' certificate of their inside at the db": {"temporal", "certificates/server/inside", "require", ""},
	} {
		dsn := fmt.Sprintf("host=%s port=%d user=%s dbname=temporal sslmode=%s", h.net.address(database), postgresPort, try.role, try.mode)
		if try.cert != "" {
			dsn += fmt.Sprintf(" sslcert=%s.crt sslkey=%[1]s.key", filepath.Join(h.dir, try.cert))
		}
		cmd := exec.Command("psql", "-Atc", "select 1", dsn)
		cmd.Env = environment("HOME=/nonexistent", "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		expect(what, try.says, err)
	}

	// The servers saw our attempts, and refused nothing else: everybody's usual work is allowed.
	denied := map[string]int{}
	for _, s := range h.servers {
		text, err := os.ReadFile(s.log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "denied: "); ok {
				who, rest, _ := strings.Cut(rest, ", ")
				method, _, _ := strings.Cut(rest, ": ")
				denied[who+" "+method[strings.LastIndex(method, "/")+1:]]++
			}
		}
	}
	ours := map[string]bool{
		"agent/web-1 PollActivityTaskQueue": true, "operator/ana PollActivityTaskQueue": true,
		"viewer/vic StartWorkflowExecution": true, "agent/web-1 StartWorkflowExecution": true,
		"viewer/vic ListWorkers": true, "agent/web-1 ListWorkflowExecutions": true, // starter run looks first
	}
	for what, n := range denied {
		if !ours[what] {
			t.Errorf("the servers refused %d times: %s", n, what)
		}
	}
	if len(denied) < 3 {
		t.Errorf("the servers' logs tell of refusals %v: this check sees too little", denied)
	}
	h.say("callers refused that should be: %d of %d", refused, tried)
}

// poll asks a server for the work of a task queue, for a moment.
func (h *house) poll(who, queue string) error {
	creds := credentials.NewTLS(&tls.Config{RootCAs: h.pool(who + "/ca.crt"), Certificates: h.pair("certificates/" + who + "/tls")})
	conn, err := grpc.NewClient(net.JoinHostPort(h.net.address(server1), "7233"), grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(h.t.Context(), 3*time.Second)
	defer cancel()
	_, err = workflowservice.NewWorkflowServiceClient(conn).PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{
		Namespace: "default", TaskQueue: &taskqueuepb.TaskQueue{Name: queue}, Identity: "test",
	})
	return err
}

// shake connects, and waits for what the other side says to our certificate: with TLS 1.3 that comes after the handshake.
func shake(address string, c *tls.Config) error {
	c.NextProtos = []string{"h2"}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", address, c)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		return nil // it waits for us to speak
	}
	return err
}

func (h *house) pool(file string) *x509.CertPool {
	h.t.Helper()
	raw, err := os.ReadFile(filepath.Join(h.dir, "certificates", file))
	if err != nil {
		h.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		h.t.Fatalf("%s has no certificate", file)
	}
	return pool
}

func (h *house) pair(file string) []tls.Certificate {
	h.t.Helper()
	file = filepath.Join(h.dir, file)
	pair, err := tls.LoadX509KeyPair(file+".crt", file+".key")
	if err != nil {
		h.t.Fatal(err)
	}
	return []tls.Certificate{pair}
}
