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

	"github.com/penstock/penstock/dataflow"
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
	onCancel func(n int, force bool) error
	lost     bool // a launch that onLaunch refuses is carried out all the same
	lag      int  // so many looks by name see nothing of the jobs that there are
	typ      dataflow.JobType
	errText  string
	metrics  map[string]int64
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

func (s *service) Get(_ context.Context, _, _, id string) (dataflow.Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call("get")
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
	return dataflow.Metrics{Counters: s.metrics}, nil
}

func (s *service) FirstError(context.Context, string, string, string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call("messages")
	return s.errText, nil
}

func refusal(kind dataflow.Kind, message string) error {
	return &dataflow.Error{Op: "test", Kind: kind, Message: message}
}

// executions stands in for Temporal's API: it knows which runs are closed.
type executions struct {
	closed     map[string]bool
	terminated []string
}

func (e *executions) DescribeWorkflowExecution(_ context.Context, id, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	status := enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	if closed, ok := e.closed[id]; ok && closed {
		status = enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{Status: status}}, nil
}

func (e *executions) TerminateWorkflow(_ context.Context, id, _, _ string, _ ...any) error {
	e.terminated = append(e.terminated, id)
	if id == "gone" {
		return serviceerror.NewNotFound("workflow execution already completed")
	}
	return nil
}
