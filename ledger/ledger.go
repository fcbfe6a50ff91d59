// Package ledger keeps the claims and final records of runs in a bucket or a
// local folder, so that a key stays single, and what became of it stays known,
// after Temporal has forgotten the run.
//
// A run of a pipeline with `dedupe` claims its key before its first launch: one
// object per deployment, pipeline and key, created only if it is absent. What ends
// a run writes its final record beside the claim. A run that finds its key claimed
// asks [Decide] whether it may take the claim over; most end there as duplicates
// of the run that the claim names. [Ledger.Acquire] does all of that in order.
//
// Every write carries the generation of what it replaces, or says that there must
// be nothing, and no write is repeated by itself. So a write whose answer was lost
// is made again by calling the same method again: it finds its own claim, because
// a claim names the chain of executions that holds it (the first run ID, which
// survives reset, retry policy and continue-as-new).
//
// Objects, below the ledger's place:
//
//	v1/<deployment>/<pipeline>/<SHA-256 of the key>/claim.json
//	v1/<deployment>/<pipeline>/<SHA-256 of the key>/record-<chain>.json
//
// The key inside the JSON decides which key an object is about; the hash only finds it.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// How often a write that lost a race looks again. Each further round needs
	// another writer to have won in between, and few runs of one key are ever open.
	maxRounds = 8

	// The time of an object's last write may differ from the times inside it by
	// this much, as they come from other clocks.
	clockSkew = time.Hour

	listReaders = 16
)

// ErrNotFound is what errors.Is finds when the ledger has nothing for a key.
var ErrNotFound = errors.New("the ledger has no such entry")

// Ledger is one place that claims and records lie in. It is safe for concurrent
// use, also by several processes.
type Ledger struct {
	place string
	store store
}

// Entry is what the ledger knows of a key.
type Entry struct {
	Claim Claim `json:"claim"`
	// Record is the final record of the claim's own chain; nil: it left none yet.
	Record *Record `json:"record,omitempty"`
	// Generation is the claim's as it was read: TakeOver replaces that and no other.
	Generation int64 `json:"generation"`
}

// Claimed is the outcome of Claim and TakeOver.
type Claimed struct {
	// Mine says that the caller's chain holds the key. Otherwise another chain does: Entry says which.
	Mine bool `json:"mine"`
	// Entry is the claim in force.
	Entry Entry `json:"entry"`
	// Earlier is, where Mine, the newest final record that an earlier holder of the
	// key left; nil: there is none. Attempt numbers go on from it: Dataflow may
	// still remember the jobs that it names.
	Earlier *Record `json:"earlier,omitempty"`
}

// Open makes a ledger at place: "gs://BUCKET" or "gs://BUCKET/PREFIX", else a local
// folder ("/var/lib/penstock/ledger", "file:///var/lib/penstock/ledger"), which is
// created if need be. For a bucket it finds the environment's Google credentials,
// or honours STORAGE_EMULATOR_HOST ("host:port" or a URL), to which it sends none;
// it calls no API. Close it.
func Open(ctx context.Context, place string) (*Ledger, error) {
	return OpenFrom(ctx, place, os.Getenv)
}

// OpenFrom is Open for a program whose variables are not all in its environment:
// getenv is asked for STORAGE_EMULATOR_HOST.
func OpenFrom(ctx context.Context, place string, getenv func(string) string) (*Ledger, error) {
	s, err := openStore(ctx, place, getenv)
	if err != nil {
		return nil, fmt.Errorf("open the ledger %q: %w", clip(place), err)
	}
	return &Ledger{place: place, store: s}, nil
}

func openStore(ctx context.Context, place string, getenv func(string) string) (store, error) {
	switch scheme, _, ok := strings.Cut(place, "://"); {
	case place == "":
		return nil, errors.New("no place is given; give a bucket as gs://BUCKET/PREFIX, or a local folder")
	case ok && scheme == "gs":
		return openBucket(ctx, place, getenv)
	case ok && scheme != "file":
		return nil, fmt.Errorf("the scheme %q is unknown; give a bucket as gs://BUCKET/PREFIX, or a local folder", scheme)
	default:
		return openFolder(strings.TrimPrefix(place, "file://"))
	}
}

