//go:build linux

package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// house is all of a cluster: the certificates, the database, the servers, the workers and the nodes.
type house struct {
	t        *testing.T
	programs string
	dir      string
	net      *network
	postgres *process
	servers  []*process
	workers  []*process
	agents   map[string]*process
	begun    time.Time
}

// build makes the programs that a cluster runs.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for module, programs := range map[string][]string{"../../..": {"./worker", "./agent", "./starter"}, "../..": {"./almanac-server"}} {
		cmd := exec.Command("go", append([]string{"build", "-o", dir + "/"}, programs...)...)
		cmd.Dir = module
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return dir
}

// process is a program that is killed and comes back.
type process struct {
	t    *testing.T
	name string
	make func() *exec.Cmd
	log  string
	mu   sync.Mutex
	cmd  *exec.Cmd // nil while it does not run
}

func (p *process) start() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	p.cmd = p.make()
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if p.cmd.SysProcAttr == nil {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// end sends a signal and waits for the end.
func (p *process) end(how syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(how)
	_ = p.cmd.Wait()
	p.cmd = nil
}

func (h *house) process(name string, command func() *exec.Cmd) *process {
	h.t.Helper()
	p := &process{t: h.t, name: name, make: command, log: filepath.Join(h.dir, name+".log")}
	p.start()
	h.t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		if h.t.Failed() {
			text, _ := os.ReadFile(p.log)
			h.t.Logf("%s:\n%s", name, text[max(0, len(text)-8000):])
		}
	})
	return p
}

func (h *house) certificates(dir string, args ...string) {
	h.t.Helper()
	script, err := filepath.Abs("../../../deploy/certificates.sh")
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{script, "-d", filepath.Join(h.dir, dir)}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("certificates.sh %v: %v\n%s", args, err, out)
	}
}

func (h *house) cert(who, file string) string {
	return filepath.Join(h.dir, "certificates", who, file)
}

// nodes are the ids of the nodes, and the last number of their addresses.
var nodes = []string{"web-1", "web-2", "web-3"}

// settle starts everything, and returns when three nodes are there.
func settle(t *testing.T, programs string) *house {
	t.Helper()
	h := &house{t: t, programs: programs, dir: t.TempDir(), agents: map[string]*process{}, begun: time.Now()}
	h.net = newNetwork(t)
	open(t, h.dir)
	h.serverCertificates()
	h.certificates("certificates", append([]string{"agent"}, nodes...)...)
	h.certificates("certificates", "worker", "w1", "w2")
	h.certificates("certificates", "operator", "ana")
	h.certificates("certificates", "viewer", "vic")
	h.certificates("elsewhere", "operator", "eve")
	h.startPostgres()
	h.must(h.server(server1, "schema"))
	h.must(h.server(server1, "schema")) // it is safe to repeat
	for _, host := range []int{server1, server2} {
		h.servers = append(h.servers, h.process(fmt.Sprintf("server-%d", host), func() *exec.Cmd { return h.server(host, "serve") }))
	}
	for _, host := range []int{server1, server2} {
		h.until("a server serves", 2*time.Minute, func() bool { return h.server(host, "health").Run() == nil })
	}
	h.say("both servers serve")

	h.write("keys", h.must(h.program("operator-ana", "worker", "key", "new", "--id", "k1")))
	// The namespace and its search attributes are made after that, and each server learns of them some seconds later.
	for _, host := range []int{server1, server2} {
		h.until("a server knows the search attributes", 2*time.Minute, func() bool {
			cmd := h.program("operator-ana", "starter", "list", "--status", "running")
			cmd.Env = append(cmd.Env, "TEMPORAL_ADDRESS="+h.net.address(host)+":7233")
			return cmd.Run() == nil
		})
	}
	h.say("both servers know the namespace")
	for _, w := range []string{"w1", "w2"} {
		h.workers = append(h.workers, h.process("worker-"+w, func() *exec.Cmd {
			cmd := h.program("worker-"+w, "worker")
			cmd.Env = append(cmd.Env, fmt.Sprintf("ALMANAC_INVENTORY=postgres://almanac@%s:%d/almanac?sslmode=verify-full&sslrootcert=%s&sslcert=%s&sslkey=%s", h.net.address(database), postgresPort,
				h.cert("worker-"+w, "database-ca.crt"), h.cert("worker-"+w, "database.crt"), h.cert("worker-"+w, "database.key")))
			return cmd
		}))
	}
	for i, id := range nodes {
		h.net.add(id, 11+i)
		state := filepath.Join(h.dir, "node-"+id)
		if err := os.Mkdir(state, 0o700); err != nil {
			t.Fatal(err)
		}
		h.write(filepath.Join("node-"+id, "keys"), h.must(h.program("operator-ana", "worker", "node-key", id)))
		h.agents[id] = h.process(id, func() *exec.Cmd {
			cmd := h.program("agent-"+id, "agent")
			on := h.net.on(id, cmd.Path, "--id", id, "--state-dir", state, "--ec2-metadata", "off")
			// An agent has its node's key, and nobody else's.
			on.Env, on.Dir = slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "ALMANAC_KEY_FILE=") }), state
			return on
		})
	}
	h.until("three nodes are there", 2*time.Minute, func() bool { return h.online() == "web-1 web-2 web-3" })
	h.say("three nodes are there")
	return h
}

