package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/dev/stack"
)

// What a soak is made of. Two processes stay from beginning to end, so that what they
// hold can be watched; a second worker and second functions share their load and die.
const (
	soakName = "soak"

	steadyWorker, steadyFunctions = "worker", "functions"
	mortalWorker, mortalFunctions = "worker-2", "functions-2"

	roundKeys = 80
	roundLoad = 30 * time.Second
	roundWait = 2 * time.Minute // I4 of each round

	// I5. Memory: the mean of the last third of the rounds may be that much above the
	// first third's. Goroutines: an idle process at the end, and one after the warm-up.
	warmUp          = 2 // rounds that are not measured, after the start of a process
	leastRounds     = 6 // to judge memory by
	memoryGrowth    = 1.15
	memorySlack     = 16 << 20
	goroutineGrowth = 1.25
	goroutineSlack  = 20
)

// flaky is a pipeline whose jobs always fail, twice each.
const flaky = `
name: flaky
purpose: Load what the warehouse will refuse.
owner: data-platform@example.com
on:
  - storage: {bucket: chaos-landing, object: "flaky/**"}
steps:
  - name: load
    dataflow:
      template: gs://chaos-templates/failing.json
      parameters: {input: "${event.uri}", step: load}
    retry: {attempts: 2, backoff: 1s}
`

// Soak puts load and random trouble on one stack for so long, in rounds: after each,
// all must come to rest and the evidence since the beginning be sound (I1 to I4). At the
// end, memory and goroutines of the processes that stayed must be flat (I5).
func Soak(ctx context.Context, o Options, duration time.Duration) (Report, error) {
	if err := o.complete(); err != nil {
		return Report{}, err
	}
	s := Scenario{
		Name:  soakName,
		Bound: roundWait,
		Setup: Setup{Pipelines: map[string]string{"orders.yaml": Orders, "exports.yaml": exports, "flaky.yaml": flaky}},
	}
	fmt.Fprintf(o.Out, "soak: %s in rounds of %d keys, seed %d\n", duration, roundKeys, o.Seed)
	o.Keep = true // what it takes hours to make is not thrown away
	s.Within = duration + 10*time.Minute
	s.Run = func(ctx context.Context, b *Bench) error { return b.soak(ctx, o.Out, time.Now().Add(duration)) }
	r := runOne(ctx, o, s)
	r.print(o.Out)
	return r, nil
}

func (b *Bench) soak(ctx context.Context, out io.Writer, end time.Time) error {
	f, err := b.AddFunctions(ctx, mortalFunctions, stack.PartOptions{})
	if err != nil {
		return err
	}
	if _, err := b.AddWorker(ctx, mortalWorker, stack.PartOptions{}); err != nil {
		return err
	}
	var (
		base    map[string]int // goroutines after the warm-up
		samples = map[string][]int64{}
	)
	for round := 1; round <= warmUp+1 || time.Now().Before(end); round++ {
		began := time.Now()
		if err := b.round(ctx, f.URL()); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := b.AwaitClosed(ctx); err != nil {
			b.Say("%v", err)
		}
		record, err := b.Record(ctx)
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		found, figures := append(Check(record), b.found()...), FiguresOf(record)
		fmt.Fprintf(out, "round %-4d %6d keys %7d deliveries %6d jobs %5s  recovery %6s of %s", round,
			figures.Keys, figures.Deliveries, figures.Jobs, time.Since(began).Round(time.Second), figures.Recovery.Round(100*time.Millisecond), b.bound)
		for _, part := range []string{steadyWorker, steadyFunctions} {
			rss, err := b.Part(part).RSS()
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "  %s %d MiB", part, rss>>20)
			if round > 2*warmUp {
				samples[part] = append(samples[part], rss)
			}
		}
		fmt.Fprintln(out)
		if len(found) > 0 {
			return nil // the caller checks again, and prints
		}
		if round == warmUp {
			if base, err = b.dumps(ctx); err != nil {
				return err
			}
		}
	}
	last, err := b.dumps(ctx)
	if err != nil {
		return err
	}
	for _, part := range []string{steadyWorker, steadyFunctions} {
		b.flat(out, part, samples[part], base[part], last[part])
	}
	return nil
}

// round sends a load to both functions, while trouble comes and goes, and ends with all parts there.
func (b *Bench) round(ctx context.Context, second string) error {
	events := append(b.Objects("orders", roundKeys*7/10), b.refused(roundKeys/10)...)
	for range roundKeys / 10 {
		events = append(events, b.Message("exports", "exports", map[string]string{"file": fmt.Sprintf("gs://exports/%d", b.next())}))
	}
	for range roundKeys / 20 {
		events = append(events, b.poisonous(b.next()))
	}
	events = b.Shuffle(Repeat(events, 2))
	half := len(events) / 2
	one := b.Send(ctx, Load{Events: events[:half], Senders: 8, Over: roundLoad})
	two := b.Send(ctx, Load{Events: events[half:], Senders: 8, Over: roundLoad, To: second})
	draw := b.fork()
	for until := time.Now().Add(roundLoad); time.Now().Before(until); {
		if err := b.Sleep(ctx, time.Second+time.Duration(draw.Int64N(int64(4*time.Second)))); err != nil {
			return err
		}
		if err := b.trouble(ctx, draw); err != nil {
			return err
		}
	}
	return errors.Join(one.Wait(), two.Wait())
}

