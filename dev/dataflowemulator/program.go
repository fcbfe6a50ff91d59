package dataflowemulator

import (
	"context"
	"fmt"
	"strings"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Program runs the jobs of one image.
type Program interface {
	// Run runs one job from its launch to its end, reporting on the way through control, and returns how it ended. It must return soon after the context ends,
	// and after control's Stops say so. What it reports after it was told to stop is kept, but a job whose cancel was accepted ends in CANCELLED.
	Run(ctx context.Context, launch Launch, control *Control) Outcome

	// DeclaredStreaming says that the image's jobs are streaming jobs whatever their launch says.
	DeclaredStreaming() bool
}

// Launch is what a program is told of the job that it runs.
type Launch struct {
	JobID, JobName, Project, Location string
	// Image is the key in Config.Images; Template the gs:// path of the template file, empty for a container spec given in the request.
	Image, Template string
	// Parameters are the launch's, validated. They come from outside: they are data, never part of a command line that a shell reads.
	Parameters map[string]string
	// PipelineOptions are the environment's additionalPipelineOptions, as "name=value".
	PipelineOptions []string
	// Streaming is what the template and the launch say of the job's type.
	Streaming bool
	// Number counts the launches of this image by this emulator, from 1.
	Number int
}

// Outcome is how a program's job ended.
type Outcome struct {
	// State is DONE, FAILED or CANCELLED. Anything else counts as FAILED.
	State pb.JobState
	// Error is the text of the job's error message, for FAILED.
	Error string
}

// Done and Failed are the usual outcomes.
func Done() Outcome { return Outcome{State: pb.JobState_JOB_STATE_DONE} }

// Failed is the outcome of a job that failed for the given reason.
func Failed(format string, args ...any) Outcome {
	return Outcome{State: pb.JobState_JOB_STATE_FAILED, Error: fmt.Sprintf(format, args...)}
}

// Stop is what a program is asked to do before its job's own end.
type Stop int

// The ways to stop, from mild to hard.
const (
	Drain Stop = iota + 1
	Cancel
	ForceCancel
)

// Control is a running program's hold on its job.
type Control struct {
	e *Emulator
	j *job
}

// State moves the job: PENDING, RUNNING, RESOURCE_CLEANING_UP and so on. Terminal states come from Run's outcome and are ignored here, as is every state once the
// job was asked to stop.
func (c *Control) State(state pb.JobState) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if terminal(state) || c.j.stopping != pb.JobState_JOB_STATE_UNKNOWN {
		return
	}
	// A program that begins again has a job that was further.
	if at := progress(state); c.j.resumed != nil && at > 0 && at < progress(c.j.record.CurrentState) {
		return
	}
	c.e.setState(c.j, state)
}

// Streaming says that the job turned out to be a streaming job.
func (c *Control) Streaming() {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if c.j.streaming() {
		return
	}
	c.j.setType(true)
	c.e.updated(c.j)
}

// Message adds a job message.
func (c *Control) Message(importance pb.JobMessageImportance, text string) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.j.addMessage(importance, text)
}

// Metrics replaces the job's metrics.
func (c *Control) Metrics(metrics []*pb.MetricUpdate) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.j.metrics = &pb.JobMetrics{MetricTime: timestamppb.New(time.Now().UTC().Truncate(time.Microsecond)), Metrics: metrics}
}

// Stops delivers each accepted request to stop, in order.
func (c *Control) Stops() <-chan Stop { return c.j.stops }

// start runs a job's program to its end. The caller holds mu.
func (e *Emulator) start(j *job) {
	ctx, kill := context.WithCancel(e.ctx)
	j.kill = kill
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		defer kill()
		defer close(j.over)
		if j.after != nil {
			select {
			case <-j.after.over:
			case <-ctx.Done():
			}
		}
		outcome := j.run(ctx, &Control{e, j})
		if ctx.Err() != nil && e.ctx.Err() != nil {
			return // the emulator closes: the job did not end, its emulator did
		}
		e.finish(j, outcome)
	}()
}

func (j *job) run(ctx context.Context, control *Control) Outcome {
	if j.resumed == nil {
		return j.program.Run(ctx, j.launch, control)
	}
	return Resume(ctx, j.program, j.launch, control, *j.resumed)
}

func (e *Emulator) finish(j *job, outcome Outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if terminal(j.record.CurrentState) {
		return
	}
	state := outcome.State
	if !terminal(state) {
		state = pb.JobState_JOB_STATE_FAILED
	}
	switch j.stopping {
	case pb.JobState_JOB_STATE_CANCELLED:
		// An accepted cancel is a promise: clients wait for CANCELLED.
		state = pb.JobState_JOB_STATE_CANCELLED
	case pb.JobState_JOB_STATE_DRAINED:
		if state != pb.JobState_JOB_STATE_FAILED {
			state = pb.JobState_JOB_STATE_DRAINED
		}
	}
	j.failure = outcome.Error
	if state == pb.JobState_JOB_STATE_FAILED && j.failure == "" {
		j.failure = "The job failed."
	}
	if j.failure != "" {
		j.failure = validText(j.failure)
		j.addMessage(pb.JobMessageImportance_JOB_MESSAGE_ERROR, j.failure)
	}
	e.setState(j, state)
}

func (j *job) setType(streaming bool) {
	j.record.Type = pb.JobType_JOB_TYPE_BATCH
	kind := "FNAPI_BATCH"
	if streaming {
		j.record.Type = pb.JobType_JOB_TYPE_STREAMING
		kind = "FNAPI_STREAMING"
	}
	if env := j.record.Environment; env != nil {
		env.Version = structOf(map[string]any{"major": "8", "job_type": kind})
	}
}

// unmapped runs the jobs of an image that no program is mapped to.
type unmapped struct{ image string }

// DeclaredStreaming implements Program.
func (u unmapped) DeclaredStreaming() bool { return false }

// Run implements Program.
func (u unmapped) Run(_ context.Context, _ Launch, _ *Control) Outcome {
	return Failed("The image %q cannot be run: no local program is mapped to it. Add it to the emulator's image map.", u.image)
}

// Resume implements Resumer.
func (u unmapped) Resume(ctx context.Context, l Launch, c *Control, _ Past) Outcome {
	return u.Run(ctx, l, c)
}

// overQuota runs the jobs of flex templates that were launched when the project's quota was used up.
type overQuota struct {
	Program
	limit int
}

// Run implements Program.
func (o overQuota) Run(_ context.Context, l Launch, _ *Control) Outcome {
	return Failed("%s", quotaText(l.Project, o.limit))
}

// Resume implements Resumer.
func (o overQuota) Resume(ctx context.Context, l Launch, c *Control, _ Past) Outcome {
	return o.Run(ctx, l, c)
}

// quotaText names the quota in the words by which clients know it (https://cloud.google.com/dataflow/quotas).
func quotaText(project string, limit int) string {
	return fmt.Sprintf("The workflow could not be created. Causes: (%s): Dataflow quota error for jobs-per-project quota. Project %s is running %d jobs. Wait for one to end, or ask for a higher quota.", incident(), project, limit)
}

// validText makes a program's output fit a protocol buffer string, which is UTF-8.
func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
