package ledger

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/runs"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	existing := func(age time.Duration, change ...func(*Entry)) Entry {
		e := Entry{Claim: claim("k", "first", now.Add(-age)), Generation: 1}
		e.Claim.Since = e.Claim.At
		for _, c := range change {
			c(&e)
		}
		return e
	}
	ended := func(o runs.Outcome) func(*Entry) {
		return func(e *Entry) { r := record(e.Claim, o, now.Add(-time.Hour)); e.Record = &r }
	}
	expiring := func(after time.Duration) func(*Entry) {
		return func(e *Entry) { e.Claim.Expires = e.Claim.At.Add(after) }
	}
	mine := claim("k", "second", now)
	own := claim("k", "first", now)
	other := mine
	other.Identity = "another event"
	retry := mine
	retry.Retries = "first"

	for _, test := range []struct {
		name     string
		existing Entry
		mine     Claim
		chain    ChainState
		want     Verdict
		offer    bool   // a retry is offered
		says     string // of the reason
	}{
		// Same chain: mine.
		{"the same chain, as after a reset", existing(time.Hour), own, ChainOpen, Mine, false, ""},
		{"the same chain, reset after its end", existing(time.Hour, ended(runs.OutcomeFailed)), own, ChainOpen, Mine, false, ""},
		{"the same chain, long ago and expired", existing(90*day, expiring(day)), own, ChainUnknown, Mine, false, ""},

		// A claim with a final record is final.
		{"the first run succeeded", existing(time.Hour, ended(runs.OutcomeSucceeded)), mine, ChainClosed, Duplicate, false, "ended as succeeded"},
		{"the first run failed", existing(time.Hour, ended(runs.OutcomeFailed)), mine, ChainClosed, Duplicate, true, "ended as failed"},
		{"the first run was cancelled", existing(time.Hour, ended(runs.OutcomeCancelled)), mine, ChainUnknown, Duplicate, true, "ended as cancelled"},
		{"Temporal forgot the first run, the ledger did not", existing(400*day, ended(runs.OutcomeSucceeded)), mine, ChainUnknown, Duplicate, false, "ended as succeeded"},

		// A claim of an open chain is its own.
		{"the first run is running", existing(time.Hour), mine, ChainOpen, Duplicate, false, "still running"},
		{"the first run has been running for long", existing(90 * day), mine, ChainOpen, Duplicate, false, "still running"},
		{"the first run has written its record and is about to close", existing(time.Hour, ended(runs.OutcomeFailed)), mine, ChainOpen, Duplicate, false, "about to close"},

		// Without a final record, of a closed or unknown chain: taken over only while Dataflow surely remembers its jobs.
		{"the first run was terminated", existing(time.Hour), mine, ChainClosed, TakeOver, false, "left no final record"},
		{"the first run is forgotten", existing(time.Hour), mine, ChainUnknown, TakeOver, false, "left no final record"},
		{"the last moment of Dataflow's memory", existing(25*day - 1), mine, ChainUnknown, TakeOver, false, ""},
		{"the claim is from the future of another clock", existing(-time.Hour), mine, ChainClosed, TakeOver, false, ""},

		// Older: duplicate, outcome unknown, and retry is offered.
		{"25 days", existing(25 * day), mine, ChainClosed, Unknown, true, "outcome is unknown"},
		{"a year", existing(365 * day), mine, ChainUnknown, Unknown, true, "outcome is unknown"},
		{"a fresh claim, that took over from one of 26 days without a record", existing(2*day, func(e *Entry) {
			e.Claim.After, e.Claim.Since = "zeroth", now.Add(-26*day)
		}), mine, ChainClosed, Unknown, true, "outcome is unknown"},

		// Expiry.
		{"expired, after success", existing(8*day, expiring(7*day), ended(runs.OutcomeSucceeded)), mine, ChainUnknown, TakeOver, false, "expired"},
		{"expired, without a record, beyond Dataflow's memory", existing(60*day, expiring(50*day)), mine, ChainUnknown, TakeOver, false, "expired"},
		{"expired just now", existing(7*day, expiring(7*day), ended(runs.OutcomeSucceeded)), mine, ChainClosed, TakeOver, false, "expired"},
		{"about to expire", existing(7*day-1, expiring(7*day), ended(runs.OutcomeSucceeded)), mine, ChainClosed, Duplicate, false, ""},
		{"expired, yet running", existing(8*day, expiring(7*day)), mine, ChainOpen, Duplicate, false, "still running"},

		// A person's retry takes over the chain that it retries, itself.
		{"retry of a failed run", existing(time.Hour, ended(runs.OutcomeFailed)), retry, ChainClosed, TakeOver, false, "retry of"},
		{"retry of a run of unknown outcome", existing(100 * day), retry, ChainUnknown, TakeOver, false, "retry of"},
		{"retry while the run is open", existing(time.Hour), retry, ChainOpen, Duplicate, false, "still running"},
		{"retry of a chain that has the key no longer", existing(time.Hour, ended(runs.OutcomeSucceeded), func(e *Entry) {
			e.Claim.Chain = "third"
		}), retry, ChainClosed, Duplicate, false, ""},

		{"another event's key", existing(time.Hour, ended(runs.OutcomeSucceeded)), other, ChainClosed, Duplicate, false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := Decide(test.existing, test.mine, test.chain, now)
			if d.Verdict != test.want || d.OfferRetry != test.offer || !strings.Contains(d.Reason, test.says) {
				t.Errorf("got %s, retry offered %v, because %q; want %s, %v, %q", d.Verdict, d.OfferRetry, d.Reason, test.want, test.offer, test.says)
			}
			if want := test.mine.Identity != test.existing.Claim.Identity; d.KeyTaken != want {
				t.Errorf("the key is taken by another event: %v, want %v", d.KeyTaken, want)
			}
			if d.Entry.Claim != test.existing.Claim {
				t.Errorf("it names the claim %+v", d.Entry.Claim)
			}
			if d.Verdict != Mine && (!strings.Contains(d.Reason, "prod/orders/k") || !strings.Contains(d.Reason, test.existing.Claim.Chain)) {
				t.Errorf("the reason does not name the first run: %q", d.Reason)
			}
		})
	}
}
