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

// Bounds of a sweep. What does not fit is left to the next one: who asks asks again.
const (
	mostAsked    = 10_000 // jobs that one list is compared with
	mostCarried  = 5_000  // and that a continue-as-new takes along
	mostSuspects = 500
	mostNamed    = 100 // orphans that the result names
	// In one call of an activity; what takes longer than that is gone on with in the next.
	newsAtOnce, suspectsAtOnce, settledAtOnce = 200, 200, 50

	mostTroubled = 5 * time.Minute // between two tries of what fails
	// troubledFor is how long a sweep goes on with what fails before it leaves it to the next.
	troubledFor = time.Hour
	// strandedFor is how long it tries jobs that cannot be looked at while others may wait,
	// and mostRefusedJobs how many refusals in a row are no matter of single jobs.
	strandedFor     = 10 * time.Minute
	mostRefusedJobs = 3
	// listCalls is how many calls' time a list gets: it may have many pages.
	listCalls = 5
	// gathers is how often the wait for more to ask begins anew at most.
	gathers = 6
)

// Sweep is the workflow that looks after the jobs of a place when somebody asks for it
// (runs.AskForSweep): one list of the active jobs answers all who asked by then.
//
// Jobs of ours in that list whose workflow and run are gone wait, in the same sweep,
// for a second look; those that it finds so again are orphans, with which the worker's
// rule is followed. A list is never taken for more than it is: what is not in it is
// looked at by itself.
func (w *Workflows) Sweep(ctx workflow.Context, in runs.SweepInput) (runs.SweepResult, error) {
	if in.Version > runs.RecordVersion {
		return runs.SweepResult{}, temporal.NewNonRetryableApplicationError(
			fmt.Sprintf("sweep input of version %d; this worker knows up to %d: deploy the newer worker", in.Version, runs.RecordVersion), "Version", nil)
	}
	s := &sweep{ctx: ctx, in: in, asks: workflow.GetSignalChannel(ctx, runs.SignalAsk), known: map[string]int{}}
	if in.Resume != nil {
		s.state = *in.Resume
		for i, k := range s.state.Asked {
			s.known[k.ID] = i
		}
	} else {
		if err := workflow.SideEffect(ctx, func(workflow.Context) any {
			return runs.SweepSettings{Timing: w.timing, Orphans: w.Orphans, Overdue: w.Overdue}
		}).Get(&s.state.Settings); err != nil {
			return runs.SweepResult{}, fmt.Errorf("read a side effect: %w", err)
		}
		if s.state.Settings.Orphans == "" {
			s.state.Settings.Orphans = runs.OrphansReport
		}
		s.state.Settings.Timing = s.state.Settings.Timing.WithDefaults()
		s.state.Look = true // whoever started it
		s.state.Result.Version = runs.RecordVersion
	}
	if err := workflow.SetQueryHandler(ctx, runs.QueryState, func() (runs.SweepResult, error) { return s.result(), nil }); err != nil {
		return runs.SweepResult{}, fmt.Errorf("set the query handler: %w", err)
	}
	for ctx.Err() == nil {
		s.drain()
		due, next := s.due()
		switch {
		case workflow.GetInfo(ctx).GetContinueAsNewSuggested():
			return runs.SweepResult{}, s.renew()
		case len(due) > 0:
			s.recheck(due)
		case s.state.Look || len(s.state.Asked) > 0:
			s.gather()
			s.pass()
		case !next.IsZero():
			s.wait(next)
		default:
			s.log()
			return s.result(), nil
		}
	}
	return s.result(), ctx.Err()
}

