package main

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	if strings.HasSuffix(os.Args[0], ".test") { // the commands have their scripts' environment
		os.Setenv("ALMANAC_INSECURE", "1")
	}
	program := func() { os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr)) }
	testscript.Main(m, map[string]func(){
		"starter":          program,
		"temporal-runbook": program,
	})
}

// The scripts show what a person types and sees, as far as no server is needed.
// UPDATE=1 rewrites what they compare with.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			// Nobody listens on the port, and no configuration of the machine is read.
			env.Setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
			env.Setenv("TEMPORAL_CONFIG_FILE", "/nonexistent")
			env.Setenv("ALMANAC_CALLER", "ana")
			env.Setenv("ALMANAC_INSECURE", "1") // keys are not what most are about
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits CODE COMMAND… runs a command that must exit with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARG...")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if args[0] != strconv.Itoa(code) {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}
