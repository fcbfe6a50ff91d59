package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	computepb "go.temporal.io/api/compute/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/penstock/penstock/runs"
)

// Scaling is the form that a deployment's workers have.
type Scaling string

// The forms.
const (
	// ScalingFixed is one pool of some instances. Open runs move to the build that is current.
	ScalingFixed Scaling = "fixed"
	// ScalingServerless is a pool for each build, which Temporal resizes, down to none. A run ends on the build that it began on.
	ScalingServerless Scaling = "serverless"
)

// Compute is the worker pool of a build that Temporal is to resize.
type Compute struct {
	Project string `json:"project"`
	Region  string `json:"region"`
	Pool    string `json:"pool"`
	// Invoker is the service account that Temporal resizes it as, by email.
	Invoker string `json:"invoker"`
	// Min and Max are how many instances there may be. Max zero: Temporal's default.
	Min int `json:"min"`
	Max int `json:"max,omitempty"`
	// Provider is what Temporal calls the kind of pool. Defaults to Cloud Run's; a server of one's own may have others, as the local
	// stack's does. ProviderDetails are what it wants to know besides.
	Provider        string         `json:"provider,omitempty"`
	ProviderDetails map[string]any `json:"providerDetails,omitempty"`
	// ScalerDetails are settings of Temporal's rate-based scaler besides the counts. Nil: its own defaults.
	ScalerDetails map[string]any `json:"scalerDetails,omitempty"`
}

// SetupOptions configure Setup. All but Compute, Progress and By are needed.
type SetupOptions struct {
	State          *State
	Project        string // that the deployment's jobs run in
	Scaling        Scaling
	DeploymentName string // of Temporal's worker deployment
	Build          string
	// Compute is the build's pool, where Scaling is serverless.
	Compute Compute
	// Timeout is how long the build's worker may take to come up.
	Timeout time.Duration
	// Progress is told what is waited for.
	Progress func(string)
	By       string // who asks, for the record
}

// StepResult says what a step of Setup came to.
type StepResult string

// The results.
const (
	StepDone  StepResult = "done"
	StepFound StepResult = "found" // nothing was to do
	// StepRefused is a step that is not for Penstock to do here; Setup goes on without it.
	StepRefused StepResult = "refused"
	StepFailed  StepResult = "failed" // Setup ended there
)

// SetupStep is one thing that Setup saw to.
type SetupStep struct {
	Name   string     `json:"name"`
	Result StepResult `json:"result"`
	Detail string     `json:"detail"`
	Do     string     `json:"do,omitempty"` // what is left to do, and how
}

// Setup is what Setup did.
type Setup struct {
	Deployment     string  `json:"deployment"`
	DeploymentName string  `json:"deploymentName"`
	Scaling        Scaling `json:"scaling"`
	Build          string  `json:"build"`
	// Previous is the build that was current before; empty: none was.
	Previous string      `json:"previous,omitempty"`
	Current  string      `json:"current,omitempty"` // in the end
	Steps    []SetupStep `json:"steps"`
}

