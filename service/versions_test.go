package service

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	deploymentpb "go.temporal.io/api/deployment/v1"
	enumspb "go.temporal.io/api/enums/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	computepb "go.temporal.io/api/compute/v1"

	"github.com/penstock/penstock/runs"
)

// deployments is a Temporal that knows one worker deployment, by the rules of the server (service/worker/workerdeployment there). Its
// clock is the test's: use it in a synctest bubble.
type deployments struct {
	workflowservice.WorkflowServiceClient

	exists   bool
	current  string
	modifier string
	token    int
	builds   map[string]*version
	writes   []string // what was changed, in order
	fails    map[string]error
	// comeUp is how long the pool of a new version takes to bind its queues; zero: it never does.
	comeUp time.Duration
	// onDescribe runs before each DescribeWorkerDeployment.
	onDescribe func(*deployments)
	attributes map[string]enumspb.IndexedValueType
	listing    error
	adding     error
	id         string // of the namespace
}

type version struct {
	compute       *computepb.ComputeConfig
	created       time.Time
	bound         []enumspb.TaskQueueType
	bindsAt       time.Time
	polls         []*taskqueuepb.PollerInfo
	pollsFrom     time.Time
	kinds         []enumspb.TaskQueueType // polled for
	status        enumspb.WorkerDeploymentVersionStatus
	lastCurrent   time.Time
	trouble       string // with its pool
	pinned, moves int64
}

const name = "penstock-prod"

func newDeployments(builds map[string]*version) *deployments {
	d := &deployments{exists: len(builds) > 0, builds: builds, fails: map[string]error{}, id: "uuid-1", attributes: map[string]enumspb.IndexedValueType{}}
	if d.builds == nil {
		d.builds = map[string]*version{}
	}
	for _, a := range runs.SearchAttributes() {
		d.attributes[a] = runs.SearchAttributeType
	}
	for id, v := range d.builds {
		if v.status == enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT {
			d.current = id
		}
		v.created = time.Now()
	}
	return d
}

// polling is a fixed build whose workers poll from a time on.
func polling(from time.Time) *version {
	return &version{pollsFrom: from, kinds: kinds, status: enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE}
}

func (v *version) is(status enumspb.WorkerDeploymentVersionStatus, lastCurrent time.Time) *version {
	v.status, v.lastCurrent = status, lastCurrent
	return v
}

func (v *version) has(pinned, moves int64) *version {
	v.pinned, v.moves = pinned, moves
	return v
}

// rested is a serverless build whose worker has bound its queues.
func rested(t *testing.T, pool string) *version {
	t.Helper()
	s := &Service{converter: converter.GetDefaultDataConverter()}
	c, err := s.computeConfig(Compute{Project: "acme", Region: "europe-west1", Pool: pool, Invoker: "invoker@acme.iam.gserviceaccount.com", Max: 10})
	if err != nil {
		t.Fatal(err)
	}
	return &version{compute: c, bound: kinds, status: enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE}
}

// look is a version as it is now; nil: there is none (yet).
func (d *deployments) look(build string) *version {
	v := d.builds[build]
	if v == nil {
		return nil
	}
	if v.compute == nil && !v.pollsFrom.IsZero() {
		if time.Now().Before(v.pollsFrom) {
			return nil // the first poll registers it
		}
		v.bound = v.kinds
	}
	if !v.bindsAt.IsZero() && !time.Now().Before(v.bindsAt) {
		v.bound = kinds
	}
	if v.status == enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_CREATED && len(v.bound) > 0 {
		v.status = enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE
	}
	return v
}

func (d *deployments) wrote(format string, args ...any) {
	d.writes = append(d.writes, fmt.Sprintf(format, args...))
}

func (d *deployments) DescribeNamespace(context.Context, *workflowservice.DescribeNamespaceRequest, ...grpc.CallOption) (*workflowservice.DescribeNamespaceResponse, error) {
	return &workflowservice.DescribeNamespaceResponse{NamespaceInfo: &namespacepb.NamespaceInfo{Id: d.id}}, d.fails["DescribeNamespace"]
}

func (d *deployments) CreateWorkerDeployment(_ context.Context, r *workflowservice.CreateWorkerDeploymentRequest, _ ...grpc.CallOption) (*workflowservice.CreateWorkerDeploymentResponse, error) {
	if err := d.fails["CreateWorkerDeployment"]; err != nil {
		return nil, err
	}
	if r.RequestId == "" || r.DeploymentName != name {
		return nil, serviceerror.NewInvalidArgument("bad request")
	}
	if d.exists {
		return nil, serviceerror.NewAlreadyExists("Worker Deployment with name exists")
	}
	d.exists = true
	d.wrote("create deployment")
	return &workflowservice.CreateWorkerDeploymentResponse{}, nil
}

