package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/runs"
)

// Activity types, as histories hold them.
const (
	activityLaunch = "LaunchJob"
	activityCheck  = "CheckJob"
	activityStop   = "StopJob"
	activityReport = "ReportJob"
	activityEnd    = "EndJobWorkflow"
	activityClaim  = "ClaimKey"
	activityFinish = "FinishRecord"
)

// launchMargin is what must be left of an activity's time for a launch to be
// written: a write that begins at the deadline would end after it, when the workflow
// has already drawn its conclusions.
const launchMargin = 2 * time.Second

// Dataflow is the part of dataflow.Client that the activities use.
type Dataflow interface {
	Launch(ctx context.Context, l dataflow.Launch) (dataflow.Job, error)
	Find(ctx context.Context, project, location, name string) ([]dataflow.Job, error)
	List(ctx context.Context, project, location string) ([]dataflow.Job, error)
	Get(ctx context.Context, project, location, jobID string) (dataflow.Job, error)
	Cancel(ctx context.Context, project, location, jobID string, force bool) error
	Drain(ctx context.Context, project, location, jobID string) error
	Metrics(ctx context.Context, project, location, jobID string) (dataflow.Metrics, error)
	FirstError(ctx context.Context, project, location, jobID string) (string, error)
}

// Temporal is the part of client.Client that the activities use.
type Temporal interface {
	DescribeWorkflowExecution(ctx context.Context, workflowID, runID string) (*workflowservice.DescribeWorkflowExecutionResponse, error)
	TerminateWorkflow(ctx context.Context, workflowID, runID, reason string, details ...any) error
	SignalWorkflow(ctx context.Context, workflowID, runID, signalName string, arg any) error
	ExecuteWorkflow(ctx context.Context, options client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error)
	ListWorkflow(ctx context.Context, request *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error)
	runs.Asker
}

// Activities call Dataflow and Temporal, each once: the workflows repeat.
type Activities struct {
	Dataflow Dataflow
	Temporal Temporal
	// NamespaceID is the UUID of the Temporal namespace; it is asked until it answers.
	NamespaceID func(ctx context.Context) (string, error)
	// Ledger holds claims and final records; nil: there is none.
	Ledger Ledger
	// Daily sees to it that a place has its daily look, which it may have: Daily of
	// this package. Nil: it has none.
	Daily func(ctx context.Context, at runs.Place) error
	// Log takes what the sweep finds; nil: nothing does.
	Log *slog.Logger

	daily daily
}

func (a *Activities) log() *slog.Logger {
	if a.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return a.Log
}

// launchRequest is the input of launch.
type launchRequest struct {
	Job runs.JobInput `json:"job"`
	// Hints are job IDs that status events named: they are looked at first.
	Hints []string `json:"hints,omitempty"`
	// LookOnly forbids to write.
	LookOnly bool `json:"lookOnly,omitempty"`
}

// What launch can answer.
const (
	replyLaunched   = "launched"   // this call made the job
	replyAdopted    = "adopted"    // the job was there
	replyNone       = "none"       // LookOnly, and no job was seen
	replyUnanswered = "unanswered" // the job may exist, or come to exist
	replyTransient  = "transient"  // nothing was done; it may be tried again
	replyQuota      = "quota"      // refused for want of quota
	replyRefused    = "refused"    // refused for good
)

// Reasons of replyRefused, as runs.JobResult.Refusal has them.
const (
	refusalInvalid    = "invalid"
	refusalPermission = "permission"
	refusalForeign    = "foreign"
	refusalMismatch   = "mismatch"
	refusalType       = "type"
	refusalRender     = "render"
)

// launchReply is the output of launch.
type launchReply struct {
	Kind    string `json:"kind"`
	Refusal string `json:"refusal,omitempty"`
	Message string `json:"message,omitempty"`
	// Unseen says, of replyRefused, that it was the look for the job that was refused:
	// whether there is one is not known, and no launch was tried.
	Unseen     bool              `json:"unseen,omitempty"`
	RetryAfter time.Duration     `json:"retryAfter,omitempty"`
	Job        jobView           `json:"job,omitzero"` // also of refusalMismatch: which has the name
	Parameters map[string]string `json:"parameters,omitempty"`
	SpecHash   string            `json:"specHash,omitempty"`
}

