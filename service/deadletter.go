package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/penstock/penstock/deadletters"
	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
)

// DeadLetters looks at dead letters, and delivers them again.
type DeadLetters struct {
	// Queue is the subscription that they wait in.
	Queue *deadletters.Queue
	// FunctionsURL is the base URL of the functions, which Redrive delivers to: each is at its name below it.
	FunctionsURL string
	// Token is a bearer token for functions that take deliveries from known senders only; empty: none.
	Token string
	// Pipelines are those that the functions have. They say whether an event whose identity was lost has a key in its payload;
	// nil: that is not known.
	Pipelines *pipeline.Set
}

// DeadLetter is what is known of a dead letter.
type DeadLetter struct {
	// ID is the dead letter's own: the one to ask for it by.
	ID        string    `json:"id"`
	Published time.Time `json:"published"` // when it became one
	Reason    string    `json:"reason,omitempty"`
	Identity  string    `json:"identity,omitempty"` // of the event
	Pipeline  string    `json:"pipeline,omitempty"` // that could not take it; empty where it never got as far
	// EntryPoint is where it arrived; empty for what Pub/Sub forwarded.
	EntryPoint string `json:"entryPoint,omitempty"`
	Topic      string `json:"topic,omitempty"` // of a plain push
	// Forwarded says that Pub/Sub put it here, after so many deliveries of a subscription that were not acknowledged.
	Forwarded *ForwardedBy `json:"forwarded,omitempty"`
	Size      int          `json:"size"` // bytes of the body
}

// ForwardedBy says where a forwarded message comes from.
type ForwardedBy struct {
	Subscription string `json:"subscription,omitempty"`
	Attempts     string `json:"attempts,omitempty"`
}

// DeadLetterContent is a dead letter with what was delivered.
type DeadLetterContent struct {
	DeadLetter
	Header http.Header `json:"header,omitempty"`
	// Attributes are those of a forwarded message.
	Attributes map[string]string `json:"attributes,omitempty"`
	Body       string            `json:"body,omitempty"`       // where it is text
	BodyBase64 []byte            `json:"bodyBase64,omitempty"` // where it is not
}

// LetterFilter says which dead letters are meant. The zero value means the first hundred of all.
type LetterFilter struct {
	Pipeline string    // those that this pipeline could not take
	Before   time.Time // those that became one before then; zero: no bound
	Limit    int       // at most so many of them; zero: 100
}

const defaultLetters = 100

// lookThrough is how many dead letters are read to find those that are meant.
const lookThrough = 10_000

// DeadLetterListing is an answer of List.
type DeadLetterListing struct {
	DeadLetters []DeadLetter `json:"deadLetters"` // oldest first
	// More says that there may be others: beyond the limit, or beyond what is looked through.
	More bool `json:"more,omitempty"`
}

// List reads dead letters and leaves them where they are. Others cannot read them meanwhile; the error may come with a
// listing of those that could be read.
func (d *DeadLetters) List(ctx context.Context, f LetterFilter) (DeadLetterListing, error) {
	got, more, err := d.find(ctx, f)
	listing := DeadLetterListing{DeadLetters: []DeadLetter{}, More: more}
	for i := range got {
		listing.DeadLetters = append(listing.DeadLetters, about(&got[i]))
	}
	return listing, errors.Join(err, d.Queue.Release(ctx, got...))
}

// find takes the letters that a filter lets through. Those of one pipeline may lie behind many of others.
func (d *DeadLetters) find(ctx context.Context, f LetterFilter) (got []deadletters.Received, more bool, err error) {
	limit := cmp.Or(f.Limit, defaultLetters)
	through := limit
	if f.Pipeline != "" {
		through = max(limit, lookThrough)
	}
	return d.Queue.Find(ctx, limit, through, f.lets)
}

func (f *LetterFilter) lets(r *deadletters.Received) bool {
	return (f.Pipeline == "" || f.Pipeline == r.Pipeline) && (f.Before.IsZero() || r.Published.Before(f.Before))
}

// ErrNoLetter is what errors.Is finds where there is no such dead letter.
var ErrNoLetter = errors.New("no such dead letter")

