package worker

import (
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/runs"
)

// Waits of a job's workflow that nobody needs to set.
const (
	firstBackoff = time.Second
	mostBackoff  = time.Minute
	quotaBackoff = 30 * time.Second
	mostQuota    = 5 * time.Minute
	lookAgain    = 5 * time.Second // between looks for a job that may have been launched, doubling
	soon         = 5 * time.Second // until Dataflow may be ready for a cancel
	reportWithin = 10 * time.Minute
	forgotten    = 25 * 24 * time.Hour
	missedFor    = 24 * time.Hour // between the first look and the one that is believed
	mostHints    = 16
	mostSpread   = time.Minute // over which jobs ask for news that could ask at once
)

// Job is the workflow of one attempt: it launches the attempt's job, or adopts it,
// and ends when the job is over. Its ID is runs.JobWorkflowID, so that whoever knows
// the job's name can signal it.
//
// It may be killed and started again under the same ID at any time: what it must not
// forget is Dataflow's to remember, under the job's name.
func (w *Workflows) Job(ctx workflow.Context, in runs.JobInput) (runs.JobResult, error) {
	if in.Version > runs.RecordVersion {
		return runs.JobResult{}, temporal.NewNonRetryableApplicationError(
			fmt.Sprintf("job input of version %d; this worker knows up to %d: deploy the newer worker", in.Version, runs.RecordVersion), "Version", nil)
	}
	// The job's end is awaited also when the workflow is cancelled: it is then that it matters.
	open, _ := workflow.NewDisconnectedContext(ctx)
	j := &job{
		ctx: open, parent: ctx, in: in, timing: in.Timing.WithDefaults(),
		status:   workflow.GetSignalChannel(open, runs.SignalStatus),
		stop:     workflow.GetSignalChannel(open, runs.SignalStop),
		handOver: workflow.GetSignalChannel(open, runs.SignalHandOver),
	}
	if in.Resume != nil {
		j.state = *in.Resume
		j.early, j.hints = j.state.Early, j.state.Hints
		j.state.Early, j.state.Hints = nil, nil
	} else {
		j.state.Begun = in.Begun
		if in.Attributes {
			if err := workflow.UpsertTypedSearchAttributes(open, runs.AttrStep.ValueSet(in.Step)); err != nil {
				return runs.JobResult{}, fmt.Errorf("set search attributes: %w", err)
			}
		}
	}
	if err := workflow.SetQueryHandler(open, runs.QueryState, func() (runs.JobResult, error) { return j.result(), nil }); err != nil {
		return runs.JobResult{}, fmt.Errorf("set the query handler: %w", err)
	}
	return j.run()
}

// job is the state of one execution of Job.
type job struct {
	ctx    workflow.Context // not cancelled by the workflow's cancellation
	parent workflow.Context // cancelled by it
	in     runs.JobInput
	timing runs.Timing
	state  runs.JobState

	status   workflow.ReceiveChannel
	stop     workflow.ReceiveChannel
	handOver workflow.ReceiveChannel

	handingOver bool
	renewing    bool
	wasCancel   bool             // the cancellation has been seen: its channel stays ready
	early       []runs.JobStatus // what came before our job was known,
	hints       []string         // and the jobs in it that have not been looked at
	timer       workflow.Future
	timerAt     time.Time
	dropTimer   workflow.CancelFunc
	nextSafety  time.Time
	nextStop    time.Time
	nextLook    time.Time     // at an UPDATED job's successor
	lookWait    time.Duration // between looks at a job that may never be found
	replaced    bool          // the job took the place of one that ran
	checked     time.Time     // when check last saw the job
	runUnseen   bool          // at the last look Temporal did not tell whether the run is open
	backoff     time.Duration

	refusal, message string
	namesake         jobView // that has the attempt's name, with other contents
	ended            time.Time
	report           reportReply
	note             string
}

func (j *job) run() (runs.JobResult, error) {
	if j.state.JobID == "" && !j.acquire() {
		if j.renewing {
			return runs.JobResult{}, j.renew()
		}
		return j.result(), nil
	}
	// A job adopted when it is over may be so because of a stop that came meanwhile.
	j.drain()
	for !j.over() && !j.handingOver {
		if j.full() {
			return runs.JobResult{}, j.renew()
		}
		j.watch()
	}
	if j.over() {
		j.finish()
		j.handingOver = false
	}
	return j.result(), nil
}

