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

// Timing holds the waits of the workflows. A zero field means its default. They are
// the worker's, not the run's: a new value holds for the waits that begin after it.
type Timing struct {
	// Horizon is how long Dataflow's list of jobs may lag behind a launch: what is
	// not in it that long after an unanswered launch is taken not to exist.
	// Defaults to 2 minutes.
	Horizon time.Duration
	// Safety is how often a job without news is looked at. Defaults to 1 hour.
	Safety time.Duration
	// CancelGrace is how long a cancel may take before it is forced. Defaults to 30 minutes.
	CancelGrace time.Duration
	// DrainGrace is how long a drain may take before it becomes a cancel. Defaults to 1 hour.
	DrainGrace time.Duration
	// HandOver is how long a job's workflow may take to close for its successor
	// before it is terminated. Defaults to 5 minutes.
	HandOver time.Duration
	// Call bounds each activity, and so how long a killed one goes unnoticed.
	// Defaults to 30 seconds.
	Call time.Duration
}

// WithDefaults replaces zero fields by their defaults.
func (t Timing) WithDefaults() Timing {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&t.Horizon, 2*time.Minute)
	def(&t.Safety, time.Hour)
	def(&t.CancelGrace, 30*time.Minute)
	def(&t.DrainGrace, time.Hour)
	def(&t.HandOver, 5*time.Minute)
	def(&t.Call, 30*time.Second)
	return t
}

// Validate returns an error that names the first field that is negative, or a call
// bound too short to launch a job in.
func (t Timing) Validate() error {
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"Horizon", t.Horizon}, {"Safety", t.Safety}, {"CancelGrace", t.CancelGrace}, {"DrainGrace", t.DrainGrace}, {"HandOver", t.HandOver}, {"Call", t.Call}} {
		if f.d < 0 {
			return fmt.Errorf("Timing.%s is %v; it must not be negative", f.name, f.d)
		}
	}
	if t.Call != 0 && t.Call < 2*launchMargin {
		return fmt.Errorf("Timing.Call is %v; it must be at least %v", t.Call, 2*launchMargin)
	}
	return nil
}

// Workflows are the workflow definitions. Use New.
type Workflows struct {
	timing Timing
	// attributes says whether the namespace has our search attributes. It is asked
	// in side effects, so that the answer is in history.
	attributes func() bool
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
	if a == nil {
		return
	}
	for name, f := range map[string]any{
		activityLaunch: a.Launch,
		activityCheck:  a.Check,
		activityStop:   a.Stop,
		activityReport: a.Report,
		activityEnd:    a.End,
	} {
		r.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: name})
	}
}
