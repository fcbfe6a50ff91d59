package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// judge says what became of objects and one pipeline.
type judge struct {
	*reconciler
	p        *pipeline.Pipeline
	set      *pipeline.Set // of p alone
	deciding []string      // see pipeline.Pipeline.Deciding
	// runs are those that Temporal lists since the window began, by the identity that started them. A list lags, so it is never why
	// something is missed: it finds the runs of events whose key, or `when`, was another then.
	runs map[digest]*listedRuns
	// claims are the ledger's, which are read once, and only where something hangs on them.
	claims func(context.Context) (*claims, error)
}

// claims are what the ledger's claims of a pipeline tell of events since the window began.
type claims struct {
	before bool              // there is one from before the window
	by     map[digest]string // the hash of the key that an event's run claimed, by the event's identity
	// doubt is why an event that is not among them may have claimed a key all the same; empty: it cannot.
	doubt string
}

// listedRuns are the runs that one event started.
type listedRuns struct {
	// ids is nil where the one run has the ID that the identity itself gives, as it has in most pipelines.
	ids       []string
	explained bool
}

// judged is a finding on one object.
type judged struct {
	ReconciledObject
}

// judgeOf prepares to ask about a pipeline.
func (r *reconciler) judgeOf(ctx context.Context, p *pipeline.Pipeline) (*judge, error) {
	j := &judge{reconciler: r, p: p, set: pipeline.NewSet([]*pipeline.Pipeline{p}), deciding: p.Deciding(), runs: map[digest]*listedRuns{}}
	var once sync.Mutex
	var known *claims
	j.claims = func(ctx context.Context) (_ *claims, err error) {
		once.Lock()
		defer once.Unlock()
		if known == nil {
			known, err = j.readClaims(ctx)
		}
		return known, err
	}
	query := Filter{Pipeline: p.Name, Since: r.q.From.Add(-clocks)}.query(r.deployment)
	err := r.each(ctx, query, reconcilePage, func(page []Run) bool {
		for i := range page {
			j.keep(&page[i])
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list the runs of pipeline %s: %w", p.Name, err)
	}
	return j, nil
}

// keep takes a listed run in. One that launched nothing is not told apart from the one that has its key.
func (j *judge) keep(r *Run) {
	if r.Identity == "" {
		return
	}
	of := digestOf(r.Identity)
	known := j.runs[of]
	own := r.RunID == runs.RunID(j.deployment, j.p.Name, r.Identity)
	switch {
	case known == nil && own:
		j.runs[of] = &listedRuns{}
	case known == nil:
		j.runs[of] = &listedRuns{ids: []string{r.RunID}}
	case yielded(r.Outcome):
	default:
		ids := known.list(j, r.Identity)
		if !slices.Contains(ids, r.RunID) {
			known.ids = append(ids, r.RunID)
		}
	}
}

func (l *listedRuns) list(j *judge, identity string) []string {
	if l.ids == nil {
		return []string{runs.RunID(j.deployment, j.p.Name, identity)}
	}
	return l.ids
}

// explain takes note that an object explains the runs of its event, and of runs beside the one that it has.
func (j *judge) explain(o *ReconciledObject) {
	known := j.runs[digestOf(o.Identity)]
	if known == nil {
		return
	}
	known.explained = true
	ids := slices.Clone(known.list(j, o.Identity))
	// The run that has its key may be that of another event.
	if (o.Verdict == FindingRan || o.Verdict == FindingRunning) && o.RunID != "" && !slices.Contains(ids, o.RunID) {
		ids = append(ids, o.RunID)
	}
	if len(ids) > 1 {
		for _, id := range ids {
			o.Twice = append(o.Twice, "run "+id)
		}
	}
}

// judge says what became of an object; nil: the pipeline has no trigger for it.
func (j *judge) judge(ctx context.Context, o *object) (*judged, error) {
	matches := j.set.Match(o.event)
	if len(matches) == 0 {
		return nil, nil //nolint:nilnil // as the comment says
	}
	found := &judged{ReconciledObject: ReconciledObject{Identity: o.event.Identity(), Verdict: FindingUnknown}}
	plan, skip, failed := matches[0].Evaluate()
	var eval *pipeline.EvalError
	if failed != nil && !errors.As(failed, &eval) {
		found.Reason = failed.Error()
		return found, nil
	}
	if failed == nil && skip == nil {
		found.Key = plan.Key
		switch {
		case plan.Signal != nil:
			found.RunID = plan.Signal.WorkflowID
		case utf8.ValidString(plan.Key):
			found.RunID = runs.RunID(j.deployment, j.p.Name, plan.Key)
		default:
			failed = errors.New("the key is not valid UTF-8, so a run's input cannot hold it")
		}
	}
	runnable := failed == nil && skip == nil && plan.Signal == nil
	asks := []func(context.Context, *judged) (bool, error){j.byIdentity, j.byDecision}
	if runnable {
		asks = append([]func(context.Context, *judged) (bool, error){j.byRun, j.byLedger}, asks...)
	}
	for _, ask := range asks {
		if done, err := ask(ctx, found); done || err != nil {
			return found, err
		}
	}
	// The time after Temporal was asked: one that was young before may have been forgotten by then.
	forgotten := j.now().Sub(o.event.Storage.TimeCreated) >= j.retention-clocks
	if forgotten {
		if done, err := j.byClaims(ctx, found); done || err != nil {
			return found, err
		}
	}
	inexact := j.inexact(o)
	switch {
	case skip != nil && inexact == "":
		found.Verdict = FindingSkipped
		found.Reason = fmt.Sprintf("line %d: %s", skip.Position.Line, skip.Reason)
		return found, nil
	case inexact != "":
		found.because(inexact)
		return found, nil
	case failed == nil && plan.Signal != nil:
		found.because("a signal leaves nothing that can be looked for; the functions' log tells (--decisions)")
		return found, nil
	case failed != nil:
		found.because("its event would become a dead letter: " + failed.Error())
	}
	return found, j.absent(ctx, found, forgotten)
}

// because adds to why a finding is what it is.
func (f *judged) because(reason string) {
	f.Reason = strings.TrimPrefix(f.Reason+"; "+reason, "; ")
}

// absent says of an object for which nothing was found whether there can have been something. forgotten says that Temporal
// may have forgotten its run.
func (j *judge) absent(ctx context.Context, found *judged, forgotten bool) error {
	if !forgotten {
		found.Verdict = FindingMissed // a run for it would have ended later, and Temporal would still know it
		return nil
	}
	past := fmt.Sprintf("it is older than the %s for which Temporal keeps runs, ", days(j.retention))
	switch {
	case j.ledger == nil:
		found.because(past + "and no ledger is known")
	case j.p.Dedupe == nil:
		found.because(past + "and the pipeline does not claim its keys in the ledger (dedupe)")
	case found.RunID == "":
		found.because(past + "and the key that it had then is not known")
	default:
		known, err := j.claims(ctx)
		switch {
		case err != nil:
			return err
		case !known.before:
			found.because(past + "and the ledger has no claim of the pipeline from before the window, so it may have claimed none then; begin the window later")
		case known.doubt != "":
			found.because(past + "and it may have claimed another key than it would now: " + known.doubt)
		default:
			found.Verdict, found.Source = FindingMissed, FromLedger
			found.because("the ledger, which the pipeline claimed keys in by then, has no claim of it, under whichever key")
		}
	}
	return nil
}

// describeRun asks Temporal for a run; nil: it knows none.
func (j *judge) describeRun(ctx context.Context, id string) (*Run, error) {
	ctx, cancel := call(ctx)
	defer cancel()
	answer, err := j.temporal.DescribeWorkflowExecution(ctx, id, "")
	switch {
	case isNotFound(err):
		return nil, nil //nolint:nilnil // as the comment says
	case err != nil:
		return nil, fmt.Errorf("ask Temporal for run %s: %w", id, err)
	}
	r, ok := j.run(answer.GetWorkflowExecutionInfo())
	if !ok {
		return nil, nil //nolint:nilnil // as the comment says
	}
	return &r, nil
}

// byRun asks Temporal for the run that the event has.
func (j *judge) byRun(ctx context.Context, found *judged) (bool, error) {
	r, err := j.describeRun(ctx, found.RunID)
	if err != nil || r == nil {
		return false, err
	}
	return true, j.tellRun(ctx, found, r)
}

// tellRun says what a run makes of an object.
func (j *judge) tellRun(ctx context.Context, found *judged, r *Run) error {
	found.Source, found.RunID, found.Key = FromTemporal, r.RunID, r.Key
	if r.Identity != found.Identity {
		found.Verdict, found.By = FindingKeyTaken, r.Identity
		found.because("another event started the run of its key")
		if r.Identity == "" {
			found.Reason = "a workflow with its run's ID was started by something else than an event"
		}
		return nil
	}
	found.Outcome = r.Outcome
	if !r.Outcome.Over() {
		found.Verdict = FindingRunning
		return nil
	}
	found.Verdict = FindingRan
	if yielded(r.Outcome) || r.Outcome == runs.OutcomeSucceeded && j.p.Dedupe != nil {
		h, err := j.end(ctx, r.RunID, r.Execution)
		if err != nil {
			return err
		}
		if result, ok := h.runResult(); ok && result.Taken != nil {
			found.Verdict, found.Outcome, found.Reason = FindingDuplicate, result.Taken.Outcome, result.Taken.Reason
			if result.Taken.ByAnotherEvent {
				found.Verdict, found.By = FindingKeyTaken, result.Taken.Identity
			}
		}
	}
	if j.ledger == nil || len(j.p.Steps) == 0 {
		return nil
	}
	records, err := j.records(ctx, ledger.KeyHash(found.Key))
	found.Twice = append(found.Twice, j.twice(records, found.Identity)...)
	if damaged(err) {
		found.because(err.Error())
		return nil
	}
	return err
}

// byLedger asks the ledger for a run that Temporal does not know.
func (j *judge) byLedger(ctx context.Context, found *judged) (bool, error) {
	if j.ledger == nil || len(j.p.Steps) == 0 {
		return false, nil
	}
	var entry ledger.Entry
	err := j.patiently(ctx, func(ctx context.Context) (err error) {
		entry, err = j.ledger.Read(ctx, j.deployment, j.p.Name, found.Key)
		return err
	})
	var records []ledger.Record
	claimed := err == nil
	if claimed || errors.Is(err, ledger.ErrNotFound) {
		records, err = j.records(ctx, ledger.KeyHash(found.Key))
	}
	switch {
	case errors.Is(err, ledger.ErrInvalid): // no run can have the key
		return false, nil
	case damaged(err):
		found.Source = FromLedger
		found.because(err.Error())
		return true, nil
	case err != nil:
		return false, err
	}
	found.Twice = j.twice(records, found.Identity)
	last, own := lastOf(records, found.Identity)
	switch c := entry.Claim; {
	case own:
		found.Verdict, found.Outcome, found.RunID = FindingRan, last.Outcome, last.RunID
		found.because("Temporal has forgotten it")
	case claimed && c.Identity == found.Identity:
		found.Verdict, found.RunID = FindingRan, c.RunID
		found.because(fmt.Sprintf("it claimed its key at %s and left no final record, and Temporal does not know it any more", c.At.UTC().Format(time.RFC3339)))
	case claimed:
		found.Verdict, found.By, found.RunID = FindingKeyTaken, c.Identity, c.RunID
		found.because("another event's run claimed its key")
	case len(records) > 0:
		found.Verdict, found.By, found.RunID = FindingKeyTaken, records[0].Identity, records[0].RunID
		found.because("another event's run had its key")
	default:
		return false, nil
	}
	found.Source = FromLedger
	return true, nil
}

// lastOf is the record of an event's run that ended last.
func lastOf(records []ledger.Record, identity string) (ledger.Record, bool) {
	own := slices.DeleteFunc(slices.Clone(records), func(r ledger.Record) bool { return r.Identity != identity })
	if len(own) == 0 {
		return ledger.Record{}, false
	}
	return slices.MaxFunc(own, func(a, b ledger.Record) int { return a.Ended.Compare(b.Ended) }), true
}

// byClaims looks for the event among all that claimed a key since the window began: the key may have been another then, and
// what Temporal has forgotten it does not list, either.
func (j *judge) byClaims(ctx context.Context, found *judged) (bool, error) {
	if j.ledger == nil || j.p.Dedupe == nil || len(j.p.Steps) == 0 {
		return false, nil
	}
	known, err := j.claims(ctx)
	if err != nil {
		return false, err
	}
	hash, ok := known.by[digestOf(found.Identity)]
	if !ok {
		return false, nil
	}
	records, err := j.records(ctx, hash)
	found.Twice = j.twice(records, found.Identity)
	last, own := lastOf(records, found.Identity)
	if err == nil && own {
		found.RunID, found.Key, found.Outcome = last.RunID, last.Key, last.Outcome
	}
	if err == nil && !own {
		var c ledger.Claim
		c, err = j.claimOf(ctx, hash)
		found.RunID, found.Key = c.RunID, c.Key
	}
	switch {
	case damaged(err):
		found.because(err.Error())
	case err != nil && !errors.Is(err, ledger.ErrNotFound):
		return false, err
	}
	found.Verdict, found.Source = FindingRan, FromLedger
	found.because("it claimed another key than it would now, and Temporal has forgotten it")
	return true, nil
}

// readClaims reads which events claimed a key since the window began. Of older claims it reads one, to know that there were any.
func (j *judge) readClaims(ctx context.Context) (*claims, error) {
	const enough = 16 // some may be damaged, or deleted since
	fail := func(err error) (*claims, error) {
		return nil, fmt.Errorf("ask the ledger which keys pipeline %s claimed: %w", j.p.Name, err)
	}
	var since, before []string
	// A list has as many pages as it needs, each of which has its own bound.
	err := j.insist(ctx, func(ctx context.Context) error {
		since, before = nil, nil
		for key, err := range j.ledger.Keys(ctx, j.deployment, j.p.Name) {
			switch {
			case err != nil:
				return err
			case !key.Written.Before(j.q.From.Add(-clocks)):
				since = append(since, key.Hash)
			case len(before) < enough:
				before = append(before, key.Hash)
			}
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	known := &claims{by: make(map[digest]string, len(since))}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(reconcileParallel)
	for _, hash := range since {
		g.Go(func() error { return j.readClaim(gctx, hash, known, &mu) })
	}
	if err := g.Wait(); err != nil {
		return fail(err)
	}
	for _, hash := range before {
		if known.before {
			break
		}
		switch _, err := j.claimOf(ctx, hash); {
		case err == nil:
			known.before = true
		case !damaged(err) && !errors.Is(err, ledger.ErrNotFound):
			return fail(err)
		}
	}
	return known, nil
}

// readClaim takes in the claim of a key, and the records of those that had the key before.
func (j *judge) readClaim(ctx context.Context, hash string, known *claims, mu *sync.Mutex) error {
	c, err := j.claimOf(ctx, hash)
	var records []ledger.Record
	if err == nil && c.After != "" {
		records, err = j.records(ctx, hash)
	}
	mu.Lock()
	defer mu.Unlock()
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		known.doubt = "a claim was deleted just now"
	case damaged(err):
		known.doubt = err.Error()
	case err != nil:
		return err
	// A key that is the event's identity no other event ever had.
	case c.After != "" && c.Key != c.Identity && !slices.ContainsFunc(records, func(r ledger.Record) bool { return r.Chain == c.After }):
		known.doubt = fmt.Sprintf("the claim of %s replaced one that left no final record, so of which event that was is not known", c.RunID)
	}
	if c.Chain != "" {
		known.by[digestOf(c.Identity)] = hash
		known.before = known.before || c.At.Before(j.q.From)
	}
	for i := range records {
		known.by[digestOf(records[i].Identity)] = hash
	}
	return nil
}

func (j *judge) claimOf(ctx context.Context, hash string) (c ledger.Claim, err error) {
	err = j.patiently(ctx, func(ctx context.Context) (err error) {
		c, err = j.ledger.ClaimOf(ctx, j.deployment, j.p.Name, hash)
		return err
	})
	return c, err
}

func (j *judge) records(ctx context.Context, hash string) (records []ledger.Record, err error) {
	err = j.patiently(ctx, func(ctx context.Context) (err error) {
		records, err = j.ledger.Records(ctx, j.deployment, j.p.Name, hash)
		return err
	})
	if errors.Is(err, ledger.ErrInvalid) {
		err = nil
	}
	return records, err
}

func damaged(err error) bool {
	var d *ledger.DamagedError
	return errors.As(err, &d)
}

// patiently is insist for a question that is answered at once.
func (j *judge) patiently(ctx context.Context, ask func(context.Context) error) error {
	return j.insist(ctx, func(ctx context.Context) error {
		ctx, cancel := call(ctx)
		defer cancel()
		return ask(ctx)
	})
}

// insist asks the ledger again where its bucket could not serve.
func (j *judge) insist(ctx context.Context, ask func(context.Context) error) error {
	pause := j.q.Buckets.pause
	for try := 1; ; try++ {
		err := ask(ctx)
		var refused *ledger.Error
		if err == nil || try == bucketTries || !errors.As(err, &refused) || refused.Code != 429 && refused.Code < 500 {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// twice names the jobs of a step that succeeded for an event beside another: in one run, or in two that no person asked for.
// A key whose claim expires may run again, so of such only the jobs of one run are compared.
func (j *judge) twice(records []ledger.Record, identity string) []string {
	jobs := map[string]map[string]string{} // by step, and by run where its claims expire
	for i := range records {
		r := &records[i]
		if r.Identity != identity || r.Decision == "retry" {
			continue
		}
		within := ""
		if j.p.Dedupe != nil && j.p.Dedupe.Keep > 0 {
			within = r.Chain
		}
		for _, step := range r.Steps {
			for _, a := range step.Attempts {
				if a.Outcome != runs.OutcomeSucceeded || a.JobID == "" {
					continue
				}
				of := step.Name + "\x00" + within
				if jobs[of] == nil {
					jobs[of] = map[string]string{}
				}
				jobs[of][a.JobID] = fmt.Sprintf("job %s (%s) of step %s", a.JobName, a.JobID, step.Name)
			}
		}
	}
	var twice []string
	for _, of := range slices.Sorted(maps.Keys(jobs)) {
		if len(jobs[of]) > 1 {
			twice = append(twice, slices.Sorted(maps.Values(jobs[of]))...)
		}
	}
	return slices.Compact(twice)
}

// byIdentity looks for a run that the event started under another ID than it would now.
func (j *judge) byIdentity(ctx context.Context, found *judged) (bool, error) {
	known := j.runs[digestOf(found.Identity)]
	if known == nil {
		return false, nil
	}
	ids := known.list(j, found.Identity)
	for _, id := range ids {
		r, err := j.describeRun(ctx, id)
		if err != nil {
			return false, err
		}
		if r == nil || r.Identity != found.Identity {
			continue
		}
		now := "would not run it"
		if found.RunID != "" {
			now = "would run it as " + found.RunID
		}
		found.because("it ran by an earlier version of the pipelines file; the one that is compared with " + now)
		return true, j.tellRun(ctx, found, r)
	}
	found.Verdict, found.Source, found.RunID = FindingRan, FromTemporal, ids[len(ids)-1]
	found.because("Temporal listed its run, and has forgotten it since")
	return true, nil
}

// byDecision goes by what functions said, and by what they could do nothing with.
func (j *judge) byDecision(ctx context.Context, found *judged) (bool, error) {
	d, logged := j.q.Decisions.on(j.p.Name, found.Identity)
	found.Source = FromDecisions
	switch {
	case d.decision == "started" || d.decision == "duplicate":
		if d.runID != "" && d.runID != found.RunID {
			r, err := j.describeRun(ctx, d.runID)
			if err != nil {
				return false, err
			}
			if r != nil && r.Identity == found.Identity {
				return true, j.tellRun(ctx, found, r)
			}
		}
		found.Verdict, found.RunID = FindingRan, cmp.Or(d.runID, found.RunID)
		found.because("the functions decided " + d.decision + ", and Temporal does not know the run any more")
		return true, nil
	case d.decision == "signalled":
		found.Verdict, found.RunID = FindingSignalled, cmp.Or(d.runID, found.RunID)
		return true, nil
	}
	if w, ok := j.letter(j.p.Name, found.Identity); ok {
		found.Verdict, found.Source, found.DeadLetter = FindingDeadLettered, FromDeadLetters, w.id
		found.because(w.reason)
		return true, nil
	}
	switch d.decision {
	case "dead-lettered":
		found.Verdict = FindingDeadLettered
		found.because(d.reason)
		if j.q.Queue != nil {
			found.because("it is not among the dead letters that wait now")
		}
		return true, nil
	case "key-taken":
		found.Verdict, found.RunID = FindingKeyTaken, cmp.Or(d.runID, found.RunID)
		found.because(d.reason)
		return true, nil
	}
	found.Source = ""
	if logged {
		found.because("the functions decided " + strings.TrimSuffix(d.decision+": "+d.reason, ": "))
	}
	return false, nil
}

// Fields of an event that an object does not tell as they were. The first are the delivery's own, or follow from the bucket's
// settings; the others change with the object's metadata.
var (
	untold  = []string{"", "id", "extensions", "retentionExpirationTime"}
	mutable = []string{
		"metageneration", "contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl", "etag", "storageClass", "kmsKeyName",
		"metadata", "temporaryHold", "eventBasedHold", "updated", "timeDeleted", "timeStorageClassUpdated",
	}
)

// inexact says why the pipeline may have decided otherwise on the event as it was delivered than on the one made of the
// object; empty: it cannot.
func (j *judge) inexact(o *object) string {
	for _, field := range j.deciding {
		switch {
		case slices.Contains(untold, field):
			return fmt.Sprintf("its when or key uses %s, which the object does not tell", strings.TrimSuffix("event."+field, "."))
		case o.changed && slices.Contains(mutable, field):
			return fmt.Sprintf("its metadata have changed since it was created, and when or key use event.%s", field)
		}
	}
	if slices.Contains(j.deciding, "time") {
		// An event's time may be some moments from that of the object's creation.
		for _, by := range []time.Duration{-eventDelay, eventDelay} {
			other := *o.event
			other.Time = other.Time.Add(by)
			matches := j.set.Match(&other)
			if len(matches) == 0 || decisionOf(matches[0]) != decisionOf(j.set.Match(o.event)[0]) {
				return "its when or key uses event.time, which the object does not tell to the second"
			}
		}
	}
	return ""
}

const eventDelay = 5 * time.Second

// decisionOf is what a pipeline makes of an event, to compare.
func decisionOf(m pipeline.Match) string {
	plan, skip, err := m.Evaluate()
	switch {
	case err != nil:
		return "error"
	case skip != nil:
		return "skip"
	case plan.Signal != nil:
		return "signal " + plan.Signal.WorkflowID
	}
	return "run " + plan.Key
}
