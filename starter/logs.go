package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/runview"
	"github.com/almanac-run/almanac/workflows"
)

// outputEnv is the directory of the output store.
const outputEnv = "ALMANAC_OUTPUT_DIR"

func outputDir() output.Dir {
	if dir := os.Getenv(outputEnv); dir != "" {
		return output.Dir(dir)
	}
	return ".almanac/output"
}

// patience is how long logs -f waits out a restart of the server or its worker.
const patience = time.Minute

// logFilter says which output of an execution to print.
type logFilter struct {
	step, target string
	follow       bool
	tail         int
}

func (a *app) logsCommand() *cobra.Command {
	var f logFilter
	cmd := &cobra.Command{
		Use:   "logs EXECUTION",
		Short: "Print the complete output of an execution's commands",
		Long: `Print what the commands of an execution wrote, from the output store: the
directory .almanac/output, or that of ALMANAC_OUTPUT_DIR. With output of several
steps or targets each line begins with its step and target.

With -o json each line is one JSON object with step, target and line.`,
		Example: a.examples(
			"starter logs demo-tour-20261123-101500-x2ab",
			"starter logs demo-tour-20261123-101500-x2ab --step patch --target node-2 --tail 50",
			"starter logs demo-tour-20261123-101500-x2ab -f",
		),
		Args:              one("EXECUTION"),
		ValidArgsFunction: a.executionArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error { return a.logs(ctx, s, args[0], f) })
		},
	}
	cmd.Flags().StringVar(&f.step, "step", "", "only this step (its id or path), and those below it")
	cmd.Flags().StringVar(&f.target, "target", "", "only this target")
	cmd.Flags().BoolVarP(&f.follow, "follow", "f", false, "go on printing until the execution ends")
	cmd.Flags().IntVar(&f.tail, "tail", -1, "only the last lines of each output; -1 is all")
	return cmd
}

// logRef is one output of an execution.
type logRef struct{ step, target, ref string }

// refs lists the outputs that a View points to, in the order of its steps.
func refs(v workflows.View) []logRef {
	var all []logRef
	add := func(step, target, ref string) {
		if ref != "" {
			all = append(all, logRef{strings.TrimSuffix(step, "@"+target), target, ref})
		}
	}
	for _, s := range v.Steps {
		for _, p := range s.Outputs {
			add(s.Path, cmp.Or(p.Target, s.Target), p.Ref)
		}
	}
	failures := []*workflows.Failure{}
	if v.Result != nil {
		failures = append(failures, v.Result.Failure)
		failures = append(failures, v.Result.NotRolledBack...)
	}
	for _, w := range v.Waiting {
		failures = append(failures, w.Failure)
	}
	for _, fail := range failures {
		for ; fail != nil; fail = fail.Cause {
			add(fail.Step, fail.Target, outputOf(fail.Detail))
		}
	}
	return all
}

// outputOf is the output that the detail of a command's failure points to.
func outputOf(detail json.RawMessage) string {
	var d struct {
		Ref string `json:"ref"`
	}
	_ = json.Unmarshal(detail, &d) // of another action: no output
	return d.Ref
}

// stored lists the outputs of an execution that are in the store, oldest first:
// also of commands that still run.
func stored(store output.Dir, id string) []logRef {
	segment := path.Dir(path.Dir(output.Ref(id, "step", "target")))
	files, _ := filepath.Glob(filepath.Join(string(store), globQuote(segment), "*", "*.log"))
	type found struct {
		logRef
		at time.Time
	}
	var all []found
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			continue
		}
		dir, name := filepath.Split(file)
		step, target := filepath.Base(dir), strings.TrimSuffix(name, ".log")
		ref := path.Join(segment, step, name)
		if u, err := url.PathUnescape(step); err == nil {
			step = u
		}
		if u, err := url.PathUnescape(target); err == nil {
			target = u
		}
		if i := strings.LastIndexByte(step, '#'); i > 0 { // how often it was scheduled
			step = step[:i]
		}
		all = append(all, found{logRef{strings.TrimSuffix(step, "@"+target), target, ref}, info.ModTime()})
	}
	slices.SortStableFunc(all, func(a, b found) int { return a.at.Compare(b.at) })
	refs := make([]logRef, len(all))
	for i, f := range all {
		refs[i] = f.logRef
	}
	return refs
}

// globQuote makes a file name that pattern which matches only itself.
func globQuote(name string) string {
	return strings.NewReplacer("[", "[[]", "*", "[*]", "?", "[?]").Replace(name)
}

// fits tells whether an output is asked for: of the step, given by its id or
// path, or of one below it.
func (f logFilter) fits(l logRef) bool {
	path, step := "."+l.step+".", "."+f.step
	return (f.target == "" || f.target == l.target) &&
		(f.step == "" || strings.Contains(path, step+".") || strings.Contains(path, step+"["))
}

// outputs lists the outputs of an execution and of the runbooks that it called.
func (s *server) outputs(ctx context.Context, v workflows.View, id string, store output.Dir) []logRef {
	all := append(stored(store, id), refs(v)...)
	for _, step := range v.Steps {
		if step.Child == "" || step.StartedAt == nil {
			continue
		}
		child, err := s.view(ctx, step.Child)
		if err != nil {
			child = workflows.View{} // what is in the store is shown
		}
		for _, l := range s.outputs(ctx, child, step.Child, store) {
			l.step = step.Path + "." + l.step
			all = append(all, l)
		}
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(l logRef) bool {
		dup := seen[l.ref]
		seen[l.ref] = true
		return dup
	})
}

