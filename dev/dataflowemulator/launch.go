package dataflowemulator

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// request is a launch of either kind after its template was read.
type request struct {
	project, location, name string
	template, image         string
	flex                    bool
	metadata                *pb.TemplateMetadata
	sdk                     *pb.SDKInfo
	parameters              map[string]string
	options                 []string
	labels                  map[string]string
	experiments             []string
	environment             *pb.Environment
	shown                   map[string]any // what sdkPipelineOptions shows besides the parameters
	maxWorkers, numWorkers  int32
	streamingEngine         bool
	update                  bool
	renames                 map[string]string
}

// maxJobName is apart from the pattern: package regexp counts repeats to 1000 only.
const maxJobName = 1024

var (
	jobName    = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)
	labelKey   = regexp.MustCompile(`^[a-z][-_a-z0-9]{0,62}$`)
	labelValue = regexp.MustCompile(`^[-_a-z0-9]{0,63}$`)
)

// LaunchFlexTemplate starts a job from a flex template's container spec. Its answer shows the job without a state and with a currentStateTime of 1970, as
// Dataflow's does.
func (e *Emulator) LaunchFlexTemplate(ctx context.Context, in *pb.LaunchFlexTemplateRequest) (*pb.LaunchFlexTemplateResponse, error) {
	p := in.GetLaunchParameter()
	op := Operation{Method: "flexTemplates.launch", Project: in.ProjectId, Location: e.location(in.Location), JobName: p.GetJobName()}
	if err := e.before(ctx, op); err != nil {
		return nil, err
	}
	accepted := context.WithoutCancel(ctx) // it takes effect, whether or not its caller waits
	if p == nil {
		return nil, invalid("The request has no launch parameter.")
	}
	r := request{
		project: in.ProjectId, location: op.Location, name: p.JobName, flex: true,
		parameters: p.Parameters, update: p.Update, renames: p.TransformNameMappings,
	}
	spec := p.GetContainerSpec()
	if path := p.GetContainerSpecGcsPath(); path != "" {
		var err error
		if spec, err = e.flexSpec(accepted, path); err != nil {
			return nil, err
		}
		r.template = path
	}
	if spec.GetImage() == "" {
		return nil, invalid("The launch parameter must have a container spec with an image, or the Cloud Storage path of one.")
	}
	env := &pb.FlexTemplateRuntimeEnvironment{}
	if spec.DefaultEnvironment != nil {
		proto.Merge(env, spec.DefaultEnvironment)
	}
	if p.Environment != nil {
		proto.Merge(env, p.Environment)
	}
	r.image, r.metadata, r.sdk = spec.Image, spec.Metadata, spec.SdkInfo
	r.options, r.labels, r.experiments = env.AdditionalPipelineOptions, env.AdditionalUserLabels, env.AdditionalExperiments
	r.maxWorkers, r.numWorkers, r.streamingEngine = env.MaxWorkers, env.NumWorkers, env.EnableStreamingEngine
	r.environment = &pb.Environment{
		ServiceAccountEmail: env.ServiceAccountEmail, TempStoragePrefix: env.TempLocation, ServiceKmsKeyName: env.KmsKeyName,
		WorkerRegion: env.WorkerRegion, WorkerZone: env.WorkerZone, FlexResourceSchedulingGoal: env.FlexrsGoal,
	}
	r.shown = shown("templateLocation", r.template, "serviceAccountEmail", env.ServiceAccountEmail, "tempLocation", env.TempLocation, "stagingLocation", env.StagingLocation,
		"network", env.Network, "subnetwork", env.Subnetwork, "workerMachineType", env.MachineType, "machineType", env.MachineType, "sdkContainerImage", env.SdkContainerImage)
	j, err := e.launch(ctx, op, r, in.ValidateOnly)
	if err != nil || j == nil {
		return &pb.LaunchFlexTemplateResponse{}, err
	}
	return &pb.LaunchFlexTemplateResponse{Job: j}, nil
}

