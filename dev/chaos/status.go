package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.temporal.io/api/workflowservice/v1"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/runs"
)

// status are stories about job-status events.
var status = []Scenario{statusEvents(), statusFalse(), statusFlood()}

// told is a job-status event as somebody tells it, true or not.
type told struct {
	name, id, state string
	at              time.Time // currentStateTime
}

// tell posts a job-status event to the functions, as Eventarc does, until it is acknowledged.
func (b *Bench) tell(ctx context.Context, t told) error {
	q := Request{
		Path: "/JobStatus",
		Header: map[string]string{
			"Content-Type": "application/json", "ce-specversion": "1.0", "ce-id": strconv.Itoa(b.next()),
			"ce-type":   "google.cloud.dataflow.job.v1beta3.statusChanged",
			"ce-source": "//dataflow.googleapis.com/projects/" + Project + "/locations/" + Location,
			"ce-time":   t.at.UTC().Format(time.RFC3339Nano), "ce-subject": "jobs/" + t.name, "ce-job": t.name,
		},
		Body: encode(map[string]any{
			"@type": "type.googleapis.com/google.events.cloud.dataflow.v1beta3.JobEventData",
			"payload": map[string]any{
				"id": t.id, "name": t.name, "projectId": Project, "location": Location, "type": "JOB_TYPE_BATCH",
				"currentState": t.state, "currentStateTime": t.at.UTC().Format(time.RFC3339Nano),
			},
		}),
	}
	client := &http.Client{Timeout: 10 * time.Second}
	var answer int
	err := b.Await(ctx, "the functions take the news of "+t.name, func() (ok bool, err error) {
		answer, err = post(ctx, client, b.Addresses.Functions, q)
		return answer >= 200 && answer < 300, err
	})
	if err != nil {
		return fmt.Errorf("tell %s of %s: answered %d: %w", t.state, t.name, answer, err)
	}
	return nil
}

// forged are news of a job under our name that does not exist: the opposite of how it will end.
func forged(job Job, end string) []told {
	at := job.Launched.Add(time.Hour)
	return []told{
		{name: job.Name, id: "2026-01-02_03_04_05-1234567890123456789", state: end, at: at},
		{name: job.Name, id: "2026-01-02_03_04_05-9876543210987654321", state: "JOB_STATE_CANCELLED", at: at},
	}
}

// stale are news of states that a job has left.
func stale(job Job) []told {
	return []told{
		{name: job.Name, id: job.ID, state: "JOB_STATE_RUNNING", at: job.Launched},
		{name: job.Name, id: job.ID, state: "JOB_STATE_PENDING", at: job.Launched.Add(-time.Second)},
		{name: job.Name, id: job.ID, state: "JOB_STATE_QUEUED", at: job.Launched.Add(-2 * time.Second)},
	}
}

// falseEnds are ends that jobs of the pipelines good and bad do not come to.
var falseEnds = map[string]string{"good": "JOB_STATE_FAILED", "bad": "JOB_STATE_DONE"}

