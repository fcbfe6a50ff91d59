package deadletters

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Received is a dead letter as its subscription gives it.
type Received struct {
	Letter
	// ID is the dead letter's own message ID: it stays the same however often it is read.
	ID string
	// Published is when it became a dead letter.
	Published time.Time
	// Forwarded says where it comes from when Pub/Sub put it here, because a subscription gave it up, or somebody else
	// did; nil when a function did. Its Letter is empty then: see Forwarded.Delivery.
	Forwarded *Forwarded

	ackID string
}

// Forwarded is a message that Pub/Sub moved to the dead-letter topic. It is a new message: the ID of the original is lost.
// https://cloud.google.com/pubsub/docs/handling-failures#dead_letter_topic
type Forwarded struct {
	// Subscription is the full name of the one that gave it up, or as much of the name as the message tells.
	Subscription string
	// Attempts is how often it was delivered, in digits.
	Attempts string
	// Published is when the original was.
	Published time.Time
	// Attributes are the original's.
	Attributes map[string]string
	// OrderingKey is the original's, if Pub/Sub kept it.
	OrderingKey string
	Data        []byte
}

// Attributes that Pub/Sub adds to what it forwards.
const (
	forwardedPrefix       = "CloudPubSubDeadLetter"
	forwardedSubscription = forwardedPrefix + "SourceSubscription"
	forwardedProject      = forwardedPrefix + "SourceSubscriptionProject"
	forwardedAttempts     = forwardedPrefix + "SourceDeliveryCount"
	forwardedPublished    = forwardedPrefix + "SourceTopicPublishTime"
)

// Read reads a message of the dead-letter topic.
func Read(m *pubsubpb.PubsubMessage) (Received, error) {
	r := Received{ID: m.GetMessageId()}
	if t := m.GetPublishTime(); t != nil {
		r.Published = t.AsTime()
	}
	l, ours, err := read(m.GetData(), m.GetAttributes())
	if err != nil {
		return r, fmt.Errorf("read dead letter %s: %w", r.ID, err)
	}
	if ours {
		r.Letter = l
		return r, nil
	}
	a := m.GetAttributes()
	f := &Forwarded{Subscription: a[forwardedSubscription], Attempts: a[forwardedAttempts], Published: r.Published, Attributes: map[string]string{}, OrderingKey: m.GetOrderingKey(), Data: m.GetData()}
	if project := a[forwardedProject]; project != "" && f.Subscription != "" && !strings.Contains(f.Subscription, "/") {
		f.Subscription = "projects/" + project + "/subscriptions/" + f.Subscription
	}
	if t, err := time.Parse(time.RFC3339Nano, a[forwardedPublished]); err == nil {
		f.Published = t
	}
	for name, value := range a {
		if !strings.HasPrefix(name, forwardedPrefix) {
			f.Attributes[name] = value
		}
	}
	r.Forwarded = f
	return r, nil
}

// Limits of a queue's calls.
const (
	// lease is how long a letter is held from other readers before it has to be extended.
	lease = 2 * time.Minute
	// page is the most letters of one call, whose answer has 10 MB each at worst and is bounded by the service.
	page = 100
	// maxBad is how many letters that cannot be read end a look at the others.
	maxBad      = 1000
	callTimeout = 20 * time.Second
)

var subscriptionRE = regexp.MustCompile(`^projects/[^/]+/subscriptions/[^/]+$`)

// Queue reads the subscription of a dead-letter topic. What it received is held from other readers until it is acknowledged,
// released or extended no more. It is for one caller at a time. Use Open.
type Queue struct {
	// Quiet is how long a subscription that gives nothing is waited for at first: it may have messages and yet give none. Then it
	// is asked once more, for three times as long. Open sets it to 3 seconds.
	Quiet time.Duration

	client *pubsub.Client
	name   string
	held   map[string]string // ack IDs by message ID
}

// Open connects to a subscription, projects/P/subscriptions/S. PUBSUB_EMULATOR_HOST is honoured. Close it.
func Open(ctx context.Context, subscription string, options ...option.ClientOption) (*Queue, error) {
	if !subscriptionRE.MatchString(subscription) {
		return nil, fmt.Errorf("the dead letters' subscription is %q; name it in full, as projects/PROJECT/subscriptions/SUBSCRIPTION", subscription)
	}
	c, err := pubsub.NewClient(ctx, strings.Split(subscription, "/")[1], options...)
	if err != nil {
		return nil, fmt.Errorf("connect to Pub/Sub: %w", err)
	}
	return &Queue{Quiet: 3 * time.Second, client: c, name: subscription, held: map[string]string{}}, nil
}

// String is the subscription's name.
func (q *Queue) String() string { return q.name }

// Receive takes up to limit letters, and holds them; there may be more. Fewer means that the subscription gave no others
// within some seconds: those that another reader holds, or that a reader which crashed held until a moment ago, are not seen.
// A letter that cannot be read is released in the end, and its error is joined to the others'; the rest is good.
func (q *Queue) Receive(ctx context.Context, limit int) ([]Received, error) {
	got, _, err := q.Find(ctx, limit, limit, func(*Received) bool { return true })
	return got, err
}

