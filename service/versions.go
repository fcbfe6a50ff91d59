package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	computepb "go.temporal.io/api/compute/v1"
	deploymentpb "go.temporal.io/api/deployment/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/penstock/penstock/runs"
)

const (
	// freshPoll is how old the last poll of a worker may be that is taken to be there: one polls anew at least each minute.
	freshPoll = 90 * time.Second
	// versionsEvery is how often a version is looked at that is waited for.
	versionsEvery = 2 * time.Second
	// toldWithin bounds the wait until all task queues know the current version. Tasks wait or go to the old one until then.
	toldWithin = 30 * time.Second
	// currentRounds is how often it is tried to make a version current while others change the worker deployment.
	currentRounds = 5
)

// versions are the versions of one worker deployment: the builds of the worker as Temporal knows them.
type versions struct {
	s        *Service
	api      workflowservice.WorkflowServiceClient
	name     string // of the worker deployment
	identity string // whose changes they are
}

func (s *Service) versions(name, identity string) *versions {
	return &versions{s: s, api: s.temporal.WorkflowService(), name: name, identity: identity}
}

// workerDeployment is one as it is at a time.
type workerDeployment struct {
	*deploymentpb.WorkerDeploymentInfo
	token []byte // for a change of exactly this
}

// current is the build that new runs go to; empty: workers without a version.
func (d *workerDeployment) current() string {
	return d.GetRoutingConfig().GetCurrentDeploymentVersion().GetBuildId()
}

// summary is what is told of a build; nil: it is unknown.
func (d *workerDeployment) summary(build string) *deploymentpb.WorkerDeploymentInfo_WorkerDeploymentVersionSummary {
	for _, v := range d.GetVersionSummaries() {
		if v.GetDeploymentVersion().GetBuildId() == build {
			return v
		}
	}
	return nil
}

func notFound(err error) bool {
	var missing *serviceerror.NotFound
	return errors.As(err, &missing)
}

// describe is nil where Temporal does not know the worker deployment.
func (v *versions) describe(ctx context.Context) (*workerDeployment, error) {
	ctx, cancel := call(ctx)
	defer cancel()
	d, err := v.api.DescribeWorkerDeployment(ctx, &workflowservice.DescribeWorkerDeploymentRequest{Namespace: v.s.namespace, DeploymentName: v.name})
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("describe the worker deployment %s: %w", v.name, err)
	}
	return &workerDeployment{WorkerDeploymentInfo: d.GetWorkerDeploymentInfo(), token: d.GetConflictToken()}, nil
}

func (v *versions) id(build string) *deploymentpb.WorkerDeploymentVersion {
	return &deploymentpb.WorkerDeploymentVersion{DeploymentName: v.name, BuildId: build}
}

// version is nil where Temporal does not know the build.
func (v *versions) version(ctx context.Context, build string) (*workflowservice.DescribeWorkerDeploymentVersionResponse, error) {
	ctx, cancel := call(ctx)
	defer cancel()
	d, err := v.api.DescribeWorkerDeploymentVersion(ctx, &workflowservice.DescribeWorkerDeploymentVersionRequest{Namespace: v.s.namespace, DeploymentVersion: v.id(build)})
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("describe build %s of the worker deployment %s: %w", build, v.name, err)
	}
	return d, nil
}

// create registers the worker deployment, and says whether it was there before.
func (v *versions) create(ctx context.Context) (before bool, err error) {
	ctx, cancel := call(ctx)
	defer cancel()
	// The request's ID is a new one each time: Temporal answers one that it has seen as it did then, also after what was created has
	// been deleted.
	_, err = v.api.CreateWorkerDeployment(ctx, &workflowservice.CreateWorkerDeploymentRequest{
		Namespace: v.s.namespace, DeploymentName: v.name, Identity: v.identity, RequestId: rand.Text(),
	})
	if alreadyExists(err) {
		return true, nil
	}
	return false, serverless(err)
}

