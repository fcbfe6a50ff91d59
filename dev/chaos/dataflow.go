package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/penstock/penstock/dev/faults"
)

// dataflowTrouble are stories about a Dataflow that does not answer, refuses, or is gone.
var dataflowTrouble = []Scenario{launchAnswerLost(), launchAnswerLostJobEnds(), nameTaken(), throttled(), emulatorKilled()}

// lostAnswers loses the answers to three of ten launches, which took effect.
var lostAnswers = faults.Rule{Name: "lost-answers", At: faults.Dataflow, Fault: faults.Reset, Committed: true, Operation: "*.launch", Rate: Rate(0.3)}

// runLosing delivers n events to the default pipeline, and wants answers to be lost to a fifth of their launches at least.
func runLosing(ctx context.Context, b *Bench, n int) error {
	events := b.Objects("orders", n)
	if err := b.Deliver(ctx, Load{Events: events, Over: time.Duration(n) * 100 * time.Millisecond}); err != nil {
		return err
	}
	if err := b.AwaitClosed(ctx); err != nil {
		b.Say("%v", err) // the check says what is open
	}
	strikes, err := b.strikes()
	lost := struck(strikes, lostAnswers.Name, time.Time{})
	b.Say("the answers to %d of %d launches were lost", lost, n)
	// Three in ten are to be; of few launches chance may take far fewer.
	if least := max(1, n/5-3); lost < least {
		b.Fail("the answers to %d of %d launches were lost, want %d at least: the story was not told", lost, n, least)
	}
	return err
}

func launchAnswerLost() Scenario {
	const lateLaunches = "late-launches"
	// Both forms in which Dataflow does not know a job yet.
	unknown := faults.Rule{Name: "unknown", At: faults.Dataflow, Fault: faults.Status, Status: http.StatusNotFound, Operation: "jobs.get", Rate: Rate(0.2)}
	unread := unknown
	unread.Name, unread.Message = "unread", `Calling GetObjectMetadata with file "/bigstore/staging/pipeline.pb": RPC::DEADLINE_EXCEEDED: Deadline exceeded, notFound`
	return Scenario{
		Name:  "launch-answer-lost",
		What:  "three of ten launches take effect and are not answered, and some more take effect only after their caller gave up and has looked for their jobs in vain; and one of three looks at a job is answered 404. All are found, and none is launched again",
		Bound: 2 * time.Minute,
		Setup: Setup{Faults: []faults.Rule{
			// The caller gives up after 5 s and looks after 10 s, in vain; it may launch again after 14 s.
			{Name: lateLaunches, At: faults.Dataflow, Fault: faults.Latency, Delay: faults.Duration(11 * time.Second), Proceeds: true, Operation: "*.launch", Rate: Rate(0.1)},
			lostAnswers, unknown, unread,
		}},
		Run: func(ctx context.Context, b *Bench) error {
			err := runLosing(ctx, b, b.N(200))
			strikes, failed := b.strikes()
			for _, rule := range []string{lateLaunches, unknown.Name, unread.Name} {
				n := struck(strikes, rule, time.Time{})
				b.Say("%s struck %d times", rule, n)
				if n == 0 && b.Size != Short { // which has room for few
					b.Fail("%s never struck: the story was not told", rule)
				}
			}
			return errors.Join(err, failed)
		},
	}
}

func launchAnswerLostJobEnds() Scenario {
	return Scenario{
		Name:  "launch-answer-lost-job-ends",
		What:  "three of ten launches are not answered, and their jobs are over before anybody looks, so that their names are free again; and the list shows them late. They are found in the list of all states, before news of them come",
		Bound: 2 * time.Minute,
		Short: true,
		Setup: Setup{
			Env: []string{"PENSTOCK_SAFETY_INTERVAL=1h"},
			Faults: []faults.Rule{
				lostAnswers,
				// A run looks for its job after 5 s, in vain, and for the last time after 9 s: the call's time and the horizon.
				{Name: "late-list", At: faults.Dataflow, Fault: faults.ListLag, Delay: faults.Duration(7 * time.Second)},
				{Name: "late-news", At: faults.Events, Fault: faults.Delay, Operation: "job-status*", Delay: faults.Duration(15 * time.Second)},
			},
		},
		Run: func(ctx context.Context, b *Bench) error { return runLosing(ctx, b, b.N(200)) },
	}
}