// Find takes letters until it has most that are wanted, or has looked through so many, and holds no others. more says that
// there may be others that are wanted. Those that are not wanted, or cannot be read, are released in the end, since they would
// come back before what was not seen yet; nothing else of them is kept, as bodies can be large.
func (q *Queue) Find(ctx context.Context, most, through int, wanted func(*Received) bool) (found []Received, more bool, err error) {
	var others []Received // with what names them alone
	var errs []error
	seen := map[string]bool{}
	looked, bad := 0, 0
	renewed := time.Now()
	patience := q.Quiet
	for len(found) < most && looked < through && bad < maxBad {
		pulled, late, err := q.pull(ctx, min(through-looked, page), patience)
		if late && patience == q.Quiet {
			// An answer of a hundred large letters, or of a busy service, takes longer. One letter tells that from none.
			patience *= 3
			pulled, _, err = q.pull(ctx, 1, patience)
		}
		if err != nil {
			errs = append(errs, err)
			break
		}
		fresh := 0
		var ackIDs []string
		for _, m := range pulled {
			id := m.GetMessage().GetMessageId()
			q.held[id] = m.GetAckId()
			ackIDs = append(ackIDs, m.GetAckId())
			if seen[id] {
				continue // its lease ended, and began anew
			}
			seen[id] = true
			fresh++
			r, err := Read(m.GetMessage())
			r.ackID = m.GetAckId()
			take := false
			if err != nil {
				errs, bad = append(errs, err), bad+1
			} else {
				take, looked = wanted(&r), looked+1
			}
			if take && len(found) == most {
				take, more = false, true
			}
			if take {
				found = append(found, r)
			} else {
				others = append(others, Received{ID: id, ackID: r.ackID})
			}
		}
		if fresh == 0 {
			break
		}
		if time.Since(renewed) > lease/2 {
			ackIDs, renewed = slices.Collect(maps.Values(q.held)), time.Now()
		}
		if err := q.extend(ctx, lease, ackIDs); err != nil {
			errs = append(errs, err)
			break
		}
	}
	more = more || len(found) == most || looked >= through || bad >= maxBad
	slices.SortStableFunc(found, func(a, b Received) int { return a.Published.Compare(b.Published) })
	return found, more, errors.Join(append(errs, q.Release(ctx, others...))...)
}

// pull asks for letters. late says that there was no answer in time.
func (q *Queue) pull(caller context.Context, most int, patience time.Duration) (pulled []*pubsubpb.ReceivedMessage, late bool, err error) {
	ctx, cancel := context.WithTimeout(caller, patience)
	defer cancel()
	answer, err := q.client.SubscriptionAdminClient.Pull(ctx, &pubsubpb.PullRequest{Subscription: q.name, MaxMessages: int32(min(most, page))})
	switch {
	case err == nil:
		return answer.GetReceivedMessages(), false, nil
	case caller.Err() != nil:
		return nil, false, fmt.Errorf("pull dead letters of %s: %w", q.name, caller.Err())
	case errors.Is(ctx.Err(), context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		return nil, true, nil // it may have none
	case status.Code(err) == codes.NotFound:
		return nil, false, fmt.Errorf("there is no subscription %s of dead letters: %w", q.name, err)
	}
	return nil, false, fmt.Errorf("pull dead letters of %s: %w", q.name, err)
}

// Extend holds a letter for as long as it was at first.
func (q *Queue) Extend(ctx context.Context, r Received) error {
	return q.extend(ctx, lease, []string{q.ackID(r)})
}

// Release lets others read the letters at once.
func (q *Queue) Release(ctx context.Context, letters ...Received) error {
	ids := make([]string, 0, len(letters))
	for i := range letters {
		ids = append(ids, q.ackID(letters[i]))
	}
	if err := q.extend(ctx, 0, ids); err != nil {
		return err
	}
	for i := range letters {
		delete(q.held, letters[i].ID)
	}
	return nil
}

// Ack takes a letter away for good.
func (q *Queue) Ack(ctx context.Context, r Received) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := q.client.SubscriptionAdminClient.Acknowledge(ctx, &pubsubpb.AcknowledgeRequest{Subscription: q.name, AckIds: []string{q.ackID(r)}}); err != nil {
		return fmt.Errorf("acknowledge dead letter %s: %w", r.ID, err)
	}
	delete(q.held, r.ID)
	return nil
}

// TopicOf asks Pub/Sub for the topic of a subscription, by its full name. pushes says that it delivers plain pushes to an endpoint that
// names the topic; Eventarc's do not.
func (q *Queue) TopicOf(ctx context.Context, subscription string) (topic string, pushes bool, err error) {
	if !subscriptionRE.MatchString(subscription) {
		return "", false, fmt.Errorf("the dead letter does not name its subscription in full, but %q", subscription)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := q.client.SubscriptionAdminClient.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: subscription})
	if err != nil {
		return "", false, fmt.Errorf("ask for the topic of subscription %s: %w", subscription, err)
	}
	push := s.GetPushConfig()
	endpoint, err := url.Parse(push.GetPushEndpoint())
	pushes = err == nil && endpoint.Query().Get("topic") != "" && push.GetNoWrapper() == nil
	return s.GetTopic(), pushes, nil
}

// Close releases what is still held. It does so also when ctx, of the command that held it, is over.
func (q *Queue) Close(ctx context.Context) error {
	err := q.extend(context.WithoutCancel(ctx), 0, slices.Collect(maps.Values(q.held)))
	return errors.Join(err, q.client.Close())
}

func (q *Queue) ackID(r Received) string {
	if id := q.held[r.ID]; id != "" {
		return id
	}
	return r.ackID
}

// extend changes how long letters are held from now on; zero lets them go.
func (q *Queue) extend(ctx context.Context, by time.Duration, ackIDs []string) error {
	for batch := range slices.Chunk(ackIDs, page) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		err := q.client.SubscriptionAdminClient.ModifyAckDeadline(ctx, &pubsubpb.ModifyAckDeadlineRequest{
			Subscription: q.name, AckIds: batch, AckDeadlineSeconds: int32(by.Seconds()),
		})
		cancel()
		if err != nil {
			return fmt.Errorf("change how long dead letters of %s are held: %w", q.name, err)
		}
	}
	return nil
}
