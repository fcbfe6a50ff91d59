package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/dev/stack"
)

// Rate is a rule's rate.
func Rate(r float64) *float64 { return &r }

// labWithin bounds one call of the fault lab, which may be in the Dataflow emulator's process.
const labWithin = 30 * time.Second

// Fault sets a rule of the fault lab (docs/fault-lab.md).
func (b *Bench) Fault(r faults.Rule) error {
	b.Say("fault %s: %s at %s %s", r.Name, r.Fault, r.At, r.Operation)
	ctx, cancel := context.WithTimeout(context.Background(), labWithin)
	defer cancel()
	return b.PutFault(ctx, r)
}

// EndFault ends a rule; what comes after it is recovery.
func (b *Bench) EndFault(name string) error {
	b.Say("fault %s ends", name)
	ctx, cancel := context.WithTimeout(context.Background(), labWithin)
	defer cancel()
	defer b.mark()
	return b.DeleteFault(ctx, name)
}

// AwaitStruck waits until a rule has struck n times.
func (b *Bench) AwaitStruck(ctx context.Context, name string, n int) error {
	if _, err := b.AwaitFault(ctx, name, n); err != nil {
		return err
	}
	b.Say("fault %s has struck %d times", name, n)
	return nil
}

// Kill ends a part (temporal, functions, worker, …) with SIGKILL.
func (b *Bench) Kill(part string) error {
	b.Say("SIGKILL the %s", part)
	return b.part(part, func(p *stack.Part) error {
		if !p.Running() {
			return fmt.Errorf("the %s was to be killed, and does not run", part)
		}
		return p.Kill()
	})
}

// Stop ends a part with SIGTERM, and with SIGKILL after 10 seconds.
func (b *Bench) Stop(part string) error {
	b.Say("SIGTERM the %s", part)
	return b.part(part, (*stack.Part).Stop)
}

// Pause stops a part in mid-step with SIGSTOP.
func (b *Bench) Pause(part string) error {
	b.Say("SIGSTOP the %s", part)
	return b.part(part, (*stack.Part).Pause)
}

// Resume lets a paused part go on; what comes after it is recovery.
func (b *Bench) Resume(part string) error {
	b.Say("SIGCONT the %s", part)
	defer b.mark()
	return b.part(part, (*stack.Part).Resume)
}

// Start starts a part after its end; what comes after it is recovery.
func (b *Bench) Start(ctx context.Context, part string) error {
	err := b.part(part, func(p *stack.Part) error { return p.Start(ctx) })
	b.Say("the %s is back", part)
	b.mark()
	return err
}

func (b *Bench) part(name string, do func(*stack.Part) error) error {
	p := b.Part(name)
	if p == nil {
		return fmt.Errorf("the stack has no part %q", name)
	}
	return do(p)
}

// Sleep lets time pass, which is part of some stories.
func (b *Bench) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("let %s pass: %w", d, ctx.Err())
	}
}