// nameTaken has launches repeated because the list does not show their jobs in time, which
// is where the two ways in which Dataflow meets a second launch of a name matter.
func nameTaken() Scenario {
	rule := func(pipeline string, f faults.Fault) faults.Rule {
		return faults.Rule{Name: string(f) + "-" + pipeline, At: faults.Dataflow, Fault: f, Subject: jobsOf(pipeline)}
	}
	hidden, late := rule("refused", faults.HideQueued), rule("given", faults.ListLag)
	late.Delay = faults.Duration(15 * time.Second)
	refused, given := rule("refused", faults.SameName), rule("given", faults.SameName)
	refused.Form, given.Form = "conflict", "existing"
	return Scenario{
		Name:  "name-taken",
		What:  "launches are not answered, and the list does not show their jobs, which are active, before they are launched again: it lags, or leaves queued ones out. Dataflow answers 409, or with the job that it has. Each run goes on with its one job",
		Bound: 45 * time.Second,
		Setup: Setup{
			Pipelines: files(pipelineOf("refused", "queued"), pipelineOf("given", "quick")),
			Images:    map[string]string{"queued": `{"script": [{"state": "QUEUED"}, {"after": "14s", "state": "RUNNING"}, {"after": "300ms", "state": "DONE"}]}`},
			Env:       []string{"PENSTOCK_SAFETY_INTERVAL=1h"},
			Faults: []faults.Rule{
				{Name: "launches", At: faults.Dataflow, Fault: faults.Latency, Delay: faults.Duration(time.Millisecond), Operation: "*.launch"},
				{Name: "silence", At: faults.Events, Fault: faults.Lose, Operation: "job-status*"},
				hidden, late, refused, given, held("given"),
			},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(40) / 2
			all := slices.Concat(b.Objects("refused", n), b.Objects("given", n))
			return inTurn(
				func() error {
					// Each job's first launch, and none after.
					return b.Fault(faults.Rule{Name: "first-answers", At: faults.Dataflow, Fault: faults.Reset, Committed: true, Operation: "*.launch", Count: 2 * n})
				},
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error {
					return b.Await(ctx, "each job is launched a second time", func() (bool, error) {
						strikes, err := b.strikes()
						launches := map[string]int{}
						for _, s := range strikes {
							if s.Rule == "launches" {
								launches[s.Job]++
							}
						}
						again := 0
						for _, times := range launches {
							if times > 1 {
								again++
							}
						}
						return again == 2*n, err
					})
				},
				func() error { return b.EndFault("silence") },
				func() error { return b.EndFault("held-given") },
			)
		},
	}
}

const (
	// throttledFor is how long Dataflow refuses half of the calls.
	throttledFor = time.Minute
	// retryAfter is what the refusals that say so ask for: longer than each wait of the
	// product's own that follows the same refusal without it, but the one for quota.
	retryAfter = 8 * time.Second
	// throttledRecovery is the longest wait that can begin in that minute: 60 s, after the
	// second refusal for quota (30 s, then 60 s), and of the report's back-off, which ends there too.
	throttledRecovery = 90 * time.Second
)

// calls logs every call of Dataflow's API, at the price of a millisecond.
var calls = faults.Rule{Name: "calls", At: faults.Dataflow, Fault: faults.Latency, Delay: faults.Duration(time.Millisecond)}

// refusals refuse half of the calls for so long: the first rule that strikes ends a
// call, so that each rate is of what those before it leave.
func refusals(until time.Duration) []faults.Rule {
	rule := func(name string, status int, after time.Duration, rate float64) faults.Rule {
		return faults.Rule{Name: name, At: faults.Dataflow, Fault: faults.Status, Status: status, RetryAfter: faults.Duration(after), Rate: Rate(rate), Until: faults.Duration(until)}
	}
	return []faults.Rule{
		rule("429-later", http.StatusTooManyRequests, retryAfter, 0.125),
		rule("429", http.StatusTooManyRequests, 0, 0.143),
		rule("503-later", http.StatusServiceUnavailable, retryAfter, 0.167),
		rule("503", http.StatusServiceUnavailable, 0, 0.2),
	}
}