// DailySweep is the workflow of a place's Schedule, whose own runs cannot have the
// sweep's ID: it asks for the sweep.
func (w *Workflows) DailySweep(ctx workflow.Context, in runs.SweepInput) error {
	if in.Version > runs.RecordVersion {
		return temporal.NewNonRetryableApplicationError(
			fmt.Sprintf("sweep input of version %d; this worker knows up to %d: deploy the newer worker", in.Version, runs.RecordVersion), "Version", nil)
	}
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    30 * time.Second,
		ScheduleToCloseTimeout: 12 * time.Hour, // the next day's look is as good
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: firstBackoff, MaximumInterval: mostTroubled},
	})
	return workflow.ExecuteActivity(ctx, activityAsk, askRequest{Place: in.Place}).Get(ctx, nil)
}

// sweep is the state of one execution of Sweep.
type sweep struct {
	ctx   workflow.Context
	in    runs.SweepInput
	asks  workflow.ReceiveChannel
	state runs.SweepState
	known map[string]int // where in state.Asked a job is
	// leaving says that a call in trouble was given up because the history is full.
	leaving bool
}

// drain takes in every ask that has come, without blocking.
func (s *sweep) drain() {
	for {
		var ask runs.SweepAsk
		if !s.asks.ReceiveAsync(&ask) {
			return
		}
		s.take(ask)
	}
}

// take takes in an ask. Of several by one job the newest counts.
func (s *sweep) take(ask runs.SweepAsk) {
	if !ask.Watched || ask.JobID == "" {
		s.state.Look = true
		return
	}
	k := runs.KnownJob{ID: ask.JobID, Name: ask.JobName, State: dataflow.State(ask.State).Short()}
	if !ask.StateTime.IsZero() {
		k.Time = ask.StateTime.UnixNano()
	}
	if i, ok := s.known[k.ID]; ok {
		s.state.Asked[i] = k
		return
	}
	if len(s.state.Asked) >= mostAsked {
		s.state.Result.Unseen++
		return
	}
	s.known[k.ID] = len(s.state.Asked)
	s.state.Asked = append(s.state.Asked, k)
}

// renew goes on in a new history, with all that is known.
func (s *sweep) renew() error {
	in := s.in
	if n := len(s.state.Asked); n > mostCarried {
		s.state.Result.Unseen += n - mostCarried
		s.state.Asked = s.state.Asked[:mostCarried]
	}
	in.Resume = &s.state
	return workflow.NewContinueAsNewError(s.ctx, workflow.GetInfo(s.ctx).WorkflowType.Name, in)
}

// gather waits until nobody more asks, or for long enough.
func (s *sweep) gather() {
	for range gathers {
		before := len(s.state.Asked)
		_ = workflow.Sleep(s.ctx, s.state.Settings.Timing.Gather) // cancelled, the sweep ends
		s.drain()
		if len(s.state.Asked) == before {
			return
		}
	}
}

// wait blocks until somebody asks, or the time until.
func (s *sweep) wait(until time.Time) {
	timer, drop := workflow.WithCancel(s.ctx)
	defer drop()
	workflow.NewSelector(s.ctx).
		AddFuture(workflow.NewTimer(timer, max(until.Sub(workflow.Now(s.ctx)), time.Millisecond)), func(workflow.Future) {}).
		AddReceive(s.asks, func(c workflow.ReceiveChannel, _ bool) {
			var ask runs.SweepAsk
			c.Receive(s.ctx, &ask)
			s.take(ask)
		}).
		Select(s.ctx)
}

