package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/runs"
)

// together are stories about deployments side by side.
var together = []Scenario{twoDeployments()}

// neighbour is the deployment beside the bench's own.
const neighbour = "neighbour"

func twoDeployments() Scenario {
	heldThere := held("held")
	heldThere.Name, heldThere.Subject = "held-there", neighbour+"-held-*"
	return Scenario{
		Name:  "two-deployments",
		What:  "two deployments in one project, namespace and bucket have the same pipelines and get the same events; runs of one are cancelled, others left without anybody to watch their jobs, and both sweep for orphans. Each runs its own and touches no job of the other",
		Short: true,
		Bound: 30 * time.Second,
		Setup: Setup{
			Pipelines: files(pipelineOf("brief", "quick"), pipelineOf("held", "quick"), pipelineOf("cancelled", "endless"), pipelineOf("orphaned", "endless")),
			Faults:    []faults.Rule{held("held"), heldThere},
			Env:       []string{"PENSTOCK_ORPHANS=cancel", "PENSTOCK_ORPHAN_RECHECK=2s", "PENSTOCK_SWEEP_GATHER=1s"},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(40) / 4
			brief, kept := b.Objects("brief", max(n, 1)), b.Objects("held", max(n, 1))
			cancelled := outcome(b.Objects("cancelled", max(n, 1)), runs.OutcomeCancelled)
			orphaned := outcome(b.Objects("orphaned", max(n, 1)), Terminated)
			all := slices.Concat(brief, kept, cancelled, orphaned)
			parked := slices.Concat(kept, cancelled, orphaned)
			there := inDeployment(neighbour, all)
			other, err := b.AddDeployment(ctx, neighbour, b.PipelinesDir)
			if err != nil {
				return err
			}
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error { return b.Deliver(ctx, Load{Events: there, To: other.Functions.URL()}) },
				func() error { return b.AwaitJobKnown(ctx, parked, only, nil) },
				func() error { return b.AwaitJobKnown(ctx, inDeployment(neighbour, parked), only, nil) },
				func() error { return each(cancelled, func(e Event) error { return b.Cancel(ctx, e) }) },
				// The neighbour's sweep comes first: it is to leave alone what is not its own.
				func() error { return b.abandon(ctx, orphaned) },
				func() error { return b.Sweep(ctx, neighbour) },
				func() error { return b.stillRun(orphaned) },
				func() error { return b.Sweep(ctx, Deployment) },
				func() error { return b.cancelledBySweep(ctx, orphaned) },
				// And now the other way round, with both at it.
				func() error {
					return each(inDeployment(neighbour, cancelled), func(e Event) error { return b.Cancel(ctx, e) })
				},
				func() error { return b.abandon(ctx, inDeployment(neighbour, orphaned)) },
				func() error { return b.Sweep(ctx, Deployment) },
				func() error { return b.stillRun(inDeployment(neighbour, orphaned)) },
				func() error { return b.Sweep(ctx, neighbour) },
				func() error { return b.cancelledBySweep(ctx, inDeployment(neighbour, orphaned)) },
				func() error { return b.stillRun(slices.Concat(kept, inDeployment(neighbour, kept))) },
				func() error { return b.EndFault("held-held") },
				func() error { return b.EndFault("held-there") },
			)
		},
	}
}

// inDeployment are the same events as another deployment gets them.
func inDeployment(id string, events []Event) []Event {
	events = slices.Clone(events)
	for i := range events {
		events[i].Deployment = id
	}
	return events
}

// abandon leaves the jobs of runs without anybody: their workflows and their runs are terminated.
func (b *Bench) abandon(ctx context.Context, events []Event) error {
	b.Say("abandon %d jobs", len(events))
	// With its parent terminated first, a job's workflow would be asked to cancel its job.
	return each(events, func(e Event) error {
		// The run must not take the job up again under a new workflow.
		return inTurn(
			func() error { return b.Terminate(ctx, JobWorkflow(e.JobName(only, 1))) },
			func() error { return b.Terminate(ctx, e.RunID()) },
		)
	})
}

// Sweep asks for a deployment's sweep, as a safety timer does, and waits for its end.
func (b *Bench) Sweep(ctx context.Context, deployment string) error {
	b.Say("the sweep of %s", deployment)
	at := runs.Place{Deployment: deployment, Project: Project, Location: Location}
	if err := runs.AskForSweep(ctx, b.Temporal, at, runs.SweepAsk{}); err != nil {
		return err
	}
	var result runs.SweepResult
	if err := b.Temporal.GetWorkflow(ctx, runs.SweepWorkflowID(deployment, Project, Location), "").Get(ctx, &result); err != nil {
		return fmt.Errorf("the sweep of %s: %w", deployment, err)
	}
	b.Say("the sweep of %s: %+v", deployment, result)
	return nil
}

// stillRun finds jobs that were touched though they are nobody's business.
func (b *Bench) stillRun(events []Event) error {
	jobs, err := b.Jobs()
	for _, e := range events {
		for _, j := range jobs {
			if j.Name == e.JobName(only, 1) && j.State != "JOB_STATE_RUNNING" {
				b.Fail("job %s (%s) was to be left alone, and is %s", j.Name, j.ID, j.State)
			}
		}
	}
	return err
}

// cancelledBySweep waits until the jobs that nobody watches are cancelled.
func (b *Bench) cancelledBySweep(ctx context.Context, events []Event) error {
	return b.Await(ctx, "the orphans are cancelled", func() (bool, error) {
		jobs, err := b.Jobs()
		gone := 0
		for _, j := range jobs {
			if strings.HasSuffix(j.State, "_CANCELLED") && slices.ContainsFunc(events, func(e Event) bool { return e.JobName(only, 1) == j.Name }) {
				gone++
			}
		}
		return gone == len(events), err
	})
}
