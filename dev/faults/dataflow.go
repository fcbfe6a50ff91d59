package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
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

// Run implements dataflowemulator.Program.
func (p struckProgram) Run(ctx context.Context, launch dataflowemulator.Launch, control *dataflowemulator.Control) dataflowemulator.Outcome {
	return p.run(ctx, control, func() dataflowemulator.Outcome { return p.Program.Run(ctx, launch, control) })
}

// Resume implements dataflowemulator.Resumer. The rule's delay begins anew.
func (p struckProgram) Resume(ctx context.Context, launch dataflowemulator.Launch, control *dataflowemulator.Control, past dataflowemulator.Past) dataflowemulator.Outcome {
	return p.run(ctx, control, func() dataflowemulator.Outcome { return dataflowemulator.Resume(ctx, p.Program, launch, control, past) })
}

// run is the strike, and then, unless the job is over by it, what it runs.
func (p struckProgram) run(ctx context.Context, control *dataflowemulator.Control, then func() dataflowemulator.Outcome) dataflowemulator.Outcome {
	stuck := map[string]dataflowemulator.Stop{"CANCELLING": dataflowemulator.Cancel, "DRAINING": dataflowemulator.Drain}[p.strike.State] // the stop that does not end
	if p.strike.State != "QUEUED" {                                                                                                      // a job is born in QUEUED or PENDING
		control.State(pb.JobState_JOB_STATE_PENDING)
		if p.strike.State != "PENDING" {
			control.State(pb.JobState_JOB_STATE_RUNNING)
		}
	}
	over := p.over()
	hangs := false
	for {
		select {
		case stop := <-control.Stops():
			switch stop {
			case stuck:
				hangs = true
			case dataflowemulator.Drain:
				return dataflowemulator.Done()
			default:
				return dataflowemulator.Outcome{State: pb.JobState_JOB_STATE_CANCELLED}
			}
		case <-over:
			switch {
			case p.strike.Fault == Fail:
				return dataflowemulator.Failed("%s", cmp.Or(p.strike.Message, fmt.Sprintf("The job failed (fault %s).", p.strike.Name)))
			case hangs:
				return dataflowemulator.Done() // the emulator makes of it what was asked for
			}
			return then()
		case <-ctx.Done():
			return dataflowemulator.Outcome{}
		}
	}
}

// over returns a channel that closes when the job fails, or ceases to hang: after its delay, or when the rule or its window ends. A failure does not end with its
// rule: it was decided when the job began.
func (p struckProgram) over() <-chan struct{} {
	over := make(chan struct{})
	end := sync.OnceFunc(func() { close(over) })
	if p.delay > 0 || p.strike.Fault == Fail {
		time.AfterFunc(p.delay, end)
	}
	if p.strike.Fault == Fail {
		return over
	}
	if p.strike.Until > 0 {
		time.AfterFunc(time.Until(p.strike.since.Add(time.Duration(p.strike.Until))), end)
	}
	go func() {
		select {
		case <-p.strike.gone:
			end()
		case <-over:
		}
	}()
	return over
}