// full says that the history has grown so long that the workflow should go on in a
// new one, and that no signal would be lost by it.
func (j *job) full() bool {
	if !workflow.GetInfo(j.ctx).GetContinueAsNewSuggested() {
		return false
	}
	j.drain()
	return !j.over() && !j.handingOver
}

// renew goes on in a new history, with all that is known.
func (j *job) renew() error {
	in := j.in
	state := j.state
	state.Early, state.Hints = j.early, j.hints
	in.Resume = &state
	return workflow.NewContinueAsNewError(j.ctx, workflow.GetInfo(j.ctx).WorkflowType.Name, in)
}

// watch does what is due for the job that is known, then waits for news.
func (j *job) watch() {
	j.drain()
	now := workflow.Now(j.ctx)
	running := j.replaced || j.state.State == string(dataflow.StateRunning) || j.state.State == string(dataflow.StateUpdated)
	switch {
	case j.wrongType() != "" && !j.declaresNoType():
		j.refusal = refusalType
		j.setStop(runs.StopWrongType)
	case j.in.Job.Streaming && running && !j.state.Announced && !j.stopsUnannounced():
		j.announce()
	}
	late := j.deadlinePassed(now)
	if late && !j.over() && !j.handingOver && j.in.Job.Streaming && j.checked.Before(j.due()) {
		// It may run all the same, and the event be lost: look before it is stopped.
		if !j.check() {
			j.wait(workflow.Now(j.ctx).Add(j.nextBackoff()))
		}
		return
	}
	if late {
		j.setStop(runs.StopTimeout)
	}
	if j.nextSafety.IsZero() {
		j.nextSafety = j.safety(now)
	}
	switch {
	case j.over() || j.handingOver:
		return
	case j.state.State == string(dataflow.StateUpdated):
		// There is nothing to stop and nothing else to look for but the successor.
		if !now.Before(j.nextLook) {
			j.check()
			j.lookWait = min(max(2*j.lookWait, firstBackoff), j.timing.Safety)
			j.nextLook = now.Add(j.lookWait)
			return
		}
		j.wait(j.orDeadline(j.nextLook))
		return
	case j.state.Stop != nil && !now.Before(j.nextStop):
		j.pursueStop()
		return
	case !now.Before(j.nextSafety):
		j.nextSafety = j.safety(now)
		if j.in.Sweep && j.state.State != "" && j.state.Missed.IsZero() {
			j.ask()
		} else {
			j.check()
		}
		return
	}
	until := j.nextSafety
	if j.state.Stop != nil {
		until = earlier(until, j.nextStop)
	}
	j.wait(j.orDeadline(until))
}

// check takes one look at the job and its run, and says whether it saw them. A look
// that fails is no news: the next one is as good.
func (j *job) check() bool {
	var reply checkReply
	req := j.checkRequest()
	if err := workflow.ExecuteActivity(j.once(), activityCheck, req).Get(j.ctx, &reply); err != nil {
		j.nextSafety = earlier(j.nextSafety, workflow.Now(j.ctx).Add(j.backoffAfter(err)))
		return false
	}
	j.checked = workflow.Now(j.ctx)
	j.apply(reply)
	if !j.state.Missed.IsZero() {
		j.lookWait = min(max(2*j.lookWait, soon), j.timing.Safety)
		j.nextSafety = earlier(j.nextSafety, j.checked.Add(j.lookWait))
	}
	j.heedRun(reply.RunClosed, reply.RunUnseen)
	return true
}

// ask asks the place's sweep for news of the job, which come as a signal, and looks at
// its run.
func (j *job) ask() {
	req := askRequest{
		Place: runs.Place{Deployment: j.in.Deployment, Project: j.in.Project, Location: j.in.Location},
		Ask: runs.SweepAsk{
			JobID: j.state.JobID, JobName: j.in.JobName, RunID: j.in.RunID,
			State: j.state.State, StateTime: j.state.StateTime, Watched: true,
		},
		RunOnly: j.runUnseen,
	}
	var reply askReply
	if err := workflow.ExecuteActivity(j.once(), activityAsk, req).Get(j.ctx, &reply); err != nil {
		wait := j.nextBackoff()
		j.nextSafety = earlier(j.nextSafety, workflow.Now(j.ctx).Add(wait+j.share(wait)))
		return
	}
	j.heedRun(reply.RunClosed, reply.RunUnseen)
}

