package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// RetryRequest says how to run a run again.
type RetryRequest struct {
	// From is a step to begin again from though it is finished: it and every step that needs it. Empty: the steps that are
	// not finished run, and no others.
	From string
	// SameConfig keeps the version of the pipelines file that the run had. Otherwise it runs by that of Pipelines.
	SameConfig bool
	// Pipelines are the current ones; not needed with SameConfig.
	Pipelines *pipeline.Set
	// Event is the event that started the run, where the run did not keep it and the pipelines file has changed.
	Event *events.Event
	// Wait waits for what is still open instead of failing with an *OpenError.
	Wait bool
}

// What a retry does with a step.
const (
	StepKept      = "kept"      // it is finished
	StepContinues = "continues" // its last attempt, not known to be over, goes on under its own name
	StepRuns      = "runs"      // in a new attempt
)

// Retried is an answer of Retry.
type Retried struct {
	RunID     string `json:"runId"`
	Execution string `json:"execution"` // that now runs
	// Previous is the execution that it follows.
	Previous string           `json:"previous"`
	Config   pipeline.Version `json:"config"`
	Steps    []RetriedStep    `json:"steps"` // in the order of the pipelines file
	// Notes are what a reader should know besides.
	Notes []string `json:"notes,omitempty"`
}

// RetriedStep is what a retry does with a step.
type RetriedStep struct {
	Name string `json:"name"`
	// Action is kept, continues or runs; empty: only the worker will know, as a note says.
	Action string `json:"action,omitempty"`
	// Attempt is the number of the attempt that is to come or to go on; of a step that is kept, its last.
	Attempt int `json:"attempt,omitempty"`
}

// OpenError says that a run cannot be retried yet.
type OpenError struct {
	RunID string
	Open  []string // workflow IDs of the run and of jobs
}

// Error names what is open.
func (e *OpenError) Error() string {
	return fmt.Sprintf("run %s cannot be retried while these are open (cancel the run, or --wait until they end):\n  %s", e.RunID, strings.Join(e.Open, "\n  "))
}

// Retry runs the run that ref means again, under its run ID. Finished steps are not run again, attempt numbers go on, and
// an attempt whose job is not known to be over goes on under its own name: so no job is launched beside another. Nothing is
// changed unless the error is nil.
//
// What may only be unknown now, because the run or a workflow of its jobs is open, is an *OpenError. ref is as for Cancel.
func (s *Service) Retry(ctx context.Context, ref string, q RetryRequest) (Retried, error) {
	id, archived, err := s.findToChange(ctx, ref)
	switch {
	case err != nil:
		return Retried{}, err
	case archived != nil:
		return Retried{}, forgotten(archived)
	}
	for {
		p, err := s.past(ctx, id)
		if err != nil {
			return Retried{}, fmt.Errorf("retry run %s: %w", id, err)
		}
		if len(p.open) == 0 {
			return s.again(ctx, p, q)
		}
		if !q.Wait {
			return Retried{}, &OpenError{RunID: id, Open: p.open}
		}
		for _, open := range p.open {
			if err := s.closed(ctx, open); err != nil {
				return Retried{}, fmt.Errorf("wait for workflow %s to end: %w", open, err)
			}
		}
	}
}

// forgotten says why a run cannot be retried that only the ledger knows, and what can be done. The ledger holds neither the
// event nor the launches, so a retry would have to guess whether it runs the same thing.
func forgotten(d *Description) error {
	text := fmt.Sprintf("retry run %s: Temporal has forgotten it, and the ledger, by which it ended as %s at %s, keeps neither its event nor what it launched; ", d.RunID, d.Outcome, d.Ended.UTC().Format(time.RFC3339))
	if bucket, name, _, ok := finalized(d.Identity); ok {
		text += fmt.Sprintf("write its object gs://%s/%s anew, which is a new event and so a new run", bucket, name)
	} else {
		text += "have its source send the event anew, with another identity than " + d.Identity
	}
	return fmt.Errorf("%w: %s", ErrForgotten, text)
}

// ErrForgotten is what errors.Is finds where only the ledger knows a run any more.
var ErrForgotten = errors.New("the run is too old")

// closed waits until a workflow is closed, whichever way.
func (s *Service) closed(ctx context.Context, id string) error {
	err := s.temporal.GetWorkflow(ctx, id, "").Get(ctx, nil)
	var end *temporal.WorkflowExecutionError
	if err == nil || errors.As(err, &end) || isNotFound(err) {
		return nil
	}
	return err
}

