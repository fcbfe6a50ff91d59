package worker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// changeStopsWhatWas marks histories of runs that stop what an execution before them began.
const changeStopsWhatWas = "stops-what-was"

// ErrorRunFailed is the type of the application error that a failed run ends with;
// its details hold the runs.RunResult.
const ErrorRunFailed = "RunFailed"

// Run is the workflow of a run: it executes the steps of a pipeline for one key, as
// many at once as their needs allow, each as one child workflow an attempt.
//
// A step that fails for good fails the run: open steps are stopped and awaited
// first. Cancelling the run does the same.
func (w *Workflows) Run(ctx workflow.Context, in runs.RunInput) (runs.RunResult, error) {
	if in.Version > runs.RecordVersion {
		return runs.RunResult{}, temporal.NewNonRetryableApplicationError(
			fmt.Sprintf("run input of version %d; this worker knows up to %d: deploy the newer worker", in.Version, runs.RecordVersion), "Version", nil)
	}
	// Children are stopped by signal and awaited, so the run's own cancellation must
	// not reach them: after a reset the server would drop it in silence.
	open, _ := workflow.NewDisconnectedContext(ctx)
	info := workflow.GetInfo(ctx)
	r := &run{
		ctx: open, in: in, id: info.WorkflowExecution.ID,
		// (Temporal's test environment leaves FirstRunID empty; a server never does.)
		fresh: info.FirstRunID == "" || info.WorkflowExecution.RunID == info.FirstRunID,
		reset: info.FirstRunID != "" && info.WorkflowExecution.RunID != info.FirstRunID,
	}
	for _, s := range in.Steps {
		r.steps = append(r.steps, newStep(s, in.Earlier[s.Name]))
	}
	if err := workflow.SetQueryHandler(open, runs.QueryState, func() (runs.RunResult, error) { return r.result(), nil }); err != nil {
		return runs.RunResult{}, fmt.Errorf("set the query handler: %w", err)
	}
	var at surroundings
	if err := workflow.SideEffect(open, func(workflow.Context) any {
		return surroundings{Attributes: w.attributes(), Timing: w.timing, Ledger: w.Ledger, Sweep: true}
	}).Get(&at); err != nil {
		return runs.RunResult{}, fmt.Errorf("read a side effect: %w", err)
	}
	r.attributes, r.timing, r.sweep = at.Attributes, at.Timing.WithDefaults(), at.Sweep
	r.describe(runs.AttrPipeline.ValueSet(in.Pipeline), runs.AttrKey.ValueSet(short(in.Key)),
		runs.AttrConfig.ValueSet(in.Config.Hash), runs.AttrOutcome.ValueSet(string(runs.OutcomeRunning)))

	workflow.Go(open, func(c workflow.Context) {
		ctx.Done().Receive(c, nil)
		r.stopAll(runs.StopCancelled)
	})
	workflow.Go(open, r.listen)
	r.claim(at.Ledger)
	for _, s := range r.steps {
		workflow.Go(open, func(c workflow.Context) { r.execute(c, s) })
	}
	if err := workflow.Await(open, r.done); err != nil {
		return runs.RunResult{}, err
	}

	result := r.result()
	bound(&result)
	if at.Ledger && r.taken == nil {
		r.finish(&result)
	}
	r.describe(runs.AttrOutcome.ValueSet(string(result.Outcome)))
	switch result.Outcome {
	case runs.OutcomeSucceeded, runs.OutcomeDuplicate, runs.OutcomeKeyTaken:
		return result, nil
	case runs.OutcomeCancelled:
		return result, temporal.NewCanceledError(result)
	}
	return result, temporal.NewApplicationErrorWithOptions(result.Error, ErrorRunFailed,
		temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{result}})
}

// surroundings are what a run finds at its worker when it begins, as its history holds it.
type surroundings struct {
	Attributes bool        `json:"attributes"`
	Timing     runs.Timing `json:"timing"`
	Ledger     bool        `json:"ledger,omitempty"`
	// Sweep says that jobs' workflows ask the sweep for news. Runs that began before
	// there was one have it false.
	Sweep bool `json:"sweep,omitempty"`
}

