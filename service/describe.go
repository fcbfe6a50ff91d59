package service

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/penstock/penstock/runs"
)

// Where a description is from.
const (
	SourceResult  = "result"  // the account that the run left when it ended
	SourceWorker  = "worker"  // a worker was asked
	SourceLedger  = "ledger"  // Temporal has forgotten the run; this is its final record
	SourceHistory = "history" // the run's events alone: no worker answered, or the run was ended from outside
)

// Description is all that is known of a run.
type Description struct {
	Run
	// Error is the run's first failure in words.
	Error string `json:"error,omitempty"`
	// Waits says what an open run waits for, one entry an open step.
	Waits []string `json:"waits,omitempty"`
	Steps []Step   `json:"steps,omitempty"` // in the order of the pipelines file
	// Cancels are the requests to cancel it.
	Cancels []CancelRequest `json:"cancels,omitempty"`
	Source  string          `json:"source"`
	// Taken names the run that has the key, where this one ended as its duplicate; First is what the ledger knows of it.
	Taken *runs.Taken  `json:"taken,omitempty"`
	First *Description `json:"first,omitempty"`
	// Link is its page in Temporal's web UI; empty where the UI's address is not known.
	Link string `json:"link,omitempty"`
	// Notes are what a reader should know besides.
	Notes []string `json:"notes,omitempty"`
}

// Step is what became of a step.
type Step struct {
	Name     string       `json:"name"`
	Outcome  runs.Outcome `json:"outcome"`
	Waiting  string       `json:"waiting,omitempty"` // what an open step waits for
	Error    string       `json:"error,omitempty"`
	Attempts []Attempt    `json:"attempts,omitempty"` // from the first
}

// Attempt is one job of a step.
type Attempt struct {
	runs.JobResult
	// Console is the job's page in Google Cloud's console, or its resource at the emulator; empty where no job was seen.
	Console string `json:"console,omitempty"`
	Link    string `json:"link,omitempty"` // the page of its workflow in Temporal's web UI
}

// Describe says what is known of the run that ref means: a run ID with or without the deployment before it, the beginning of one that
// no other has, or PIPELINE/KEY. Of a closed run it reads the history
// alone: its worker's build may be gone, and a query would wake an instance. Of a run that Temporal has forgotten it reads the ledger,
// where there is one.
func (s *Service) Describe(ctx context.Context, ref string) (Description, error) {
	id, archived, err := s.find(ctx, ref)
	switch {
	case err != nil:
		return Description{}, err
	case archived != nil:
		return *archived, nil
	}
	return s.describe(ctx, id, "")
}

// describe describes one execution; an empty one means the newest.
func (s *Service) describe(ctx context.Context, id, execution string) (Description, error) {
	callCtx, cancel := call(ctx)
	answer, err := s.temporal.DescribeWorkflowExecution(callCtx, id, execution)
	cancel()
	if err != nil {
		return Description{}, fmt.Errorf("ask Temporal for workflow %s: %w", id, err)
	}
	r, ok := s.run(answer.GetWorkflowExecutionInfo())
	if !ok {
		return Description{}, fmt.Errorf("%w: workflow %s is no run of deployment %s", ErrNotFound, id, s.deployment)
	}
	d := Description{Run: r, Source: SourceHistory, Link: s.link(r.RunID, r.Execution)}
	h, err := s.history(ctx, r.RunID, r.Execution)
	if err != nil {
		return Description{}, err
	}
	d.Cancels, d.Error = h.cancels, h.problem
	if r.Workflow != "" {
		d.Notes = append(d.Notes, fmt.Sprintf("it is a workflow of your own, of type %s on task queue %s: Penstock started it and knows no more of it", r.Workflow, answer.GetWorkflowExecutionInfo().GetTaskQueue()))
		return d, nil
	}
	s.tell(ctx, &d, h)
	return d, nil
}

// tell fills in what the run, its worker or its history says of its steps.
func (s *Service) tell(ctx context.Context, d *Description, h *history) {
	result, ok := h.runResult()
	if ok {
		d.Source = SourceResult
	} else if !h.closed {
		if err := s.ask(ctx, d.RunID, d.Execution, &result); err == nil {
			ok, d.Source = true, SourceWorker
		} else {
			d.Notes = append(d.Notes, fmt.Sprintf("no worker answered within %v, so this is what the run's history tells: %v", s.patience, err))
		}
	}
	if !ok {
		if result, ok = h.reconstruct(); !ok {
			d.Notes = append(d.Notes, "the run's input cannot be read, so its steps are not known")
			return
		}
	}
	if result.Outcome != "" && result.Version > 0 && d.Source == SourceResult {
		d.Outcome = result.Outcome
	}
	if result.Error != "" {
		d.Error = result.Error
	}
	if result.Note != "" {
		d.Notes = append(d.Notes, result.Note)
	}
	if result.Taken != nil {
		s.first(ctx, d, result.Taken)
	}
	// Who did not answer for the run will not for its jobs: one wait is enough.
	ask := h.closed || d.Source == SourceWorker
	for _, step := range result.Steps {
		d.Steps = append(d.Steps, s.step(ctx, d, h, step, ask))
	}
	for _, step := range d.Steps {
		if step.Waiting != "" && !d.Outcome.Over() {
			d.Waits = append(d.Waits, step.Name+": "+step.Waiting)
		}
	}
}

