package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/runs"
)

const (
	simulatedRun   = "dev/orders/k"
	simulatedSweep = "dev/sweep/" + project + "/" + location

	signalAskFor = "simulation-ask"   // asks for a sweep: runs.SweepAsk
	signalStart  = "simulation-start" // starts a workflow: simulatedStart
)

// simulatedExecution is what Temporal tells of the newest execution of a workflow.
type simulatedExecution struct {
	open   bool
	parent string
	memo   any
}

// simulatedStart is a start that no workflow of ours makes.
type simulatedStart struct {
	ID, Kind string
	Input    runs.JobInput
}

// server is the environment's root. It starts what has no parent in truth: the run,
// sweeps, and what sweeps start. It is there for longer than all of them.
func (s *simulation) server(ctx workflow.Context, kind string, in runs.RunInput) error {
	open, _ := workflow.NewDisconnectedContext(ctx)
	child := func(ctx workflow.Context, id string) workflow.Context {
		return workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
			WorkflowID: id, WaitForCancellation: true,
			ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON, WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		})
	}
	workflow.Go(open, func(ctx workflow.Context) {
		for swept := false; ; {
			var ask runs.SweepAsk
			workflow.GetSignalChannel(ctx, signalAskFor).Receive(ctx, &ask)
			tell := func() error {
				return workflow.SignalExternalWorkflow(ctx, simulatedSweep, "", runs.SignalAsk, ask).Get(ctx, nil)
			}
			if swept && tell() == nil {
				continue
			}
			swept = true
			f := workflow.ExecuteChildWorkflow(child(ctx, simulatedSweep), runs.TypeSweep, runs.SweepInput{Version: runs.RecordVersion, Place: place})
			if err := errors.Join(f.GetChildWorkflowExecution().Get(ctx, nil), tell()); err != nil {
				s.violate("the sweep does not start: %v", err)
			}
		}
	})
	workflow.Go(open, func(ctx workflow.Context) {
		for {
			var start simulatedStart
			workflow.GetSignalChannel(ctx, signalStart).Receive(ctx, &start)
			workflow.ExecuteChildWorkflow(child(ctx, start.ID), start.Kind, start.Input)
		}
	})
	s.err = workflow.ExecuteChildWorkflow(child(ctx, simulatedRun), kind, in).Get(open, &s.result)
	s.over, s.ended = true, max(s.ended, s.elapsed())
	if s.terminated == 0 {
		s.checkEnd()
	}
	_ = workflow.Sleep(open, 90*time.Minute) // what was on its way arrives
	s.ask(runs.SweepAsk{})                   //workflowcheck:ignore
	for {
		if _ = workflow.Sleep(open, 30*time.Minute); s.open == 0 {
			return nil
		}
	}
}

// opened is called when a workflow begins, and closed when it has ended.
func (s *simulation) opened(info *workflow.Info) {
	id := info.WorkflowExecution.ID
	s.open++
	e := &simulatedExecution{open: true}
	if by := info.ParentWorkflowExecution; by != nil && by.ID == simulatedRun {
		e.parent = by.ID
	} else if before := s.executions[id]; before != nil && before.open {
		e.memo = before.memo // its start was answered already
	}
	s.executions[id] = e
	if id == simulatedSweep {
		s.meet(sightSwept)
	}
	if step := s.byID[id]; step != nil {
		step.started(info.WorkflowExecution)
	}
}

func (s *simulation) closed(info *workflow.Info, err error) {
	id := info.WorkflowExecution.ID
	e := s.executions[id]
	e.open = false
	s.open--
	if id == simulatedSweep && err != nil {
		s.violate("a sweep failed: %v", err)
	}
	if e.parent != "" {
		s.ended = max(s.ended, s.elapsed())
	}
	if step := s.byID[id]; step != nil {
		step.closed(err)
	}
}

// ask asks for a sweep.
func (s *simulation) ask(ask runs.SweepAsk) { s.env.SignalWorkflow(signalAskFor, ask) }

// simulatedTemporal is Temporal's API on top of the environment.
type simulatedTemporal simulation

// call begins a call: it takes time, and may fail.
func (c *simulatedTemporal) call(ctx context.Context) (*simulation, *task, error) {
	s, t := (*simulation)(c), taskOf(ctx)
	t.pause(t.step.between(0, time.Second))
	if t.expired {
		return s, t, context.DeadlineExceeded
	}
	if t.step.chance(s.plan.weather.transient) {
		return s, t, serviceerror.NewUnavailable("Temporal is unavailable")
	}
	return s, t, nil
}

