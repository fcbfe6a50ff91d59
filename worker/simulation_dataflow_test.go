package worker_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/runs"
)

// simulatedJob is a job in the simulated Dataflow's ledger.
type simulatedJob struct {
	dataflow.Job
	step    *simulatedStep
	foreign bool
	first   *simulatedJob // the job at the head of a chain of updates

	created, ran, ended time.Duration
	listed, found       time.Duration // from when on the list, and a look by ID, show it
	stopped             bool          // Dataflow accepted a cancel or a drain
	deaf                bool          // only a forced cancel ends it
	revealed            time.Duration // from when on an updated job names its successor
}

func (j *simulatedJob) active() bool { return !j.State.Terminal() }

// launch adds a job to the ledger, and sets its life.
func (s *simulation) launch(step *simulatedStep, l dataflow.Launch, foreign bool) *simulatedJob {
	w, a := s.plan.weather, step.actor
	j := &simulatedJob{
		Job: dataflow.Job{
			ID: fmt.Sprintf("%s-job-%d", step.Name, step.launches+1), Name: l.JobName, Project: l.Project, Location: l.Location,
			Type: l.Type(), State: dataflow.StateQueued, StateTime: s.env.Now(), CreateTime: s.env.Now(), Labels: l.Labels,
		},
		step: step, foreign: foreign, created: s.elapsed(),
	}
	j.first = j
	step.launches++
	j.listed = j.created + a.between(0, w.lag+1)
	if a.chance(0.3) {
		j.found = j.created + a.between(0, 5*time.Second)
	}
	j.deaf = a.chance(w.deafCancel)
	if w.deepLag && !foreign {
		j.listed += a.between(3*time.Minute, 15*time.Minute)
	}
	s.note(a, "ledger: job %s is launched as %s", j.ID, j.Name)
	if !foreign {
		s.checkLaunch(j)
		if a.chance(w.wrongType) {
			s.meet(sightWrongType)
			j.Type = dataflow.Launch{Streaming: !l.Streaming}.Type()
		}
	}
	s.jobs = append(s.jobs, j)
	s.tell(j)
	s.live(j)
	if !foreign && a.chance(w.foreignID) {
		s.after(a, a.between(0, 10*time.Minute), func() {
			s.meet(sightForeignID)
			s.deliver(step, j.Name, runs.JobStatus{JobID: "foreign", State: string(one(a.random, dataflow.StateDone, dataflow.StateFailed, dataflow.StateRunning)), StateTime: s.env.Now()})
		})
	}
	return j
}

// live decides what becomes of a job that is left alone.
func (s *simulation) live(j *simulatedJob) {
	w, a := s.plan.weather, j.step.actor
	end := dataflow.StateDone
	streaming := j.Type == dataflow.TypeStreaming
	switch {
	case a.chance(w.hangs):
		end = ""
	case a.chance(w.outsider):
		end = dataflow.StateCancelled
		if streaming {
			end = one(a.random, dataflow.StateCancelled, dataflow.StateDrained)
		}
	case a.chance(w.fails):
		end = dataflow.StateFailed
	case streaming && a.chance(w.updated):
		end = dataflow.StateUpdated
	case streaming:
		end = "" // as streaming jobs do
	}
	if end == "" && !streaming {
		s.meet(sightHangs)
	}
	if w.deepLag {
		// What ends before the list shows it is launched again: no API excludes that.
		s.after(a, j.listed-s.elapsed()+a.between(time.Minute, 20*time.Minute), func() { s.change(j, one(a.random, dataflow.StateDone, dataflow.StateFailed)) })
		return
	}
	if end != "" && end != dataflow.StateUpdated && a.chance(w.quick) {
		s.meet(sightQuick)
		s.after(a, a.between(time.Second, time.Minute), func() { s.change(j, end) })
		return
	}
	hangsEarly := end == "" && a.chance(0.3)
	s.after(a, a.between(time.Second, time.Minute), func() {
		s.change(j, dataflow.StatePending)
		if hangsEarly {
			return
		}
		s.after(a, a.between(time.Second, 3*time.Minute), func() {
			s.change(j, dataflow.StateRunning)
			if end != "" {
				s.after(a, one(a.random, a.between(time.Second, time.Minute), a.between(time.Minute, 20*time.Minute), a.between(time.Minute, 3*time.Hour)),
					func() { s.change(j, end) })
			}
		})
	})
}