// step adds links, and the attempt under way: a run does not know its own open attempts.
func (s *Service) step(ctx context.Context, d *Description, h *history, from runs.StepResult, ask bool) Step {
	step := Step{Name: from.Name, Outcome: from.Outcome, Waiting: from.Waiting, Error: from.Error}
	attempts := slices.Clone(from.Attempts)
	for _, c := range h.children {
		if c.input.Step != from.Name || c.result != nil && !c.result.HandedOver {
			continue
		}
		at := slices.IndexFunc(attempts, func(a runs.JobResult) bool { return a.Attempt == c.input.Attempt })
		if at >= 0 && attempts[at].Outcome.Over() {
			continue
		}
		now := s.attempt(ctx, c, ask)
		if at >= 0 {
			attempts[at] = now
		} else {
			attempts = append(attempts, now)
		}
	}
	for _, a := range attempts {
		attempt := Attempt{JobResult: a, Console: s.console(a), Link: s.link(runs.JobWorkflowID(a.Project, a.Location, a.JobName), "")}
		if a.Outcome == runs.OutcomeRunning && a.State != "" && !d.Outcome.Over() {
			step.Waiting = fmt.Sprintf("job %s, %s", a.JobName, strings.ToLower(strings.TrimPrefix(a.State, "JOB_STATE_")))
		}
		step.Attempts = append(step.Attempts, attempt)
	}
	if last, ok := (runs.StepResult{Attempts: attempts}).Last(); ok && d.Source == SourceHistory && d.Outcome.Over() && step.Outcome == runs.OutcomeRunning {
		step.Outcome = last.Outcome // its workflow outlived the run
	}
	return step
}

// attempt is what is known of a job whose workflow has not reported to its run. ask says that a worker may be asked.
func (s *Service) attempt(ctx context.Context, c *child, ask bool) runs.JobResult {
	known := attemptOf(&c.input)
	h, err := s.history(ctx, c.id, "")
	if err != nil {
		known.Note = err.Error()
		return known
	}
	if r, ok := h.jobResult(); ok && r.Attempt == known.Attempt {
		known = r
	}
	if h.closed || !ask {
		return known
	}
	var asked runs.JobResult
	if err := s.ask(ctx, c.id, "", &asked); err == nil && asked.JobName == known.JobName {
		return asked
	}
	return known
}

// ask queries an open workflow's state.
func (s *Service) ask(ctx context.Context, id, execution string, state any) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	answer, err := s.temporal.QueryWorkflowWithOptions(ctx, &client.QueryWorkflowWithOptionsRequest{
		WorkflowID: id, RunID: execution, QueryType: runs.QueryState,
		QueryRejectCondition: enumspb.QUERY_REJECT_CONDITION_NOT_OPEN, // it may have closed meanwhile
	})
	if err != nil {
		return err
	}
	if answer.QueryRejected != nil {
		return errors.New("it ended just now")
	}
	return answer.QueryResult.Get(state)
}

// link is a workflow's page in Temporal's web UI.
func (s *Service) link(id, execution string) string {
	if s.ui == "" {
		return ""
	}
	page := strings.TrimSuffix(s.ui, "/") + "/namespaces/" + url.PathEscape(s.namespace) + "/workflows/" + url.PathEscape(id)
	if execution != "" {
		page += "/" + url.PathEscape(execution) + "/history"
	}
	return page
}

// console is a job's page.
func (s *Service) console(a runs.JobResult) string {
	if a.JobID == "" {
		return ""
	}
	if s.dataflow != "" {
		return fmt.Sprintf("%s/v1b3/projects/%s/locations/%s/jobs/%s", strings.TrimSuffix(s.dataflow, "/"), url.PathEscape(a.Project), url.PathEscape(a.Location), url.PathEscape(a.JobID))
	}
	return fmt.Sprintf("https://console.cloud.google.com/dataflow/jobs/%s/%s?project=%s", url.PathEscape(a.Location), url.PathEscape(a.JobID), url.QueryEscape(a.Project))
}

func isNotFound(err error) bool {
	var notFound *serviceerror.NotFound
	return errors.As(err, &notFound)
}
