package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// State is how far a command has come.
type State string

// The states, in order.
const (
	Accepted State = "accepted" // nothing has run
	Started  State = "started"  // it runs, ran, or was about to
	Exited   State = "exited"   // it ended, and how is known
)

// Record is what the journal keeps of a command.
type Record struct {
	Execution string `json:"execution"`
	Step      string `json:"step"`
	Input     string `json:"input,omitempty"` // a digest of what was asked for, without secrets
	State     State  `json:"state"`
	Run       int    `json:"run"` // from 1; how often the command was begun

	BootID     string  `json:"boot_id,omitempty"` // of the node when it was started
	Supervisor Process `json:"supervisor"`
	Command    Process `json:"command"` // leads the process group; zero if it was not yet known

	AcceptedAt time.Time `json:"accepted_at"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	EndedAt    time.Time `json:"ended_at,omitzero"`

	Ref    string `json:"ref"`    // of the output
	Offset int64  `json:"offset"` // where this run's output begins in it

	// Once exited.
	Size     int64  `json:"size"`              // of the output, this run's part
	Omitted  int64  `json:"omitted,omitempty"` // bytes of output above the limit, which were not kept
	ExitCode int    `json:"exit_code"`         // 128 and more: killed by a signal, as shells count
	Stopped  Reason `json:"stopped"`           // why it was made to end, or ""
	Stdout   string `json:"stdout,omitempty"`  // masked and abridged
	Error    string `json:"error,omitempty"`   // why it could not be started

	Passing bool `json:"passing,omitempty"` // the Error may pass by itself: it is started anew when asked for
}

// Process names a process so that another one with its number is not taken for it.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // ticks since boot; 0 if the system does not tell
}

// Reason is why a command was made to end.
type Reason string

// The reasons.
const (
	Cancelled  Reason = "cancelled"
	TimedOut   Reason = "timed_out"
	Abandoned  Reason = "abandoned"  // nobody waited for it any more
	Terminated Reason = "terminated" // its supervisor was, as when the node shuts down
)

const recordFile = "command.json"

// Record returns the entry's record; ok is false if there is none.
func (e Entry) Record() (r Record, ok bool, err error) {
	b, err := os.ReadFile(e.File(recordFile))
	// What a loss of power leaves of an accepted command may be a file of nothing.
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.Trim(b, "\x00")) == 0 {
		return Record{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return Record{}, false, fmt.Errorf("journal: %s: %w", recordFile, err)
	}
	return r, true, nil
}

// SetRecord replaces the entry's record.
func (e Entry) SetRecord(r Record) error { return e.WriteJSON(recordFile, r) }

// Accept is SetRecord for a command that has not begun: if a loss of power takes
// that away, nothing is lost, and so nobody waits for the disk.
func (e Entry) Accept(r Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return e.write(recordFile, b, false)
}