const postgresPort = 5432

// account is who runs PostgreSQL, which refuses root.
type account struct {
	root     bool
	uid, gid int
}

// postgresql finds PostgreSQL's programs, and who may run them.
func postgresql(t *testing.T) (bin string, a account) {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(bins) == 0 {
		if os.Getenv("CI") != "true" {
			t.Skip("there is no PostgreSQL: install the package postgresql")
		}
		t.Fatal("there is no PostgreSQL: install the package postgresql")
	}
	if a.root = os.Geteuid() == 0; a.root {
		who, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		a.uid, _ = strconv.Atoi(who.Uid)
		a.gid, _ = strconv.Atoi(who.Gid)
	}
	return filepath.Dir(bins[len(bins)-1]), a
}

func (a account) command(dir, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{}
	if a.root {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return cmd
}

func (a account) own(t *testing.T, file string) {
	t.Helper()
	if a.root {
		if err := os.Chown(file, a.uid, a.gid); err != nil {
			t.Fatal(err)
		}
	}
}

func (a account) mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	a.own(t, dir)
}

func (h *house) startPostgres() {
	t := h.t
	t.Helper()
	bin, run := postgresql(t)
	dir := filepath.Join(h.dir, "postgresql")
	run.mkdir(t, dir)
	for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} { // as the image's entry point does it: its own copy
		text, err := os.ReadFile(h.cert("postgresql", file))
		if err != nil {
			t.Fatal(err)
		}
		h.write(filepath.Join("postgresql", file), string(text))
		run.own(t, filepath.Join(dir, file))
	}
	h.initdb()
	hba, err := os.ReadFile("../../../deploy/pg_hba.conf")
	if err != nil {
		t.Fatal(err)
	}
	h.write("pg_hba.conf", string(hba))
	if err := os.Chmod(filepath.Join(h.dir, "pg_hba.conf"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.postgres = h.process("postgres", func() *exec.Cmd {
		return run.command(dir, filepath.Join(bin, "postgres"), "-D", filepath.Join(dir, "data"), "-k", dir, "-p", strconv.Itoa(postgresPort), "-c", "listen_addresses="+h.net.address(database),
			"-c", "ssl=on", "-c", "ssl_cert_file="+dir+"/tls.crt", "-c", "ssl_key_file="+dir+"/tls.key", "-c", "ssl_ca_file="+dir+"/ca.crt",
			"-c", "hba_file="+filepath.Join(h.dir, "pg_hba.conf"), "-c", "max_connections=400")
	})
	h.until("PostgreSQL answers", time.Minute, h.postgresAnswers)
	h.say("PostgreSQL answers")
}

// initdb makes an empty PostgreSQL.
func (h *house) initdb() {
	h.t.Helper()
	bin, run := postgresql(h.t)
	dir := filepath.Join(h.dir, "postgresql")
	h.must(run.command(dir, filepath.Join(bin, "initdb"), "-D", filepath.Join(dir, "data"), "-A", "trust", "-U", "temporal", "-N", "-E", "UTF8", "--locale=C.UTF-8"))
}

func (h *house) postgresAnswers() bool {
	return exec.Command("pg_isready", "-q", "-h", filepath.Join(h.dir, "postgresql"), "-p", strconv.Itoa(postgresPort)).Run() == nil
}

func (h *house) serverCertificates() {
	h.t.Helper()
	h.certificates("certificates", "server", h.net.address(server1), h.net.address(server2), h.net.address(database))
}

// renewDatabase gives the members a new certificate for the database, and sees that their next connections show it.
func (h *house) renewDatabase() {
	h.t.Helper()
	sql := func(query string) string {
		h.t.Helper()
		cmd := exec.Command("psql", "-h", filepath.Join(h.dir, "postgresql"), "-p", strconv.Itoa(postgresPort), "-U", "temporal", "-d", "postgres", "-Atc", query)
		cmd.Env = environment()
		return strings.TrimSpace(h.must(cmd))
	}
	if err := os.Remove(h.cert("server", "database.crt")); err != nil {
		h.t.Fatal(err)
	}
	h.serverCertificates()
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_dn LIKE '%CN=temporal'")
	want, got := read(h.t, h.cert("server", "database.crt")).SerialNumber.String(), ""
	h.until("the servers show their new certificate to the database", time.Minute, func() bool {
		got = sql("SELECT string_agg(DISTINCT client_serial::text, ' ') FROM pg_stat_ssl WHERE client_dn LIKE '%CN=temporal'")
		return got == want
	})
	h.say("the servers' new certificate for the database is in use")
}

// server is the program almanac-server at an address.
func (h *house) server(host int, command string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(h.programs, "almanac-server"), command, "--certificates", filepath.Join(h.dir, "certificates", "server"),
		"--database", fmt.Sprintf("postgres://temporal@%s:%d", h.net.address(database), postgresPort), "--address", h.net.address(host), "--shards", "4")
	cmd.Dir, cmd.Env = h.dir, environment()
	return cmd
}

