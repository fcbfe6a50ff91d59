// Package heartbeat holds two pipelines that take as long as you say: they stand for any job that is still running when something else happens.
package heartbeat

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/periodic"
)

func init() {
	register.DoFn2x0[context.Context, []byte](&countFn{})
	register.DoFn2x1[context.Context, []byte, error](&waitFn{})
}

// Forever beats at a fixed interval until it is cancelled or drained: a streaming job.
type Forever struct {
	// Interval is the time from one beat to the next. It must be positive.
	Interval time.Duration
}

// Flags declares the parameters as flags on fs.
func (o *Forever) Flags(fs *flag.FlagSet) {
	fs.DurationVar(&o.Interval, "interval", time.Second, "time from one beat to the next")
}

// Build adds the pipeline to s.
func (o *Forever) Build(s beam.Scope) error {
	if o.Interval <= 0 {
		return fmt.Errorf("--interval is %v; it must be positive, for example 1s", o.Interval)
	}
	start := time.Now()
	// periodic wants an end: a hundred years is one that no job sees.
	end := start.AddDate(100, 0, 0)
	beam.ParDo0(s, &countFn{}, periodic.Impulse(s, start, end, o.Interval, false))
	return nil
}

var beats = beam.NewCounter("heartbeat", "beats")

type countFn struct{}

func (*countFn) ProcessElement(ctx context.Context, _ []byte) {
	beats.Inc(ctx, 1)
	log.Debug(ctx, "beat")
}

// Wait ends by itself after a given time: a batch job.
type Wait struct {
	// For is how long the job takes, from when its worker starts. 0 is at once.
	For time.Duration
}

// Flags declares the parameters as flags on fs.
func (w *Wait) Flags(fs *flag.FlagSet) {
	fs.DurationVar(&w.For, "for", time.Second, "how long the job takes")
}

// Build adds the pipeline to s.
func (w *Wait) Build(s beam.Scope) error {
	if w.For < 0 {
		return fmt.Errorf("--for is %v; it cannot be negative", w.For)
	}
	beam.ParDo0(s, &waitFn{Milliseconds: w.For.Milliseconds()}, beam.Impulse(s))
	return nil
}

var waited = beam.NewCounter("heartbeat", "waited_ms")

type waitFn struct {
	Milliseconds int64
}

func (f *waitFn) ProcessElement(ctx context.Context, _ []byte) error {
	select {
	case <-time.After(time.Duration(f.Milliseconds) * time.Millisecond):
		waited.Inc(ctx, f.Milliseconds)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
