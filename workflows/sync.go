package workflows

import (
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
)

// SyncType is the workflow type of Sync, and ActionSync its activity on the
// control worker: it brings the registry up to date with what Systems Manager
// knows in one place. Its arguments are (token, action.Target) with Region,
// Account and Role; it returns whether any worker is still set up for that place.
const (
	SyncType   = "almanac.sync"
	ActionSync = "almanac.ssm.sync"
)

// SyncID is the workflow id of a place's Sync: one for all workers.
func SyncID(place action.Target) string {
	parts := []string{"sync", "ssm"}
	for _, p := range []string{place.Region, place.Account, place.Role} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "/")
}

// syncEvery is how late the registry notices what happens in Systems Manager,
// which itself learns of an agent's death after five minutes.
const syncEvery = 2 * time.Minute

// Sync keeps the registry's nodes of Systems Manager up to date, until no worker is set up for that place.
func Sync(ctx workflow.Context, place action.Target) error {
	o := workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 30 * time.Minute,
		HeartbeatTimeout:    time.Minute,
		// What AWS denies or throttles for long is looked at again with the next round.
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: 5 * time.Second, BackoffCoefficient: 2, MaximumInterval: time.Minute, MaximumAttempts: 5},
		Summary:     place.Region,
	})
	for !workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
		wanted := true
		if err := workflow.ExecuteActivity(o, ActionSync, SyncID(place), place).Get(ctx, &wanted); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			workflow.SetCurrentDetails(ctx, "The last look failed: "+err.Error())
			wanted = true
		} else {
			workflow.SetCurrentDetails(ctx, "")
		}
		if !wanted {
			return nil
		}
		if err := workflow.Sleep(ctx, syncEvery); err != nil {
			return err
		}
	}
	return workflow.NewContinueAsNewError(ctx, SyncType, place)
}