// createVersion registers a build with its compute configuration; true: it was registered before, perhaps otherwise.
func (v *versions) createVersion(ctx context.Context, build string, config *computepb.ComputeConfig) (before bool, err error) {
	ctx, cancel := call(ctx)
	defer cancel()
	_, err = v.api.CreateWorkerDeploymentVersion(ctx, &workflowservice.CreateWorkerDeploymentVersionRequest{
		Namespace: v.s.namespace, DeploymentVersion: v.id(build), ComputeConfig: config, Identity: v.identity, RequestId: rand.Text(),
	})
	if alreadyExists(err) {
		return true, nil
	}
	return false, serverless(err)
}

func alreadyExists(err error) bool {
	var there *serviceerror.AlreadyExists
	return errors.As(err, &there)
}

// serverless explains the error of a call that only serverless workers need.
func serverless(err error) error {
	var unknown *serviceerror.Unimplemented
	var invalid *serviceerror.InvalidArgument
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; this Temporal does not scale workers: it takes Temporal Cloud with serverless workers, or a server from 1.31 on with workercontroller.enabled; else deploy fixed ones", err)
	case errors.As(err, &invalid):
		return fmt.Errorf("%w; see that the pool exists, that the invoker may get and update it and act as the pool's account, and that Temporal may make tokens of the invoker", err)
	}
	return err
}

// updateCompute replaces the compute configuration of a build.
func (v *versions) updateCompute(ctx context.Context, build string, config *computepb.ComputeConfig, groups map[string]*computepb.ComputeConfigScalingGroup) error {
	ctx, cancel := call(ctx)
	defer cancel()
	request := &workflowservice.UpdateWorkerDeploymentVersionComputeConfigRequest{
		Namespace: v.s.namespace, DeploymentVersion: v.id(build), Identity: v.identity, RequestId: rand.Text(),
		ComputeConfigScalingGroups: map[string]*computepb.ComputeConfigScalingGroupUpdate{},
	}
	for name, group := range config.GetScalingGroups() {
		request.ComputeConfigScalingGroups[name] = &computepb.ComputeConfigScalingGroupUpdate{ScalingGroup: group, UpdateMask: wholeGroup()}
	}
	for name := range groups {
		if config.GetScalingGroups()[name] == nil {
			request.RemoveComputeConfigScalingGroups = append(request.RemoveComputeConfigScalingGroups, name)
		}
	}
	_, err := v.api.UpdateWorkerDeploymentVersionComputeConfig(ctx, request)
	return serverless(err)
}

// validateCompute asks whether Temporal can still reach the pool of a build.
func (v *versions) validateCompute(ctx context.Context, build string, config *computepb.ComputeConfig) error {
	ctx, cancel := call(ctx)
	defer cancel()
	request := &workflowservice.ValidateWorkerDeploymentVersionComputeConfigRequest{
		Namespace: v.s.namespace, DeploymentVersion: v.id(build), Identity: v.identity,
		ComputeConfigScalingGroups: map[string]*computepb.ComputeConfigScalingGroupUpdate{},
	}
	for name, group := range config.GetScalingGroups() {
		request.ComputeConfigScalingGroups[name] = &computepb.ComputeConfigScalingGroupUpdate{ScalingGroup: group}
	}
	_, err := v.api.ValidateWorkerDeploymentVersionComputeConfig(ctx, request)
	return serverless(err)
}

// kinds are the kinds of task that a worker polls for.
var kinds = []enumspb.TaskQueueType{enumspb.TASK_QUEUE_TYPE_WORKFLOW, enumspb.TASK_QUEUE_TYPE_ACTIVITY}

func kindsOf(missing []enumspb.TaskQueueType) string {
	names := make([]string, len(missing))
	for i, k := range missing {
		names[i] = strings.ToLower(k.String())
	}
	return strings.Join(names, " and ") + " tasks"
}

// unbound are the kinds of task that a build has never polled the deployment's queue for: a version is bound to a queue by its first poll.
func (v *versions) unbound(d *workflowservice.DescribeWorkerDeploymentVersionResponse) []enumspb.TaskQueueType {
	queue := runs.TaskQueue(v.s.deployment)
	var missing []enumspb.TaskQueueType
kind:
	for _, k := range kinds {
		for _, q := range d.GetVersionTaskQueues() {
			if q.GetName() == queue && q.GetType() == k {
				continue kind
			}
		}
		missing = append(missing, k)
	}
	return missing
}

