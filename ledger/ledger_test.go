package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

var day0 = time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC)

func claim(key, chain string, at time.Time) Claim {
	return Claim{Deployment: "prod", Pipeline: "orders", Key: key, RunID: runs.RunID("prod", "orders", key), Chain: chain, Identity: "storage:landing/a.csv#1", At: at}
}

func record(c Claim, outcome runs.Outcome, ended time.Time) Record {
	return Record{
		Deployment: c.Deployment, Pipeline: c.Pipeline, Key: c.Key, RunID: c.RunID, Chain: c.Chain, Execution: "execution-of-" + c.Chain, Identity: c.Identity,
		Decision: "started", Config: pipeline.Version{Hash: "abc"}, Outcome: outcome, Started: c.At, Ended: ended,
		Steps: []runs.StepResult{{Name: "load", Outcome: outcome, Attempts: []runs.JobResult{{Version: 1, Attempt: 1, JobName: "prod-orders-load-x-1", JobID: "2026-11-01_1"}}}},
	}
}

// places are the two kinds of place; each test of what the ledger promises runs in both.
var places = []struct {
	name string
	make func(t *testing.T) (place string)
}{
	{"folder", func(t *testing.T) string { t.Helper(); return t.TempDir() }},
	{"bucket", func(t *testing.T) string {
		t.Helper()
		startBucket(t)
		return "gs://" + testBucket + "/state/ledger"
	}},
}

func open(t *testing.T, place string) *Ledger {
	t.Helper()
	l, err := Open(t.Context(), place)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func finish(t *testing.T, l *Ledger, r Record) {
	t.Helper()
	if err := l.Finish(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func TestOneOfManyClaimersGetsTheKey(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			processes := []*Ledger{open(t, place), open(t, place), open(t, place), open(t, place)}
			results := race(t, 64, func(i int) (Claimed, error) {
				return processes[i%len(processes)].Claim(t.Context(), claim("a.csv", fmt.Sprintf("chain-%d", i), day0))
			})
			winner := onlyOne(t, results, func(c Claimed) bool { return c.Mine })
			for i, r := range results {
				if r.Entry.Claim.Chain != fmt.Sprintf("chain-%d", winner) {
					t.Errorf("claimer %d is told of %s, the key is chain-%d's", i, r.Entry.Claim.Chain, winner)
				}
			}
		})
	}
}

func TestOneOfManyGetsAnExpiredKey(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			first := claim("a.csv", "first", day0)
			first.Expires = day0.Add(24 * time.Hour)
			must(l.Claim(t.Context(), first))(t)
			finish(t, l, record(first, runs.OutcomeSucceeded, day0.Add(time.Hour)))
			raceToAcquire(t, l)
		})
	}
}

func TestOneOfManyTakesOverFromARunThatIsGone(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			must(l.Claim(t.Context(), claim("a.csv", "first", time.Now().Add(-time.Hour))))(t)
			raceToAcquire(t, l)
		})
	}
}

func raceToAcquire(t *testing.T, l *Ledger) {
	t.Helper()
	results := race(t, 32, func(i int) (Decision, error) {
		return l.Acquire(t.Context(), claim("a.csv", fmt.Sprintf("chain-%d", i), time.Now()), func(_ context.Context, c Claim) (ChainState, error) {
			if c.Chain == "first" {
				return ChainUnknown, nil
			}
			return ChainOpen, nil
		})
	})
	winner := onlyOne(t, results, func(d Decision) bool { return d.Verdict == Mine })
	for i, d := range results {
		if i != winner && d.Verdict != Duplicate {
			t.Errorf("run %d gets %s: %s", i, d.Verdict, d.Reason)
		}
		if d.Entry.Claim.Chain != fmt.Sprintf("chain-%d", winner) || d.Entry.Claim.After != "first" {
			t.Errorf("run %d is told of %+v; the key is chain-%d's, after first", i, d.Entry.Claim, winner)
		}
	}
}

