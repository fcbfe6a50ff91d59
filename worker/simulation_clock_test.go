package worker_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/penstock/penstock/runs"
	"github.com/penstock/penstock/worker"
)

const (
	// While something of the environment is under way, a timer that is due within the
	// same stretch of wall time may fire early: events are kept this far apart.
	instant = 25 * time.Millisecond
	// Each actor has instants of its own, so that the order of two events never depends
	// on the order in which goroutines asked for them.
	slots = 8

	signalNudge = "simulation-nudge" // wakes a workflow whose activity has reported
	signalKill  = "simulation-kill"  // terminates a workflow
	// What a run may take, by its own clock. Far more than any sum of its waits.
	endless = 20 * 24 * time.Hour
)

// actor is a step with all that is its own (its workflow, jobs, events), or the world
// around the run: it has its own random numbers and its own instants.
type actor struct {
	name   string
	slot   time.Duration
	random *rand.Rand
	taken  map[time.Duration]bool
}

func newActor(seed uint64, name string, slot int) *actor {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return &actor{
		name: name, slot: time.Duration(slot) * instant,
		random: rand.New(rand.NewPCG(seed, h.Sum64())),
		taken:  map[time.Duration]bool{},
	}
}

func (a *actor) chance(p float64) bool { return a.random.Float64() < p }

// between is a random duration of at least low and less than high.
func (a *actor) between(low, high time.Duration) time.Duration {
	return low + time.Duration(a.random.Int64N(int64(high-low)))
}

// simulation is one schedule.
type simulation struct {
	seed  uint64
	plan  plan
	env   *testsuite.TestWorkflowEnvironment
	begun time.Time
	world *actor
	steps []*simulatedStep
	byID  map[string]*simulatedStep // by the workflow IDs of their attempts

	jobs   []*simulatedJob
	calls  int // of Dataflow's API
	timers int // of the workflows
	seen   map[string]int

	cancelled, terminated time.Duration // when the run was; zero: it was not
	over                  bool          // the run is
	ended                 time.Duration // when it, and what it left open, was
	err                   error         // of the run

	sweeper    *actor
	executions map[string]*simulatedExecution
	open       int             // of them
	reported   map[string]bool // jobs that a sweep called orphans
	outcome    string
	result     runs.RunResult

	trace      []line
	violations []string
}

// simulate runs the schedule of a seed and checks it.
func simulate(seed uint64) *simulation {
	s := &simulation{seed: seed, byID: map[string]*simulatedStep{}, seen: map[string]int{}, outcome: "none"}
	s.world, s.sweeper = newActor(seed, "world", slots-1), newActor(seed, "sweep", slots-2)
	s.executions, s.reported = map[string]*simulatedExecution{}, map[string]bool{}
	s.plan = drawPlan(s.world)
	s.plan.drawSweeps(s.sweeper)
	for i, p := range s.plan.steps {
		step := &simulatedStep{PlannedStep: p, sim: s, actor: newActor(seed, p.Name, i)}
		s.steps = append(s.steps, step)
		for attempt := 1; attempt <= mostAttempts; attempt++ {
			s.byID[runs.JobWorkflowID(project, location, runs.JobName("dev", "orders", "k", p.Name, attempt))] = step
		}
	}
	s.run()
	if len(s.violations) == 0 {
		s.check()
	}
	slices.SortStableFunc(s.trace, line.compare)
	return s
}

