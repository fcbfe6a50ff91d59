package chaos

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/dev/faults"
)

// quotas are stories about limits that are met.
var quotas = []Scenario{quota()}

// concurrent is Dataflow's default quota of jobs at once.
const concurrent = 25

func quota() Scenario {
	limited := func(form string) faults.Rule {
		limit := concurrent
		return faults.Rule{Name: "quota-" + form, At: faults.Dataflow, Fault: faults.Quota, Limit: &limit, Form: form, Subject: Deployment + "-" + form + "-*"}
	}
	return Scenario{
		Name: "quota",
		What: "a hundred files land at once where 25 jobs may run, with either form of Dataflow's refusal: the launch is refused, or accepted and its job fails. Every run succeeds with a single attempt to fail, so no refusal counts as a failure",
		// After a refusal a launch waits 30 s, then 60 s, then 120 s; these are not to be set.
		Bound:  4 * time.Minute,
		Within: 20 * time.Minute,
		Setup: Setup{
			Pipelines: files(pipelineOf("refuse", "working"), pipelineOf("fail", "seconds", "retry: {attempts: 1, backoff: 2s, maxBackoff: 2s}")),
			Images:    map[string]string{"working": `{"script": [{"state": "RUNNING"}, {"after": "4s", "state": "DONE"}]}`},
			Faults:    []faults.Rule{limited("refuse"), limited("fail")},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(100)
			if b.Size == Short {
				n = 2 * concurrent
			}
			refuse, fail := b.Objects("refuse", n), withJobs(b.Objects("fail", n), only, AnyJobs)
			return inTurn(
				func() error { return b.Deliver(ctx, Load{Events: fail}) },
				func() error { return b.AwaitRunsClosed(ctx, fail) },
				// As fast as would take twice the quota.
				func() error {
					return b.Deliver(ctx, Load{Events: refuse, Over: time.Duration(n) * 80 * time.Millisecond})
				},
				func() error { return b.metTheQuota(ctx, refuse) },
			)
		},
	}
}

// metTheQuota finds that no launch was refused, or that a refusal used up an attempt.
func (b *Bench) metTheQuota(ctx context.Context, refused []Event) error {
	r, err := b.closedRecord(ctx)
	if err != nil {
		return err
	}
	failed := 0
	for _, j := range r.Jobs {
		if j.State == "JOB_STATE_FAILED" {
			failed++
		}
	}
	if failed == 0 {
		b.Fail("no job failed for want of quota, so the scenario shows nothing")
	}
	var mu sync.Mutex
	waited := 0
	err = each(refused, func(e Event) error {
		events, err := b.history(ctx, JobWorkflow(e.JobName(only, 1)), "")
		tries := 0
		for _, h := range events {
			if h.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == "LaunchJob" {
				tries++
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if tries > 1 {
			waited++
		}
		return err
	})
	b.Say("%d launches were refused at least once, %d jobs failed for want of quota", waited, failed)
	if waited == 0 {
		b.Fail("no launch was refused for want of quota, so the scenario shows nothing")
	}
	for _, run := range r.Runs {
		for _, s := range run.Result.Steps {
			if n := len(s.Attempts); n > 1 && slices.ContainsFunc(refused, func(e Event) bool { return e.RunID() == run.ID }) {
				b.Fail("run %s took %d attempts, want 1: a refused launch keeps its name", run.ID, n)
			}
		}
	}
	return err
}