// Setup prepares Temporal for a build of the worker that has been deployed, and makes it current once it has come up. It may be
// repeated, also after it failed; what it did until then is in its answer.
func (s *Service) Setup(ctx context.Context, o SetupOptions) (Setup, error) {
	answer := Setup{Deployment: s.deployment, DeploymentName: o.DeploymentName, Scaling: o.Scaling, Build: o.Build, Steps: []SetupStep{}}
	switch err := o.Check(); {
	case err != nil:
		return answer, err
	case o.State == nil:
		return answer, errors.New("no state is given: it says where the deployment lives and which builds are alive")
	case o.DeploymentName == "":
		return answer, errors.New("no name of a worker deployment is given: give the one that the worker has (TEMPORAL_DEPLOYMENT_NAME)")
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	p := &setup{Setup: &answer, o: o, s: s, v: s.versions(o.DeploymentName, o.By)}
	for _, step := range []struct {
		name string
		do   func(context.Context) (StepResult, string, error)
		with bool
	}{
		{"home", p.settle, true},
		{"search attributes", p.searchAttributes, true},
		{"build", p.build, true},
		{"worker deployment", p.workerDeployment, o.Scaling == ScalingServerless},
		{"version", p.version, o.Scaling == ScalingServerless},
		{"worker", p.worker, true},
		{"current", p.current, true},
	} {
		if !step.with {
			continue
		}
		p.todo = ""
		result, detail, err := step.do(ctx)
		if err != nil {
			answer.Steps = append(answer.Steps, SetupStep{Name: step.name, Result: StepFailed, Detail: err.Error()})
			return answer, fmt.Errorf("set up deployment %s: %s: %w", s.deployment, step.name, err)
		}
		answer.Steps = append(answer.Steps, SetupStep{Name: step.name, Result: result, Detail: detail, Do: p.todo})
	}
	return answer, nil
}

// Check says what is wrong with what the options ask for.
func (o SetupOptions) Check() error {
	if err := CheckBuild(o.Build); err != nil {
		return err
	}
	switch {
	case o.Project == "":
		return errors.New("no project is given: give the one that the deployment's jobs run in")
	case o.Timeout <= 0:
		return fmt.Errorf("the timeout is %s: give the worker time to come up, such as 10m", o.Timeout)
	case o.Scaling == ScalingFixed:
		return nil
	case o.Scaling != ScalingServerless:
		return fmt.Errorf("scaling is %q: it is fixed or serverless", o.Scaling)
	}
	c := o.Compute
	var missing []string
	for _, part := range []struct{ name, value string }{{"project", c.Project}, {"region", c.Region}, {"pool", c.Pool}, {"invoker", c.Invoker}} {
		if part.value == "" {
			missing = append(missing, part.name)
		}
	}
	switch {
	case len(missing) > 0:
		return fmt.Errorf("serverless workers need the pool's %s: Temporal resizes it", strings.Join(missing, " and "))
	case c.Min < 0 || c.Max < 0 || c.Max > 0 && c.Min > c.Max:
		return fmt.Errorf("a pool cannot have %d to %d instances", c.Min, c.Max)
	}
	return nil
}

// setup is a Setup under way.
type setup struct {
	*Setup
	o    SetupOptions
	s    *Service
	v    *versions
	todo string // Do of the step under way
}

// settle has the deployment live here, or ends it where another has its ID.
func (p *setup) settle(ctx context.Context) (StepResult, string, error) {
	callCtx, cancel := call(ctx)
	d, err := p.s.temporal.WorkflowService().DescribeNamespace(callCtx, &workflowservice.DescribeNamespaceRequest{Namespace: p.s.namespace})
	cancel()
	if err != nil {
		return "", "", fmt.Errorf("describe the namespace %s: %w", p.s.namespace, err)
	}
	home := Home{Project: p.o.Project, Namespace: p.s.namespace, NamespaceID: d.GetNamespaceInfo().GetId(), Created: time.Now().UTC().Truncate(time.Second), By: p.o.By}
	before, err := p.o.State.Settle(ctx, home)
	if err != nil {
		return "", "", err
	}
	if before {
		return StepFound, "lives in " + home.place(), nil
	}
	return StepDone, "lives in " + home.place() + " from now on", nil
}

// searchAttributes registers those of ours that the namespace lacks, where that is allowed. Workers go on without.
func (p *setup) searchAttributes(ctx context.Context) (StepResult, string, error) {
	callCtx, cancel := call(ctx)
	defer cancel()
	operator := p.s.temporal.OperatorService()
	var missing, other []string
	list, err := operator.ListSearchAttributes(callCtx, &operatorservice.ListSearchAttributesRequest{Namespace: p.s.namespace})
	if err != nil && !refused(err) {
		return "", "", fmt.Errorf("list those of namespace %s: %w", p.s.namespace, err)
	}
	for _, name := range runs.SearchAttributes() {
		switch list.GetCustomAttributes()[name] {
		case runs.SearchAttributeType:
		case enumspb.INDEXED_VALUE_TYPE_UNSPECIFIED:
			missing = append(missing, name)
		default:
			other = append(other, name)
		}
	}
	if len(other) > 0 {
		return StepRefused, fmt.Sprintf("namespace %s has %s with another type than %s: runs go on without, and cannot be filtered", p.s.namespace, strings.Join(other, ", "), runs.SearchAttributeType), nil
	}
	if len(missing) == 0 {
		return StepFound, "all are registered", nil
	}
	request := &operatorservice.AddSearchAttributesRequest{Namespace: p.s.namespace, SearchAttributes: map[string]enumspb.IndexedValueType{}}
	for _, name := range missing {
		request.SearchAttributes[name] = runs.SearchAttributeType
	}
	_, err = operator.AddSearchAttributes(callCtx, request)
	switch {
	case err == nil:
		return StepDone, "registered " + strings.Join(missing, ", "), nil
	case alreadyExists(err):
		return StepFound, "all are registered", nil
	case refused(err):
		p.todo = registration(p.s.namespace, missing)
		return StepRefused, "Temporal refuses to register " + strings.Join(missing, ", ") + ": runs go on without, and cannot be filtered by them: " + err.Error(), nil
	}
	return "", "", fmt.Errorf("register %s: %w", strings.Join(missing, ", "), err)
}

// refused says that a call is not for us to make: Temporal Cloud has another API for it, and elsewhere it may take an operator.
func refused(err error) bool {
	var denied *serviceerror.PermissionDenied
	var unknown *serviceerror.Unimplemented
	var invalid *serviceerror.InvalidArgument
	return errors.As(err, &denied) || errors.As(err, &unknown) || errors.As(err, &invalid)
}

// registration are the commands that register search attributes.
func registration(namespace string, names []string) string {
	cloud, own := "tcld namespace search-attributes add --namespace "+namespace, "temporal operator search-attribute create --namespace "+namespace
	for _, name := range names {
		cloud += ` --sa "` + name + `=Keyword"`
		own += " --name " + name + " --type Keyword"
	}
	return "on Temporal Cloud: " + cloud + "; else, as an operator: " + own
}

// build sees that one can come back to the build.
func (p *setup) build(ctx context.Context) (StepResult, string, error) {
	b, ok, err := p.o.State.Build(ctx, p.o.Build)
	if err != nil {
		return "", "", err
	}
	if !ok {
		return "", "", fmt.Errorf("build %s is not among the live builds, so nobody would keep it for its runs: penstock builds add %s --image IMAGE@sha256:…", p.o.Build, p.o.Build)
	}
	if p.o.Scaling == ScalingServerless && b.Pool != "" && b.Pool != p.o.Compute.Pool {
		return "", "", fmt.Errorf("build %s has the pool %s among the live builds, not %s", p.o.Build, b.Pool, p.o.Compute.Pool)
	}
	return StepFound, b.ID + " is " + b.Image, nil
}

func (p *setup) workerDeployment(ctx context.Context) (StepResult, string, error) {
	before, err := p.v.create(ctx)
	if err != nil {
		return "", "", fmt.Errorf("create the worker deployment %s: %w", p.o.DeploymentName, err)
	}
	if before {
		return StepFound, p.o.DeploymentName, nil
	}
	return StepDone, "created " + p.o.DeploymentName, nil
}

// version registers the build with its pool, which Temporal then raises to one instance so that it binds its queues.
func (p *setup) version(ctx context.Context) (StepResult, string, error) {
	want, err := p.s.computeConfig(p.o.Compute)
	if err != nil {
		return "", "", err
	}
	told := fmt.Sprintf("%s, whose pool %s Temporal resizes", p.o.Build, p.o.Compute.Pool)
	d, err := p.v.version(ctx, p.o.Build)
	if err != nil {
		return "", "", err
	}
	if d == nil {
		before, err := p.v.createVersion(ctx, p.o.Build, want)
		if err != nil {
			return "", "", fmt.Errorf("register build %s with the pool %s: %w", p.o.Build, p.o.Compute.Pool, err)
		}
		if !before {
			return StepDone, "registered " + told, nil
		}
		if d, err = p.v.version(ctx, p.o.Build); err != nil {
			return "", "", err
		}
	}
	there := d.GetWorkerDeploymentVersionInfo().GetComputeConfig()
	if pool := poolOf(there); pool != "" && pool != p.o.Compute.Pool {
		return "", "", fmt.Errorf("build %s is registered with the pool %s, not %s: runs may be pinned to it, so give other code another build ID", p.o.Build, pool, p.o.Compute.Pool)
	}
	if sameCompute(there, want) {
		return StepFound, told, nil
	}
	if err := p.v.updateCompute(ctx, p.o.Build, want, there.GetScalingGroups()); err != nil {
		return "", "", fmt.Errorf("change how the pool %s of build %s is resized: %w", p.o.Compute.Pool, p.o.Build, err)
	}
	return StepDone, "changed how Temporal resizes the pool of " + told, nil
}

// worker waits until the build's worker has come up.
func (p *setup) worker(ctx context.Context) (StepResult, string, error) {
	queue := runs.TaskQueue(p.s.deployment)
	d, err := p.v.describe(ctx)
	if err != nil && !passing(err) {
		return "", "", err
	}
	look := p.v.missingPolls(p.o.Build, d != nil && d.current() == p.o.Build)
	detail := "polls task queue " + queue
	if p.o.Scaling == ScalingServerless {
		look = func(ctx context.Context) (string, error) { return p.v.missingQueues(ctx, p.o.Build) }
		detail = "has come up and bound task queue " + queue
	}
	if err := await(ctx, p.o.Timeout, p.o.Progress, look); err != nil {
		var late *awaitError
		if errors.As(err, &late) {
			err = fmt.Errorf("%w; it is not made current; see the worker's log, then run this again", err)
		}
		return "", "", err
	}
	return StepFound, detail, nil
}

// missingQueues says what keeps a build from being scaled by its work; empty: nothing. Its worker may be at rest: Temporal wakes it
// for a task of a queue that it has polled once.
func (v *versions) missingQueues(ctx context.Context, build string) (string, error) {
	d, err := v.version(ctx, build)
	if err != nil {
		return "", err
	}
	if d == nil {
		return fmt.Sprintf("Temporal does not know build %s yet", build), nil
	}
	missing := v.unbound(d)
	if len(missing) == 0 {
		return "", nil
	}
	said := fmt.Sprintf("the worker of build %s has not come up: it is not bound to task queue %s for %s", build, runs.TaskQueue(v.s.deployment), kindsOf(missing))
	whole, err := v.describe(ctx)
	if err != nil {
		return "", err
	}
	if whole != nil {
		if trouble := whole.summary(build).GetComputeStatus().GetProviderValidation().GetErrorMessage(); trouble != "" {
			said += "; Temporal cannot use its pool: " + trouble
		}
	}
	return said, nil
}

// current makes the build current. Its worker has been seen before.
func (p *setup) current(ctx context.Context) (StepResult, string, error) {
	d, err := p.v.describe(ctx)
	if err != nil {
		return "", "", err
	}
	if d == nil {
		return "", "", fmt.Errorf("the worker deployment %s is gone from Temporal", p.o.DeploymentName)
	}
	if d.current() == p.o.Build {
		p.Previous, p.Current = p.o.Build, p.o.Build
		return StepFound, p.o.Build + " is current", nil
	}
	p.Previous = d.current()
	if err := p.v.makeCurrent(ctx, p.o.Build, p.Previous); err != nil {
		return "", "", err
	}
	p.Current = p.o.Build
	detail := fmt.Sprintf("%s is current; before it was %s", p.o.Build, orNone(p.Previous))
	if !p.v.told(ctx) {
		detail += "; not all task queues know it yet"
	}
	return StepDone, detail, nil
}

// Temporal's words for a worker pool of Cloud Run that is resized by its queues.
const (
	scalingGroup    = "default"
	providerType    = "gcp-cloud-run"
	scalerType      = "rate-based"
	detailPool      = "worker_pool"
	detailInvoker   = "service_account"
	detailMinCount  = "min_count"
	detailMaxCount  = "max_count"
	pathProvider    = "provider"
	pathScaler      = "scaler"
	pathQueueTypes  = "task_queue_types"
	detailProjectID = "project"
	detailRegion    = "region"
)

func wholeGroup() *fieldmaskpb.FieldMask {
	return &fieldmaskpb.FieldMask{Paths: []string{pathQueueTypes, pathProvider, pathScaler}}
}

// computeConfig has one scaling group, which takes tasks of all kinds.
func (s *Service) computeConfig(c Compute) (*computepb.ComputeConfig, error) {
	pool := map[string]any{detailProjectID: c.Project, detailRegion: c.Region, detailPool: c.Pool, detailInvoker: c.Invoker}
	maps.Copy(pool, c.ProviderDetails)
	provider, err := s.payload(pool)
	if err != nil {
		return nil, err
	}
	scaling := map[string]any{detailMinCount: c.Min}
	if c.Max > 0 {
		scaling[detailMaxCount] = c.Max
	}
	maps.Copy(scaling, c.ScalerDetails)
	scaler, err := s.payload(scaling)
	if err != nil {
		return nil, err
	}
	return &computepb.ComputeConfig{ScalingGroups: map[string]*computepb.ComputeConfigScalingGroup{scalingGroup: {
		Provider: &computepb.ComputeProvider{Type: cmp.Or(c.Provider, providerType), Details: provider},
		Scaler:   &computepb.ComputeScaler{Type: scalerType, Details: scaler},
	}}}, nil
}

// details are those of a provider or scaler, whichever way their JSON is spelled.
func details(data []byte) map[string]any {
	var d map[string]any
	if len(data) == 0 || json.Unmarshal(data, &d) != nil {
		return nil
	}
	return d
}

// poolOf is the worker pool of a compute configuration; empty: it has none that we know.
func poolOf(c *computepb.ComputeConfig) string {
	name, _ := details(c.GetScalingGroups()[scalingGroup].GetProvider().GetDetails().GetData())[detailPool].(string)
	return name
}

func sameCompute(a, b *computepb.ComputeConfig) bool {
	if !slices.Equal(slices.Sorted(maps.Keys(a.GetScalingGroups())), slices.Sorted(maps.Keys(b.GetScalingGroups()))) {
		return false
	}
	for name, x := range a.GetScalingGroups() {
		y := b.GetScalingGroups()[name]
		if x.GetProvider().GetType() != y.GetProvider().GetType() || x.GetScaler().GetType() != y.GetScaler().GetType() ||
			len(x.GetTaskQueueTypes()) != len(y.GetTaskQueueTypes()) ||
			!reflect.DeepEqual(details(x.GetProvider().GetDetails().GetData()), details(y.GetProvider().GetDetails().GetData())) ||
			!reflect.DeepEqual(details(x.GetScaler().GetDetails().GetData()), details(y.GetScaler().GetDetails().GetData())) {
			return false
		}
	}
	return true
}