// change moves a job on, and tells it to whom it may concern.
func (s *simulation) change(j *simulatedJob, to dataflow.State) {
	early := map[dataflow.State]bool{dataflow.StatePending: true, dataflow.StateRunning: true}
	ending := j.State == dataflow.StateCancelling || j.State == dataflow.StateDraining
	if !j.active() || ending && (early[to] || to == dataflow.StateUpdated) {
		return
	}
	j.State, j.StateTime = to, s.env.Now()
	s.note(j.step.actor, "ledger: job %s is %s", j.ID, to.Short())
	if to == dataflow.StateRunning {
		j.ran = s.elapsed()
		if j.Type == dataflow.TypeStreaming {
			s.meet(sightRunning)
		}
	}
	if to == dataflow.StateUpdated {
		s.update(j)
	}
	if j.State.Terminal() {
		j.ended = s.elapsed()
	}
	s.tell(j)
}

// update puts a successor in a job's place, as somebody's update from outside does.
func (s *simulation) update(j *simulatedJob) {
	s.meet(sightUpdated)
	a := j.step.actor
	next := &simulatedJob{Job: j.Job, step: j.step, foreign: j.foreign, first: j.first, created: s.elapsed()}
	next.ID = fmt.Sprintf("%s-job-%d", j.step.Name, j.step.launches+1)
	j.step.launches++
	next.State, next.CreateTime, next.ReplaceJobID = dataflow.StatePending, s.env.Now(), j.ID
	if a.chance(0.5) {
		next.Labels = nil
	}
	j.ReplacedByJobID = next.ID
	if a.chance(0.5) {
		j.revealed = s.elapsed() + a.between(time.Second, 5*time.Minute)
	}
	s.note(a, "ledger: job %s replaces %s", next.ID, j.ID)
	s.jobs = append(s.jobs, next)
	s.live(next)
}

// view is a job as the API tells it now.
func (s *simulation) view(j *simulatedJob) dataflow.Job {
	v := j.Job
	if s.elapsed() < j.revealed {
		v.ReplacedByJobID = ""
	}
	return v
}

// tell sends the job-status events of a state: none, one or two, now or late.
func (s *simulation) tell(j *simulatedJob) {
	w, a, v := s.plan.weather, j.step.actor, s.view(j)
	status := runs.JobStatus{JobID: v.ID, State: string(v.State), StateTime: v.StateTime, ReplacedBy: v.ReplacedByJobID}
	if a.chance(0.5) {
		status.Type = string(v.Type)
	}
	if a.chance(w.eventLost) {
		s.meet(sightEventLost)
		return
	}
	copies := 1
	if a.chance(w.eventTwice) {
		s.meet(sightEventTwice)
		copies++
	}
	for range copies {
		wait := a.between(0, 3*time.Second)
		if a.chance(w.eventLate) {
			s.meet(sightEventLate)
			wait = one(a.random, a.between(0, time.Minute), a.between(0, time.Hour))
		}
		s.after(a, wait, func() { s.deliver(j.step, j.Name, status) })
	}
}

func (s *simulation) deliver(step *simulatedStep, name string, status runs.JobStatus) {
	id := runs.JobWorkflowID(project, location, name)
	// (The environment has no signal with which a workflow begins.)
	if step.open != id || s.env.SignalWorkflowByID(id, runs.SignalStatus, status) != nil {
		s.meet(sightNoListener)
		s.note(step.actor, "nobody hears that job %s is %s", status.JobID, status.State)
		if !dataflow.State(status.State).Terminal() { // as the functions do
			s.ask(runs.SweepAsk{JobID: status.JobID, JobName: name})
		}
		return
	}
	s.note(step.actor, "event: job %s is %s", status.JobID, status.State)
	if j := s.job(status.JobID); j != nil && !j.foreign && j.first == j && !j.active() && j.State != dataflow.StateUpdated &&
		string(j.State) == status.State && step.told == 0 {
		step.told = s.elapsed()
	}
}

func (s *simulation) job(id string) *simulatedJob {
	for _, j := range s.jobs {
		if j.ID == id {
			return j
		}
	}
	return nil
}

// simulatedDataflow is the API on top of the ledger.
type simulatedDataflow simulation

// call begins a call: it takes time, and may fail before it does anything.
func (d *simulatedDataflow) call(ctx context.Context, op string) (*simulation, *task, error) {
	s, t := (*simulation)(d), taskOf(ctx)
	s.calls++
	if s.calls > mostCalls {
		s.giveUp("%d calls: the run spins", s.calls)
	}
	if t.expired {
		return s, t, refusal(dataflow.KindTransient, op+": deadline exceeded")
	}
	t.pause(d.latency(t))
	w := s.plan.weather
	if t.step.chance(w.transient) {
		s.meet(sightTransient)
		err := &dataflow.Error{Op: op, Kind: dataflow.KindTransient, Message: "503"}
		if t.step.chance(0.3) {
			err.RetryAfter = t.step.between(0, 30*time.Second)
		}
		return s, t, err
	}
	return s, t, nil
}

