// Package worker holds the Temporal workflows and activities that carry out runs:
// Run executes a pipeline's steps, DataflowJob launches one Dataflow job, waits for
// its end and reports it. The streaming types do the same for what lives for months.
//
// The workflows decide, the activities act: each activity makes one short attempt at
// calling Dataflow and may be killed at any instant. While a job runs, nothing of a
// run is alive but one long timer; a job-status signal or that timer goes on.
package worker

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/runs"
)

// Timing holds the waits that a run takes from its worker when it begins.
type Timing = runs.Timing

// Workflows are the workflow definitions. Use New.
type Workflows struct {
	// These are read in a side effect alone, so that what they said is in history: a
	// worker that is configured otherwise must still be able to replay it.
	timing     Timing
	attributes func() bool // whether the namespace has our search attributes

	// Ledger says that the activities have a ledger. It is read as those are.
	Ledger bool
	// Orphans says what becomes of jobs that nobody watches; empty: runs.OrphansReport.
	Orphans runs.OrphanRule
	// Overdue is how long a batch run may be open before a sweep reports it; zero: it
	// reports none.
	Overdue time.Duration
}

// New makes the workflow definitions. attributes says whether the namespace has the
// search attributes of runs.SearchAttributes by now; nil means that it has not.
func New(timing Timing, attributes func() bool) (*Workflows, error) {
	if err := timing.Validate(); err != nil {
		return nil, fmt.Errorf("configure workflows: %w", err)
	}
	if attributes == nil {
		attributes = func() bool { return false }
	}
	return &Workflows{timing: timing.WithDefaults(), attributes: attributes}, nil
}

// Register registers the workflows, and the activities unless they are nil (as when
// a history is replayed), under the names that histories hold.
func Register(r sdkworker.Registry, w *Workflows, a *Activities) {
	r.RegisterWorkflowWithOptions(w.Run, workflow.RegisterOptions{Name: runs.TypeRun})
	r.RegisterWorkflowWithOptions(w.Job, workflow.RegisterOptions{Name: runs.TypeJob})
	// What lives for months moves to each new worker, whatever the deployment's default is.
	r.RegisterWorkflowWithOptions(w.Run, workflow.RegisterOptions{Name: runs.TypeStreamingRun, VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade})
	r.RegisterWorkflowWithOptions(w.Job, workflow.RegisterOptions{Name: runs.TypeStreamingJob, VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade})
	r.RegisterWorkflowWithOptions(w.Sweep, workflow.RegisterOptions{Name: runs.TypeSweep, VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade})
	r.RegisterWorkflowWithOptions(w.DailySweep, workflow.RegisterOptions{Name: runs.TypeDailySweep, VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade})
	if a == nil {
		return
	}
	for name, f := range map[string]any{
		activityLaunch: a.launch,
		activityCheck:  a.check,
		activityStop:   a.stop,
		activityReport: a.report,
		activityEnd:    a.end,
		activityClaim:  a.claim,
		activityFinish: a.finish,

		activityAsk:     a.ask,
		activitySweep:   a.sweep,
		activityNews:    a.news,
		activitySuspect: a.suspect,
		activitySettle:  a.settle,
		activityOverdue: a.overdue,
	} {
		r.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: name})
	}
}
