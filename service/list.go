package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// Terminated is the outcome of a run that somebody ended without letting it stop its jobs: their own workflows do that then.
const Terminated runs.Outcome = "terminated"

// Run is what is known of a run without reading its history.
type Run struct {
	RunID string `json:"runId"` // Temporal's workflow ID
	// Execution is Temporal's run ID: it tells executions under one run ID apart.
	Execution string       `json:"execution"`
	Pipeline  string       `json:"pipeline"`
	Key       string       `json:"key"`
	Outcome   runs.Outcome `json:"outcome"`
	Begun     time.Time    `json:"begun,omitzero"`
	Ended     time.Time    `json:"ended,omitzero"` // zero: it is not over
	Purpose   string       `json:"purpose,omitempty"`
	Owner     string       `json:"owner,omitempty"`
	Identity  string       `json:"identity,omitempty"` // of the event that started it
	// Config is the version of the pipelines file that the run keeps to its end.
	Config pipeline.Version `json:"config,omitzero"`
	// Workflow is the type of the user's own workflow that the run is; empty for a run of steps.
	Workflow string `json:"workflow,omitempty"`
}

// Duration is how long the run took, or has taken by now.
func (r Run) Duration(now time.Time) time.Duration {
	if r.Begun.IsZero() {
		return 0
	}
	if !r.Ended.IsZero() {
		now = r.Ended
	}
	return max(now.Sub(r.Begun), 0)
}

// Filter says which runs List is to return. The zero value means the newest of all.
type Filter struct {
	Pipeline string         // empty: of every pipeline
	Outcomes []runs.Outcome // of those that Outcomes names; none: all
	Since    time.Time      // begun then or later; zero: no bound
	Until    time.Time      // begun before; zero: no bound
	Limit    int            // at most so many; zero: 50
}

const (
	defaultLimit = 50
	maxPageSize  = 200
)

// statuses are Temporal's words for outcomes.
var statuses = map[runs.Outcome]enumspb.WorkflowExecutionStatus{
	runs.OutcomeRunning:   enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
	runs.OutcomeSucceeded: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED,
	runs.OutcomeFailed:    enumspb.WORKFLOW_EXECUTION_STATUS_FAILED,
	runs.OutcomeCancelled: enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED,
	runs.OutcomeTimedOut:  enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT,
	Terminated:            enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED,
}

func outcomeOf(status enumspb.WorkflowExecutionStatus) runs.Outcome {
	for outcome, s := range statuses {
		if s == status {
			return outcome
		}
	}
	return runs.OutcomeRunning // continued as new, which a reader sees as one run
}

// Outcomes are those that Filter knows. That a run ended as duplicate or key-taken is known of those whose namespace has our
// search attributes; others of them are succeeded to a list.
func Outcomes() []runs.Outcome {
	return []runs.Outcome{
		runs.OutcomeRunning, runs.OutcomeSucceeded, runs.OutcomeFailed, runs.OutcomeCancelled, runs.OutcomeTimedOut, Terminated,
		runs.OutcomeDuplicate, runs.OutcomeKeyTaken,
	}
}

// statusOf is Temporal's word for an outcome.
func statusOf(o runs.Outcome) (enumspb.WorkflowExecutionStatus, bool) {
	if yielded(o) {
		o = runs.OutcomeSucceeded // what launches nothing is completed, too
	}
	status, ok := statuses[o]
	return status, ok
}

// yielded says that a run with the outcome launched nothing, because another has its key.
func yielded(o runs.Outcome) bool { return o == runs.OutcomeDuplicate || o == runs.OutcomeKeyTaken }

var pipelineNameRE = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)

// Check says what is wrong with the filter.
func (f Filter) Check() error {
	if f.Pipeline != "" && !pipelineNameRE.MatchString(f.Pipeline) {
		return fmt.Errorf("%q is no pipeline's name: lower-case letters, digits and -, from a letter on", f.Pipeline)
	}
	for _, o := range f.Outcomes {
		if _, ok := statusOf(o); !ok {
			return fmt.Errorf("%q is no outcome of a run: use one of %v", o, Outcomes())
		}
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		return fmt.Errorf("no run begins both since %s and until %s", f.Since.Format(time.RFC3339), f.Until.Format(time.RFC3339))
	}
	if f.Limit < 0 {
		return errors.New("the limit is negative")
	}
	return nil
}

