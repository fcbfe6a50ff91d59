package dataflowemulator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
)

// StatusEvent is one CloudEvent of type google.cloud.dataflow.job.v1beta3.statusChanged.
type StatusEvent struct {
	ID, Source, Type, Subject string
	Time                      time.Time
	// Job is the job's NAME, Project the project's NUMBER, Location its region: the extension attributes that Eventarc filters by.
	Job, Project, Location string
	// DataSchema is the address of Data's schema. Data is JSON.
	DataSchema string
	Data       []byte
}

// StatusEventType and the data's type name are Eventarc's.
const (
	StatusEventType = "google.cloud.dataflow.job.v1beta3.statusChanged"
	statusDataType  = "type.googleapis.com/google.events.cloud.dataflow.v1beta3.JobEventData"
	statusSchema    = "https://googleapis.github.io/google-cloudevents/proto/google/events/cloud/dataflow/v1beta3/data.proto#JobEventData"
)

// Sink takes status events, one at a time and in order for one job, concurrently for several. The emulator makes no further try when Deliver returns an error:
// a sink that wants retries makes them.
type Sink interface {
	Deliver(context.Context, StatusEvent) error
}

// SinkFunc is a function as a Sink.
type SinkFunc func(context.Context, StatusEvent) error

// Deliver calls f.
func (f SinkFunc) Deliver(ctx context.Context, event StatusEvent) error { return f(ctx, event) }

// HTTPSink posts each event to a URL as a CloudEvent in binary mode. It tries five times within about three seconds: the emulator is no message broker, and one that
// retries for a day, as Eventarc does, stands between it and a receiver that may be down.
type HTTPSink struct {
	URL string
	// Client defaults to one with a timeout of 10 seconds.
	Client *http.Client
}

var sinkClient = &http.Client{Timeout: 10 * time.Second}

// Deliver posts the event until it is answered 2xx, its tries are used up, or the context ends.
func (s HTTPSink) Deliver(ctx context.Context, event StatusEvent) error {
	const tries = 5
	wait := 100 * time.Millisecond
	var err error
	for try := 1; ; try++ {
		if err = s.post(ctx, event); err == nil || try == tries {
			return err
		}
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ctx.Done():
			return err
		}
	}
}

func (s HTTPSink) post(ctx context.Context, event StatusEvent) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(event.Data))
	if err != nil {
		return fmt.Errorf("send the status of job %s: %w", event.Job, err)
	}
	for name, value := range map[string]string{
		"Ce-Specversion": "1.0", "Ce-Id": event.ID, "Ce-Source": event.Source, "Ce-Type": event.Type, "Ce-Subject": event.Subject,
		"Ce-Time": event.Time.UTC().Format(time.RFC3339Nano), "Ce-Dataschema": event.DataSchema,
		"Ce-Job": event.Job, "Ce-Project": event.Project, "Ce-Location": event.Location,
		"Content-Type": "application/json; charset=utf-8",
	} {
		req.Header.Set(name, value)
	}
	client := s.Client
	if client == nil {
		client = sinkClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("send the status of job %s: %w", event.Job, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("send the status of job %s to %s: it answered %s", event.Job, s.URL, resp.Status)
	}
	return nil
}

// eventQueue keeps one job's events in order while the sink is slow.
type eventQueue struct {
	mu      sync.Mutex
	waiting []waitingEvent
	running bool
}

// waitingEvent is an event with the ledger's line of its delivery.
type waitingEvent struct {
	StatusEvent
	told ledgerLine
}

// publish queues the event of the job's present state. The caller holds the emulator's mu.
func (e *Emulator) publish(j *job) {
	if e.config.Sink == nil {
		return
	}
	event, err := e.statusEvent(j)
	if err != nil {
		e.config.Log.Error("a status event cannot be made", "job", j.record.Name, "error", err)
		return
	}
	q := &j.events
	q.mu.Lock()
	defer q.mu.Unlock()
	told := j.line("told", event.Time)
	told.State = j.record.CurrentState.String()
	q.waiting = append(q.waiting, waitingEvent{event, told})
	if q.running {
		return
	}
	q.running = true
	e.wg.Go(func() { e.deliver(q) })
}

func (e *Emulator) deliver(q *eventQueue) {
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		event := q.waiting[0]
		q.waiting = q.waiting[1:]
		q.mu.Unlock()
		err := e.config.Sink.Deliver(e.ctx, event.StatusEvent)
		switch {
		case err == nil && e.ledger != nil:
			// Not flushed to the disk: one that is forgotten is delivered twice, as any event may be.
			if err := e.ledger.note(event.told); err != nil {
				e.config.Log.Error("the launch ledger cannot be written", "error", err)
			}
		case err != nil && e.ctx.Err() == nil:
			e.config.Log.Warn("a status event was not delivered", "job", event.Job, "error", err)
		}
	}
}

func (e *Emulator) statusEvent(j *job) (StatusEvent, error) {
	payload := proto.Clone(j.record).(*pb.Job)
	// A status event carries of the environment only what tells the SDK; the rest of a job has to be asked for.
	if env := payload.Environment; env != nil {
		payload.Environment = &pb.Environment{Version: env.Version, UserAgent: env.UserAgent}
	}
	payload.RuntimeUpdatableParams, payload.TransformNameMapping = nil, nil
	body, err := protojson.Marshal(payload)
	if err != nil {
		return StatusEvent{}, err
	}
	data, err := json.Marshal(map[string]any{"@type": statusDataType, "payload": json.RawMessage(body)})
	if err != nil {
		return StatusEvent{}, err
	}
	return StatusEvent{
		ID:         incident() + incident(),
		Source:     fmt.Sprintf("//dataflow.googleapis.com/projects/%s/locations/%s", j.record.ProjectId, j.record.Location),
		Type:       StatusEventType,
		Subject:    "jobs/" + j.record.Name,
		Time:       j.record.CurrentStateTime.AsTime(),
		Job:        j.record.Name,
		Project:    e.projectNumber(j.record.ProjectId),
		Location:   j.record.Location,
		DataSchema: statusSchema,
		Data:       data,
	}, nil
}

func (e *Emulator) projectNumber(id string) string {
	if n, ok := e.config.ProjectNumbers[id]; ok {
		return n
	}
	h := fnv.New64a()
	h.Write([]byte(id))
	// Twelve digits, as real project numbers have.
	return strconv.FormatUint(100_000_000_000+h.Sum64()%900_000_000_000, 10)
}

func structOf(m map[string]any) *structpb.Struct {
	s, err := structpb.NewStruct(m)
	if err != nil {
		// Only values of a type that JSON does not have can fail, and no caller passes any.
		panic(err)
	}
	return s
}