func throttled() Scenario {
	return Scenario{
		Name:  "throttled",
		What:  "for a minute half of the calls are answered 429 or 503, half of these with a Retry-After, under load. Nothing fails, and no job is asked for again before it may be",
		Bound: throttledRecovery,
		Setup: Setup{Faults: []faults.Rule{calls}, Env: []string{"PENSTOCK_SAFETY_INTERVAL=1h"}},
		Run: func(ctx context.Context, b *Bench) error {
			over := throttledFor
			if b.Size == Short {
				over /= 6
			}
			for _, r := range refusals(over) {
				if err := b.Fault(r); err != nil {
					return err
				}
			}
			began := time.Now()
			if err := b.Deliver(ctx, Load{Events: b.Objects("orders", b.N(120)), Over: over}); err != nil {
				return err
			}
			if err := b.Sleep(ctx, time.Until(began.Add(over))); err != nil {
				return err
			}
			for _, r := range refusals(over) {
				if err := b.EndFault(r.Name); err != nil {
					return err
				}
			}
			// Then the last who was told when to come again may do so.
			if err := b.Sleep(ctx, retryAfter); err != nil {
				return err
			}
			strikes, err := b.strikes()
			if err != nil {
				return err
			}
			impatient, asked := impatience(strikes)
			b.Say("%d calls were told when to come again; %d came earlier", asked, len(impatient))
			for _, text := range impatient {
				b.Fail("%s", text)
			}
			if asked < b.N(120)/5 {
				b.Fail("%d calls were told to come later, want %d at least: the story was not told", asked, b.N(120)/5)
			}
			return nil
		},
	}
}

// impatience are the calls about jobs that came before the time at which an earlier one
// was told to come again, in words, and how many were told.
func impatience(strikes []faults.Injected) (found []string, asked int) {
	until, refused := map[string]time.Time{}, map[string]faults.Injected{}
	for _, s := range strikes {
		switch s.Rule {
		case "429-later", "503-later":
			asked++
			if s.Job != "" {
				until[s.Job], refused[s.Job] = s.Time.Add(retryAfter), s
			}
		case calls.Name:
			// The product counts from when it reads the answer, which is later than this.
			if s.Time.Before(until[s.Job]) {
				r := refused[s.Job]
				found = append(found, fmt.Sprintf("%s of %s came %s after %s was answered %s, Retry-After: %s", s.Operation, s.Job,
					s.Time.Sub(r.Time).Round(10*time.Millisecond), r.Operation, r.Rule[:3], retryAfter))
			}
		}
	}
	return found, asked
}

// emulatorKilled is about the suite as much as about the product: the emulator keeps its
// jobs, as Dataflow does, and calls that it had taken are left without an answer.
func emulatorKilled() Scenario {
	const times = 3
	return Scenario{
		Name:  "emulator-killed",
		What:  "Dataflow, which is the emulator here, is killed under load, and comes back with its jobs. What was not answered is looked for, and every job is followed to its end",
		Bound: 2 * time.Minute,
		Setup: Setup{
			Pipelines: files(pipelineOf("brief", "quick"), pipelineOf("slow", "seconds")),
			Env:       []string{"PENSTOCK_SAFETY_INTERVAL=10s"},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(100)
			load := b.Send(ctx, Load{Events: b.Shuffle(append(b.Objects("brief", n/2), b.Objects("slow", n/2)...)), Over: time.Duration(n) * 200 * time.Millisecond})
			for range times {
				err := inTurn(
					func() error { return b.Sleep(ctx, time.Duration(n)*200*time.Millisecond/(times+1)) },
					func() error { return b.Kill("dataflow") },
					func() error { return b.Sleep(ctx, time.Second) },
					func() error { return b.Start(ctx, "dataflow") },
				)
				if err != nil {
					return err
				}
			}
			return load.Wait()
		},
	}
}