// again starts the next execution of a run that is over.
func (s *Service) again(ctx context.Context, p *past, q RetryRequest) (Retried, error) {
	notes := s.learn(ctx, p)
	in, steps, err := p.next(q)
	if err != nil {
		return Retried{}, fmt.Errorf("retry run %s: %w", p.run.RunID, err)
	}
	input, err := s.converter.ToPayload(in)
	if err != nil {
		return Retried{}, fmt.Errorf("retry run %s: encode its input: %w", p.run.RunID, err)
	}
	const most = 3 << 20 / 2 // below the 2 MB that Temporal takes
	if size := len(input.GetData()); size > most {
		return Retried{}, fmt.Errorf("retry run %s: its input would be %d bytes, past the %d that a workflow can be given, for what its attempts left", p.run.RunID, size, most)
	}
	ctx, cancel := call(ctx)
	defer cancel()
	// A duplicate of a closed run is what a person asks for here; of an open one it is refused in any case.
	started, err := s.temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: p.run.RunID, TaskQueue: runs.TaskQueue(in.Deployment),
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		Memo: runs.Memo(runs.About{
			Pipeline: in.Pipeline, Purpose: in.Purpose, Owner: in.Owner, Key: in.Key, Identity: in.Identity, Config: in.Config,
		}),
		StaticSummary: runs.Summary(in.Purpose),
	}, runs.TypeOf(in.Steps), in)
	var already *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case errors.As(err, &already):
		return Retried{}, &OpenError{RunID: p.run.RunID, Open: []string{p.run.RunID}} // somebody else retried it just now
	case err != nil:
		return Retried{}, fmt.Errorf("retry run %s: start it: %w", p.run.RunID, err)
	}
	return Retried{RunID: p.run.RunID, Execution: started.GetRunID(), Previous: p.run.Execution, Config: in.Config, Steps: steps, Notes: notes}, nil
}

// learn asks the ledger what the run left that has the key, where the one that is retried found it taken: the worker goes on from that
// once it has the key in that one's place. The notes say where it cannot be known here.
func (s *Service) learn(ctx context.Context, p *past) (notes []string) {
	if p.taken == nil {
		return nil
	}
	unknown := func(why string) []string {
		p.unknown = true
		return []string{"which steps are kept, and with which attempts the others go on, the worker takes from the record of the run that has the key: " + why}
	}
	if s.ledger == nil {
		return unknown("no ledger is known here (PENSTOCK_LEDGER)")
	}
	ctx, cancel := call(ctx)
	defer cancel()
	entry, err := s.ledger.Read(ctx, p.input.Deployment, p.input.Pipeline, p.input.Key)
	if err == nil && entry.Record == nil && entry.Claim.LastRecord != "" {
		var record ledger.Record // of one that had the key before
		record, err = s.ledger.Record(ctx, p.input.Deployment, p.input.Pipeline, p.input.Key, entry.Claim.LastRecord)
		entry.Record = &record
	}
	switch {
	case err != nil && !errors.Is(err, ledger.ErrNotFound):
		return unknown(fmt.Sprintf("the ledger %s does not tell of it: %v", s.ledger, err))
	case err == nil && entry.Record != nil:
		p.known, p.retried = map[string]runs.StepResult{}, entry.Record.Chain == p.chain
		for _, step := range entry.Record.Steps {
			p.known[step.Name] = step
		}
	}
	return nil
}

// past is what the executions of a run so far have left.
type past struct {
	run   Run
	chain string // Temporal's first run ID of the chain that may hold the key's claim
	taken *runs.Taken
	input runs.RunInput
	// earlier has every step that ever was of the run, with all its attempts.
	earlier map[string]runs.StepResult
	// doubtful are the steps whose last attempt may have a job that is not over.
	doubtful map[string]bool
	open     []string // workflow IDs
	// known is what the ledger says of each step of the run that has the key, and retried that it says so of the one whose place the
	// retry takes; unknown says that it cannot be asked.
	known            map[string]runs.StepResult
	retried, unknown bool
}

