// Package heartbeat is a pipeline that goes on: a beat at a fixed interval, counted, until it is cancelled or drained. It stands for any streaming job.
package heartbeat

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/periodic"
)

func init() {
	register.DoFn2x0[context.Context, []byte](&countFn{})
}

// Options are the parameters of the pipeline.
type Options struct {
	// Interval is the time from one beat to the next. It must be positive.
	Interval time.Duration
	// Beats is how many there are before the job ends by itself; 0 means that it never does.
	Beats int
}

// Flags declares the parameters as flags on fs.
func (o *Options) Flags(fs *flag.FlagSet) {
	fs.DurationVar(&o.Interval, "interval", time.Second, "time from one beat to the next")
	fs.IntVar(&o.Beats, "beats", 0, "end after so many beats (0: go on until cancelled or drained)")
}

// Build adds the pipeline to s.
func (o *Options) Build(s beam.Scope) error {
	if o.Interval <= 0 {
		return fmt.Errorf("--interval is %v; it must be positive, for example 1s", o.Interval)
	}
	if o.Beats < 0 {
		return errors.New("--beats is negative; use 0 to go on until cancelled or drained")
	}
	start := time.Now()
	// periodic wants an end: a hundred years is one that no job sees.
	end := start.AddDate(100, 0, 0)
	if o.Beats > 0 {
		if int64(o.Beats) > math.MaxInt64/int64(o.Interval) {
			return fmt.Errorf("--beats=%d at --interval=%v is longer than time can be counted", o.Beats, o.Interval)
		}
		end = start.Add(time.Duration(o.Beats) * o.Interval)
	}
	beam.ParDo0(s, &countFn{}, periodic.Impulse(s, start, end, o.Interval, false))
	return nil
}

var beats = beam.NewCounter("heartbeat", "beats")

type countFn struct{}

func (*countFn) ProcessElement(ctx context.Context, _ []byte) {
	beats.Inc(ctx, 1)
	log.Debug(ctx, "beat")
}