// pass lists the jobs once, brings news to those who asked, and looks for suspects.
func (s *sweep) pass() {
	if limit := s.state.Settings.Overdue; limit > 0 && !s.state.OverdueDone {
		s.state.OverdueDone = true
		s.overdue(limit)
	}
	var reply sweepReply
	listed := s.persist(func() (progress, error) {
		s.drain() // who asks while the list cannot be had is served by it too
		req := sweepRequest{Place: s.in.Place}
		for _, k := range s.state.Asked {
			k.Name = ""
			req.Asked = append(req.Asked, k)
		}
		for _, x := range s.state.Suspects {
			req.Suspects = append(req.Suspects, x.JobID)
		}
		reply = sweepReply{}
		err := workflow.ExecuteActivity(s.calls(listCalls), activitySweep, req).Get(s.ctx, &reply)
		return progress{trouble: reply.trouble}, err
	})
	if s.leaving {
		return
	}
	asked := s.state.Asked
	s.state.Asked, s.state.Look = nil, false
	clear(s.known)
	r := &s.state.Result
	r.Asked += len(asked)
	if !listed {
		return
	}
	r.Lists++
	r.Seen, r.Ours = reply.Seen, reply.Ours
	r.Signalled += reply.Signalled
	r.Unseen += reply.More
	alone := make([]runs.KnownJob, 0, len(reply.Alone))
	for _, i := range reply.Alone {
		alone = append(alone, asked[i])
	}
	s.news(alone)
	found, left := s.suspect(reply.Strangers, troubledFor)
	if s.leaving {
		s.state.Look = true // the rest of them are in the next list
	} else {
		r.Unseen += len(left)
	}
	for _, o := range found {
		if len(s.state.Suspects) >= mostSuspects {
			r.Unseen++
			continue
		}
		r.Suspects++
		s.state.Suspects = append(s.state.Suspects, runs.Suspect{Orphan: o, Since: workflow.Now(s.ctx)})
	}
}

// news has each job looked at by itself, and its workflow told.
func (s *sweep) news(jobs []runs.KnownJob) {
	left := each(s, jobs, newsAtOnce, strandedFor, func(jobs []runs.KnownJob) (int, trouble, error) {
		var reply newsReply
		req := newsRequest{Place: s.in.Place, At: workflow.Now(s.ctx), Jobs: jobs}
		err := workflow.ExecuteActivity(s.calls(1), activityNews, req).Get(s.ctx, &reply)
		s.state.Result.Looked += reply.Done
		s.state.Result.Signalled += reply.Signalled
		return reply.Done, reply.trouble, err
	})
	if s.leaving {
		s.state.Asked = left
		return
	}
	s.state.Result.Unseen += len(left) // they ask again
}

// suspect gives those of the jobs that are orphans at this look, and those that it did not
// come to within a time.
func (s *sweep) suspect(jobs []listedJob, within time.Duration) (found []runs.Orphan, left []listedJob) {
	left = each(s, jobs, suspectsAtOnce, within, func(jobs []listedJob) (int, trouble, error) {
		var reply suspectReply
		req := suspectRequest{Place: s.in.Place, Jobs: jobs}
		err := workflow.ExecuteActivity(s.calls(1), activitySuspect, req).Get(s.ctx, &reply)
		found = append(found, reply.Orphans...)
		return reply.Done, reply.trouble, err
	})
	return found, left
}

// due gives the suspects whose second look is due, or when the next one's is. Suspects
// are in the order in which they were first seen.
func (s *sweep) due() (due []runs.Suspect, next time.Time) {
	now := workflow.Now(s.ctx)
	for i, x := range s.state.Suspects {
		if at := x.Since.Add(s.state.Settings.Timing.OrphanRecheck); now.Before(at) {
			return s.state.Suspects[:i], at
		}
	}
	return s.state.Suspects, time.Time{}
}

