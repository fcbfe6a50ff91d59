package chaos

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/runs"
)

// doingAgain are stories about what comes again: events after Temporal and Dataflow have
// forgotten them, dead letters, what was missed, and names that somebody else has used.
var doingAgain = []Scenario{retention(), redriveTwice(), reconcileTwice(), changedSpec()}

// forgetFunctions makes the functions lose what they remember, as a new instance has nothing.
func (b *Bench) forgetFunctions(ctx context.Context) error {
	return inTurn(
		func() error { return b.Kill("functions") },
		func() error { return b.Start(ctx, "functions") },
	)
}

// keep has the runs of a pipelines file claim their keys.
const keep = "dedupe: {keep: forever}\n"

func retention() Scenario {
	return Scenario{
		Name:  "retention",
		What:  "runs end, Temporal's retention passes and Dataflow forgets their jobs, and every event comes again: each ends as duplicate of the first run, and no job is launched",
		Short: true,
		Bound: 45 * time.Second,
		Setup: Setup{Pipelines: files(pipelineOf("once", "quick")+keep, pipelineOf("failed", "failing")+keep)},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(40)
			all := slices.Concat(b.Objects("once", n-n/4), outcome(b.Objects("failed", n/4), runs.OutcomeFailed))
			first := map[string]string{} // the chain of each run
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error { return b.AwaitRunsClosed(ctx, all) },
				// Temporal still knows them: nothing is started.
				func() error { return b.forgetFunctions(ctx) },
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error {
					r, err := b.closedRecord(ctx)
					for _, run := range r.Runs {
						if _, twice := first[run.ID]; twice {
							b.Fail("run %s was started again though Temporal still knew it", run.ID)
						}
						first[run.ID] = run.RunID
					}
					return err
				},
				func() error { return b.Keep(ctx) },
				func() error {
					b.Say("Temporal forgets %d runs", len(all))
					var ids []string
					for _, e := range all {
						ids = append(ids, e.RunID(), JobWorkflow(e.JobName(only, 1)))
					}
					return b.Forget(ctx, ids)
				},
				func() error { return b.ForgetJobs(ctx) },
				func() error { return b.forgetFunctions(ctx) },
				func() error {
					for _, e := range all {
						e.Executions, e.Outcome = 2, runs.OutcomeDuplicate
						b.ExpectAnew(e)
					}
					return b.Deliver(ctx, Load{Events: all})
				},
				func() error { return b.namesTheFirst(ctx, first) },
			)
		},
	}
}

// namesTheFirst finds runs that ended as duplicates and do not say of what.
func (b *Bench) namesTheFirst(ctx context.Context, first map[string]string) error {
	r, err := b.closedRecord(ctx)
	if err != nil {
		return err
	}
	for _, run := range r.Runs {
		if run.RunID == first[run.ID] {
			continue
		}
		if taken := run.Result.Taken; taken == nil || taken.RunID != run.ID || taken.Chain != first[run.ID] {
			b.Fail("run %s, execution %s, ended %s and names %+v as the first run, which was execution %s", run.ID, run.RunID, run.Outcome, taken, first[run.ID])
		}
	}
	return nil
}

// numbered is a pipelines file that cannot be filled in for an object whose name is no number.
const numbered = `name: numbered
purpose: Run a job for each numbered object, and fail to see that not all are numbered.
owner: chaos@example.com
on:
  - storage: {bucket: chaos-landing, object: "numbered/{number}.csv"}
steps:
  - name: only
    dataflow: {template: gs://chaos-templates/quick.json, parameters: {step: "%s"}}
`

// redriven is what penstock dlq redrive answers.
type redriven struct {
	DeadLetters []struct {
		Identity  string `json:"identity"`
		Delivered bool   `json:"delivered"`
		Decisions []struct {
			Decision string `json:"decision"`
		} `json:"decisions"`
	} `json:"deadLetters"`
}

// count counts the decisions on letters that were delivered.
func (r *redriven) count(into map[string]int) {
	for _, l := range r.DeadLetters {
		for _, d := range l.Decisions {
			into[d.Decision]++
		}
	}
}

