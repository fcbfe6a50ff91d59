package worker_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	commonpb "go.temporal.io/api/common/v1"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/runs"
)

// service stands in for Dataflow in the test environment, whose clock is not the real
// one: it keeps jobs, and each call can be made to go wrong. What the real API does
// is tested end to end against the emulator.
type service struct {
	mu    sync.Mutex
	now   func() time.Time
	jobs  []*dataflow.Job
	calls []string

	onLaunch func(n int, l dataflow.Launch) error // nth launch from 1; nil error launches
	onFind   func(n int) error
	onList   func(n int) error
	onGet    func(n int, id string) error
	hangs    func(id string) bool // whether a look at a job lasts for as long as its caller waits
	unlisted map[string]bool      // jobs that lists do not show
	onCancel func(n int, force bool) error
	onDrain  func() error
	lost     bool // a launch that onLaunch refuses is carried out all the same
	lag      int  // so many looks by name see nothing of the jobs that there are
	typ      dataflow.JobType
	errText  string
	metrics  map[string]int64
	// unread is what reads of a job's metrics and messages fail with.
	unread   struct{ metrics, messages error }
	launched func(j *dataflow.Job)
	stopped  func(j *dataflow.Job) // what a cancel or drain does; default: it ends at once
}

func (s *service) call(format string, args ...any) int {
	c := fmt.Sprintf(format, args...)
	s.calls = append(s.calls, c)
	n := 0
	for _, old := range s.calls {
		if old == c {
			n++
		}
	}
	return n
}

