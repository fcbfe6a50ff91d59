package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
)

// What follows is what people do to workflows with Temporal's own tools.

// JobWorkflow is the ID of the workflow that launches and watches a job.
func JobWorkflow(jobName string) string {
	return "dataflow/" + Project + "/" + Location + "/" + jobName
}

// each does something for every event, some at a time, and gives all that went wrong.
func each(events []Event, do func(Event) error) error {
	const atOnce = 8
	var (
		wg    sync.WaitGroup
		slots = make(chan struct{}, atOnce)
		errs  = make([]error, len(events))
	)
	for i, e := range events {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(e)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Terminate ends the open execution of a workflow without asking it.
func (b *Bench) Terminate(ctx context.Context, workflowID string) error {
	if err := b.Temporal.TerminateWorkflow(ctx, workflowID, "", "by the scenario "+b.name); err != nil {
		return fmt.Errorf("terminate %s: %w", workflowID, err)
	}
	return nil
}

// Cancel asks a run to stop.
func (b *Bench) Cancel(ctx context.Context, e Event) error {
	if err := b.Temporal.CancelWorkflow(ctx, e.RunID(), ""); err != nil {
		return fmt.Errorf("cancel %s: %w", e.RunID(), err)
	}
	return nil
}

// Reset sets a run back to the end of the first workflow task that follows an event of
// the type.
func (b *Bench) Reset(ctx context.Context, e Event, after enumspb.EventType) error {
	id := e.RunID()
	var point int64
	err := b.Await(ctx, fmt.Sprintf("%s has a point to be reset to after %s", id, after), func() (bool, error) {
		events, err := b.history(ctx, id, "")
		seen := false
		for _, h := range events {
			seen = seen || h.GetEventType() == after
			if seen && h.GetEventType() == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
				point = h.GetEventId()
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		return err
	}
	execution, _, err := b.execution(ctx, id)
	if err != nil {
		return err
	}
	_, err = b.Temporal.ResetWorkflowExecution(ctx, &workflowservice.ResetWorkflowExecutionRequest{
		Namespace:                 b.Addresses.Namespace,
		WorkflowExecution:         &commonpb.WorkflowExecution{WorkflowId: id, RunId: execution},
		Reason:                    "by the scenario " + b.name,
		WorkflowTaskFinishEventId: point,
		RequestId:                 fmt.Sprintf("%s-%d", b.name, b.next()),
	})
	if err != nil {
		return fmt.Errorf("reset %s: %w", id, err)
	}
	return nil
}

// Forget deletes closed workflows, as Temporal does when its retention has passed, and
// waits until they are gone.
func (b *Bench) Forget(ctx context.Context, workflowIDs []string) error {
	for _, id := range workflowIDs {
		_, err := b.Temporal.WorkflowService().DeleteWorkflowExecution(ctx, &workflowservice.DeleteWorkflowExecutionRequest{
			Namespace: b.Addresses.Namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: id},
		})
		if err != nil {
			return fmt.Errorf("delete %s: %w", id, err)
		}
	}
	for _, id := range workflowIDs {
		if err := b.Await(ctx, "Temporal forgets "+id, func() (bool, error) {
			_, _, err := b.execution(ctx, id)
			return isGone(err), nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func isGone(err error) bool {
	var gone *serviceerror.NotFound
	return errors.As(err, &gone)
}

// execution is the run ID and status of a workflow's newest execution.
func (b *Bench) execution(ctx context.Context, workflowID string) (string, enumspb.WorkflowExecutionStatus, error) {
	d, err := b.Temporal.DescribeWorkflowExecution(ctx, workflowID, "")
	if err != nil {
		return "", 0, fmt.Errorf("describe %s: %w", workflowID, err)
	}
	info := d.GetWorkflowExecutionInfo()
	return info.GetExecution().GetRunId(), info.GetStatus(), nil
}

// history is all that is in the history of a workflow's execution now; no run ID means
// the newest one.
func (b *Bench) history(ctx context.Context, workflowID, execution string) ([]*historypb.HistoryEvent, error) {
	var all []*historypb.HistoryEvent
	for it := b.Temporal.GetWorkflowHistory(ctx, workflowID, execution, false, 0); it.HasNext(); {
		h, err := it.Next()
		if err != nil {
			return nil, fmt.Errorf("read the history of %s: %w", workflowID, err)
		}
		all = append(all, h)
	}
	return all, nil
}

// AwaitRunsClosed waits until the run of each event is closed.
func (b *Bench) AwaitRunsClosed(ctx context.Context, events []Event) error {
	return each(events, func(e Event) error {
		return b.Await(ctx, e.RunID()+" is closed", func() (bool, error) {
			_, status, err := b.execution(ctx, e.RunID())
			return err == nil && status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, err
		})
	})
}

// closedRecord is the evidence once all runs are closed. Temporal's lists, of which it
// is made, lag behind what Temporal tells of a single run.
func (b *Bench) closedRecord(ctx context.Context) (Record, error) {
	if err := b.AwaitClosed(ctx); err != nil {
		return Record{}, err
	}
	return b.Record(ctx)
}

// AwaitJobKnown waits until the workflow of a step's first job has had the answer to its
// launch, in an execution that is not among those before.
func (b *Bench) AwaitJobKnown(ctx context.Context, events []Event, step string, before map[string]bool) error {
	return each(events, func(e Event) error {
		id := JobWorkflow(e.JobName(step, 1))
		return b.Await(ctx, id+" knows its job", func() (bool, error) {
			execution, _, err := b.execution(ctx, id)
			if err != nil || before[execution] {
				return false, err
			}
			events, err := b.history(ctx, id, execution)
			for _, h := range events {
				if h.GetEventType() == enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED {
					return true, nil
				}
			}
			return false, err
		})
	})
}

// executions are the run IDs of the newest executions of the workflows of a step's first jobs.
func (b *Bench) executions(ctx context.Context, events []Event, step string) (map[string]bool, error) {
	var mu sync.Mutex
	known := map[string]bool{}
	err := each(events, func(e Event) error {
		execution, _, err := b.execution(ctx, JobWorkflow(e.JobName(step, 1)))
		mu.Lock()
		defer mu.Unlock()
		known[execution] = true
		return err
	})
	return known, err
}

// ForgetJobs makes Dataflow forget all jobs, as it does after 30 days. The ledger keeps them.
func (b *Bench) ForgetJobs(ctx context.Context) error {
	b.Say("Dataflow forgets its jobs")
	return inTurn(
		func() error { return b.Kill("dataflow") },
		func() error {
			b.mu.Lock()
			defer b.mu.Unlock()
			aside := fmt.Sprintf("%s.%d", b.LaunchLedger(), len(b.forgotten)+1)
			b.forgotten = append(b.forgotten, aside)
			return os.Rename(b.LaunchLedger(), aside)
		},
		func() error { return b.Start(ctx, "dataflow") },
	)
}