func noLetter(id string) error {
	return fmt.Errorf("%w: %s among those that can be read now; it may have been delivered again, or another reader holds it for some minutes (penstock dlq list shows the others)", ErrNoLetter, id)
}

// Show reads one dead letter and leaves it where it is.
func (d *DeadLetters) Show(ctx context.Context, id string) (DeadLetterContent, error) {
	got, _, err := d.Queue.Find(ctx, 1, lookThrough, func(r *deadletters.Received) bool { return r.ID == id })
	if err = errors.Join(err, d.Queue.Release(ctx, got...)); err != nil && len(got) == 0 {
		return DeadLetterContent{}, err
	}
	if len(got) == 0 {
		return DeadLetterContent{}, noLetter(id)
	}
	r := &got[0]
	c := DeadLetterContent{DeadLetter: about(r), Header: r.Header}
	body := r.Body
	if r.Forwarded != nil {
		c.Attributes, body = r.Forwarded.Attributes, r.Forwarded.Data
	}
	if utf8.Valid(body) {
		c.Body = string(body)
	} else {
		c.BodyBase64 = body
	}
	return c, err
}

func about(r *deadletters.Received) DeadLetter {
	l := DeadLetter{
		ID: r.ID, Published: r.Published, Reason: r.Reason, Identity: r.Identity, Pipeline: r.Pipeline,
		EntryPoint: r.EntryPoint, Topic: r.Topic, Size: len(r.Body),
	}
	if f := r.Forwarded; f != nil {
		l.Forwarded, l.Size = &ForwardedBy{Subscription: f.Subscription, Attempts: f.Attempts}, len(f.Data)
		l.Reason = "the functions did not acknowledge it"
		if f.Attempts != "" {
			l.Reason += " in " + f.Attempts + " deliveries"
		}
	}
	return l
}

// RedriveRequest says which dead letters to deliver again: those of IDs, or those that the filter lets through.
type RedriveRequest struct {
	IDs []string
	LetterFilter
	// Force delivers also an event whose identity was lost, under the dead letter's own ID: if an earlier delivery did
	// start a run, this one starts another. And an event that the letter's pipeline does not want any more goes to all that want
	// it, and is a dead letter no more though that be none: of those that had it, and whose run is forgotten, one may run again. So is
	// the event of a letter of no pipeline that none wants.
	Force bool
	// Topic is that of forwarded plain pushes, projects/P/topics/T; empty: Pub/Sub is asked. And that of letters of pushes whose
	// endpoint named none, which do not decode without.
	Topic string
}

// Redriven is what became of one dead letter.
type Redriven struct {
	DeadLetter
	// Delivered says that a function took it, and that it is a dead letter no more.
	Delivered bool `json:"delivered"`
	// Status is the function's answer; zero: it was not asked, or did not answer.
	Status int `json:"status,omitempty"`
	// Decisions are what the function decided. One may be that it is a dead letter once more, which is then a new one.
	Decisions []RedriveDecision `json:"decisions,omitempty"`
	// Error is why it was not delivered, in words. It is still a dead letter then.
	Error string `json:"error,omitempty"`
}

// RedriveDecision is an entry of a function's answer.
type RedriveDecision struct {
	Pipeline string `json:"pipeline,omitempty"`
	Decision string `json:"decision"`
	Reason   string `json:"reason,omitempty"`
	RunID    string `json:"runId,omitempty"`
}

