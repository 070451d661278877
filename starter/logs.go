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
	failed       bool
	tail         int

	// only holds, if it is not nil, the step and target of what is printed.
	only map[[2]string]bool
}

// failedTail is how many lines of each target logs --failed prints.
const failedTail = 50

func (a *app) logsCommand() *cobra.Command {
	var f logFilter
	cmd := &cobra.Command{
		Use:   "logs EXECUTION",
		Short: "Print the complete output of an execution's commands",
		Long: `Print what the commands of an execution wrote, from the output store: the
directory .almanac/output, or that of ALMANAC_OUTPUT_DIR. With output of several
steps or targets each line begins with its step and target. What is not there is
read from the central store (worker --output), or on the nodes that wrote it; of more
than twenty outputs with --target only. With --failed it is
the last 50 lines of each target on which a step has failed, and of no other.

With -o json each line is one JSON object with step, target and line.`,
		Example: a.examples(
			"starter logs demo-tour-20261123-101500-x2ab",
			"starter logs demo-tour-20261123-101500-x2ab --step patch --target node-2 --tail 50",
			"starter logs demo-tour-20261123-101500-x2ab --target node-2 -f",
			"starter logs demo-tour-20261123-101500-x2ab --failed",
		),
		Args:              one("EXECUTION"),
		ValidArgsFunction: a.executionArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.failed && !cmd.Flags().Changed("tail") {
				f.tail = failedTail
			}
			return a.with(cmd.Context(), func(ctx context.Context, s *server) error { return a.logs(ctx, s, args[0], f) })
		},
	}
	cmd.Flags().StringVar(&f.step, "step", "", "only this step (its id or path), and those below it")
	cmd.Flags().StringVar(&f.target, "target", "", "only this target")
	cmd.Flags().BoolVar(&f.failed, "failed", false, "only targets on which a step has failed, and of each the last 50 lines")
	cmd.Flags().BoolVarP(&f.follow, "follow", "f", false, "go on printing until the execution ends")
	cmd.Flags().IntVar(&f.tail, "tail", -1, "only the last lines of each output; -1 is all")
	return cmd
}

// logRef is one output of an execution.
type logRef struct {
	step, target, ref string

	running bool // a command writes it
}

