package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/deadletters"
	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// Finding is what became of an object and a pipeline.
type Finding string

// The findings.
const (
	FindingRan          Finding = "ran"           // a run for it is over, as Outcome says; empty: nobody knows how it ended
	FindingRunning      Finding = "running"       // a run for it is under way
	FindingSkipped      Finding = "skipped"       // the pipeline's `when` does not want it
	FindingDeadLettered Finding = "dead-lettered" // nothing could be done with its event
	FindingDuplicate    Finding = "duplicate"     // the run that came of its event launched nothing, as an earlier one of the same event has the key
	FindingKeyTaken     Finding = "key-taken"     // another event has the key that it would run under
	FindingSignalled    Finding = "signalled"     // its event was sent to a workflow
	FindingMissed       Finding = "missed"        // nothing came of it, for certain
	FindingUnknown      Finding = "unknown"       // whether anything came of it cannot be known any more
)

// What a finding is known from.
const (
	FromTemporal    = "temporal"
	FromLedger      = "ledger"
	FromDecisions   = "decisions"
	FromDeadLetters = "dead-letters"
)

// ReconcileRequest says what to compare.
type ReconcileRequest struct {
	// Pipelines are those that the functions have; Pipeline is the name of the one to reconcile.
	Pipelines *pipeline.Set
	Pipeline  string
	// From and To bound when the generations of objects were created: From is inside, To is not.
	From, To time.Time
	Buckets  *Buckets
	// Decisions is what functions logged; nil: not looked at.
	Decisions *DecisionLog
	// Queue has the dead letters, which are looked at and left where they are; nil: not looked at.
	Queue *deadletters.Queue
	// StartMissing delivers the events of missed objects to Functions.
	StartMissing bool
	Functions    Functions
}

// ReconciledObject is one generation of an object that the pipeline's triggers cover.
type ReconciledObject struct {
	Bucket     string    `json:"bucket"`
	Name       string    `json:"name"`
	Generation int64     `json:"generation,string"`
	Created    time.Time `json:"created,omitzero"`
	Identity   string    `json:"identity"` // of the event of its creation
	Verdict    Finding   `json:"verdict"`
	// RunID is the run that it has, or would have; Key is that run's.
	RunID   string       `json:"runId,omitempty"`
	Key     string       `json:"key,omitempty"`
	Outcome runs.Outcome `json:"outcome,omitempty"` // of the run
	// By is the event that has the key, where it is another.
	By     string `json:"by,omitempty"`
	Source string `json:"source,omitempty"` // what the verdict is known from; empty: from the pipelines file
	Reason string `json:"reason,omitempty"`
	// DeadLetter is the ID of the dead letter that waits.
	DeadLetter string `json:"deadLetter,omitempty"`
	// Twice names what counted for it more than once.
	Twice []string `json:"twice,omitempty"`
	// Start is what came of starting it; nil: nobody tried.
	Start *StartOfMissed `json:"start,omitempty"`
}

// StartOfMissed is what came of delivering a missed object's event.
type StartOfMissed struct {
	// Delivered says that a function took the event, and decided on the pipeline for good.
	Delivered bool `json:"delivered"`
	Status    int  `json:"status,omitempty"` // of its answer; zero: it gave none, or was not asked
	// Decisions are what it decided, for all pipelines that want the event.
	Decisions []RedriveDecision `json:"decisions,omitempty"`
	Error     string            `json:"error,omitempty"`
}

// Left says that something is still to be done about the object: it is missed or unknown, and was not delivered just now.
func (o *ReconciledObject) Left() bool {
	return o.Verdict == FindingUnknown || o.Verdict == FindingMissed && (o.Start == nil || !o.Start.Delivered)
}

// ExtraRun is a run of the pipeline that no object in the window explains.
type ExtraRun struct {
	Run
	Reason string `json:"reason"`
}

