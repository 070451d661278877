// Package iterator has the one name that the Temporal server's archiver takes from the package of the same path.
package iterator

import "errors"

// Done says that there are no more items.
var Done = errors.New("no more items in iterator")
