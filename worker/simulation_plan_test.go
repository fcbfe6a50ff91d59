package worker_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
	"github.com/penstock/penstock/worker"
)

// mostAttempts is more attempts than any step of a schedule makes.
const mostAttempts = 60

// What schedules must meet, each in some: a simulation that meets none tests nothing.
const (
	sightCancelled   = "run cancelled"
	sightTerminated  = "run terminated"
	sightKilled      = "worker killed in an activity"
	sightNoWorker    = "no worker"
	sightUnstarted   = "workflow of a job terminated"
	sightHandedOver  = "workflow of a job asked to hand over"
	sightLost        = "launch lost after commit"
	sightDropped     = "launch lost before commit"
	sightLate        = "launch committed late"
	sightConflict    = "409"
	sightExisting    = "existing job returned"
	sightQuota       = "launch refused for quota"
	sightQuotaJob    = "job failed for quota"
	sightInvalid     = "launch refused as invalid"
	sightTransient   = "transient error"
	sightHidden      = "job not listed yet"
	sightNotYet      = "404 just after launch"
	sightNotReady    = "cancel refused as not ready"
	sightOverAlready = "cancel refused as terminated"
	sightStopLost    = "cancel not answered"
	sightForced      = "cancel forced"
	sightDrained     = "drain"
	sightUpdated     = "job updated"
	sightForeignJob  = "foreign job under the name"
	sightForeignID   = "event of a foreign job ID"
	sightEventLost   = "event lost"
	sightEventTwice  = "event twice"
	sightEventLate   = "event late"
	sightCrossing    = "events that overtake an answer"
	sightNoListener  = "event for a closed workflow"
	sightWrongType   = "job of the wrong type"
	sightHangs       = "job that hangs"
	sightQuick       = "job over within seconds"
	sightRunning     = "streaming job running"
	sightSwept       = "sweep"
	sightOrphan      = "orphan"
	sightAdopted     = "workflow started for an orphan"
	sightAdoptLost   = "start of it not answered"
)

var everySight = []string{
	sightCancelled, sightTerminated, sightKilled, sightNoWorker, sightUnstarted, sightHandedOver, sightLost, sightDropped, sightLate,
	sightConflict, sightExisting, sightQuota, sightQuotaJob, sightInvalid, sightTransient, sightHidden, sightNotYet, sightNotReady,
	sightOverAlready, sightStopLost, sightForced, sightDrained, sightUpdated, sightForeignJob, sightForeignID, sightEventLost,
	sightEventTwice, sightEventLate, sightCrossing, sightNoListener, sightWrongType, sightHangs, sightQuick, sightRunning,
	sightSwept, sightOrphan, sightAdopted, sightAdoptLost,
}

// plan is what a seed decides before the run begins.
type plan struct {
	steps     []pipeline.PlannedStep
	timing    worker.Timing
	weather   weather
	cancel    time.Duration // when the run is cancelled; negative: it is not
	terminate time.Duration // when the run is terminated; zero: it is not
	desert    bool          // and its jobs' workflows with it
	orphans   runs.OrphanRule
	looks     []time.Duration // when somebody asks for a sweep
}

// weather holds the chances of what goes wrong.
type weather struct {
	lost, dropped, late, transient, quota, invalid, kill, noWorker    float64
	slow                                                              float64 // calls that take up to half a minute
	existing                                                          bool    // a launch of a taken name is answered with the job, not with 409
	lag                                                               time.Duration
	deepLag                                                           bool // the list lags far behind the horizon, as it may for queued jobs
	eventLost, eventTwice, eventLate, crossing, foreignID, foreignJob float64
	terminated, handedOver                                            float64
	cancelThen                                                        float64 // the run is cancelled while such a workflow is down
	quick, fails, hangs, quotaJob, outsider, updated, wrongType       float64
	deafCancel                                                        float64 // jobs that only a forced cancel ends
}

