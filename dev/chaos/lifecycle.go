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

// lifecycle are stories about runs and jobs' workflows that are ended, set back or
// cancelled from outside at the wrong moment.
var lifecycle = []Scenario{
	childTerminated(), runTerminated(), runResetBeforeChildEnd(), runResetAfterChildEnd(), cancelDuringLaunch(), oneOfThreeFails(),
}

// pipelineOf is a pipelines file whose only step, "only", runs a job of the image for
// each object <name>/**. More lines belong to the step.
func pipelineOf(name, image string, more ...string) string {
	text := fmt.Sprintf(`name: %s
purpose: Run one job of the image %s for each object.
owner: chaos@example.com
on:
  - storage: {bucket: %s, object: "%s/**"}
steps:
  - name: only
    dataflow:
      template: gs://chaos-templates/%s.json
      parameters: {input: "${event.uri}", step: only}
`, name, image, Landing, name, image)
	for _, line := range more {
		text += "    " + line + "\n"
	}
	return text
}

// files are pipelines files by their names.
func files(texts ...string) map[string]string {
	out := map[string]string{}
	for _, text := range texts {
		name, _, _ := strings.Cut(strings.TrimPrefix(text, "name: "), "\n")
		out[name+".yaml"] = text
	}
	return out
}

// only is the step of pipelineOf.
const only = "only"

// held keeps the jobs of a pipeline in RUNNING until the rule ends; then they run as
// their image says.
func held(pipeline string) faults.Rule {
	return faults.Rule{Name: "held-" + pipeline, At: faults.Job, Fault: faults.Hang, State: "RUNNING", Subject: Deployment + "-" + pipeline + "-*"}
}

// unanswered parks the launches of a pipeline's jobs: before they take effect, or after.
func unanswered(pipeline string, committed bool) faults.Rule {
	return faults.Rule{
		Name: "unanswered-" + pipeline, At: faults.Dataflow, Fault: faults.Hang, Committed: committed,
		Operation: "*.launch", Subject: Deployment + "-" + pipeline + "-*",
	}
}

// outcome gives the events this outcome of their runs.
func outcome(events []Event, o runs.Outcome) []Event {
	events = slices.Clone(events)
	for i := range events {
		events[i].Outcome = o
	}
	return events
}

// executions gives the events this number of executions of their runs.
func executions(events []Event, n int) []Event {
	events = slices.Clone(events)
	for i := range events {
		events[i].Executions = n
	}
	return events
}

// withJobs gives the events this number of jobs of a step.
func withJobs(events []Event, step string, n int) []Event {
	events = slices.Clone(events)
	for i := range events {
		events[i].Jobs = map[string]int{step: n}
	}
	return events
}

// inTurn does one thing after the other, until one fails.
func inTurn(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func childTerminated() Scenario {
	const retry = "retry: {attempts: 3, backoff: 1s}"
	return Scenario{
		Name:  "child-terminated",
		What:  "the workflows of jobs are terminated: while the job runs, when it ends before anybody looks, and while its launch has no answer. Each attempt goes on with its own job",
		Short: true,
		Bound: 45 * time.Second,
		Setup: Setup{
			Pipelines: files(pipelineOf("steady", "quick", retry), pipelineOf("ending", "quick", retry), pipelineOf("unsure", "quick", retry)),
			Faults:    []faults.Rule{held("steady"), held("ending"), held("unsure"), unanswered("unsure", true)},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(30) / 3
			steady, ending, unsure := b.Objects("steady", n), b.Objects("ending", n), b.Objects("unsure", n)
			known := slices.Concat(steady, ending)
			all := slices.Concat(known, unsure)
			var before map[string]bool
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: known}) },
				func() error { return b.AwaitJobKnown(ctx, known, only, nil) },
				func() error { return b.Deliver(ctx, Load{Events: unsure}) },
				func() error { return b.AwaitStruck(ctx, "unanswered-unsure", n) },
				func() (err error) { before, err = b.executions(ctx, all, only); return err },
				func() error {
					b.Say("terminate the workflows of %d jobs", len(all))
					return each(all, func(e Event) error { return b.Terminate(ctx, JobWorkflow(e.JobName(only, 1))) })
				},
				func() error { return b.EndFault("held-ending") },
				func() error { return b.EndFault("unanswered-unsure") },
				func() error { return b.AwaitJobKnown(ctx, all, only, before) },
				func() error { return b.EndFault("held-steady") },
				func() error { return b.EndFault("held-unsure") },
			)
		},
	}
}