// Close frees what Open took. No method may be called after it.
func (l *Ledger) Close() error { return l.store.close() }

// String is the place that the ledger was opened with.
func (l *Ledger) String() string { return l.place }

// Acquire claims a key, takes a claim over where the rules allow it, and says what
// the run is to do. state is asked what became of the chain that holds the key,
// which only Temporal knows; it is not asked when the key is free or the caller's own.
//
// An error leaves open whether the key was claimed: call it again with the same claim.
func (l *Ledger) Acquire(ctx context.Context, mine Claim, state func(context.Context, Claim) (ChainState, error)) (Decision, error) {
	claimed, err := l.Claim(ctx, mine)
	for range maxRounds {
		if err != nil {
			return Decision{}, err
		}
		if claimed.Mine {
			return Decision{Verdict: Mine, Entry: claimed.Entry, Earlier: claimed.Earlier}, nil
		}
		chain, err := state(ctx, claimed.Entry.Claim)
		if err != nil {
			return Decision{}, fmt.Errorf("ask what became of run %s, whose chain %s holds the key: %w", claimed.Entry.Claim.RunID, claimed.Entry.Claim.Chain, err)
		}
		d := Decide(claimed.Entry, mine, chain, time.Now())
		if d.Verdict != TakeOver {
			return d, nil
		}
		claimed, err = l.TakeOver(ctx, claimed.Entry, mine)
		if err != nil {
			return Decision{}, err
		}
	}
	return Decision{}, mine.failed("claim", errContended)
}

// Claim takes a key that is free: Mine. So it is when the same chain has it
// already, as after a reset, or after a call whose answer was lost. Otherwise the
// key is taken, and the claim in force is left as it is, an expired one too: that
// is for Decide and TakeOver.
//
// An error leaves open whether the key was claimed: call it again with the same claim.
func (l *Ledger) Claim(ctx context.Context, mine Claim) (Claimed, error) {
	mine.After, mine.Since, mine.LastRecord = "", mine.At, ""
	data, err := mine.encode()
	if err != nil {
		return Claimed{}, mine.failed("claim", err)
	}
	for range maxRounds {
		generation, err := l.store.write(ctx, mine.object(), data, 0)
		if err == nil {
			return Claimed{Mine: true, Entry: Entry{Claim: mine, Generation: generation}}, nil
		}
		if !errors.Is(err, errChanged) {
			return Claimed{}, mine.failed("claim", err)
		}
		claimed, err := l.found(ctx, mine)
		if !errors.Is(err, ErrNotFound) { // gone again: somebody deletes claims
			return claimed, err
		}
	}
	return Claimed{}, mine.failed("claim", errContended)
}

// TakeOver replaces the claim that was seen, if it is still the one in force. The
// loser of a race gets the winner's claim, as one that is taken. Whether a claim
// may be taken over is not asked here: that is Decide's.
//
// An error leaves open whether the key was taken over: call Claim with the same claim.
func (l *Ledger) TakeOver(ctx context.Context, seen Entry, mine Claim) (Claimed, error) {
	if seen.Generation <= 0 || !mine.sameKey(seen.Claim.Deployment, seen.Claim.Pipeline, seen.Claim.Key) {
		return Claimed{}, mine.failed("take over", invalid(errors.New("the claim that was seen is no claim of this key as the ledger gave it")))
	}
	mine = mine.succeeding(seen)
	data, err := mine.encode()
	if err != nil {
		return Claimed{}, mine.failed("take over", err)
	}
	generation, err := l.store.write(ctx, mine.object(), data, seen.Generation)
	if errors.Is(err, errChanged) {
		return l.found(ctx, mine)
	}
	if err != nil {
		return Claimed{}, mine.failed("take over", err)
	}
	return l.mine(ctx, Entry{Claim: mine, Generation: generation})
}

