package ssmnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/internal/output"
)

// mostOutput bounds what is kept of one stream, in bytes.
const mostOutput = 256 << 20

func (n node) runCommand(ctx context.Context, in host.CommandRunInput) (host.CommandRunOutput, error) {
	return n.runWithin(ctx, in, 0)
}

// runWithin is runCommand with a timeout of its own, beside that of ctx; 0 is none.
func (n node) runWithin(ctx context.Context, in host.CommandRunInput, timeout time.Duration) (host.CommandRunOutput, error) {
	script := aws.Script{
		Windows: n.windows(), Shell: in.Shell, Text: in.Script, Args: in.Args, Env: map[string]string{}, Stdin: in.Stdin.Plain,
		Directory: in.WorkingDirectory, User: in.User, Idempotent: in.Idempotent, Output: n.Output, Timeout: timeout,
	}
	switch {
	case n.windows() && in.Shell != "" && in.Shell != "pwsh":
		return host.CommandRunOutput{}, action.Errorf(action.Invalid, "shell %s: %s runs Windows; leave shell out, or set pwsh", in.Shell, n.target.ID)
	case n.windows():
		script.Shell = ""
	}
	if err := notSecret("stdin", in.Stdin); err != nil {
		return host.CommandRunOutput{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(in.Env)) {
		if err := notSecret("env "+name, in.Env[name]); err != nil {
			return host.CommandRunOutput{}, err
		}
		script.Env[name] = in.Env[name].Plain
	}
	ran, err := n.Run(ctx, script)
	if err != nil {
		return host.CommandRunOutput{}, err
	}
	if ran.Status == aws.Unreached {
		return host.CommandRunOutput{}, verdict(ran, nil)
	}
	kept, err := n.keep(ctx, ran)
	if err != nil {
		return host.CommandRunOutput{}, err
	}
	detail := host.CommandDetail{ExitCode: ran.ExitCode, Tail: kept.tail, Ref: kept.ref, Size: kept.size}
	if err := verdict(ran, detail); err != nil {
		return host.CommandRunOutput{}, err
	}
	out := host.CommandRunOutput{ExitCode: ran.ExitCode, Stdout: kept.stdout, Ref: kept.ref, Size: kept.size}
	if !ran.Began.IsZero() && ran.Ended.After(ran.Began) {
		out.Duration = action.Duration(ran.Ended.Sub(ran.Began).Round(time.Millisecond))
	}
	codes := in.SuccessCodes
	if len(codes) == 0 {
		codes = []int{0}
	}
	if !slices.Contains(codes, ran.ExitCode) {
		return out, &action.Error{Kind: action.Failed, Err: fmt.Errorf("exit code %d", ran.ExitCode), Detail: detail}
	}
	return out, nil
}

// kept is what is known of a command's output.
type kept struct {
	stdout, tail, ref string
	size              int64
}

// keep puts a command's output into the output store, standard error behind
// standard output, and returns what goes into history.
func (n node) keep(ctx context.Context, r aws.Ran) (kept, error) {
	all, err := os.CreateTemp("", "almanac-*")
	if err != nil {
		return kept{}, action.Errorf(action.Unavailable, "keep the output: %w", err)
	}
	defer all.Close()
	os.Remove(all.Name())
	excerpt := &output.Excerpt{Head: host.KeepStdout / 2, Tail: host.KeepStdout / 2}
	if err := n.copyOutput(ctx, r, all, excerpt); err != nil {
		return kept{}, err
	}
	size, err := all.Seek(0, io.SeekCurrent)
	if err != nil {
		return kept{}, action.Errorf(action.Unavailable, "keep the output: %w", err)
	}
	k := kept{stdout: strings.TrimRight(excerpt.Text(), "\n"), size: size}
	if k.tail, err = output.LastLines(all, 0, host.TailLines, host.TailBytes); err != nil {
		return kept{}, action.Errorf(action.Unavailable, "keep the output: %w", err)
	}
	if n.OutputDir == "" {
		return k, nil
	}
	k.ref = output.Ref(n.call.Execution, strings.Replace(n.call.Step, "@"+n.target.ID, "", 1), n.target.ID)
	if err := store(output.Dir(n.OutputDir), k.ref, all, size); err != nil {
		return kept{}, action.Errorf(action.Unavailable, "keep the output: %w", err)
	}
	if n.Kept != nil {
		n.Kept()
	}
	return k, nil
}

// copyOutput writes the complete output, as far as it is to be had.
func (n node) copyOutput(ctx context.Context, r aws.Ran, all io.Writer, stdout io.Writer) error {
	if !r.Cut || r.Output == (aws.Place{}) {
		if _, err := io.WriteString(io.MultiWriter(all, stdout), ended(r.Stdout)); err != nil {
			return err
		}
		_, err := io.WriteString(all, r.Stderr)
		return err
	}
	errs, err := os.CreateTemp("", "almanac-*")
	if err != nil {
		return action.Errorf(action.Unavailable, "keep the output: %w", err)
	}
	defer errs.Close()
	os.Remove(errs.Name())
	end := &lastByte{}
	found, err := n.CopyOutput(ctx, r, io.MultiWriter(all, stdout, end), errs, mostOutput)
	if ctx.Err() != nil || err != nil && (action.KindOf(err) == action.Throttled || action.KindOf(err) == action.Unavailable) {
		return err // another attempt finds it there
	}
	if err != nil || !found {
		// That it cannot be had is no reason to take the command for failed.
		why := "the node has not put it there; its instance profile needs the permission to write"
		if err != nil {
			why = err.Error()
		}
		_, err := fmt.Fprintf(io.MultiWriter(all, stdout), "%s\n[almanac: the rest of the output is missing: %s]\n%s", r.Stdout, why, r.Stderr)
		return err
	}
	if size, err := errs.Seek(0, io.SeekCurrent); err != nil || size == 0 {
		return err
	}
	if end.byte != 0 && end.byte != '\n' {
		if _, err := io.WriteString(all, "\n"); err != nil {
			return err
		}
	}
	if _, err := errs.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(all, errs)
	return err
}

// lastByte remembers how what is written to it ends.
type lastByte struct{ byte }

func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.byte = p[len(p)-1]
	}
	return len(p), nil
}

// ended ends a text with a newline if it is not empty.
func ended(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}

// store appends an output, unless it is there already: an attempt before may have
// put it there.
func store(outputs output.Dir, ref string, from io.ReaderAt, size int64) error {
	there, err := outputs.Size(ref)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case there >= size:
		before, err := outputs.Open(ref)
		if err != nil {
			return err
		}
		same := equal(io.NewSectionReader(before, there-size, size), io.NewSectionReader(from, 0, size))
		before.Close()
		if same {
			return nil
		}
	}
	w, err := outputs.Append(ref)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, io.NewSectionReader(from, 0, size))
	return errors.Join(err, w.Sync(), w.Close())
}

func equal(a, b io.Reader) bool {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false
		}
		if errA != nil || errB != nil {
			return errA == errB
		}
	}
}
