package worker_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/runs"
	"github.com/penstock/penstock/worker"
)

// saved is a history of testdata/histories.
type saved struct {
	name      string // "v1/succeeded.run"
	typ       string // of the workflow
	execution workflow.Execution
	*historypb.History
}

func savedHistories(t *testing.T) []saved {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "histories", "*", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no histories: %v", err)
	}
	var all []saved
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		h, err := client.HistoryFromJSON(f, client.HistoryJSONOptions{})
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err != nil || len(h.Events) == 0 {
			t.Fatalf("%s: %v", path, err)
		}
		begun := h.Events[0].GetWorkflowExecutionStartedEventAttributes()
		s := saved{
			name: filepath.Base(filepath.Dir(path)) + "/" + strings.TrimSuffix(filepath.Base(path), ".json"),
			typ:  begun.GetWorkflowType().GetName(), History: h,
			execution: workflow.Execution{ID: begun.GetWorkflowId(), RunID: begun.GetOriginalExecutionRunId()},
		}
		for _, e := range h.Events {
			// A reset copies the events before it, the first with the old run ID.
			if id := e.GetWorkflowTaskFailedEventAttributes().GetNewRunId(); id != "" {
				s.execution.RunID = id
			}
		}
		all = append(all, s)
	}
	return all
}

// replayer is a sdkworker.Registry that takes workflows alone.
type replayer struct {
	sdkworker.WorkflowReplayer
	sdkworker.ActivityRegistry
	sdkworker.NexusServiceRegistry
}

// replay replays a history by the workflows that register registers.
func replay(t *testing.T, h saved, register func(sdkworker.Registry)) error {
	t.Helper()
	r, err := sdkworker.NewWorkflowReplayerWithOptions(sdkworker.WorkflowReplayerOptions{
		DisableDeadlockDetection: true, // which takes a busy machine for one
	})
	if err != nil {
		t.Fatal(err)
	}
	register(replayer{WorkflowReplayer: r})
	// A replay writes to the history that it is given.
	history := proto.CloneOf(h.History)
	return r.ReplayWorkflowHistoryWithOptions(log.NewStructuredLogger(slog.New(slog.DiscardHandler)), history,
		sdkworker.ReplayWorkflowHistoryOptions{OriginalExecution: h.execution})
}