// LaunchTemplate starts a job from a classic template.
func (e *Emulator) LaunchTemplate(ctx context.Context, in *pb.LaunchTemplateRequest) (*pb.LaunchTemplateResponse, error) {
	p := in.GetLaunchParameters()
	op := Operation{Method: "templates.launch", Project: in.ProjectId, Location: e.location(in.Location), JobName: p.GetJobName()}
	if err := e.before(ctx, op); err != nil {
		return nil, err
	}
	accepted := context.WithoutCancel(ctx) // it takes effect, whether or not its caller waits
	if p == nil {
		p = &pb.LaunchTemplateParameters{}
	}
	path := in.GetGcsPath()
	if d := in.GetDynamicTemplate(); d != nil {
		path = d.GcsPath
	}
	r, err := e.classic(accepted, in.ProjectId, op.Location, path, p)
	if err != nil {
		return nil, err
	}
	j, err := e.launch(ctx, op, r, in.ValidateOnly)
	if err != nil || j == nil {
		return &pb.LaunchTemplateResponse{}, err
	}
	return &pb.LaunchTemplateResponse{Job: j}, nil
}

// CreateJobFromTemplate is the older form of LaunchTemplate; it answers the job itself.
func (e *Emulator) CreateJobFromTemplate(ctx context.Context, in *pb.CreateJobFromTemplateRequest) (*pb.Job, error) {
	op := Operation{Method: "templates.create", Project: in.ProjectId, Location: e.location(in.Location), JobName: in.JobName}
	if err := e.before(ctx, op); err != nil {
		return nil, err
	}
	accepted := context.WithoutCancel(ctx) // it takes effect, whether or not its caller waits
	r, err := e.classic(accepted, in.ProjectId, op.Location, in.GetGcsPath(), &pb.LaunchTemplateParameters{
		JobName: in.JobName, Parameters: in.Parameters, Environment: in.Environment,
	})
	if err != nil {
		return nil, err
	}
	return e.launch(ctx, op, r, false)
}

func (e *Emulator) classic(ctx context.Context, project, location, path string, p *pb.LaunchTemplateParameters) (request, error) {
	if path == "" {
		return request{}, invalid("The request must have the Cloud Storage path of a template (gcsPath).")
	}
	body, err := e.open(ctx, path)
	if err != nil {
		return request{}, err
	}
	var file struct{ Image string }
	if err := json.Unmarshal(body, &file); err != nil || file.Image != "" {
		return request{}, invalid("Invalid template file %s. It must be a classic template; a flex template is launched by flexTemplates.launch.", path)
	}
	metadata, err := e.classicMetadata(ctx, path)
	if err != nil {
		return request{}, err
	}
	env := p.Environment
	if env == nil {
		env = &pb.RuntimeEnvironment{}
	}
	return request{
		project: project, location: location, name: p.JobName, template: path, image: path, metadata: metadata,
		parameters: p.Parameters, options: env.AdditionalPipelineOptions, labels: env.AdditionalUserLabels, experiments: env.AdditionalExperiments,
		maxWorkers: env.MaxWorkers, numWorkers: env.NumWorkers, streamingEngine: env.EnableStreamingEngine,
		environment: &pb.Environment{
			ServiceAccountEmail: env.ServiceAccountEmail, TempStoragePrefix: env.TempLocation, ServiceKmsKeyName: env.KmsKeyName,
			WorkerRegion: env.WorkerRegion, WorkerZone: env.WorkerZone,
		},
		shown: shown("templateLocation", path, "serviceAccountEmail", env.ServiceAccountEmail, "tempLocation", env.TempLocation,
			"network", env.Network, "subnetwork", env.Subnetwork, "workerMachineType", env.MachineType, "machineType", env.MachineType),
		update: p.Update, renames: p.TransformNameMapping,
	}, nil
}

func shown(pairs ...string) map[string]any {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			m[pairs[i]] = pairs[i+1]
		}
	}
	return m
}

