package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
)

// waitsEvery is how often the log tells how long tasks waited for a worker: often enough for
// an alert, and one line for any number of tasks.
const waitsEvery = time.Minute

// The SDK's timers of schedule-to-start latency: from the moment at which Temporal has a task
// to give, to that at which a worker takes it.
//
// Source: https://docs.temporal.io/references/sdk-metrics
var waitKinds = map[string]string{
	"temporal_workflow_task_schedule_to_start_latency": "workflow",
	"temporal_activity_schedule_to_start_latency":      "activity",
}

// waits are how long the tasks that this worker took had waited for one. They are told in
// the log, of which a deployment makes a metric: a worker's other metrics would need a
// collector beside each instance. It is the SDK's metrics handler.
type waits struct {
	client.MetricsHandler // for what it does not keep
	deployment            string
	log                   *slog.Logger

	mu    sync.Mutex
	tasks map[string]waited // by kind, since the log was last told
}

type waited struct {
	count   int
	longest time.Duration
}

func newWaits(deployment string, log *slog.Logger) *waits {
	return &waits{MetricsHandler: client.MetricsNopHandler, deployment: deployment, log: log, tasks: map[string]waited{}}
}

// WithTags is the same handler: the worker has one task queue.
func (w *waits) WithTags(map[string]string) client.MetricsHandler { return w }

// Timer keeps the two of waitKinds and no other.
func (w *waits) Timer(name string) client.MetricsTimer {
	kind, ok := waitKinds[name]
	if !ok {
		return w.MetricsHandler.Timer(name)
	}
	return waitTimer{w, kind}
}

type waitTimer struct {
	waits *waits
	kind  string
}

// Record takes in one task's wait. Clocks of a server's hosts differ, so that it may be negative.
func (t waitTimer) Record(d time.Duration) {
	t.waits.mu.Lock()
	defer t.waits.mu.Unlock()
	all := t.waits.tasks[t.kind]
	t.waits.tasks[t.kind] = waited{count: all.count + 1, longest: max(all.longest, d)}
}

// watch tells the log until ctx is done; where no task came, nothing.
func (w *waits) watch(ctx context.Context) {
	tick := time.NewTicker(waitsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.tell()
		}
	}
}

// tell writes what came since it last did.
func (w *waits) tell() {
	w.mu.Lock()
	tasks := w.tasks
	w.tasks = map[string]waited{}
	w.mu.Unlock()
	for kind, t := range tasks {
		w.log.Info("tasks were taken", "taskKind", kind, "tasks", t.count, "longestWaitSeconds", t.longest.Seconds(), "deployment", w.deployment)
	}
}