func race[T any](t *testing.T, n int, run func(i int) (T, error)) []T {
	t.Helper()
	results, errs := make([]T, n), make([]error, n)
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			<-start
			results[i], errs[i] = run(i)
		})
	}
	close(start)
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return results
}

func onlyOne[T any](t *testing.T, results []T, won func(T) bool) int {
	t.Helper()
	winner := -1
	for i, r := range results {
		if !won(r) {
			continue
		}
		if winner >= 0 {
			t.Fatalf("both %d and %d have the key", winner, i)
		}
		winner = i
	}
	if winner < 0 {
		t.Fatal("nobody has the key")
	}
	return winner
}

func TestTheSameChainKeepsItsKey(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			first := must(l.Claim(t.Context(), claim("a.csv", "first", day0)))(t)
			again := must(l.Claim(t.Context(), claim("a.csv", "first", day0.Add(time.Hour))))(t)
			if !again.Mine || again.Entry.Generation != first.Entry.Generation || !again.Entry.Claim.At.Equal(day0) {
				t.Errorf("got %+v after %+v", again, first)
			}
		})
	}
}

func TestTakenTellsWhatBecameOfTheFirstRun(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			first := claim("a.csv", "first", day0)
			must(l.Claim(t.Context(), first))(t)
			second := claim("a.csv", "second", day0.Add(time.Hour))
			if taken := must(l.Claim(t.Context(), second))(t); taken.Mine || taken.Entry.Claim.Chain != "first" || taken.Entry.Record != nil {
				t.Errorf("while it runs: %+v", taken)
			}
			finish(t, l, record(first, runs.OutcomeFailed, day0.Add(time.Hour)))
			taken := must(l.Claim(t.Context(), second))(t)
			if r := taken.Entry.Record; taken.Mine || r == nil || r.Outcome != runs.OutcomeFailed || r.Config.Hash != "abc" || r.Steps[0].Attempts[0].JobID != "2026-11-01_1" {
				t.Errorf("after its end: %+v", taken)
			}
		})
	}
}

func TestTheLoserOfATakeOverIsToldOfTheWinner(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			seen := must(l.Claim(t.Context(), claim("a.csv", "first", day0)))(t).Entry
			won := must(l.TakeOver(t.Context(), seen, claim("a.csv", "second", day0.Add(time.Hour))))(t)
			lost := must(l.TakeOver(t.Context(), seen, claim("a.csv", "third", day0.Add(time.Hour))))(t)
			if !won.Mine || lost.Mine || lost.Entry.Claim.Chain != "second" {
				t.Errorf("won %+v, lost %+v", won, lost)
			}
			// The winner does not know that it won, and asks again.
			again := must(l.TakeOver(t.Context(), seen, claim("a.csv", "second", day0.Add(time.Hour))))(t)
			if !again.Mine || again.Entry.Generation != won.Entry.Generation {
				t.Errorf("the winner's second call: %+v", again)
			}
		})
	}
}

// What earlier holders of a key left is handed on from claim to claim, so that attempt
// numbers never begin anew, and Dataflow's memory is counted from the oldest job that
// nobody has a record of.
func TestAKeyRemembersItsEarlierRuns(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			at := day0
			next := func(seen Entry, chain string) Claimed {
				t.Helper()
				at = at.Add(24 * time.Hour)
				if seen.Generation == 0 {
					return must(l.Claim(t.Context(), claim("a.csv", chain, at)))(t)
				}
				return must(l.TakeOver(t.Context(), seen, claim("a.csv", chain, at)))(t)
			}
			look := func() Entry { return must(l.Read(t.Context(), "prod", "orders", "a.csv"))(t) }
			check := func(what string, c Claimed, since time.Time, earlier string) {
				t.Helper()
				got := ""
				if c.Earlier != nil {
					got = c.Earlier.Chain
				}
				if !c.Entry.Claim.Since.Equal(since) || got != earlier {
					t.Errorf("%s: since %s and the record of %q; want %s and %q", what, c.Entry.Claim.Since, got, since, earlier)
				}
			}
			a := next(Entry{}, "a")
			check("the first run", a, at, "")
			finish(t, l, record(a.Entry.Claim, runs.OutcomeFailed, at.Add(time.Hour)))
			b := next(look(), "b")
			check("the retry", b, at, "a")
			began := at
			c := next(look(), "c")
			check("who took over from the retry, which vanished", c, began, "a")
			check("the same, asking again", must(l.Claim(t.Context(), claim("a.csv", "c", at)))(t), began, "a")
			finish(t, l, record(c.Entry.Claim, runs.OutcomeSucceeded, at.Add(time.Hour)))
			check("who came after success", next(look(), "d"), at, "c")
		})
	}
}