func statusEvents() Scenario {
	seconds := func(s float64) faults.Duration { return faults.Duration(s * float64(time.Second)) }
	return Scenario{
		Name:  "status-events",
		What:  "of the status events of 300 jobs three of ten are lost, three of ten come three times, and all late and in any order; others are stale, or of jobs that do not exist. Every run ends as its job did",
		Bound: 90 * time.Second,
		Setup: Setup{
			Pipelines: files(pipelineOf("good", "seconds"), pipelineOf("bad", "failing")),
			Env:       []string{"PENSTOCK_SAFETY_INTERVAL=8s"},
			Faults: []faults.Rule{
				{Name: "lost", At: faults.Events, Fault: faults.Lose, Operation: "job-status*", Rate: Rate(0.3)},
				// Of those that are not lost: three of ten of all.
				{Name: "doubled", At: faults.Events, Fault: faults.Duplicate, Operation: "job-status*", Rate: Rate(0.43), Copies: 2, Delay: seconds(0.5), Jitter: seconds(2)},
				{Name: "shuffled", At: faults.Events, Fault: faults.Shuffle, Operation: "job-status*", Jitter: seconds(3)},
			},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(300)
			good, bad := b.Objects("good", n-n/5), outcome(b.Objects("bad", n/5), runs.OutcomeFailed)
			all := b.Shuffle(slices.Concat(good, bad))
			load := b.Send(ctx, Load{Events: all, Over: time.Duration(n) * 60 * time.Millisecond})
			// Of each job, as soon as it is launched, false news come too.
			pipeline := map[string]string{}
			for _, e := range all {
				pipeline[e.JobName(only, 1)] = e.Pipeline
			}
			said := 0
			for said < n {
				jobs, err := b.Jobs()
				if err != nil {
					return err
				}
				for _, job := range jobs[said:] {
					for _, t := range append(stale(job), forged(job, falseEnds[pipeline[job.Name]])...) {
						if b.draw().IntN(3) > 0 {
							continue
						}
						if err := b.tell(ctx, t); err != nil {
							return err
						}
					}
				}
				said = len(jobs)
				if err := b.Sleep(ctx, 100*time.Millisecond); err != nil {
					return err
				}
			}
			if err := load.Wait(); err != nil {
				return err
			}
			b.mark()
			strikes, err := b.strikes()
			for rule, want := range map[string]int{"lost": n / 5, "doubled": n / 5, "shuffled": n / 2} {
				if got := struck(strikes, rule, time.Time{}); got < want {
					b.Fail("status events of %d jobs were %s, want %d at least: the story was not told", got, rule, want)
				}
			}
			return err
		},
	}
}

// statusFalse tells one falsehood after the other, at moments at which each would show.
func statusFalse() Scenario {
	return Scenario{
		Name:  "false-status",
		What:  "jobs are said to have ended that do not exist, under the names of ours that run; and those that have ended are said to run, before anybody saw their end. Neither is believed",
		Short: true,
		// Nothing looks for itself: what takes a falsehood for true stays behind.
		Bound: 45 * time.Second,
		Setup: Setup{
			Pipelines: files(pipelineOf("good", "quick"), pipelineOf("bad", "failing")),
			Env:       []string{"PENSTOCK_SAFETY_INTERVAL=1h"},
			Faults:    []faults.Rule{held("good"), held("bad")},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(20)
			good, bad := b.Objects("good", n), outcome(b.Objects("bad", n), runs.OutcomeFailed)
			all := slices.Concat(good, bad)
			var jobs []Job
			tellAll := func(what func(Job) []told) error {
				for _, job := range jobs {
					for _, t := range what(job) {
						if err := b.tell(ctx, t); err != nil {
							return err
						}
					}
				}
				return nil
			}
			pipeline := map[string]string{}
			for _, e := range all {
				pipeline[e.JobName(only, 1)] = e.Pipeline
			}
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error { return b.AwaitJobKnown(ctx, all, only, nil) },
				func() (err error) { jobs, err = b.Jobs(); return err },
				func() error {
					b.Say("tell the ends of %d jobs that do not exist", 2*len(jobs))
					return tellAll(func(job Job) []told { return forged(job, falseEnds[pipeline[job.Name]]) })
				},
				// A worker that is paused may hold a task with the end alone: one that is gone holds none.
				func() error { return b.Kill("worker") },
				func() error { return b.EndFault("held-good") },
				func() error { return b.EndFault("held-bad") },
				// A workflow that believed the falsehood is closed, and hears of nothing.
				func() error {
					return b.want(ctx, 20*time.Second, func(ctx context.Context) error {
						return errors.Join(b.awaitNews(ctx, good, "JOB_STATE_DONE"), b.awaitNews(ctx, bad, "JOB_STATE_FAILED"))
					})
				},
				func() error {
					b.Say("tell that %d jobs which have ended run", len(jobs))
					return tellAll(stale)
				},
				func() error { return b.Start(ctx, "worker") },
			)
		},
	}
}

