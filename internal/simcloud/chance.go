package simcloud

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Range is a duration that chance picks: from Min to Max, both included. A Max
// below Min is Min.
type Range struct{ Min, Max time.Duration }

// Delays are how long things take. The zero value is: no time.
type Delays struct {
	Visible  Range // after a resource of EC2 was made, until a replica of AWS's data answers for it
	Launch   Range // pending → running
	Checks   Range // running → status checks passed
	Stop     Range // stopping → stopped
	Shutdown Range // shutting-down → terminated
	Image    Range // pending → available
	Snapshot Range // pending → completed
	Register Range // running → the SSM agent has registered
	Command  Range // SendCommand → the command is known to those who list
	Deliver  Range // SendCommand → the command starts on an instance whose turn it is
	Replace  Range // an instance refresh replaces one batch, warm-up not included
	Stack    Range // … IN_PROGRESS → … COMPLETE
	Machine  Range // RUNNING → SUCCEEDED, of Step Functions
}

// RealDelays are about what AWS takes.
func RealDelays() Delays {
	return Delays{
		Visible:  Range{0, 60 * time.Second},
		Launch:   Range{5 * time.Second, 40 * time.Second},
		Checks:   Range{time.Minute, 3 * time.Minute},
		Stop:     Range{15 * time.Second, 2 * time.Minute},
		Shutdown: Range{20 * time.Second, 2 * time.Minute},
		Image:    Range{2 * time.Minute, 15 * time.Minute},
		Snapshot: Range{time.Minute, 10 * time.Minute},
		Register: Range{20 * time.Second, 5 * time.Minute},
		Command:  Range{0, 10 * time.Second},
		Deliver:  Range{time.Second, 5 * time.Second},
		Replace:  Range{2 * time.Minute, 6 * time.Minute},
		Stack:    Range{time.Minute, 8 * time.Minute},
		Machine:  Range{time.Second, time.Minute},
	}
}

// Times returns delays that are so many times as long.
func (d Delays) Times(factor float64) Delays {
	for _, r := range []*Range{
		&d.Visible, &d.Launch, &d.Checks, &d.Stop, &d.Shutdown, &d.Image, &d.Snapshot, &d.Register, &d.Command, &d.Deliver,
		&d.Replace, &d.Stack, &d.Machine,
	} {
		r.Min, r.Max = time.Duration(float64(r.Min)*factor), time.Duration(float64(r.Max)*factor)
	}
	return d
}

// replicas is of how many copies of AWS's data one answers a call: what a call
// has seen, the next may not see yet.
const replicas = 2

// hash is the source of all chance: the same parts are the same number.
func (c *Cloud) hash(parts ...any) []byte {
	h := sha256.New()
	_ = binary.Write(h, binary.BigEndian, c.Seed)
	for _, p := range parts {
		s := fmt.Sprint(p)
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return h.Sum(nil)
}

// share is a number from 0 to 1, without 1.
func (c *Cloud) share(parts ...any) float64 {
	return float64(binary.BigEndian.Uint64(c.hash(parts...))>>11) / (1 << 53)
}

// pick picks a duration.
func (c *Cloud) pick(r Range, parts ...any) time.Duration {
	if r.Max <= r.Min {
		return r.Min
	}
	return r.Min + time.Duration(c.share(parts...)*float64(r.Max-r.Min+1))
}

// after is when what begins now is over; at once when setting up.
func (k *call) after(r Range, parts ...any) time.Time {
	if k.given {
		return k.now
	}
	return k.now.Add(k.pick(r, parts...))
}

// mint makes an id of what this call makes.
func (k *call) mint(prefix string, digits int) string {
	k.ids++
	h := hex.EncodeToString(k.hash("id", k.identity, k.nth, k.ids, prefix))
	return prefix + h[:digits]
}

// uuid makes an id in the form of a UUID.
func (k *call) uuid() string { return asUUID(k.mint("", 32)) }

func hexOf(b []byte) string { return hex.EncodeToString(b) }

func asUUID(h string) string {
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:32]
}

// identity names a call by what it says. Calls that say the same may change
// places without a difference.
func identity(p place, service, operation string, members map[string]any) string {
	text, err := json.Marshal(members)
	if err != nil {
		text = fmt.Appendf(nil, "%v", members)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %s %s", p.account, p.region, service, operation, text))
	return hex.EncodeToString(sum[:16])
}