func (s *service) count(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (s *service) Launch(_ context.Context, l dataflow.Launch) (dataflow.Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.call("launch")
	var err error
	if s.onLaunch != nil {
		err = s.onLaunch(n, l)
	}
	if err != nil && !s.lost {
		return dataflow.Job{}, err
	}
	j := &dataflow.Job{
		ID: fmt.Sprintf("job-%d", len(s.jobs)+1), Name: l.JobName, Project: l.Project, Location: l.Location,
		Type: l.Type(), State: dataflow.StateQueued, StateTime: s.now(), CreateTime: s.now(), Labels: l.Labels,
	}
	if s.typ != "" {
		j.Type = s.typ
	}
	s.jobs = append(s.jobs, j)
	if s.launched != nil {
		s.launched(j)
	}
	if err != nil {
		return dataflow.Job{}, err
	}
	return *j, nil
}

func (s *service) Find(_ context.Context, _, _, name string) ([]dataflow.Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.call("find")
	if s.onFind != nil {
		if err := s.onFind(n); err != nil {
			return nil, err
		}
	}
	var found []dataflow.Job
	for _, j := range s.jobs {
		if j.Name == name {
			listed := *j
			listed.Labels = nil
			found = append(found, listed)
		}
	}
	if len(found) > 0 && s.lag > 0 {
		s.lag--
		return nil, nil
	}
	return found, nil
}

// List lists the active jobs but for those that it lags behind with.
func (s *service) List(context.Context, string, string) ([]dataflow.Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.call("list")
	if s.onList != nil {
		if err := s.onList(n); err != nil {
			return nil, err
		}
	}
	var listed []dataflow.Job
	for _, j := range s.jobs {
		if !j.State.Terminal() && !s.unlisted[j.ID] {
			l := *j
			l.Labels = nil
			listed = append(listed, l)
		}
	}
	return listed, nil
}

func (s *service) Get(ctx context.Context, _, _, id string) (dataflow.Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.call("get")
	if s.hangs != nil && s.hangs(id) {
		<-ctx.Done()
		return dataflow.Job{}, ctx.Err()
	}
	if s.onGet != nil {
		if err := s.onGet(n, id); err != nil {
			return dataflow.Job{}, err
		}
	}
	if j := s.job(id); j != nil {
		return *j, nil
	}
	return dataflow.Job{}, refusal(dataflow.KindNotFound, "no such job")
}

func (s *service) job(id string) *dataflow.Job {
	for _, j := range s.jobs {
		if j.ID == id {
			return j
		}
	}
	return nil
}

func (s *service) Cancel(_ context.Context, _, _, id string, force bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.call("cancel")
	if force {
		s.call("force")
	}
	if s.onCancel != nil {
		if err := s.onCancel(n, force); err != nil {
			return err
		}
	}
	j := s.job(id)
	if s.stopped != nil {
		s.stopped(j)
		return nil
	}
	s.set(j, dataflow.StateCancelled)
	return nil
}

func (s *service) Drain(_ context.Context, _, _, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call("drain")
	if s.onDrain != nil {
		if err := s.onDrain(); err != nil {
			return err
		}
	}
	j := s.job(id)
	if s.stopped != nil {
		s.stopped(j)
		return nil
	}
	s.set(j, dataflow.StateDrained)
	return nil
}

// set changes a job's state; the caller holds the lock.
func (s *service) set(j *dataflow.Job, state dataflow.State) {
	j.State, j.StateTime = state, s.now()
}

func (s *service) Metrics(context.Context, string, string, string) (dataflow.Metrics, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call("metrics")
	return dataflow.Metrics{Counters: s.metrics}, s.unread.metrics
}

func (s *service) FirstError(context.Context, string, string, string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call("messages")
	return s.errText, s.unread.messages
}

func refusal(kind dataflow.Kind, message string) error {
	return &dataflow.Error{Op: "test", Kind: kind, Message: message}
}

// executions stands in for Temporal's API: it knows which workflows are closed.
type executions struct {
	mu         sync.Mutex
	closed     map[string]bool
	workflows  map[string]*execution // nil: every workflow is open that is not closed
	terminated []string
	described  []string
	asks       []runs.SweepAsk
	signals    []signalled
	onDescribe func(n int, id string) error
	onAsk      func(n int) error
	onSignal   func(id string, s runs.JobStatus) error
	onStart    func(n int) error
	lost       bool // a start that onStart refuses is carried out all the same
	starts     int
	overdue    []string // IDs of runs that visibility finds
	query      string   // the last one
}

// execution is the newest one of a workflow ID.
type execution struct {
	open   bool
	parent string
	typ    string
	input  any
	memo   map[string]any
	queue  string
}

type signalled struct {
	id     string
	status runs.JobStatus
}

func (e *executions) DescribeWorkflowExecution(_ context.Context, id, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.described = append(e.described, id)
	if e.onDescribe != nil {
		if err := e.onDescribe(len(e.described), id); err != nil {
			return nil, err
		}
	}
	info := &workflowpb.WorkflowExecutionInfo{Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING}
	w, ok := e.workflows[id]
	switch {
	case e.workflows != nil && !ok:
		return nil, serviceerror.NewNotFound("workflow not found for ID: " + id)
	case ok && !w.open, e.closed[id]:
		info.Status = enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED
	}
	if ok && w.parent != "" {
		info.ParentExecution = &commonpb.WorkflowExecution{WorkflowId: w.parent}
	}
	if ok {
		info.Memo = &commonpb.Memo{Fields: map[string]*commonpb.Payload{}}
		for k, v := range w.memo {
			p, err := converter.GetDefaultDataConverter().ToPayload(v)
			if err != nil {
				return nil, err
			}
			info.Memo.Fields[k] = p
		}
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: info}, nil
}

func (e *executions) SignalWithStartWorkflow(_ context.Context, id, name string, arg any, o client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ask, isAsk := arg.(runs.SweepAsk)
	in, isSweep := args[0].(runs.SweepInput)
	if !isAsk || !isSweep || workflow != runs.TypeSweep || name != runs.SignalAsk || o.TaskQueue != "penstock-dev" ||
		id != runs.SweepWorkflowID(in.Deployment, in.Project, in.Location) || in.Version != runs.RecordVersion || ask.Version != runs.RecordVersion {
		return nil, fmt.Errorf("signal %s to %s with start of %v: %+v, %+v", name, id, workflow, arg, args)
	}
	e.asks = append(e.asks, ask)
	if e.onAsk != nil {
		return nil, e.onAsk(len(e.asks))
	}
	return nil, nil
}

func (e *executions) SignalWorkflow(_ context.Context, id, _, name string, arg any) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	status, ok := arg.(runs.JobStatus)
	if !ok || name != runs.SignalStatus {
		return fmt.Errorf("signal %s: %+v", name, arg)
	}
	if e.onSignal != nil {
		if err := e.onSignal(id, status); err != nil {
			return err
		}
	}
	if w, ok := e.workflows[id]; e.workflows != nil && (!ok || !w.open) {
		return serviceerror.NewNotFound("workflow execution already completed")
	}
	e.signals = append(e.signals, signalled{id, status})
	return nil
}

func (e *executions) ExecuteWorkflow(_ context.Context, o client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.starts++
	var err error
	if e.onStart != nil {
		err = e.onStart(e.starts)
	}
	if err != nil && !e.lost {
		return nil, err
	}
	if w, ok := e.workflows[o.ID]; ok && w.open {
		return nil, serviceerror.NewWorkflowExecutionAlreadyStarted("already started", "", "")
	}
	e.workflows[o.ID] = &execution{open: true, typ: workflow.(string), input: args[0], memo: o.Memo, queue: o.TaskQueue}
	return nil, err
}

func (e *executions) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.query = r.GetQuery()
	list := &workflowservice.ListWorkflowExecutionsResponse{}
	for _, id := range e.overdue {
		list.Executions = append(list.Executions, &workflowpb.WorkflowExecutionInfo{Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
	}
	return list, nil
}

func (e *executions) TerminateWorkflow(_ context.Context, id, _, _ string, _ ...any) error {
	e.terminated = append(e.terminated, id)
	if id == "gone" {
		return serviceerror.NewNotFound("workflow execution already completed")
	}
	return nil
}
