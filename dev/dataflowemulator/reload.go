package dataflowemulator

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
)

// Resumer is a Program whose jobs outlive the emulator: one that is started again with the ledger of one that was killed goes on with them. A job of any other
// program failed with its emulator.
type Resumer interface {
	Program
	// Resume runs a job from where it was. A stop that was accepted before waits in control's Stops.
	Resume(ctx context.Context, launch Launch, control *Control, past Past) Outcome
}

// Past is what a job went through before its emulator was started again.
type Past struct {
	// States are those that the job was in, the first one that it was born in, the last one that it is in.
	States []pb.JobState
	// Since is when it came into the last one.
	Since time.Time
}

// Resume goes on with a job of any program: one that is no Resumer fails, since its process is gone.
func Resume(ctx context.Context, p Program, launch Launch, control *Control, past Past) Outcome {
	if r, ok := p.(Resumer); ok {
		return r.Resume(ctx, launch, control, past)
	}
	return Failed("The job's process ended with the emulator that ran it, which was killed or stopped; this emulator knows of the job by its ledger.")
}

// untold is a state whose event may not have been delivered.
type untold struct {
	state pb.JobState
	at    time.Time
}

// reloaded is a job while the ledger is read.
type reloaded struct {
	*job
	line     ledgerLine // its launch
	past     Past
	untold   []untold
	replaces string
}

// reload knows the jobs of a ledger again, tells of the states that nobody may have been told of, and lets the jobs that are not over go on. It is called before
// anybody else has the emulator.
func (e *Emulator) reload(lines []ledgerLine) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	jobs := map[string]*reloaded{}
	var order []*reloaded
	for i, line := range lines {
		if line.Kind == "launch" {
			r, err := e.launched(line)
			if err != nil {
				return fmt.Errorf("line %d of the launch ledger: %w", i+1, err)
			}
			jobs[line.ID] = r
			order = append(order, r)
			continue
		}
		r := jobs[line.ID]
		if r == nil {
			return fmt.Errorf("line %d of the launch ledger speaks of job %s, which no line before it launched; move the file away to begin a new one", i+1, line.ID)
		}
		if err := r.take(line); err != nil {
			return fmt.Errorf("line %d of the launch ledger: %w", i+1, err)
		}
	}
	for _, r := range order {
		e.jobs[r.record.Id] = r.job
		e.order = append(e.order, r.job)
		if !terminal(r.record.CurrentState) {
			e.active[r.key()] = r.job
		}
	}
	for _, r := range order {
		e.publishAgain(r)
	}
	// A launch that replaces a job is written before that job's end.
	for _, r := range order {
		if old := jobs[r.replaces]; old != nil && !terminal(old.record.CurrentState) {
			old.record.ReplacedByJobId = r.record.Id
			old.stopping = pb.JobState_JOB_STATE_UPDATED
			e.setState(old.job, pb.JobState_JOB_STATE_UPDATED)
			e.active[r.key()] = r.job
		}
	}
	for _, r := range order {
		if terminal(r.record.CurrentState) {
			r.kill = func() {}
			close(r.over)
			if !r.endedAlready() {
				close(r.ended)
			}
			continue
		}
		if r.record.CurrentState == pb.JobState_JOB_STATE_UNKNOWN {
			e.setState(r.job, firstState(r.line.Template == "" || r.line.Template != r.line.Image))
			r.past.States, r.past.Since = []pb.JobState{r.record.CurrentState}, r.record.CurrentStateTime.AsTime()
		}
		r.resumed = &r.past
		e.start(r.job)
	}
	return nil
}

