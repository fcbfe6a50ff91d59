package service

import (
	"context"
	"fmt"

	"go.temporal.io/sdk/client"

	"github.com/penstock/penstock/runs"
)

// ClosedError says that a run is over, so that it cannot be cancelled.
type ClosedError struct {
	RunID   string
	Outcome runs.Outcome
}

// Error says so.
func (e *ClosedError) Error() string {
	return fmt.Sprintf("run %s is over (%s): there is nothing to cancel", e.RunID, e.Outcome)
}

// Cancellation is an answer of Cancel.
type Cancellation struct {
	Run
	// Jobs are those under way when the cancel was asked for: batch jobs are cancelled, streaming jobs drained.
	Jobs []Attempt `json:"jobs"`
}

// Cancel asks for the run that ref means to be cancelled, and returns once that is durable: see Wait for its end. reason
// is kept in the run's history. A run that is over is a *ClosedError. ref is as for Describe, but never the beginning of a run ID where
// it could be another's pipeline and key.
func (s *Service) Cancel(ctx context.Context, ref, reason string) (Cancellation, error) {
	id, archived, err := s.findToChange(ctx, ref)
	if err != nil {
		return Cancellation{}, err
	}
	if archived != nil {
		return Cancellation{Run: archived.Run}, &ClosedError{RunID: archived.RunID, Outcome: archived.Outcome}
	}
	d, err := s.describe(ctx, id, "")
	if err != nil {
		return Cancellation{}, err
	}
	if d.Outcome.Over() {
		return Cancellation{Run: d.Run}, &ClosedError{RunID: d.RunID, Outcome: d.Outcome}
	}
	c := Cancellation{Run: d.Run, Jobs: []Attempt{}}
	for _, step := range d.Steps {
		for _, a := range step.Attempts {
			if !a.Outcome.Over() {
				c.Jobs = append(c.Jobs, a)
			}
		}
	}
	callCtx, cancel := call(ctx)
	defer cancel()
	// By its execution: a later one under the same ID is not meant.
	err = s.temporal.CancelWorkflowWithOptions(callCtx, client.CancelWorkflowOptions{WorkflowID: d.RunID, RunID: d.Execution, Reason: reason})
	if isNotFound(err) {
		return c, &ClosedError{RunID: d.RunID, Outcome: "just now"}
	}
	if err != nil {
		return c, fmt.Errorf("cancel run %s: %w", d.RunID, err)
	}
	return c, nil
}

// Wait waits until an execution of a run is over, or ctx is, and describes it.
func (s *Service) Wait(ctx context.Context, runID, execution string) (Description, error) {
	// Its failure is its outcome, which the description tells; only the waiting's own failures matter.
	if err := s.temporal.GetWorkflow(ctx, runID, execution).Get(ctx, nil); err != nil && ctx.Err() != nil {
		return Description{}, fmt.Errorf("wait for run %s to end: %w", runID, ctx.Err())
	}
	d, err := s.describe(ctx, runID, execution)
	if err == nil && !d.Outcome.Over() {
		return d, fmt.Errorf("wait for run %s to end: Temporal's answer came while it was still %s", runID, d.Outcome)
	}
	return d, err
}