// run is the state of one execution of Run.
type run struct {
	ctx   workflow.Context // not cancelled by the run's cancellation
	in    runs.RunInput
	id    string
	steps []*step // in the order of the file
	// fresh says that this is the key's first execution: no reset, no retry. Only
	// then is a job's name known to be new.
	fresh      bool
	attributes bool
	timing     runs.Timing
	sweep      bool
	stop       string      // why steps are being stopped, empty while they are not
	failure    string      // the first step's failure in words
	taken      *runs.Taken // the run that has the key, where this one must not go on
	holds      bool        // the ledger says that the key is this run's
	anew       time.Time   // when this run claimed a key whose claim had expired, to do all of it again; zero: it did not
	reset      bool        // an execution before this one may have come further
}

// step is the state of a step.
type step struct {
	pipeline.PlannedStep
	outcome  runs.Outcome
	waiting  string
	err      string
	attempts []runs.JobResult
	job      string // the job name of the attempt under way, empty between attempts
	running  bool   // a streaming step whose job runs: its dependants may start
	child    string // the workflow ID of the open child, empty between attempts
}

// newStep begins where an earlier execution for the key left off.
func newStep(p pipeline.PlannedStep, earlier runs.StepResult) *step {
	s := &step{PlannedStep: p, outcome: runs.OutcomePending, attempts: earlier.Attempts}
	if earlier.Outcome == runs.OutcomeSucceeded {
		s.outcome = runs.OutcomeSucceeded
	}
	return s
}

func (r *run) done() bool {
	for _, s := range r.steps {
		if !s.outcome.Over() {
			return false
		}
	}
	return true
}

// execute carries a step to its end.
func (r *run) execute(ctx workflow.Context, s *step) {
	if s.outcome.Over() {
		return
	}
	s.waiting = "the steps it needs"
	begins := r.await(ctx, func() bool { return r.ready(s) })
	if !begins && !r.stopsWhatWas(ctx) && !r.stopsWhatGoesOn(ctx, s) {
		r.end(s, runs.OutcomeSkipped, "")
		return
	}
	s.outcome = runs.OutcomeRunning
	attempt, first := s.next()
	first = first && r.fresh
	failures, refused := 0, 0 // refused for want of quota, which is not counted as a failure
	begun := workflow.Now(ctx)
	was := runs.JobResult{Outcome: runs.OutcomeSkipped}
	for {
		res := r.attempt(ctx, s, attempt, first)
		existed := res.JobID != ""
		switch {
		case !begins && !existed && res.Refusal != "":
			s.record(res) // which says what is there
			r.end(s, res.Outcome, res.Error)
			return
		case !begins && !existed:
			r.end(s, was.Outcome, was.Error) // nothing of it was there to stop, or nothing more
			return
		}
		s.record(res)
		wasOver := res.Adopted && !res.Ended.After(res.Begun) && attempt < runs.MaxAttempt
		usedUp := res.Refusal == refusalMismatch && res.NameUsed && attempt < runs.MaxAttempt
		followed := r.reset && (res.Outcome == runs.OutcomeFailed || res.Outcome == runs.OutcomeTimedOut) && res.Refusal == "" && attempt < runs.MaxAttempt
		switch {
		case (wasOver || usedUp) && r.stop == "" && r.doesAnew(ctx, res):
			// What the run before had done is to be done again, under the next name.
			first = false
			attempt++
			continue
		case res.Outcome == runs.OutcomeSucceeded:
			r.end(s, runs.OutcomeSucceeded, "")
			return
		case r.stop != "" && (wasOver && r.stopsWhatWas(ctx) || followed && r.stopsWhatFollows(ctx)):
			// Its job was over before this execution came to it: there may be a next one.
			begins, first, was = false, false, res
			attempt++
			continue
		case r.stop != "", res.Outcome == runs.OutcomeCancelled, !existed, res.Refusal != "", attempt == runs.MaxAttempt:
			// The run ends, somebody cancelled the job, or the next try would meet the same refusal.
			r.end(s, res.Outcome, res.Error)
			return
		}
		if res.Quota {
			refused++
		} else {
			failures++
		}
		if failures >= max(s.Retry.Attempts, 1) || res.Quota && r.outOfPatience(ctx, s, begun, refused) {
			r.end(s, res.Outcome, res.Error)
			return
		}
		wait := backoff(s.Retry, failures+refused)
		attempt++
		first = r.fresh
		s.waiting = fmt.Sprintf("the back-off of %v before attempt %d", wait, attempt)
		s.err = res.Error
		if r.sleep(ctx, wait) {
			if wasOver && r.stopsWhatWas(ctx) || followed && r.stopsWhatFollows(ctx) {
				// As above; the attempt that was waited for may be there.
				begins, first, was = false, false, runs.JobResult{Outcome: runs.OutcomeCancelled, Error: res.Error}
				continue
			}
			r.end(s, runs.OutcomeCancelled, res.Error)
			return
		}
	}
}