// recheck looks at suspects again, all of it, and settles what is an orphan.
func (s *sweep) recheck(due []runs.Suspect) {
	jobs := make([]listedJob, 0, len(due))
	for _, x := range due {
		jobs = append(jobs, listedJob{x.JobID, x.JobName})
	}
	s.state.Suspects = s.state.Suspects[len(due):]
	orphans, left := s.suspect(jobs, strandedFor)
	if s.leaving {
		s.state.Suspects = slices.Concat(due, s.state.Suspects)
		return
	}
	r := &s.state.Result
	r.Cleared += len(due) - len(left) - len(orphans)
	unsettled := each(s, orphans, settledAtOnce, strandedFor, func(orphans []runs.Orphan) (int, trouble, error) {
		var reply suspectReply
		req := settleRequest{
			Place: s.in.Place, Orphans: orphans, Rule: s.state.Settings.Orphans,
			Timing: s.state.Settings.Timing, Sweep: workflow.GetInfo(s.ctx).WorkflowExecution.RunID,
		}
		err := workflow.ExecuteActivity(s.calls(1), activitySettle, req).Get(s.ctx, &reply)
		for _, o := range reply.Orphans {
			if o.Done == doneNone {
				r.Cleared++
				continue
			}
			r.OrphanCount++
			if len(r.Orphans) < mostNamed {
				r.Orphans = append(r.Orphans, o)
			}
		}
		return reply.Done, reply.trouble, err
	})
	if s.leaving {
		again := slices.DeleteFunc(slices.Clone(due), func(x runs.Suspect) bool {
			return !slices.ContainsFunc(unsettled, func(o runs.Orphan) bool { return o.JobID == x.JobID })
		})
		s.state.Suspects = slices.Concat(again, s.state.Suspects)
		return
	}
	unfinished := map[string]bool{}
	for _, job := range left {
		unfinished[job.ID] = true
	}
	for _, o := range unsettled {
		unfinished[o.JobID] = true
	}
	if len(unfinished) > 0 {
		s.suspectAgain(slices.DeleteFunc(slices.Clone(due), func(x runs.Suspect) bool { return !unfinished[x.JobID] }))
	}
}

// suspectAgain keeps suspects, whose look met trouble, for another, so that they hold up no
// other's news meanwhile: for troubledFor, for the next sweep may be a day away.
func (s *sweep) suspectAgain(troubled []runs.Suspect) {
	if workflow.GetVersion(s.ctx, changeStepsOver, workflow.DefaultVersion, 1) < 1 {
		return
	}
	now := workflow.Now(s.ctx)
	for _, x := range troubled {
		if x.Troubled.IsZero() {
			x.Troubled = now
		}
		if now.Sub(x.Troubled) >= troubledFor {
			s.state.Result.Unseen++
			continue
		}
		x.Since = now
		s.state.Suspects = append(s.state.Suspects, x)
	}
}

// overdue has the runs reported that are open for too long. It is tried once: the next
// sweep is as good.
func (s *sweep) overdue(limit time.Duration) {
	var reply overdueReply
	req := overdueRequest{Place: s.in.Place, Before: workflow.Now(s.ctx).Add(-limit), Limit: limit}
	if err := workflow.ExecuteActivity(s.calls(1), activityOverdue, req).Get(s.ctx, &reply); err != nil {
		s.state.Result.Error = "the overdue runs were not looked for: " + reason(err)
		return
	}
	s.state.Result.Overdue, s.state.Result.OverdueMore = reply.Runs, reply.More
}

// Changes of what a sweep does, which its histories mark.
const (
	changeLeavesTrouble = "leaves-trouble" // it goes on in a new history also while it meets trouble
	changeStepsOver     = "steps-over"     // it goes on past jobs that cannot be looked at
)

// progress is what a call that is repeated came to.
type progress struct {
	trouble
	moved bool // it got something done
	more  bool // there is more to do
}