// jobView is what the workflows need to know of a job.
type jobView struct {
	ID         string    `json:"id,omitempty"`
	State      string    `json:"state,omitempty"`
	StateTime  time.Time `json:"stateTime,omitzero"`
	Type       string    `json:"type,omitempty"`
	ReplacedBy string    `json:"replacedBy,omitempty"`
	Created    time.Time `json:"created,omitzero"`
}

func view(j dataflow.Job) jobView {
	return jobView{ID: j.ID, State: string(j.State), StateTime: j.StateTime, Type: string(j.Type), ReplacedBy: j.ReplacedByJobID, Created: j.CreateTime}
}

// launch looks for the attempt's job and launches it where there is none: one look,
// one write. Every outcome is in its reply, so its error is always nil.
func (a *Activities) launch(ctx context.Context, req launchRequest) (launchReply, error) {
	return a.tryLaunch(ctx, req), nil
}

func (a *Activities) tryLaunch(ctx context.Context, req launchRequest) launchReply {
	in := req.Job
	a.arrangeDaily(ctx, runs.Place{Deployment: in.Deployment, Project: in.Project, Location: in.Location})
	namespace, err := a.NamespaceID(ctx)
	if err != nil {
		return launchReply{Kind: replyTransient, Message: err.Error()}
	}
	label := runs.DeploymentLabel(in.Deployment, namespace)
	job, err := in.Job.Render(in.Vars, in.Steps)
	switch {
	case err != nil && req.LookOnly:
		// A job that is there is found without knowing what this attempt would launch.
		return a.find(ctx, in, label, "", req.Hints)
	case err != nil:
		return launchReply{Kind: replyRefused, Refusal: refusalRender, Message: err.Error()}
	}
	launch := dataflow.Launch(in.Launch(job, label))
	spec := launch.SpecHash()
	launch.Labels[runs.LabelSpec] = spec
	reply := a.find(ctx, in, label, spec, req.Hints)
	if reply.Kind == replyNone && !req.LookOnly {
		reply = a.write(ctx, in, launch, label, spec)
	}
	reply.Parameters, reply.SpecHash = launch.Parameters, spec
	return reply
}

// find looks at the hinted jobs, then for jobs of the name in every state.
func (a *Activities) find(ctx context.Context, in runs.JobInput, label, spec string, hints []string) launchReply {
	for _, id := range hints {
		job, err := a.Dataflow.Get(ctx, in.Project, in.Location, id)
		switch kind := dataflow.KindOf(err); {
		case kind == dataflow.KindNotFound, kind == dataflow.KindInvalid: // what is no job's ID is not this one's
		case err != nil:
			return unseen(err)
		case job.Name == in.JobName && job.Labels[runs.LabelDeployment] == label:
			return owned(in, job, label, spec)
		}
	}
	listed, err := a.Dataflow.Find(ctx, in.Project, in.Location, in.JobName)
	if err != nil {
		return unseen(err)
	}
	// List entries have no labels, and one of several may be ours: look at each. An
	// active one speaks before those that are over.
	var best *launchReply
	for _, l := range listed {
		job, err := a.Dataflow.Get(ctx, in.Project, in.Location, l.ID)
		if dataflow.KindOf(err) == dataflow.KindNotFound {
			return launchReply{Kind: replyTransient, Message: err.Error()} // listed and not found: one of the two lags
		}
		if err != nil {
			return unseen(err)
		}
		r := owned(in, job, label, spec)
		if best == nil || r.Kind == replyAdopted && (best.Kind != replyAdopted || terminal(best.Job.State) && !job.State.Terminal()) {
			best = &r
		}
	}
	if best == nil {
		return launchReply{Kind: replyNone}
	}
	return *best
}

// unseen says in a reply what became of a look. A limit on reading is no quota of jobs.
func unseen(err error) launchReply {
	r := failure(err)
	if r.Kind == replyQuota {
		r.Kind = replyTransient
	}
	r.Unseen = r.Kind == replyRefused
	return r
}