// changeExpiredClaim marks histories of runs that found jobs of a run whose claim had expired.
const changeExpiredClaim = "expired-claim"

// clocks is how much Dataflow's clock and a worker's may differ.
const clocks = 5 * time.Minute

// doesAnew says whether a job that was over when this run came to it is not this run's, but
// that of a run whose claim of the key had expired when this one made its own. (It is not
// told by what this execution has done: one before a reset may have launched.)
func (r *run) doesAnew(ctx workflow.Context, res runs.JobResult) bool {
	return !r.anew.IsZero() && !res.Created.IsZero() && res.Created.Before(r.anew.Add(-clocks)) &&
		workflow.GetVersion(ctx, changeExpiredClaim, workflow.DefaultVersion, 1) >= 1
}

// stopsWhatWas says whether a run that is being stopped looks for jobs of steps that it has
// not begun: an execution before it, of which a reset knows nothing, may have.
func (r *run) stopsWhatWas(ctx workflow.Context) bool {
	return !r.fresh && r.stop != stopTaken && workflow.GetVersion(ctx, changeStopsWhatWas, workflow.DefaultVersion, 1) >= 1
}

// changeStopsWhatFollows marks histories of runs that were reset and are being stopped, and
// look for the attempt after one that failed, which the execution before them may have begun.
const changeStopsWhatFollows = "stops-what-follows"

func (r *run) stopsWhatFollows(ctx workflow.Context) bool {
	return r.stop != stopTaken && workflow.GetVersion(ctx, changeStopsWhatFollows, workflow.DefaultVersion, 1) >= 1
}

// changeStopsWhatGoesOn marks histories of runs that stop the jobs of an execution before
// them also where the step has not begun in this one.
const changeStopsWhatGoesOn = "stops-what-goes-on"

// stopsWhatGoesOn says whether a run that is being stopped looks for the job of a step that
// it has not begun: an earlier execution left it an attempt that is not known to be over.
// Unless the key is this run's, the job is another's to stop.
func (r *run) stopsWhatGoesOn(ctx workflow.Context, s *step) bool {
	last, ok := s.lastAttempt()
	return ok && !terminal(last.State) && (r.in.Dedupe == nil || r.holds) && workflow.GetVersion(ctx, changeStopsWhatGoesOn, workflow.DefaultVersion, 1) >= 1
}

// How long a step has jobs fail for want of quota, one after the other (unless one attempt
// may take longer), and how many: what is too large for the quota stays so.
const (
	quotaPatience = 24 * time.Hour
	mostRefused   = 500
	// mostHistory is how many bytes of history they may fill: Temporal ends a run at 50 MiB.
	mostHistory = 30 << 20
)

// changeQuotaPatience marks histories of runs with that bound.
const changeQuotaPatience = "quota-patience"

func (r *run) outOfPatience(ctx workflow.Context, s *step, begun time.Time, refused int) bool {
	return (refused >= mostRefused || workflow.GetInfo(ctx).GetCurrentHistorySize() >= mostHistory || workflow.Now(ctx).Sub(begun) >= max(quotaPatience, s.Timeout)) && workflow.GetVersion(ctx, changeQuotaPatience, workflow.DefaultVersion, 1) >= 1
}

// next is the number of the step's next attempt, and whether its name may be new. An
// attempt whose job is not known to be over goes on under its own name.
func (s *step) next() (attempt int, first bool) {
	last, ok := s.lastAttempt()
	switch {
	case !ok:
		return 1, true
	case last.JobID != "" && terminal(last.State):
		return last.Attempt + 1, true
	}
	return last.Attempt, false
}

func (s *step) lastAttempt() (runs.JobResult, bool) {
	return runs.StepResult{Attempts: s.attempts}.Last()
}

