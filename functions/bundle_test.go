package functions

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/penstock/penstock/cloudlog"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// Pipelines files of the tests.
const (
	ordersFile = `name: orders
purpose: Load each order export.
owner: data@example.com
on:
  - storage: {bucket: landing, object: "orders/**"}
steps:
  - name: load
    dataflow:
      template: gs://templates/load.json
      parameters: {input: "${event.uri}"}
`
	auditFile = `name: audit
purpose: Keep a trace of each order export.
owner: data@example.com
on:
  - storage: {bucket: landing, object: "orders/**"}
workflow: {type: Audit, taskQueue: audits}
`
	dailyFile = `name: daily
purpose: Load each day once.
owner: data@example.com
on:
  - storage: {bucket: landing, object: "daily/{day}/*.csv"}
key: ${object.day}
workflow: {type: Daily, taskQueue: days}
`
	approvalsFile = `name: approvals
purpose: Tell the approval of what it waits for.
owner: data@example.com
on:
  - pubsub: {topic: projects/penstock-dev/topics/approvals}
signal: {workflowId: "approval-${event.attributes.order}", name: approved}
`
	ingestFile = `name: ingest
purpose: Collect what was published.
owner: data@example.com
on:
  - pubsub: {topic: projects/penstock-dev/topics/items}
signal: {workflowId: collector, name: item, start: {type: Collect, taskQueue: collectors}}
`
)

// bundle is a receiver with the outside world in the test's hand: Temporal's errors cannot be had from a real server at
// will. That the real one is understood is shown by the end-to-end tests of the local stack.
type bundle struct {
	*receiver
	temporal *stubTemporal
	dir      string // of the pipelines files
	log      *bytes.Buffer

	mu         sync.Mutex
	letters    []*pubsub.Message
	publishErr error
}

func setup(t testing.TB, files ...string) *bundle {
	t.Helper()
	b := &bundle{dir: t.TempDir(), log: new(bytes.Buffer), temporal: newStubTemporal()}
	for i, file := range files {
		b.write(t, fmt.Sprintf("p%d.yaml", i), file)
	}
	b.receiver = &receiver{
		settings: settings{
			deployment: "dev", project: "penstock-dev", location: "us-central1",
			pipelines: b.dir, deadLetter: "projects/penstock-dev/topics/dead",
		},
		log:         cloudlog.New(&lockedWriter{w: b.log}, slog.LevelDebug),
		now:         time.Now,
		readTimeout: readTimeout,
		memory:      newMemory(time.Now),
		open: func() (folder, error) {
			return pipeline.Open(b.dir, pipeline.FolderOptions{Logger: slog.New(slog.DiscardHandler), Recheck: -1})
		},
		temporal: func(context.Context) (temporal, error) { return b.temporal, nil },
		publish: func(_ context.Context, m *pubsub.Message) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.publishErr != nil {
				return b.publishErr
			}
			b.letters = append(b.letters, m)
			return nil
		},
	}
	return b
}

func (b *bundle) write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// post delivers a request to an entry point and reads the answer.
func (b *bundle) post(t testing.TB, entryPoint string, r *http.Request) (*httptest.ResponseRecorder, Answer) {
	t.Helper()
	h := b.trigger(entryPoint)
	if entryPoint == NameJobStatus {
		h = b.handler(entryPoint, b.jobStatus)
	}
	w := httptest.NewRecorder()
	h(w, r)
	var a Answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("the body is not JSON: %v\n%s", err, w.Body)
	}
	return w, a
}

// outcomes lists "pipeline: outcome" of every decision.
func (a *Answer) outcomes() string {
	var list []string
	for _, d := range a.Decisions {
		if d.Pipeline != "" {
			list = append(list, d.Pipeline+": "+string(d.Outcome))
		} else {
			list = append(list, string(d.Outcome))
		}
	}
	return strings.Join(list, ", ")
}

type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// Events of the tests.

func cloudEvent(typ, source, id, data string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(data))
	r.Header.Set("Ce-Specversion", "1.0")
	r.Header.Set("Ce-Type", typ)
	r.Header.Set("Ce-Source", source)
	r.Header.Set("Ce-Id", id)
	r.Header.Set("Content-Type", "application/json")
	return r
}

