package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/api/errordetails/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/runs"
)

// What Temporal tells of a workflow.
const (
	workflowOpen    = "open"
	workflowClosed  = "closed"
	workflowUnknown = "unknown"
)

// unknownWorkflow says whether Temporal itself answered that it has no such workflow,
// or no open one. A missing namespace is another type, and a bare status of a proxy in
// between lacks the detail of Temporal's own answer: neither says anything of a workflow.
func unknownWorkflow(err error) bool {
	var notFound *serviceerror.NotFound
	if !errors.As(err, &notFound) {
		return false
	}
	for _, detail := range notFound.Status().Details() {
		if _, ok := detail.(*errordetails.NotFoundFailure); ok {
			return true
		}
	}
	return false
}

// look asks what became of the newest execution of a workflow.
func (a *Activities) look(ctx context.Context, id string) (string, *workflowservice.DescribeWorkflowExecutionResponse, error) {
	d, err := a.Temporal.DescribeWorkflowExecution(ctx, id, "")
	switch {
	case unknownWorkflow(err):
		return workflowUnknown, nil, nil
	case err != nil:
		return "", nil, fmt.Errorf("describe the workflow %s: %w", id, err)
	}
	switch d.GetWorkflowExecutionInfo().GetStatus() {
	case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED,
		enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
		return workflowClosed, d, nil
	}
	return workflowOpen, d, nil // a paused one goes on
}

// orphanMemo is what an earlier sweep left in the memo of the workflow that it started.
func orphanMemo(d *workflowservice.DescribeWorkflowExecutionResponse) runs.OrphanMemo {
	var memo runs.OrphanMemo
	if p := d.GetWorkflowExecutionInfo().GetMemo().GetFields()[runs.MemoOrphan]; p != nil {
		_ = decode(p, &memo) // what is no memo of ours names no run
	}
	return memo
}

func decode(p *commonpb.Payload, to any) error {
	return converter.GetDefaultDataConverter().FromPayload(p, to)
}

// verdict is what a look made of a job.
type verdict struct {
	orphan  runs.Orphan
	is      bool   // an orphan, at this look
	why     string // it is none
	adopted string // the execution of the sweep that started the open workflow; empty: none did
}

// judge looks at a job's workflow, at its run, and then at the job: it is an orphan
// when the first two are closed or unknown, and the last, seen after them, is active
// and carries our label.
func (a *Activities) judge(ctx context.Context, at runs.Place, label string, job listedJob) (verdict, error) {
	var v verdict
	id := runs.JobWorkflowID(at.Project, at.Location, job.Name)
	state, d, err := a.look(ctx, id)
	if err != nil {
		return v, err
	}
	memo := orphanMemo(d)
	if state == workflowOpen {
		v.why, v.adopted = "its workflow is open", memo.Sweep
		return v, nil
	}
	v.orphan = runs.Orphan{JobID: job.ID, JobName: job.Name, Workflow: state, Run: workflowUnknown}
	v.orphan.RunID = d.GetWorkflowExecutionInfo().GetParentExecution().GetWorkflowId()
	if v.orphan.RunID == "" {
		v.orphan.RunID = memo.RunID
	}
	if v.orphan.RunID != "" {
		if v.orphan.Run, _, err = a.look(ctx, v.orphan.RunID); err != nil {
			return v, err
		}
		if v.orphan.Run == workflowOpen {
			v.why = "its run is open"
			return v, nil
		}
	}
	seen, err := a.Dataflow.Get(ctx, at.Project, at.Location, job.ID)
	switch {
	case dataflow.KindOf(err) == dataflow.KindNotFound:
		v.why = "Dataflow knows no such job"
		return v, nil
	case err != nil:
		return v, err
	case seen.State.Terminal():
		v.why = "it is over"
	case seen.Name != job.Name || seen.Labels[runs.LabelDeployment] != label:
		v.why = "it does not carry this deployment's label"
	default:
		v.is = true
	}
	v.orphan.State, v.orphan.StateTime, v.orphan.Type = string(seen.State), seen.StateTime, string(seen.Type)
	v.orphan.Created, v.orphan.Pipeline = seen.CreateTime, seen.Labels[runs.LabelPipeline]
	return v, nil
}