func (d *simulatedDataflow) latency(t *task) time.Duration {
	if t.step.chance(d.plan.weather.slow) {
		return t.step.between(time.Second, 35*time.Second)
	}
	return t.step.between(0, time.Second)
}

// answer ends a write: its answer takes time too, and may come too late.
func (d *simulatedDataflow) answer(t *task) error {
	if t.pause(d.latency(t)); t.expired {
		return refusal(dataflow.KindUnanswered, "deadline exceeded")
	}
	return nil
}

func (d *simulatedDataflow) Launch(ctx context.Context, l dataflow.Launch) (dataflow.Job, error) {
	s, t, err := d.call(ctx, "launch")
	if err != nil {
		return dataflow.Job{}, err
	}
	step, w := t.step, s.plan.weather
	if t.expired && step.chance(0.5) {
		return dataflow.Job{}, refusal(dataflow.KindUnanswered, "deadline exceeded")
	}
	switch {
	case step.chance(w.dropped):
		s.meet(sightDropped)
		s.note(step.actor, "a launch gets lost")
		return dataflow.Job{}, errors.Join(d.answer(t), refusal(dataflow.KindUnanswered, "connection reset"))
	case step.chance(w.late):
		s.note(step.actor, "a launch is lost, and will be carried out")
		s.after(step.actor, step.between(0, 20*time.Second), func() {
			if s.named(l.JobName) == nil {
				s.meet(sightLate)
				s.launch(step, l, false)
			}
		})
		return dataflow.Job{}, errors.Join(d.answer(t), refusal(dataflow.KindUnanswered, "connection reset"))
	case step.chance(w.quota):
		s.meet(sightQuota)
		e := &dataflow.Error{Op: "launch", Kind: dataflow.KindQuota, Message: "429: quota"}
		if step.chance(0.5) {
			e.RetryAfter = step.between(0, 5*time.Minute)
		}
		return dataflow.Job{}, e
	case step.chance(w.invalid):
		s.meet(sightInvalid)
		s.note(step.actor, "a launch is refused")
		step.refused = true
		return dataflow.Job{}, refusal(one(step.random, dataflow.KindInvalid, dataflow.KindPermission), "refused")
	}
	if existing := s.named(l.JobName); existing != nil {
		if err := d.answer(t); err != nil {
			return dataflow.Job{}, err
		}
		if w.existing {
			s.meet(sightExisting)
			return s.view(existing), refusal(dataflow.KindAlreadyExists, "the API answered with a job that existed before")
		}
		s.meet(sightConflict)
		return dataflow.Job{}, refusal(dataflow.KindAlreadyExists, "409")
	}
	j := s.launch(step, l, false)
	if step.chance(w.lost) {
		s.meet(sightLost)
		return dataflow.Job{}, errors.Join(d.answer(t), refusal(dataflow.KindUnanswered, "connection reset"))
	}
	return s.view(j), d.answer(t)
}

// named is the active job of a name, of which Dataflow has one at most.
func (s *simulation) named(name string) *simulatedJob {
	for _, j := range s.jobs {
		if j.Name == name && j.active() {
			return j
		}
	}
	return nil
}

func (d *simulatedDataflow) Find(ctx context.Context, _, _, name string) ([]dataflow.Job, error) {
	s, t, err := d.call(ctx, "find")
	if err != nil {
		return nil, err
	}
	var found []dataflow.Job
	for _, j := range s.jobs {
		if j.Name != name {
			continue
		}
		if s.elapsed() < j.listed {
			s.meet(sightHidden)
			s.note(t.step.actor, "job %s is not listed yet", j.ID)
			continue
		}
		v := s.view(j)
		v.Labels = nil
		found = append(found, v)
	}
	return found, nil
}

func (d *simulatedDataflow) List(ctx context.Context, _, _ string) ([]dataflow.Job, error) {
	s, t, err := d.call(ctx, "list")
	if err != nil {
		return nil, err
	}
	var listed []dataflow.Job
	for _, j := range s.jobs {
		if s.elapsed() < j.listed {
			s.meet(sightHidden)
			s.note(t.step.actor, "job %s is not listed yet", j.ID)
			continue
		}
		if v := s.view(j); !v.State.Terminal() {
			v.Labels = nil
			listed = append(listed, v)
		}
	}
	return listed, nil
}

