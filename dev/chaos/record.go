package chaos

import (
	"time"

	"github.com/penstock/penstock/runs"
)

// Record is the evidence about one scenario: what it was to lead to, and what five
// witnesses say that happened, none of which knows of another.
type Record struct {
	Deployment string
	// Wants are what the scenario declared of its events.
	Wants []Want
	// Deliveries is the sender's log.
	Deliveries []Delivery
	// Decisions is the functions' log.
	Decisions []Decision
	// Letters is the dead-letter topic.
	Letters []Letter
	// Jobs is the ledger of the Dataflow emulator.
	Jobs []Job
	// Runs are the executions of runs in Temporal's histories, in the order of their start.
	Runs []Execution
	// Open are the workflows that Temporal still has open, by ID.
	Open []string
	// Foreign are names of jobs that the scenario itself launched.
	Foreign []string
	// Ended is the end of the last fault; Bound is how long after it the last run may close.
	Ended time.Time
	Bound time.Duration
}

// Fate is what an event is to lead to.
type Fate string

// The fates.
const (
	Runs        Fate = "a run"
	Skipped     Fate = "a decision to skip it"
	DeadLetters Fate = "a dead letter"
	Anything    Fate = "any of these" // the scenario checks it by itself
)

// Want is what must become of an event, or of all events of one key.
type Want struct {
	// Deployment is whose event it is; empty: the record's.
	Deployment string
	Identity   string // of the event, or the first one of the key
	Body       string // Delivery.Body, for what has no identity
	Fate       Fate
	Pipeline   string
	Key        string
	Steps      []string
	// Outcome is the run's; empty: whatever its jobs' was.
	Outcome runs.Outcome
	// Executions is how often it is run, with retries and resets. 0: once.
	Executions int
	// Jobs is how many jobs each step has, where it is not one; AnyJobs: as many as it takes.
	Jobs map[string]int
}

// AnyJobs is a number of jobs that depends on chance.
const AnyJobs = -1

// Terminated is the outcome of a run that somebody ended without asking it.
const Terminated runs.Outcome = "terminated"

// Delivery is one line of the sender's log: one attempt at one delivery, as it was answered.
type Delivery struct {
	Time       time.Time `json:"time"`
	Delivery   int       `json:"delivery"`
	Attempt    int       `json:"attempt"`
	Deployment string    `json:"deployment,omitempty"` // that it was sent to; empty: the record's
	Identity   string    `json:"identity,omitempty"`
	Body       string    `json:"body"` // hash of the request's body
	Function   string    `json:"function"`
	Status     int       `json:"status,omitempty"` // 0: no answer
	Error      string    `json:"error,omitempty"`
	// GivenUp says that the attempts are used up: the subscription keeps it among its dead letters.
	GivenUp bool `json:"givenUp,omitempty"`
}

// acknowledged says that it is not delivered again.
func (d Delivery) acknowledged() bool { return d.Status >= 200 && d.Status < 300 }

// Decision is one line of the functions' log.
type Decision struct {
	Time     time.Time `json:"time"`
	Identity string    `json:"identity"`
	Pipeline string    `json:"pipeline"`
	Decision string    `json:"decision"`
	Reason   string    `json:"reason"`
	RunID    string    `json:"runId"`
	Key      string    `json:"key"`
}

// Letter is one message of the dead-letter topic.
type Letter struct {
	Body     string // hash of its data
	Identity string
	Reason   string
}

// Job is one Dataflow job, as the emulator's ledger has it.
type Job struct {
	Name       string
	ID         string
	Launched   time.Time
	State      string    // the last one, such as JOB_STATE_DONE
	Ended      time.Time // zero while it is active
	Replaces   string    // the ID of the job that a streaming update took the place of
	Parameters map[string]string
}

// Execution is one execution of a run.
type Execution struct {
	ID      string // workflow ID
	RunID   string // of the execution
	Started time.Time
	Closed  time.Time      // zero while it is open
	Outcome runs.Outcome   // as Temporal has it: of the result, or Terminated
	Result  runs.RunResult // zero of one that was terminated
}

// Violation is one way in which the evidence breaks an invariant.
type Violation struct {
	// Invariant is I1 to I5, "left" for what should be over and is not, or "own" for a scenario's own check.
	Invariant string
	Text      string
}

func (v Violation) String() string { return v.Invariant + ": " + v.Text }

// Figures are what a report shows.
type Figures struct {
	Keys       int // that were to run
	Deliveries int // attempts of the sender
	Jobs       int
	Recovery   time.Duration // from the end of the last fault to the last close of a run; 0 when all closed before
}

// FiguresOf counts.
func FiguresOf(r Record) Figures {
	f := Figures{Deliveries: len(r.Deliveries), Jobs: len(r.Jobs)}
	for _, w := range r.Wants {
		if w.Fate == Runs {
			f.Keys++
		}
	}
	for _, run := range r.Runs {
		if !run.Closed.IsZero() {
			f.Recovery = max(f.Recovery, run.Closed.Sub(r.Ended))
		}
	}
	return f
}