// refs lists the outputs that a View points to, in the order of its steps.
func refs(v workflows.View) []logRef {
	var all []logRef
	add := func(step, target, ref string) {
		if ref != "" {
			all = append(all, logRef{step: strings.TrimSuffix(step, "@"+target), target: target, ref: ref})
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
// With a target, those of no other.
func stored(store output.Dir, id, target string) []logRef {
	of := output.Ref(id, "step", target)
	segment, name := path.Dir(path.Dir(of)), "*.log"
	if target != "" {
		name = globQuote(path.Base(of))
	}
	files, _ := filepath.Glob(filepath.Join(string(store), globQuote(segment), "*", name))
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
		all = append(all, found{ofRef(path.Join(segment, filepath.Base(dir), name)), info.ModTime()})
	}
	slices.SortStableFunc(all, func(a, b found) int { return a.at.Compare(b.at) })
	refs := make([]logRef, len(all))
	for i, f := range all {
		refs[i] = f.logRef
	}
	return refs
}

// ofRef is the output that a reference names: its step and target are in it.
func ofRef(ref string) logRef {
	step, target := path.Base(path.Dir(ref)), strings.TrimSuffix(path.Base(ref), ".log")
	if u, err := url.PathUnescape(step); err == nil {
		step = u
	}
	if u, err := url.PathUnescape(target); err == nil {
		target = u
	}
	if i := strings.LastIndexByte(step, '#'); i > 0 { // how often it was scheduled
		step = step[:i]
	}
	return logRef{step: strings.TrimSuffix(step, "@"+target), target: target, ref: ref}
}

// globQuote makes a file name that pattern which matches only itself.
func globQuote(name string) string {
	return strings.NewReplacer("[", "[[]", "*", "[*]", "?", "[?]").Replace(name)
}

// fits tells whether an output is asked for: of the step, given by its id or
// path, or of one below it.
func (f logFilter) fits(l logRef) bool {
	path, step := "."+l.step+".", "."+f.step
	if f.only != nil && !f.only[[2]string{l.step, l.target}] {
		return false
	}
	return (f.target == "" || f.target == l.target) &&
		(f.step == "" || strings.Contains(path, step+".") || strings.Contains(path, step+"["))
}

// outputs lists the outputs of an execution and of the runbooks that it called.
func (s *server) outputs(ctx context.Context, v workflows.View, id, target string, store output.Dir) []logRef {
	all := append(stored(store, id, target), refs(v)...)
	if !runview.Finished(v.Status) {
		all = append(all, s.running(ctx, id, target)...)
	}
	for _, step := range v.Steps {
		if step.Child == "" || step.StartedAt == nil {
			continue
		}
		child, err := s.view(ctx, step.Child)
		if err != nil {
			child = workflows.View{} // what is in the store is shown
		}
		for _, l := range s.outputs(ctx, child, step.Child, target, store) {
			l.step = step.Path + "." + l.step
			all = append(all, l)
		}
	}
	return unique(all)
}

// unique keeps the first of each output; it is running if any says so.
func unique(all []logRef) []logRef {
	at := map[string]int{}
	var kept []logRef
	for _, l := range all {
		if i, ok := at[l.ref]; ok {
			kept[i].running = kept[i].running || l.running
			continue
		}
		at[l.ref] = len(kept)
		kept = append(kept, l)
	}
	return kept
}

func (a *app) logs(ctx context.Context, s *server, id string, f logFilter) error {
	store := outputDir()
	known := map[string]bool{}
	all := map[logRef]bool{}
	var order []*logReader
	defer func() {
		for _, r := range order {
			r.close()
		}
	}()
	var answered time.Time
	far := newFarOutputs(ctx, s, f)
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
		found := s.outputs(ctx, v, id, f.target, store)
		if f.failed {
			targets, err := s.targets(ctx, id)
			if err != nil {
				return fmt.Errorf("the targets of %s are not known (%w); is a worker running?", id, err)
			}
			f.only = map[[2]string]bool{}
			for _, t := range targets {
				if t.State == workflows.StateFailed {
					f.only[[2]string{t.Step, t.Target}] = true
					if t.Ref != "" {
						found = append(found, logRef{step: t.Step, target: t.Target, ref: t.Ref})
					}
				}
			}
		}
		if (ended || !f.follow) && f.target != "" && !slices.ContainsFunc(found, f.fits) {
			found = append(found, s.likely(ctx, id, f.target)...)
		}
		clear(far.running)
		for _, ref := range found {
			if ref.running {
				far.running[ref.ref] = true
			}
			ref.running = false // it will have ended
			all[ref] = true
			if !known[ref.ref] && f.fits(ref) {
				known[ref.ref] = true
				order = append(order, &logReader{logRef: ref})
			}
		}
		prefix := len(order) > 1
		missing := 0
		far.last = ended || !f.follow
		for _, r := range order {
			if err := r.open(a.opener(store, far), f.tail); err != nil {
				if !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				missing++
				continue
			}
			if err := r.print(a, prefix, ended || !f.follow); err != nil {
				return err
			}
			if ended || !f.follow || len(order) > mostOpen {
				r.pause()
			}
		}
		if ended || !f.follow {
			if f.failed && len(f.only) == 0 {
				fmt.Fprintf(a.stderr, "on no target of %s has a step failed\n", id)
				return nil
			}
			if err := a.logsEnd(id, all, len(order), missing, store); err != nil {
				return fmt.Errorf("%w%s", err, far.why())
			}
			return nil
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
		return fmt.Errorf("%s of execution %s neither in the output store %s, nor in the central store, nor to be had from their nodes; name the store's directory with %s",
			plural(missing, "output"), id, store, outputEnv)
	}
	return nil
}

// mostOpen is how many outputs are kept open while they are followed.
const mostOpen = 200

// opener returns what opens an output. Output is opened nowhere else.
// What is not in the directory here is read from the central store or on its node.
func (a *app) opener(store output.Dir, far *farOutputs) func(logRef) (output.Reader, error) {
	return func(l logRef) (output.Reader, error) {
		r, err := store.Open(l.ref)
		if !errors.Is(err, fs.ErrNotExist) || far == nil {
			return r, err
		}
		r, ferr := far.open(l)
		var expired *output.ExpiredError
		if ferr != nil && errors.As(err, &expired) {
			far.none[l.ref] = farFailure{expired, time.Now()}
		}
		return r, ferr
	}
}

// logReader prints one output, continuing where it was.
type logReader struct {
	logRef
	at   int64 // where it was when it was closed; 0: it was not
	file output.Reader
	in   *bufio.Reader
	part []byte // of a line that has not ended
}

func (r *logReader) open(open func(logRef) (output.Reader, error), tail int) error {
	if r.file != nil {
		return nil
	}
	file, err := open(r.logRef)
	if err != nil {
		return err
	}
	r.file = file
	switch {
	case r.at > 0:
		if _, err := file.Seek(r.at, io.SeekStart); err != nil {
			return err
		}
	case tail >= 0:
		if err := seekTail(file, tail); err != nil {
			return err
		}
	}
	r.in = bufio.NewReaderSize(file, 64<<10)
	return nil
}

// pause closes the output at its end, until it is opened again: of thousands
// not all can be open.
func (r *logReader) pause() {
	if at, err := r.file.Seek(0, io.SeekCurrent); err == nil {
		r.at = at
		r.close()
	}
}

func (r *logReader) close() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
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
		if read, err := file.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
			return err
		} else if read < len(b) { // it is shorter than its node said: what is known to be there is printed
			_, err := file.Seek(at, io.SeekStart)
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