func (r *reloaded) endedAlready() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// launched makes the job of a launch's line, as it was then.
func (e *Emulator) launched(line ledgerLine) (*reloaded, error) {
	record := &pb.Job{
		Id: line.ID, Name: line.Job, ProjectId: line.Project, Location: line.Location, Labels: line.Labels,
		CreateTime: timestamppb.New(line.Time), StartTime: timestamppb.New(line.Time), Type: pb.JobType_JOB_TYPE_BATCH, ReplaceJobId: line.Replaces,
	}
	if err := readRecord(line.Record, record); err != nil {
		return nil, err
	}
	program, ok := e.config.Images[line.Image]
	if !ok {
		program = unmapped{line.Image}
	}
	j := &job{record: record, ended: make(chan struct{}), over: make(chan struct{}), stops: make(chan Stop, 16)}
	j.launch = Launch{
		JobID: line.ID, JobName: line.Job, Project: line.Project, Location: line.Location, Image: line.Image, Template: line.Template,
		Parameters: maps.Clone(line.Parameters), PipelineOptions: slices.Clone(line.Options), Streaming: j.streaming(), Number: max(line.Number, 1),
	}
	e.starts[line.Image] = max(e.starts[line.Image], j.launch.Number)
	switch {
	case line.OverQuota != nil:
		program = overQuota{program, *line.OverQuota}
	case e.config.Hooks.Program != nil:
		program = e.config.Hooks.Program(j.launch, program)
	}
	j.program = program
	return &reloaded{job: j, line: line, replaces: line.Replaces}, nil
}

// take lets a job become what one more line says.
func (r *reloaded) take(line ledgerLine) error {
	state := pb.JobState(pb.JobState_value[line.State])
	switch line.Kind {
	case "told":
		r.untold = slices.DeleteFunc(r.untold, func(u untold) bool { return u.state == state && u.at.Equal(line.Time) })
		return nil
	case "update":
		if err := readRecord(line.Record, r.record); err != nil {
			return err
		}
		r.launch.Streaming = r.streaming()
	case "state":
		r.record.CurrentState, r.record.CurrentStateTime = state, timestamppb.New(line.Time)
		r.record.ReplacedByJobId = line.ReplacedBy
		r.past.States, r.past.Since = append(r.past.States, state), line.Time
		r.untold = append(r.untold, untold{state, line.Time})
		if line.Message != "" {
			r.addMessage(pb.JobMessageImportance_JOB_MESSAGE_ERROR, line.Message)
		}
		if len(line.Metrics) > 0 {
			r.metrics = &pb.JobMetrics{}
			if err := protojson.Unmarshal(line.Metrics, r.metrics); err != nil {
				return fmt.Errorf("metrics of job %s: %w", line.ID, err)
			}
		}
	}
	return r.askedTo(line.Stop)
}

// stopNames are the ledger's words for stops.
var stopNames = map[Stop]string{Drain: "drain", Cancel: "cancel", ForceCancel: "force"}

func (r *reloaded) askedTo(name string) error {
	for stop, known := range stopNames {
		if known != name {
			continue
		}
		r.stopping, r.stop = pb.JobState_JOB_STATE_CANCELLED, stop
		if stop == Drain {
			r.stopping = pb.JobState_JOB_STATE_DRAINED
		}
		r.record.RequestedState = r.stopping
		for len(r.stops) > 0 { // the last one counts
			<-r.stops
		}
		r.send(stop)
		return nil
	}
	if name != "" {
		return fmt.Errorf("job %s was asked to %q, which is not known", r.record.Id, name)
	}
	return nil
}

// readRecord reads a line's record over what is known; an empty one changes nothing.
func readRecord(text json.RawMessage, into *pb.Job) error {
	if len(text) == 0 {
		return nil
	}
	state, at := into.CurrentState, into.CurrentStateTime
	proto.Reset(into)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, into); err != nil {
		return fmt.Errorf("the job's record cannot be read: %w", err)
	}
	into.CurrentState, into.CurrentStateTime = state, at
	return nil
}

// publishAgain tells of states that nobody may have been told of. The caller holds mu.
func (e *Emulator) publishAgain(r *reloaded) {
	state, at := r.record.CurrentState, r.record.CurrentStateTime
	for _, u := range r.untold {
		r.record.CurrentState, r.record.CurrentStateTime = u.state, timestamppb.New(u.at)
		e.publish(r.job)
	}
	r.record.CurrentState, r.record.CurrentStateTime = state, at
}

func firstState(flex bool) pb.JobState {
	if flex {
		return pb.JobState_JOB_STATE_QUEUED
	}
	return pb.JobState_JOB_STATE_PENDING
}

// progress orders the states that a job goes through to run; 0: the others.
func progress(s pb.JobState) int {
	switch s {
	case pb.JobState_JOB_STATE_QUEUED:
		return 1
	case pb.JobState_JOB_STATE_PENDING:
		return 2
	case pb.JobState_JOB_STATE_RUNNING:
		return 3
	}
	return 0
}