func (s *simulation) run() {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(gaveUp); !ok {
				s.violate("panic: %v\n%s", r, debug.Stack())
			}
		}
	}()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	s.env = suite.NewTestWorkflowEnvironment()
	s.env.SetTestTimeout(20 * time.Second)
	s.begun = time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)
	s.env.SetStartTime(s.begun)
	w, err := worker.New(s.plan.timing, nil)
	if err != nil {
		panic(err)
	}
	w.Orphans = s.plan.orphans
	s.env.SetWorkerOptions(sdkworker.Options{DeadlockDetectionTimeout: time.Minute}) // on a busy machine
	worker.Register(&actingRegistry{Registry: s.env, sim: s}, w, &worker.Activities{
		Dataflow: (*simulatedDataflow)(s), Temporal: (*simulatedTemporal)(s),
		NamespaceID: func(context.Context) (string, error) { return namespace, nil },
		Log:         slog.New((*sweepLog)(s)),
	})
	s.env.RegisterWorkflowWithOptions(s.server, workflow.RegisterOptions{Name: "Server"})
	s.env.SetOnTimerScheduledListener(func(string, time.Duration) {
		if s.timers++; s.timers > mostTimers {
			s.giveUp("%d timers: the run spins", s.timers)
		}
	})
	s.env.SetOnChildWorkflowStartedListener(func(info *workflow.Info, _ workflow.Context, _ converter.EncodedValues) {
		s.opened(info)
	})
	s.env.SetOnChildWorkflowCompletedListener(func(info *workflow.Info, _ converter.EncodedValue, err error) {
		s.closed(info, err)
	})
	s.env.RegisterDelayedCallback(func() { s.giveUp("the run is not over after %v", endless) }, endless)
	s.arrange()
	kind := runs.TypeRun
	for _, step := range s.plan.steps {
		if step.Job.Streaming {
			kind = runs.TypeStreamingRun
		}
	}
	s.env.ExecuteWorkflow("Server", kind, runInput(s.plan.steps...))
	if !s.env.IsWorkflowCompleted() || !s.over {
		s.violate("the run did not complete")
		return
	}
	err = s.err
	var (
		app  *temporal.ApplicationError
		gone *temporal.TerminatedError
		can  *temporal.CanceledError
	)
	switch {
	case errors.As(err, &app) && app.Type() == worker.ErrorRunFailed:
		err = app.Details(&s.result)
	case errors.As(err, &can):
		err = can.Details(&s.result)
	case errors.As(err, &gone) && s.terminated != 0:
		s.outcome = "terminated"
		return
	}
	if err != nil {
		s.violate("the run ended in an unforeseen way: %v", err)
	}
	s.outcome = string(s.result.Outcome)
}

// arrange sets what happens to the run from outside.
func (s *simulation) arrange() {
	for _, step := range s.steps {
		if step.chance(s.plan.weather.foreignJob) {
			s.meet(sightForeignJob)
			name := runs.JobName("dev", "orders", "k", step.Name, 1)
			j := s.launch(step, launchOf(step.PlannedStep, name), true)
			j.listed, j.found = 0, 0
		}
	}
	for _, at := range s.plan.looks {
		s.after(s.sweeper, at, func() { s.ask(runs.SweepAsk{}) })
	}
	if s.plan.cancel >= 0 {
		s.after(s.world, s.plan.cancel, s.cancelRun)
	}
	if s.plan.terminate > 0 {
		s.after(s.world, s.plan.terminate, func() {
			if s.terminated == 0 && !s.over {
				s.note(s.world, "the run is terminated")
				s.meet(sightTerminated)
				s.terminated = s.elapsed()
				for _, step := range s.steps {
					// Nobody will start its workflow again: its job is the sweep's business.
					step.deserted = step.open == "" || step.asked != 0 || s.plan.desert
				}
				_ = s.env.SignalWorkflowByID(simulatedRun, signalKill, nil)
				for _, step := range s.steps {
					if s.plan.desert && step.open != "" {
						if step.task != nil {
							step.task.orphan = true
						}
						_ = s.env.SignalWorkflowByID(step.open, signalKill, nil)
					}
				}
				s.after(s.world, stopWithin, s.expectStops)
			}
		})
	}
}

func (s *simulation) cancelRun() {
	if s.cancelled != 0 || s.over {
		return
	}
	s.note(s.world, "the run is cancelled")
	s.meet(sightCancelled)
	s.cancelled = s.elapsed()
	s.env.CancelWorkflow()
	s.after(s.world, stopWithin, s.expectStops)
}

func (s *simulation) elapsed() time.Duration { return s.env.Now().Sub(s.begun) }

// after has something happen some time from now, at an instant of the actor's own.
func (s *simulation) after(a *actor, d time.Duration, f func()) {
	const round = slots * instant
	now := s.elapsed()
	at := (now + d).Truncate(round) + a.slot
	for at <= now || a.taken[at] {
		at += round
	}
	a.taken[at] = true
	s.env.RegisterDelayedCallback(f, at-now)
}

// line is a line of the trace.
type line struct {
	at   time.Duration
	by   string
	text string
}

func (l line) String() string { return fmt.Sprintf("%12v %-6s %s", l.at, l.by, l.text) }

// compare orders by instant. Within one, workflows start in any order: they do not meet.
func (l line) compare(m line) int {
	return cmp.Or(cmp.Compare(l.at, m.at), cmp.Compare(l.by, m.by))
}

