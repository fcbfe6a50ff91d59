package worker

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/runs"
)

// apply takes in what a look at the job gave.
func (j *job) apply(r checkReply) {
	if r.Forgotten {
		j.miss(true)
		return
	}
	j.see(runs.JobStatus{JobID: r.Job.ID, State: r.Job.State, StateTime: r.Job.StateTime, Type: r.Job.Type, ReplacedBy: r.Job.ReplacedBy})
}

// changeForgottenTwice marks histories of jobs that are not taken for over when Dataflow
// has not known them once.
const changeForgottenTwice = "forgotten-twice"

// miss takes in that Dataflow does not know the job: as an own look, or as somebody else's.
//
// Dataflow keeps jobs for 30 days. What it does not know so long after the last news, nor a
// day after the first look that says so, will not come back. Before that it is the look that
// is wrong: the last news of a streaming job may be as old as its beginning.
func (j *job) miss(own bool) {
	now := workflow.Now(j.ctx)
	if now.Sub(later(j.state.StateTime, j.state.Begun)) <= forgotten {
		return
	}
	if workflow.GetVersion(j.ctx, changeForgottenTwice, workflow.DefaultVersion, 1) >= 1 {
		if j.state.Missed.IsZero() {
			j.state.Missed, j.lookWait = now, 0 // from now on the safety timer looks itself
		}
		// Who tells of it does not tell of a look that found the job as it was.
		if !own || now.Sub(j.state.Missed) < missedFor {
			return
		}
	}
	j.state.State = string(dataflow.StateFailed)
	j.message = "Dataflow no longer knows the job"
}

// become takes a job as this attempt's.
func (j *job) become(v jobView) {
	j.state.JobID, j.state.Created = v.ID, v.Created
	j.state.State, j.state.StateTime, j.state.Type, j.state.ReplacedBy = "", time.Time{}, "", ""
	j.see(runs.JobStatus{JobID: v.ID, State: v.State, StateTime: v.StateTime, Type: v.Type, ReplacedBy: v.ReplacedBy})
	early := j.early
	j.early = nil
	for _, s := range early {
		j.see(s)
	}
	if stop := j.state.Stop; stop != nil && stop.Reason == runs.StopTimeout && j.ranInTime() {
		// The timeout passed while the job was not known. Who asked besides still wants it stopped.
		j.state.Stop = nil
		if j.state.StopLater != nil && workflow.GetVersion(j.ctx, changeStopsLater, workflow.DefaultVersion, 1) >= 1 {
			j.state.Stop, j.nextStop = j.state.StopLater, time.Time{}
		}
	}
}

// changeStopsLater marks histories of streaming jobs that ran in time, were taken for late
// while they were not known, and were to be stopped for another reason by then.
const changeStopsLater = "stops-later"

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

// changeStopsSuccessor marks histories of jobs that were to be stopped when they were
// updated, and whose successors are asked to stop from the beginning.
const changeStopsSuccessor = "stops-successor"

// see takes in a state of a job. What is older than what is known changes nothing.
func (j *job) see(s runs.JobStatus) {
	if s.JobID != j.state.JobID {
		return
	}
	if !j.state.Missed.IsZero() {
		j.state.Missed, j.lookWait = time.Time{}, 0
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
		j.replaced, j.lookWait, j.state.DrainAsked = true, 0, time.Time{}
		j.become(jobView{ID: s.ReplacedBy})
		j.nextSafety = workflow.Now(j.ctx) // its state is not known: look
		if (!j.state.StopAsked.IsZero() || j.nextStop.After(j.nextSafety)) && workflow.GetVersion(j.ctx, changeStopsSuccessor, workflow.DefaultVersion, 1) >= 1 {
			j.state.StopAsked, j.nextStop = time.Time{}, time.Time{} // what was asked for was the other's end
		}
	}
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
	switch {
	case j.state.JobID != "" && s.Forgotten:
		if s.JobID == j.state.JobID {
			j.miss(false)
		}
		return true
	case j.state.JobID != "":
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

// setStop makes the workflow end its job. The first reason stays, unless it is a timeout
// that turns out not to have passed: then the next one does.
func (j *job) setStop(reason string) {
	switch stop := j.state.Stop; {
	case stop == nil:
		j.state.Stop = &runs.Stop{Reason: reason}
		j.nextStop = time.Time{}
	case stop.Reason == runs.StopTimeout && reason != runs.StopTimeout && j.state.StopLater == nil:
		j.state.StopLater = &runs.Stop{Reason: reason}
	}
}