// past reads the newest execution of a run, and what its jobs' workflows have to add.
func (s *Service) past(ctx context.Context, id string) (*past, error) {
	callCtx, cancel := call(ctx)
	answer, err := s.temporal.DescribeWorkflowExecution(callCtx, id, "")
	cancel()
	if err != nil {
		return nil, fmt.Errorf("ask Temporal for it: %w", err)
	}
	info := answer.GetWorkflowExecutionInfo()
	r, ok := s.run(info)
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: workflow %s is no run of deployment %s", ErrNotFound, id, s.deployment)
	case r.Workflow != "":
		return nil, fmt.Errorf("it is a workflow of your own, of type %s, which Penstock started and knows no more of: start it again yourself", r.Workflow)
	}
	h, err := s.history(ctx, r.RunID, r.Execution)
	if err != nil {
		return nil, err
	}
	p, err := h.past(r)
	if err != nil {
		return nil, err
	}
	p.chain = info.GetFirstRunId()
	switch {
	case p.taken != nil:
		p.chain = p.taken.Chain // the key is another chain's, to whose place the retry comes
	case p.input.Retries != "" && !h.claimed:
		p.chain = p.input.Retries // a retry that never had the key: it is still the one's that it was to follow
	case p.chain == "":
		p.chain = r.Execution
	}
	if !r.Outcome.Over() {
		p.open = append(p.open, r.RunID)
	}
	for i := range p.input.Steps {
		if err := s.walk(ctx, p, &p.input.Steps[i]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// past is what a run's own history tells of it.
func (h *history) past(r Run) (*past, error) {
	if h.runInput == nil {
		return nil, errors.New("its input cannot be read, so what it ran is not known")
	}
	in := *h.runInput
	if in.Version > runs.RecordVersion {
		return nil, fmt.Errorf("its input is of version %d, and this program knows up to %d: use a newer one", in.Version, runs.RecordVersion)
	}
	result, ok := h.runResult()
	if !ok {
		result, _ = h.reconstruct()
	}
	p := &past{run: r, input: in, taken: result.Taken, earlier: map[string]runs.StepResult{}, doubtful: map[string]bool{}}
	maps.Copy(p.earlier, in.Earlier) // also of steps that are no more: their numbers are used up
	for _, step := range result.Steps {
		step.Attempts = slices.Clone(step.Attempts)
		p.earlier[step.Name] = step
	}
	for name := range p.earlier {
		p.settle(name)
	}
	return p, nil
}

// walk asks for the workflows of a step's jobs from its last known attempt on. The names of attempts have no hole, so the
// first one without a workflow is one that never was.
func (s *Service) walk(ctx context.Context, p *past, step *pipeline.PlannedStep) error {
	location := p.input.Location
	if step.Job.Location != "" {
		location = step.Job.Location
	}
	last, known := p.earlier[step.Name].Last()
	number := 1
	if known {
		number = last.Attempt
	}
	for ; number <= runs.MaxAttempt; number++ {
		id := runs.JobWorkflowID(p.input.Project, location, runs.JobName(p.input.Deployment, p.input.Pipeline, p.input.Key, step.Name, number))
		if known && number == last.Attempt {
			if over(last) {
				continue // its workflow has reported
			}
			if last.Project != "" && last.Location != "" && last.JobName != "" {
				id = runs.JobWorkflowID(last.Project, last.Location, last.JobName)
			}
		}
		callCtx, cancel := call(ctx)
		answer, err := s.temporal.DescribeWorkflowExecution(callCtx, id, "")
		cancel()
		switch {
		case isNotFound(err) && known && number == last.Attempt:
			continue // Temporal forgot it before its run
		case isNotFound(err):
			return nil
		case err != nil:
			return fmt.Errorf("ask Temporal for workflow %s: %w", id, err)
		}
		if !outcomeOf(answer.GetWorkflowExecutionInfo().GetStatus()).Over() {
			p.open = append(p.open, id)
		}
		h, err := s.history(ctx, id, answer.GetWorkflowExecutionInfo().GetExecution().GetRunId())
		if err != nil {
			return err
		}
		p.attempt(step.Name, number, h)
	}
	return nil
}

// attempt takes in what the workflow of a step's attempt tells of it.
func (p *past) attempt(name string, number int, h *history) {
	r, ok := h.jobResult()
	if !ok || r.Attempt != number {
		return
	}
	reported := h.reported()
	if !reported {
		r.Outcome = runs.OutcomeRunning // how its workflow ended says nothing of the job
	}
	step := p.earlier[name]
	step.Name, step.Outcome, step.Error = name, r.Outcome, ""
	if reported {
		step.Error = r.Error
	}
	if n := len(step.Attempts); n > 0 && step.Attempts[n-1].Attempt == number {
		step.Attempts[n-1] = r
	} else {
		step.Attempts = append(step.Attempts, r)
	}
	p.earlier[name] = step
	p.settle(name)
}

// reported says that a job's workflow ended with its own account of the attempt.
func (h *history) reported() bool {
	var r runs.JobResult
	return h.closed && h.s.read(h.result, &r) && r.JobName != "" && !r.HandedOver
}

// over says that an attempt's job is known to be over. A state that was seen, but not reported by the attempt's workflow, is
// not enough: who saw it did not conclude from it whether the step succeeded.
func over(r runs.JobResult) bool {
	return r.JobID != "" && dataflow.State(r.State).Terminal() && reportedOutcome(r.Outcome) && !r.HandedOver
}

// reportedOutcome says whether an outcome is one that a job's workflow gives itself, not one that it met.
func reportedOutcome(o runs.Outcome) bool {
	switch o {
	case runs.OutcomeSucceeded, runs.OutcomeFailed, runs.OutcomeTimedOut, runs.OutcomeCancelled:
		return true
	}
	return false
}

// settle says of a step's last attempt whether it goes on. One that does loses its state: what an execution finds in its
// input as terminal it does not look at again.
func (p *past) settle(name string) {
	step := p.earlier[name]
	last, ok := step.Last()
	if !ok || over(last) {
		delete(p.doubtful, name)
		return
	}
	last.State, last.HandedOver = "", false
	step.Attempts[len(step.Attempts)-1] = last
	p.earlier[name] = step
	if p.doubtful[name] = last.JobID != "" || !reportedOutcome(last.Outcome); !p.doubtful[name] {
		delete(p.doubtful, name) // Dataflow would not take its launch, or no job was seen for as long as it takes
	}
}

// next is the input of the next execution, and what it does with each step.
func (p *past) next(q RetryRequest) (runs.RunInput, []RetriedStep, error) {
	in := p.input
	switch {
	case p.taken != nil && !p.taken.OfferRetry:
		return in, nil, fmt.Errorf("it launched nothing, because run %s has its key, and there is no doubt of that one: %s", p.taken.RunID, p.taken.Reason)
	case p.taken == nil && p.run.Outcome == runs.OutcomeSucceeded && q.From == "":
		return in, nil, errors.New("it succeeded, so there is nothing to run again; --from STEP begins again at a step that is finished")
	}
	if !q.SameConfig {
		if err := q.render(&in); err != nil {
			return in, nil, err
		}
		if err := p.fits(&in); err != nil {
			return in, nil, err
		}
	}
	in.Earlier, in.Retries = maps.Clone(p.earlier), p.chain
	if q.From != "" {
		if !slices.ContainsFunc(in.Steps, func(s pipeline.PlannedStep) bool { return s.Name == q.From }) {
			return in, nil, fmt.Errorf("it has no step %q; its steps are %s", q.From, stepNames(in.Steps))
		}
		for _, name := range dependants(in.Steps, q.From) {
			if step, ok := in.Earlier[name]; ok {
				step.Outcome, step.Error, step.Waiting = runs.OutcomePending, "", ""
				in.Earlier[name] = step
			}
		}
	}
	steps := make([]RetriedStep, 0, len(in.Steps))
	idle := true
	for i := range in.Steps {
		step := RetriedStep{Name: in.Steps[i].Name, Action: StepRuns, Attempt: 1}
		earlier := p.goesOn(step.Name, in.Earlier[step.Name])
		last, begun := earlier.Last()
		switch {
		case p.unknown:
			step.Action, step.Attempt = "", 0
		case earlier.Outcome == runs.OutcomeSucceeded:
			step.Action, step.Attempt = StepKept, last.Attempt
		case begun && last.JobID != "" && dataflow.State(last.State).Terminal(): // the state of one that is not over was taken away
			if step.Attempt = last.Attempt + 1; step.Attempt > runs.MaxAttempt {
				return in, nil, fmt.Errorf("step %s has used up its %d attempts", step.Name, runs.MaxAttempt)
			}
		case begun:
			step.Action, step.Attempt = StepContinues, last.Attempt
		}
		idle = idle && step.Action == StepKept
		steps = append(steps, step)
	}
	if idle {
		return in, nil, errors.New("every step is finished, so there is nothing to run again; --from STEP begins again at one")
	}
	return in, steps, nil
}

// goesOn is what a step begins with at the worker, which takes from the ledger what the run's input does not know.
func (p *past) goesOn(name string, step runs.StepResult) runs.StepResult {
	last, ok := p.known[name].Last()
	known, begun := step.Last()
	if !ok || begun && known.Attempt >= last.Attempt {
		return step
	}
	if p.retried && !begun && step.Outcome != runs.OutcomePending && p.known[name].Outcome == runs.OutcomeSucceeded {
		step.Outcome = runs.OutcomeSucceeded
	}
	step.Attempts = append(slices.Clip(step.Attempts), last)
	return step
}

// render makes the plan anew from the current pipelines file and the event.
func (q *RetryRequest) render(in *runs.RunInput) error {
	const instead = "--same-config runs it as it was"
	if q.Pipelines == nil {
		return errors.New("the current pipelines are not known; " + instead)
	}
	current := q.Pipelines.Pipeline(in.Pipeline)
	if current == nil {
		return fmt.Errorf("there is no pipeline %s any more; %s", in.Pipeline, instead)
	}
	if current.Version.Hash == in.Config.Hash {
		return nil // and so is the plan
	}
	event := in.Event
	if q.Event != nil {
		event = q.Event
	}
	if event == nil {
		return fmt.Errorf("its pipelines file has changed since, and the run did not keep its event, which the new one is to be filled in from: give it with --event FILE (dead letters and logs of the sender may have it: %s); %s", in.Identity, instead)
	}
	for _, m := range q.Pipelines.Match(event) {
		if m.Pipeline != current {
			continue
		}
		plan, skip, err := m.Evaluate()
		switch {
		case err != nil:
			return fmt.Errorf("by its current pipelines file: %w; %s", err, instead)
		case skip != nil:
			return fmt.Errorf("its current pipelines file would skip the event: %s; %s", skip.Reason, instead)
		case plan.Identity != in.Identity:
			return fmt.Errorf("it was started by the event %s, and this is %s; %s", in.Identity, plan.Identity, instead)
		case plan.Key != in.Key:
			return fmt.Errorf("by its current pipelines file it would have the key %q, and be another run; %s", plan.Key, instead)
		case len(plan.Steps) == 0:
			return fmt.Errorf("its current pipelines file has no steps any more; %s", instead)
		}
		in.Steps, in.Vars, in.Config, in.Purpose, in.Owner, in.Dedupe = plan.Steps, plan.Vars, plan.Version, plan.Purpose, plan.Owner, plan.Dedupe
		if in.Event == nil && event.Kind == events.KindStorage {
			in.Event = event
		}
		return nil
	}
	return fmt.Errorf("its current pipelines file does not want the event %s; %s", event.Identity(), instead)
}

// fits says whether the attempts that are to go on can do so by a new plan: a job is found again only where it was launched,
// and taken for the attempt's only when it was launched with the same request.
func (p *past) fits(in *runs.RunInput) error {
	for _, name := range slices.Sorted(maps.Keys(p.doubtful)) {
		last, _ := p.earlier[name].Last()
		was := slices.IndexFunc(p.input.Steps, func(s pipeline.PlannedStep) bool { return s.Name == name })
		is := slices.IndexFunc(in.Steps, func(s pipeline.PlannedStep) bool { return s.Name == name })
		switch {
		case was < 0:
			continue // of a step that was gone before: nothing of this retry touches it
		case is < 0:
			return fmt.Errorf("its current pipelines file has no step %s any more, whose attempt %d (job %s) is not known to be over; --same-config runs it as it was", name, last.Attempt, last.JobName)
		case !sameJob(p.input.Steps[was].Job, in.Steps[is].Job):
			return fmt.Errorf("attempt %d of step %s (job %s) is not known to be over, and goes on; its current pipelines file has another launch for it: --same-config runs it as it was, or cancel the job and retry once it is over", last.Attempt, name, last.JobName)
		}
	}
	return nil
}

func sameJob(a, b pipeline.Job) bool {
	// Where in the file an expression stands makes no other job.
	strip := func(j pipeline.Job) (string, error) {
		j.Deferred = slices.Clone(j.Deferred)
		for i := range j.Deferred {
			j.Deferred[i].Position = pipeline.Position{}
		}
		text, err := json.Marshal(j)
		return string(text), err
	}
	one, err := strip(a)
	if err != nil {
		return false
	}
	other, err := strip(b)
	return err == nil && one == other
}

// dependants are a step and all that need it, however far.
func dependants(steps []pipeline.PlannedStep, from string) []string {
	found := []string{from}
	for i := 0; i < len(found); i++ {
		for _, s := range steps {
			if slices.Contains(s.Needs, found[i]) && !slices.Contains(found, s.Name) {
				found = append(found, s.Name)
			}
		}
	}
	return found
}

func stepNames(steps []pipeline.PlannedStep) string {
	names := make([]string, len(steps))
	for i := range steps {
		names[i] = steps[i].Name
	}
	return strings.Join(names, ", ")
}