func TestAnExpiredClaimsUnknownJobsNoLongerCount(t *testing.T) {
	l := open(t, t.TempDir())
	old := claim("a.csv", "old", day0)
	old.Expires = day0.Add(time.Hour)
	seen := must(l.Claim(t.Context(), old))(t).Entry
	at := day0.Add(100 * 24 * time.Hour)
	if c := must(l.TakeOver(t.Context(), seen, claim("a.csv", "new", at)))(t).Entry.Claim; !c.Since.Equal(at) {
		t.Errorf("since %s, want %s", c.Since, at)
	}
}

func TestARecordIsWrittenOncePerExecution(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			c := claim("a.csv", "first", day0)
			must(l.Claim(t.Context(), c))(t)
			outcome := func() runs.Outcome {
				t.Helper()
				return must(l.Read(t.Context(), "prod", "orders", "a.csv"))(t).Record.Outcome
			}
			failed := record(c, runs.OutcomeFailed, day0.Add(time.Hour))
			finish(t, l, failed)
			finish(t, l, failed)
			again := failed
			again.Outcome, again.Ended = runs.OutcomeSucceeded, day0.Add(2*time.Hour)
			finish(t, l, again)
			if got := outcome(); got != runs.OutcomeFailed {
				t.Errorf("the same execution changed its record to %s", got)
			}
			reset := again
			reset.Execution = "after-the-reset"
			finish(t, l, reset)
			if got := outcome(); got != runs.OutcomeSucceeded {
				t.Errorf("the run was reset and succeeded, the record says %s", got)
			}
			finish(t, l, failed)
			if got := outcome(); got != runs.OutcomeSucceeded {
				t.Errorf("a late activity of the execution before the reset made it %s", got)
			}
		})
	}
}

func TestALateRecordOfALostRunIsNotItsSuccessors(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			seen := must(l.Claim(t.Context(), claim("a.csv", "first", day0)))(t).Entry
			must(l.TakeOver(t.Context(), seen, claim("a.csv", "second", day0)))(t)
			finish(t, l, record(seen.Claim, runs.OutcomeFailed, day0.Add(time.Hour)))
			if e := must(l.Read(t.Context(), "prod", "orders", "a.csv"))(t); e.Record != nil || e.Claim.Chain != "second" {
				t.Errorf("got %+v", e)
			}
			if r := must(l.Record(t.Context(), "prod", "orders", "a.csv", "first"))(t); r.Outcome != runs.OutcomeFailed {
				t.Errorf("the late record is %+v", r)
			}
		})
	}
}

func TestNothingIsFoundOfAKeyThatNobodyClaimed(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			if _, err := l.Read(t.Context(), "prod", "orders", "a.csv"); !errors.Is(err, ErrNotFound) {
				t.Errorf("got %v", err)
			}
			for e, err := range l.List(t.Context(), "prod", "orders", time.Time{}, time.Time{}) {
				t.Errorf("listed %+v, %v", e, err)
			}
		})
	}
}