func (d *deployments) CreateWorkerDeploymentVersion(_ context.Context, r *workflowservice.CreateWorkerDeploymentVersionRequest, _ ...grpc.CallOption) (*workflowservice.CreateWorkerDeploymentVersionResponse, error) {
	if err := d.fails["CreateWorkerDeploymentVersion"]; err != nil {
		return nil, err
	}
	build := r.DeploymentVersion.BuildId
	switch {
	case !d.exists:
		return nil, serviceerror.NewNotFound("no Worker Deployment found")
	case d.builds[build] != nil:
		return nil, serviceerror.NewAlreadyExists("Worker Deployment Version already exists")
	}
	v := &version{compute: r.ComputeConfig, created: time.Now(), status: enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_CREATED}
	if d.comeUp > 0 {
		v.bindsAt = time.Now().Add(d.comeUp)
	}
	d.builds[build] = v
	d.wrote("create version %s", build)
	return &workflowservice.CreateWorkerDeploymentVersionResponse{}, nil
}

func (d *deployments) UpdateWorkerDeploymentVersionComputeConfig(_ context.Context, r *workflowservice.UpdateWorkerDeploymentVersionComputeConfigRequest, _ ...grpc.CallOption) (*workflowservice.UpdateWorkerDeploymentVersionComputeConfigResponse, error) {
	v := d.builds[r.DeploymentVersion.BuildId]
	if v == nil {
		return nil, serviceerror.NewNotFound("build ID not found")
	}
	groups := map[string]*computepb.ComputeConfigScalingGroup{}
	if v.compute != nil {
		groups = v.compute.ScalingGroups
	}
	for id, update := range r.ComputeConfigScalingGroups {
		there := groups[id]
		if there == nil {
			groups[id] = update.ScalingGroup // the mask is for groups that are there
			continue
		}
		for _, path := range update.UpdateMask.GetPaths() {
			switch path {
			case "provider":
				there.Provider = update.ScalingGroup.Provider
			case "scaler":
				there.Scaler = update.ScalingGroup.Scaler
			case "task_queue_types":
				there.TaskQueueTypes = update.ScalingGroup.TaskQueueTypes
			}
		}
	}
	for _, id := range r.RemoveComputeConfigScalingGroups {
		delete(groups, id)
	}
	v.compute = &computepb.ComputeConfig{ScalingGroups: groups}
	d.wrote("update compute of %s", r.DeploymentVersion.BuildId)
	return &workflowservice.UpdateWorkerDeploymentVersionComputeConfigResponse{}, nil
}

func (d *deployments) ValidateWorkerDeploymentVersionComputeConfig(_ context.Context, r *workflowservice.ValidateWorkerDeploymentVersionComputeConfigRequest, _ ...grpc.CallOption) (*workflowservice.ValidateWorkerDeploymentVersionComputeConfigResponse, error) {
	if v := d.builds[r.DeploymentVersion.BuildId]; v == nil || v.trouble != "" {
		return nil, serviceerror.NewInvalidArgument(v.trouble)
	}
	return &workflowservice.ValidateWorkerDeploymentVersionComputeConfigResponse{}, nil
}

func (d *deployments) DescribeWorkerDeployment(_ context.Context, r *workflowservice.DescribeWorkerDeploymentRequest, _ ...grpc.CallOption) (*workflowservice.DescribeWorkerDeploymentResponse, error) {
	if err := d.fails["DescribeWorkerDeployment"]; err != nil {
		return nil, err
	}
	if d.onDescribe != nil {
		d.onDescribe(d)
	}
	if !d.exists || r.DeploymentName != name {
		return nil, serviceerror.NewNotFound("no Worker Deployment found")
	}
	info := &deploymentpb.WorkerDeploymentInfo{Name: name, RoutingConfig: &deploymentpb.RoutingConfig{}, LastModifierIdentity: d.modifier, RoutingConfigUpdateState: enumspb.ROUTING_CONFIG_UPDATE_STATE_COMPLETED}
	if d.current != "" {
		info.RoutingConfig.CurrentDeploymentVersion = &deploymentpb.WorkerDeploymentVersion{DeploymentName: name, BuildId: d.current}
	}
	for _, id := range slices.Sorted(maps.Keys(d.builds)) {
		v := d.look(id)
		if v == nil {
			continue
		}
		s := &deploymentpb.WorkerDeploymentInfo_WorkerDeploymentVersionSummary{
			DeploymentVersion: &deploymentpb.WorkerDeploymentVersion{DeploymentName: name, BuildId: id}, Status: v.status,
		}
		if !v.lastCurrent.IsZero() {
			s.LastCurrentTime = timestamppb.New(v.lastCurrent)
		}
		if v.compute != nil {
			s.ComputeStatus = &deploymentpb.ComputeStatus{ProviderValidation: &deploymentpb.ComputeStatus_ProviderValidationStatus{ErrorMessage: v.trouble}}
		}
		info.VersionSummaries = append(info.VersionSummaries, s)
	}
	return &workflowservice.DescribeWorkerDeploymentResponse{WorkerDeploymentInfo: info, ConflictToken: fmt.Append(nil, d.token)}, nil
}