// environment is the test's, without what would change our programs.
func environment(more ...string) []string {
	return append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "ALMANAC_") || strings.HasPrefix(v, "TEMPORAL_") || strings.HasPrefix(v, "PG")
	}), more...)
}

// program is one of ours, as somebody who has a certificate, for both servers.
func (h *house) program(who, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(h.programs, name), args...)
	cmd.Dir = h.dir
	cmd.Env = environment(
		"TEMPORAL_ADDRESS="+h.net.address(server1)+":7233,"+h.net.address(server2)+":7233", "TEMPORAL_CONFIG_FILE=/nonexistent", "TEMPORAL_TLS=true",
		"TEMPORAL_TLS_SERVER_CA_CERT_PATH="+h.cert(who, "ca.crt"), "TEMPORAL_TLS_CLIENT_CERT_PATH="+h.cert(who, "tls.crt"), "TEMPORAL_TLS_CLIENT_KEY_PATH="+h.cert(who, "tls.key"),
		"ALMANAC_KEY_FILE="+filepath.Join(h.dir, "keys"),
	)
	return cmd
}

// starter runs a command of the operator ana.
func (h *house) starter(args ...string) (int, string) {
	cmd := h.program("operator-ana", "starter", args...)
	out, _ := cmd.CombinedOutput() // the exit code is looked at
	return cmd.ProcessState.ExitCode(), string(out)
}

func (h *house) must(cmd *exec.Cmd) string {
	h.t.Helper()
	var diagnostics strings.Builder
	cmd.Stderr = &diagnostics
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out, diagnostics.String())
	}
	return string(out)
}

func (h *house) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// until waits for something, and tells how long it took. The limit is for a machine that is busy.
func (h *house) until(what string, limit time.Duration, ok func() bool) time.Duration {
	h.t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > limit {
			h.t.Fatalf("waited %s, and not: %s", limit, what)
		}
		time.Sleep(200 * time.Millisecond)
	}
	return time.Since(begin)
}

func (h *house) say(format string, args ...any) {
	h.t.Helper()
	h.t.Logf("%5.1fs  %s", time.Since(h.begun).Seconds(), fmt.Sprintf(format, args...))
}
