package dataflowemulator

import (
	"context"
	"maps"
	"slices"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Script is a Program that runs nothing: its jobs go through states by a timetable.
type Script struct {
	// Launches are the timetables of the first, second, … launch of the image. Further launches follow the last one. Empty: a job runs until it is stopped.
	Launches [][]Step
	// Streaming makes them streaming jobs.
	Streaming bool
	// StopTakes is how long a job that was cancelled or drained takes to end.
	StopTakes time.Duration
	// StuckCancel makes a plain cancel never end: the job stays in CANCELLING until it is cancelled by force.
	StuckCancel bool
}

// Step is one line of a Script's timetable.
type Step struct {
	// After is how long after the step before it this one comes.
	After time.Duration
	// State is what the job then is; unknown: what it was. A terminal state ends the job. A timetable without one leaves the job as it is until it is stopped.
	State pb.JobState
	// Message, if not empty, is added as a job message: an error for FAILED, else a basic one. It is the failure's text for FAILED.
	Message string
	// Counters, if not nil, become the job's user counters, in step "script" and namespace "script".
	Counters map[string]int64
}

// DeclaredStreaming implements Program.
func (s Script) DeclaredStreaming() bool { return s.Streaming }

// Run implements Program.
func (s Script) Run(ctx context.Context, launch Launch, control *Control) Outcome {
	return s.follow(ctx, s.steps(launch), 0, time.Now(), control)
}

// Resume implements Resumer: the job goes on with the step after its state, and the time that it has been in that state counts.
func (s Script) Resume(ctx context.Context, launch Launch, control *Control, past Past) Outcome {
	select {
	case stop := <-control.Stops():
		return s.stopped(ctx, stop, past.Since, control)
	default:
	}
	steps := s.steps(launch)
	return s.follow(ctx, steps, made(steps, past.States), past.Since, control)
}

func (s Script) steps(launch Launch) []Step {
	if n := len(s.Launches); n > 0 {
		return s.Launches[min(launch.Number, n)-1]
	}
	return []Step{{State: pb.JobState_JOB_STATE_RUNNING}}
}

// made is how many steps a job has behind it that has been in these states. Only steps that change the state can be told; those are counted, since a timetable
// may have a state twice.
func made(steps []Step, states []pb.JobState) int {
	if len(states) == 0 {
		return 0
	}
	at, changes, last := states[0], 0, 0
	for i, step := range steps {
		if step.State == pb.JobState_JOB_STATE_UNKNOWN || step.State == at {
			continue
		}
		if changes == len(states)-1 {
			break
		}
		at, changes, last = step.State, changes+1, i+1
	}
	return last
}

// follow goes through a timetable. Of the first steps, which were made at an earlier time, it repeats what the ledger does not keep; the next one is due its After
// from then.
func (s Script) follow(ctx context.Context, steps []Step, made int, from time.Time, control *Control) Outcome {
	for i, step := range steps {
		if i >= made && step.After > 0 {
			from = from.Add(step.After)
			select {
			case <-time.After(time.Until(from)):
			case stop := <-control.Stops():
				return s.stopped(ctx, stop, time.Now(), control)
			case <-ctx.Done():
				return Outcome{}
			}
		}
		if step.Counters != nil {
			control.Metrics(counters(step.Counters))
		}
		if step.State == pb.JobState_JOB_STATE_FAILED {
			return Outcome{State: step.State, Error: step.Message}
		}
		if step.Message != "" {
			control.Message(pb.JobMessageImportance_JOB_MESSAGE_BASIC, step.Message)
		}
		if terminal(step.State) {
			return Outcome{State: step.State}
		}
		if i >= made && step.State != pb.JobState_JOB_STATE_UNKNOWN {
			control.State(step.State)
		}
	}
	select {
	case stop := <-control.Stops():
		return s.stopped(ctx, stop, time.Now(), control)
	case <-ctx.Done():
		return Outcome{}
	}
}

// stopped ends a job that was told to stop at a time.
func (s Script) stopped(ctx context.Context, stop Stop, since time.Time, control *Control) Outcome {
	end := time.After(time.Until(since.Add(s.StopTakes)))
	for {
		if stop == ForceCancel {
			return Outcome{State: pb.JobState_JOB_STATE_CANCELLED}
		}
		if s.StuckCancel && stop == Cancel {
			end = nil
		}
		select {
		case <-end:
			return Done()
		case stop = <-control.Stops():
		case <-ctx.Done():
			return Outcome{}
		}
	}
}

func counters(values map[string]int64) []*pb.MetricUpdate {
	now := timestamppb.New(time.Now().UTC().Truncate(time.Microsecond))
	var out []*pb.MetricUpdate
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, tentative := range []bool{false, true} {
			at := map[string]string{"step": "script", "namespace": "script"}
			if tentative {
				at["tentative"] = "true"
			}
			out = append(out, &pb.MetricUpdate{
				Name:       &pb.MetricStructuredName{Origin: "user", Name: name, Context: at},
				Scalar:     structpb.NewNumberValue(float64(values[name])),
				UpdateTime: now,
			})
		}
	}
	return out
}