// suspectRequest is the input of suspect.
type suspectRequest struct {
	runs.Place
	Jobs []listedJob `json:"jobs"`
}

// suspectReply is the output of suspect.
type suspectReply struct {
	trouble
	Done    int           `json:"done"` // so many of the jobs, from the first
	Orphans []runs.Orphan `json:"orphans,omitempty"`
}

// suspect says which of the jobs are orphans at this look.
func (a *Activities) suspect(ctx context.Context, req suspectRequest) (suspectReply, error) {
	ctx, cancel := toldInTime(ctx)
	defer cancel()
	var reply suspectReply
	namespace, err := a.NamespaceID(ctx)
	if err != nil {
		reply.trouble = troubleOf(err)
		return reply, nil
	}
	label := runs.DeploymentLabel(req.Deployment, namespace)
	for _, job := range req.Jobs {
		if !hasTime(ctx) {
			break
		}
		v, err := a.judge(ctx, req.Place, label, job)
		if err != nil {
			reply.trouble = troubleOf(err)
			return reply, nil
		}
		if v.is {
			reply.Orphans = append(reply.Orphans, v.orphan)
		}
		reply.Done++
	}
	return reply, nil
}

// settleRequest is the input of settle.
type settleRequest struct {
	runs.Place
	Orphans []runs.Orphan   `json:"orphans"`
	Rule    runs.OrphanRule `json:"rule"`
	Timing  runs.Timing     `json:"timing"`
	Sweep   string          `json:"sweep"` // the sweep's execution
}

// doneNone is what was done about an orphan that turned out to be none.
const doneNone = "none"

// settle does with orphans what the rule says, and logs it.
func (a *Activities) settle(ctx context.Context, req settleRequest) (suspectReply, error) {
	ctx, cancel := toldInTime(ctx)
	defer cancel()
	var reply suspectReply
	namespace, err := a.NamespaceID(ctx)
	if err != nil {
		reply.trouble = troubleOf(err)
		return reply, nil
	}
	label := runs.DeploymentLabel(req.Deployment, namespace)
	for _, o := range req.Orphans {
		if !hasTime(ctx) {
			break
		}
		if o, err = a.settleOne(ctx, req, label, o); err != nil {
			reply.trouble = troubleOf(err)
			return reply, nil
		}
		reply.Orphans = append(reply.Orphans, o)
		reply.Done++
	}
	return reply, nil
}

func (a *Activities) settleOne(ctx context.Context, req settleRequest, label string, o runs.Orphan) (runs.Orphan, error) {
	if req.Rule != runs.OrphansReport {
		// An earlier call may have done it, and things may have changed since.
		v, err := a.judge(ctx, req.Place, label, listedJob{o.JobID, o.JobName})
		switch {
		case err != nil:
			return o, err
		case v.adopted == req.Sweep && req.Sweep != "":
			// An earlier call did.
		case !v.is:
			o.Done, o.Note = doneNone, v.why
			return o, nil
		default:
			o = v.orphan
			if err := a.adopt(ctx, req, o); err != nil {
				return o, err
			}
		}
	}
	o.Done = string(req.Rule)
	a.log().Warn(fmt.Sprintf("orphan: nobody watches job %s (%s)", o.JobName, o.JobID),
		"finding", "orphan", "action", o.Done, "deployment", req.Deployment, "project", req.Project, "location", req.Location,
		"jobName", o.JobName, "jobId", o.JobID, "jobState", o.State, "jobType", o.Type, "pipeline", o.Pipeline,
		"runId", o.RunID, "jobWorkflow", o.Workflow, "run", o.Run, "created", o.Created.Format(time.RFC3339))
	return o, nil
}