func TestListIsOfOnePipelineAndTime(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			now := time.Now()
			for hour := range 30 {
				c := claim(fmt.Sprintf("%02d", hour), fmt.Sprintf("chain-%d", hour), now.Add(-time.Duration(hour)*time.Hour))
				must(l.Claim(t.Context(), c))(t)
				finish(t, l, record(c, runs.OutcomeSucceeded, now))
			}
			for _, foreign := range []func(*Claim){
				func(c *Claim) { c.Pipeline = "orders-2" }, func(c *Claim) { c.Deployment = "prod2" }, func(c *Claim) { c.Pipeline = "order" },
			} {
				c := claim("99", "foreign", now)
				foreign(&c)
				must(l.Claim(t.Context(), c))(t)
			}
			keys := func(from, to time.Time) []string {
				t.Helper()
				var keys []string
				for e, err := range l.List(t.Context(), "prod", "orders", from, to) {
					if err != nil {
						t.Fatal(err)
					}
					if e.Record == nil {
						t.Errorf("%s has no record", e.Claim.Key)
					}
					keys = append(keys, e.Claim.Key)
				}
				slices.Sort(keys)
				return keys
			}
			if all := keys(time.Time{}, time.Time{}); len(all) != 30 {
				t.Errorf("all: %q", all)
			}
			// From is inclusive, to is exclusive.
			if got := keys(now.Add(-3*time.Hour), now.Add(-time.Hour)); !slices.Equal(got, []string{"02", "03"}) {
				t.Errorf("got %q", got)
			}
			for _, err := range l.List(t.Context(), "prod", "orders", time.Time{}, time.Time{}) {
				if err != nil {
					t.Error(err)
				}
				break // a reader may stop
			}
		})
	}
}

func TestClaimedKeysAreListedByTheirHashes(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			l := open(t, p.make(t))
			begun := time.Now()
			want := map[string]string{} // keys by hash
			for i := range 10 {
				c := claim(fmt.Sprintf("%02d", i), "first", day0)
				want[KeyHash(c.Key)] = c.Key
				must(l.Claim(t.Context(), c))(t)
				finish(t, l, record(c, runs.OutcomeSucceeded, day0.Add(time.Hour)))
			}
			foreign := claim("99", "foreign", day0)
			foreign.Pipeline = "orders-2"
			must(l.Claim(t.Context(), foreign))(t)
			finish(t, l, record(claim("unclaimed", "first", day0), runs.OutcomeSucceeded, day0.Add(time.Hour)))
			for key, err := range l.Keys(t.Context(), "prod", "orders") {
				if err != nil {
					t.Fatal(err)
				}
				if key.Written.Before(begun.Add(-time.Minute)) || key.Written.After(time.Now().Add(time.Minute)) {
					t.Errorf("%s was written at %s", key.Hash, key.Written)
				}
				if c := must(l.ClaimOf(t.Context(), "prod", "orders", key.Hash))(t); c.Key != want[key.Hash] || c.Chain != "first" {
					t.Errorf("the claim of %s is %+v", key.Hash, c)
				}
				delete(want, key.Hash)
			}
			if len(want) > 0 {
				t.Errorf("not listed: %q", want)
			}
			for _, err := range l.Keys(t.Context(), "prod", "orders") {
				if err != nil {
					t.Error(err)
				}
				break // a reader may stop
			}
			if _, err := l.ClaimOf(t.Context(), "prod", "orders", KeyHash("unclaimed")); !errors.Is(err, ErrNotFound) {
				t.Errorf("of a key that nobody claimed: %v", err)
			}
			if _, err := l.ClaimOf(t.Context(), "prod", "orders", "../99"); !errors.Is(err, ErrInvalid) {
				t.Errorf("of what is no hash: %v", err)
			}
			for _, err := range l.Keys(t.Context(), "prod", "../orders") {
				if !errors.Is(err, ErrInvalid) {
					t.Errorf("of what is no pipeline: %v", err)
				}
			}
		})
	}
}

