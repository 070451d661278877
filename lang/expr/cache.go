package expr

import "sync"

// cache keeps what was made from a text. It changes how fast an answer comes,
// never which: what is made depends on the text alone. That is also why its
// lock may be taken inside a workflow: nobody holds it while waiting for
// anything but the processor, and no result depends on who takes it first.
// When it is full it forgets everything and starts anew.
type cache[V any] struct {
	mu   sync.RWMutex
	made map[string]V
}

// maxCached bounds each cache, in entries; an entry is a few kilobytes.
const maxCached = 4096

func (c *cache[V]) get(text string, make func(string) V) V {
	c.mu.RLock()
	v, ok := c.made[text]
	c.mu.RUnlock()
	if ok {
		return v
	}
	v = make(text)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil || len(c.made) >= maxCached {
		c.made = map[string]V{}
	}
	c.made[text] = v
	return v
}
