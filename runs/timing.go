package runs

import (
	"fmt"
	"time"
)

// MinCall is the least Timing.Call: a look-up and a launch must fit into it.
const MinCall = 4 * time.Second

// Timing holds the waits of the workflows. A zero field means its default.
//
// A run takes its worker's when it begins, and its jobs' workflows take the run's:
// what a workflow waits for decides what it does next, so its history must hold it.
type Timing struct {
	// Horizon is how long Dataflow's list of jobs may lag behind a launch: what is
	// not in it that long after an unanswered launch is taken not to exist.
	// Defaults to 2 minutes.
	Horizon time.Duration `json:"horizon,omitempty"`
	// Safety is how long a job goes without news before its workflow asks for some, at
	// most. Defaults to 1 hour.
	Safety time.Duration `json:"safety,omitempty"`
	// CancelGrace is how long a cancel may take before it is forced. Defaults to 30 minutes.
	CancelGrace time.Duration `json:"cancelGrace,omitempty"`
	// DrainGrace is how long a drain may take before it becomes a cancel. Defaults to 1 hour.
	DrainGrace time.Duration `json:"drainGrace,omitempty"`
	// HandOver is how long a job's workflow may take to close for its successor
	// before it is terminated. Defaults to 5 minutes.
	HandOver time.Duration `json:"handOver,omitempty"`
	// Call bounds each activity, and so how long a killed one goes unnoticed.
	// Defaults to 30 seconds.
	Call time.Duration `json:"call,omitempty"`
	// OrphanRecheck is how long after its first sight a job that seems to be nobody's
	// is looked at again before it is taken for an orphan. Defaults to 10 minutes.
	OrphanRecheck time.Duration `json:"orphanRecheck,omitempty"`
	// Gather is how long a sweep waits for more to ask before it lists jobs; while
	// they go on asking, six times as long at most. Defaults to 5 seconds.
	Gather time.Duration `json:"gather,omitempty"`
}

// WithDefaults replaces zero fields by their defaults.
func (t Timing) WithDefaults() Timing {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&t.Horizon, 2*time.Minute)
	def(&t.Safety, time.Hour)
	def(&t.CancelGrace, 30*time.Minute)
	def(&t.DrainGrace, time.Hour)
	def(&t.HandOver, 5*time.Minute)
	def(&t.Call, 30*time.Second)
	def(&t.OrphanRecheck, 10*time.Minute)
	def(&t.Gather, 5*time.Second)
	return t
}

// Validate returns an error that names the first field that is negative, or a call
// bound below MinCall.
func (t Timing) Validate() error {
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"Horizon", t.Horizon}, {"Safety", t.Safety}, {"CancelGrace", t.CancelGrace}, {"DrainGrace", t.DrainGrace}, {"HandOver", t.HandOver}, {"Call", t.Call}, {"OrphanRecheck", t.OrphanRecheck}, {"Gather", t.Gather}} {
		if f.d < 0 {
			return fmt.Errorf("the wait %s is %v; it must not be negative", f.name, f.d)
		}
	}
	if t.Call != 0 && t.Call < MinCall {
		return fmt.Errorf("the wait Call is %v; it must be at least %v", t.Call, MinCall)
	}
	return nil
}