// found says who holds a key that could not be written.
func (l *Ledger) found(ctx context.Context, mine Claim) (Claimed, error) {
	entry, err := l.Read(ctx, mine.Deployment, mine.Pipeline, mine.Key)
	if err != nil {
		return Claimed{}, err
	}
	if entry.Claim.Chain == mine.Chain {
		return l.mine(ctx, entry)
	}
	return Claimed{Entry: entry}, nil
}

func (l *Ledger) mine(ctx context.Context, entry Entry) (Claimed, error) {
	claimed := Claimed{Mine: true, Entry: entry}
	c := entry.Claim
	if c.LastRecord == "" {
		return claimed, nil
	}
	earlier, err := l.Record(ctx, c.Deployment, c.Pipeline, c.Key, c.LastRecord)
	if err != nil {
		// Without it attempt numbers could begin anew: better no answer than a wrong one.
		return Claimed{}, fmt.Errorf("read what the run before left: %w", err)
	}
	claimed.Earlier = &earlier
	return claimed, nil
}

// Finish writes the final record of a run, once for each execution of its chain:
// of a run that was reset after its end, the execution that ended last counts.
// It releases nothing: the claim stays until it expires.
//
// A record of more than 1 MiB loses details, and says so: see Record.Trimmed. An
// error leaves open whether the record was written: call it again with the same record.
func (l *Ledger) Finish(ctx context.Context, r Record) error {
	data, err := r.encode()
	if err != nil {
		return r.failed("write the final record of", err)
	}
	var generation int64
	for range maxRounds {
		_, err := l.store.write(ctx, r.object(), data, generation)
		if !errors.Is(err, errChanged) {
			return r.failed("write the final record of", err)
		}
		there, held, err := l.record(ctx, r.Deployment, r.Pipeline, r.Key, r.Chain)
		switch {
		case errors.Is(err, ErrNotFound):
			generation = 0
			continue
		case err != nil:
			return err
		case there.Execution == r.Execution || !r.Ended.After(there.Ended):
			return nil
		}
		generation = held
	}
	return r.failed("write the final record of", errContended)
}

// Read is what the ledger knows of a key. errors.Is(err, ErrNotFound): nobody
// claimed it, or its claim was deleted.
func (l *Ledger) Read(ctx context.Context, deployment, pipeline, key string) (Entry, error) {
	err := invalid(checkKey(deployment, pipeline, key))
	var entry Entry
	if err == nil {
		entry, err = l.read(ctx, claimObject(deployment, pipeline, key), func(c Claim) error {
			return c.about(deployment, pipeline, key)
		})
	}
	return entry, failed("look up", pipeline, key, err)
}

// Record is the final record of one chain of a key. errors.Is(err, ErrNotFound): it left none.
func (l *Ledger) Record(ctx context.Context, deployment, pipeline, key, chain string) (Record, error) {
	r, _, err := l.record(ctx, deployment, pipeline, key, chain)
	return r, err
}

func (l *Ledger) record(ctx context.Context, deployment, pipeline, key, chain string) (Record, int64, error) {
	fail := func(err error) (Record, int64, error) {
		return Record{}, 0, failed("read the final record of", pipeline, key, err)
	}
	if err := invalid(checkKey(deployment, pipeline, key), checkChain(chain)); err != nil {
		return fail(err)
	}
	name := recordObject(deployment, pipeline, key, chain)
	data, generation, err := l.store.read(ctx, name)
	if err != nil {
		return fail(err)
	}
	r, err := decodeRecord(data)
	if err == nil {
		err = r.about(deployment, pipeline, key)
	}
	if err == nil && r.Chain != chain {
		err = fmt.Errorf("it is about the chain %s", r.Chain)
	}
	if err != nil {
		return fail(l.damaged(name, err))
	}
	return r, generation, nil
}

