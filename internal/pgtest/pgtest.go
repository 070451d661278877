// Package pgtest runs a PostgreSQL of their own for tests.
//
// It gives Server, one for all tests of a package, which is started by the first that needs it and
// listens on a socket only. Without the package postgresql such tests are skipped, but not where CI is "true". It
// refuses to know what is kept there.
package pgtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Server is a PostgreSQL. The zero Server has not been started. Whoever has one calls Stop at the end of TestMain.
type Server struct {
	Password string    // of the user almanac, letters and digits; empty: one for tests
	Settings []string  // such as log_statement=all
	Log      io.Writer // what the server logs; nil: nowhere

	once sync.Once
	err  error
	dir  string // of the socket
	bin  string
	cmd  *exec.Cmd
	made atomic.Int32
}

var errAbsent = errors.New("there is no PostgreSQL: install the package postgresql")

// Database makes an empty database and returns its address, with the password in it.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	s.once.Do(func() { s.err = s.start() })
	switch {
	case errors.Is(s.err, errAbsent) && os.Getenv("CI") != "true":
		t.Skip(s.err)
	case s.err != nil:
		t.Fatal(s.err)
	}
	name := fmt.Sprintf("test%d", s.made.Add(1))
	s.Run(t, "createdb", name)
	return s.Address(name)
}

// Run runs one of PostgreSQL's own programs, and returns what it printed.
func (s *Server) Run(t testing.TB, program string, args ...string) []byte {
	t.Helper()
	out, err := s.client(program, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
	return out
}

// Address is that of a database, which may not be there.
func (s *Server) Address(database string) string {
	return "postgres://almanac:" + s.Password + "@/" + database + "?host=" + s.dir
}

// Dir is the directory of the socket, which is in each address.
func (s *Server) Dir() string { return s.dir }

// Stop ends it, if it was started, and removes what it kept.
func (s *Server) Stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Signal(syscall.SIGQUIT)
		_ = s.cmd.Wait()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

func (s *Server) start() error {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return errAbsent
	}
	s.bin = filepath.Dir(found[len(found)-1])
	var err error
	if s.dir, err = os.MkdirTemp("", "almanac-pg"); err != nil {
		return err
	}
	var attr syscall.SysProcAttr
	if os.Geteuid() == 0 { // PostgreSQL refuses root
		who, err := user.Lookup("postgres")
		if err != nil {
			return err
		}
		uid, _ := strconv.Atoi(who.Uid)
		gid, _ := strconv.Atoi(who.Gid)
		if err := os.Chown(s.dir, uid, gid); err != nil {
			return err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	if s.Password == "" {
		s.Password = "hunter2-hunter2"
	}
	data, file := filepath.Join(s.dir, "data"), filepath.Join(s.dir, "password")
	if err := os.WriteFile(file, []byte(s.Password+"\n"), 0o644); err != nil {
		return err
	}
	// Not in the environment of the programs that client runs, where others see it.
	if err := os.WriteFile(s.passfile(), []byte("*:*:*:*:"+s.Password+"\n"), 0o600); err != nil {
		return err
	}
	initdb := exec.Command(filepath.Join(s.bin, "initdb"), "-D", data, "-A", "scram-sha-256", "--pwfile", file, "-U", "almanac", "-N", "-E", "UTF8", "--locale=C.UTF-8")
	initdb.SysProcAttr, initdb.Dir = &attr, s.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	s.cmd = exec.Command(filepath.Join(s.bin, "postgres"), "-D", data, "-k", s.dir, "-c", "listen_addresses=", "-c", "fsync=off")
	for _, setting := range s.Settings {
		s.cmd.Args = append(s.cmd.Args, "-c", setting)
	}
	s.cmd.SysProcAttr, s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = &attr, s.dir, s.Log, s.Log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for i := 0; ; i++ {
		out, err := s.client("pg_isready")
		if err == nil {
			return nil
		}
		if i == 300 {
			return fmt.Errorf("PostgreSQL does not start: %w\n%s", err, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *Server) passfile() string { return filepath.Join(s.dir, "passfile") }

// client runs one of PostgreSQL's own programs.
func (s *Server) client(program string, args ...string) ([]byte, error) {
	cmd := exec.Command(filepath.Join(s.bin, program), append([]string{"-h", s.dir, "-U", "almanac"}, args...)...)
	cmd.Env = append(os.Environ(), "PGPASSFILE="+s.passfile())
	return cmd.CombinedOutput()
}
