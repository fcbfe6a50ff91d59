package dataflowemulator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Prism answers nothing when a job is submitted to it: whoever watches has to look. It is looked at so often until there is one.
const submitPoll = 25 * time.Millisecond

// metricsEvery is how often the counters of a running job are fetched.
const metricsEvery = time.Second

// beamRun is one job on its Prism.
type beamRun struct {
	command Command
	launch  Launch
	control *Control
	client  jobpb.JobServiceClient
	id      string            // the job's ID in Prism
	steps   map[string]string // names of transforms by ID
}

func (c Command) runBeam(ctx context.Context, launch Launch, control *Control, log io.Writer, prism *prismServer) Outcome {
	conn, err := grpc.NewClient(prism.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)))
	if err != nil {
		return Failed("Prism at %s cannot be asked: %v", prism.endpoint, err)
	}
	defer conn.Close()
	child, err := c.start(launch, prism.endpoint, log)
	if err != nil {
		return Failed("%v", err)
	}
	defer child.kill()
	r := &beamRun{command: c, launch: launch, control: control, client: jobpb.NewJobServiceClient(conn)}
	if outcome, submitted := r.awaitSubmission(ctx, child, prism); !submitted {
		return outcome
	}
	outcome := r.watch(ctx, child, prism)
	if ctx.Err() == nil {
		r.fetchMetrics(ctx)
		// The process usually ends by itself now; it may have something to tidy up.
		child.wait(c.Grace)
	}
	return outcome
}

// awaitSubmission waits for the pipeline's process to submit its job. It returns an outcome if that will not be.
func (r *beamRun) awaitSubmission(ctx context.Context, child *process, prism *prismServer) (Outcome, bool) {
	tick := time.NewTicker(submitPoll)
	defer tick.Stop()
	last := false
	for {
		jobs, err := r.client.GetJobs(ctx, &jobpb.GetJobsRequest{})
		if err == nil && len(jobs.JobInfo) > 0 {
			r.id = jobs.JobInfo[0].JobId
			r.control.State(pb.JobState_JOB_STATE_PENDING)
			r.readPipeline(ctx)
			return Outcome{}, true
		}
		if last {
			return Failed("%s", child.describe("The pipeline's process submitted no job. It")), false
		}
		select {
		case <-child.exited:
			last = true // it may have submitted one and be gone since
		case <-prism.exited:
			return Failed("Prism ended before the pipeline's process submitted its job."), false
		case <-r.control.Stops():
			return Outcome{State: pb.JobState_JOB_STATE_CANCELLED}, false
		case <-ctx.Done():
			return Outcome{}, false
		case <-tick.C:
		}
	}
}

// readPipeline learns the names of the steps, and whether the job is a streaming job: Dataflow's rule is that a collection is unbounded.
func (r *beamRun) readPipeline(ctx context.Context) {
	r.steps = map[string]string{}
	resp, err := r.client.GetPipeline(ctx, &jobpb.GetJobPipelineRequest{JobId: r.id})
	if err != nil {
		return
	}
	components := resp.GetPipeline().GetComponents()
	for id, t := range components.GetTransforms() {
		r.steps[id] = t.GetUniqueName()
	}
	for _, c := range components.GetPcollections() {
		if c.GetIsBounded() == pipepb.IsBounded_UNBOUNDED {
			r.control.Streaming()
			return
		}
	}
}

