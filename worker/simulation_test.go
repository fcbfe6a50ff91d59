package worker_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// The simulation runs the workflows Run, DataflowJob and Sweep, and the activities' own code,
// through random schedules: in Temporal's test environment, whose clock jumps, on top
// of a simulated Dataflow that misbehaves in every way that is known of the real one.
// A seed decides a schedule: the steps, their retries and timeouts, what becomes of
// each call, each job and each status event, and when the run is cancelled or a
// workflow is terminated. After each schedule the simulated Dataflow's own ledger says
// what really ran, and simulation_check_test.go compares it with what was promised.
//
// What it shows: that the decisions of the workflows are right for orders of events
// that nobody thought of: never two jobs for an attempt, no attempt before the last
// one's job is over, no job left behind, every outcome true, every run over, few calls.
//
// What it cannot show, as the test environment neither persists nor replays: that a
// worker can be killed between two workflow tasks and its successor goes on from
// history; that signals, starts and timers survive Temporal's own death; two
// processes that write at once; a run that is reset, or started a second time; a
// history that grows until it continues as new; duplicate deliveries to the functions.
// Only killing the processes shows that. A worker that dies in an activity is
// simulated by what remains of it: some of its calls, and no report.
//
// Everything runs in one thread: an activity of the environment only asks for its turn,
// and its code then runs as a coroutine of the clock. That is why a seed replays:
//
//	go test ./worker -run TestSchedules -seed 1234     one schedule, with its trace
//	make simulate                                      10,000 of them
var (
	schedules = flag.Int("schedules", 500, "how many schedules TestSchedules runs, from seed 1")
	replays   = flag.Int("replays", 50, "how many schedules TestASeedReplays runs twice")
	onlySeed  = flag.String("seed", "", "the one seed whose schedule TestSchedules runs, with its trace")
)

func TestSchedules(t *testing.T) {
	if *onlySeed != "" {
		seed, err := strconv.ParseUint(*onlySeed, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s := simulate(seed)
		t.Logf("seed %d: %s\n%s", seed, s.plan, lines(s.trace))
		if len(s.violations) > 0 {
			t.Errorf("seed %d:\n%s", seed, strings.Join(s.violations, "\n"))
		}
		return
	}
	const mostReports = 5
	var (
		next, failed atomic.Uint64
		mu           sync.Mutex
		total        tally
		wg           sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1)
				if seed > uint64(max(*schedules, 0)) {
					return
				}
				s := simulate(seed)
				mu.Lock()
				total.add(s)
				mu.Unlock()
				if len(s.violations) == 0 {
					continue
				}
				n := failed.Add(1)
				if n > mostReports {
					t.Logf("seed %d: %s", seed, s.violations[0])
					continue
				}
				t.Errorf("seed %d (go test ./worker -run TestSchedules -seed %d): %s\n%s", seed, seed, s.plan, strings.Join(s.violations, "\n"))
			}
		})
	}
	wg.Wait()
	t.Logf("%d schedules from seed 1, %d failed: %s", *schedules, failed.Load(), total)
	if failed.Load() == 0 && *schedules >= 500 {
		for what, n := range total.seen {
			if n == 0 {
				t.Errorf("no schedule saw %s: the simulation does not test what it says", what)
			}
		}
	}
}

// A failing seed is of use only when it fails again. While the environment's own threads
// wait for a processor its clock may run ahead, which now and then makes another schedule
// on a busy machine: a seed that is at odds with itself has several tries to agree.
func TestASeedReplays(t *testing.T) {
	const tries = 4
	for range *replays {
		seed := 1 + rand.Uint64N(1_000_000)
		last := simulate(seed).trace
		for try := 1; ; try++ {
			next := simulate(seed).trace
			i := differ(last, next)
			if i < 0 {
				break
			}
			if try == tries {
				t.Fatalf("seed %d: line %d differs\n%s\n---\n%s", seed, i+1, around(last, i), around(next, i))
			}
			last = next
		}
	}
}

// differ is the first line in which two traces differ; negative: none.
func differ(a, b []line) int {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return i
		}
	}
	return -1
}

func around(trace []line, i int) string {
	return lines(trace[min(max(i-3, 0), len(trace)):min(i+2, len(trace))])
}

func lines(trace []line) string {
	var b strings.Builder
	for _, l := range trace {
		fmt.Fprintln(&b, l)
	}
	return b.String()
}

// tally counts what the schedules met, so that a simulation that tests nothing shows.
type tally struct {
	jobs, calls, mostCalls, mostTimers int
	outcomes                           map[string]int
	seen                               map[string]int
}

func (c *tally) add(s *simulation) {
	if c.seen == nil {
		c.outcomes, c.seen = map[string]int{}, map[string]int{}
		for _, what := range everySight {
			c.seen[what] = 0
		}
	}
	c.jobs += len(s.jobs)
	c.calls += s.calls
	c.mostCalls, c.mostTimers = max(c.mostCalls, s.calls), max(c.mostTimers, s.timers)
	c.outcomes[s.outcome]++
	for what, n := range s.seen {
		c.seen[what] += n
	}
}

func (c tally) String() string {
	return fmt.Sprintf("%d jobs, %d calls, at most %d calls and %d timers in one; outcomes %v; met %v", c.jobs, c.calls, c.mostCalls, c.mostTimers, c.outcomes, c.seen)
}