func redriveTwice() Scenario {
	return Scenario{
		Name:  "redrive-twice",
		What:  "events that no run could be made of lie twice in the dead letters; their pipelines file is mended, and they are redriven by two people at once, while the functions are killed, and twice more: each runs once",
		Short: true,
		Bound: 45 * time.Second,
		Setup: Setup{Pipelines: files(fmt.Sprintf(numbered, "${string(int(object.number))}"))},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(24)
			events := make([]Event, n)
			for i := range events {
				events[i] = b.Object("numbered", fmt.Sprintf("x%05d.csv", b.next()))
				events[i].Fate = DeadLetters
			}
			decided := map[string]int{}
			redrive := func() error {
				var r redriven
				err := b.PenstockJSON(ctx, &r, []int{0, 1}, "dlq", "redrive", "--pipeline", "numbered", "-n", "1000")
				r.count(decided)
				return err
			}
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: Repeat(events, 2)}) },
				func() error {
					for i := range events {
						events[i].Fate = Runs
						b.ExpectAnew(events[i])
					}
					return b.WritePipeline("numbered.yaml", fmt.Sprintf(numbered, "${object.number}"))
				},
				func() error { return b.forgetFunctions(ctx) },
				func() error { return b.redriveAndKill(ctx, n/3) },
				redrive,
				redrive,
				func() error {
					if all := decided["started"] + decided["duplicate"]; decided["dead-lettered"] > 0 || all > 2*n { // none, where the first two were quick
						b.Fail("the functions decided %v on what was redriven", decided)
					}
					var left redriven
					if err := b.PenstockJSON(ctx, &left, []int{0}, "dlq", "list", "-n", "1000"); err != nil {
						return err
					}
					if len(left.DeadLetters) > 0 {
						b.Fail("%d dead letters are left", len(left.DeadLetters))
					}
					// Before they come by another way.
					if started, err := b.startedOf(ctx, events); err != nil || started != n {
						b.Fail("of %d events that were redriven %d have runs (%v)", n, started, err)
					}
					return b.Deliver(ctx, Load{Events: events})
				},
			)
		},
	}
}

// redriveAndKill redrives from two sides at once, and kills the functions once they have
// started so many runs.
func (b *Bench) redriveAndKill(ctx context.Context, after int) error {
	var people sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		people.Go(func() {
			_, _, errs[i] = b.Penstock(ctx, "dlq", "redrive", "--pipeline", "numbered", "-n", "1000")
		})
	}
	var done atomic.Bool
	go func() {
		people.Wait()
		done.Store(true)
	}()
	err := inTurn(
		func() error {
			return b.Await(ctx, "some are redriven", func() (bool, error) {
				if done.Load() {
					return true, nil // there were fewer
				}
				decisions, err := b.Decisions()
				started := 0
				for _, d := range decisions {
					if d.Decision == "started" {
						started++
					}
				}
				return started >= after, err
			})
		},
		func() error { return b.forgetFunctions(ctx) },
	)
	people.Wait()
	return inTurn(func() error { return err }, func() error { return errs[0] }, func() error { return errs[1] })
}

// reconciled is what penstock reconcile answers.
type reconciled struct {
	Counts  map[string]int `json:"counts"`
	Started int            `json:"started"`
	Left    int            `json:"left"`
	Extra   int            `json:"extra"`
}

func reconcileTwice() Scenario {
	const lost = "lost"
	return Scenario{
		Name:  "reconcile-twice",
		What:  "half of the events of new objects are lost: penstock reconcile --start-missing starts exactly those, and a second time nothing",
		Short: true,
		Bound: 45 * time.Second,
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(40)
			missed := n / 2 // of the events that come first
			reconcile := func(codes []int, flags ...string) (r reconciled, err error) {
				err = b.PenstockJSON(ctx, &r, codes, append([]string{"reconcile", "orders", "--from", "1h"}, flags...)...)
				return r, err
			}
			want := func(what string, r reconciled, missed, started int) {
				if r.Counts["missed"] != missed || r.Started != started || r.Extra != 0 || r.Counts["ran"]+r.Counts["running"]+missed != n {
					b.Fail("%s of %d objects finds %+v, want %d missed and %d started", what, n, r, missed, started)
				}
			}
			return inTurn(
				func() error {
					return b.Fault(faults.Rule{Name: lost, At: faults.Events, Fault: faults.Lose, Operation: "storage", Count: missed})
				},
				func() error { _, err := b.Upload(ctx, "orders", n); return err },
				func() error { return b.AwaitStruck(ctx, lost, missed) },
				func() error {
					return b.Await(ctx, "the others are decided", func() (bool, error) {
						decisions, err := b.Decisions()
						started := map[string]bool{}
						for _, d := range decisions {
							if d.Pipeline == "orders" {
								started[d.Identity] = true
							}
						}
						return len(started)+missed == n, err
					})
				},
				func() error { return b.EndFault(lost) },
				func() error { r, err := reconcile([]int{4}); want("a look", r, missed, 0); return err },
				func() error {
					r, err := reconcile([]int{0}, "--start-missing")
					want("the first", r, missed, missed)
					return err
				},
				func() error {
					r, err := reconcile([]int{0}, "--start-missing")
					want("the second", r, 0, 0)
					return err
				},
				func() error { b.mark(); return nil },
			)
		},
	}
}
