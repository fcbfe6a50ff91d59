package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"

	"github.com/penstock/penstock/dev/dataflowemulator"
)

// DataflowHooks put the rules at Dataflow and Job into a Dataflow emulator.
func (l *Lab) DataflowHooks() dataflowemulator.Hooks {
	return dataflowemulator.Hooks{
		Before: func(ctx context.Context, op dataflowemulator.Operation) error { return l.dataflowCall(ctx, op, false) },
		Committed: func(ctx context.Context, op dataflowemulator.Operation) error {
			return l.dataflowCall(ctx, op, true)
		},
		Behaviour: l.behaviour,
		Program:   l.program,
	}
}

func always(Rule) bool { return true }

func never(Fault) bool { return false }

func dataflowTarget(op dataflowemulator.Operation) target {
	return target{place: Dataflow, operation: op.Method, subject: op.JobName, job: true}
}

func (l *Lab) dataflowCall(ctx context.Context, op dataflowemulator.Operation, committed bool) error {
	err := l.call(ctx, dataflowTarget(op), committed)
	if errors.Is(err, errReset) || errors.Is(err, errHung) {
		return fmt.Errorf("%w: %w", dataflowemulator.ErrNoAnswer, err)
	}
	return err
}

func (l *Lab) behaviour(op dataflowemulator.Operation, b *dataflowemulator.Behaviour) {
	for _, s := range l.strikes(dataflowTarget(op), func(r Rule) bool { return r.Fault.mode() }, never) {
		switch s.Fault {
		case SameName:
			b.ReturnExisting = s.Form == "existing"
		case Quota:
			b.ConcurrentJobs = *s.Limit
			if s.Form != "" {
				b.RefuseFlexOverQuota = s.Form == "refuse"
			}
		case ListLag:
			b.ListLag = time.Duration(s.Rule.Delay)
		case HideQueued:
			b.HideQueued = true
		case CancelNotReady:
			b.CancelNotReady = time.Duration(s.Rule.Delay)
		}
	}
}

// program is what runs a job in place of its own program, if a rule strikes it: the first that does.
func (l *Lab) program(launch dataflowemulator.Launch, own dataflowemulator.Program) dataflowemulator.Program {
	t := target{place: Job, operation: launch.Image, subject: launch.JobName, job: true}
	for _, s := range l.strikes(t, always, func(Fault) bool { return true }) {
		own = struckProgram{own, s, s.delay()}
	}
	return own
}

// struckProgram is a program under a rule at Job.
type struckProgram struct {
	dataflowemulator.Program
	strike strike
	delay  time.Duration
}

var jobStates = map[string]pb.JobState{
	"QUEUED": pb.JobState_JOB_STATE_QUEUED, "PENDING": pb.JobState_JOB_STATE_PENDING, "RUNNING": pb.JobState_JOB_STATE_RUNNING,
}

// Run implements dataflowemulator.Program.
func (p struckProgram) Run(ctx context.Context, launch dataflowemulator.Launch, control *dataflowemulator.Control) dataflowemulator.Outcome {
	state := p.strike.State
	stops := map[string]dataflowemulator.Stop{"CANCELLING": dataflowemulator.Cancel, "DRAINING": dataflowemulator.Drain}
	if state == "" {
		state = "RUNNING"
	}
	stuck := stops[state] // the stop that never ends, if any
	if stuck != 0 {
		state = "RUNNING"
	}
	if state != "QUEUED" { // a job is born in QUEUED or PENDING
		control.State(pb.JobState_JOB_STATE_PENDING)
	}
	if state == "RUNNING" {
		control.State(jobStates[state])
	}
	var enough, gone <-chan time.Time
	if p.strike.Fault == Fail || p.delay > 0 {
		enough = time.After(p.delay)
	}
	if p.strike.Until > 0 {
		gone = time.After(time.Until(p.strike.since.Add(time.Duration(p.strike.Until))))
	}
	if p.strike.Fault == Fail {
		gone = nil // it was decided when the job began
	}
	hung, over := false, false
	for {
		ruleEnds := p.strike.gone
		if p.strike.Fault == Fail {
			ruleEnds = nil
		}
		select {
		case stop := <-control.Stops():
			if stop == stuck {
				hung = true
				continue
			}
			if stop == dataflowemulator.Drain {
				return dataflowemulator.Done()
			}
			return dataflowemulator.Outcome{State: pb.JobState_JOB_STATE_CANCELLED}
		case <-enough:
			over = true
		case <-gone:
			over = true
		case <-ruleEnds:
			over = true
		case <-ctx.Done():
			return dataflowemulator.Outcome{}
		}
		switch {
		case !over:
		case p.strike.Fault == Fail && p.strike.Message != "":
			return dataflowemulator.Failed("%s", p.strike.Message)
		case p.strike.Fault == Fail:
			return dataflowemulator.Failed("The job failed (fault %s).", p.strike.Name)
		case hung:
			return dataflowemulator.Done() // the emulator makes of it what was asked for
		default:
			return p.Program.Run(ctx, launch, control)
		}
	}
}
