// Package option has the one option that the Temporal server's archiver gives to Google's clients. It stands in for the
// package of the same path.
package option

import "golang.org/x/oauth2"

// ClientOption is an option that nobody reads.
type ClientOption struct{}

// WithTokenSource ignores its argument.
func WithTokenSource(oauth2.TokenSource) ClientOption { return ClientOption{} }
