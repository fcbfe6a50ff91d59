package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/runs"
)

// at is a time of the fabricated evidence.
func at(seconds int) time.Time {
	return time.Date(2026, 1, 2, 3, 0, seconds, 0, time.UTC)
}

const (
	testPipeline = "orders"
	testStep     = "load"
)

func jobNamed(identity string, attempt int) string {
	return runs.JobName(Deployment, testPipeline, identity, testStep, attempt)
}

func runNamed(identity string) string { return runs.RunID(Deployment, testPipeline, identity) }

// sound is evidence of three events that became what they were to: a run whose first
// job failed and whose second was done, a decision to skip, and a dead letter.
func sound() Record {
	job := func(attempt int, launched, ended int, state string) Job {
		return Job{Name: jobNamed("one", attempt), ID: fmt.Sprint("job-", attempt), Launched: at(launched), Ended: at(ended), State: state}
	}
	result := runs.RunResult{Outcome: runs.OutcomeSucceeded, Steps: []runs.StepResult{{
		Name: testStep, Outcome: runs.OutcomeSucceeded, Attempts: []runs.JobResult{
			{Attempt: 1, JobID: "job-1", State: "JOB_STATE_FAILED", Outcome: runs.OutcomeFailed},
			{Attempt: 2, JobID: "job-2", State: "JOB_STATE_DONE", Outcome: runs.OutcomeSucceeded},
		},
	}}}
	return Record{
		Deployment: Deployment,
		Wants: []Want{
			{Identity: "one", Fate: Runs, Pipeline: testPipeline, Key: "one", Steps: []string{testStep}, Outcome: runs.OutcomeSucceeded, Jobs: map[string]int{testStep: 2}},
			{Identity: "two", Fate: Skipped, Pipeline: testPipeline, Key: "two", Steps: []string{testStep}},
			{Body: "poison", Fate: DeadLetters},
		},
		Deliveries: []Delivery{
			{Delivery: 1, Attempt: 1, Identity: "one", Body: "b1", Status: 503},
			{Delivery: 1, Attempt: 2, Identity: "one", Body: "b1", Status: 200, Time: at(1)},
			{Delivery: 2, Attempt: 1, Identity: "two", Body: "b2", Status: 200},
			{Delivery: 3, Attempt: 1, Body: "poison", Status: 200},
		},
		Decisions: []Decision{
			{Identity: "one", Pipeline: testPipeline, Decision: "started", RunID: runNamed("one")},
			{Identity: "two", Pipeline: testPipeline, Decision: "skipped"},
			{Decision: "dead-lettered"},
		},
		Letters: []Letter{{Body: "poison"}},
		Jobs:    []Job{job(1, 1, 5, "JOB_STATE_FAILED"), job(2, 6, 9, "JOB_STATE_DONE")},
		Runs:    []Execution{{ID: runNamed("one"), RunID: "e1", Started: at(0), Closed: at(10), Outcome: runs.OutcomeSucceeded, Result: result}},
		Ended:   at(3), Bound: 10 * time.Second,
	}
}

func TestSoundEvidenceBreaksNothing(t *testing.T) {
	if found := Check(sound()); len(found) > 0 {
		t.Errorf("found %v", found)
	}
	f := FiguresOf(sound())
	if want := (Figures{Keys: 1, Deliveries: 4, Jobs: 2, Recovery: 7 * time.Second}); f != want {
		t.Errorf("figures %+v, want %+v", f, want)
	}
}