// watch follows the job in Prism to its end.
func (r *beamRun) watch(ctx context.Context, child *process, prism *prismServer) Outcome {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan Outcome, 1)
	go r.follow(ctx, ended)

	tick := time.NewTicker(metricsEvery)
	defer tick.Stop()
	var deadline <-chan time.Time
	exited, stopped := child.exited, false
	for {
		select {
		case outcome := <-ended:
			if stopped {
				// What Prism makes of a pipeline that was told to stop is no news: not even a failure.
				return Outcome{State: pb.JobState_JOB_STATE_CANCELLED}
			}
			return outcome
		case stop := <-r.control.Stops():
			if stop == ForceCancel {
				return Outcome{State: pb.JobState_JOB_STATE_CANCELLED}
			}
			// Prism cannot drain: a drain stops the job as a cancel does.
			stopped = true
			if _, err := r.client.Cancel(ctx, &jobpb.CancelJobRequest{JobId: r.id}); err != nil {
				r.control.Message(pb.JobMessageImportance_JOB_MESSAGE_WARNING, fmt.Sprintf("Prism could not cancel the job, so it is killed: %v", err))
				return Outcome{State: pb.JobState_JOB_STATE_CANCELLED}
			}
			deadline = time.After(r.command.Grace)
		case <-deadline:
			if exited == nil && !stopped {
				return Failed("%s", child.describe("The pipeline's process was gone before its job had ended. It"))
			}
			return Outcome{State: pb.JobState_JOB_STATE_CANCELLED}
		case <-exited:
			// A job without its process stays RUNNING in Prism for ever; but the news of its end may be on its way.
			exited = nil
			if deadline == nil {
				deadline = time.After(min(r.command.Grace, 2*time.Second))
			}
		case <-prism.exited:
			return Failed("Prism ended before the job had.")
		case <-tick.C:
			r.fetchMetrics(ctx)
		case <-ctx.Done():
			return Outcome{}
		}
	}
}

// follow turns Prism's messages and states into the job's, and reports its end.
func (r *beamRun) follow(ctx context.Context, ended chan<- Outcome) {
	stream, err := r.client.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: r.id})
	failure := ""
	for err == nil {
		var m *jobpb.JobMessagesResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		if text := m.GetMessageResponse(); text != nil {
			if text.GetImportance() == jobpb.JobMessage_JOB_MESSAGE_ERROR {
				failure = text.GetMessageText() // Prism's one error is the failure's cause; it comes last
				continue
			}
			r.control.Message(importance(text.GetImportance()), text.GetMessageText())
		}
		if s := m.GetStateResponse(); s != nil && s.GetState() == jobpb.JobState_RUNNING {
			r.control.State(pb.JobState_JOB_STATE_RUNNING)
		}
	}
	if ctx.Err() != nil {
		return
	}
	// The stream ends when the job does, and tells why it failed but not always that it did.
	event, stateErr := r.client.GetState(ctx, &jobpb.GetJobStateRequest{JobId: r.id})
	switch {
	case stateErr != nil:
		ended <- Failed("Prism no longer knows the job: %v", stateErr)
	case event.GetState() == jobpb.JobState_DONE, event.GetState() == jobpb.JobState_DRAINED:
		ended <- Done()
	case event.GetState() == jobpb.JobState_CANCELLED:
		ended <- Outcome{State: pb.JobState_JOB_STATE_CANCELLED}
	case event.GetState() == jobpb.JobState_FAILED:
		if failure == "" {
			failure = "The pipeline failed; Prism gave no reason."
		}
		r.control.Message(pb.JobMessageImportance_JOB_MESSAGE_DETAILED, failure)
		ended <- Failed("%s", cause(failure))
	case !errors.Is(err, io.EOF):
		ended <- Failed("Prism's messages broke off in state %s: %v", event.GetState(), err)
	default:
		ended <- Failed("Prism stopped telling of the job in state %s.", event.GetState())
	}
}

// cause is the pipeline's own error in Beam's text of a failure, which begins with the plan that was executed.
func cause(failure string) string {
	const mark = "caused by:\n"
	if i := strings.LastIndex(failure, mark); i >= 0 {
		failure = failure[i+len(mark):]
	}
	if head, rest, ok := strings.Cut(failure, " failed:\n"); ok && strings.HasPrefix(head, "DoFn[") {
		failure = rest
	}
	return strings.TrimSpace(failure)
}