// lastPoll is when a worker of a build polled last for tasks of a kind; zero: none has within the last minutes. A poll is noted when
// it begins and when it is answered, so an entry says that a worker was there then, not that it is.
func (v *versions) lastPoll(ctx context.Context, build string, kind enumspb.TaskQueueType) (time.Time, error) {
	ctx, cancel := call(ctx)
	defer cancel()
	queue := runs.TaskQueue(v.s.deployment)
	d, err := v.api.DescribeTaskQueue(ctx, &workflowservice.DescribeTaskQueueRequest{
		Namespace: v.s.namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: queue, Kind: enumspb.TASK_QUEUE_KIND_NORMAL}, TaskQueueType: kind,
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("look who polls task queue %s: %w", queue, err)
	}
	var last time.Time
	for _, p := range d.GetPollers() {
		o := p.GetDeploymentOptions()
		if at := p.GetLastAccessTime().AsTime(); o.GetDeploymentName() == v.name && o.GetBuildId() == build &&
			o.GetWorkerVersioningMode() == enumspb.WORKER_VERSIONING_MODE_VERSIONED && at.After(last) {
			last = at
		}
	}
	return last, nil
}

// missingPolls says at each call what keeps a fixed build from having work at once; empty: nothing. A worker counts that polls again
// after the first look, as one that was replaced a moment ago is listed still. For a build that is current already, which makes no
// difference then, one does that has polled of late.
func (v *versions) missingPolls(build string, current bool) func(context.Context) (string, error) {
	queue := runs.TaskQueue(v.s.deployment)
	first := map[enumspb.TaskQueueType]time.Time{} // the last poll as of the first look
	return func(ctx context.Context) (string, error) {
		d, err := v.version(ctx, build)
		if err != nil {
			return "", err
		}
		if d == nil {
			for _, kind := range kinds {
				first[kind] = time.Time{}
			}
			return fmt.Sprintf("no worker of build %s has ever polled as of the worker deployment %s", build, v.name), nil
		}
		if d.GetWorkerDeploymentVersionInfo().GetComputeConfig() != nil {
			return "", fmt.Errorf("build %s is registered with a pool that Temporal resizes, so it is not fixed", build)
		}
		var missing, silent []enumspb.TaskQueueType
		for _, kind := range kinds {
			last, err := v.lastPoll(ctx, build, kind)
			if err != nil {
				return "", err
			}
			before, looked := first[kind]
			if !looked {
				first[kind], before = last, last
			}
			switch {
			case time.Since(last) >= freshPoll:
				missing = append(missing, kind)
			case !current && !last.After(before):
				silent = append(silent, kind)
			}
		}
		switch {
		case len(missing) > 0:
			return fmt.Sprintf("no worker of build %s polls task queue %s for %s", build, queue, kindsOf(missing)), nil
		case len(silent) > 0:
			return fmt.Sprintf("a worker of build %s has polled task queue %s for %s, and not again yet, as one that is there does within a minute", build, queue, kindsOf(silent)), nil
		}
		if missing = v.unbound(d); len(missing) > 0 { // it polls, and Temporal is about to note that
			return fmt.Sprintf("build %s is not bound to task queue %s for %s yet", build, queue, kindsOf(missing)), nil
		}
		return "", nil
	}
}

// await looks again and again until nothing is missing, at most for timeout. What is missing is told when it changes, and each
// half minute. Trouble that may pass is waited out; trouble of another kind ends the wait.
func await(ctx context.Context, timeout time.Duration, tell func(string), look func(context.Context) (missing string, err error)) error {
	const again = 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var told string
	var at time.Time
	for {
		missing, err := look(ctx)
		switch {
		case err == nil && missing == "":
			return nil
		case err != nil && ctx.Err() != nil: // it is for that
			missing = told
		case err != nil && !passing(err):
			return err
		case err != nil:
			missing = err.Error()
		}
		if missing != told || time.Since(at) >= again {
			tell(missing)
			told, at = missing, time.Now()
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return &awaitError{timeout, told}
			}
			return ctx.Err()
		case <-time.After(versionsEvery):
		}
	}
}