// Redrive delivers dead letters to the entry points that they came from, as they came, and takes away each that was
// answered 2xx, unless the pipeline that it is for, or where it names none every pipeline, does not want the event. So the event keeps its identity: delivered once
// more, by this or by a redelivery, it is a duplicate. What could not be delivered stays a dead letter, as its entry says. A
// function that does not answer at all ends it.
//
// What becomes a dead letter meanwhile is left for another time. more says that there may be others which the filter lets through.
func (d *DeadLetters) Redrive(ctx context.Context, q RedriveRequest) (redriven []Redriven, more bool, err error) {
	if d.FunctionsURL == "" {
		return nil, false, errNoFunctions
	}
	if q.Before.IsZero() {
		q.Before = time.Now()
	}
	var got []deadletters.Received
	if len(q.IDs) > 0 {
		got, _, err = d.Queue.Find(ctx, len(q.IDs), lookThrough, func(r *deadletters.Received) bool { return slices.Contains(q.IDs, r.ID) })
	} else {
		got, more, err = d.find(ctx, q.LetterFilter)
	}
	errs := []error{err}
	if err == nil {
		for _, id := range q.IDs {
			if !slices.ContainsFunc(got, func(r deadletters.Received) bool { return r.ID == id }) {
				errs = append(errs, noLetter(id))
			}
		}
	}
	redriven = []Redriven{}
	var release []deadletters.Received
	answered := true
	for i := range got {
		r := &got[i]
		if !answered {
			release = append(release, *r)
			continue
		}
		entry := Redriven{DeadLetter: about(r)}
		if answered, err = d.redrive(ctx, r, &q, &entry); err != nil {
			entry.Error = err.Error()
			release = append(release, *r)
		}
		redriven = append(redriven, entry)
	}
	if !answered {
		errs = append(errs, errors.New("the functions do not answer: the other dead letters were not tried"))
	}
	return redriven, more, errors.Join(append(errs, d.Queue.Release(ctx, release...))...)
}

// redrive delivers one. answered is false where that could not be for a reason that the next one would meet, too.
func (d *DeadLetters) redrive(ctx context.Context, r *deadletters.Received, q *RedriveRequest, entry *Redriven) (answered bool, err error) {
	l, identity, err := d.delivery(ctx, r, q)
	if err != nil {
		return true, err
	}
	entry.Identity = cmp.Or(entry.Identity, identity)
	entry.EntryPoint, entry.Topic = l.EntryPoint, l.Topic
	if err := d.Queue.Extend(ctx, *r); err != nil {
		return true, err
	}
	functions := Functions{URL: d.FunctionsURL, Token: d.Token}
	answer, answered, err := functions.deliver(ctx, l, identity)
	unwanted := err == nil && l.Pipeline != "" && answer.unwantedBy(l.Pipeline)
	if unwanted && q.Force {
		everybody := l
		everybody.Pipeline, unwanted = "", false
		answer, answered, err = functions.deliver(ctx, everybody, identity)
	}
	entry.Status, entry.Decisions = answer.status, answer.decisions
	if err != nil {
		return answered, err
	}
	if l.Pipeline == "" && len(answer.decisions) == 0 && !l.JobStatus() && !q.Force {
		return true, errors.New("the functions have no pipeline that wants it: is a pipelines file missing there, or was a trigger changed? " +
			"Put that right, or take it away with --force")
	}
	if unwanted {
		return true, fmt.Errorf("it is for the pipeline %s alone, and the functions have none of that name which wants the event: was it renamed, or its trigger changed? "+
			"Put that right, or deliver it with --force to all that want it, which takes it away also where none does", l.Pipeline)
	}
	if err := d.Queue.Ack(ctx, *r); err != nil {
		return true, fmt.Errorf("it was delivered, and yet is still a dead letter, which does no harm: %w", err)
	}
	entry.Delivered = true
	return true, nil
}

// delivery is what to post for a letter, and the identity of the event in it; empty where it does not decode, as when it
// became a dead letter.
func (d *DeadLetters) delivery(ctx context.Context, r *deadletters.Received, q *RedriveRequest) (deadletters.Letter, string, error) {
	if r.Forwarded != nil {
		return d.forwarded(ctx, r, q)
	}
	l := r.Letter
	e, err := events.DecodeBytes(l.Header, l.Body, l.Topic)
	if err != nil && l.Topic == "" && q.Topic != "" && !l.JobStatus() {
		// The push endpoint may have named no topic, which is then all that is wrong with it.
		if named, ok := events.DecodeBytes(l.Header, l.Body, q.Topic); ok == nil {
			l.Topic, e, err = q.Topic, named, nil
		}
	}
	if err != nil {
		return l, "", nil //nolint:nilerr // it may be for this that it is here; a newer function may read it
	}
	// A trigger's own identity is not the event's: that the pipeline makes anew of the same event.
	if identity := e.Identity(); l.Identity == "" || strings.HasPrefix(l.Identity, pipeline.MessageIdentityPrefix) || deadletters.SameIdentity(l.Identity, identity) {
		return l, identity, nil
	}
	return l, "", fmt.Errorf("it was the event %s and reads as %s now: delivered again, it could run twice", l.Identity, e.Identity())
}

