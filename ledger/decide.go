package ledger

import (
	"fmt"
	"time"

	"github.com/penstock/penstock/runs"
)

// TakeOverAge is how old a claim without a final record may be for its key to be
// taken over by itself. Dataflow keeps a job for 30 days
// (https://cloud.google.com/dataflow/quotas); below this age it surely remembers
// the jobs of the run that is gone, so that the new run finds and adopts them.
const TakeOverAge = 25 * 24 * time.Hour

// ChainState is what Temporal knows of the chain that holds a key.
type ChainState string

// The states of a chain.
const (
	ChainOpen    ChainState = "open"
	ChainClosed  ChainState = "closed"
	ChainUnknown ChainState = "unknown" // Temporal has forgotten it, or never had it
)

// Verdict is what a run that asks for a key is to do.
type Verdict string

// The verdicts.
const (
	// Mine: the run holds the key, and goes on.
	Mine Verdict = "mine"
	// Duplicate: another run has or had the key. The run ends, and names that one.
	Duplicate Verdict = "duplicate"
	// TakeOver: the run may take the key from a chain that is gone, with Ledger.TakeOver.
	TakeOver Verdict = "take-over"
	// Unknown: another run had the key, and nobody knows any more what became of its
	// jobs. The run ends as a duplicate whose outcome is unknown; a person may retry it.
	Unknown Verdict = "unknown"
)

// Decision is a verdict and why.
type Decision struct {
	Verdict Verdict `json:"verdict"`
	// Entry is the claim in force: of Duplicate and Unknown the one to name.
	Entry Entry `json:"entry"`
	// Earlier is, of Mine, what Claimed.Earlier is.
	Earlier *Record `json:"earlier,omitempty"`
	// KeyTaken says, of Duplicate and Unknown, that another event's run has the key:
	// the decision key-taken rather than duplicate.
	KeyTaken bool `json:"keyTaken,omitempty"`
	// OfferRetry says that the first run did not succeed, or may not have, so that
	// `penstock retry` is what can help.
	OfferRetry bool `json:"offerRetry,omitempty"`
	// Reason says it in words, for a user.
	Reason string `json:"reason,omitempty"`
}

// Decide says whether a run may have a key that is claimed. It is a pure function
// of the claim in force, the run's own claim, what Temporal says of the claim's
// chain, and the time:
//
//   - the same chain: Mine;
//   - the chain is open: Duplicate;
//   - the run is a person's retry of that chain: TakeOver, whatever became of it;
//   - the claim has expired: TakeOver;
//   - the chain left a final record: Duplicate;
//   - it left none, and Dataflow surely remembers its jobs: TakeOver;
//   - it left none, and Dataflow may have forgotten them: Unknown.
func Decide(existing Entry, mine Claim, chain ChainState, now time.Time) Decision {
	d := Decision{Entry: existing, KeyTaken: existing.Claim.Identity != mine.Identity}
	c, record := existing.Claim, existing.Record
	holder := fmt.Sprintf("run %s (execution %s), which claimed the key at %s", c.RunID, c.Chain, c.At.UTC().Format(time.RFC3339))
	switch {
	case c.Chain == mine.Chain:
		return Decision{Verdict: Mine, Entry: existing}
	case chain == ChainOpen && record == nil:
		return d.duplicate(false, holder+", is still running")
	case chain == ChainOpen:
		return d.duplicate(false, fmt.Sprintf("%s, ended as %s and is about to close", holder, record.Outcome))
	case mine.Retries != "" && mine.Retries == c.Chain:
		return takeOver(existing, "this run is the retry of "+holder)
	case c.Expired(now):
		return takeOver(existing, fmt.Sprintf("the claim of %s, expired at %s", holder, c.Expires.UTC().Format(time.RFC3339)))
	case record != nil:
		return d.duplicate(record.Outcome != runs.OutcomeSucceeded, fmt.Sprintf("%s, ended as %s at %s", holder, record.Outcome, record.Ended.UTC().Format(time.RFC3339)))
	case now.Sub(c.Since) < TakeOverAge:
		return takeOver(existing, holder+", is gone and left no final record; its jobs, if any, are found and adopted")
	default:
		d.Verdict, d.OfferRetry = Unknown, true
		d.Reason = holder + ", left no final record, and Dataflow may have forgotten its jobs: the outcome is unknown"
		return d
	}
}

// Expired says whether another run may have the key at a time.
func (c Claim) Expired(now time.Time) bool {
	return !c.Expires.IsZero() && !now.Before(c.Expires)
}

func (d Decision) duplicate(offerRetry bool, reason string) Decision {
	d.Verdict, d.OfferRetry, d.Reason = Duplicate, offerRetry, reason
	return d
}

func takeOver(existing Entry, reason string) Decision {
	return Decision{Verdict: TakeOver, Entry: existing, Reason: reason}
}
