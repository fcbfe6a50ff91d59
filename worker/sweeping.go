package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/runs"
)

// Activity types of the sweep, as histories hold them.
const (
	activityAsk     = "AskForSweep"
	activitySweep   = "SweepJobs"
	activityNews    = "BringNews"
	activitySuspect = "SuspectJobs"
	activitySettle  = "SettleOrphans"
	activityOverdue = "FindOverdueRuns"
)

const (
	// sweepMargin is what must be left of an activity's time for it to begin another
	// job: what it does not come to is left to the next call.
	sweepMargin = 2 * time.Second
	// mostStrangers bounds the jobs that one list hands on, so that they fit into a payload.
	mostStrangers = 5000
	// mostOverdue bounds the overdue runs that a sweep names.
	mostOverdue = 100
)

// askRequest is the input of ask.
type askRequest struct {
	runs.Place
	Ask runs.SweepAsk `json:"ask"`
	// RunOnly says that the sweep was asked before, and only the run is to be looked at.
	RunOnly bool `json:"runOnly,omitempty"`
}

// askReply is the output of ask.
type askReply struct {
	RunClosed bool `json:"runClosed,omitempty"`
	// RunUnseen says that Temporal did not tell whether the run is open, and why.
	RunUnseen string `json:"runUnseen,omitempty"`
}

// ask asks for the place's sweep, and looks at the run that the job belongs to.
func (a *Activities) ask(ctx context.Context, req askRequest) (askReply, error) {
	if !req.RunOnly {
		if err := runs.AskForSweep(ctx, a.Temporal, req.Place, req.Ask); err != nil {
			return askReply{}, err
		}
	}
	closed, err := a.runClosed(ctx, req.Ask.RunID)
	if err != nil {
		return askReply{RunUnseen: err.Error()}, nil //nolint:nilerr // what was asked for is asked for: the reply says what is missing
	}
	return askReply{RunClosed: closed}, nil
}

// trouble is why an activity of the sweep did not come to the end of its work.
type trouble struct {
	Message    string        `json:"message,omitempty"` // empty: there was none
	RetryAfter time.Duration `json:"retryAfter,omitempty"`
	// Lasting says that the next try would meet it again.
	Lasting bool `json:"lasting,omitempty"`
}

func troubleOf(err error) trouble {
	t := trouble{Message: err.Error()}
	var e *dataflow.Error
	if errors.As(err, &e) {
		t.RetryAfter = e.RetryAfter
	}
	switch dataflow.KindOf(err) {
	case dataflow.KindInvalid, dataflow.KindPermission, dataflow.KindNotFound:
		t.Lasting = true
	}
	return t
}

// slow is the trouble of a call that got nothing done, for whatever reason.
func (t trouble) slow(done int) trouble {
	if done == 0 && t.Message == "" {
		t.Message = "a call had no time for a single job"
	}
	return t
}

// hasTime says whether the activity may begin something more.
func hasTime(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() == nil && (!ok || time.Until(deadline) > sweepMargin)
}

// toldInTime bounds what hangs, so that the activity's answer still comes in time and says
// what was done, and which job could not be.
func toldInTime(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(ctx, deadline.Add(-sweepMargin/2))
	}
	return context.WithCancel(ctx)
}

// listedJob is a job of a list, which tells no labels.
type listedJob struct {
	ID   string `json:"i"`
	Name string `json:"n"`
}

// sweepRequest is the input of sweep.
type sweepRequest struct {
	runs.Place
	Asked []runs.KnownJob `json:"asked,omitempty"`
	// Suspects are the IDs of jobs that wait for their second look.
	Suspects []string `json:"suspects,omitempty"`
}

// sweepReply is the output of sweep.
type sweepReply struct {
	trouble
	Seen      int `json:"seen"`
	Ours      int `json:"ours"`
	Signalled int `json:"signalled"`
	// Alone are the jobs of Asked, by their index, that are to be looked at one by one.
	Alone []int `json:"alone,omitempty"`
	// Strangers are jobs of our names whose workflows did not ask. More are left out.
	Strangers []listedJob `json:"strangers,omitempty"`
	More      int         `json:"more,omitempty"`
}

// sweep lists the active jobs of a place once, and tells the workflows that asked what
// is news to them.
func (a *Activities) sweep(ctx context.Context, req sweepRequest) (sweepReply, error) {
	var reply sweepReply
	listed, err := a.Dataflow.List(ctx, req.Project, req.Location)
	if err != nil {
		reply.trouble = troubleOf(err)
		return reply, nil
	}
	reply.Seen = len(listed)
	byID := make(map[string]dataflow.Job, len(listed))
	for _, job := range listed {
		if !job.State.Terminal() && runs.OurJobName(req.Deployment, job.Name) {
			byID[job.ID] = job
		}
	}
	reply.Ours = len(byID)
	for i, known := range req.Asked {
		job, ok := byID[known.ID]
		delete(byID, known.ID) // its workflow has asked, so that it is open
		switch {
		case !ok:
			reply.Alone = append(reply.Alone, i) // the list may lag: absence proves nothing
		case !dataflow.Newer(observed(known), job.Observed()):
		case !hasTime(ctx) || a.tell(ctx, req.Place, job) != nil:
			reply.Alone = append(reply.Alone, i)
		default:
			reply.Signalled++
		}
	}
	for _, id := range req.Suspects {
		delete(byID, id)
	}
	for _, job := range listed {
		if _, ok := byID[job.ID]; ok {
			reply.Strangers = append(reply.Strangers, listedJob{job.ID, job.Name})
		}
	}
	if n := len(reply.Strangers); n > mostStrangers {
		rand.Shuffle(n, func(i, j int) { // so that none is left out each time
			reply.Strangers[i], reply.Strangers[j] = reply.Strangers[j], reply.Strangers[i]
		})
		reply.Strangers, reply.More = reply.Strangers[:mostStrangers], n-mostStrangers
	}
	return reply, nil
}

