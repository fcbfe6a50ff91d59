package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/runs"
)

// killPoint is an instant in the life of a run at which its worker is killed. The
// worker is brought there, and kept there, from outside: a call of its is left without
// an answer, or it is stopped.
type killPoint struct {
	name  string // of the pipeline too
	where string
	image string
	// call is the one that is held up. Without it: the worker misses the news of the job's end.
	call faults.Rule
	// dedupe has the run claim its key.
	dedupe bool
	// lead leads runs whose jobs run to the point. Nil: they come there by themselves.
	lead func(ctx context.Context, b *Bench, p killPoint, events []Event) error
	// paused has the worker stopped, not killed, when the news come, and killed after.
	paused  bool
	outcome runs.Outcome
}

// killCall is what PENSTOCK_CALL_TIMEOUT is while a worker is killed: a call that is
// held up for so long is given up, and its activity tried again.
const killCall = 10 * time.Second

// killRecovery bounds how long after the worker's return the last run of a wave closes:
// the activities of the dead time out (10 s), a launch that may have been written is
// looked for until the horizon (10 + 2 s), Temporal gives tasks up that it held for the
// dead (10 s), and the machine may be busy.
const killRecovery = 90 * time.Second

// killWaves are the points, by what can be reached at once.
func killWaves() [][]killPoint {
	dataflow := func(operation string, committed bool) faults.Rule {
		return faults.Rule{At: faults.Dataflow, Fault: faults.Hang, Operation: operation, Committed: committed}
	}
	ledger := func(object string, committed bool) faults.Rule {
		return faults.Rule{At: faults.Storage, Fault: faults.Hang, Operation: "objects.insert", Subject: object, Committed: committed}
	}
	return [][]killPoint{
		{
			{name: "claim", where: "before the key is claimed", image: "quick", dedupe: true, call: ledger("claim.json", false)},
			{name: "claimed", where: "after the key was claimed, before the answer", image: "quick", dedupe: true, call: ledger("claim.json", true)},
			{name: "look-up", where: "before the look-up", image: "quick", call: dataflow("jobs.list", false)},
			{name: "looked-up", where: "after the look-up, before its answer", image: "quick", call: dataflow("jobs.list", true)},
		},
		{
			{name: "launch", where: "before the launch", image: "quick", call: dataflow("*.launch", false)},
			{name: "launched", where: "after the launch, before its answer", image: "quick", call: dataflow("*.launch", true)},
		},
		{
			{name: "report", where: "while it reads what the job left", image: "quick", lead: killRelease, call: dataflow("jobs.getMetrics", false)},
			{name: "record", where: "before the final record", image: "quick", lead: killRelease, call: ledger("record-*", false)},
			{name: "recorded", where: "after the final record, before the answer", image: "quick", lead: killRelease, call: ledger("record-*", true)},
		},
		{
			{name: "cancel", where: "before the cancel", image: "endless", lead: killCancel, call: dataflow("jobs.update", false), outcome: runs.OutcomeCancelled},
			{name: "cancelled", where: "after the cancel, before its answer", image: "endless", lead: killCancel, call: dataflow("jobs.update", true), outcome: runs.OutcomeCancelled},
			{name: "drain", where: "before the drain", image: "stream", lead: killCancel, call: dataflow("jobs.update", false), outcome: runs.OutcomeCancelled},
			{name: "drained", where: "after the drain, before its answer", image: "stream", lead: killCancel, call: dataflow("jobs.update", true), outcome: runs.OutcomeCancelled},
		},
		{{name: "signal", where: "before the news of the job's end is sent", image: "quick", lead: killRelease}},
		{{name: "signalled", where: "after the news of the job's end was sent, before it is seen", image: "quick", lead: killRelease, paused: true}},
	}
}

// killRelease lets the jobs end.
func killRelease(_ context.Context, b *Bench, p killPoint, _ []Event) error {
	return b.EndFault("held-" + p.name)
}

// killCancel cancels the runs.
func killCancel(ctx context.Context, b *Bench, _ killPoint, events []Event) error {
	b.Say("cancel %d runs", len(events))
	return each(events, func(e Event) error { return b.Cancel(ctx, e) })
}

// rules are those that bring the runs to the point and keep them there.
func (p killPoint) rules() []faults.Rule {
	var all []faults.Rule
	if p.lead != nil && p.image == "quick" {
		all = append(all, faults.Rule{Name: "held-" + p.name, At: faults.Job, Fault: faults.Hang, State: "RUNNING", Subject: jobsOf(p.name)})
	}
	if r := p.call; r.At != "" {
		r.Name = "at-" + p.name
		if r.At == faults.Storage {
			r.Subject = "penstock-ledger/v1/" + Deployment + "/" + p.name + "/*" + r.Subject
		} else {
			r.Subject = jobsOf(p.name)
		}
		all = append(all, r)
	}
	return all
}

func (p killPoint) pipeline() string {
	more := []string(nil)
	if p.image == "stream" {
		more = append(more, "  streaming: true")
	}
	text := pipelineOf(p.name, p.image, more...)
	if p.dedupe {
		text += keep
	}
	return text
}

// workerKills are a scenario of all points, and one of each.
func workerKills() []Scenario {
	waves := killWaves()
	all := []Scenario{workerKilled("worker-killed",
		"the worker is killed at each of fifteen points, with 20 runs at it: before and after each of its calls, and around the news of a job's end. Every run goes on where it was", waves)}
	for _, wave := range waves {
		for _, p := range wave {
			s := workerKilled("worker-killed-at-"+p.name, "the worker is killed "+p.where+", with 20 runs at that point. They go on from there", [][]killPoint{{p}})
			s.OnRequest = true
			all = append(all, s)
		}
	}
	return all
}