// query is the filter in the language of Temporal's visibility. It goes by run IDs and states, which every namespace
// indexes, not by our search attributes: those may not be registered, the user's own workflows never have them, and a run
// that no worker has seen yet, which is the one to look for when none works, has none either.
//
// Source: https://docs.temporal.io/list-filter
func (f Filter) query(deployment string) string {
	prefix := deployment + "/"
	if f.Pipeline != "" {
		prefix += f.Pipeline + "/"
	}
	terms := []string{"WorkflowId STARTS_WITH " + quoted(prefix)}
	if len(f.Outcomes) == 0 {
		terms = append(terms, "ExecutionStatus != 'ContinuedAsNew'")
	} else {
		var states []string
		for _, o := range f.Outcomes {
			status, _ := statusOf(o) // Check saw to it
			if state := "ExecutionStatus = " + quoted(status.String()); !slices.Contains(states, state) {
				states = append(states, state)
			}
		}
		terms = append(terms, "("+strings.Join(states, " OR ")+")")
	}
	if !f.Since.IsZero() {
		terms = append(terms, "StartTime >= "+quoted(f.Since.UTC().Format(time.RFC3339Nano)))
	}
	if !f.Until.IsZero() {
		terms = append(terms, "StartTime < "+quoted(f.Until.UTC().Format(time.RFC3339Nano)))
	}
	return strings.Join(terms, " AND ")
}

// quoted makes a string literal of the query language.
func quoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// Listing is an answer of List.
type Listing struct {
	Runs []Run `json:"runs"` // newest first
	// More says that there are runs beyond the limit.
	More bool `json:"more,omitempty"`
}

// List returns the runs that the filter lets through, newest first. Temporal's visibility may lag some seconds behind.
func (s *Service) List(ctx context.Context, f Filter) (Listing, error) {
	if err := f.Check(); err != nil {
		return Listing{}, err
	}
	limit := cmp.Or(f.Limit, defaultLimit)
	found, more, err := s.list(ctx, f.query(s.deployment), limit, func(r Run) bool { return len(f.Outcomes) == 0 || slices.Contains(f.Outcomes, r.Outcome) })
	if err != nil {
		return Listing{}, fmt.Errorf("list runs: %w", err)
	}
	slices.SortStableFunc(found, func(a, b Run) int { return b.Begun.Compare(a.Begun) })
	return Listing{Runs: found, More: more}, nil
}

// list returns up to limit runs of those that are wanted.
func (s *Service) list(ctx context.Context, query string, limit int, wanted func(Run) bool) (found []Run, more bool, err error) {
	found = []Run{}
	err = s.each(ctx, query, min(limit+1, maxPageSize), func(page []Run) bool {
		for i := range page {
			switch {
			case !wanted(page[i]):
			case len(found) == limit:
				more = true
				return false
			default:
				found = append(found, page[i])
			}
		}
		return true
	})
	if err != nil {
		return nil, false, err
	}
	return found, more, nil
}

// each gives the runs that a query finds, a page at a time, until page says no.
func (s *Service) each(ctx context.Context, query string, pageSize int, page func([]Run) bool) error {
	request := &workflowservice.ListWorkflowExecutionsRequest{Namespace: s.namespace, Query: query, PageSize: int32(pageSize)}
	for {
		callCtx, cancel := call(ctx)
		answer, err := s.temporal.ListWorkflow(callCtx, request)
		cancel()
		if err != nil {
			return fmt.Errorf("ask Temporal for %s: %w", query, err)
		}
		found := make([]Run, 0, len(answer.GetExecutions()))
		for _, info := range answer.GetExecutions() {
			if r, ok := s.run(info); ok { // else it is a sweep's
				found = append(found, r)
			}
		}
		if !page(found) {
			return nil
		}
		if request.NextPageToken = answer.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return nil
		}
	}
}

// run reads what Temporal tells of a workflow; ok is false when it is no run of the deployment's.
func (s *Service) run(info *workflowpb.WorkflowExecutionInfo) (r Run, ok bool) {
	id := info.GetExecution().GetWorkflowId()
	deployment, name, key, _, ok := runs.ParseRunID(id)
	if !ok || deployment != s.deployment {
		return Run{}, false
	}
	r = Run{
		RunID: id, Execution: info.GetExecution().GetRunId(), Pipeline: name, Key: key,
		Outcome: outcomeOf(info.GetStatus()),
	}
	if t := info.GetStartTime(); t != nil {
		r.Begun = t.AsTime()
	}
	if t := info.GetCloseTime(); t != nil && r.Outcome.Over() {
		r.Ended = t.AsTime()
	}
	if kind := info.GetType().GetName(); kind != runs.TypeRun && kind != runs.TypeStreamingRun {
		r.Workflow = kind
	}
	// Such a run is completed to Temporal. Only one that is over has its outcome there for good: one that was ended from outside
	// left what it said before.
	var outcome runs.Outcome
	if r.Outcome == runs.OutcomeSucceeded && s.read(info.GetSearchAttributes().GetIndexedFields()[runs.AttrOutcome.GetName()], &outcome) && yielded(outcome) {
		r.Outcome = outcome
	}
	memo := info.GetMemo().GetFields()
	s.read(memo[runs.MemoKey], &r.Key)
	s.read(memo[runs.MemoPurpose], &r.Purpose)
	s.read(memo[runs.MemoOwner], &r.Owner)
	s.read(memo[runs.MemoIdentity], &r.Identity)
	s.read(memo[runs.MemoConfig], &r.Config)
	return r, true
}