// statusFlood sends more news than the history of a workflow should take.
func statusFlood() Scenario {
	return Scenario{
		Name:  "status-flood",
		What:  "thousands of status events come about one job, and as many about jobs that nobody watches, each of which asks a sweep whose list is refused meanwhile. Their workflows go on in new histories, and forget nothing",
		Bound: 90 * time.Second,
		Setup: Setup{
			Pipelines: files(pipelineOf("good", "quick")),
			Env:       []string{"PENSTOCK_SAFETY_INTERVAL=1h", "PENSTOCK_SWEEP_GATHER=1s"},
			Faults:    []faults.Rule{held("good")},
		},
		Run: func(ctx context.Context, b *Bench) error {
			events := b.Objects("good", 1)
			watched, sweep := JobWorkflow(events[0].JobName(only, 1)), runs.SweepWorkflowID(Deployment, Project, Location)
			var job Job
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: events}) },
				func() error { return b.AwaitJobKnown(ctx, events, only, nil) },
				func() error {
					jobs, err := b.Jobs()
					if err == nil {
						job = jobs[0]
					}
					return err
				},
				func() error {
					return b.Fault(faults.Rule{Name: "refused", At: faults.Dataflow, Fault: faults.Status, Status: 503, Operation: "jobs.list"})
				},
				func() error {
					n := b.N(6000)
					b.Say("tell %d times that %s runs, and %d times of jobs that nobody watches", n, job.Name, n)
					return b.flood(ctx, n, func(i int) []told {
						at := job.Launched.Add(time.Duration(i) * time.Millisecond)
						return []told{
							{name: job.Name, id: job.ID, state: "JOB_STATE_RUNNING", at: at},
							{name: Deployment + "-good-only-abcdefghijklm-1", id: "2026-01-02_03_04_05-1234567890123456789", state: "JOB_STATE_RUNNING", at: at},
						}
					})
				},
				func() error { return b.wantRenewed(ctx, watched) },
				func() error { return b.wantRenewed(ctx, sweep) },
				func() error { return b.EndFault("refused") },
				func() error { return b.EndFault("held-good") },
				func() error { return b.wantSwept(ctx, sweep) },
			)
		},
	}
}

// flood tells n batches of news, several at a time.
func (b *Bench) flood(ctx context.Context, n int, batch func(i int) []told) error {
	const tellers = 16
	var (
		wg   sync.WaitGroup
		errs = make([]error, tellers)
	)
	for t := range tellers {
		wg.Go(func() {
			for i := t; i < n && errs[t] == nil; i += tellers {
				for _, news := range batch(i) {
					if errs[t] == nil {
						errs[t] = b.tell(ctx, news)
					}
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// wantRenewed wants a workflow to go on in a new history soon.
func (b *Bench) wantRenewed(ctx context.Context, workflowID string) error {
	return b.want(ctx, 30*time.Second, func(ctx context.Context) error {
		return b.Await(ctx, workflowID+" goes on in a new history", func() (bool, error) {
			n, err := b.Temporal.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{
				Namespace: b.Addresses.Namespace, Query: fmt.Sprintf("WorkflowId = '%s' AND ExecutionStatus = 'ContinuedAsNew'", workflowID),
			})
			return n.GetCount() > 0, err
		})
	})
}

// wantSwept wants a sweep to come to its end soon, with its list read.
func (b *Bench) wantSwept(ctx context.Context, sweep string) error {
	return b.want(ctx, 60*time.Second, func(ctx context.Context) error {
		var result runs.SweepResult
		if err := b.Temporal.GetWorkflow(ctx, sweep, "").Get(ctx, &result); err != nil {
			return fmt.Errorf("the sweep does not end: %w", err)
		}
		if result.Lists == 0 || result.Error != "" {
			b.Fail("the sweep read %d lists and says %q; want that it forgot no ask, and read one", result.Lists, result.Error)
		}
		return nil
	})
}

// want waits for something for so long. That it does not come is a finding, and the story goes on.
func (b *Bench) want(ctx context.Context, within time.Duration, await func(context.Context) error) error {
	waiting, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := await(waiting)
	if err != nil && ctx.Err() == nil && waiting.Err() != nil {
		b.Fail("%v", err)
		return nil
	}
	return err
}