func runTerminated() Scenario {
	return Scenario{
		Name:  "run-terminated",
		What:  "runs are terminated: as they are, while no worker is there, and just after a reset, when their jobs' workflows are no children of theirs. Their jobs are cancelled",
		Bound: time.Minute,
		Setup: Setup{
			Pipelines: files(pipelineOf("plain", "endless"), pipelineOf("alone", "endless"), pipelineOf("lost", "endless")),
			Env:       []string{"PENSTOCK_SAFETY_INTERVAL=5s"},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(30) / 3
			plain, alone := outcome(b.Objects("plain", n), Terminated), outcome(b.Objects("alone", n), Terminated)
			lost := executions(outcome(b.Objects("lost", n), Terminated), 2)
			all := slices.Concat(plain, alone, lost)
			terminate := func(events []Event) error {
				b.Say("terminate %d runs", len(events))
				return each(events, func(e Event) error { return b.Terminate(ctx, e.RunID()) })
			}
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error { return b.AwaitJobKnown(ctx, all, only, nil) },
				func() error { return terminate(plain) },
				func() error { return b.Kill("worker") },
				func() error { return terminate(alone) },
				func() error {
					b.Say("reset %d runs", len(lost))
					return each(lost, func(e Event) error { return b.Reset(ctx, e, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED) })
				},
				func() error { return terminate(lost) },
				func() error { return b.Start(ctx, "worker") },
			)
		},
	}
}

func runResetBeforeChildEnd() Scenario {
	return Scenario{
		Name:  "run-reset-before-child-end",
		What:  "runs are reset while their jobs run: to their beginning, and to where they know the job's workflow; and cancelled after that. The jobs go on under new workflows, and none is launched again",
		Short: true,
		Bound: 45 * time.Second,
		Setup: Setup{
			Pipelines: files(pipelineOf("beginning", "quick"), pipelineOf("middle", "quick"), pipelineOf("stopped", "endless")),
			Faults:    []faults.Rule{held("beginning"), held("middle")},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(30) / 3
			beginning, middle := executions(b.Objects("beginning", n), 2), executions(b.Objects("middle", n), 2)
			stopped := executions(outcome(b.Objects("stopped", n), runs.OutcomeCancelled), 2)
			all := slices.Concat(beginning, middle, stopped)
			var before map[string]bool
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error { return b.AwaitJobKnown(ctx, all, only, nil) },
				func() (err error) { before, err = b.executions(ctx, beginning, only); return err },
				func() error {
					b.Say("reset %d runs", len(all))
					return each(all, func(e Event) error {
						after := enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
						if e.Pipeline == "middle" {
							after = enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED
						}
						return b.Reset(ctx, e, after)
					})
				},
				func() error {
					b.Say("cancel %d runs", len(stopped))
					return each(stopped, func(e Event) error { return b.Cancel(ctx, e) })
				},
				func() error { return b.AwaitJobKnown(ctx, beginning, only, before) },
				func() error { return b.EndFault("held-beginning") },
				func() error { return b.EndFault("held-middle") },
			)
		},
	}
}

func runResetAfterChildEnd() Scenario {
	return Scenario{
		Name:  "run-reset-after-child-end",
		What:  "runs that are over are reset to their beginning: they find their jobs, which are over too, and neither launch another nor get failed attempts back",
		Bound: 45 * time.Second,
		Setup: Setup{
			Pipelines: files(pipelineOf("done", "quick"), pipelineOf("failed", "failing", "retry: {attempts: 2, backoff: 1s}")),
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(24) / 2
			failed := withJobs(outcome(b.Objects("failed", n), runs.OutcomeFailed), only, 2)
			all := slices.Concat(b.Objects("done", n), failed)
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error { return b.AwaitRunsClosed(ctx, all) },
				func() error {
					b.Say("reset %d runs", len(all))
					for _, e := range executions(all, 2) {
						b.ExpectAnew(e)
					}
					return each(all, func(e Event) error { return b.Reset(ctx, e, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED) })
				},
				func() error { b.mark(); return nil },
			)
		},
	}
}