func drawPlan(a *actor) plan {
	p := plan{cancel: -1, weather: drawWeather(a)}
	names := []string{"a", "b", "c", "d"}[:1+a.random.IntN(4)]
	streaming := false
	for i, name := range names {
		s := planned(name)
		for _, earlier := range names[:i] {
			if a.chance(0.4) {
				s.Needs = append(s.Needs, earlier)
			}
		}
		s.Timeout = one(a.random, 10*time.Minute, time.Hour, time.Hour, 6*time.Hour)
		s.Retry = pipeline.Retry{
			Attempts: one(a.random, 0, 1, 2, 3, 4), MaxBackoff: 10 * time.Minute,
			Backoff: one(a.random, 0, 10*time.Second, time.Minute),
		}
		if a.chance(0.12) {
			s.Job.Streaming, streaming = true, true
		}
		p.steps = append(p.steps, s)
	}
	a.random.Shuffle(len(p.steps), func(i, j int) { p.steps[i], p.steps[j] = p.steps[j], p.steps[i] })
	p.timing = worker.Timing{Safety: one(a.random, 0, 15*time.Minute, time.Hour)}
	if streaming || a.chance(0.3) {
		p.cancel = one(a.random, 0, a.between(0, 20*time.Second), a.between(0, 5*time.Minute), a.between(0, time.Hour), a.between(0, 8*time.Hour))
	}
	if a.chance(0.05) {
		p.terminate = a.between(time.Second, one(a.random, time.Minute, 3*time.Hour))
	}
	if len(p.steps) == 1 && !streaming && p.cancel < 0 && p.terminate == 0 && a.chance(0.5) {
		// Only 409 tells of such a job: a step that gives up before the list shows it
		// leaves an orphan, which is the sweep's business.
		p.weather.deepLag, p.weather.invalid, p.weather.wrongType, p.weather.lost = true, 0, 0, max(p.weather.lost, 0.3)
		p.steps[0].Timeout, p.weather.cancelThen = 6*time.Hour, 0
	}
	return p
}

// drawSweeps adds what has numbers of its own, so that it changes nothing else of a seed.
func (p *plan) drawSweeps(a *actor) {
	p.orphans = one(a.random, runs.OrphansReport, runs.OrphansAdopt, runs.OrphansDrain, runs.OrphansCancel)
	if p.terminate == 0 && p.cancel < 0 && !p.weather.deepLag && a.chance(0.25) {
		p.terminate, p.desert = a.between(time.Second, one(a.random, 5*time.Minute, 3*time.Hour)), a.chance(0.8)
	}
	for range a.random.IntN(4) {
		p.looks = append(p.looks, a.between(0, one(a.random, 20*time.Minute, 4*time.Hour)))
	}
}

func drawWeather(a *actor) weather {
	r := a.random
	if a.chance(0.05) {
		return weather{fails: one(r, 0, 0.5)} // nothing goes wrong but the jobs
	}
	return weather{
		lost: one(r, 0, 0.1, 0.3, 0.6), dropped: one(r, 0, 0.1, 0.3), late: one(r, 0, 0, 0.1, 0.3),
		transient: one(r, 0, 0.05, 0.3), quota: one(r, 0, 0, 0.3), invalid: one(r, 0, 0, 0, 0.1),
		kill: one(r, 0, 0.05, 0.3), noWorker: one(r, 0, 0.05), slow: one(r, 0, 0.1),
		existing: a.chance(0.5), lag: one(r, time.Second, 15*time.Second, 85*time.Second),
		eventLost: one(r, 0, 0.3, 0.7), eventTwice: one(r, 0, 0.3), eventLate: one(r, 0, 0.3, 0.6), crossing: one(r, 0, 0.3),
		foreignID: one(r, 0, 0.3), foreignJob: one(r, 0, 0, 0, 0.1),
		terminated: one(r, 0, 0.1, 0.4), handedOver: one(r, 0, 0.1, 0.4), cancelThen: one(r, 0, 0, 0.5),
		quick: one(r, 0, 0.2, 0.7), fails: one(r, 0.1, 0.5), hangs: one(r, 0, 0.1), quotaJob: one(r, 0, 0.1),
		outsider: one(r, 0, 0, 0.1), updated: one(r, 0, 0.4), wrongType: one(r, 0, 0, 0, 0.1), deafCancel: one(r, 0, 0.3),
	}
}