func workerKilled(name, what string, waves [][]killPoint) Scenario {
	var pipelines []string
	for _, p := range slices.Concat(waves...) {
		pipelines = append(pipelines, p.pipeline())
	}
	return Scenario{
		Name:   name,
		What:   what,
		Bound:  killRecovery,
		Within: 30 * time.Minute,
		Setup: Setup{
			Pipelines: files(pipelines...),
			// Whatever is found again is not found by the safety timer.
			Env: []string{"PENSTOCK_CALL_TIMEOUT=" + killCall.String(), "PENSTOCK_LOOKUP_HORIZON=2s", "PENSTOCK_SAFETY_INTERVAL=1h"},
		},
		Run: func(ctx context.Context, b *Bench) error {
			// More than 20 at once are not all at their point within one call's time.
			n := min(b.N(20), 20)
			for range b.N(20) / n {
				for _, wave := range waves {
					if err := killWave(ctx, b, wave, n); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
}

// killWave brings n runs to each point, kills the worker, and starts another.
func killWave(ctx context.Context, b *Bench, wave []killPoint, n int) error {
	events := map[string][]Event{}
	var all []Event
	for _, p := range wave {
		for _, r := range p.rules() {
			if err := b.Fault(r); err != nil {
				return err
			}
		}
		events[p.name] = outcome(b.Objects(p.name, n), p.outcome)
		all = append(all, events[p.name]...)
	}
	if err := b.Deliver(ctx, Load{Events: all}); err != nil {
		return err
	}
	for _, p := range wave {
		if p.lead == nil {
			continue
		}
		if err := b.AwaitJobKnown(ctx, events[p.name], only, nil); err != nil {
			return err
		}
	}
	if wave[0].call.At == "" {
		if err := killAroundNews(ctx, b, wave[0], events[wave[0].name]); err != nil {
			return err
		}
	} else if err := killAtCalls(ctx, b, wave, events, n); err != nil {
		return err
	}
	began := time.Now()
	if err := b.Start(ctx, "worker"); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, killRecovery+patience)
	defer cancel()
	if err := b.AwaitRunsClosed(waiting, all); err != nil {
		b.Fail("of the runs %s not all have closed %s after the worker was back: %v", killNames(wave), killRecovery+patience, err)
		return nil
	}
	b.Say("all runs %s are closed, %s after the worker's return", killNames(wave), time.Since(began).Round(100*time.Millisecond))
	if took := time.Since(began); took > killRecovery {
		b.Fail("the runs %s had closed %s after the worker was back, want %s", killNames(wave), took.Round(time.Second), killRecovery)
	}
	return nil
}

func killNames(wave []killPoint) string {
	var names []string
	for _, p := range wave {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

// killAtCalls leads the runs to calls that are held up, and kills the worker while it
// waits for the answers.
func killAtCalls(ctx context.Context, b *Bench, wave []killPoint, events map[string][]Event, n int) error {
	for _, p := range wave {
		if p.lead == nil {
			continue
		}
		if err := p.lead(ctx, b, p, events[p.name]); err != nil {
			return err
		}
	}
	// A call that is held up for longer than a call's time is no longer waited for.
	at := func(when time.Time) (map[string]int, error) {
		strikes, err := b.strikes()
		counts := map[string]int{}
		for _, p := range wave {
			counts[p.name] = struck(strikes, "at-"+p.name, when.Add(-killCall+time.Second/2))
		}
		return counts, err
	}
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := b.Await(waiting, fmt.Sprintf("%d runs are at each point of %s", n, killNames(wave)), func() (bool, error) {
		counts, err := at(time.Now())
		for _, p := range wave {
			if counts[p.name] < n {
				return false, errors.Join(fmt.Errorf("they are %v", counts), err)
			}
		}
		return true, err
	})
	if err != nil {
		return err
	}
	killed := time.Now()
	if err := b.Kill("worker"); err != nil {
		return err
	}
	counts, err := at(killed)
	if err != nil {
		return err
	}
	b.Say("the worker was killed with runs at its points: %v", counts)
	for _, p := range wave {
		if counts[p.name] < n {
			b.Fail("%d runs were at the point %s when the worker was killed, want %d", counts[p.name], p.name, n)
		}
		if err := b.EndFault("at-" + p.name); err != nil {
			return err
		}
	}
	return nil
}

// killAroundNews has jobs end while the worker is dead, or stopped and killed once the
// news are with Temporal.
func killAroundNews(ctx context.Context, b *Bench, p killPoint, events []Event) error {
	first := b.Kill
	if p.paused {
		first = b.Pause
	}
	if err := first("worker"); err != nil {
		return err
	}
	if err := p.lead(ctx, b, p, events); err != nil {
		return err
	}
	if err := b.awaitNews(ctx, events, "JOB_STATE_DONE"); err != nil {
		return err
	}
	b.Say("the ends of %d jobs are told, and seen by nobody", len(events))
	if p.paused {
		return b.Kill("worker")
	}
	return nil
}

// awaitNews waits until the functions have signalled this state of each event's first job.
func (b *Bench) awaitNews(ctx context.Context, events []Event, state string) error {
	return b.Await(ctx, fmt.Sprintf("%s of %d jobs is signalled", state, len(events)), func() (bool, error) {
		decisions, err := b.Decisions()
		if err != nil {
			return false, err
		}
		told := map[string]bool{}
		for _, d := range decisions {
			if d.Decision == "signalled" && d.Reason == state {
				told[d.RunID] = true
			}
		}
		for _, e := range events {
			if !told[JobWorkflow(e.JobName(only, 1))] {
				return false, nil
			}
		}
		return true, nil
	})
}