// awaitError says what was missing until the end.
type awaitError struct {
	waited  time.Duration
	missing string
}

func (e *awaitError) Error() string { return fmt.Sprintf("after %s: %s", e.waited, e.missing) }

// passing says that a call may do better in a moment.
func passing(err error) bool {
	var unavailable *serviceerror.Unavailable
	var exhausted *serviceerror.ResourceExhausted
	var late *serviceerror.DeadlineExceeded
	return errors.As(err, &unavailable) || errors.As(err, &exhausted) || errors.As(err, &late) || errors.Is(err, context.DeadlineExceeded)
}

// makeCurrent gives a build what is new and what may move, unless another than before has become current meanwhile.
func (v *versions) makeCurrent(ctx context.Context, build, before string) error {
	var refused error
	var token []byte
	for range currentRounds {
		d, err := v.describe(ctx)
		if err != nil {
			return err
		}
		if d == nil {
			return fmt.Errorf("make build %s current: Temporal does not know the worker deployment %s", build, v.name)
		}
		if d.current() == build {
			return nil
		}
		if d.current() != before {
			return fmt.Errorf("make build %s current: meanwhile %s became so, by %s; see who else deploys, then run this again", build, orNone(d.current()), d.GetLastModifierIdentity())
		}
		if refused != nil && string(d.token) == string(token) {
			return refused // nobody else changed anything: it was not for that
		}
		token = d.token
		callCtx, cancel := call(ctx)
		_, err = v.api.SetWorkerDeploymentCurrentVersion(callCtx, &workflowservice.SetWorkerDeploymentCurrentVersionRequest{
			Namespace: v.s.namespace, DeploymentName: v.name, BuildId: build, ConflictToken: token, Identity: v.identity,
		})
		cancel()
		if err == nil {
			return nil
		}
		refused = fmt.Errorf("make build %s current: %w", build, err)
		var changed *serviceerror.FailedPrecondition
		if !errors.As(err, &changed) {
			return refused
		}
	}
	return refused
}

// told waits until all task queues know the current version; false: some may not yet.
func (v *versions) told(ctx context.Context) bool {
	err := await(ctx, toldWithin, func(string) {}, func(ctx context.Context) (string, error) {
		d, err := v.describe(ctx)
		if err != nil {
			return "", err
		}
		if d == nil || d.GetRoutingConfigUpdateState() == enumspb.ROUTING_CONFIG_UPDATE_STATE_IN_PROGRESS {
			return "task queues do not know it yet", nil
		}
		return "", nil
	})
	return err == nil
}

// open counts the open workflows of a build: runs, and the jobs of runs.
func (v *versions) open(ctx context.Context, build, behavior string) (int64, error) {
	ctx, cancel := call(ctx)
	defer cancel()
	answer, err := v.s.temporal.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{
		Namespace: v.s.namespace,
		Query: "ExecutionStatus = 'Running' AND TemporalWorkflowVersioningBehavior = " + quoted(behavior) +
			" AND TemporalWorkerDeploymentVersion = " + quoted(v.name+":"+build),
	})
	if err != nil {
		return 0, fmt.Errorf("count the open workflows of build %s: %w", build, err)
	}
	return answer.GetCount(), nil
}

// Temporal's words for what becomes of a workflow when another build becomes current.
const (
	pinned      = "Pinned"
	autoUpgrade = "AutoUpgrade"
)

func orNone(build string) string {
	if build == "" {
		return "none"
	}
	return build
}

// payload makes the details of a compute configuration.
func (s *Service) payload(details map[string]any) (*commonpb.Payload, error) {
	p, err := s.converter.ToPayload(details)
	if err != nil {
		return nil, fmt.Errorf("encode the compute configuration: %w", err)
	}
	return p, nil
}