func one[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func (p plan) String() string {
	var steps []string
	for _, s := range p.steps {
		text := fmt.Sprintf("%s(%s) timeout %v, %d attempts", s.Name, strings.Join(s.Needs, " "), s.Timeout, s.Retry.Attempts)
		if s.Job.Streaming {
			text += ", streaming"
		}
		steps = append(steps, text)
	}
	return fmt.Sprintf("steps: %s; cancelled at %v, terminated at %v; safety %v; orphans %s, sweeps at %v; %+v", strings.Join(steps, " | "), p.cancel, p.terminate, p.timing.Safety, p.orphans, p.looks, p.weather)
}

// simulatedStep is a step and all that is its own.
type simulatedStep struct {
	pipeline.PlannedStep
	*actor
	sim  *simulation
	task *task

	open     string        // the workflow ID of the attempt under way; empty: none
	openRun  string        // and its run ID
	lives    int           // workflows that were started
	told     time.Duration // when the open workflow was told that its job is over; zero: it was not
	asked    time.Duration // when the open workflow was asked to hand over
	refused  bool          // a launch was refused for good
	deserted bool          // the run was terminated while the step had no workflow, or one that was to hand over
	launches int
}

// started is called when a workflow of the step's attempt begins, and decides whether it is cut short.
func (s *simulatedStep) started(by workflow.Execution) {
	sim, id := s.sim, by.ID
	s.open, s.openRun, s.told, s.asked, s.task = id, by.RunID, 0, 0, nil
	s.lives++
	sim.note(s.actor, "workflow %d starts: %s", s.lives, id)
	life := s.lives
	cut := func(what, signal string) {
		wait := one(s.random, s.between(0, 3*time.Second), s.between(0, time.Minute), s.between(0, 30*time.Minute))
		sim.after(s.actor, wait, func() {
			if s.open == "" || s.lives != life || sim.terminated != 0 {
				return
			}
			sim.meet(what)
			sim.note(s.actor, "%s", what)
			if signal == signalKill {
				if s.task != nil {
					s.task.orphan = true
				}
			} else {
				s.asked = sim.elapsed()
			}
			_ = sim.env.SignalWorkflowByID(id, signal, nil)
			if s.chance(sim.plan.weather.cancelThen) {
				sim.after(sim.world, s.between(0, 20*time.Second), sim.cancelRun)
			}
		})
	}
	switch w := sim.plan.weather; {
	case s.lives > 8, sim.terminated != 0, sim.over: // nobody would start it again: the sweep's business
	case s.chance(w.terminated):
		cut(sightUnstarted, signalKill)
	case s.chance(w.handedOver):
		cut(sightHandedOver, runs.SignalHandOver)
	}
}

// What a workflow may take for what it was told, and a stop to reach a job: some calls
// that fail and are repeated, workers that are not there, workflows that are cut short.
const (
	heedWithin = 35 * time.Minute
	stopWithin = time.Hour
)

// closed is called when a workflow of the step's attempt has ended.
func (s *simulatedStep) closed(err error) {
	now := s.sim.elapsed()
	how := "ends"
	if err != nil {
		how = "is cut short"
	}
	s.sim.note(s.actor, "workflow %d %s", s.lives, how)
	if s.told != 0 && now-s.told > heedWithin {
		s.sim.violate("the workflow of %s was told %v ago that its job is over", s.open, now-s.told)
	}
	if s.asked != 0 && now-s.asked > heedWithin {
		s.sim.violate("the workflow of %s was asked %v ago to hand over", s.open, now-s.asked)
	}
	s.open, s.openRun = "", ""
}
