// Command ours is a small program that calls operations of services by their
// names, to be built and weighed beside its twin, generated.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/almanac-run/almanac/internal/awsapi"
)

func main() {
	ctx := context.Background()
	c, err := awsapi.New(ctx, awsapi.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for i := 1; i+1 < len(os.Args); i += 2 {
		fmt.Println(c.Call(ctx, awsapi.Scope{}, os.Args[i], os.Args[i+1], nil))
	}
}
