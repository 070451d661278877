package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/codec"
)

// demoRunbooks are run one after the other.
var demoRunbooks = []string{"demo/tour", "demo/image"}

// rolledBack is the starter's exit code for an execution that failed and was rolled back.
const rolledBack = 5

const (
	demoComment = "looks good"
	demoPause   = 2 * time.Second // time to read what it waits for
)

// demo runs the demonstration as a person would: it starts each runbook and watches, and approves when it is asked to.
// It returns the exit code of the program that watched the last one to its end.
func demo(ctx context.Context, o options, s *server) (code int, err error) {
	for _, runbook := range demoRunbooks {
		if code, err = demoOf(ctx, o, s, runbook); err != nil || ctx.Err() != nil {
			break
		}
	}
	return code, err
}

func demoOf(ctx context.Context, o options, s *server, runbook string) (int, error) {
	id := path.Base(runbook) + "-" + time.Now().Format("0102-150405")
	if url := s.executionURL(id); url != "" {
		fmt.Fprintf(o.out, "\nWatch it in the Web UI: %s\n", url)
	}
	watch, err := show(o, s, "run", runbook, "--id", id)
	if err != nil {
		return 1, err
	}
	defer func() { watch.stop() }()
	approved := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return 1, nil
		case <-watch.done:
			return exitCode(watch)
		case <-time.After(300 * time.Millisecond):
		}
		for _, step := range waiting(ctx, o, s, id) {
			if approved[step] {
				continue
			}
			approved[step] = true
			select {
			case <-ctx.Done():
			case <-watch.done: // it did not wait for us
			case <-time.After(demoPause):
			}
			if ctx.Err() != nil || watch.ended() {
				break
			}
			if !o.table {
				err = call(ctx, o, s, "approve", id, step, "--comment", demoComment)
			} else {
				watch, err = approveBelow(ctx, o, s, watch, id, step)
			}
			if err != nil {
				return 1, err
			}
		}
	}
}

// approveBelow approves on a terminal where a table is being redrawn, which another program's lines would tear: the
// watching program is told to stop watching, as Ctrl-C does, and is called again after the approval.
func approveBelow(ctx context.Context, o options, s *server, watch *child, id, step string) (*child, error) {
	_ = watch.cmd.Process.Signal(os.Interrupt)
	<-watch.done
	if err := call(ctx, o, s, "approve", id, step, "--comment", demoComment); err != nil {
		return watch, err
	}
	again, err := show(o, s, "watch", id)
	if err != nil {
		return watch, err
	}
	return again, nil
}

// show starts a call of the command line program before the user's eyes.
func show(o options, s *server, args ...string) (*child, error) {
	c := starter(o, s, args...)
	c.cmd.Stdout, c.cmd.Stderr = o.out, o.out
	fmt.Fprintf(o.out, "\n$ %s\n", line(c.cmd))
	if err := c.start(); err != nil {
		return nil, fmt.Errorf("%s: %w", line(c.cmd), err)
	}
	return c, nil
}

// call shows a call of the command line program and waits for its end.
func call(ctx context.Context, o options, s *server, args ...string) error {
	c, err := show(o, s, args...)
	if err != nil {
		return err
	}
	return c.wait(ctx)
}

// waiting gives the steps that wait for approval. An execution that cannot be read yet waits for nothing.
func waiting(ctx context.Context, o options, s *server, id string) []string {
	c := starter(o, s, "show", id, "-o", "json")
	var text strings.Builder
	c.cmd.Stdout = &text
	if c.start() != nil || c.wait(ctx) != nil {
		return nil
	}
	var view struct {
		Waiting []struct{ Step, Kind string }
	}
	if json.Unmarshal([]byte(text.String()), &view) != nil {
		return nil
	}
	var steps []string
	for _, w := range view.Waiting {
		if w.Kind == "approval" {
			steps = append(steps, w.Step)
		}
	}
	return steps
}

// starter is one call of the command line program, with the address of the server in its environment.
func starter(o options, s *server, args ...string) *child {
	cmd := exec.Command(o.starter, args...)
	env := os.Environ()
	for _, v := range certificateFor(s) {
		env = append(env, v.name+"="+v.value)
	}
	cmd.Env = append(env, "TEMPORAL_ADDRESS="+s.address, "TEMPORAL_NAMESPACE="+s.namespace, "ALMANAC_UI="+s.ui, "ALMANAC_OUTPUT_DIR="+filepath.Join(o.dir, "output"))
	if !o.insecure {
		cmd.Env = append(cmd.Env, codec.EnvFile+"="+keyFile(o))
	}
	return newChild(cmd)
}

// line is a command as one would type it.
func line(cmd *exec.Cmd) string {
	words := []string{cmd.Path}
	for _, a := range cmd.Args[1:] {
		if strings.ContainsAny(a, " \t\"'$") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

func exitCode(c *child) (int, error) {
	var exit *exec.ExitError
	switch {
	case c.err == nil:
		return 0, nil
	case errors.As(c.err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	}
	return 1, fmt.Errorf("%s: %w", line(c.cmd), c.err)
}