// What is not told is not doubted: each of these alone must be enough.
func TestBrokenEvidenceIsReported(t *testing.T) {
	outcome := func(r *Record, o runs.Outcome) {
		r.Runs[0].Outcome, r.Runs[0].Result.Outcome = o, o
	}
	step := func(r *Record) *runs.StepResult { return &r.Runs[0].Result.Steps[0] }
	for _, tt := range []struct {
		name      string
		invariant string
		says      string
		spoil     func(*Record)
	}{
		{"a second job under one name, after the first was done", "I1", "2 jobs named", func(r *Record) {
			j := r.Jobs[1]
			j.ID, j.Launched, j.Ended = "job-2-again", at(10), at(11)
			r.Jobs = append(r.Jobs, j)
		}},
		{"a job launched although the one before was done", "I1", "after", func(r *Record) {
			r.Jobs[0].State = "JOB_STATE_DONE"
		}},
		{"two jobs that were done", "I1", "2 jobs that were done", func(r *Record) {
			r.Jobs[0].State = "JOB_STATE_DONE"
		}},
		{"two jobs of a step at once", "I1", "two jobs at once", func(r *Record) {
			r.Jobs[1].Launched = at(4)
		}},
		{"a job launched while the one before never ended", "I1", "two jobs at once", func(r *Record) {
			r.Jobs[0].Ended = time.Time{}
		}},
		{"a job more than there was to be", "I1", "has 2 jobs, want 1", func(r *Record) {
			r.Wants[0].Jobs = nil
		}},
		{"a job less than there was to be", "I1", "has 2 jobs, want 3", func(r *Record) {
			r.Wants[0].Jobs[testStep] = 3
		}},
		{"a job of an event that was to be skipped", "I1", "has 1 jobs, want 0", func(r *Record) {
			r.Jobs = append(r.Jobs, Job{Name: jobNamed("two", 1), Launched: at(1), Ended: at(2), State: "JOB_STATE_DONE"})
		}},
		{"a hole in the names", "I1", "no job of attempt 1", func(r *Record) {
			r.Jobs = r.Jobs[1:]
		}},
		{"a hole of several names", "I1", "no job of attempt 2", func(r *Record) {
			r.Jobs[1].Name = jobNamed("one", 8)
		}},
		{"no job although the step succeeded", "I1", "no job that was done", func(r *Record) {
			r.Jobs = nil
		}},
		{"a job that nobody asked for", "I1", "no key and step", func(r *Record) {
			j := r.Jobs[0]
			j.Name = jobNamed("nobody", 1)
			r.Jobs = append(r.Jobs, j)
		}},
		{"a run that nobody asked for", "I1", "no event", func(r *Record) {
			r.Runs = append(r.Runs, Execution{ID: runNamed("nobody"), Closed: at(5)})
		}},
		{"a run that was started twice", "I1", "started 2 times", func(r *Record) {
			r.Runs = append(r.Runs, r.Runs[0])
		}},
		{"a run that was to be started again, and was not", "I1", "started 1 times, want 2", func(r *Record) {
			r.Wants[0].Executions = 2
		}},
		{"an event that was acknowledged and led to nothing", "I2", "did not lead to a run", func(r *Record) {
			r.Runs = nil
		}},
		{"an event that was acknowledged before there was a run", "I2", "before its run was started", func(r *Record) {
			r.Runs[0].Started = at(2)
		}},
		{"an event that only another deployment acknowledged", "I2", "never acknowledged", func(r *Record) {
			r.Deliveries[1].Deployment = "neighbour"
		}},
		{"an event that was never acknowledged", "I2", "never acknowledged", func(r *Record) {
			r.Deliveries[1].Status = 503
		}},
		{"a run that the functions claim to have started", "I2", "Temporal does not have", func(r *Record) {
			r.Decisions[0].RunID = runNamed("elsewhere")
		}},
		{"a dead letter that is not there", "I2", "did not lead to a dead letter", func(r *Record) {
			r.Letters = nil
		}},
		{"a dead letter that the functions claim", "I2", "which does not have it", func(r *Record) {
			r.Decisions = append(r.Decisions, Decision{Identity: "three", Decision: "dead-lettered"})
		}},
		{"no decision on record", "I2", "did not lead to a decision", func(r *Record) {
			r.Decisions = r.Decisions[:1]
		}},
		{"a run of an event that was to be skipped", "I2", "was to lead to", func(r *Record) {
			r.Runs = append(r.Runs, Execution{ID: runNamed("two"), Closed: at(5)})
		}},
		{"an event of which the scenario says nothing", "I2", "does not say", func(r *Record) {
			r.Deliveries = append(r.Deliveries, Delivery{Identity: "three", Status: 200})
		}},
		{"a run that says succeeded of a job that failed", "I3", "JOB_STATE_FAILED", func(r *Record) {
			r.Jobs[1].State = "JOB_STATE_FAILED"
		}},
		{"a run that says failed of a job that was done", "I3", "is failed; its last job", func(r *Record) {
			outcome(r, runs.OutcomeFailed)
			step(r).Outcome = runs.OutcomeFailed
		}},
		{"a run whose outcome is not its steps'", "I3", "do not bear out", func(r *Record) {
			outcome(r, runs.OutcomeFailed)
			r.Wants[0].Outcome = ""
		}},
		{"a run that ends otherwise than it should", "I3", "want succeeded", func(r *Record) {
			outcome(r, runs.OutcomeCancelled)
		}},
		{"a run that was terminated", "I3", "want succeeded", func(r *Record) {
			r.Runs[0].Outcome, r.Runs[0].Result = Terminated, runs.RunResult{}
		}},
		{"a run that knows nothing of a job", "I3", "tells of 1 jobs", func(r *Record) {
			step(r).Attempts = step(r).Attempts[1:]
		}},
		{"a run that speaks of another job", "I3", "was job another", func(r *Record) {
			step(r).Attempts[1].JobID = "another"
		}},
		{"a run that forgets a step", "I3", "says nothing of its step", func(r *Record) {
			r.Runs[0].Result.Steps = nil
		}},
		{"a run that closes too late", "I4", "closed later than 7s", func(r *Record) {
			r.Runs[0].Closed, r.Bound = at(11), 7*time.Second
		}},
		{"a job that is still active", "left", "is still", func(r *Record) {
			r.Jobs[1].Ended, r.Jobs[1].State = time.Time{}, "JOB_STATE_RUNNING"
		}},
		{"a workflow that is still open", "left", "is still open", func(r *Record) {
			r.Open = []string{runNamed("one")}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := sound()
			tt.spoil(&r)
			found := Check(r)
			if !slices.ContainsFunc(found, func(v Violation) bool {
				return v.Invariant == tt.invariant && strings.Contains(v.Text, tt.says)
			}) {
				t.Errorf("found %v, want one of %s that says %q", found, tt.invariant, tt.says)
			}
		})
	}
}

func TestAStreamingUpdateIsNoSecondJob(t *testing.T) {
	r := sound()
	r.Wants[0].Jobs = nil
	r.Jobs = []Job{
		{Name: jobNamed("one", 1), ID: "old", Launched: at(1), Ended: at(5), State: "JOB_STATE_UPDATED"},
		{Name: jobNamed("one", 1), ID: "new", Launched: at(4), Ended: at(9), State: "JOB_STATE_DRAINED", Replaces: "old"},
	}
	r.Runs[0].Result.Steps[0].Attempts = []runs.JobResult{{Attempt: 1, JobID: "new", State: "JOB_STATE_DRAINED", Outcome: runs.OutcomeSucceeded}}
	if found := Check(r); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

func TestJobsOfOthersAreLeftAlone(t *testing.T) {
	r := sound()
	r.Jobs = append(r.Jobs, Job{Name: "chaos-not-ours", ID: "x", Launched: at(1), State: "JOB_STATE_RUNNING"})
	r.Foreign = []string{"chaos-not-ours"}
	if found := Check(r); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}