// A worker goes on with what an earlier one began, also when its own waits are others
// and when it sees search attributes that the earlier one did not.
func TestSavedHistoriesReplay(t *testing.T) {
	t.Parallel()
	workers := map[string]struct {
		timing     worker.Timing
		attributes bool
		ledger     bool
	}{
		"by a worker like the one that made it": {worker.Timing{Horizon: 4 * time.Second, Call: 10 * time.Second}, true, false},
		"by a worker with the default waits":    {worker.Timing{}, true, false},
		"by a worker in haste":                  {worker.Timing{Horizon: 1, Safety: 1, CancelGrace: 1, DrainGrace: 1, HandOver: 1}, true, false},
		"by a worker without search attributes": {worker.Timing{}, false, false},
		"by a worker with a ledger":             {worker.Timing{}, true, true},
	}
	for _, h := range savedHistories(t) {
		for name, c := range workers {
			t.Run(h.name+" "+name, func(t *testing.T) {
				t.Parallel()
				w, err := worker.New(c.timing, func() bool { return c.attributes })
				if err != nil {
					t.Fatal(err)
				}
				w.Ledger = c.ledger
				if err := replay(t, h, func(r sdkworker.Registry) { worker.Register(r, w, nil) }); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Each type of workflow is there with what can happen to it.
func TestSavedHistoriesAreComplete(t *testing.T) {
	t.Parallel()
	want := map[string][]string{
		runs.TypeRun: {
			"succeeded.run", "retried.run", "failed.run", "refused.run", "quota.run", "unanswered.run", "timed-out.run", "cancelled.run", "one-of-three-failed.run",
			"job-workflow-terminated.run", "reset-while-running.run", "reset-after-the-end.run", "recorded.run", "claimed.run", "duplicate.run",
			"reset-and-cancelled-at-once.run", "reset-and-cancelled-in-a-back-off.run", "reset-later-and-cancelled-in-a-back-off.run", "retry-cancelled.run",
		},
		runs.TypeJob: {
			"succeeded.only-1", "failed.only-3", "refused.only-1", "quota.only-1", "unanswered.only-1", "timed-out.only-1", "cancelled.red-1", "cancelled-early.only-1",
			"cancelled-unlaunched.only-1", "cancelled-late.only-1", "handed-over.only-1", "run-closed.only-1", "killed-while-launching.only-1", "found-by-the-safety-timer.only-1", "hint-in-trouble.only-1", "not-found-while-stopped.only-1", "refused-look.only-1",
		},
		runs.TypeStreamingRun: {"streaming-drained.run", "streaming-replaced.run", "mistyped.run"},
		runs.TypeSweep:        {"news.sweep", "orphan-cancel.sweep", "stepped-over.sweep"},
		runs.TypeDailySweep:   {"asked.daily"},
		runs.TypeStreamingJob: {"streaming-drained.feed-1", "streaming-replaced.feed-1", "mistyped.only-1"},
	}
	got := map[string][]string{}
	for _, h := range savedHistories(t) {
		got[h.typ] = append(got[h.typ], filepath.Base(h.name))
	}
	for typ, names := range want {
		for _, name := range names {
			if !slices.Contains(got[typ], name) {
				t.Errorf("no history of a %s called %s", typ, name)
			}
		}
	}
	for typ := range got {
		if want[typ] == nil {
			t.Errorf("histories of the type %s, which no worker registers", typ)
		}
	}
	marked := map[string]bool{} // the changes of which there is a marker
	for _, h := range savedHistories(t) {
		for _, e := range h.Events {
			for _, p := range e.GetMarkerRecordedEventAttributes().GetDetails()["change-id"].GetPayloads() {
				var change string
				if err := converter.GetDefaultDataConverter().FromPayload(p, &change); err != nil {
					t.Fatal(err)
				}
				marked[change] = true
			}
		}
	}
	for _, change := range []string{"stops-what-was", "stops-what-goes-on", "hints-wait", "forgotten-wait", "refused-look", "steps-over", "stops-what-follows"} {
		if !marked[change] {
			t.Errorf("no history holds the marker of %s", change)
		}
	}
}

// What the replay tests are for: a workflow that was changed against its histories does
// not pass them.
func TestBrokenWorkflowsDoNotReplay(t *testing.T) {
	t.Parallel()
	w, err := worker.New(worker.Timing{}, func() bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]struct {
		run func(workflow.Context, runs.RunInput) (runs.RunResult, error)
		job func(workflow.Context, runs.JobInput) (runs.JobResult, error)
		// sweep is that of a place, daily what asks for it once a day.
		sweep func(workflow.Context, runs.SweepInput) (runs.SweepResult, error)
		daily func(workflow.Context, runs.SweepInput) error
	}{
		"a wait before everything": {
			run: func(ctx workflow.Context, in runs.RunInput) (runs.RunResult, error) {
				if err := workflow.Sleep(ctx, time.Second); err != nil {
					return runs.RunResult{}, err
				}
				return w.Run(ctx, in)
			},
			job: func(ctx workflow.Context, in runs.JobInput) (runs.JobResult, error) {
				if err := workflow.Sleep(ctx, time.Second); err != nil {
					return runs.JobResult{}, err
				}
				return w.Job(ctx, in)
			},
			sweep: func(ctx workflow.Context, in runs.SweepInput) (runs.SweepResult, error) {
				if err := workflow.Sleep(ctx, time.Second); err != nil {
					return runs.SweepResult{}, err
				}
				return w.Sweep(ctx, in)
			},
			daily: func(ctx workflow.Context, in runs.SweepInput) error {
				if err := workflow.Sleep(ctx, time.Second); err != nil {
					return err
				}
				return w.DailySweep(ctx, in)
			},
		},
		"a step and the claim left out, and a job believed to be known": {
			run: func(ctx workflow.Context, in runs.RunInput) (runs.RunResult, error) {
				in.Steps, in.Dedupe = in.Steps[1:], nil
				return w.Run(ctx, in)
			},
			job: func(ctx workflow.Context, in runs.JobInput) (runs.JobResult, error) {
				in.Resume = &runs.JobState{JobID: "known", Begun: in.Begun}
				return w.Job(ctx, in)
			},
			sweep: func(ctx workflow.Context, in runs.SweepInput) (runs.SweepResult, error) {
				in.Resume = &runs.SweepState{} // nobody wants a look
				return w.Sweep(ctx, in)
			},
			daily: func(workflow.Context, runs.SweepInput) error { return nil },
		},
		"a step too many, no claim, and nothing done": {
			run: func(ctx workflow.Context, in runs.RunInput) (runs.RunResult, error) {
				extra := in.Steps[0]
				extra.Name, extra.Needs = "extra", nil
				in.Steps, in.Dedupe = append(slices.Clone(in.Steps), extra), nil
				return w.Run(ctx, in)
			},
			job:   func(workflow.Context, runs.JobInput) (runs.JobResult, error) { return runs.JobResult{}, nil },
			sweep: func(workflow.Context, runs.SweepInput) (runs.SweepResult, error) { return runs.SweepResult{}, nil },
			daily: func(workflow.Context, runs.SweepInput) error { return nil },
		},
	} {
		for _, h := range savedHistories(t) {
			t.Run(name+": "+h.name, func(t *testing.T) {
				t.Parallel()
				err := replay(t, h, func(r sdkworker.Registry) {
					for _, typ := range []string{runs.TypeRun, runs.TypeStreamingRun} {
						r.RegisterWorkflowWithOptions(broken.run, workflow.RegisterOptions{Name: typ})
					}
					for _, typ := range []string{runs.TypeJob, runs.TypeStreamingJob} {
						r.RegisterWorkflowWithOptions(broken.job, workflow.RegisterOptions{Name: typ})
					}
					r.RegisterWorkflowWithOptions(broken.sweep, workflow.RegisterOptions{Name: runs.TypeSweep})
					r.RegisterWorkflowWithOptions(broken.daily, workflow.RegisterOptions{Name: runs.TypeDailySweep})
				})
				if err == nil {
					t.Error("the history was replayed by a workflow that does other things")
				}
			})
		}
	}
}

// Histories are public: they say nothing of the machine that they were recorded on.
func TestSavedHistoriesNameNoMachine(t *testing.T) {
	t.Parallel()
	ours := []string{"", "e2e", "penstock-functions/dev@e2e", "penstock-worker/dev@e2e", "penstock-cli/dev@e2e", "history-service", "worker-service",
		"temporal-scheduler-default-dev/sweep/penstock-dev/us-central1/daily"}
	for _, h := range savedHistories(t) {
		for _, e := range h.Events {
			text := e.String()
			for _, path := range []string{"/home/", "/root/", "/Users/", "/tmp/", "/var/"} {
				if strings.Contains(text, path) {
					t.Errorf("%s: event %d holds a path below %s", h.name, e.EventId, path)
				}
			}
			for _, identity := range []string{
				e.GetWorkflowExecutionStartedEventAttributes().GetIdentity(), e.GetWorkflowTaskStartedEventAttributes().GetIdentity(),
				e.GetWorkflowTaskCompletedEventAttributes().GetIdentity(), e.GetActivityTaskStartedEventAttributes().GetIdentity(),
				e.GetWorkflowExecutionSignaledEventAttributes().GetIdentity(), e.GetWorkflowExecutionCancelRequestedEventAttributes().GetIdentity(),
			} {
				if !slices.Contains(ours, identity) {
					t.Errorf("%s: event %d was caused by %q", h.name, e.EventId, identity)
				}
			}
		}
	}
}