func (d *deployments) DescribeWorkerDeploymentVersion(_ context.Context, r *workflowservice.DescribeWorkerDeploymentVersionRequest, _ ...grpc.CallOption) (*workflowservice.DescribeWorkerDeploymentVersionResponse, error) {
	if err := d.fails["DescribeWorkerDeploymentVersion"]; err != nil {
		return nil, err
	}
	v := d.look(r.DeploymentVersion.BuildId)
	if !d.exists || v == nil || r.DeploymentVersion.DeploymentName != name {
		return nil, serviceerror.NewNotFound("Worker Deployment Version not found")
	}
	answer := &workflowservice.DescribeWorkerDeploymentVersionResponse{WorkerDeploymentVersionInfo: &deploymentpb.WorkerDeploymentVersionInfo{
		DeploymentVersion: r.DeploymentVersion, Status: v.status, ComputeConfig: clone(v.compute),
	}}
	for _, kind := range v.bound {
		answer.VersionTaskQueues = append(answer.VersionTaskQueues, &workflowservice.DescribeWorkerDeploymentVersionResponse_VersionTaskQueue{Name: runs.TaskQueue("prod"), Type: kind})
	}
	return answer, nil
}

// clone is what goes over the wire.
func clone(c *computepb.ComputeConfig) *computepb.ComputeConfig {
	if c == nil {
		return nil
	}
	return proto.CloneOf(c)
}

func (d *deployments) DescribeTaskQueue(_ context.Context, r *workflowservice.DescribeTaskQueueRequest, _ ...grpc.CallOption) (*workflowservice.DescribeTaskQueueResponse, error) {
	answer := &workflowservice.DescribeTaskQueueResponse{}
	for id, v := range d.builds {
		if !slices.Contains(v.kinds, r.TaskQueueType) || r.TaskQueue.Name != runs.TaskQueue("prod") {
			continue
		}
		answer.Pollers = append(answer.Pollers, v.polls...)
		if len(v.polls) == 0 && !v.pollsFrom.IsZero() && !time.Now().Before(v.pollsFrom) {
			answer.Pollers = append(answer.Pollers, poller(name, id, enumspb.WORKER_VERSIONING_MODE_VERSIONED, time.Now().Add(-time.Minute)))
		}
	}
	return answer, nil
}

func poller(deployment, build string, mode enumspb.WorkerVersioningMode, at time.Time) *taskqueuepb.PollerInfo {
	return &taskqueuepb.PollerInfo{LastAccessTime: timestamppb.New(at), DeploymentOptions: &deploymentpb.WorkerDeploymentOptions{DeploymentName: deployment, BuildId: build, WorkerVersioningMode: mode}}
}

func (d *deployments) SetWorkerDeploymentCurrentVersion(_ context.Context, r *workflowservice.SetWorkerDeploymentCurrentVersionRequest, _ ...grpc.CallOption) (*workflowservice.SetWorkerDeploymentCurrentVersionResponse, error) {
	if err := d.fails["SetWorkerDeploymentCurrentVersion"]; err != nil {
		return nil, err
	}
	v := d.look(r.BuildId)
	switch {
	case r.AllowNoPollers || r.IgnoreMissingTaskQueues || r.ConflictToken == nil:
		panic("a protection was taken away")
	case string(r.ConflictToken) != fmt.Sprint(d.token):
		return nil, serviceerror.NewFailedPrecondition("conflict token mismatch")
	case v == nil:
		return nil, serviceerror.NewNotFound("build ID not found in Worker Deployment")
	}
	if old := d.builds[d.current]; old != nil {
		old.status = enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING
	}
	v.status, v.lastCurrent = enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT, time.Now()
	d.current, d.modifier = r.BuildId, r.Identity
	d.token++
	d.wrote("make %s current", r.BuildId)
	return &workflowservice.SetWorkerDeploymentCurrentVersionResponse{}, nil
}

func (d *deployments) DeleteWorkerDeploymentVersion(_ context.Context, r *workflowservice.DeleteWorkerDeploymentVersionRequest, _ ...grpc.CallOption) (*workflowservice.DeleteWorkerDeploymentVersionResponse, error) {
	build := r.DeploymentVersion.BuildId
	v := d.builds[build]
	switch {
	case r.SkipDrainage:
		panic("a protection was taken away")
	case v == nil:
		return &workflowservice.DeleteWorkerDeploymentVersionResponse{}, nil
	case len(v.polls) > 0:
		return nil, serviceerror.NewFailedPrecondition("version cannot be deleted since it has active pollers")
	case v.status == enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT, v.status == enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING:
		return nil, serviceerror.NewFailedPrecondition("version cannot be deleted")
	}
	delete(d.builds, build)
	d.wrote("delete version %s", build)
	return &workflowservice.DeleteWorkerDeploymentVersionResponse{}, nil
}