func observed(k runs.KnownJob) dataflow.Observed {
	o := dataflow.Observed{JobID: k.ID, State: dataflow.ParseState(k.State)}
	if k.Time != 0 {
		o.StateTime = time.Unix(0, k.Time).UTC()
	}
	return o
}

// tell signals a job's state to the workflow that watches the job. One that has closed
// meanwhile has no use for it.
func (a *Activities) tell(ctx context.Context, at runs.Place, job dataflow.Job) error {
	return a.signal(ctx, runs.JobWorkflowID(at.Project, at.Location, job.Name), runs.JobStatus{
		JobID: job.ID, State: string(job.State), StateTime: job.StateTime, Type: string(job.Type), ReplacedBy: job.ReplacedByJobID, Event: "sweep",
	})
}

func (a *Activities) signal(ctx context.Context, id string, status runs.JobStatus) error {
	if err := a.Temporal.SignalWorkflow(ctx, id, "", runs.SignalStatus, status); err != nil && !unknownWorkflow(err) {
		return fmt.Errorf("signal the state %s to %s: %w", status.State, id, err)
	}
	return nil
}

// newsRequest is the input of news.
type newsRequest struct {
	runs.Place
	At   time.Time       `json:"at"` // the workflow's time
	Jobs []runs.KnownJob `json:"jobs"`
}

// newsReply is the output of news.
type newsReply struct {
	trouble
	Done      int `json:"done"` // so many of the jobs, from the first
	Signalled int `json:"signalled,omitempty"`
}

// news takes a fresh look at each job, and tells its workflow what is news to it.
func (a *Activities) news(ctx context.Context, req newsRequest) (newsReply, error) {
	ctx, cancel := toldInTime(ctx)
	defer cancel()
	var reply newsReply
	for _, known := range req.Jobs {
		if !hasTime(ctx) {
			break
		}
		job, err := a.Dataflow.Get(ctx, req.Project, req.Location, known.ID)
		was := observed(known)
		switch {
		case dataflow.KindOf(err) == dataflow.KindNotFound:
			// Just after a launch that says nothing; after Dataflow's 30 days it does.
			if since := was.StateTime; since.IsZero() || req.At.Sub(since) <= forgotten {
				reply.Done++
				continue
			}
			err = a.signal(ctx, runs.JobWorkflowID(req.Project, req.Location, known.Name), runs.JobStatus{JobID: known.ID, Forgotten: true, Event: "sweep"})
		case err != nil:
		case dataflow.Newer(was, job.Observed()):
			err = a.tell(ctx, req.Place, job)
		default:
			reply.Done++
			continue
		}
		if err != nil {
			reply.trouble = troubleOf(err)
			return reply, nil
		}
		reply.Done++
		reply.Signalled++
	}
	return reply, nil
}

// daily is when a place's daily look was last asked for.
type daily struct {
	mu    sync.Mutex
	known map[runs.Place]time.Time // when it may be tried again; zero: it is there
}

// dailyRetry is how long a daily look that could not be arranged is left alone, and
// dailyWithin how long a launch waits for it.
const (
	dailyRetry  = 10 * time.Minute
	dailyWithin = 2 * time.Second
)

// arrangeDaily sees to it that a place has its daily look: with its first job, once a
// process. A launch does not depend on it.
func (a *Activities) arrangeDaily(ctx context.Context, at runs.Place) {
	if a.Daily == nil {
		return
	}
	now := time.Now()
	a.daily.mu.Lock()
	again, tried := a.daily.known[at]
	due := !tried || !again.IsZero() && now.After(again)
	if due {
		if a.daily.known == nil {
			a.daily.known = map[runs.Place]time.Time{}
		}
		a.daily.known[at] = now.Add(dailyRetry)
	}
	a.daily.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dailyWithin)
	defer cancel()
	if err := a.Daily(ctx, at); err != nil {
		a.log().Warn("the daily sweep could not be arranged; trying again with a later launch",
			"project", at.Project, "location", at.Location, "wait", dailyRetry, "error", err)
		return
	}
	a.daily.mu.Lock()
	a.daily.known[at] = time.Time{}
	a.daily.mu.Unlock()
}

// Daily makes what Activities.Daily is: it creates the place's Schedule, unless that exists.
func Daily(c client.ScheduleClient) func(context.Context, runs.Place) error {
	return func(ctx context.Context, at runs.Place) error {
		id := runs.DailySweepID(at.Deployment, at.Project, at.Location)
		const day = 24 * time.Hour
		_, err := c.Create(ctx, client.ScheduleOptions{
			ID:      id,
			Spec:    client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: day}}, Jitter: time.Hour},
			Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP,
			Note:    "looks once a day for jobs in " + at.Project + "/" + at.Location + " that nobody watches",
			Action: &client.ScheduleWorkflowAction{
				ID: id, Workflow: runs.TypeDailySweep, TaskQueue: runs.TaskQueue(at.Deployment),
				Args: []any{runs.SweepInput{Version: runs.RecordVersion, Place: at}},
			},
		})
		if err != nil && !errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
			return fmt.Errorf("create the schedule %s: %w", id, err)
		}
		return nil
	}
}