func TestTheLastRecordOfAKeyIsFoundWithoutAClaim(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			l := open(t, p.make(t))
			if _, err := l.Last(t.Context(), "prod", "orders", KeyHash("a.csv")); !errors.Is(err, ErrNotFound) {
				t.Errorf("before there is any: %v", err)
			}
			for chain, after := range map[string]time.Duration{"first": time.Hour, "second": 2 * time.Hour, "third": 3 * time.Hour} {
				finish(t, l, record(claim("a.csv", chain, day0), runs.OutcomeFailed, day0.Add(after)))
			}
			finish(t, l, record(claim("b.csv", "other", day0), runs.OutcomeSucceeded, day0.Add(9*time.Hour)))
			must(l.Claim(t.Context(), claim("c.csv", "open", day0)))(t)
			if r := must(l.Last(t.Context(), "prod", "orders", KeyHash("a.csv")))(t); r.Chain != "third" || r.Key != "a.csv" {
				t.Errorf("got %+v", r)
			}
			if _, err := l.Last(t.Context(), "prod", "orders", KeyHash("c.csv")); !errors.Is(err, ErrNotFound) {
				t.Errorf("of a run that is open: %v", err)
			}
			if _, err := l.Last(t.Context(), "prod", "orders", "../a.csv"); !errors.Is(err, ErrInvalid) {
				t.Errorf("of what is no hash: %v", err)
			}
		})
	}
}

func TestKeysAreData(t *testing.T) {
	keys := []string{
		"a.csv", "A.csv", "../../../etc/passwd", "/etc/passwd", "claim.json", ".", "..", "a/b", "a//b", `a\b`, "a b", " ", "a\x00b", "a\r\nb", "?alt=media", "#1", "%2e%2e", "*",
		"gs://bucket/x", "ä", "a\u0308", "\u202e\u2028", "\ufeff", "<script>", "日本語", "`$(reboot)`", "-rf", strings.Repeat("x", maxKey), strings.Repeat("\x01", maxKey),
	}
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			for i, key := range keys {
				c := claim(key, fmt.Sprintf("chain-%d", i), day0)
				if claimed := must(l.Claim(t.Context(), c))(t); !claimed.Mine {
					t.Errorf("%.40q is taken by %.40q", key, claimed.Entry.Claim.Key)
				}
				finish(t, l, record(c, runs.OutcomeSucceeded, day0))
			}
			for i, key := range keys {
				e := must(l.Read(t.Context(), "prod", "orders", key))(t)
				if e.Claim.Key != key || e.Claim.Chain != fmt.Sprintf("chain-%d", i) || e.Record == nil || e.Record.Key != key {
					t.Errorf("%.40q reads as %+v", key, e)
				}
			}
		})
	}
	l := open(t, t.TempDir())
	for name, change := range map[string]func(*Claim){
		"empty key": func(c *Claim) { c.Key = "" }, "key that is not UTF-8": func(c *Claim) { c.Key = "a\xffb" }, "endless key": func(c *Claim) { c.Key = strings.Repeat("x", maxKey+1) },
		"deployment": func(c *Claim) { c.Deployment = "../x" }, "pipeline": func(c *Claim) { c.Pipeline = "a/b" }, "chain": func(c *Claim) { c.Chain = "../x" }, "no chain": func(c *Claim) { c.Chain = "" },
		"no run": func(c *Claim) { c.RunID = "" }, "no time": func(c *Claim) { c.At = time.Time{} }, "expiry before the claim": func(c *Claim) { c.Expires = c.At },
		"identity": func(c *Claim) { c.Identity = "\xff" }, "year 10000": func(c *Claim) { c.At = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		c := claim("k", "first", day0)
		change(&c)
		if _, err := l.Claim(t.Context(), c); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	r := record(claim("k", "first", day0), runs.OutcomeRunning, day0)
	if err := l.Finish(t.Context(), r); !errors.Is(err, ErrInvalid) {
		t.Errorf("a record of a run that runs: %v", err)
	}
}

func TestOnlyWhatWasSeenIsReplaced(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			seen := must(l.Claim(t.Context(), claim("a.csv", "first", day0)))(t).Entry
			for name, generation := range map[string]int64{"an older generation": seen.Generation - 1, "a newer generation": seen.Generation + 1} {
				if _, err := l.store.write(t.Context(), claimObject("prod", "orders", "a.csv"), []byte("{}"), generation); !errors.Is(err, errChanged) {
					t.Errorf("%s: got %v", name, err)
				}
			}
			if _, err := l.store.write(t.Context(), claimObject("prod", "orders", "none"), []byte("{}"), seen.Generation); !errors.Is(err, errChanged) {
				t.Errorf("a generation of what is not there: got %v", err)
			}
			for name, change := range map[string]func(*Entry){"never seen": func(e *Entry) { e.Generation = 0 }, "of another key": func(e *Entry) { e.Claim.Key = "b.csv" }} {
				e := seen
				change(&e)
				if c, err := l.TakeOver(t.Context(), e, claim("a.csv", "second", day0)); !errors.Is(err, ErrInvalid) {
					t.Errorf("a claim %s: got %+v, %v", name, c, err)
				}
			}
		})
	}
}