func (r request) check() error {
	if r.project == "" {
		return invalid("The request names no project.")
	}
	if len(r.name) > maxJobName || !jobName.MatchString(r.name) {
		return invalid("The workflow could not be created. Causes: (%s): Invalid job name %q. A name has at most 1024 of the characters a-z, 0-9 and -, begins with a letter and ends with a letter or a digit.", incident(), cut(r.name))
	}
	if err := checkLabels(r.labels); err != nil {
		return err
	}
	if r.numWorkers < 0 || r.maxWorkers < 0 || r.maxWorkers > 0 && r.numWorkers > r.maxWorkers {
		return invalid("The numbers of workers are impossible: numWorkers %d, maxWorkers %d.", r.numWorkers, r.maxWorkers)
	}
	for _, option := range r.options {
		name, _, _ := strings.Cut(strings.TrimLeft(option, "-"), "=")
		if !parameterName.MatchString(name) {
			return invalid("Invalid additional pipeline option %q: it must have the form name=value.", cut(option))
		}
	}
	return checkParameters(r.metadata, r.parameters)
}

func checkLabels(labels map[string]string) error {
	if len(labels) > 64 {
		return invalid("A job can have 64 labels at most; this one has %d.", len(labels))
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if !labelKey.MatchString(k) {
			return invalid("Invalid label key %q: a key begins with a lower-case letter and has at most 63 of the characters a-z, 0-9, _ and -.", cut(k))
		}
		if !labelValue.MatchString(labels[k]) {
			return invalid("Invalid value %q of label %s: a value has at most 63 of the characters a-z, 0-9, _ and -.", cut(labels[k]), k)
		}
	}
	return nil
}

func cut(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

func isStatus(err error) bool {
	_, ok := status.FromError(err)
	return ok
}

// launch creates the job of a request and starts it. It answers nil for a request that was only to be validated.
func (e *Emulator) launch(ctx context.Context, op Operation, r request, validateOnly bool) (*pb.Job, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if validateOnly {
		return nil, nil
	}
	answer, err := e.create(r, e.behaviour(op))
	if err != nil {
		return nil, err
	}
	op.JobID = answer.Id
	if err := e.committed(ctx, op); err != nil {
		return nil, err
	}
	return answer, nil
}

func (e *Emulator) create(r request, b Behaviour) (*pb.Job, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, refuse(codes.Unavailable, "The emulator is shutting down.")
	}
	key := activeKey{r.project, r.location, r.name}
	old := e.active[key]
	update := r.update || old != nil && slices.Contains(r.experiments, "create_or_update_job")
	switch {
	case update:
		if old == nil || old.stopping == pb.JobState_JOB_STATE_CANCELLED ||
			old.record.CurrentState != pb.JobState_JOB_STATE_RUNNING && old.record.CurrentState != pb.JobState_JOB_STATE_DRAINING {
			return nil, notFound("The job %s could not be updated: there is no job of that name in RUNNING OR DRAINING state.", r.name)
		}
		if !old.streaming() {
			return nil, invalid("The job %s could not be updated: only a streaming job can be.", r.name)
		}
	case old != nil && b.ReturnExisting:
		return view(old, pb.JobView_JOB_VIEW_SUMMARY), nil
	case old != nil:
		return nil, refuse(codes.AlreadyExists, fmt.Sprintf("The workflow could not be created. Causes: (%s): There is already an active job named %s. If you want to submit a second job, try again by setting a different name.", incident(), r.name))
	}
	over := !update && b.ConcurrentJobs >= 0 && e.activeIn(r.project) >= b.ConcurrentJobs
	if over && (!r.flex || b.RefuseFlexOverQuota) {
		return nil, refuse(codes.ResourceExhausted, quotaText(r.project, b.ConcurrentJobs))
	}

	j := e.newJob(r)
	line := j.line("launch", j.record.CreateTime.AsTime())
	line.Template, line.Image, line.Parameters, line.Labels = r.template, r.image, r.parameters, r.labels
	line.Number, line.Options = j.launch.Number, r.options
	if over {
		j.program = overQuota{j.program, b.ConcurrentJobs}
		line.OverQuota = &b.ConcurrentJobs
	} else if e.config.Hooks.Program != nil {
		j.program = e.config.Hooks.Program(j.launch, j.program)
	}
	if update {
		j.after = old
		j.record.ReplaceJobId = old.record.Id
		line.Replaces = old.record.Id
	}
	// Dataflow answers a launch before it knows the job's type, its SDK or its state.
	answer := view(j, pb.JobView_JOB_VIEW_SUMMARY)
	answer.Type, answer.JobMetadata, answer.CurrentStateTime = pb.JobType_JOB_TYPE_UNKNOWN, nil, timestamppb.New(time.Unix(0, 0))
	// A launch that is not in the ledger has not happened: whoever counts launches must be able to trust it.
	if e.ledger != nil {
		line.Record = messageJSON(j.record)
		if err := e.ledger.append(line, j.move(firstState(r.flex))); err != nil {
			return nil, refuse(codes.Internal, err.Error())
		}
	} else {
		j.move(firstState(r.flex))
	}
	if update {
		old.record.ReplacedByJobId = j.record.Id
		old.stopping = pb.JobState_JOB_STATE_UPDATED
		e.setState(old, pb.JobState_JOB_STATE_UPDATED)
		old.kill()
	}
	e.jobs[j.record.Id] = j
	e.order = append(e.order, j)
	e.active[key] = j
	e.publish(j)
	e.start(j)
	return answer, nil
}