// read decodes a payload into v, which keeps its value when there is none that can be read: a workflow of this ID that
// something else started has no memo of ours.
func (s *Service) read(p *commonpb.Payload, v any) bool {
	return p != nil && s.converter.FromPayload(p, v) == nil
}

// ErrNotFound is what errors.Is finds where there is no such run.
var ErrNotFound = errors.New("no such run")

// AmbiguousError says that the beginning of a run ID is that of several.
type AmbiguousError struct {
	Ref  string
	IDs  []string // some of them
	More bool     // there are others
}

// Error names the runs.
func (e *AmbiguousError) Error() string {
	text := fmt.Sprintf("%s is the beginning of several run IDs: say more of it:\n  %s", e.Ref, strings.Join(e.IDs, "\n  "))
	if e.More {
		text += "\n  …"
	}
	return text
}

// find returns the workflow ID that a user means by ref: a run ID with or without the deployment before it, PIPELINE/KEY, or the
// beginning of a run ID that no other has. What names a run in full means that one, also where Temporal has forgotten it: then it is
// described as the ledger has it, where there is one. Its errors are ErrNotFound or an *AmbiguousError where Temporal and the ledger answer.
func (s *Service) find(ctx context.Context, ref string) (id string, archived *Description, err error) {
	id, err = s.inFull(ctx, ref)
	if !errors.Is(err, ErrNotFound) {
		return id, nil, err
	}
	unknown := err
	if s.ledger != nil {
		d, err := s.archived(ctx, ref)
		if !errors.Is(err, ErrNotFound) {
			return "", &d, err
		}
		unknown = err
	}
	id, err = s.beginning(ctx, ref)
	if errors.Is(err, ErrNotFound) {
		err = unknown
	}
	return id, nil, err
}

// findToChange is find for what changes the run. A ref that could name a run in full may be one that is forgotten: another run that
// only begins so is named, and not taken.
func (s *Service) findToChange(ctx context.Context, ref string) (id string, archived *Description, err error) {
	id, archived, err = s.find(ctx, ref)
	if err != nil || archived != nil {
		return id, archived, err
	}
	if whole := s.candidates(ref); len(whole) > 0 && !slices.Contains(whole, id) {
		return "", nil, fmt.Errorf("%w: %s; the run %s begins so: name it in full if you mean that one", ErrNotFound, ref, id)
	}
	return id, nil, nil
}

// inFull finds the run whose whole ID, or pipeline and key, ref is.
func (s *Service) inFull(ctx context.Context, ref string) (string, error) {
	for _, id := range s.candidates(ref) {
		callCtx, cancel := call(ctx)
		_, err := s.temporal.DescribeWorkflowExecution(callCtx, id, "")
		cancel()
		if err == nil {
			return id, nil
		}
		if !isNotFound(err) {
			return "", fmt.Errorf("ask Temporal for workflow %s: %w", id, err)
		}
	}
	return "", fmt.Errorf("%w: %s in deployment %s, namespace %s (penstock runs lists them; Temporal forgets a run when the namespace's retention has passed)", ErrNotFound, ref, s.deployment, s.namespace)
}

// beginning finds the one run whose ID begins with ref.
func (s *Service) beginning(ctx context.Context, ref string) (string, error) {
	prefix := s.deployment + "/" + strings.TrimPrefix(ref, s.deployment+"/")
	const most = 10
	found, more, err := s.list(ctx, "WorkflowId STARTS_WITH "+quoted(prefix), 5*most, func(Run) bool { return true })
	if err != nil {
		return "", fmt.Errorf("find run %s: %w", ref, err)
	}
	var ids []string
	for _, r := range found {
		if !slices.Contains(ids, r.RunID) {
			ids = append(ids, r.RunID)
		}
	}
	switch len(ids) {
	case 0:
		return "", fmt.Errorf("%w: no run ID begins with %s", ErrNotFound, ref)
	case 1:
		if !more {
			return ids[0], nil
		}
	}
	more = more || len(ids) > most
	return "", &AmbiguousError{Ref: ref, IDs: ids[:min(len(ids), most)], More: more}
}

// candidates are the run IDs that ref can spell out.
func (s *Service) candidates(ref string) []string {
	var ids []string
	add := func(id string) {
		if d, _, _, _, ok := runs.ParseRunID(id); ok && d == s.deployment && printable(id) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	add(ref)
	add(s.deployment + "/" + ref)
	for _, spelled := range []string{strings.TrimPrefix(ref, s.deployment+"/"), ref} {
		if name, key, ok := strings.Cut(spelled, "/"); ok && name != "" && key != "" {
			add(runs.RunID(s.deployment, name, key))
		}
	}
	return ids
}

// printable says whether Temporal's client takes the ID.
func printable(id string) bool {
	return strings.IndexFunc(id, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0
}
