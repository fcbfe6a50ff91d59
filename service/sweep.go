package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// Sweep is a look at the jobs of one place that was asked for.
type Sweep struct {
	Project    string `json:"project"`
	Location   string `json:"location"`
	WorkflowID string `json:"workflowId"`
	// Execution is Temporal's run ID of the sweep that took the ask.
	Execution string `json:"execution"`
	Link      string `json:"link,omitempty"` // its page in Temporal's web UI
	// Result is what it found; nil: nobody waited for it.
	Result *runs.SweepResult `json:"result,omitempty"`
}

// Locations are the locations that jobs of the pipelines run in, sorted: those that steps name, and fallback for steps that
// name none.
func Locations(set *pipeline.Set, fallback string) []string {
	var found []string
	for _, p := range set.Pipelines() {
		for i := range p.Steps {
			if at := cmp.Or(p.Steps[i].Dataflow.Location, fallback); at != "" && !slices.Contains(found, at) {
				found = append(found, at)
			}
		}
	}
	slices.Sort(found)
	return found
}

// AskForSweep asks for a sweep of a place, and returns once that is durable. It costs one list of the place's active jobs,
// however many ask at once.
func (s *Service) AskForSweep(ctx context.Context, project, location string) (Sweep, error) {
	w := Sweep{Project: project, Location: location, WorkflowID: runs.SweepWorkflowID(s.deployment, project, location)}
	if project == "" || location == "" {
		return w, errors.New("which place? A sweep looks after a project and a location: set GOOGLE_CLOUD_PROJECT and PENSTOCK_LOCATION")
	}
	callCtx, cancel := call(ctx)
	defer cancel()
	if err := runs.AskForSweep(callCtx, s.temporal, runs.Place{Deployment: s.deployment, Project: project, Location: location}, runs.SweepAsk{}); err != nil {
		return w, err
	}
	// The sweep drains what it was asked before it ends, so the newest execution has taken the ask, or a later one.
	answer, err := s.temporal.DescribeWorkflowExecution(callCtx, w.WorkflowID, "")
	if err != nil {
		return w, fmt.Errorf("the sweep %s was asked for, and cannot be looked at: %w", w.WorkflowID, err)
	}
	w.Execution = answer.GetWorkflowExecutionInfo().GetExecution().GetRunId()
	w.Link = s.link(w.WorkflowID, w.Execution)
	return w, nil
}

// AwaitSweep waits until a sweep is over, or ctx is, and fills in what it found. A sweep that suspects a job looks
// again after ten minutes before it says so.
func (s *Service) AwaitSweep(ctx context.Context, w *Sweep) error {
	var result runs.SweepResult
	if err := s.temporal.GetWorkflow(ctx, w.WorkflowID, w.Execution).Get(ctx, &result); err != nil {
		return fmt.Errorf("wait for the sweep %s: %w", w.WorkflowID, err)
	}
	w.Result = &result
	return nil
}
