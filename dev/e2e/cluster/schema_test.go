//go:build linux

package cluster

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/almanac-run/almanac/dev/server"
)

// The tables are made by a role that is no superuser, as a rented database has it; what was cut off in the middle is
// made whole by the next; and of several at once each succeeds.
func TestSchema(t *testing.T) {
	t.Parallel()
	h := &house{t: t, dir: t.TempDir(), begun: time.Now()}
	open(t, h.dir)
	bin, run := postgresql(t)
	port, err := server.ReservePort(0)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(h.dir, "postgresql")
	run.mkdir(t, dir)
	data := filepath.Join(dir, "data")
	h.must(run.command(dir, filepath.Join(bin, "initdb"), "-D", data, "-A", "trust", "-U", "root", "-N", "-E", "UTF8", "--locale=C.UTF-8"))
	h.process("postgres", func() *exec.Cmd {
		return run.command(dir, filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-p", fmt.Sprint(port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off")
	})
	sql := func(database string, statements ...string) string {
		t.Helper()
		args := []string{"-h", dir, "-p", fmt.Sprint(port), "-U", "root", "-d", database, "-qAt", "-v", "ON_ERROR_STOP=1"}
		for _, s := range statements {
			args = append(args, "-c", s)
		}
		cmd := exec.Command(filepath.Join(bin, "psql"), args...)
		cmd.Env = environment()
		return strings.TrimSpace(h.must(cmd))
	}
	h.until("PostgreSQL answers", time.Minute, func() bool {
		return exec.Command(filepath.Join(bin, "pg_isready"), "-q", "-h", dir, "-p", fmt.Sprint(port)).Run() == nil
	})
	schema := func() error {
		return server.MakeSchema(t.Context(), server.Member{
			Database: fmt.Sprintf("postgres://temporal@127.0.0.1:%d?sslmode=disable", port), Log: io.Discard,
		})
	}

	sql("postgres", "CREATE ROLE temporal LOGIN CREATEDB CREATEROLE", "CREATE DATABASE temporal OWNER temporal")
	sql("temporal",
		"CREATE FUNCTION cut() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN IF to_regclass('queue') IS NOT NULL THEN RAISE 'the cable is cut'; END IF; END $$",
		"CREATE EVENT TRIGGER cut ON ddl_command_end EXECUTE FUNCTION cut()")
	if err := schema(); err == nil || !strings.Contains(err.Error(), "the cable is cut") {
		t.Fatalf("cut off in the middle: %v", err)
	}
	sql("temporal", "DROP EVENT TRIGGER cut", "DROP FUNCTION cut")
	ends := make(chan error)
	for range 3 {
		go func() { ends <- schema() }()
	}
	for range 3 {
		if err := <-ends; err != nil {
			t.Errorf("three at once, after one that was cut off: %v", err)
		}
	}
	for _, database := range []string{"temporal", "temporal_visibility"} {
		if got := sql(database, "SELECT count(*), min(curr_version) > '1' FROM schema_version"); got != "1|t" {
			t.Errorf("versions of database %s: %s", database, got)
		}
		if got := sql(database, "SELECT has_database_privilege('almanac', '"+database+"', 'CONNECT')"); got != "f" {
			t.Errorf("a control worker may connect to database %s: %s", database, got)
		}
	}
	if got := sql("almanac", "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'almanac'"); got != "almanac" {
		t.Errorf("the inventory's database is %s's", got)
	}
}

// open lets other users pass: PostgreSQL has its own, and a test's directories are in one of the test.
func open(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
