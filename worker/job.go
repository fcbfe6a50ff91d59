package worker

import (
	"fmt"
	"slices"
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
	mostHints    = 16
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
	nextLook    time.Time // at an UPDATED job's successor
	lookWait    time.Duration
	replaced    bool      // the job took the place of one that ran
	checked     time.Time // when check last saw the job
	backoff     time.Duration

	refusal, message string
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
	in.Resume = &j.state
	return workflow.NewContinueAsNewError(j.ctx, workflow.GetInfo(j.ctx).WorkflowType.Name, in)
}

// acquire launches or adopts the attempt's job. It returns false when the attempt
// has no job and will have none, or when the workflow hands over.
func (j *job) acquire() bool {
	var (
		doubt    time.Time // until then a launch that nobody answered for may show up; zero: there is none
		lookedAt time.Time // when the last look that saw no job of ours began
		next     = workflow.Now(j.ctx)
		looks    = lookAgain
		backoff  = firstBackoff
		quota    = quotaBackoff
	)
	if !j.in.First {
		doubt = j.horizon() // whoever had the name before may be writing still
	}
	for {
		j.drain()
		now := workflow.Now(j.ctx)
		if j.handingOver {
			return false
		}
		if len(j.hints) == 0 && j.full() {
			// The new history knows nothing of a launch in doubt: it is to look first.
			j.in.First = j.in.First && doubt.IsZero()
			j.renewing = true
			return false
		}
		if j.deadlinePassed(now) {
			j.setStop(runs.StopTimeout)
		}
		over := j.refusal != "" || j.state.Stop != nil
		if over && len(j.hints) == 0 && (doubt.IsZero() || !lookedAt.Before(doubt)) {
			return false
		}
		if now.Before(next) && len(j.hints) == 0 {
			j.wait(j.orDeadline(next))
			continue
		}
		reply := j.launch(over || now.Before(doubt))
		after := workflow.Now(j.ctx)
		j.message = reply.Message
		switch reply.Kind {
		case replyLaunched, replyAdopted:
			j.refusal = ""
			j.state.Adopted = reply.Kind == replyAdopted
			j.state.Parameters, j.state.SpecHash = reply.Parameters, reply.SpecHash
			j.become(reply.Job)
			return true
		case replyNone:
			lookedAt = now
			next = after
			if after.Before(doubt) {
				next = earlier(after.Add(looks), doubt)
				looks *= 2
			}
		case replyRefused:
			// A refusal speaks for its own try: a job that shows up while there is doubt
			// overrules it.
			lookedAt, j.refusal = now, reply.Refusal
			next = later(after, doubt)
		case replyUnanswered:
			doubt, looks = j.horizon(), lookAgain
			next = after.Add(looks)
			j.message = "the launch was not answered; looking for its job: " + reply.Message
		case replyQuota:
			next = after.Add(max(quota, reply.RetryAfter))
			quota = min(2*quota, mostQuota)
		default:
			next = after.Add(max(backoff, reply.RetryAfter))
			backoff = min(2*backoff, mostBackoff)
		}
	}
}

// horizon is when a launch that may be in flight now will be in Dataflow's list for sure.
func (j *job) horizon() time.Time {
	return workflow.Now(j.ctx).Add(j.timing.Call + j.timing.Horizon)
}

// launch runs the activity, once, and waits for it whatever happens. An
// activity that did not report (its worker was killed) may have written.
func (j *job) launch(lookOnly bool) launchReply {
	hints := j.hints
	req := launchRequest{Job: j.in, Hints: hints, LookOnly: lookOnly}
	req.Job.Resume = nil
	var reply launchReply
	if err := workflow.ExecuteActivity(j.once(), activityLaunch, req).Get(j.ctx, &reply); err != nil {
		if lookOnly {
			return launchReply{Kind: replyTransient, Message: err.Error()}
		}
		return launchReply{Kind: replyUnanswered, Message: err.Error()}
	}
	if reply.Kind != replyTransient {
		j.hints = j.hints[len(hints):] // resolved; what came meanwhile stays
	}
	return reply
}