func (e *Emulator) activeIn(project string) int {
	n := 0
	for k := range e.active {
		if k.project == project {
			n++
		}
	}
	return n
}

func (e *Emulator) newJob(r request) *job {
	now := time.Now().UTC().Truncate(time.Microsecond)
	program, ok := e.config.Images[r.image]
	if !ok {
		program = unmapped{r.image}
	}
	e.starts[r.image]++
	options := map[string]any{"jobName": r.name, "project": r.project, "region": r.location, "runner": "DataflowRunner"}
	for k, v := range r.parameters {
		options[k] = v
	}
	streaming := r.metadata.GetStreaming() || program.DeclaredStreaming() || isTrue(r.parameters["streaming"])
	for _, o := range r.options {
		name, value, valued := strings.Cut(strings.TrimLeft(o, "-"), "=")
		options[name] = value
		if name == "streaming" && (!valued || isTrue(value)) {
			streaming = true
		}
	}
	maps.Copy(options, r.shown)
	for k, v := range options {
		if s, ok := v.(string); ok {
			options[k] = validText(s)
		}
	}
	env := r.environment
	env.Experiments = r.experiments
	env.SdkPipelineOptions = structOf(map[string]any{"options": options})
	language, version := "Go", "2.77.0"
	if r.sdk != nil {
		if v := r.sdk.Version; v != "" {
			version = v
		}
		if l := r.sdk.Language; l != pb.SDKInfo_UNKNOWN {
			language = strings.ToUpper(l.String()[:1]) + strings.ToLower(l.String()[1:])
		}
	}
	name := "Apache Beam SDK for " + language
	env.UserAgent = structOf(map[string]any{"name": name, "version": version})
	j := &job{
		record: &pb.Job{
			ProjectId: r.project, Location: r.location, Name: r.name,
			CreateTime: timestamppb.New(now), StartTime: timestamppb.New(now),
			Labels: r.labels, Environment: env, TransformNameMapping: r.renames,
			JobMetadata: &pb.JobMetadata{SdkVersion: &pb.SdkVersion{Version: version, VersionDisplayName: name, SdkSupportStatus: pb.SdkVersion_SUPPORTED}},
		},
		program: program,
		ended:   make(chan struct{}),
		over:    make(chan struct{}),
		stops:   make(chan Stop, 16),
	}
	if r.maxWorkers > 0 || r.numWorkers > 0 {
		env.WorkerPools = []*pb.WorkerPool{{Kind: "harness", NumWorkers: r.numWorkers, AutoscalingSettings: &pb.AutoscalingSettings{MaxNumWorkers: r.maxWorkers}}}
	}
	j.setType(streaming)
	for {
		j.record.Id = newJobID(now)
		if e.jobs[j.record.Id] == nil {
			break
		}
	}
	j.launch = Launch{
		JobID: j.record.Id, JobName: r.name, Project: r.project, Location: r.location, Image: r.image, Template: r.template,
		Parameters: maps.Clone(r.parameters), PipelineOptions: slices.Clone(r.options), Streaming: streaming, Number: e.starts[r.image],
	}
	return j
}

func isTrue(s string) bool {
	b, err := strconv.ParseBool(s)
	return err == nil && b
}