// heedRun stops the job when its run is closed, and has another look soon when nobody
// could tell.
func (j *job) heedRun(closed bool, unseen string) {
	if j.runUnseen = unseen != ""; !j.runUnseen {
		j.backoff = 0
	}
	switch {
	case closed:
		j.setStop(runs.StopRunClosed)
	case j.runUnseen:
		j.nextSafety = earlier(j.nextSafety, workflow.Now(j.ctx).Add(j.nextBackoff()))
	}
}

// safety is when to ask for news next. Those who ask do so about common instants, a
// quarter of the wait apart, so that one list answers many; and not all at once, for they
// signal one workflow.
func (j *job) safety(now time.Time) time.Time {
	next := now.Add(j.timing.Safety)
	if j.in.Sweep {
		next = next.Truncate(j.timing.Safety / 4).Add(j.share(min(j.timing.Safety/16, mostSpread)))
		next = later(next, now.Add(time.Millisecond))
	}
	return next
}

// share is this job's part of d, from nothing to all of it: different jobs' differ, and
// one's is always the same.
func (j *job) share(d time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(j.in.JobName)) // a hash never fails to write
	return time.Duration(float64(d) * float64(h.Sum32()) / (1 << 32))
}

// changeForgottenWait marks histories of jobs that Dataflow is asked for ever more seldom
// when it does not know them, though they are to be stopped.
const changeForgottenWait = "forgotten-wait"

// pursueStop asks for the next thing that ends the job and sets when to ask again.
func (j *job) pursueStop() {
	req := stopRequest{
		checkRequest: j.checkRequest(),
		At:           workflow.Now(j.ctx),
		Cancelled:    j.state.StopAsked,
		Drained:      j.state.DrainAsked,
		CancelGrace:  j.timing.CancelGrace,
		DrainGrace:   j.timing.DrainGrace,
		NoDrain:      j.state.Stop.NoDrain,
	}
	var reply checkReply
	err := workflow.ExecuteActivity(j.once(), activityStop, req).Get(j.ctx, &reply)
	now := workflow.Now(j.ctx)
	if err != nil {
		j.nextStop = now.Add(j.backoffAfter(err))
		j.message = "asking Dataflow to end the job: " + err.Error()
		return
	}
	j.backoff, j.message = 0, ""
	j.apply(reply)
	if reply.Forgotten && !j.over() && workflow.GetVersion(j.ctx, changeForgottenWait, workflow.DefaultVersion, 1) >= 1 {
		j.lookWait = min(max(2*j.lookWait, soon), j.timing.Safety)
		j.nextStop = now.Add(j.lookWait)
		return
	}
	switch reply.Asked {
	case askedCancel:
		if j.state.StopAsked.IsZero() {
			j.state.StopAsked = now
		}
		j.nextStop = j.state.StopAsked.Add(j.timing.CancelGrace)
	case askedForce:
		if j.state.Stop.Reason == runs.StopOrphan {
			workflow.GetLogger(j.ctx).Warn("orphan: job "+j.in.JobName+" does not end", "finding", "orphan-not-over",
				"deployment", j.in.Deployment, "project", j.in.Project, "location", j.in.Location, "jobName", j.in.JobName, "jobId", j.state.JobID, "jobState", j.state.State)
		}
		j.nextStop = now.Add(j.timing.CancelGrace)
	case askedDrain:
		if j.state.DrainAsked.IsZero() {
			j.state.DrainAsked = now
		}
		j.nextStop = now.Add(j.timing.DrainGrace)
	case askedNotReady:
		j.nextStop = now.Add(soon)
	default:
		switch {
		case j.state.State == string(dataflow.StateDraining):
			j.nextStop = j.state.StateTime.Add(j.timing.DrainGrace)
		case !j.state.StopAsked.IsZero():
			j.nextStop = j.state.StopAsked.Add(j.timing.CancelGrace)
		}
		j.nextStop = later(j.nextStop, now.Add(soon))
	}
}

