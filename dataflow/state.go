package dataflow

import (
	"strings"
	"time"
)

// State is the state of a job in the API's own words. Google adds states without notice, so a State that is none
// of the constants is possible: it is not terminal, and it is kept as it came.
//
// Source: https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.jobs#jobstate
type State string

// The states that a job passes through before it ends. StateUnknown is also what ParseState makes of no state at all.
const (
	StateUnknown    State = "JOB_STATE_UNKNOWN"
	StateStopped    State = "JOB_STATE_STOPPED" // made, not yet started
	StateQueued     State = "JOB_STATE_QUEUED"  // waits for its launch (flex templates, FlexRS)
	StatePending    State = "JOB_STATE_PENDING"
	StateRunning    State = "JOB_STATE_RUNNING"
	StatePausing    State = "JOB_STATE_PAUSING"
	StatePaused     State = "JOB_STATE_PAUSED"
	StateDraining   State = "JOB_STATE_DRAINING"
	StateCancelling State = "JOB_STATE_CANCELLING"
	StateCleaningUp State = "JOB_STATE_RESOURCE_CLEANING_UP" // its work is over, its outcome is not told yet
)

// The terminal states. A job never leaves one.
const (
	StateDone      State = "JOB_STATE_DONE"
	StateFailed    State = "JOB_STATE_FAILED"
	StateCancelled State = "JOB_STATE_CANCELLED"
	StateDrained   State = "JOB_STATE_DRAINED" // streaming: stopped reading, finished what it had read
	StateUpdated   State = "JOB_STATE_UPDATED" // streaming: replaced by the job Job.ReplacedByJobID, which goes on
)

const statePrefix = "JOB_STATE_"

// rank orders the states of one instant along a job's life. States that it does not know rank lowest.
var rank = map[State]int{
	StateStopped: 1, StateQueued: 2, StatePending: 3, StateRunning: 4, StatePausing: 5, StatePaused: 6,
	StateDraining: 7, StateCancelling: 8, StateCleaningUp: 9,
	StateDone: 10, StateFailed: 10, StateCancelled: 10, StateDrained: 10, StateUpdated: 10,
}

// ParseState reads a state in either spelling, JOB_STATE_DONE or DONE. An empty string is StateUnknown; a word that
// this package does not know is kept.
func ParseState(s string) State {
	switch {
	case s == "":
		return StateUnknown
	case strings.HasPrefix(s, statePrefix):
		return State(s)
	}
	return State(statePrefix + s)
}

// Short is the state without the API's prefix, for people: RUNNING.
func (s State) Short() string { return strings.TrimPrefix(string(s), statePrefix) }

// Terminal reports whether the job is over for good. A state that is not known is not terminal: a job that is
// taken for alive is looked at again, one that is taken for over is not.
func (s State) Terminal() bool {
	switch s {
	case StateDone, StateFailed, StateCancelled, StateDrained, StateUpdated:
		return true
	}
	return false
}

// Succeeded reports whether the job ended with its work done, which is DONE alone.
//
// DRAINED is the good end of a job that was asked to drain, and no success of one that was not: whoever asked knows.
// UPDATED is no end of the work at all, as the job that replaced it goes on.
func (s State) Succeeded() bool { return s == StateDone }

// Observed is a state of one job as somebody saw it: in an answer of the API, or in a status event. Both may come
// late, twice and out of order.
type Observed struct {
	JobID     string    `json:"jobId"`
	State     State     `json:"state"`
	StateTime time.Time `json:"stateTime,omitzero"` // when the job entered the state (currentStateTime); zero: not told
}

// Newer reports whether seen replaces known.
//
// The order holds within one job ID: of two jobs neither is newer. Nothing known (no job ID) gives way to anything.
// A terminal state is never left, and is taken whatever its time: were it dropped for its time, every later look
// would be dropped too. Else the later currentStateTime wins, and of one instant the state further along.
func Newer(known, seen Observed) bool {
	switch {
	case known.JobID == "":
		return seen.JobID != ""
	case known.JobID != seen.JobID, known.State.Terminal():
		return false
	case seen.State.Terminal():
		return true
	case !seen.StateTime.Equal(known.StateTime):
		return seen.StateTime.After(known.StateTime)
	}
	return rank[seen.State] > rank[known.State]
}