// owned decides what a job under the attempt's name is to the attempt. An empty spec is any.
func owned(in runs.JobInput, job dataflow.Job, label, spec string) launchReply {
	r := launchReply{Kind: replyAdopted, Job: view(job)}
	refuse := func(refusal, format string, args ...any) {
		r = launchReply{Kind: replyRefused, Refusal: refusal, Message: fmt.Sprintf(format, args...)}
	}
	switch got := job.Labels[runs.LabelDeployment]; {
	case got != label:
		refuse(refusalForeign, "job %s in %s/%s has the name %s but the label %s=%q instead of %q: it belongs to something else and is left alone; give one of the two deployments another ID",
			job.ID, in.Project, in.Location, in.JobName, runs.LabelDeployment, got, label)
	case job.ReplaceJobID != "": // a streaming update's successor carries whatever labels it was given
	case spec != "" && job.Labels[runs.LabelSpec] != spec:
		refuse(refusalMismatch, "job %s runs under the name %s of this attempt with other contents: its template and parameters hash to %s, this attempt's to %s; look at the job, then cancel it or retry the run with its own configuration",
			job.ID, in.JobName, job.Labels[runs.LabelSpec], spec)
		r.Job = view(job)
	}
	return r
}

func (a *Activities) write(ctx context.Context, in runs.JobInput, launch dataflow.Launch, label, spec string) launchReply {
	// The workflow counts the horizon from this activity's deadline, so nothing may
	// be written later, by the wall clock: a process may have slept since it looked.
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < launchMargin {
		return launchReply{Kind: replyTransient, Message: fmt.Sprintf("the look for a job named %s took too long to launch one after it", in.JobName)}
	}
	job, err := a.Dataflow.Launch(ctx, launch)
	switch {
	case err == nil:
		return launchReply{Kind: replyLaunched, Job: view(job)}
	case errors.Is(err, dataflow.ErrAlreadyExists) && job.ID != "":
		// The API named the job that was there; whose it is its labels say.
		found, err := a.Dataflow.Get(ctx, in.Project, in.Location, job.ID)
		if err != nil {
			return launchReply{Kind: replyUnanswered, Message: err.Error()}
		}
		return owned(in, found, label, spec)
	case errors.Is(err, dataflow.ErrAlreadyExists):
		return launchReply{Kind: replyUnanswered, Message: err.Error()}
	}
	return failure(err)
}

// failure says in a reply what an error of the Dataflow API means.
func failure(err error) launchReply {
	r := launchReply{Message: err.Error()}
	var e *dataflow.Error
	if errors.As(err, &e) {
		r.RetryAfter = e.RetryAfter
	}
	switch dataflow.KindOf(err) {
	case dataflow.KindUnanswered:
		r.Kind = replyUnanswered
	case dataflow.KindQuota:
		r.Kind = replyQuota
	case dataflow.KindInvalid, dataflow.KindNotFound:
		r.Kind, r.Refusal = replyRefused, refusalInvalid
	case dataflow.KindPermission:
		r.Kind, r.Refusal = replyRefused, refusalPermission
	default:
		r.Kind = replyTransient
	}
	return r
}

// checkRequest is the input of check, and names the job in other inputs.
type checkRequest struct {
	Project  string `json:"project"`
	Location string `json:"location"`
	JobID    string `json:"jobId"`
	RunID    string `json:"runId,omitempty"`
}

// checkReply is the output of check and stop.
type checkReply struct {
	Job       jobView `json:"job,omitzero"`
	RunClosed bool    `json:"runClosed,omitempty"`
	// RunUnseen says that Temporal did not tell whether the run is open, and why.
	RunUnseen string `json:"runUnseen,omitempty"`
	// Asked is what stop asked Dataflow for, one of the asked constants.
	Asked string `json:"asked,omitempty"`
	// Forgotten says that Dataflow knows no such job.
	Forgotten bool `json:"forgotten,omitempty"`
}

