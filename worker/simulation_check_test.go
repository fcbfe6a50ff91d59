package worker_test

import (
	"slices"
	"time"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

const (
	// mostCalls of Dataflow's API, and mostTimers of the workflows, in one schedule:
	// some times what the most unlucky one of many thousands needs.
	mostCalls, mostTimers = 800, 2500
	// endWithin bounds the end of a run that was told to end: the stop's way to the
	// jobs, a drain's grace, a cancel's, and the force that follows.
	endWithin = 5 * time.Hour
)

// checkLaunch compares a launch that Dataflow carries out with the ledger.
func (s *simulation) checkLaunch(j *simulatedJob) {
	names := 0
	for _, other := range s.jobs {
		if other.step != j.step || other.foreign {
			continue
		}
		if other.Name == j.Name {
			s.violate("job %s is launched as %s, which was job %s (%s)", j.ID, j.Name, other.ID, other.State.Short())
		}
		if other.active() {
			s.violate("job %s is launched while job %s of the same step is %s", j.ID, other.ID, other.State.Short())
		}
		if other.first == other {
			names++
		}
	}
	if want := runs.JobName("dev", "orders", "k", j.step.Name, names+1); j.Name != want {
		s.violate("job %s has the name %s, the next of the step is %s", j.ID, j.Name, want)
	}
	for _, need := range j.step.Needs {
		if !slices.ContainsFunc(s.jobs, func(n *simulatedJob) bool {
			return n.step.Name == need && !n.foreign && (n.State == dataflow.StateDone || n.State == dataflow.StateDrained || n.ran != 0 && n.step.Job.Streaming)
		}) {
			s.violate("job %s is launched before step %s is done", j.ID, need)
		}
	}
}

// expectStops is called when the run was told to end long enough ago.
func (s *simulation) expectStops() {
	for _, j := range s.jobs {
		if j.active() && !j.foreign && !j.stopped && !j.step.deserted {
			s.violate("job %s is %s, and nobody asked Dataflow to end it since the run was told to end %v ago", j.ID, j.State.Short(), stopWithin)
		}
	}
}

// check compares what the run says with what the ledger says.
func (s *simulation) check() {
	s.checkOrphans()
	told := max(s.cancelled, s.terminated)
	if told != 0 && s.ended-told > endWithin {
		s.violate("the run ended %v after it was told to", s.ended-told)
	}
	if s.outcome == "terminated" {
		return
	}
	succeeded := true
	for i, r := range s.result.Steps {
		s.checkStep(s.steps[i], r)
		succeeded = succeeded && r.Outcome == runs.OutcomeSucceeded
	}
	switch o := s.result.Outcome; {
	case len(s.result.Steps) != len(s.steps), !o.Over(), succeeded != (o == runs.OutcomeSucceeded), o == runs.OutcomeCancelled && s.cancelled == 0:
		s.violate("the run is %s: %+v", o, s.result)
	}
}

// checkEnd is called when the run has ended by itself: it leaves no job behind.
func (s *simulation) checkEnd() {
	for _, j := range s.jobs {
		if j.active() && !j.foreign && !j.step.deserted {
			s.violate("the run is over, and job %s is %s", j.ID, j.State.Short())
		}
	}
}

// checkOrphans is called when all is over: what the run left behind, or what showed up
// after it, a sweep has found.
func (s *simulation) checkOrphans() {
	for _, j := range s.jobs {
		if j.active() && s.ours(j) && !s.reported[j.ID] {
			s.violate("job %s is %s, and no sweep found it", j.ID, j.State.Short())
		}
		if j.active() && s.ours(j) && s.plan.orphans != runs.OrphansReport {
			s.violate("job %s is %s, and orphans are dealt with by %s", j.ID, j.State.Short(), s.plan.orphans)
		}
	}
}

// ours says whether a job carries our label: the successor of an updated one may not.
func (s *simulation) ours(j *simulatedJob) bool {
	return j.Labels[runs.LabelDeployment] == runs.DeploymentLabel("dev", namespace)
}

// checkOrphan is called when a sweep calls a job an orphan.
func (s *simulation) checkOrphan(id string) {
	s.meet(sightOrphan)
	s.reported[id] = true
	switch j := s.job(id); {
	case !s.over:
		s.violate("job %s is taken for an orphan while its run is open", id)
	case j == nil || j.foreign || !s.ours(j):
		s.violate("job %s is taken for an orphan, and is not ours", id)
	}
}

// checkStep compares a step's result with its jobs.
func (s *simulation) checkStep(step *simulatedStep, r runs.StepResult) {
	var launched []*simulatedJob
	foreign := false
	for _, j := range s.jobs {
		switch {
		case j.step != step:
		case j.foreign:
			foreign = true
		case j.first == j:
			launched = append(launched, j)
		}
	}
	failures, known := 0, 0
	for i, a := range r.Attempts {
		if a.Attempt != i+1 || a.JobID == "" && i != len(r.Attempts)-1 {
			s.violate("step %s: attempt %d stands at %d with job %q", step.Name, a.Attempt, i+1, a.JobID)
		}
		if a.JobID != "" {
			known++
			s.checkAttempt(step, a)
		}
		if (a.Outcome == runs.OutcomeFailed || a.Outcome == runs.OutcomeTimedOut) && !a.Quota {
			failures++
		}
	}
	if known != len(launched) {
		s.violate("step %s knows %d jobs, Dataflow ran %d", step.Name, known, len(launched))
	}
	granted := max(step.Retry.Attempts, 1)
	if failures > granted {
		s.violate("step %s failed %d times and was granted %d", step.Name, failures, granted)
	}
	last, ok := r.Last()
	stopped := s.cancelled != 0 || slices.ContainsFunc(s.result.Steps, func(o runs.StepResult) bool {
		return o.Name != r.Name && o.Outcome != runs.OutcomeSucceeded && o.Outcome != runs.OutcomeSkipped
	})
	var wrong bool
	switch r.Outcome {
	case runs.OutcomeSucceeded:
		wrong = !ok || last.Outcome != runs.OutcomeSucceeded
	case runs.OutcomeSkipped:
		wrong = ok || !stopped
	case runs.OutcomeFailed, runs.OutcomeTimedOut:
		wrong = !ok || last.Outcome != r.Outcome
		switch {
		case last.JobID == "" && r.Outcome == runs.OutcomeFailed:
			wrong = wrong || !step.refused && !foreign
		case last.JobID != "" && last.Refusal == "":
			wrong = wrong || failures < granted && !stopped
		}
	case runs.OutcomeCancelled:
		j := s.job(last.JobID)
		wrong = !stopped && (j == nil || j.stopped)
	default:
		wrong = true
	}
	if wrong {
		s.violate("step %s is %s without a reason: %+v", step.Name, r.Outcome, r.Attempts)
	}
}

// checkAttempt compares an attempt's result with its job.
func (s *simulation) checkAttempt(step *simulatedStep, a runs.JobResult) {
	j := s.job(a.JobID)
	if j == nil || j.foreign || j.step != step || j.Name != a.JobName {
		s.violate("step %s: attempt %d names job %s, which is not its own", step.Name, a.Attempt, a.JobID)
		return
	}
	if string(j.State) != a.State || j.State == dataflow.StateUpdated {
		s.violate("step %s: attempt %d says that job %s is %s, it is %s", step.Name, a.Attempt, a.JobID, a.State, j.State)
	}
	if j.Type != (dataflow.Launch{Streaming: step.Job.Streaming}).Type() {
		return // stopped as soon as it is known, and failed
	}
	var may []runs.Outcome
	switch j.State {
	case dataflow.StateDone:
		may = []runs.Outcome{runs.OutcomeSucceeded}
	case dataflow.StateFailed:
		may = []runs.Outcome{runs.OutcomeFailed}
	case dataflow.StateCancelled:
		may = []runs.Outcome{runs.OutcomeCancelled, runs.OutcomeTimedOut}
	case dataflow.StateDrained:
		may = []runs.Outcome{runs.OutcomeCancelled, runs.OutcomeTimedOut}
		if !j.stopped {
			may = append(may, runs.OutcomeSucceeded)
		}
	}
	if !slices.Contains(may, a.Outcome) {
		s.violate("step %s: attempt %d is %s, its job %s", step.Name, a.Attempt, a.Outcome, j.State)
	}
	if a.Outcome == runs.OutcomeTimedOut {
		due := a.Begun.Add(step.Timeout).Sub(s.begun)
		if j.ended < due || step.Job.Streaming && j.first.ran != 0 && j.first.ran < due {
			s.violate("step %s: attempt %d timed out, due at %v; its job ran at %v and ended at %v", step.Name, a.Attempt, due, j.first.ran, j.ended)
		}
	}
}

func launchOf(p pipeline.PlannedStep, name string) dataflow.Launch {
	return dataflow.Launch{Project: project, Location: location, JobName: name, Labels: map[string]string{runs.LabelDeployment: "another"}, Streaming: p.Job.Streaming}
}