// record keeps an attempt's result in place of what was known of it before.
func (s *step) record(res runs.JobResult) {
	if last, ok := s.lastAttempt(); ok && last.Attempt == res.Attempt {
		s.attempts[len(s.attempts)-1] = res
		return
	}
	s.attempts = append(s.attempts, res)
	// What a run tells is bounded, however many attempts it takes: of those that nobody
	// reads any more it keeps that they were, and how they ended.
	if i := len(s.attempts) - 1 - mostTold; i > 0 {
		a := &s.attempts[i]
		a.Metrics, a.Parameters, a.Note = nil, nil, ""
		if len(a.Error) > briefError {
			a.Error = strings.ToValidUTF8(a.Error[:briefError], "") + "…"
		}
	}
}

const (
	mostTold   = 20  // attempts of a step that are told in full, beside the first
	briefError = 200 // bytes of error that the others keep
)

// attempt runs the job's workflow until it reports the attempt's end. A workflow that
// ends without doing so (terminated, handed over) is started again under its ID: the
// same attempt goes on, and adopts its job.
func (r *run) attempt(ctx workflow.Context, s *step, attempt int, first bool) runs.JobResult {
	in := r.jobInput(ctx, s, attempt)
	id := runs.JobWorkflowID(in.Project, in.Location, in.JobName)
	kind := runs.TypeJob
	if s.Job.Streaming {
		kind = runs.TypeStreamingJob
	}
	childCtx := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:            id,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		ParentClosePolicy:     enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		WaitForCancellation:   true,
		StaticSummary:         fmt.Sprintf("%s, attempt %d of %s", s.Name, attempt, r.in.Pipeline),
	})
	// Set before the child is known to have started: its word that the job runs can be
	// in the same workflow task as its start.
	if len(s.Job.Deferred) > 0 {
		if size := encodedSize(in); size > mostResult && workflow.GetVersion(ctx, changeInputSize, workflow.DefaultVersion, 1) >= 1 {
			// Temporal would not take it, now or later, and the run would stand still.
			return runs.JobResult{
				Version: runs.RecordVersion, Outcome: runs.OutcomeFailed, Attempt: attempt, JobName: in.JobName, Refusal: refusalRender,
				Error: fmt.Sprintf("what its expressions use of the event and of earlier steps has %d bytes; Temporal takes %d: use less of it", size, mostResult),
			}
		}
	}
	s.job = in.JobName
	defer func() { s.job, s.running = "", false }()
	pause := firstBackoff
	var since time.Time // when the name's earlier workflow was first met
	for {
		in.First = first
		if s.running || r.stop != "" {
			in.Timeout = 0 // it has run in time, or is being stopped for another reason
		}
		s.waiting = fmt.Sprintf("job %s", in.JobName)
		f := workflow.ExecuteChildWorkflow(childCtx, kind, in)
		first = false
		err := f.GetChildWorkflowExecution().Get(ctx, nil)
		switch {
		case err == nil:
			s.child = id
			if r.stop != "" {
				r.signalStop(id)
			}
			var res runs.JobResult
			err = f.Get(ctx, &res)
			s.child = ""
			if err == nil && !res.HandedOver {
				return res
			}
			var app *temporal.ApplicationError
			if errors.As(err, &app) {
				// The workflow refused its input: it did nothing, and would do so again.
				return runs.JobResult{Version: runs.RecordVersion, Outcome: runs.OutcomeFailed, Attempt: attempt, JobName: in.JobName, Error: app.Error(), Refusal: refusalInvalid}
			}
		case temporal.IsWorkflowExecutionAlreadyStartedError(err):
			if since.IsZero() {
				since = workflow.Now(ctx)
			}
			s.waiting = fmt.Sprintf("the earlier workflow of job %s to hand over", in.JobName)
			r.takeOver(ctx, id, since)
		}
		// Not at once: a child that is terminated again and again must not spin.
		_ = workflow.Sleep(ctx, pause)
		pause = min(2*pause, mostBackoff)
	}
}

// changeInputSize marks histories of runs that fail a step whose input is too large.
const changeInputSize = "input-size"