func (j *job) checkRequest() checkRequest {
	return checkRequest{Project: j.in.Project, Location: j.in.Location, JobID: j.state.JobID, RunID: j.in.RunID}
}

// over says whether the job has come to its end. UPDATED is none: another job goes on.
func (j *job) over() bool {
	return terminal(j.state.State) && j.state.State != string(dataflow.StateUpdated)
}

// wrongType says in words that the job is not of the declared type, or is empty. What a
// job says of its type before its pipeline was made is not believed: a flex template's
// job is there before the template's own program has run.
func (j *job) wrongType() string {
	switch dataflow.State(j.state.State) {
	case "", dataflow.StateUnknown, dataflow.StateQueued, dataflow.StatePending, dataflow.StateStopped:
		return ""
	}
	want := string(dataflow.Launch{Streaming: j.in.Job.Streaming}.Type())
	if got := j.state.Type; got == string(dataflow.TypeBatch) || got == string(dataflow.TypeStreaming) {
		if got != want {
			return fmt.Sprintf("job %s is of type %s, the step declares %s; set streaming: %t in the pipelines file", j.state.JobID, got, want, got == string(dataflow.TypeStreaming))
		}
	}
	return ""
}

// changeAdoptedType marks histories of adopted orphans that turned out to be of another type
// than they seemed.
const changeAdoptedType = "adopted-type"

// declaresNoType says that the job was an orphan, of which no step declares what it is to be.
func (j *job) declaresNoType() bool {
	return j.in.RunID == "" && workflow.GetVersion(j.ctx, changeAdoptedType, workflow.DefaultVersion, 1) >= 1
}

// changeStopsUnannounced marks histories of streaming jobs that were not running when they
// were to be stopped.
const changeStopsUnannounced = "stops-unannounced"

// stopsUnannounced says that the job is not to run any more: what would start because it does
// would be stopped with it, or miss it.
func (j *job) stopsUnannounced() bool {
	return j.state.Stop != nil && workflow.GetVersion(j.ctx, changeStopsUnannounced, workflow.DefaultVersion, 1) >= 1
}

// announce tells the run that the streaming job runs.
func (j *job) announce() {
	j.state.Announced = true
	msg := runs.Running{Step: j.in.Step, JobName: j.in.JobName, JobID: j.state.JobID}
	if err := workflow.SignalExternalWorkflow(j.ctx, j.in.RunID, "", runs.SignalRunning, msg).Get(j.ctx, nil); err != nil {
		workflow.GetLogger(j.ctx).Warn("the run could not be told that its streaming job runs", "run", j.in.RunID, "error", err)
	}
}

// finish reads what the job leaves. A job that is over is over, read or not.
func (j *job) finish() {
	ctx := workflow.WithActivityOptions(j.ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    j.timing.Call,
		ScheduleToCloseTimeout: reportWithin,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: firstBackoff, MaximumInterval: mostBackoff},
		WaitForCancellation:    true,
	})
	failed := j.state.State == string(dataflow.StateFailed)
	if err := workflow.ExecuteActivity(ctx, activityReport, j.checkRequest(), failed).Get(ctx, &j.report); err != nil {
		j.addNote("the job's metrics and messages could not be read: " + reason(err))
	} else if j.report.Unread != "" {
		j.addNote("not all of the job's metrics and messages could be read: " + j.report.Unread)
	}
}