// Reconciliation is what was found, all in all.
type Reconciliation struct {
	Pipeline string    `json:"pipeline"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	// Counts has each finding that there was.
	Counts  map[Finding]int `json:"counts"`
	Extra   int             `json:"extra"`
	Twice   int             `json:"twice"`   // objects for which something counted more than once
	Started int             `json:"started"` // missed objects whose runs a function started just now
	Left    int             `json:"left"`    // missed and unknown objects that still are
	// Notes say what could not be looked at, or listed.
	Notes []string `json:"notes,omitempty"`
}

// ReconcileObserver is told of each object and each extra run as it is found. An error ends the reconciliation.
type ReconcileObserver struct {
	Object func(ReconciledObject) error
	Extra  func(ExtraRun) error
}

// Pages and parallel questions of a reconciliation. What is kept of each run is a digest of its event's identity; objects
// are forgotten page by page.
const (
	reconcilePage     = 1000
	reconcileParallel = 16
	// clocks is by how much the clocks of Cloud Storage, Temporal and this machine may differ.
	clocks = time.Hour
)

// Reconcile lists the objects that the storage triggers of a pipeline cover and that were created in a window, and says of
// each what came of it. What is missed is asked of Temporal by the run's ID, never taken from a list. With StartMissing
// it delivers the events of those that were missed, as their buckets would have; each still runs once only.
func (s *Service) Reconcile(ctx context.Context, q ReconcileRequest, seen ReconcileObserver) (Reconciliation, error) {
	result := Reconciliation{Pipeline: q.Pipeline, From: q.From, To: q.To, Counts: map[Finding]int{}}
	p := q.Pipelines.Pipeline(q.Pipeline)
	switch {
	case p == nil:
		return result, fmt.Errorf("there is no pipeline %q in the pipelines files", q.Pipeline)
	case !q.From.Before(q.To):
		return result, fmt.Errorf("no object is created both from %s and before %s", q.From.Format(time.RFC3339), q.To.Format(time.RFC3339))
	case q.StartMissing && q.Functions.URL == "":
		return result, errNoFunctions
	}
	places, notes := coverage(p)
	if len(places) == 0 {
		return result, fmt.Errorf("pipeline %s has no trigger whose events can be listed: %s", p.Name, strings.Join(notes, "; "))
	}
	result.Notes = append(notes, s.unseen(&q, p)...)
	r := &reconciler{Service: s, q: &q, result: &result, seen: seen, now: time.Now}
	var err error
	if r.retention, err = s.retention(ctx); err != nil {
		return result, err
	}
	if q.Queue != nil {
		note, err := r.readLetters(ctx)
		if err != nil {
			return result, err
		}
		if note != "" {
			result.Notes = append(result.Notes, note)
		}
	}
	if r.judge, err = r.judgeOf(ctx, p); err != nil {
		return result, err
	}
	for _, at := range places {
		if err := q.Buckets.list(ctx, at.bucket, at.prefix, func(page []object) error { return r.objects(ctx, page) }); err != nil {
			return result, err
		}
	}
	return result, r.extras(ctx, places)
}

// unseen says which sources there are that nobody named.
func (s *Service) unseen(q *ReconcileRequest, p *pipeline.Pipeline) []string {
	var notes []string
	if s.ledger == nil && len(p.Steps) > 0 {
		notes = append(notes, "no ledger is known (PENSTOCK_LEDGER), so runs that Temporal has forgotten are not, either")
	}
	if q.Queue == nil {
		notes = append(notes, "dead letters were not looked at (PENSTOCK_DEAD_LETTER_SUBSCRIPTION)")
	}
	return notes
}

func (s *Service) retention(ctx context.Context) (time.Duration, error) {
	ctx, cancel := call(ctx)
	defer cancel()
	d, err := s.temporal.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: s.namespace})
	if err != nil {
		return 0, fmt.Errorf("ask Temporal how long namespace %s keeps runs: %w", s.namespace, err)
	}
	return d.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration(), nil
}

// place is where objects are listed.
type place struct{ bucket, prefix string }

// coverage says where the objects lie that storage triggers cover, each place once, and which events cannot be listed.
func coverage(p *pipeline.Pipeline) (places []place, notes []string) {
	for i := range p.On {
		t := &p.On[i]
		where := fmt.Sprintf("trigger in line %d: ", t.Position.Line)
		switch {
		case t.PubSub != nil:
			notes = append(notes, where+"messages of topic "+t.PubSub.Topic+" cannot be listed: Pub/Sub does not tell what it delivered")
		case t.Event != nil:
			notes = append(notes, where+"events of type "+t.Event.Type+" cannot be listed: only their source knows them")
		default:
			if slices.Contains(t.Storage.Kinds, string(events.Finalized)) {
				places = append(places, place{t.Storage.Bucket, t.Storage.Prefix()})
			}
			if others := slices.DeleteFunc(slices.Clone(t.Storage.Kinds), func(k string) bool { return k == string(events.Finalized) }); len(others) > 0 {
				notes = append(notes, fmt.Sprintf("%sobjects %s in bucket %s cannot be listed: a bucket tells what there is, not what happened to it", where, strings.Join(others, ", "), t.Storage.Bucket))
			}
		}
	}
	slices.SortFunc(places, func(a, b place) int { return strings.Compare(a.bucket+"/"+a.prefix, b.bucket+"/"+b.prefix) })
	// Sorted, a prefix comes right before those that begin with it.
	var once []place
	for _, at := range places {
		if n := len(once); n > 0 && once[n-1].bucket == at.bucket && strings.HasPrefix(at.prefix, once[n-1].prefix) {
			continue
		}
		once = append(once, at)
	}
	return once, notes
}

// reconciler is one reconciliation.
type reconciler struct {
	*Service
	q         *ReconcileRequest
	result    *Reconciliation
	seen      ReconcileObserver
	now       func() time.Time
	retention time.Duration
	letters   map[digest]waiting // by pipeline and identity
	judge     *judge             // of the pipeline that is reconciled
	halted    string             // why nothing is started any more; empty: it is
}

// waiting is a dead letter.
type waiting struct {
	id, reason string
	since      time.Time
}

// readLetters looks at the dead letters, and leaves them.
func (r *reconciler) readLetters(ctx context.Context) (note string, err error) {
	r.letters = map[digest]waiting{}
	looked := 0
	// None is wanted, so that no body is kept.
	_, more, err := r.q.Queue.Find(ctx, 1, lookThrough, func(got *deadletters.Received) bool {
		looked++
		r.waits(got)
		return false
	})
	var notes []string
	switch {
	case refusedByQueue(err):
		return "", fmt.Errorf("look at the dead letters: %w", err)
	case err != nil:
		notes = append(notes, "not every dead letter can be read, so an object may be called missed whose event is one: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if more {
		notes = append(notes, fmt.Sprintf("there may be more dead letters than the %d that were looked at", looked))
	}
	return strings.Join(notes, "; "), nil
}

// waits remembers of a dead letter what it is about.
func (r *reconciler) waits(got *deadletters.Received) {
	l := about(got)
	if l.Forwarded != nil {
		// The event of an object's change has its identity in it, whichever topic it went through.
		if delivery, err := got.Forwarded.Delivery("", l.ID); err == nil {
			if e, err := events.DecodeBytes(delivery.Header, delivery.Body, delivery.Topic); err == nil {
				l.Identity = e.Identity()
			}
		}
	}
	if l.Identity == "" {
		return
	}
	about := digestOf(l.Pipeline + "\x00" + l.Identity)
	if r.letters[about].since.After(l.Published) {
		return // of several, the newest is told
	}
	r.letters[about] = waiting{l.ID, l.Reason, l.Published}
}

// refusedByQueue tells trouble of the subscription, which gave nothing then, from that of a letter that cannot be read.
func refusedByQueue(err error) bool {
	var answer interface{ GRPCStatus() *status.Status }
	return errors.As(err, &answer) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// letter is the dead letter of an event that a pipeline could not take, or that never got as far.
func (r *reconciler) letter(pipeline, identity string) (waiting, bool) {
	for _, name := range []string{pipeline, ""} {
		if w, ok := r.letters[digestOf(name+"\x00"+identity)]; ok {
			return w, true
		}
	}
	return waiting{}, false
}

// objects reconciles a page of objects.
func (r *reconciler) objects(ctx context.Context, page []object) error {
	type answer struct {
		covered bool
		ReconciledObject
	}
	answers := make([]answer, len(page))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(reconcileParallel)
	for i := range page {
		g.Go(func() (err error) {
			answers[i].ReconciledObject, answers[i].covered, err = r.object(gctx, &page[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range answers {
		o := &answers[i].ReconciledObject
		if !answers[i].covered {
			continue
		}
		r.judge.explain(o)
		if o.Verdict == FindingMissed && r.q.StartMissing {
			// One after the other: each sees what those before it started, and a function that is gone is asked once.
			if err := r.start(ctx, &page[i], o); err != nil {
				return err
			}
		}
		r.result.Counts[o.Verdict]++
		if len(o.Twice) > 0 {
			r.result.Twice++
		}
		if o.Left() {
			r.result.Left++
		}
		if err := r.seen.Object(*o); err != nil {
			return err
		}
	}
	return nil
}

// object says what became of one; it is not covered where it is out of the window, or no trigger wants it.
func (r *reconciler) object(ctx context.Context, o *object) (ReconciledObject, bool, error) {
	if o.event == nil {
		// Whether a trigger wants what cannot be read is not known either.
		return ReconciledObject{Bucket: o.bucket, Name: o.name, Verdict: FindingUnknown, Reason: o.err.Error()}, true, nil
	}
	s := o.event.Storage
	if s.TimeCreated.Before(r.q.From) || !s.TimeCreated.Before(r.q.To) {
		return ReconciledObject{}, false, nil
	}
	found, err := r.judge.judge(ctx, o)
	if err != nil || found == nil {
		return ReconciledObject{}, false, err
	}
	found.Bucket, found.Name, found.Generation, found.Created = s.Bucket, s.Name, s.Generation, s.TimeCreated
	return found.ReconciledObject, true, nil
}

// start delivers the event of a missed object.
func (r *reconciler) start(ctx context.Context, o *object, missed *ReconciledObject) error {
	missed.Start = &StartOfMissed{}
	if r.halted != "" {
		missed.Start.Error = "not tried: " + r.halted
		return nil
	}
	letter := o.letter
	letter.Pipeline = r.judge.p.Name
	answer, goOn, err := r.q.Functions.deliver(ctx, letter, missed.Identity)
	missed.Start.Status, missed.Start.Decisions = answer.status, answer.decisions
	switch own := slices.IndexFunc(answer.decisions, func(d RedriveDecision) bool { return d.Pipeline == r.judge.p.Name }); {
	case err != nil:
		missed.Start.Error = err.Error()
		if !goOn {
			r.halted = err.Error()
		}
	case own < 0 || answer.decisions[own].Decision == string(Skipped):
		missed.Start.Error = "the functions' pipelines files do not want it: are they those that this was compared with?"
	default:
		missed.Start.Delivered = true
		if answer.decisions[own].Decision == string(Started) {
			r.result.Started++
		}
	}
	return nil
}
