//go:build unix && !linux

package packages

import "context"

// rebootPending is not known here.
func (s system) rebootPending(context.Context) (bool, error) { return false, nil }