// The hash finds a claim; the key inside decides.
func TestAnObjectOfAnotherKeyIsNotBelieved(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			place := p.make(t)
			l := open(t, place)
			must(l.Claim(t.Context(), claim("good", "first", day0)))(t)
			wrong := claim("other", "second", day0)
			wrong.Since = day0
			for key, data := range map[string][]byte{"collides": must(wrong.encode())(t), "empty": nil, "newer": []byte(`{"version": 2}`)} {
				if _, err := l.store.write(t.Context(), claimObject("prod", "orders", key), data, 0); err != nil {
					t.Fatal(err)
				}
				var damaged *DamagedError
				if _, err := l.Read(t.Context(), "prod", "orders", key); !errors.As(err, &damaged) || !strings.Contains(damaged.Object, claimObject("prod", "orders", key)) {
					t.Errorf("%s: read gives %v", key, err)
				}
				if c, err := l.Claim(t.Context(), claim(key, "third", day0)); !errors.As(err, &damaged) {
					t.Errorf("%s: claim gives %+v, %v", key, c, err)
				}
			}
			good, bad := 0, 0
			for _, err := range l.List(t.Context(), "prod", "orders", time.Time{}, time.Time{}) {
				var damaged *DamagedError
				switch {
				case err == nil:
					good++
				case errors.As(err, &damaged):
					bad++
				default:
					t.Error(err)
				}
			}
			if good != 1 || bad != 3 {
				t.Errorf("listed %d good and %d bad, want 1 and 3", good, bad)
			}
		})
	}
}

func TestOpenRefusesWhatIsNoPlace(t *testing.T) {
	t.Setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
	for _, place := range []string{"", "s3://bucket/x", "gs://", "gs:///x", "gs://Bucket", "gs://bucket/../x", "gs://bucket/a//b", "gs://bucket/a?b", "gs://bucket/.well-known/x"} {
		if l, err := Open(t.Context(), place); err == nil {
			t.Errorf("%q opens as %s", place, l)
		}
	}
	for place, first := range map[string]string{
		"gs://bucket": "gs://bucket/v1/", "gs://bucket/": "gs://bucket/v1/", "gs://bucket/a/b": "gs://bucket/a/b/v1/", "gs://my.bucket_1/a/": "gs://my.bucket_1/a/v1/",
	} {
		if got := open(t, place).store.url(root); got != first {
			t.Errorf("%q begins at %q, want %q", place, got, first)
		}
	}
	dir := t.TempDir() + "/new/ledger"
	must(open(t, "file://"+dir).Claim(t.Context(), claim("k", "first", day0)))(t)
	must(open(t, dir).Read(t.Context(), "prod", "orders", "k"))(t)
}