// check looks once at the job and at the run that it belongs to.
func (a *Activities) check(ctx context.Context, req checkRequest) (checkReply, error) {
	var reply checkReply
	job, err := a.Dataflow.Get(ctx, req.Project, req.Location, req.JobID)
	switch {
	case dataflow.KindOf(err) == dataflow.KindNotFound:
		reply.Forgotten = true
	case err != nil:
		return reply, patient(err)
	default:
		reply.Job = view(job)
	}
	closed, err := a.runClosed(ctx, req.RunID)
	if err != nil {
		reply.RunUnseen = err.Error() // which takes nothing from what Dataflow said
	}
	reply.RunClosed = closed
	return reply, nil
}

// runClosed says whether no execution of the run is open.
func (a *Activities) runClosed(ctx context.Context, runID string) (bool, error) {
	if runID == "" {
		return false, nil
	}
	state, _, err := a.look(ctx, runID)
	if err != nil {
		return false, err
	}
	return state != workflowOpen, nil
}

// What stop can have asked for.
const (
	askedNothing  = "nothing" // the job is over, or an earlier request still has its grace
	askedDrain    = "drain"
	askedCancel   = "cancel"
	askedForce    = "force-cancel"
	askedNotReady = "not-ready" // asked too early: again in some seconds
)

// stopRequest is the input of stop.
type stopRequest struct {
	checkRequest
	// At is the workflow's time, by which the graces are counted.
	At time.Time `json:"at"`
	// Cancelled is when a cancel was accepted; zero: none was.
	Cancelled time.Time `json:"cancelled,omitzero"`
	// Drained is when a drain was accepted first; zero: none was.
	Drained     time.Time     `json:"drained,omitzero"`
	CancelGrace time.Duration `json:"cancelGrace"`
	DrainGrace  time.Duration `json:"drainGrace"`
	NoDrain     bool          `json:"noDrain,omitempty"`
}

// stop takes a fresh look at the job and asks for the next thing that ends it.
func (a *Activities) stop(ctx context.Context, req stopRequest) (checkReply, error) {
	job, err := a.Dataflow.Get(ctx, req.Project, req.Location, req.JobID)
	if dataflow.KindOf(err) == dataflow.KindNotFound {
		return checkReply{Forgotten: true, Asked: askedNothing}, nil
	}
	if err != nil {
		return checkReply{}, patient(err)
	}
	reply := checkReply{Job: view(job), Asked: nextStop(job, req)}
	switch reply.Asked {
	case askedDrain:
		err = a.Dataflow.Drain(ctx, req.Project, req.Location, req.JobID)
		if dataflow.KindOf(err) != dataflow.KindInvalid {
			break
		}
		// It cannot be drained, unless it stopped running since the look: then the next one tells.
		if job, err = a.Dataflow.Get(ctx, req.Project, req.Location, req.JobID); err != nil {
			return checkReply{}, patient(err)
		}
		if reply.Job = view(job); job.State != dataflow.StateRunning {
			reply.Asked = askedNotReady
			return reply, nil
		}
		reply.Asked = askedCancel
		err = a.Dataflow.Cancel(ctx, req.Project, req.Location, req.JobID, false)
	case askedCancel:
		err = a.Dataflow.Cancel(ctx, req.Project, req.Location, req.JobID, false)
	case askedForce:
		err = a.Dataflow.Cancel(ctx, req.Project, req.Location, req.JobID, true)
	}
	switch dataflow.KindOf(err) {
	case dataflow.KindNotReady:
		reply.Asked = askedNotReady
		return reply, nil
	case dataflow.KindTerminated:
		// It ended between the look and the request: the next look tells how.
		reply.Asked = askedNotReady
		return reply, nil
	}
	return reply, patient(err)
}

// nextStop is what to ask of a job that is to end.
func nextStop(job dataflow.Job, req stopRequest) string {
	cancelled := !req.Cancelled.IsZero()
	// A drain that was accepted may leave the job RUNNING, and would for ever.
	drain := !cancelled && !req.NoDrain && (req.Drained.IsZero() || req.At.Sub(req.Drained) < req.DrainGrace)
	switch {
	case job.State.Terminal():
		return askedNothing
	case job.State == dataflow.StateDraining && req.At.Sub(job.StateTime) < req.DrainGrace:
		return askedNothing
	case job.State == dataflow.StateRunning && job.Type == dataflow.TypeStreaming && drain:
		return askedDrain
	case cancelled && req.At.Sub(req.Cancelled) >= req.CancelGrace:
		return askedForce
	case job.State == dataflow.StateCancelling && cancelled:
		return askedNothing
	}
	return askedCancel
}