// refused are events whose runs fail.
func (b *Bench) refused(n int) []Event {
	events := withJobs(b.Objects("flaky", n), "load", 2)
	for i := range events {
		events[i].Outcome = "failed"
	}
	return events
}

// trouble makes one thing go wrong, and puts it right.
func (b *Bench) trouble(ctx context.Context, draw *rand.Rand) error {
	pause := 200*time.Millisecond + time.Duration(draw.Int64N(int64(2*time.Second)))
	rules := []faults.Rule{
		{Name: "busy", At: faults.Dataflow, Fault: faults.Status, Status: 503, Rate: Rate(0.5)},
		{Name: "unanswered", At: faults.Dataflow, Operation: "*.launch", Fault: faults.Reset, Committed: true, Rate: Rate(0.5)},
		{Name: "lost", At: faults.Events, Operation: "job-status", Fault: faults.Lose, Rate: Rate(0.3)},
		{Name: "cut", At: faults.Temporal, Operation: "worker*", Fault: faults.Reset},
	}
	mortals := []string{mortalWorker, mortalFunctions, mortalWorker, mortalFunctions, "temporal", "dataflow"}
	n := draw.IntN(len(rules) + len(mortals))
	if n < len(rules) {
		if err := b.Fault(rules[n]); err != nil {
			return err
		}
		if err := b.Sleep(ctx, pause); err != nil {
			return err
		}
		return b.EndFault(rules[n].Name)
	}
	part := mortals[n-len(rules)]
	if err := b.Kill(part); err != nil {
		return err
	}
	if err := b.Sleep(ctx, pause); err != nil {
		return err
	}
	return b.Start(ctx, part)
}

// cachedWorkflow marks goroutines that are no leak: a worker caches workflows, also those
// that another one has carried on since, until its cache is full.
const cachedWorkflow = "\ncreated by go.temporal.io/sdk/internal.(*dispatcherImpl).NewCoroutine"

// dumps counts the goroutines of the steady processes, idle as they are, by having each
// print them all and end (SIGQUIT), and starts each again.
func (b *Bench) dumps(ctx context.Context) (map[string]int, error) {
	counts := map[string]int{}
	for _, name := range []string{steadyWorker, steadyFunctions} {
		part := b.Part(name)
		before := len(b.Logs(name))
		if err := syscall.Kill(part.Pid(), syscall.SIGQUIT); err != nil {
			return nil, fmt.Errorf("ask the %s for its goroutines: %w", name, err)
		}
		select {
		case end := <-b.Died():
			if !strings.HasPrefix(end.Error(), "the "+name+" ") {
				return nil, end
			}
			b.Say("as it was told to, %.60v", end)
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the goroutines of the %s: %w", name, ctx.Err())
		}
		dump := b.Logs(name)[before:]
		counts[name] = strings.Count(dump, "\ngoroutine ") - strings.Count(dump, cachedWorkflow)
		if counts[name] == 0 {
			return nil, fmt.Errorf("the %s ended without telling its goroutines; see %s", name, filepath.Join(b.Folder, "state", "logs"))
		}
		b.Say("the %s had %d goroutines", name, counts[name])
		if err := part.Start(ctx); err != nil {
			return nil, err
		}
	}
	b.mark()
	return counts, nil
}

// flat checks I5 of a process.
func (b *Bench) flat(out io.Writer, part string, memory []int64, goroutines, later int) {
	if most := int(goroutineGrowth*float64(goroutines)) + goroutineSlack; later > most {
		b.found5("the %s had %d goroutines after the warm-up and %d at the end, want at most %d", part, goroutines, later, most)
	}
	if len(memory) < leastRounds {
		fmt.Fprintf(out, "I5 of the %s: %d goroutines after the warm-up, %d at the end; its memory is judged after %d rounds, and %d were measured: soak longer\n",
			part, goroutines, later, leastRounds, len(memory))
		return
	}
	third := len(memory) / 3
	first, last := mean(memory[:third]), mean(memory[len(memory)-third:])
	if most := int64(memoryGrowth*float64(first)) + memorySlack; last > most {
		b.found5("the %s held %d MiB in the first third of the rounds and %d MiB in the last, want at most %d MiB", part, first>>20, last>>20, most>>20)
	}
	fmt.Fprintf(out, "I5 of the %s: %d MiB in the first third of %d rounds, %d MiB in the last; %d goroutines after the warm-up, %d at the end\n",
		part, first>>20, len(memory), last>>20, goroutines, later)
}

func (b *Bench) found5(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own = append(b.own, Violation{"I5", fmt.Sprintf(format, args...)})
}

func mean(values []int64) int64 {
	var sum int64
	for _, v := range values {
		sum += v
	}
	return sum / int64(len(values))
}