// each has all jobs taken in by calls, each of which says how many from the first it is done
// with, and gives those that it left.
//
// A job that a call does not get past goes to the end, so that it holds up no other. All that
// are left are given up when they have failed, one after the other, for so long. A job that is
// refused is given up at once, and with the third in a row all are.
func each[T any](s *sweep, jobs []T, atOnce int, within time.Duration, call func([]T) (done int, t trouble, err error)) (left []T) {
	var stuck int // calls that got nothing done, one after the other
	var since time.Time
	s.persist(func() (progress, error) {
		if len(jobs) == 0 {
			return progress{}, nil
		}
		done, t, err := call(jobs[:min(len(jobs), atOnce)])
		if err != nil {
			return progress{}, err
		}
		jobs = jobs[done:]
		t = t.slow(done)
		if t.Message == "" || len(jobs) == 0 {
			stuck = 0
			return progress{moved: true, more: len(jobs) > 0}, nil
		}
		if workflow.GetVersion(s.ctx, changeStepsOver, workflow.DefaultVersion, 1) < 1 {
			return progress{trouble: t}, nil
		}
		now := workflow.Now(s.ctx)
		if done > 0 {
			stuck = 0
		}
		if stuck++; stuck == 1 {
			since = now
		}
		first, rest := jobs[:1], jobs[1:]
		switch {
		case t.Lasting && stuck < mostRefusedJobs:
			jobs, left = rest, append(left, first...)
		case t.Lasting:
			return progress{trouble: t}, nil
		case stuck >= len(jobs) && now.Sub(since) >= within:
			jobs, left = nil, append(left, jobs...)
		default:
			jobs = slices.Concat(rest, first)
			return progress{trouble: t, moved: done > 0}, nil
		}
		s.leave(t)
		return progress{moved: true, more: len(jobs) > 0}, nil
	})
	return append(left, jobs...)
}

// persist repeats a call until it has no more to do, which it says. Trouble slows it
// down; it gives up what meets nothing else for troubledFor, and says so by false. While
// it lasts others ask, and a history takes only so many signals: a full one is left.
func (s *sweep) persist(call func() (progress, error)) bool {
	var since time.Time
	backoff := firstBackoff
	for s.ctx.Err() == nil {
		p, err := call()
		if err != nil {
			p.trouble = trouble{Message: reason(err)}
		}
		if p.moved {
			since, backoff = time.Time{}, firstBackoff
		}
		switch {
		case p.Message == "" && !p.more:
			return true
		case p.Message == "":
			continue
		}
		now := workflow.Now(s.ctx)
		if since.IsZero() {
			since = now
		}
		if p.Lasting || now.Sub(since) >= troubledFor {
			s.leave(p.trouble)
			return false
		}
		if workflow.GetInfo(s.ctx).GetContinueAsNewSuggested() && workflow.GetVersion(s.ctx, changeLeavesTrouble, workflow.DefaultVersion, 1) >= 1 {
			s.leaving = true
			return false
		}
		_ = workflow.Sleep(s.ctx, max(backoff, p.RetryAfter)) // cancelled, the sweep ends
		backoff = min(2*backoff, mostTroubled)
	}
	return false
}

// leave tells why something is left to the next sweep.
func (s *sweep) leave(t trouble) {
	s.state.Result.Error = t.Message
	workflow.GetLogger(s.ctx).Warn("the sweep leaves something to the next one", "finding", "sweep-troubled", "deployment", s.in.Deployment,
		"project", s.in.Project, "location", s.in.Location, "error", t.Message)
}

// calls are the options of an activity that the workflow repeats itself, and that may
// take as long as n calls.
func (s *sweep) calls(n int) workflow.Context {
	return workflow.WithActivityOptions(s.ctx, workflow.ActivityOptions{
		StartToCloseTimeout: time.Duration(n) * s.state.Settings.Timing.Call,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 1},
	})
}

// result is the sweep as it stands.
func (s *sweep) result() runs.SweepResult {
	r := s.state.Result
	r.Waiting = len(s.state.Suspects)
	return r
}

func (s *sweep) log() {
	r := s.state.Result
	workflow.GetLogger(s.ctx).Info("swept", "deployment", s.in.Deployment, "project", s.in.Project, "location", s.in.Location,
		"lists", r.Lists, "seen", r.Seen, "ours", r.Ours, "asked", r.Asked, "looked", r.Looked, "signalled", r.Signalled,
		"suspects", r.Suspects, "cleared", r.Cleared, "orphans", r.OrphanCount, "overdue", len(r.Overdue), "unseen", r.Unseen, "error", r.Error)
}
