// Package chaos kills, starves and lies to a whole Penstock while it works, and then
// checks from the outside that nothing ran twice, nothing was lost, and every run
// tells the truth: `make chaos`.
//
// A Scenario is a short story about one kind of trouble. Each gets a stack of its own,
// in which every program is a process of its own, and a sender that delivers events as
// Pub/Sub does. When the story is over, Check holds what the sender, the functions'
// log, the dead-letter topic, the Dataflow emulator's ledger and Temporal's histories
// say against each other. It takes nothing from the product but the names of runs and
// jobs and the form of a run's result, and the programs under test are the ones that
// are released.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/dev/stack"
)

// Scenario is one story: what goes wrong, and what must hold all the same.
type Scenario struct {
	// Name is what SCENARIO=… takes: lower-case words with dashes.
	Name string
	// What says in one line what goes wrong and what must hold.
	What string
	// Short puts it into the short run too, at a smaller size.
	Short bool
	// OnRequest leaves it out unless it is named.
	OnRequest bool
	// Bound is I4: how long after the end of the last fault the last run may close, at the
	// default size.
	Bound time.Duration
	// Within bounds the whole story, the stack's start apart. Default: 6 minutes.
	Within time.Duration
	// Alone says that it uses the whole machine, so that none runs beside it.
	Alone bool
	// Setup is what its stack is made of.
	Setup Setup
	// Run tells the story. It need not wait for the runs' ends, nor check what Check does.
	Run func(context.Context, *Bench) error
}

// Size is how large a scenario is.
type Size int

// The sizes.
const (
	Default Size = iota // at least what was promised: docs/reliability.md
	Short               // a tenth, for every commit
	Full                // five times the default
)

// fullFactor is how much larger Full is.
const fullFactor = 5

// bound is the scenario's bound at a size: more work takes longer.
func (s Scenario) bound(size Size) time.Duration {
	if size == Full {
		return fullFactor * s.Bound
	}
	return s.Bound
}

// Options say which scenarios to run, and how.
type Options struct {
	// Scenarios are names; empty: all of the size that are not OnRequest.
	Scenarios []string
	// Seed is what all chance follows. 0: one is chosen.
	Seed uint64
	Size Size
	// AtOnce is how many run side by side, but for those that are Alone: most of a
	// scenario is waiting. 0: 2.
	AtOnce int
	// Folder keeps the state of what fails, a folder a scenario. Default: .penstock/chaos in the repository.
	Folder string
	// Keep keeps it of what succeeds as well.
	Keep bool
	// WorkerBinary and FunctionsBinary are run in place of what is built; see stack.Options.
	WorkerBinary, FunctionsBinary string
	// PenstockBinary is run as the user's command in place of what is built.
	PenstockBinary string
	// Within bounds each story, where its own bound is not shorter. 0: its own.
	Within time.Duration
	// Out gets a line a scenario, and what it found. Nil: none.
	Out io.Writer
	// Verbose puts the progress of the stack and of the scenario there too.
	Verbose bool

	root string // of the repository
}

// Report is what became of a scenario.
type Report struct {
	Scenario   string
	Seed       uint64
	Figures    Figures
	Took       time.Duration // with the stack's start and the check
	Bound      time.Duration
	Violations []Violation
	// Err is why the story could not be told to its end. Its violations may then be many and mean little.
	Err error
	// Folder holds logs and databases; empty when they were removed.
	Folder string
}

// OK says that the story was told and nothing was found.
func (r Report) OK() bool { return r.Err == nil && len(r.Violations) == 0 }

// Run runs scenarios and reports each, in the order in which they end. Its error is about the options alone.
func Run(ctx context.Context, o Options) ([]Report, error) {
	chosen, err := choose(o)
	if err != nil {
		return nil, err
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	began := time.Now()
	fmt.Fprintf(o.Out, "chaos: %d scenarios, seed %d\n", len(chosen), o.Seed)
	var (
		mu      sync.Mutex
		reports []Report
	)
	tell := func(s Scenario) {
		if ctx.Err() != nil {
			return
		}
		r := runOne(ctx, o, s)
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, r)
		r.print(o.Out)
	}
	var rest []Scenario
	for _, s := range chosen {
		if s.Alone {
			tell(s)
		} else {
			rest = append(rest, s)
		}
	}
	var telling sync.WaitGroup
	queue := make(chan Scenario)
	for range o.AtOnce {
		telling.Go(func() {
			for s := range queue {
				tell(s)
			}
		})
	}
	for _, s := range rest {
		queue <- s
	}
	close(queue)
	telling.Wait()
	if ctx.Err() != nil {
		return reports, fmt.Errorf("chaos: stopped after %d of %d scenarios: %w", len(reports), len(chosen), ctx.Err())
	}
	summarise(o.Out, o.Seed, time.Since(began), reports)
	return reports, nil
}

// oneByOne lets scenarios that run side by side write whole lines.
type oneByOne struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *oneByOne) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}