func (c *simulatedTemporal) DescribeWorkflowExecution(ctx context.Context, id, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	s, _, err := c.call(ctx)
	if err != nil {
		return nil, err
	}
	e := s.executions[id]
	if e == nil {
		return nil, serviceerror.NewNotFound("workflow not found")
	}
	info := &workflowpb.WorkflowExecutionInfo{Status: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED}
	if e.open {
		info.Status = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	}
	if e.parent != "" {
		info.ParentExecution = &commonpb.WorkflowExecution{WorkflowId: e.parent}
	}
	if e.memo != nil {
		p, err := converter.GetDefaultDataConverter().ToPayload(e.memo)
		if err != nil {
			return nil, err
		}
		info.Memo = &commonpb.Memo{Fields: map[string]*commonpb.Payload{runs.MemoOrphan: p}}
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: info}, nil
}

func (c *simulatedTemporal) SignalWithStartWorkflow(ctx context.Context, _, _ string, arg any, _ client.StartWorkflowOptions, _ any, _ ...any) (client.WorkflowRun, error) {
	s, t, err := c.call(ctx)
	if err != nil {
		return nil, err
	}
	ask, ok := arg.(runs.SweepAsk)
	if !ok {
		return nil, fmt.Errorf("asked with %+v", arg)
	}
	s.note(t.step.actor, "asks for a sweep")
	s.ask(ask)
	return nil, nil
}

func (c *simulatedTemporal) SignalWorkflow(ctx context.Context, id, _, name string, arg any) error {
	s, t, err := c.call(ctx)
	if err != nil {
		return err
	}
	status, ok := arg.(runs.JobStatus)
	if e := s.executions[id]; !ok || e == nil || !e.open || s.env.SignalWorkflowByID(id, name, status) != nil {
		return serviceerror.NewNotFound("workflow execution already completed")
	}
	s.note(t.step.actor, "the sweep tells that job %s is %s", status.JobID, status.State)
	return nil
}

func (c *simulatedTemporal) ExecuteWorkflow(ctx context.Context, o client.StartWorkflowOptions, kind any, args ...any) (client.WorkflowRun, error) {
	s, t, err := c.call(ctx)
	if err != nil {
		return nil, err
	}
	if e := s.executions[o.ID]; e != nil && e.open {
		return nil, serviceerror.NewWorkflowExecutionAlreadyStarted("already started", "", "")
	}
	in, _ := args[0].(runs.JobInput)
	typ, _ := kind.(string)
	if in.Resume == nil {
		return nil, fmt.Errorf("start of %v with %+v", kind, args)
	}
	s.meet(sightAdopted)
	s.note(t.step.actor, "a workflow is started for the orphan %s", in.Resume.JobID)
	s.checkOrphan(in.Resume.JobID)
	s.executions[o.ID] = &simulatedExecution{open: true, memo: o.Memo[runs.MemoOrphan]}
	s.env.SignalWorkflow(signalStart, simulatedStart{o.ID, typ, in})
	if j := s.job(in.Resume.JobID); in.Resume.Stop == nil && j != nil {
		s.after(s.world, 3*time.Hour, func() { s.change(j, dataflow.StateCancelled) }) // nobody watches for ever
	}
	if t.step.chance(s.plan.weather.lost) {
		s.meet(sightAdoptLost)
		return nil, serviceerror.NewUnavailable("connection reset")
	}
	return nil, nil
}

func (c *simulatedTemporal) ListWorkflow(context.Context, *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	return &workflowservice.ListWorkflowExecutionsResponse{}, nil
}

func (c *simulatedTemporal) TerminateWorkflow(context.Context, string, string, string, ...any) error {
	(*simulation)(c).violate("a workflow of this execution was terminated as if it were an earlier one's")
	return nil
}

// sweepLog takes what sweeps find.
type sweepLog simulation

func (l *sweepLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *sweepLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *sweepLog) WithGroup(string) slog.Handler            { return l }

func (l *sweepLog) Handle(_ context.Context, r slog.Record) error {
	s := (*simulation)(l)
	found, id := false, ""
	r.Attrs(func(a slog.Attr) bool {
		found = found || a.Key == "finding" && a.Value.String() == "orphan"
		if a.Key == "jobId" {
			id = a.Value.String()
		}
		return true
	})
	if found {
		s.note(s.sweeper, "%s", r.Message)
		s.checkOrphan(id)
	}
	return nil
}
