package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/runs"
)

// together are stories about deployments side by side.
var together = []Scenario{twoDeployments(), handedOverUnderSweep()}

// neighbour is the deployment beside the bench's own.
const neighbour = "neighbour"

func twoDeployments() Scenario {
	heldThere := held("held")
	heldThere.Name, heldThere.Subject = "held-there", neighbour+"-held-*"
	return Scenario{
		Name:  "two-deployments",
		What:  "two deployments in one project, namespace and bucket, also for their ledgers, have the same pipelines and get the same events; runs of one are cancelled, others left without anybody to watch their jobs, and both sweep for orphans. Each runs its own and touches no job of the other",
		Short: true,
		Bound: time.Minute,
		Setup: Setup{
			Pipelines: files(pipelineOf("brief", "quick")+keep, pipelineOf("held", "quick"), pipelineOf("cancelled", "endless"), pipelineOf("orphaned", "endless")),
			Faults:    []faults.Rule{held("held"), heldThere},
			// No job asks for a sweep by itself: whose it is that comes first is the story's to say.
			Env: []string{"PENSTOCK_ORPHANS=cancel", "PENSTOCK_ORPHAN_RECHECK=2s", "PENSTOCK_SWEEP_GATHER=1s", "PENSTOCK_SAFETY_INTERVAL=10m"},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := max(b.N(40)/4, 1)
			brief, kept := b.Objects("brief", n), b.Objects("held", n)
			cancelled, orphaned := outcome(b.Objects("cancelled", n), runs.OutcomeCancelled), outcome(b.Objects("orphaned", n), Terminated)
			all := slices.Concat(brief, kept, cancelled, orphaned)
			parked := slices.Concat(kept, cancelled, orphaned)
			there := atNeighbour(all)
			other, err := b.AddDeployment(ctx, neighbour, b.PipelinesDir)
			if err != nil {
				return err
			}
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error { return b.Deliver(ctx, Load{Events: there, To: other.Functions.URL()}) },
				func() error { return b.AwaitJobKnown(ctx, parked, only, nil) },
				func() error { return b.AwaitJobKnown(ctx, atNeighbour(parked), only, nil) },
				func() error { return each(cancelled, func(e Event) error { return b.Cancel(ctx, e) }) },
				// The neighbour's sweep comes first: it is to leave alone what is not its own.
				func() error { return b.abandon(ctx, orphaned) },
				func() error { return b.Sweep(ctx, neighbour, n) },
				func() error { return b.stillRun(orphaned) },
				func() error { return b.Sweep(ctx, Deployment, n) },
				func() error { return b.cancelledBySweep(ctx, orphaned) },
				// And now the other way round, with both at it.
				func() error {
					return each(atNeighbour(cancelled), func(e Event) error { return b.Cancel(ctx, e) })
				},
				func() error { return b.abandon(ctx, atNeighbour(orphaned)) },
				func() error { return b.Sweep(ctx, Deployment, n) },
				func() error { return b.stillRun(atNeighbour(orphaned)) },
				func() error { return b.Sweep(ctx, neighbour, n) },
				func() error { return b.cancelledBySweep(ctx, atNeighbour(orphaned)) },
				func() error { return b.stillRun(slices.Concat(kept, atNeighbour(kept))) },
				func() error { return b.EndFault("held-held") },
				func() error { return b.EndFault("held-there") },
			)
		},
	}
}