func (s *simulation) note(a *actor, format string, args ...any) {
	s.trace = append(s.trace, line{s.elapsed(), a.name, fmt.Sprintf(format, args...)})
}

func (s *simulation) meet(what string) { s.seen[what]++ }

func (s *simulation) violate(format string, args ...any) {
	at := "before the start"
	if s.env != nil {
		at = s.elapsed().String()
	}
	text := fmt.Sprintf(format, args...)
	s.violations = append(s.violations, at+": "+text)
	if s.env != nil {
		s.note(s.world, "VIOLATION %s", text)
	}
}

// gaveUp ends a schedule that would go on for ever.
type gaveUp struct{}

func (s *simulation) giveUp(format string, args ...any) {
	s.violate(format, args...)
	panic(gaveUp{})
}

// actingRegistry puts actors in the place of activities, and workflows that can be
// terminated in the place of workflows.
type actingRegistry struct {
	sdkworker.Registry
	sim *simulation
}

func (r *actingRegistry) RegisterWorkflowWithOptions(w any, o workflow.RegisterOptions) {
	switch f := w.(type) {
	case func(workflow.Context, runs.RunInput) (runs.RunResult, error):
		w = mortal(f)
	case func(workflow.Context, runs.JobInput) (runs.JobResult, error):
		w = mortal(f)
	}
	r.Registry.RegisterWorkflowWithOptions(w, o)
}

// mortal is a workflow that stops where it is when it is terminated.
func mortal[I, O any](f func(workflow.Context, I) (O, error)) func(workflow.Context, I) (O, error) {
	return func(ctx workflow.Context, in I) (out O, err error) {
		over := false
		done, kill := workflow.NewChannel(ctx), workflow.GetSignalChannel(ctx, signalKill)
		workflow.Go(ctx, func(ctx workflow.Context) {
			out, err = f(ctx, in)
			over = true
			done.Close()
		})
		workflow.NewSelector(ctx).
			AddReceive(done, func(workflow.ReceiveChannel, bool) {}).
			AddReceive(kill, func(workflow.ReceiveChannel, bool) {}).
			Select(ctx)
		if !over {
			return out, &temporal.TerminatedError{}
		}
		return out, err
	}
}

// RegisterActivityWithOptions registers what only asks for its turn: the activity's own
// code runs later, on the simulation's clock.
func (r *actingRegistry) RegisterActivityWithOptions(f any, o activity.RegisterOptions) {
	typ := reflect.TypeOf(f)
	r.Registry.RegisterActivityWithOptions(reflect.MakeFunc(typ, func(args []reflect.Value) []reflect.Value {
		ctx, _ := args[0].Interface().(context.Context)
		info := activity.GetInfo(ctx)
		r.sim.env.RegisterDelayedCallback(func() { r.sim.schedule(f, o.Name, info, args[1:]) }, 0)
		out := make([]reflect.Value, typ.NumOut())
		for i := range out {
			out[i] = reflect.Zero(typ.Out(i))
		}
		out[len(out)-1] = reflect.ValueOf(activity.ErrResultPending)
		return out
	}).Interface(), o)
}

// task is one activity on the simulation's clock. Its code runs as a coroutine that
// gives the clock back whenever a call to Dataflow takes time.
type task struct {
	context.Context
	sim       *simulation
	step      *simulatedStep
	name      string
	activity  any
	args      []reflect.Value
	info      activity.Info
	scheduled time.Duration
	tries     int

	began    bool
	deadline time.Duration
	expired  bool // the deadline has passed: no call can be made, no report is heard
	orphan   bool // it has reported, or its workflow is gone
	killAt   int  // the pause at which its worker dies; zero: it lives
	pauses   int
	yield    func(time.Duration) bool
	out      []reflect.Value
}

type killed struct{}

// Deadline is the wall time at which the simulated deadline would be.
func (t *task) Deadline() (time.Time, bool) {
	return time.Now().Add(t.deadline - t.sim.elapsed()), true
}

func (t *task) Err() error {
	if t.expired {
		return context.DeadlineExceeded
	}
	return nil
}

type taskKey struct{}

func (t *task) Value(key any) any {
	if key == (taskKey{}) {
		return t
	}
	return nil
}

func taskOf(ctx context.Context) *task {
	t, _ := ctx.Value(taskKey{}).(*task)
	return t
}

// pause lets simulated time pass within a call.
func (t *task) pause(d time.Duration) {
	if t.expired {
		return
	}
	if !t.yield(d) {
		panic(killed{})
	}
}