func (o *Options) complete() error {
	for o.Seed == 0 {
		o.Seed = rand.Uint64N(1 << 32) // short enough to be typed
	}
	var err error
	if o.root, err = stack.FindRoot(); err != nil {
		return err
	}
	if o.Folder == "" {
		o.Folder = filepath.Join(o.root, ".penstock", "chaos")
	}
	if o.Folder, err = filepath.Abs(o.Folder); err != nil {
		return fmt.Errorf("chaos: %w", err)
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	o.Out = &oneByOne{w: o.Out}
	if o.AtOnce == 0 {
		o.AtOnce = 2
	}
	return nil
}

func choose(o Options) ([]Scenario, error) {
	all := Scenarios()
	var chosen []Scenario
	if len(o.Scenarios) == 0 {
		for _, s := range all {
			if !s.OnRequest && (o.Size != Short || s.Short) {
				chosen = append(chosen, s)
			}
		}
		return chosen, nil
	}
	for _, name := range o.Scenarios {
		i := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("chaos: there is no scenario %q; there are %s", name, strings.Join(names(all), ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func names(all []Scenario) []string {
	var out []string
	for _, s := range all {
		out = append(out, s.Name)
	}
	return out
}

// draws is a scenario's own source of chance: the same for a seed whichever scenarios run besides.
func draws(seed uint64, scenario string) *rand.Rand {
	h := fnv.New64a()
	_, _ = io.WriteString(h, scenario) // a hash never fails to write
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// runOne tells one story from the stack's start to the check.
func runOne(ctx context.Context, o Options, s Scenario) (r Report) {
	began := time.Now()
	r = Report{Scenario: s.Name, Seed: o.Seed, Bound: s.bound(o.Size), Folder: filepath.Join(o.Folder, s.Name)}
	defer func() {
		r.Took = time.Since(began)
		if r.OK() && !o.Keep {
			if err := os.RemoveAll(r.Folder); err != nil {
				r.Err = err
				return
			}
			r.Folder = ""
		}
	}()
	b, err := newBench(ctx, o, s, r.Folder)
	if err != nil {
		r.Err = err
		return r
	}
	defer func() {
		if err := b.close(); err != nil {
			r.Err = errors.Join(r.Err, fmt.Errorf("stop the stack: %w", err))
		}
	}()
	within := s.Within
	if within == 0 {
		within = 6 * time.Minute
	}
	if o.Size == Full {
		within *= fullFactor
	}
	if o.Within > 0 {
		within = min(within, o.Within)
	}
	telling, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := s.Run(telling, b); err != nil {
		r.Err = fmt.Errorf("the story stopped: %w", err)
	} else {
		b.settle(telling)
	}
	// The evidence of a story that stopped may say why.
	gathering, done := context.WithTimeout(ctx, gatherWithin)
	defer done()
	record, err := b.Record(gathering)
	if err != nil {
		r.Err = errors.Join(r.Err, fmt.Errorf("gather the evidence: %w", err))
		return r
	}
	r.Violations = append(Check(record), b.found()...)
	r.Figures = FiguresOf(record)
	return r
}

// shown is how many violations are printed of a scenario.
const shown = 10

func (r Report) print(w io.Writer) {
	verdict := "ok"
	if !r.OK() {
		verdict = "FAILED"
	}
	f := r.Figures
	fmt.Fprintf(w, "%-32s %-6s %5d keys %6d deliveries %5d jobs %6s  recovery %6s of %s\n", r.Scenario, verdict,
		f.Keys, f.Deliveries, f.Jobs, r.Took.Round(time.Second), f.Recovery.Round(100*time.Millisecond), r.Bound)
	if r.OK() {
		return
	}
	if r.Err != nil {
		fmt.Fprintf(w, "    %v\n", r.Err)
	}
	for i, v := range r.Violations {
		if i == shown {
			fmt.Fprintf(w, "    … and %d more\n", len(r.Violations)-shown)
			break
		}
		fmt.Fprintf(w, "    %s\n", v)
	}
	again := "chaos SCENARIO=" + r.Scenario
	if r.Scenario == soakName {
		again = soakName
	}
	fmt.Fprintf(w, "    again: make %s SEED=%d; its logs and databases are in %s\n", again, r.Seed, r.Folder)
}

func summarise(w io.Writer, seed uint64, took time.Duration, reports []Report) {
	var failed []string
	for _, r := range reports {
		if !r.OK() {
			failed = append(failed, r.Scenario)
		}
	}
	if len(failed) > 0 {
		fmt.Fprintf(w, "chaos: %d of %d scenarios failed, in %s, seed %d: %s\n", len(failed), len(reports), took.Round(time.Second), seed, strings.Join(failed, ", "))
		return
	}
	fmt.Fprintf(w, "chaos: all %d scenarios hold, in %s, seed %d\n", len(reports), took.Round(time.Second), seed)
}