// Last is, of the final records that the runs of a key left, the one of the run that
// ended last, whether or not they claimed the key. The key is given by its KeyHash.
// errors.Is(err, ErrNotFound): there is none.
func (l *Ledger) Last(ctx context.Context, deployment, pipeline, keyHash string) (Record, error) {
	records, err := l.Records(ctx, deployment, pipeline, keyHash)
	if err != nil {
		return Record{}, err
	}
	if len(records) == 0 {
		return Record{}, failedRecords(pipeline, keyHash, ErrNotFound)
	}
	return slices.MaxFunc(records, func(a, b Record) int { return a.Ended.Compare(b.Ended) }), nil
}

// Records are the final records that the runs of a key left, one a chain, in no order,
// whether or not they claimed the key. The key is given by its KeyHash.
func (l *Ledger) Records(ctx context.Context, deployment, pipeline, keyHash string) ([]Record, error) {
	fail := func(err error) ([]Record, error) { return nil, failedRecords(pipeline, keyHash, err) }
	err := checkPipeline(deployment, pipeline)
	if !keyHashRE.MatchString(keyHash) {
		err = errors.Join(err, errors.New("it is no SHA-256"))
	}
	if err != nil {
		return fail(invalid(err))
	}
	var names []string
	prefix := pipelinePrefix(deployment, pipeline) + keyHash + "/"
	err = l.store.list(ctx, prefix, func(objects []listed) bool {
		for _, o := range objects {
			if strings.HasPrefix(o.name, prefix+"record-") {
				names = append(names, o.name)
			}
		}
		return true
	})
	if err != nil {
		return fail(err)
	}
	var records []Record
	for _, name := range names {
		data, _, err := l.store.read(ctx, name)
		if errors.Is(err, ErrNotFound) {
			continue // deleted since
		}
		if err != nil {
			return fail(err)
		}
		r, err := decodeRecord(data)
		if err == nil && r.object() != name {
			err = errors.New("it is about a run that does not lie here")
		}
		if err != nil {
			return fail(l.damaged(name, err))
		}
		records = append(records, r)
	}
	return records, nil
}

func failedRecords(pipeline, keyHash string, err error) error {
	return fmt.Errorf("look for final records of the key with the hash %s of pipeline %q: %w", clip(keyHash), clip(pipeline), err)
}

// read reads a claim and the record of its chain. belongs says whether the claim
// belongs where it lies.
func (l *Ledger) read(ctx context.Context, name string, belongs func(Claim) error) (Entry, error) {
	claim, generation, err := l.claim(ctx, name, belongs)
	if err != nil {
		return Entry{}, err
	}
	entry := Entry{Claim: claim, Generation: generation}
	record, err := l.Record(ctx, claim.Deployment, claim.Pipeline, claim.Key, claim.Chain)
	switch {
	case err == nil:
		entry.Record = &record
	case !errors.Is(err, ErrNotFound):
		return Entry{}, err
	}
	return entry, nil
}

func (l *Ledger) claim(ctx context.Context, name string, belongs func(Claim) error) (Claim, int64, error) {
	data, generation, err := l.store.read(ctx, name)
	if err != nil {
		return Claim{}, 0, err
	}
	claim, err := decodeClaim(data)
	if err == nil {
		err = belongs(claim)
	}
	if err != nil {
		return Claim{}, 0, l.damaged(name, err)
	}
	return claim, generation, nil
}

// List yields the entries of a pipeline that were claimed from a time (inclusive)
// to a time (exclusive), in no order of time. A zero from means from the beginning,
// a zero to means to the end. What is claimed while it runs may or may not be seen.
//
// An entry that cannot be read is yielded as an error, with *DamagedError where it
// is the entry's own fault, and the rest follows; only an error of the listing
// itself ends it.
func (l *Ledger) List(ctx context.Context, deployment, pipeline string, from, to time.Time) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := invalid(checkPipeline(deployment, pipeline)); err != nil {
			yield(Entry{}, fmt.Errorf("list the ledger's entries: %w", err))
			return
		}
		var since time.Time
		if !from.IsZero() {
			since = from.Add(-clockSkew)
		}
		prefix := pipelinePrefix(deployment, pipeline)
		err := l.store.list(ctx, prefix, func(objects []listed) bool {
			// A claim is written at its time or later, so an older object holds no newer claim.
			objects = slices.DeleteFunc(objects, func(o listed) bool {
				return !isClaimObject(o.name, prefix) || o.written.Before(since)
			})
			for batch := range slices.Chunk(objects, listReaders) {
				for _, r := range l.readAll(ctx, batch) {
					switch {
					case errors.Is(r.err, ErrNotFound): // deleted since
					case r.err != nil:
						if !yield(Entry{}, r.err) {
							return false
						}
					case r.entry.Claim.At.Before(from) || !to.IsZero() && !r.entry.Claim.At.Before(to):
					case !yield(r.entry, nil):
						return false
					}
				}
			}
			return true
		})
		if err != nil {
			yield(Entry{}, fmt.Errorf("list the ledger's entries of pipeline %q: %w", pipeline, err))
		}
	}
}