func handedOverUnderSweep() Scenario {
	const resets = 3
	return Scenario{
		Name:  "handed-over-under-sweep",
		What:  "while sweeps look for orphans to cancel, runs are reset and hand their jobs over, and runs that were terminated with their jobs' workflows are retried: no healthy job is taken, and the jobs that nobody comes back for are",
		Bound: 45 * time.Second,
		Setup: Setup{
			Pipelines: files(pipelineOf("reset", "quick"), pipelineOf("retried", "quick"), pipelineOf("orphaned", "endless")),
			Faults:    []faults.Rule{held("reset"), held("retried")},
			Env:       []string{"PENSTOCK_ORPHANS=cancel", "PENSTOCK_ORPHAN_RECHECK=10s", "PENSTOCK_SWEEP_GATHER=1s"},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := max(b.N(30)/3, 1)
			reset, retried := executions(b.Objects("reset", n), 1+resets), executions(b.Objects("retried", n), 2)
			orphaned := outcome(b.Objects("orphaned", n), Terminated)
			all := slices.Concat(reset, retried, orphaned)
			place := runs.Place{Deployment: Deployment, Project: Project, Location: Location}
			ask := func() error { return runs.AskForSweep(ctx, b.Temporal, place, runs.SweepAsk{}) }
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error { return b.AwaitJobKnown(ctx, all, only, nil) },
				func() error { return b.abandon(ctx, slices.Concat(retried, orphaned)) },
				ask,
				func() error { return b.awaitSuspects(ctx, 2*n) },
				func() error {
					b.Say("retry %d runs", n)
					return each(retried, func(e Event) error {
						code, said, err := b.Penstock(ctx, "retry", e.RunID(), "--same-config")
						if code != 0 {
							b.Fail("penstock retry %s ends with %d: %s", e.RunID(), code, said)
						}
						return err
					})
				},
				func() error { return b.resetUnderSweep(ctx, reset, resets, ask) },
				func() error { return b.cancelledBySweep(ctx, orphaned) },
				func() error { return b.Sweep(ctx, Deployment, n) },
				func() error { return b.stillRun(slices.Concat(reset, retried)) },
				func() error { return b.EndFault("held-reset") },
				func() error { return b.EndFault("held-retried") },
			)
		},
	}
}

// awaitSuspects waits until a sweep has met so many jobs that seem to be nobody's.
func (b *Bench) awaitSuspects(ctx context.Context, n int) error {
	return b.Await(ctx, fmt.Sprintf("the sweep suspects %d jobs", n), func() (bool, error) {
		answer, err := b.Temporal.QueryWorkflow(ctx, runs.SweepWorkflowID(Deployment, Project, Location), "", runs.QueryState)
		if err != nil {
			return false, err
		}
		var state runs.SweepResult
		err = answer.Get(&state)
		return state.Suspects >= n, err
	})
}

// resetUnderSweep resets runs again and again, with a sweep asked for between the reset
// and the hand-over of their jobs.
func (b *Bench) resetUnderSweep(ctx context.Context, events []Event, times int, ask func() error) error {
	for range times {
		before, err := b.executions(ctx, events, only)
		if err != nil {
			return err
		}
		b.Say("reset %d runs", len(events))
		err = inTurn(
			func() error {
				return each(events, func(e Event) error { return b.Reset(ctx, e, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED) })
			},
			ask,
			func() error { return b.AwaitJobKnown(ctx, events, only, before) },
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// atNeighbour are the same events as the neighbour gets them.
func atNeighbour(events []Event) []Event {
	events = slices.Clone(events)
	for i := range events {
		events[i].Deployment = neighbour
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

// Sweep asks for a deployment's sweep, as a safety timer does, and waits for its end. It is
// to see so many jobs at least, be they whose they may.
func (b *Bench) Sweep(ctx context.Context, deployment string, jobs int) error {
	b.Say("the sweep of %s", deployment)
	at := runs.Place{Deployment: deployment, Project: Project, Location: Location}
	if err := runs.AskForSweep(ctx, b.Temporal, at, runs.SweepAsk{}); err != nil {
		return err
	}
	var result runs.SweepResult
	if err := b.Temporal.GetWorkflow(ctx, runs.SweepWorkflowID(deployment, Project, Location), "").Get(ctx, &result); err != nil {
		return fmt.Errorf("the sweep of %s: %w", deployment, err)
	}
	b.Say("the sweep of %s saw %d jobs, %d of its own; %d suspects, %d cleared, %d orphans", deployment, result.Seen, result.Ours, result.Suspects, result.Cleared, result.OrphanCount)
	if result.Seen < jobs {
		b.Fail("the sweep of %s saw %d jobs, want %d at least: the story was not told", deployment, result.Seen, jobs)
	}
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