// operator is the API for search attributes, where it is open.
type operator struct {
	operatorservice.OperatorServiceClient
	d *deployments
}

func (o operator) ListSearchAttributes(context.Context, *operatorservice.ListSearchAttributesRequest, ...grpc.CallOption) (*operatorservice.ListSearchAttributesResponse, error) {
	if o.d.listing != nil {
		return nil, o.d.listing
	}
	return &operatorservice.ListSearchAttributesResponse{CustomAttributes: maps.Clone(o.d.attributes)}, nil
}

func (o operator) AddSearchAttributes(_ context.Context, r *operatorservice.AddSearchAttributesRequest, _ ...grpc.CallOption) (*operatorservice.AddSearchAttributesResponse, error) {
	if o.d.adding != nil {
		return nil, o.d.adding
	}
	maps.Copy(o.d.attributes, r.SearchAttributes)
	o.d.wrote("add %d search attributes", len(r.SearchAttributes))
	return &operatorservice.AddSearchAttributesResponse{}, nil
}

// dialled is a client of it.
type dialled struct {
	client.Client
	d *deployments
}

func (c dialled) WorkflowService() workflowservice.WorkflowServiceClient { return c.d }

func (c dialled) OperatorService() operatorservice.OperatorServiceClient { return operator{d: c.d} }

func (c dialled) CountWorkflow(_ context.Context, r *workflowservice.CountWorkflowExecutionsRequest) (*workflowservice.CountWorkflowExecutionsResponse, error) {
	if err := c.d.fails["CountWorkflow"]; err != nil {
		return nil, err
	}
	for id, v := range c.d.builds {
		if !strings.Contains(r.Query, "ExecutionStatus = 'Running'") || !strings.Contains(r.Query, "TemporalWorkerDeploymentVersion = '"+name+":"+id+"'") {
			continue
		}
		n := v.pinned
		if strings.Contains(r.Query, "= 'AutoUpgrade'") {
			n = v.moves
		}
		return &workflowservice.CountWorkflowExecutionsResponse{Count: n}, nil
	}
	return &workflowservice.CountWorkflowExecutionsResponse{}, nil
}

func (d *deployments) service() *Service {
	return &Service{temporal: dialled{d: d}, namespace: "default", deployment: "prod", converter: converter.GetDefaultDataConverter()}
}

// image is that of a build, by digest.
func image(build string) string {
	return "registry.example/penstock/worker@sha256:" + fmt.Sprintf("%064x", []byte(build))
}

// newState has live builds, the first the oldest.
func newState(t *testing.T, live ...string) *State {
	t.Helper()
	s, err := OpenState(t.Context(), t.TempDir(), "prod", func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for i, id := range live {
		if _, err := s.AddBuild(t.Context(), Build{ID: id, Image: image(id), Created: time.Unix(int64(i), 0).UTC()}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func results(steps []SetupStep) string {
	var all []string
	for _, s := range steps {
		all = append(all, s.Name+": "+string(s.Result))
	}
	return cmp.Or(strings.Join(all, ", "), "no step")
}

// A server of one's own may have pools of another kind, and be told how eagerly to resize them.
func TestPoolsOfAnotherProvider(t *testing.T) {
	s := &Service{converter: converter.GetDefaultDataConverter()}
	c, err := s.computeConfig(Compute{
		Project: "acme", Region: "here", Pool: "worker", Invoker: "local", Max: 2,
		Provider: "subprocess", ProviderDetails: map[string]any{"url": "http://127.0.0.1:1/"}, ScalerDetails: map[string]any{"no_sync_quiet_ms": 15_000},
	})
	if err != nil {
		t.Fatal(err)
	}
	group := c.GetScalingGroups()[scalingGroup]
	pool, scaler := details(group.GetProvider().GetDetails().GetData()), details(group.GetScaler().GetDetails().GetData())
	if group.GetProvider().GetType() != "subprocess" || pool["url"] != "http://127.0.0.1:1/" || poolOf(c) != "worker" {
		t.Errorf("the provider is %s with %v", group.GetProvider().GetType(), pool)
	}
	if group.GetScaler().GetType() != "rate-based" || scaler["no_sync_quiet_ms"] != 15e3 || scaler["max_count"] != 2.0 || scaler["min_count"] != 0.0 {
		t.Errorf("the scaler is %s with %v", group.GetScaler().GetType(), scaler)
	}
}