// forwarded is the delivery of a message that Pub/Sub forwarded.
func (d *DeadLetters) forwarded(ctx context.Context, r *deadletters.Received, q *RedriveRequest) (deadletters.Letter, string, error) {
	again := r.Forwarded.Delivery
	topic := q.Topic
	var asked error
	if topic == "" {
		var pushes bool
		if topic, pushes, asked = d.Queue.TopicOf(ctx, r.Forwarded.Subscription); pushes {
			again = r.Forwarded.Push // a publisher's attributes may look like those of a CloudEvent
		}
	}
	deliver := func(topic, id string) (deadletters.Letter, *events.Event, error) {
		l, err := again(topic, id)
		if err != nil {
			return l, nil, err
		}
		e, err := events.DecodeBytes(l.Header, l.Body, l.Topic)
		return l, e, err
	}
	l, e, err := deliver(topic, r.ID)
	if err != nil && asked != nil && !r.Forwarded.CloudEvent() {
		return l, "", fmt.Errorf("which topic was it published to? Name it with --topic: %w", asked)
	}
	if err != nil {
		if q.Force {
			return l, "", nil // the function says what it makes of it
		}
		return l, "", fmt.Errorf("it holds no event: %w (--force delivers it nevertheless)", err)
	}
	if e.Kind != events.KindPubSub || q.Force {
		return l, e.Identity(), nil // what is in it tells events apart, or the dead letter's own ID has to
	}
	if d.Pipelines == nil {
		return l, "", errors.New("Pub/Sub forwarded it, and with that its message ID was lost; whether a pipeline has another way to tell it from others is not known, as a pipelines file is invalid (--force delivers it nevertheless)")
	}
	if len(d.Pipelines.Match(e)) == 0 {
		return l, "", errors.New("Pub/Sub forwarded it, and with that its message ID was lost; none of the pipelines files here wants it, so whether a pipeline has another way to tell it from others is not known: " +
			"name the folder that the functions have with --pipelines, or say with --force that it may run once more")
	}
	_, other, err := deliver(l.Topic, r.ID+"-other")
	if err != nil {
		return l, "", err
	}
	if names := d.byMessageID(e, other); len(names) > 0 {
		return l, "", fmt.Errorf("Pub/Sub forwarded it, and with that its message ID was lost, by which %s would tell whether it had the event before: "+
			"name a payload key (id:) in the trigger, or say with --force that it may run once more", strings.Join(names, ", "))
	}
	return l, e.Identity(), nil
}

// byMessageID names the pipelines that take the two, which differ in the message ID alone, for two events.
func (d *DeadLetters) byMessageID(one, other *events.Event) []string {
	var names []string
	identities := map[string]string{}
	for _, m := range d.Pipelines.Match(one) {
		if plan, skip, err := m.Evaluate(); err == nil && skip == nil {
			identities[m.Pipeline.Name] = identityIn(&plan)
		}
	}
	for _, m := range d.Pipelines.Match(other) {
		if plan, skip, err := m.Evaluate(); err == nil && skip == nil && identities[m.Pipeline.Name] != identityIn(&plan) {
			names = append(names, m.Pipeline.Name)
		}
	}
	return names
}

// identityIn is what a pipeline tells events apart by: a run's key, a signal's identity.
func identityIn(p *pipeline.Plan) string {
	if p.Signal != nil {
		return p.Identity
	}
	return p.Key
}

// reasons are why decisions were not final.
func reasons(decisions []RedriveDecision) string {
	var all []string
	for _, d := range decisions {
		if d.Reason != "" {
			all = append(all, strings.TrimPrefix(d.Pipeline+": "+d.Reason, ": "))
		}
	}
	return strings.Join(all, "; ")
}

func clip(text []byte) string {
	const most = 300
	s := strings.ToValidUTF8(string(text[:min(len(text), most)]), "")
	return strings.TrimSpace(s)
}