// adopt starts a workflow under the job's own ID that watches it to its end, and ends
// it where the rule says so. The server refuses that while one is open there: whatever
// happened since the last look, no job is taken from a workflow that has it.
func (a *Activities) adopt(ctx context.Context, req settleRequest, o runs.Orphan) error {
	streaming := o.Type == string(dataflow.TypeStreaming)
	in := runs.JobInput{
		Version: runs.RecordVersion, Deployment: req.Deployment, Pipeline: o.Pipeline, Attempt: 1,
		Project: req.Project, Location: req.Location, JobName: o.JobName, Begun: o.Created, Timing: req.Timing, Sweep: true,
		Resume: &runs.JobState{
			JobID: o.JobID, State: o.State, StateTime: o.StateTime, Type: o.Type, Adopted: true, Begun: o.Created,
			Announced: true, // there is no run to tell
		},
	}
	in.Job.Streaming = streaming
	switch req.Rule {
	case runs.OrphansDrain:
		in.Resume.Stop = &runs.Stop{Reason: runs.StopOrphan}
	case runs.OrphansCancel:
		in.Resume.Stop = &runs.Stop{Reason: runs.StopOrphan, NoDrain: true}
	}
	kind := runs.TypeJob
	if streaming {
		kind = runs.TypeStreamingJob
	}
	id := runs.JobWorkflowID(req.Project, req.Location, o.JobName)
	_, err := a.Temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: id, TaskQueue: runs.TaskQueue(req.Deployment),
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            "an orphan: " + string(req.Rule),
		Memo:                                     map[string]any{runs.MemoOrphan: runs.OrphanMemo{Sweep: req.Sweep, RunID: o.RunID}},
	}, kind, in)
	if err != nil {
		// Also when one is open now: the next call looks again, and sees whose it is.
		return fmt.Errorf("start the workflow %s for the orphan %s: %w", id, o.JobID, err)
	}
	return nil
}

// overdueRequest is the input of overdue.
type overdueRequest struct {
	runs.Place
	Before time.Time     `json:"before"` // runs that began before are overdue
	Limit  time.Duration `json:"limit"`
}

// overdueReply is the output of overdue.
type overdueReply struct {
	Runs []runs.OverdueRun `json:"runs,omitempty"`
	More bool              `json:"more,omitempty"`
}

// overdue names the batch runs of the deployment that are open since before a time, and
// logs them. It only reports, so that visibility's word will do.
func (a *Activities) overdue(ctx context.Context, req overdueRequest) (overdueReply, error) {
	list, err := a.Temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		PageSize: mostOverdue,
		Query: fmt.Sprintf("TaskQueue = '%s' AND WorkflowType = '%s' AND ExecutionStatus = 'Running' AND StartTime < '%s'",
			runs.TaskQueue(req.Deployment), runs.TypeRun, req.Before.UTC().Format(time.RFC3339)),
	})
	if err != nil {
		return overdueReply{}, fmt.Errorf("list the runs that began before %s: %w", req.Before.UTC().Format(time.RFC3339), err)
	}
	reply := overdueReply{More: len(list.GetNextPageToken()) > 0}
	for _, e := range list.GetExecutions() {
		r := runs.OverdueRun{RunID: e.GetExecution().GetWorkflowId(), Begun: e.GetStartTime().AsTime()}
		reply.Runs = append(reply.Runs, r)
		_, pipeline, _, _, _ := runs.ParseRunID(r.RunID)
		a.log().Warn(fmt.Sprintf("overdue: run %s is open for longer than %v", r.RunID, req.Limit),
			"finding", "overdue", "deployment", req.Deployment, "pipeline", pipeline, "runId", r.RunID, "begun", r.Begun.Format(time.RFC3339))
	}
	return reply, nil
}