// takeOver makes an open workflow under a job's ID, which an execution of the run
// before a reset left, close: it is asked to, and terminated when it does not.
func (r *run) takeOver(ctx workflow.Context, id string, since time.Time) {
	if workflow.Now(ctx).Sub(since) < r.timing.HandOver {
		// That it closed meanwhile is what is wanted.
		_ = workflow.SignalExternalWorkflow(ctx, id, "", runs.SignalHandOver, nil).Get(ctx, nil)
		return
	}
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: r.timing.Call,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 1},
	})
	if err := workflow.ExecuteActivity(ctx, activityEnd, id, "did not hand its job over to a new execution of "+r.id).Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Warn("the earlier workflow of a job could not be terminated; trying again", "workflowId", id, "error", err)
	}
}

// jobInput is the child's input but for First.
func (r *run) jobInput(ctx workflow.Context, s *step, attempt int) runs.JobInput {
	in := runs.JobInput{
		Version: runs.RecordVersion, Deployment: r.in.Deployment, Pipeline: r.in.Pipeline,
		RunID: r.id, Key: r.in.Key, Step: s.Name, Attempt: attempt,
		Project: r.in.Project, Location: r.in.Location,
		JobName: runs.JobName(r.in.Deployment, r.in.Pipeline, r.in.Key, s.Name, attempt),
		Job:     s.Job, Timeout: s.Timeout, Begun: workflow.Now(ctx), Attributes: r.attributes, Timing: r.timing, Sweep: r.sweep,
	}
	if s.Job.Location != "" {
		in.Location = s.Job.Location
	}
	if len(s.Job.Deferred) > 0 {
		in.Vars, in.Steps = r.in.Vars, make(map[string]pipeline.StepResultVars, len(r.steps))
		for _, other := range r.steps {
			if last, ok := other.lastAttempt(); ok && mentions(s.Job.Deferred, other.Name) {
				in.Steps[other.Name] = pipeline.StepResultVars{
					JobID: last.JobID, JobName: last.JobName, State: last.State, Metrics: last.Metrics,
					Error: last.Error, Parameters: last.Parameters, Attempts: last.Attempt,
				}
			}
		}
	}
	return in
}

