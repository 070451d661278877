package host

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/command"
)

// rebootAfter is between the answer and the restart, so that the answer gets out.
var rebootAfter = 3 * time.Second

// reboot restarts the node, or finds that it was restarted since it was asked to be.
// It answers with the kind restarting; the agent that comes back gets the same work again.
func (p *patching) reboot(ctx context.Context, limit time.Duration) error {
	s := p.state
	now := p.node.bootID()
	switch {
	case s.Rebooted:
		return nil
	case now == "":
		return action.Errorf(action.Invalid, "the node does not say when it was restarted; use reboot: never, and restart it in another way")
	case s.RebootFrom != "" && s.RebootFrom != now:
		s.Rebooted = true
		return p.save(s)
	case s.RebootFrom != "" && time.Since(s.RebootAsked) > limit:
		return action.Errorf(action.Failed, "the node was told to restart %s ago, and has not done so", time.Since(s.RebootAsked).Round(time.Second))
	case s.RebootFrom != "":
		// It is about to: this agent ends with it. If it does not, it is asked again.
		wait := time.NewTimer(time.Until(s.RebootAgain.Add(min(2*time.Minute, limit/4))))
		defer wait.Stop()
		select {
		case <-p.node.Stopping:
			return &action.Error{Kind: action.Lost, Err: command.ErrStopping}
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.C:
		}
	}
	s.RebootAgain = time.Now()
	if s.RebootFrom == "" {
		s.RebootFrom, s.RebootAsked = now, s.RebootAgain
	}
	// On the disk before the effect: whoever comes after it has to know what it meant.
	if err := p.save(s); err != nil {
		return err
	}
	ask := p.node.Reboot
	if ask == nil {
		ask = p.node.restart
	}
	time.AfterFunc(rebootAfter, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := ask(ctx); err != nil {
			// Who waits for the node finds out by the boot id, and by this line in its output.
			p.note("almanac: the node could not be restarted: " + err.Error())
		}
	})
	left := limit - time.Since(s.RebootAsked)
	return &action.Error{Kind: action.Restarting, Detail: action.RestartDetail{Within: left.Round(time.Second).String()},
		Err: fmt.Errorf("the node restarts; it may take %s", limit)}
}

func (n Node) canReboot() bool { return n.Root == "" || n.Reboot != nil }

func (n Node) bootID() string {
	if n.BootID != nil {
		return n.BootID()
	}
	return command.BootID()
}

// restart asks the machine to restart; never for a directory that stands for one.
func (n Node) restart(ctx context.Context) error {
	if n.Root != "" {
		return action.Errorf(action.Internal, "a node with a root directory is not restarted")
	}
	argv := []string{"shutdown", "-r", "now"}
	if isDir("/run/systemd/system") {
		argv = []string{"systemctl", "reboot"}
	}
	out, code, err := n.execute(ctx, argv[0], argv[1:]...)
	if err == nil && code != 0 {
		err = action.Errorf(action.Failed, "%s: exit code %d: %s", strings.Join(argv, " "), code, strings.TrimSpace(out))
	}
	return err
}

// kernel is the one that runs.
func (n Node) kernel() string {
	if n.Root != "" {
		return ""
	}
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
