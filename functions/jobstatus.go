package functions

import (
	"context"
	"fmt"
	"regexp"

	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/runs"
)

// Forms of the parts of a job's workflow ID. What is no name of ours, or no place that a job of ours can be in, never gets
// as far as Temporal.
var (
	jobNameRE = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
	placeRE   = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]{0,99}$`)
)

// jobStatus tells the workflow that watches a job what became of the job. The job's name alone says which workflow that is.
func (r *receiver) jobStatus(ctx context.Context, d *delivery, e *events.Event) Answer {
	a := Answer{Identity: d.identity}
	job := e.JobStatus
	if job == nil {
		a.Decisions = []Decision{r.bury(d, Decision{
			Reason: fmt.Sprintf("%s takes events of the type %s alone, and this is a %q: correct the trigger that sends it", d.entryPoint, events.TypeJobStatusChanged, e.Type),
		})}
		r.keep(ctx, a.Decisions)
		return a
	}
	if !runs.OurJobName(r.settings.deployment, job.JobName) || !jobNameRE.MatchString(job.JobName) ||
		!placeRE.MatchString(job.Project) || !placeRE.MatchString(job.Location) {
		return a // another's job: the project's jobs all come here
	}
	decision := Decision{RunID: runs.JobWorkflowID(job.Project, job.Location, job.JobName)}
	status := runs.JobStatus{
		JobID:      job.JobID,
		State:      job.State,
		StateTime:  job.StateTime,
		Type:       job.Type,
		ReplacedBy: job.ReplacedByJobID,
		Event:      d.identity,
	}
	c, err := r.temporal(ctx)
	if err == nil {
		err = c.SignalWorkflow(ctx, decision.RunID, "", runs.SignalStatus, status)
	}
	switch {
	case err == nil:
		decision.Outcome, decision.Reason = Signalled, job.State
	case noOpenWorkflow(err):
		decision = r.unwatched(ctx, c, job, decision)
	default:
		decision = undecided(decision, fmt.Errorf("signal the state %s to workflow %s: %w", job.State, decision.RunID, err))
	}
	a.Decisions = []Decision{decision}
	return a
}

// unwatched decides about news that no workflow waits for. They came late, or the job is one that nobody watches: a
// redelivery would change neither. A job that is over needs nobody; one that is not is the sweep's to look at.
func (r *receiver) unwatched(ctx context.Context, c temporal, job *events.JobStatus, decision Decision) Decision {
	decision.Outcome, decision.Reason = Skipped, fmt.Sprintf("%s, and no workflow watches the job any more", job.State)
	if terminalStates[job.State] {
		return decision
	}
	at := runs.Place{Deployment: r.settings.deployment, Project: job.Project, Location: job.Location}
	ask := runs.SweepAsk{JobID: job.JobID, JobName: job.JobName, State: job.State, StateTime: job.StateTime}
	if err := runs.AskForSweep(ctx, c, at, ask); err != nil {
		return undecided(decision, fmt.Errorf("no workflow watches the job %s, which is %s: %w", job.JobName, job.State, err))
	}
	decision.Reason += "; the sweep was asked to look for it"
	return decision
}

// terminalStates are the states of a job that is over for good. (The Dataflow client, which knows them too, is nothing for
// a function to link.)
var terminalStates = map[string]bool{
	"JOB_STATE_DONE": true, "JOB_STATE_FAILED": true, "JOB_STATE_CANCELLED": true, "JOB_STATE_DRAINED": true, "JOB_STATE_UPDATED": true,
}
