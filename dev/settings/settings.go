// Package settings says how a Temporal server is set up for Almanac: the search attributes that the interpreter
// writes and the values that make a small server answer quickly. It promises that an embedded server, a child process
// of the temporal CLI and a server somewhere else get the same ones. It starts no server and links none, so that a
// build without the embedded server stays small.
package settings

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
)

// Namespace is where everything runs on a server of our own.
const Namespace = "default"

// SearchAttributes are the attributes an execution can be found by. SQLite has room for ten keywords in a namespace.
var SearchAttributes = map[string]enumspb.IndexedValueType{
	"AlmanacCaller":     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"AlmanacCompliance": enumspb.INDEXED_VALUE_TYPE_KEYWORD, // of nodes
	"AlmanacRunbook":    enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"AlmanacStatus":     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"AlmanacStep":       enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	"AlmanacTargets":    enumspb.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}

// Dynamic is the server's dynamic configuration. Durations are text, so that every value can be written as JSON.
var Dynamic = map[string]any{
	// The server looks for work 20 times a second by default, and every step waits for its turn. One partition, since
	// forwarding between partitions costs more than one partition ever will here.
	"history.transferProcessorMaxPollRPS":    2000,
	"history.timerProcessorMaxPollRPS":       2000,
	"history.visibilityProcessorMaxPollRPS":  2000,
	"matching.numTaskqueueReadPartitions":    1,
	"matching.numTaskqueueWritePartitions":   1,
	"history.timerProcessorMaxTimeShift":     "5ms",
	"history.longPollExpirationInterval":     "1s",
	"system.enableActivityEagerExecution":    true,
	"system.enableEagerWorkflowStart":        true,
	"frontend.enableUpdateWorkflowExecution": true,
	"frontend.WorkerHeartbeatsEnabled":       true,
	"frontend.ListWorkersEnabled":            true,
	"frontend.WorkflowPauseEnabled":          true,

	// Callers are served in turns: workflows.Fair says who they are. The fairness of Temporal is per task queue.
	"matching.enableFairness": true,

	// A fleet of ten thousand nodes polls from one machine, one long poll each.
	"frontend.namespaceCount":          50000,
	"frontend.namespaceRPS":            50000,
	"frontend.rps":                     100000,
	"frontend.namespaceRPS.visibility": 1000,
	"frontend.persistenceMaxQPS":       100000,
	"matching.rps":                     100000,
	"matching.persistenceMaxQPS":       100000,
	"history.rps":                      100000,
	"history.persistenceMaxQPS":        100000,

	// A development server reads the definitions of search attributes anew for each row of a list otherwise, which
	// makes a list of ten thousand nodes take twice as long. See AddSearchAttributes.
	"system.forceSearchAttributesCacheRefreshOnRead": false,

	// Nothing leaves the machine.
	"frontend.enableServerVersionCheck": false,
}

// Pragmas are SQLite's settings: readers do not wait for the writer, and a commit does not wait for the disk, at the
// price that a power cut may lose the last moments (never the file).
var Pragmas = map[string]string{"journal_mode": "wal", "synchronous": "1"}

// DynamicFlags gives Dynamic as key=JSON pairs in the order of their keys, as `temporal server start-dev
// --dynamic-config-value` takes them.
func DynamicFlags() []string {
	var flags []string
	for k, v := range Dynamic {
		text, err := json.Marshal(v)
		if err != nil {
			panic(fmt.Sprintf("settings: %s: %v", k, err))
		}
		flags = append(flags, k+"="+string(text))
	}
	slices.Sort(flags)
	return flags
}

// AddSearchAttributes adds those of SearchAttributes that a namespace lacks. Call it at every start: attributes given
// only when a database is created are not there in a database that is older than the attribute.
func AddSearchAttributes(ctx context.Context, c client.Client, namespace string) error {
	operator := c.OperatorService()
	have, err := operator.ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return fmt.Errorf("list search attributes: %w", err)
	}
	missing := map[string]enumspb.IndexedValueType{}
	for name, want := range SearchAttributes {
		switch got, ok := have.GetCustomAttributes()[name]; {
		case !ok:
			missing[name] = want
		case got != want:
			return fmt.Errorf("search attribute %s is a %s, want %s", name, got, want)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, err = operator.AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{
		Namespace:        namespace,
		SearchAttributes: missing,
	})
	var exists *serviceerror.AlreadyExists
	if err != nil && !errors.As(err, &exists) {
		return fmt.Errorf("add search attributes: %w", err)
	}
	// Each part of a server looks every two seconds whether a namespace has changed. Until then it refuses what is new.
	select {
	case <-time.After(3 * time.Second):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("add search attributes: %w", ctx.Err())
	}
}