// reportReply is the output of report.
type reportReply struct {
	Metrics map[string]int64 `json:"metrics,omitempty"`
	Error   string           `json:"error,omitempty"`
	Quota   bool             `json:"quota,omitempty"`
	// Unread says that the metrics or the messages could not be read, and why.
	Unread string `json:"unread,omitempty"`
}

// reportTries is how often a failed job's metrics are tried before its error is told without them.
const reportTries = 3

// report reads what a job that is over leaves: its metrics and, where it failed, its
// first error message.
func (a *Activities) report(ctx context.Context, req checkRequest, failed bool) (reportReply, error) {
	var reply reportReply
	if failed {
		text, err := a.Dataflow.FirstError(ctx, req.Project, req.Location, req.JobID)
		switch {
		case err != nil && !hopeless(err):
			return reply, patient(err)
		case err != nil:
			reply.Unread = err.Error()
		}
		reply.Error, reply.Quota = text, dataflow.QuotaMessage(text)
	}
	m, err := a.Dataflow.Metrics(ctx, req.Project, req.Location, req.JobID)
	switch {
	case err == nil:
	case hopeless(err) || failed && activity.IsActivity(ctx) && activity.GetInfo(ctx).Attempt >= reportTries:
		// Why a job failed decides what comes next: it is not held back for its counters.
		reply.Unread = joinNotes(reply.Unread, err.Error())
		return reply, nil
	default:
		return reply, patient(err)
	}
	var cut string
	reply.Metrics, cut = told(m)
	reply.Unread = joinNotes(reply.Unread, cut)
	return reply, nil
}

// mostMetrics bounds what is told of a job's metrics, in bytes: a run keeps those of many
// attempts, in its history and for its later steps, and Temporal takes payloads of 2 MB.
const mostMetrics = 32 << 10

// told are the metrics that an attempt's result has, a distribution as four numbers, and a
// note of those that it has no room for: the last by name.
func told(m dataflow.Metrics) (kept map[string]int64, cut string) {
	all := make(map[string]int64, len(m.Counters)+4*len(m.Distributions))
	maps.Copy(all, m.Counters)
	for name, d := range m.Distributions {
		all[name+".count"], all[name+".sum"] = d.Count, d.Sum
		all[name+".min"], all[name+".max"] = d.Min, d.Max
	}
	const each = 24 // a number, colon and comma
	kept = make(map[string]int64, len(all))
	size := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if size += encodedSize(name) + each; size > mostMetrics {
			break
		}
		kept[name] = all[name]
	}
	if len(kept) < len(all) || m.Truncated {
		cut = fmt.Sprintf("the job has more metrics than are kept; these are the first %d by name", len(kept))
	}
	return kept, cut
}

// hopeless says that the same call would meet the same error.
func hopeless(err error) bool {
	switch dataflow.KindOf(err) {
	case dataflow.KindInvalid, dataflow.KindPermission, dataflow.KindNotFound:
		return true
	}
	return false
}

// patient makes whoever repeats the call wait for as long as Dataflow asked for.
func patient(err error) error {
	var e *dataflow.Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		return temporal.NewApplicationErrorWithOptions(err.Error(), string(e.Kind), temporal.ApplicationErrorOptions{Cause: err, NextRetryDelay: e.RetryAfter})
	}
	return err
}

// end terminates a job's workflow that did not close for its successor. The job
// itself goes on.
func (a *Activities) end(ctx context.Context, workflowID, reason string) error {
	err := a.Temporal.TerminateWorkflow(ctx, workflowID, "", reason)
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("terminate %s: %w", workflowID, err)
	}
	activity.GetLogger(ctx).Info("terminated a workflow that did not hand over", "workflowId", workflowID)
	return nil
}

func terminal(state string) bool { return dataflow.State(state).Terminal() }