// result is the attempt as it stands.
func (j *job) result() runs.JobResult {
	r := runs.JobResult{
		Version: runs.RecordVersion, Outcome: runs.OutcomeRunning,
		Attempt: j.in.Attempt, Project: j.in.Project, Location: j.in.Location, JobName: j.in.JobName,
		JobID: j.state.JobID, State: j.state.State, Begun: j.state.Begun, Ended: j.ended, Adopted: j.state.Adopted,
		Created: j.state.Created, Refusal: j.refusal, Quota: j.report.Quota, Error: j.report.Error, Note: j.note,
		Metrics: j.report.Metrics, Parameters: j.state.Parameters, HandedOver: j.handingOver,
	}
	if r.Error == "" {
		r.Error = j.message
	}
	if r.Error == "" && j.state.State == string(dataflow.StateFailed) {
		r.Error = "the job failed without an error message"
	}
	if j.refusal == refusalMismatch {
		r.NameUsed, r.Created = terminal(j.namesake.State), j.namesake.Created
	}
	stop := j.state.Stop
	if stop != nil && stop.Reason == runs.StopTimeout && j.state.StopAsked.IsZero() && j.state.DrainAsked.IsZero() && j.over() && j.ended.Before(j.due()) {
		stop = nil // it had ended by itself, and the event was lost
	}
	switch {
	case j.handingOver:
	case j.over():
		r.Outcome = outcome(dataflow.State(j.state.State), stop)
		if r.Outcome == runs.OutcomeSucceeded {
			r.Error = ""
			if stop != nil {
				r.Note = joinNotes(r.Note, "the job was done before it could be stopped")
			}
		}
		if r.Outcome == runs.OutcomeCancelled && stop == nil {
			r.Error = "the job was cancelled, not by its run"
		}
		if j.refusal == refusalType {
			r.Error = j.wrongType()
		}
		if r.Outcome == runs.OutcomeTimedOut {
			r.Error = fmt.Sprintf("the job was stopped because the step's timeout of %v had passed", j.in.Timeout)
		}
	case j.state.JobID != "":
	case stop != nil:
		r.Outcome, r.Note = runs.OutcomeCancelled, joinNotes(r.Note, "no job was seen")
		if stop.Reason == runs.StopTimeout {
			r.Outcome = runs.OutcomeTimedOut
			if r.Error == "" {
				r.Error = fmt.Sprintf("no job was launched within the step's timeout of %v", j.in.Timeout)
			}
		}
	case j.refusal != "":
		r.Outcome = runs.OutcomeFailed
	}
	if r.Outcome.Over() && r.Ended.IsZero() {
		r.Ended = workflow.Now(j.ctx)
	}
	return r
}

// outcome is what a job's terminal state makes of the attempt.
func outcome(s dataflow.State, stop *runs.Stop) runs.Outcome {
	switch {
	case stop != nil && stop.Reason == runs.StopWrongType:
		return runs.OutcomeFailed
	case s.Succeeded():
		return runs.OutcomeSucceeded
	case s == dataflow.StateDrained && stop == nil:
		return runs.OutcomeSucceeded // somebody ended a streaming job in good order
	case s == dataflow.StateFailed:
		return runs.OutcomeFailed
	case stop != nil && stop.Reason == runs.StopTimeout:
		return runs.OutcomeTimedOut
	}
	return runs.OutcomeCancelled
}

func (j *job) addNote(s string) { j.note = joinNotes(j.note, s) }

func joinNotes(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

func (j *job) deadline() time.Time {
	if j.in.Timeout == 0 || j.state.Stop != nil || j.state.Announced {
		return time.Time{}
	}
	return j.due()
}

// due is when the step's timeout passes, or passed.
func (j *job) due() time.Time { return j.state.Begun.Add(j.in.Timeout) }

func (j *job) deadlinePassed(now time.Time) bool {
	d := j.deadline()
	return !d.IsZero() && !now.Before(d)
}

func (j *job) orDeadline(t time.Time) time.Time {
	if d := j.deadline(); !d.IsZero() {
		return earlier(t, d)
	}
	return t
}

// nextBackoff is the next wait after a failed call, doubling from call to call.
func (j *job) nextBackoff() time.Duration {
	j.backoff = min(max(2*j.backoff, firstBackoff), mostBackoff)
	return j.backoff
}

// backoffAfter is the next wait after a call that failed with err: at least as long as
// Dataflow asked for.
func (j *job) backoffAfter(err error) time.Duration {
	wait := j.nextBackoff()
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		wait = max(wait, app.NextRetryDelay())
	}
	return wait
}

// once are the options of an activity that the workflow repeats itself.
func (j *job) once() workflow.Context {
	return workflow.WithActivityOptions(j.ctx, workflow.ActivityOptions{
		StartToCloseTimeout: j.timing.Call,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 1},
		WaitForCancellation: true,
	})
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