// ClaimedKey is a key of which a list of the ledger tells that it is claimed.
type ClaimedKey struct {
	Hash string // the KeyHash
	// Written is when the claim in force was: at the time that it says or later, but for what clocks differ.
	Written time.Time
}

// Keys yields the keys of a pipeline that are claimed, in no order, and reads none of the
// claims: see ClaimOf. An error ends it.
func (l *Ledger) Keys(ctx context.Context, deployment, pipeline string) iter.Seq2[ClaimedKey, error] {
	return func(yield func(ClaimedKey, error) bool) {
		err := invalid(checkPipeline(deployment, pipeline))
		if err == nil {
			prefix := pipelinePrefix(deployment, pipeline)
			err = l.store.list(ctx, prefix, func(objects []listed) bool {
				for _, o := range objects {
					if !isClaimObject(o.name, prefix) {
						continue
					}
					hash := strings.TrimSuffix(strings.TrimPrefix(o.name, prefix), "/"+claimName)
					if !yield(ClaimedKey{Hash: hash, Written: o.written}, nil) {
						return false
					}
				}
				return true
			})
		}
		if err != nil {
			yield(ClaimedKey{}, fmt.Errorf("list the claimed keys of pipeline %q: %w", clip(pipeline), err))
		}
	}
}

// ClaimOf is the claim in force of a key, which is given by its KeyHash. errors.Is(err,
// ErrNotFound): nobody claimed it, or its claim was deleted.
func (l *Ledger) ClaimOf(ctx context.Context, deployment, pipeline, keyHash string) (Claim, error) {
	err := checkPipeline(deployment, pipeline)
	if !keyHashRE.MatchString(keyHash) {
		err = errors.Join(err, errors.New("it is no SHA-256"))
	}
	err = invalid(err)
	var c Claim
	if err == nil {
		name := pipelinePrefix(deployment, pipeline) + keyHash + "/" + claimName
		c, _, err = l.claim(ctx, name, lies(name))
	}
	if err != nil {
		return Claim{}, fmt.Errorf("look up the key with the hash %s of pipeline %q: %w", clip(keyHash), clip(pipeline), err)
	}
	return c, nil
}

// lies says whether a claim belongs where it lies.
func lies(name string) func(Claim) error {
	return func(c Claim) error {
		if c.object() != name {
			return errors.New("it is about a key that does not lie here")
		}
		return nil
	}
}

type readResult struct {
	entry Entry
	err   error
}

func (l *Ledger) readAll(ctx context.Context, objects []listed) []readResult {
	results := make([]readResult, len(objects))
	var g errgroup.Group
	for i, o := range objects {
		g.Go(func() error {
			results[i].entry, results[i].err = l.read(ctx, o.name, lies(o.name))
			return nil
		})
	}
	_ = g.Wait() // each error is in its result
	return results
}

// DamagedError says that an object of the ledger is none of ours, or is of a
// version that this program does not know.
type DamagedError struct {
	Object string // the object's full name
	Err    error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the ledger's object %s cannot be used: %v; look at it, and move it away only if the key may run again", e.Object, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

func (l *Ledger) damaged(name string, err error) error {
	return &DamagedError{Object: l.store.url(name), Err: err}
}