// watch does what is due for the job that is known, then waits for news.
func (j *job) watch() {
	j.drain()
	now := workflow.Now(j.ctx)
	running := j.replaced || j.state.State == string(dataflow.StateRunning) || j.state.State == string(dataflow.StateUpdated)
	switch {
	case j.wrongType() != "":
		j.refusal = refusalType
		j.setStop(runs.StopWrongType)
	case j.in.Job.Streaming && running && !j.state.Announced:
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
		j.nextSafety = now.Add(j.timing.Safety)
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
		j.nextSafety = now.Add(j.timing.Safety)
		j.check()
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
		j.nextSafety = earlier(j.nextSafety, workflow.Now(j.ctx).Add(j.nextBackoff()))
		return false
	}
	j.backoff, j.checked = 0, workflow.Now(j.ctx)
	j.apply(reply)
	if reply.RunClosed {
		j.setStop(runs.StopRunClosed)
	}
	return true
}

// pursueStop asks for the next thing that ends the job and sets when to ask again.
func (j *job) pursueStop() {
	req := stopRequest{
		checkRequest: j.checkRequest(),
		At:           workflow.Now(j.ctx),
		Cancelled:    j.state.StopAsked,
		CancelGrace:  j.timing.CancelGrace,
		DrainGrace:   j.timing.DrainGrace,
	}
	var reply checkReply
	err := workflow.ExecuteActivity(j.once(), activityStop, req).Get(j.ctx, &reply)
	now := workflow.Now(j.ctx)
	if err != nil {
		j.nextStop = now.Add(j.nextBackoff())
		j.message = "asking Dataflow to end the job: " + err.Error()
		return
	}
	j.backoff, j.message = 0, ""
	j.apply(reply)
	switch reply.Asked {
	case askedCancel:
		if j.state.StopAsked.IsZero() {
			j.state.StopAsked = now
		}
		j.nextStop = j.state.StopAsked.Add(j.timing.CancelGrace)
	case askedForce:
		j.nextStop = now.Add(j.timing.CancelGrace)
	case askedDrain:
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

// apply takes in what a look at the job gave.
func (j *job) apply(r checkReply) {
	if r.Forgotten {
		// Dataflow keeps jobs for 30 days; what it does not know so long after the last
		// news will not come back. Before that it is the look that is wrong.
		if news := later(j.state.StateTime, j.state.Begun); workflow.Now(j.ctx).Sub(news) > forgotten {
			j.state.State = string(dataflow.StateFailed)
			j.message = "Dataflow no longer knows the job"
		}
		return
	}
	j.see(runs.JobStatus{JobID: r.Job.ID, State: r.Job.State, StateTime: r.Job.StateTime, Type: r.Job.Type, ReplacedBy: r.Job.ReplacedBy})
}

// become takes a job as this attempt's.
func (j *job) become(v jobView) {
	j.state.JobID = v.ID
	j.state.State, j.state.StateTime, j.state.Type, j.state.ReplacedBy = "", time.Time{}, "", ""
	j.see(runs.JobStatus{JobID: v.ID, State: v.State, StateTime: v.StateTime, Type: v.Type, ReplacedBy: v.ReplacedBy})
	early := j.early
	j.early = nil
	for _, s := range early {
		j.see(s)
	}
	if stop := j.state.Stop; stop != nil && stop.Reason == runs.StopTimeout && j.ranInTime() {
		j.state.Stop = nil // the timeout passed while the job was not known
	}
}

// ranInTime says whether the streaming job came to run before its step's timeout.
func (j *job) ranInTime() bool {
	if !j.in.Job.Streaming {
		return false
	}
	switch dataflow.State(j.state.State) {
	case dataflow.StateUpdated:
		return true
	case dataflow.StateRunning:
		return j.replaced || !j.state.StateTime.After(j.due())
	}
	return false
}

// see takes in a state of a job. What is older than what is known changes nothing.
func (j *job) see(s runs.JobStatus) {
	if s.JobID != j.state.JobID {
		return
	}
	if s.Type != "" && s.Type != string(dataflow.TypeUnknown) {
		j.state.Type = s.Type
	}
	known := dataflow.Observed{JobID: j.state.JobID, State: dataflow.State(j.state.State), StateTime: j.state.StateTime}
	if j.state.State == "" || dataflow.Newer(known, dataflow.Observed{JobID: s.JobID, State: dataflow.State(s.State), StateTime: s.StateTime}) {
		j.state.State, j.state.StateTime = s.State, s.StateTime
		if terminal(s.State) {
			j.ended = later(s.StateTime, j.state.Begun)
		}
	}
	if s.ReplacedBy != "" && j.state.State == string(dataflow.StateUpdated) {
		// A streaming update: the successor goes on under our name and is ours,
		// whatever labels it was given.
		j.note = fmt.Sprintf("job %s was updated and replaced by %s", j.state.JobID, s.ReplacedBy)
		j.replaced, j.lookWait = true, 0
		j.become(jobView{ID: s.ReplacedBy})
		j.nextSafety = workflow.Now(j.ctx) // its state is not known: look
	}
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
		j.addNote("the job's metrics and messages could not be read: " + err.Error())
	}
}

// result is the attempt as it stands.
func (j *job) result() runs.JobResult {
	r := runs.JobResult{
		Version: runs.RecordVersion, Outcome: runs.OutcomeRunning,
		Attempt: j.in.Attempt, Project: j.in.Project, Location: j.in.Location, JobName: j.in.JobName,
		JobID: j.state.JobID, State: j.state.State, Begun: j.state.Begun, Ended: j.ended, Adopted: j.state.Adopted,
		Refusal: j.refusal, Quota: j.report.Quota, Error: j.report.Error, Note: j.note,
		Metrics: j.report.Metrics, Parameters: j.state.Parameters, HandedOver: j.handingOver,
	}
	if r.Error == "" {
		r.Error = j.message
	}
	if r.Error == "" && j.state.State == string(dataflow.StateFailed) {
		r.Error = "the job failed without an error message"
	}
	stop := j.state.Stop
	if stop != nil && stop.Reason == runs.StopTimeout && j.over() && j.ended.Before(j.due()) {
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

// wait blocks until a signal, the workflow's cancellation, or the time until.
func (j *job) wait(until time.Time) {
	// A timer is an action to pay for: one that is set and not too late will do, and
	// waking early only means looking at the clock.
	if j.timer == nil || j.timerAt.After(until) {
		if j.dropTimer != nil {
			j.dropTimer()
		}
		ctx, cancel := workflow.WithCancel(j.ctx)
		j.timer, j.timerAt, j.dropTimer = workflow.NewTimer(ctx, max(until.Sub(workflow.Now(j.ctx)), time.Millisecond)), until, cancel
	}
	s := workflow.NewSelector(j.ctx)
	s.AddFuture(j.timer, func(workflow.Future) { j.timer, j.dropTimer = nil, nil })
	s.AddReceive(j.status, func(c workflow.ReceiveChannel, _ bool) { j.receiveStatus(c) })
	s.AddReceive(j.stop, func(c workflow.ReceiveChannel, _ bool) { j.receiveStop(c) })
	s.AddReceive(j.handOver, func(c workflow.ReceiveChannel, _ bool) { j.receiveHandOver(c) })
	if !j.wasCancel {
		s.AddReceive(j.parent.Done(), func(workflow.ReceiveChannel, bool) { j.receiveCancel() })
	}
	s.Select(j.ctx)
}

// drain takes in every signal that has come, without blocking.
func (j *job) drain() {
	for j.receiveStatus(j.status) {
	}
	for j.receiveStop(j.stop) {
	}
	for j.receiveHandOver(j.handOver) {
	}
	if !j.wasCancel && j.ctxCancelled() {
		j.receiveCancel()
	}
}

func (j *job) receiveStatus(c workflow.ReceiveChannel) bool {
	var s runs.JobStatus
	if !c.ReceiveAsync(&s) {
		return false
	}
	if j.state.JobID != "" {
		j.see(s)
		return true
	}
	// Ours is not known yet: the next look asks whether this is it. Of many such
	// signals (nothing that is ours sends them) the first few will do.
	if len(j.early) < mostHints {
		j.early = append(j.early, s)
	}
	if s.JobID != "" && len(j.hints) < mostHints && !slices.Contains(j.hints, s.JobID) {
		j.hints = append(j.hints, s.JobID)
	}
	return true
}

func (j *job) receiveStop(c workflow.ReceiveChannel) bool {
	var s runs.Stop
	if !c.ReceiveAsync(&s) {
		return false
	}
	j.setStop(s.Reason)
	return true
}

func (j *job) receiveHandOver(c workflow.ReceiveChannel) bool {
	if !c.ReceiveAsync(nil) {
		return false
	}
	j.handingOver = true
	return true
}

func (j *job) receiveCancel() {
	j.wasCancel = true
	j.setStop(runs.StopCancelled)
}

// ctxCancelled says whether the workflow's own cancellation was asked for.
func (j *job) ctxCancelled() bool { return j.parent.Err() != nil }

// setStop makes the workflow end its job. The first reason stays.
func (j *job) setStop(reason string) {
	if j.state.Stop == nil {
		j.state.Stop = &runs.Stop{Reason: reason}
		j.nextStop = time.Time{}
	}
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