func (s *simulation) schedule(f any, name string, info activity.Info, args []reflect.Value) {
	step := s.byID[info.WorkflowExecution.ID]
	if step == nil { // an activity of the run's own, or of the sweep's
		step = &simulatedStep{sim: s, actor: s.world, openRun: info.WorkflowExecution.RunID}
		if info.WorkflowExecution.ID == simulatedSweep {
			step.actor = s.sweeper
		}
	}
	t := &task{
		Context: context.Background(), sim: s, step: step, name: name, activity: f, args: args,
		info: info, scheduled: s.elapsed(),
	}
	step.task = t
	t.queue(0)
}

// queue has the activity begin when a worker takes it.
func (t *task) queue(after time.Duration) {
	a, w := t.step.actor, t.sim.plan.weather
	wait := after + a.between(0, time.Second)
	if a.chance(w.noWorker) {
		t.sim.meet(sightNoWorker)
		wait += a.between(0, 3*time.Minute)
	}
	t.began = false
	t.sim.after(a, wait, t.begin)
}

func (t *task) begin() {
	if t.unheard() {
		return // the workflow was terminated before a worker took its activity
	}
	a := t.step.actor
	t.began, t.expired, t.pauses, t.killAt = true, false, 0, 0
	t.tries++
	t.deadline = t.sim.elapsed() + t.sim.plan.timing.WithDefaults().Call
	if a.chance(t.sim.plan.weather.kill) {
		t.killAt = 1 + a.random.IntN(4)
	}
	next, stop := iter.Pull(func(yield func(time.Duration) bool) {
		defer func() {
			if r := recover(); r != nil && r != (killed{}) {
				panic(r)
			}
		}()
		t.yield = yield
		t.out = reflect.ValueOf(t.activity).Call(append([]reflect.Value{reflect.ValueOf(context.Context(t))}, t.args...))
	})
	t.advance(next, stop)
}

// advance runs the activity up to its next pause, and arranges what follows.
func (t *task) advance(next func() (time.Duration, bool), stop func()) {
	s := t.sim
	d, more := next()
	if !more {
		t.report()
		return
	}
	t.pauses++
	left := t.deadline - s.elapsed()
	switch {
	case t.pauses == t.killAt:
		stop()
		s.meet(sightKilled)
		s.note(t.step.actor, "the worker dies in %s", t.name)
		s.after(t.step.actor, left, func() { t.complete(nil, timedOut()) })
	case d >= left-slots*instant:
		s.after(t.step.actor, left, func() {
			// Temporal has given it up; what it had sent may still arrive.
			t.expired = true
			t.complete(nil, timedOut())
			for more := true; more; {
				_, more = next()
			}
		})
	default:
		s.after(t.step.actor, d, func() { t.advance(next, stop) })
	}
}

func timedOut() error {
	return temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_START_TO_CLOSE, nil)
}

// report hands the activity's outcome to its workflow, or tries again where the
// workflow asked for that.
func (t *task) report() {
	if t.expired {
		return
	}
	err, _ := t.out[len(t.out)-1].Interface().(error)
	if err == nil {
		t.complete(t.out[0].Interface(), nil)
		return
	}
	t.complete(nil, err)
}

// unheard says that nobody waits for the activity's report any more.
func (t *task) unheard() bool { return t.orphan || t.step.openRun != t.info.WorkflowExecution.RunID }

func (t *task) complete(result any, err error) {
	s := t.sim
	if t.unheard() {
		return
	}
	// ReportJob alone leaves the retries to Temporal.
	var app *temporal.ApplicationError
	if final := errors.As(err, &app) && app.NonRetryable(); err != nil && !final && t.name == "ReportJob" {
		if wait := min(time.Second<<min(t.tries-1, 6), time.Minute); s.elapsed()-t.scheduled+wait < 10*time.Minute {
			t.queue(wait)
			return
		}
	}
	text := fmt.Sprintf("%+v", result)
	if err != nil {
		text = err.Error()
	}
	s.note(t.step.actor, "%s: %s", t.name, strings.ReplaceAll(text, "\n", " "))
	t.orphan = true // reports once
	if e := s.env.CompleteActivity(t.info.TaskToken, result, err); e != nil {
		panic(e)
	}
	_ = s.env.SignalWorkflowByID(t.info.WorkflowExecution.ID, signalNudge, nil)
}