func (a *app) logs(ctx context.Context, s *server, id string, f logFilter) error {
	store := outputDir()
	open := map[string]*logReader{}
	all := map[logRef]bool{}
	var order []*logReader
	defer func() {
		for _, r := range order {
			r.close()
		}
	}()
	var answered time.Time
	for {
		v, err := a.current(ctx, s, id)
		if err != nil {
			if f.follow && time.Since(answered) < patience {
				time.Sleep(pollEvery)
				continue
			}
			return err
		}
		answered = time.Now()
		ended := runview.Finished(v.Status)
		for _, ref := range s.outputs(ctx, v, id, store) {
			all[ref] = true
			if open[ref.ref] == nil && f.fits(ref) {
				r := &logReader{logRef: ref}
				open[ref.ref] = r
				order = append(order, r)
			}
		}
		prefix := len(order) > 1
		missing := 0
		for _, r := range order {
			if err := r.open(store, f.tail); err != nil {
				if !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				missing++
				continue
			}
			if err := r.print(a, prefix, ended || !f.follow); err != nil {
				return err
			}
		}
		if ended || !f.follow {
			return a.logsEnd(id, all, len(order), missing, store)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pollEvery):
		}
	}
}

// current is the View of an execution, running or ended.
func (a *app) current(ctx context.Context, s *server, id string) (workflows.View, error) {
	v, err := s.view(ctx, id)
	if err == nil && !runview.Finished(v.Status) {
		return v, nil
	}
	d, derr := s.describe(ctx, id)
	if derr != nil {
		return v, a.explain(s, id, derr)
	}
	if d.GetWorkflowExecutionInfo().GetCloseTime() == nil {
		if err != nil {
			return v, fmt.Errorf("execution %s does not answer: is a worker running? (%s show %s)", id, a.again(), runview.Quote(id))
		}
		return v, nil
	}
	short, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	r, rerr := s.result(short, id)
	if rerr != nil {
		return v, a.explain(s, id, rerr)
	}
	v.Status, v.Result = string(r.Outcome), r
	return v, nil
}

func (a *app) logsEnd(id string, all map[logRef]bool, printed, missing int, store output.Dir) error {
	switch {
	case printed == 0 && len(all) > 0:
		var have []string
		for l := range all {
			have = append(have, strings.TrimSpace(l.step+" "+l.target))
		}
		slices.Sort(have)
		return fmt.Errorf("no output of that step and target in execution %s; there is output of:\n  %s", id, strings.Join(slices.Compact(have), "\n  "))
	case printed == 0:
		fmt.Fprintf(a.stderr, "execution %s has no output of commands in %s\n", id, store)
	case missing > 0:
		return fmt.Errorf("%s of execution %s not in the output store %s; name its directory with %s",
			plural(missing, "output"), id, store, outputEnv)
	}
	return nil
}

// logReader prints one output, continuing where it was.
type logReader struct {
	logRef
	file output.Reader
	in   *bufio.Reader
	part []byte // of a line that has not ended
}

func (r *logReader) open(store output.Dir, tail int) error {
	if r.file != nil {
		return nil
	}
	file, err := store.Open(r.ref)
	if err != nil {
		return err
	}
	r.file = file
	if tail >= 0 {
		if err := seekTail(file, tail); err != nil {
			return err
		}
	}
	r.in = bufio.NewReaderSize(file, 64<<10)
	return nil
}

func (r *logReader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// seekTail moves to the beginning of the last n lines.
func seekTail(file output.Reader, n int) error {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return err
	}
	const block = 32 << 10
	buf := make([]byte, block)
	for at := end; at > 0; {
		from := max(0, at-block)
		b := buf[:at-from]
		if _, err := file.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != '\n' || from+int64(i) == end-1 {
				continue
			}
			if n--; n == 0 {
				_, err := file.Seek(from+int64(i)+1, io.SeekStart)
				return err
			}
		}
		at = from
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}

// print prints the lines that have come; with all, also one that has not ended.
func (r *logReader) print(a *app, prefix, all bool) error {
	for {
		b, err := r.in.ReadSlice('\n')
		r.part = append(r.part, b...)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		atEnd := errors.Is(err, io.EOF)
		if atEnd && (!all || len(r.part) == 0) {
			return nil
		}
		if errors.Is(err, bufio.ErrBufferFull) && len(r.part) < 1<<20 {
			continue
		}
		if err := r.write(a, r.part, prefix); err != nil {
			return err
		}
		r.part = r.part[:0]
		if atEnd {
			return nil
		}
	}
}

// write writes one line. On a terminal, what could move its cursor is replaced;
// elsewhere the bytes are those of the command.
func (r *logReader) write(a *app, line []byte, prefix bool) error {
	if a.json() {
		b, err := json.Marshal(struct {
			Step   string `json:"step"`
			Target string `json:"target,omitempty"`
			Line   string `json:"line"`
		}{r.step, r.target, strings.TrimSuffix(string(line), "\n")})
		if err == nil {
			_, err = fmt.Fprintf(a.stdout, "%s\n", b)
		}
		return err
	}
	text := string(line)
	if _, tty := terminal(a.stdout); tty {
		text = runview.Clean(text)
	}
	if prefix {
		text = strings.TrimSuffix(r.step+"@"+r.target, "@") + " | " + text
		if !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
	}
	_, err := io.WriteString(a.stdout, text)
	return err
}