// mentions says whether the expressions may be about a step, which is named in them as it
// is, or by an escape. What nobody reads is not carried along: payloads are bounded.
func mentions(deferred []pipeline.Deferred, step string) bool {
	return slices.ContainsFunc(deferred, func(d pipeline.Deferred) bool {
		return strings.Contains(d.Text, step) || strings.Contains(d.Text, `\`)
	})
}

// ready says whether the steps that s needs are done. A streaming step is as done as
// it gets once its job runs.
func (r *run) ready(s *step) bool {
	for _, name := range s.Needs {
		for _, n := range r.steps {
			if n.Name == name && n.outcome != runs.OutcomeSucceeded && !n.running {
				return false
			}
		}
	}
	return true
}

// listen takes the word of streaming jobs that they run.
func (r *run) listen(ctx workflow.Context) {
	for {
		var msg runs.Running
		workflow.GetSignalChannel(ctx, runs.SignalRunning).Receive(ctx, &msg)
		for _, s := range r.steps {
			if s.Name == msg.Step && s.job == msg.JobName {
				s.running = true
			}
		}
	}
}

// end closes a step. A step that did not succeed fails the run, unless that is being
// stopped already.
func (r *run) end(s *step, outcome runs.Outcome, message string) {
	s.outcome, s.err, s.waiting = outcome, message, ""
	if outcome == runs.OutcomeSucceeded || outcome == runs.OutcomeSkipped || r.stop != "" {
		return
	}
	r.failure = fmt.Sprintf("step %s %s", s.Name, outcome)
	if last, ok := s.lastAttempt(); ok && last.JobID != "" {
		r.failure += fmt.Sprintf(" (attempt %d, job %s)", last.Attempt, last.JobID)
	}
	if message != "" {
		r.failure += ": " + message
	}
	r.stopAll(runs.StopFailing)
}

// stopAll has every open step stop its job. The first reason stays.
func (r *run) stopAll(reason string) {
	if r.stop != "" {
		return
	}
	r.stop = reason
	for _, s := range r.steps {
		if s.child != "" {
			r.signalStop(s.child)
		}
	}
}

// signalStop does not await delivery: the signal is durable once it is sent, and a
// child that has closed needs none.
func (r *run) signalStop(child string) {
	workflow.SignalExternalWorkflow(r.ctx, child, "", runs.SignalStop, runs.Stop{Reason: r.stop})
}

// await waits for the condition, and is false when the run is being stopped first.
func (r *run) await(ctx workflow.Context, cond func() bool) bool {
	_ = workflow.Await(ctx, func() bool { return r.stop != "" || cond() }) // ctx is never cancelled
	return r.stop == ""
}

// sleep waits, and is true when the run is being stopped first.
func (r *run) sleep(ctx workflow.Context, d time.Duration) bool {
	stopped, _ := workflow.AwaitWithTimeout(ctx, d, func() bool { return r.stop != "" }) // ctx is never cancelled
	return stopped
}

// backoff is the wait after the nth failure, from 1.
func backoff(p pipeline.Retry, n int) time.Duration {
	d := p.Backoff
	for ; n > 1 && d < p.MaxBackoff; n-- {
		d *= 2
	}
	return max(min(d, p.MaxBackoff), 0)
}

// describe sets search attributes where the namespace has them.
func (r *run) describe(updates ...temporal.SearchAttributeUpdate) {
	if !r.attributes {
		return
	}
	if err := workflow.UpsertTypedSearchAttributes(r.ctx, updates...); err != nil {
		workflow.GetLogger(r.ctx).Warn("search attributes could not be set", "error", err)
	}
}

// short cuts a key to what every visibility store takes as a keyword.
func short(key string) string {
	const most = 255
	key = strings.ToValidUTF8(key, "\uFFFD")
	for len(key) > most {
		key = strings.ToValidUTF8(key[:most], "")
	}
	return key
}

// result is the run as it stands.
func (r *run) result() runs.RunResult {
	res := runs.RunResult{Version: runs.RecordVersion, Outcome: runs.OutcomeSucceeded, Config: r.in.Config, Error: r.failure}
	for _, s := range r.steps {
		res.Steps = append(res.Steps, runs.StepResult{Name: s.Name, Outcome: s.outcome, Waiting: s.waiting, Error: s.err, Attempts: s.attempts})
		if s.outcome != runs.OutcomeSucceeded {
			res.Outcome = runs.OutcomeFailed
		}
	}
	switch {
	case !r.done():
		res.Outcome = runs.OutcomeRunning
	case r.taken != nil:
		res.Outcome, res.Taken = runs.OutcomeDuplicate, r.taken
		if r.taken.ByAnotherEvent {
			res.Outcome = runs.OutcomeKeyTaken
		}
	case res.Outcome == runs.OutcomeFailed && r.stop == runs.StopCancelled:
		res.Outcome, res.Error = runs.OutcomeCancelled, "the run was cancelled"
	}
	return res
}

// mostResult bounds a run's result in bytes, as Temporal takes payloads of 2 MB at most
// (https://docs.temporal.io/self-hosted-guide/defaults): past that the run could never end.
const mostResult = 1_500_000

// bound takes metrics and parameters from a result's attempts, the oldest first, until it is
// small enough: from the last of each step, which a retry's later steps may use, after all
// others. It changes what a command of the workflow says, and no command.
func bound(result *runs.RunResult) {
	size := encodedSize(result)
	if size <= mostResult {
		return
	}
	var last, rest []*runs.JobResult
	for _, s := range result.Steps {
		for i := range s.Attempts {
			if i == len(s.Attempts)-1 {
				last = append(last, &s.Attempts[i])
			} else {
				rest = append(rest, &s.Attempts[i])
			}
		}
	}
	for _, of := range [][]*runs.JobResult{rest, last} {
		slices.SortStableFunc(of, func(a, b *runs.JobResult) int { return a.Begun.Compare(b.Begun) })
	}
	cut := 0
	for _, a := range append(rest, last...) {
		if size <= mostResult {
			break
		}
		if len(a.Metrics)+len(a.Parameters) == 0 {
			continue
		}
		size -= encodedSize(a.Metrics) + encodedSize(a.Parameters)
		a.Metrics, a.Parameters = nil, nil
		cut++
	}
	if cut > 0 {
		result.Note = joinNotes(result.Note, fmt.Sprintf("the metrics and parameters of %d attempts are left out, as Temporal does not take a result so large", cut))
	}
}

func encodedSize(v any) int {
	p, err := converter.GetDefaultDataConverter().ToPayload(v)
	if err != nil {
		return 0 // whoever encodes it for good says why
	}
	return len(p.GetData())
}