func importance(i jobpb.JobMessage_MessageImportance) pb.JobMessageImportance {
	switch i {
	case jobpb.JobMessage_JOB_MESSAGE_DEBUG:
		return pb.JobMessageImportance_JOB_MESSAGE_DEBUG
	case jobpb.JobMessage_JOB_MESSAGE_DETAILED:
		return pb.JobMessageImportance_JOB_MESSAGE_DETAILED
	case jobpb.JobMessage_JOB_MESSAGE_WARNING:
		return pb.JobMessageImportance_JOB_MESSAGE_WARNING
	}
	return pb.JobMessageImportance_JOB_MESSAGE_BASIC
}

func (r *beamRun) fetchMetrics(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := r.client.GetJobMetrics(ctx, &jobpb.GetJobMetricsRequest{JobId: r.id})
	if err != nil {
		return // the next look may succeed; a job does not fail for want of counters
	}
	now := timestamppb.New(time.Now().UTC().Truncate(time.Microsecond))
	var out []*pb.MetricUpdate
	for _, m := range resp.GetMetrics().GetCommitted() {
		out = r.appendMetric(out, m, false, now)
	}
	for _, m := range resp.GetMetrics().GetAttempted() {
		out = r.appendMetric(out, m, true, now)
	}
	slices.SortStableFunc(out, func(a, b *pb.MetricUpdate) int { return compareNames(a.Name, b.Name) })
	r.control.Metrics(out)
}

// Beam's URNs of the metrics that have a place in Dataflow's answer (beam/model/pipeline/.../metrics.proto).
const (
	urnSum          = "beam:metric:user:sum_int64:v1"
	urnDistribution = "beam:metric:user:distribution_int64:v1"
	urnLatest       = "beam:metric:user:latest_int64:v1"
	urnElements     = "beam:metric:element_count:v1"
)

func (r *beamRun) appendMetric(out []*pb.MetricUpdate, m *pipepb.MonitoringInfo, tentative bool, now *timestamppb.Timestamp) []*pb.MetricUpdate {
	labels := m.GetLabels()
	u := &pb.MetricUpdate{Name: &pb.MetricStructuredName{Context: map[string]string{}}, UpdateTime: now}
	values := varints(m.GetPayload())
	switch urn := m.GetUrn(); {
	case urn == urnElements && len(values) == 1:
		u.Name.Origin, u.Name.Name = "dataflow/v1b3", "ElementCount"
		u.Name.Context["output_user_name"] = labels["PCOLLECTION"]
		u.Scalar = structpb.NewNumberValue(float64(values[0]))
	case urn == urnSum && len(values) == 1:
		u.Scalar = structpb.NewNumberValue(float64(values[0]))
	case urn == urnDistribution && len(values) >= 4:
		u.Distribution = structpb.NewStructValue(structOf(map[string]any{
			"count": float64(values[0]), "sum": float64(values[1]), "min": float64(values[2]), "max": float64(values[3]),
		}))
	case urn == urnLatest && len(m.GetPayload()) > 8:
		latest := varints(m.GetPayload()[8:]) // a time of 8 bytes comes first
		if len(latest) != 1 {
			return out
		}
		u.Gauge = structpb.NewStructValue(structOf(map[string]any{"value": float64(latest[0])}))
	default:
		return out
	}
	if u.Name.Origin == "" {
		u.Name.Origin, u.Name.Name = "user", validText(labels["NAME"])
		u.Name.Context["namespace"] = validText(labels["NAMESPACE"])
		step := labels["PTRANSFORM"]
		if name := r.steps[step]; name != "" {
			step = name
		}
		u.Name.Context["step"] = validText(step)
	}
	if tentative {
		u.Name.Context["tentative"] = "true"
	}
	return append(out, u)
}

// varints reads a payload that is a row of Beam's variable-length integers.
func varints(b []byte) []int64 {
	var out []int64
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return nil
		}
		out = append(out, int64(v))
		b = b[n:]
	}
	return out
}
