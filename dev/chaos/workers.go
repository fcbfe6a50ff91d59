package chaos

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/dev/stack"
)

// workers are stories about workers that die, sleep, or are not there.
var workers = slices.Concat(workerKills(), []Scenario{
	workerPaused(), workersAtZero(), workersScaledIn(),
})

// workerPaused parks a worker between the answer of a look-up and the launch that it
// calls for, until others have done its work.
func workerPaused() Scenario {
	const (
		lookUp = "parked-look-up"
		call   = 4 * time.Second
		within = 60 * time.Second // activities of the sleeper time out (4 s), the horizon (4 + 1 s), tasks that it holds (10 s)
	)
	return Scenario{
		Name:  "paused-worker",
		What:  "a worker sleeps between look-up and launch, as a machine that is moved does, until another has ended its attempts. It wakes up, and launches nothing",
		Bound: 45 * time.Second,
		Setup: Setup{
			Pipelines: files(pipelineOf("parked", "quick")),
			Env:       []string{"PENSTOCK_SAFETY_INTERVAL=1h", "PENSTOCK_CALL_TIMEOUT=" + call.String(), "PENSTOCK_LOOKUP_HORIZON=1s"},
			// Not `hang`: when the rule ends, its answers go to the sleeper.
			Faults: []faults.Rule{{
				Name: lookUp, At: faults.Dataflow, Fault: faults.Latency, Delay: faults.Duration(time.Hour), Committed: true,
				Operation: "jobs.list", Subject: jobsOf("parked"),
			}},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := min(b.N(20), 20) // of more, not all are there within one call's time
			events := b.Objects("parked", n)
			// Those that wait longer than a call's time have been given up, and begun again.
			parked := func() (int, error) {
				strikes, err := b.strikes()
				return struck(strikes, lookUp, time.Now().Add(-call+time.Second/2)), err
			}
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: events}) },
				func() error {
					return b.Await(ctx, fmt.Sprintf("%d look-ups are answered, and the answers on their way", n), func() (bool, error) {
						there, err := parked()
						return there >= n, err
					})
				},
				func() error { return b.Pause("worker") },
				func() error {
					there, err := parked()
					if there < n {
						b.Fail("%d look-ups were parked when the worker was put to sleep, want %d: the story was not told", there, n)
					}
					return err
				},
				func() error { return b.EndFault(lookUp) },
				func() error {
					_, err := b.AddWorker(ctx, "worker-2", stack.PartOptions{})
					b.Say("another worker is there")
					return err
				},
				func() error {
					waiting, cancel := context.WithTimeout(ctx, within)
					defer cancel()
					if err := b.AwaitRunsClosed(waiting, events); err != nil {
						return fmt.Errorf("the other worker did not end the attempts within %s: %w", within, err)
					}
					b.Say("the other worker has ended all attempts")
					return nil
				},
				func() error { return b.Resume("worker") },
				// It stops when its activities are over: after that it can launch nothing.
				func() error { return b.Stop("worker") },
			)
		},
	}
}

func workersAtZero() Scenario {
	const away = 30 * time.Second
	return Scenario{
		Name:  "scaled-to-zero",
		What:  "there is no worker for half a minute, while 100 jobs run and end. The news of their ends wait, and bring them to their end when a worker is back, without a look at Dataflow",
		Bound: time.Minute,
		Setup: Setup{
			Pipelines: files(pipelineOf("long", "quick"), pipelineOf("wrong", "failing")),
			Env:       []string{"PENSTOCK_SAFETY_INTERVAL=1h"},
			Faults:    []faults.Rule{held("long"), held("wrong")},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(100)
			long, wrong := b.Objects("long", n-n/10), outcome(b.Objects("wrong", n/10), "failed")
			all := slices.Concat(long, wrong)
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: b.Shuffle(all)}) },
				func() error { return b.AwaitJobKnown(ctx, all, only, nil) },
				func() error { return b.Stop("worker") },
				// Each look would show: it is late, and so in the log.
				func() error {
					return b.Fault(faults.Rule{Name: "looks", At: faults.Dataflow, Fault: faults.Latency, Delay: faults.Duration(time.Millisecond), Operation: "jobs.get"})
				},
				func() error { return b.Sleep(ctx, away/3) },
				func() error { return b.EndFault("held-long") },
				func() error { return b.EndFault("held-wrong") },
				func() error { return b.awaitNews(ctx, long, "JOB_STATE_DONE") },
				func() error { return b.Sleep(ctx, away-away/3) },
				func() error { return b.Start(ctx, "worker") },
				func() error { return b.AwaitClosed(ctx) },
				func() error {
					strikes, err := b.strikes()
					if looks := struck(strikes, "looks", time.Time{}); looks > 0 {
						b.Fail("%d jobs were looked at, though news of all their ends had come", looks)
					}
					return err
				},
			)
		},
	}
}

func workersScaledIn() Scenario {
	return Scenario{
		Name:  "scaled-in",
		What:  "two to four workers under load, of which now and then one is stopped, as a platform does that looks at queues alone: SIGTERM, and SIGKILL after 10 s. Others take over",
		Bound: 2 * time.Minute,
		Setup: Setup{
			Pipelines: files(pipelineOf("brief", "quick"), pipelineOf("slow", "seconds")),
			Env:       []string{"PENSTOCK_SAFETY_INTERVAL=1h", "PENSTOCK_CALL_TIMEOUT=12s", "PENSTOCK_LOOKUP_HORIZON=2s"},
			// Calls take as long as Dataflow's do, so that a stop finds some under way; and the
			// answers to some launches take longer than the 5 s that a stop leaves them.
			Faults: []faults.Rule{
				{Name: "slow-calls", At: faults.Dataflow, Fault: faults.Latency, Delay: faults.Duration(200 * time.Millisecond), Jitter: faults.Duration(800 * time.Millisecond)},
				{Name: "late-answers", At: faults.Dataflow, Fault: faults.Latency, Delay: faults.Duration(9 * time.Second), Committed: true, Operation: "*.launch", Rate: Rate(0.15)},
			},
		},
		Run: func(ctx context.Context, b *Bench) error {
			names := []string{"worker", "worker-2", "worker-3", "worker-4"}
			for _, name := range names[1:] {
				if _, err := b.AddWorker(ctx, name, stack.PartOptions{}); err != nil {
					return err
				}
			}
			n := b.N(200)
			load := b.Send(ctx, Load{Events: b.Shuffle(slices.Concat(b.Objects("brief", n/2), b.Objects("slow", n/2))), Over: time.Duration(n) * 150 * time.Millisecond})
			chance := b.fork()
			for load.Underway() {
				running := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !b.Part(name).Running() })
				if len(running) > 2 && (len(running) == len(names) || chance.IntN(2) == 0) {
					if err := b.Stop(running[chance.IntN(len(running))]); err != nil {
						b.Say("%v", err) // a stop by force is one too
					}
				} else {
					stopped := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return b.Part(name).Running() })
					if err := b.Start(ctx, stopped[chance.IntN(len(stopped))]); err != nil {
						return err
					}
				}
				if err := b.Sleep(ctx, time.Duration(chance.Int64N(int64(2*time.Second)))); err != nil {
					return err
				}
			}
			return load.Wait()
		},
	}
}