func cancelDuringLaunch() Scenario {
	return Scenario{
		Name:  "cancel-during-launch",
		What:  "runs are cancelled while their launch is under way: it takes effect and is not answered, and its job's status events come or are lost; it never takes effect; or it is slow, and its job not ready for a cancel at first. What was launched is cancelled and named, and nothing is launched after",
		Short: true,
		Bound: time.Minute,
		Setup: Setup{
			Pipelines: files(pipelineOf("kept", "endless"), pipelineOf("unheard", "endless"), pipelineOf("lost", "endless"), pipelineOf("slow", "endless")),
			Env:       []string{"PENSTOCK_CALL_TIMEOUT=15s"}, // no launch is given up before its run is cancelled
			Faults: []faults.Rule{
				unanswered("kept", true), unanswered("unheard", true), unanswered("lost", false),
				{Name: "unheard", At: faults.Events, Fault: faults.Lose, Operation: "job-status", Subject: Deployment + "-unheard-*"},
				{Name: "slow", At: faults.Dataflow, Fault: faults.Latency, Delay: faults.Duration(time.Hour), Operation: "*.launch", Subject: Deployment + "-slow-*"},
				{Name: "not-ready", At: faults.Dataflow, Fault: faults.CancelNotReady, Delay: faults.Duration(3 * time.Second), Subject: Deployment + "-slow-*"},
			},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := max(b.N(40)/4, 1)
			var all []Event
			for _, pipeline := range []string{"kept", "unheard", "lost", "slow"} {
				all = append(all, outcome(b.Objects(pipeline, n), runs.OutcomeCancelled)...)
			}
			copy(all[2*n:], withJobs(all[2*n:3*n], only, 0)) // of lost
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error { return b.AwaitStruck(ctx, "unanswered-kept", n) },
				func() error { return b.AwaitStruck(ctx, "unanswered-unheard", n) },
				func() error { return b.AwaitStruck(ctx, "unanswered-lost", n) },
				func() error { return b.AwaitStruck(ctx, "slow", n) },
				func() error {
					b.Say("cancel %d runs", len(all))
					return each(all, func(e Event) error { return b.Cancel(ctx, e) })
				},
				func() error { return b.EndFault("unanswered-kept") },
				func() error { return b.EndFault("unanswered-unheard") },
				func() error { return b.EndFault("unheard") },
				func() error { return b.EndFault("unanswered-lost") },
				func() error { return b.EndFault("slow") },
			)
		},
	}
}

// oneOfThree runs three jobs side by side, of which the first fails, and one after them.
const oneOfThree = `name: three
purpose: Run three jobs side by side, and one after them.
owner: chaos@example.com
on:
  - storage: {bucket: chaos-landing, object: "three/**"}
steps:
  - name: red
    dataflow: {template: gs://chaos-templates/failing.json, parameters: {step: red}}
  - name: green
    dataflow: {template: gs://chaos-templates/endless.json, parameters: {step: green}}
  - name: blue
    dataflow: {template: gs://chaos-templates/endless.json, parameters: {step: blue}}
  - name: all
    needs: [red, green, blue]
    dataflow: {template: gs://chaos-templates/quick.json, parameters: {step: all}}
`

func oneOfThreeFails() Scenario {
	return Scenario{
		Name:  "one-of-three-fails",
		What:  "one of three jobs side by side fails: the run stops the others, waits for their end, and begins nothing more",
		Bound: time.Minute,
		Setup: Setup{Pipelines: files(oneOfThree)},
		Run: func(ctx context.Context, b *Bench) error {
			return b.Deliver(ctx, Load{Events: withJobs(outcome(b.Objects("three", b.N(20)), runs.OutcomeFailed), "all", 0)})
		},
	}
}
