package fleet

// Control decides, while work on the targets goes on, whether another target
// may begin. Whoever works on them asks MayStart, says Start for each that
// begins and End for each that ends; what runs when it halts is let finish.
//
// It promises that never more than AtOnce run at a time, and that none begins
// after the error that is one more than Tolerated.
type Control struct {
	AtOnce    int // targets at a time, at least 1
	Tolerated int // errors that do not halt: 0 halts at the first

	running, failed int
}

// MayStart tells whether another target may begin now.
func (c *Control) MayStart() bool { return c.running < c.AtOnce && !c.Halted() }

// Start notes that a target begins.
func (c *Control) Start() { c.running++ }

// End notes that a target has ended, and whether that was an error.
func (c *Control) End(failed bool) {
	c.running--
	if failed {
		c.failed++
	}
}

// Failed notes errors of targets that ended before this Control was made.
func (c *Control) Failed(n int) { c.failed += n }

// Halted tells whether more have failed than are tolerated: no further target
// begins.
func (c *Control) Halted() bool { return c.failed > c.Tolerated }
