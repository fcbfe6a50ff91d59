package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"

	"github.com/penstock/penstock/dev/dataflowemulator"
)

// quick runs jobs that are done at once.
type quick struct{}

func (quick) DeclaredStreaming() bool { return false }

func (quick) Run(_ context.Context, _ dataflowemulator.Launch, c *dataflowemulator.Control) dataflowemulator.Outcome {
	c.State(dataflowpb.JobState_JOB_STATE_RUNNING)
	return dataflowemulator.Done()
}

// held runs jobs that their tests direct. A batch job is RUNNING at once, a streaming
// one when it is told.
type held struct {
	jobs      *jobs
	streaming bool
}

func (h held) DeclaredStreaming() bool { return h.streaming }

func (h held) Run(ctx context.Context, l dataflowemulator.Launch, c *dataflowemulator.Control) dataflowemulator.Outcome {
	j := &heldJob{
		Launch: l, control: c,
		ending: make(chan dataflowemulator.Outcome, 1), stopped: make(chan struct{}), ended: make(chan struct{}),
	}
	defer close(j.ended)
	if !h.streaming {
		c.State(dataflowpb.JobState_JOB_STATE_RUNNING)
	}
	h.jobs.add(j)
	var stopped sync.Once
	for {
		select {
		case outcome := <-j.ending:
			return outcome
		case how := <-c.Stops():
			j.note(how)
			stopped.Do(func() { close(j.stopped) })
			if how == dataflowemulator.ForceCancel || !j.ignoresStops() {
				return dataflowemulator.Done()
			}
		case <-ctx.Done():
			return dataflowemulator.Outcome{}
		}
	}
}

// heldJob is one job. Its methods may be called from any test.
type heldJob struct {
	dataflowemulator.Launch
	control *dataflowemulator.Control
	ending  chan dataflowemulator.Outcome
	stopped chan struct{} // closed once it was asked to stop
	ended   chan struct{}

	mu       sync.Mutex
	stops    []dataflowemulator.Stop
	stubborn bool
}

func (j *heldJob) running() { j.control.State(dataflowpb.JobState_JOB_STATE_RUNNING) }
func (j *heldJob) done()    { j.ending <- dataflowemulator.Done() }
func (j *heldJob) fail(format string, args ...any) {
	j.ending <- dataflowemulator.Failed(format, args...)
}

// ignoreStops makes the job go on when it is cancelled or drained, until it is
// cancelled by force, or done or fail.
func (j *heldJob) ignoreStops() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stubborn = true
}

func (j *heldJob) ignoresStops() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stubborn
}

func (j *heldJob) note(s dataflowemulator.Stop) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stops = append(j.stops, s)
}

// asked are the requests to stop that reached the job.
func (j *heldJob) asked() []dataflowemulator.Stop {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.stops)
}

func (j *heldJob) over() bool {
	select {
	case <-j.ended:
		return true
	default:
		return false
	}
}

// awaitEnd waits until the job's program has returned.
func (j *heldJob) awaitEnd(t *testing.T) {
	t.Helper()
	select {
	case <-j.ended:
	case <-time.After(patience):
		t.Fatalf("job %s did not end within %v", j.JobName, patience)
	}
}

// jobs are all jobs of the held templates on one stack.
type jobs struct {
	mu      sync.Mutex
	all     []*heldJob
	changed chan struct{} // closed and replaced with each new job
}

func newJobs() *jobs { return &jobs{changed: make(chan struct{})} }

func (s *jobs) add(j *heldJob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, j)
	close(s.changed)
	s.changed = make(chan struct{})
}

// await waits for a job of the name. Of several it gives the newest.
func (s *jobs) await(t *testing.T, name string) *heldJob {
	t.Helper()
	return s.awaitNth(t, name, 1)
}

// awaitNth waits for the nth job of the name.
func (s *jobs) awaitNth(t *testing.T, name string, n int) *heldJob {
	t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		changed := s.changed
		var found []*heldJob
		for _, j := range s.all {
			if j.JobName == name {
				found = append(found, j)
			}
		}
		s.mu.Unlock()
		if len(found) >= n {
			return found[len(found)-1]
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no job %s within %v", name, patience)
		}
	}
}

// of are the jobs that an object's event started.
func (s *jobs) of(object string) []*heldJob {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*heldJob
	for _, j := range s.all {
		if j.Parameters["object"] == object {
			found = append(found, j)
		}
	}
	return found
}

// calls records the calls of the Dataflow API, and lets tests get in their way.
type calls struct {
	mu     sync.Mutex
	made   []call
	names  map[string]string // of jobs, by ID
	before map[*fault]bool
	after  map[*fault]bool
}

// call is one call of the API.
type call struct{ Method, JobName string }

// fault is called for each call of a method about jobs whose names begin so.
type fault struct {
	method, prefix string
	do             func(ctx context.Context, job string) error
}

func newCalls() *calls {
	return &calls{names: map[string]string{}, before: map[*fault]bool{}, after: map[*fault]bool{}}
}

func (c *calls) hooks() dataflowemulator.Hooks {
	return dataflowemulator.Hooks{
		Before: func(ctx context.Context, op dataflowemulator.Operation) error {
			c.mu.Lock()
			name := c.name(op)
			c.made = append(c.made, call{op.Method, name})
			c.mu.Unlock()
			return c.meet(ctx, c.before, op.Method, name)
		},
		Committed: func(ctx context.Context, op dataflowemulator.Operation) error {
			c.mu.Lock()
			if op.JobID != "" && op.JobName != "" {
				c.names[op.JobID] = op.JobName
			}
			name := c.name(op)
			c.mu.Unlock()
			return c.meet(ctx, c.after, op.Method, name)
		},
	}
}

// name is the name of the job that a call is about. The caller holds mu.
func (c *calls) name(op dataflowemulator.Operation) string {
	if op.JobName != "" {
		return op.JobName
	}
	return c.names[op.JobID]
}

func (c *calls) meet(ctx context.Context, faults map[*fault]bool, method, name string) error {
	c.mu.Lock()
	var met []*fault
	for f := range faults {
		if f.method == method && strings.HasPrefix(name, f.prefix) {
			met = append(met, f)
		}
	}
	c.mu.Unlock()
	for _, f := range met {
		if err := f.do(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// hold calls do before each call of the method about a pipeline's jobs, until the
// test ends. What do returns is the call's answer.
func (c *calls) hold(t *testing.T, method, pipeline string, do func(ctx context.Context, job string) error) {
	c.add(t, c.before, method, pipeline, do)
}

// spoil is hold, but after the call took effect and before it is answered.
func (c *calls) spoil(t *testing.T, method, pipeline string, do func(ctx context.Context, job string) error) {
	c.add(t, c.after, method, pipeline, do)
}

func (c *calls) add(t *testing.T, to map[*fault]bool, method, pipeline string, do func(ctx context.Context, job string) error) {
	t.Helper()
	f := &fault{method: method, prefix: fmt.Sprintf("%s-%s-", deployment, pipeline), do: do}
	c.mu.Lock()
	defer c.mu.Unlock()
	to[f] = true
	t.Cleanup(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(to, f)
	})
}

// of are the methods called so far about the job of a name.
func (c *calls) of(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var methods []string
	for _, m := range c.made {
		if m.JobName == name {
			methods = append(methods, m.Method)
		}
	}
	return methods
}