func (d *simulatedDataflow) Get(ctx context.Context, _, _, id string) (dataflow.Job, error) {
	s, t, err := d.call(ctx, "get")
	if err != nil {
		return dataflow.Job{}, err
	}
	j := s.job(id)
	switch {
	case j == nil:
		return dataflow.Job{}, refusal(dataflow.KindNotFound, "no such job")
	case s.elapsed() < j.found:
		s.meet(sightNotYet)
		return dataflow.Job{}, refusal(dataflow.KindNotFound, "no such job yet")
	}
	v := s.view(j)
	if !j.foreign && v.State == dataflow.StateRunning && v.Type == dataflow.TypeBatch && t.step.chance(s.plan.weather.crossing) {
		// The job ends while the answer is on its way, and its events overtake the answer
		// and each other.
		s.meet(sightCrossing)
		s.change(j, one(t.step.random, dataflow.StateDone, dataflow.StateFailed))
		for _, seen := range []dataflow.Job{j.Job, v} {
			s.deliver(j.step, j.Name, runs.JobStatus{JobID: j.ID, State: string(seen.State), StateTime: seen.StateTime})
		}
		t.pause(d.latency(t))
	}
	return v, nil
}

// stop is what cancel and drain have in common.
func (d *simulatedDataflow) stop(ctx context.Context, op, id string, carryOut func(*simulation, *simulatedJob)) error {
	s, t, err := d.call(ctx, op)
	if err != nil {
		return err
	}
	j := s.job(id)
	switch {
	case j == nil || t.expired && t.step.chance(0.5):
		return refusal(dataflow.KindUnanswered, "deadline exceeded")
	case j.foreign:
		s.violate("%s of the foreign job %s", op, id)
		return nil
	case !j.active():
		s.meet(sightOverAlready)
		return refusal(dataflow.KindTerminated, "the job has terminated")
	case s.elapsed()-j.created < 30*time.Second && t.step.chance(0.5):
		s.meet(sightNotReady)
		return refusal(dataflow.KindNotReady, "the job is not yet ready for canceling")
	}
	lost := t.step.chance(s.plan.weather.lost)
	if lost && t.step.chance(0.5) {
		s.meet(sightStopLost)
		return errors.Join(d.answer(t), refusal(dataflow.KindUnanswered, "connection reset"))
	}
	s.note(t.step.actor, "ledger: %s of job %s", op, id)
	j.stopped = true
	carryOut(s, j)
	if lost {
		return errors.Join(d.answer(t), refusal(dataflow.KindUnanswered, "connection reset"))
	}
	return d.answer(t)
}

func (d *simulatedDataflow) Cancel(ctx context.Context, _, _, id string, force bool) error {
	return d.stop(ctx, "cancel", id, func(s *simulation, j *simulatedJob) {
		a := j.step.actor
		if force {
			s.meet(sightForced)
		} else if j.State != dataflow.StateCancelling {
			s.change(j, dataflow.StateCancelling)
		}
		if force || !j.deaf {
			s.after(a, one(a.random, a.between(0, time.Second), a.between(0, 5*time.Minute)), func() { s.change(j, dataflow.StateCancelled) })
		}
	})
}

func (d *simulatedDataflow) Drain(ctx context.Context, _, _, id string) error {
	return d.stop(ctx, "drain", id, func(s *simulation, j *simulatedJob) {
		a := j.step.actor
		s.meet(sightDrained)
		s.change(j, dataflow.StateDraining)
		if !j.deaf {
			s.after(a, a.between(time.Second, 90*time.Minute), func() {
				if j.State == dataflow.StateDraining {
					s.change(j, dataflow.StateDrained)
				}
			})
		}
	})
}

func (d *simulatedDataflow) Metrics(ctx context.Context, _, _, _ string) (dataflow.Metrics, error) {
	_, _, err := d.call(ctx, "metrics")
	return dataflow.Metrics{}, err
}

func (d *simulatedDataflow) FirstError(ctx context.Context, _, _, id string) (string, error) {
	s, t, err := d.call(ctx, "messages")
	if err != nil {
		return "", err
	}
	if t.step.chance(s.plan.weather.quotaJob) {
		s.meet(sightQuotaJob)
		return "Quota exceeded: too many concurrent jobs", nil
	}
	return "job " + id + " failed", nil
}
