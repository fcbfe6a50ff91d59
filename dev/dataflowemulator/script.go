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
	steps := []Step{{State: pb.JobState_JOB_STATE_RUNNING}}
	if n := len(s.Launches); n > 0 {
		steps = s.Launches[min(launch.Number, n)-1]
	}
	for _, step := range steps {
		if step.After > 0 {
			select {
			case <-time.After(step.After):
			case stop := <-control.Stops():
				return s.stopped(ctx, stop, control)
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
		if step.State != pb.JobState_JOB_STATE_UNKNOWN {
			control.State(step.State)
		}
	}
	select {
	case stop := <-control.Stops():
		return s.stopped(ctx, stop, control)
	case <-ctx.Done():
		return Outcome{}
	}
}

func (s Script) stopped(ctx context.Context, stop Stop, control *Control) Outcome {
	end := time.After(s.StopTakes)
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
