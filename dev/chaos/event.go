package chaos

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"

	"github.com/penstock/penstock/runs"
)

// Landing is the bucket whose objects start the pipelines of scenarios.
const Landing = "chaos-landing"

// Event is something that happened, which is delivered at least once, and what it is
// to lead to. The zero Fate is Runs and the zero Outcome is succeeded.
type Event struct {
	Identity string
	Pipeline string // that it starts; empty: none
	Key      string // of its run; empty: Identity
	Fate     Fate
	// Outcome of its run; AnyOutcome: that of its jobs, whichever it is.
	Outcome runs.Outcome
	// Executions is how often the run is started, with retries and resets. 0: once.
	Executions int
	// Jobs is how many jobs each step of its run has, where it is not one; AnyJobs: as many as it takes.
	Jobs map[string]int
	// Deployment is whose functions get it; empty: the bench's own.
	Deployment string
	// Request makes a delivery of it: no two need be the same, but one that comes again is.
	Request func(*rand.Rand) Request
}

// AnyOutcome is for a run that may end as its jobs do.
const AnyOutcome runs.Outcome = "any"

// Request is one delivery, as it is POSTed to the functions.
type Request struct {
	Path   string // of the function, with its query
	Header map[string]string
	Body   []byte
}

// hash names a request's body in the sender's log and a dead letter's in the record.
func hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:12])
}

// Object is the event of a new object "<pipeline>/<name>" in Landing, of a generation
// that is drawn. It comes as Eventarc's CloudEvent or as the plain push of a bucket's
// notification, with another ID each time.
func (b *Bench) Object(pipeline, name string) Event {
	return b.ObjectIn(Landing, pipeline, pipeline+"/"+name)
}

// ObjectIn is the event of any new object.
func (b *Bench) ObjectIn(bucket, pipeline, object string) Event {
	return objectEvent(bucket, pipeline, object, 1_700_000_000_000_000+b.draw().Int64N(1e15))
}

// Objects are n events of Object.
func (b *Bench) Objects(pipeline string, n int) []Event {
	events := make([]Event, n)
	for i := range events {
		events[i] = b.Object(pipeline, fmt.Sprintf("%05d.csv", b.next()))
	}
	return events
}

func objectEvent(bucket, pipeline, object string, generation int64) Event {
	data := map[string]string{
		"kind": "storage#object", "bucket": bucket, "name": object, "generation": strconv.FormatInt(generation, 10),
		"metageneration": "1", "size": "17", "contentType": "text/csv", "timeCreated": "2026-01-02T03:04:05.678Z",
	}
	return Event{
		Identity: fmt.Sprintf("finalized:%s/%s#%d", bucket, object, generation),
		Pipeline: pipeline,
		Request: func(r *rand.Rand) Request {
			if r.IntN(2) == 0 {
				return Request{Path: "/StorageTrigger", Header: cloudEvent(r, "google.cloud.storage.object.v1.finalized",
					"//storage.googleapis.com/projects/_/buckets/"+bucket, "objects/"+object), Body: encode(data)}
			}
			return push("/StorageTrigger", "projects/"+Project+"/topics/storage-notifications", encode(data), map[string]string{
				"bucketId": bucket, "objectId": object, "objectGeneration": data["generation"], "eventType": "OBJECT_FINALIZE",
				"payloadFormat": "JSON_API_V1", "notificationConfig": "projects/_/buckets/" + bucket + "/notificationConfigs/1",
			}, strconv.FormatUint(r.Uint64(), 10))
		},
	}
}

// Message is the event of a message that was published once, as a plain push.
func (b *Bench) Message(pipeline, topic string, data any) Event {
	topic = "projects/" + Project + "/topics/" + topic
	id := strconv.FormatUint(b.draw().Uint64(), 10)
	body := encode(data)
	return Event{
		Identity: "pubsub:" + topic + "#" + id,
		Pipeline: pipeline,
		Request: func(r *rand.Rand) Request {
			return push("/PubSubTrigger", topic, body, nil, id)
		},
	}
}

// cloudEvent are the headers of a CloudEvent in HTTP's binary mode.
func cloudEvent(r *rand.Rand, kind, source, subject string) map[string]string {
	return map[string]string{
		"Content-Type": "application/json", "ce-specversion": "1.0", "ce-id": strconv.FormatUint(r.Uint64(), 10),
		"ce-type": kind, "ce-source": source, "ce-subject": subject, "ce-time": "2026-01-02T03:04:05.678Z",
	}
}

// push is a message as a push subscription POSTs it.
func push(function, topic string, data []byte, attributes map[string]string, id string) Request {
	body := encode(map[string]any{
		"message": map[string]any{
			"data": base64.StdEncoding.EncodeToString(data), "attributes": attributes,
			"messageId": id, "message_id": id, "publishTime": "2026-01-02T03:04:05.678Z", "publish_time": "2026-01-02T03:04:05.678Z",
		},
		"subscription": "projects/" + Project + "/subscriptions/chaos",
	})
	return Request{Path: function + "?topic=" + url.QueryEscape(topic), Header: map[string]string{"Content-Type": "application/json"}, Body: body}
}

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("chaos: %v does not encode: %v", v, err)) // a scenario's own literal
	}
	return text
}

// Repeat gives each event n times.
func Repeat(events []Event, n int) []Event { return slices.Repeat(events, n) }

// Shuffle mixes the order, as the seed has it.
func (b *Bench) Shuffle(events []Event) []Event {
	mixed := slices.Clone(events)
	b.draw().Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	return mixed
}

// want is what an event is to lead to, for the checker.
func (e Event) want(steps map[string][]string, body string) Want {
	w := Want{Identity: e.Identity, Pipeline: e.Pipeline, Key: e.Key, Fate: e.Fate, Outcome: e.Outcome, Executions: e.Executions, Jobs: e.Jobs, Deployment: e.deployment(), Steps: steps[e.Pipeline]}
	if w.Fate == "" {
		w.Fate = Runs
	}
	if w.Key == "" {
		w.Key = w.Identity
	}
	switch {
	case w.Fate != Runs || w.Outcome == AnyOutcome:
		w.Outcome = ""
	case w.Outcome == "":
		w.Outcome = runs.OutcomeSucceeded
	}
	if w.Identity == "" {
		w.Body = body
	}
	return w
}

// RunID is the workflow ID of the event's run.
func (e Event) RunID() string { return runs.RunID(e.deployment(), e.Pipeline, e.key()) }

// JobName is the name of the job of an attempt of a step of the event's run.
func (e Event) JobName(step string, attempt int) string {
	return runs.JobName(e.deployment(), e.Pipeline, e.key(), step, attempt)
}

func (e Event) deployment() string {
	if e.Deployment == "" {
		return Deployment
	}
	return e.Deployment
}

func (e Event) key() string {
	if e.Key == "" {
		return e.Identity
	}
	return e.Key
}