func finalized(object string, generation int) *http.Request {
	data, _ := json.Marshal(map[string]any{"bucket": "landing", "name": object, "generation": fmt.Sprint(generation), "size": "10"})
	r := cloudEvent("google.cloud.storage.object.v1.finalized", "//storage.googleapis.com/projects/_/buckets/landing", "1", string(data))
	r.Header.Set("Ce-Subject", "objects/"+strings.ReplaceAll(object, "%", "%25"))
	return r
}

func push(topic, messageID string, attributes map[string]string, data []byte) *http.Request {
	body, _ := json.Marshal(map[string]any{
		"subscription": "projects/penstock-dev/subscriptions/s",
		"message":      map[string]any{"messageId": messageID, "message_id": messageID, "attributes": attributes, "data": data, "publishTime": "2026-11-22T10:00:00Z"},
	})
	r := httptest.NewRequest(http.MethodPost, "/?topic="+topic, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}

func approval(order string) *http.Request {
	return push("projects/penstock-dev/topics/approvals", "7", map[string]string{"order": order}, nil)
}

func item(data []byte) *http.Request {
	return push("projects/penstock-dev/topics/items", "8", nil, data)
}

func jobEvent(name, state string) *http.Request {
	data := fmt.Sprintf(`{"payload":{"id":"2026-11-22_1","name":%q,"currentState":%q,"currentStateTime":"2026-11-22T10:00:00Z","type":"JOB_TYPE_BATCH"}}`, name, state)
	r := cloudEvent("google.cloud.dataflow.job.v1beta3.statusChanged", "//dataflow.googleapis.com/projects/penstock-dev/locations/us-central1", "9", data)
	r.Header.Set("Ce-Subject", "jobs/"+name)
	r.Header.Set("Ce-Job", name)
	r.Header.Set("Ce-Project", "123456789")
	r.Header.Set("Ce-Location", "us-central1")
	return r
}

// stubTemporal keeps workflows as the server does, as far as starting and signalling go, and answers with the error that a
// test sets.
type stubTemporal struct {
	mu      sync.Mutex
	fail    func(id string) error // nil: nothing fails
	memos   map[string]string     // identity in the memo, by workflow ID, of what was started
	started []start
	signals []sent
	calls   map[string]int // by method
}

type start struct {
	options  client.StartWorkflowOptions
	workflow string
	input    []byte
}

type sent struct {
	workflowID, name string
	arg              any
}

func newStubTemporal() *stubTemporal {
	return &stubTemporal{memos: make(map[string]string), calls: make(map[string]int)}
}

// call counts a call and says how it goes. It is made without the lock held, so that a test can hold calls back.
func (s *stubTemporal) call(ctx context.Context, method, id string) error {
	s.mu.Lock()
	s.calls[method]++
	s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(id); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (s *stubTemporal) ExecuteWorkflow(ctx context.Context, o client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	if err := s.call(ctx, "start", o.ID); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.memos[o.ID]; ok {
		return nil, serviceerror.NewWorkflowExecutionAlreadyStarted("already started", "", "")
	}
	s.memos[o.ID] = o.Memo[runs.MemoIdentity].(string)
	s.started = append(s.started, start{o, workflow.(string), args[0].(converter.RawValue).Payload().GetData()})
	return nil, nil
}

func (s *stubTemporal) SignalWorkflow(ctx context.Context, id, _, name string, arg any) error {
	if err := s.call(ctx, "signal", id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signals = append(s.signals, sent{id, name, arg})
	return nil
}

func (s *stubTemporal) SignalWithStartWorkflow(ctx context.Context, id, name string, arg any, o client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	if err := s.call(ctx, "signalWithStart", id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signals = append(s.signals, sent{id, name, arg})
	input, err := converter.GetDefaultDataConverter().ToPayload(args[0])
	if err != nil {
		return nil, err
	}
	s.started = append(s.started, start{o, workflow.(string), input.GetData()})
	return nil, nil
}

func (s *stubTemporal) DescribeWorkflowExecution(ctx context.Context, id, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	if err := s.call(ctx, "describe", id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := converter.GetDefaultDataConverter().ToPayload(s.memos[id])
	if err != nil {
		return nil, err
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
		Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{runs.MemoIdentity: p}},
	}}, nil
}
