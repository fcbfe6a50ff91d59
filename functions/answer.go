package functions

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"cloud.google.com/go/pubsub/v2"
)

// Outcome is what became of an event and one pipeline.
type Outcome string

// The outcomes. All but the last three are final: the event is never given to the pipeline again.
const (
	Started      Outcome = "started"       // a run was started for it
	Duplicate    Outcome = "duplicate"     // the same event started the run already
	KeyTaken     Outcome = "key-taken"     // another event started the run of this key already
	Signalled    Outcome = "signalled"     // a workflow has it as a signal
	Skipped      Outcome = "skipped"       // the pipeline does not want it; the reason says why
	DeadLettered Outcome = "dead-lettered" // nothing can be done with it; the dead-letter topic has it
	Rejected     Outcome = "rejected"      // nothing can be done with it, and it could not be kept: no topic, or too large
	Undecided    Outcome = "undecided"     // something did not answer: delivery is to try again
	Crashed      Outcome = "crashed"       // a bug in this program: delivery is to try again
)

// Decision is what became of an event and one pipeline, and why. It is one line of the log and one entry of the [Answer].
type Decision struct {
	Pipeline      string  `json:"pipeline,omitempty"` // empty where the event never got as far
	Outcome       Outcome `json:"decision"`
	Reason        string  `json:"reason,omitempty"`
	RunID         string  `json:"runId,omitempty"` // the workflow that was started or signalled, or that was there already
	Key           string  `json:"key,omitempty"`
	ConfigVersion string  `json:"configVersion,omitempty"` // hash of the pipeline's file

	// Remembered says that this instance knew the outcome and asked nobody.
	Remembered bool `json:"remembered,omitempty"`

	identity string          // the identity that the pipeline gave the event, where it differs from the event's own
	status   int             // of the answer, where the outcome alone does not say
	letter   *pubsub.Message // of what is dead-lettered, until it is published
}

// httpStatus is the status of an answer that holds only d. What acknowledges a delivery is 2xx alone: everything else makes
// it come again, until the subscription gives up and forwards the message to its own dead-letter topic.
func (d *Decision) httpStatus() int {
	switch {
	case d.status != 0:
		return d.status
	case d.Outcome == Undecided:
		return http.StatusServiceUnavailable
	case d.Outcome == Rejected:
		return http.StatusBadRequest
	case d.Outcome == Crashed:
		return http.StatusInternalServerError
	default:
		return http.StatusOK
	}
}

// level is the severity of d in the log: errors are what an operator has to act upon, warnings what a pipeline's owner may
// want to.
func (d *Decision) level() slog.Level {
	if d.status == http.StatusMethodNotAllowed {
		return slog.LevelInfo // a look, such as of penstock doctor: it delivers nothing, so nothing is lost
	}
	switch d.Outcome {
	case Rejected, Undecided, Crashed:
		return slog.LevelError
	case KeyTaken, DeadLettered:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

// Answer is the body of the response to an event.
type Answer struct {
	Identity  string     `json:"identity,omitempty"` // of the event; empty for one that did not decode
	Decisions []Decision `json:"decisions"`          // one for each pipeline that the event matches, in the order of names
	// Error is why delivery must try again although every decision may be final, such as a pipelines file that cannot be
	// used: whether it wants the event cannot be known.
	Error string `json:"error,omitempty"`

	status int // at least this; 0 leaves it to the decisions
}

// retryAfter is how long a caller that heeds Retry-After waits. Pub/Sub and Eventarc go by their own backoff.
const retryAfter = 10 * time.Second

// worse orders statuses by what must win where decisions differ: what may still succeed must be tried again, so it hides a
// rejection, which in turn must not be hidden by a success.
func worse(a, b int) int {
	rank := func(status int) int {
		switch status {
		case http.StatusOK:
			return 0
		case http.StatusBadRequest:
			return 1
		case http.StatusRequestEntityTooLarge:
			return 2
		case http.StatusServiceUnavailable:
			return 3
		default:
			return 4
		}
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// httpStatus is the worst of the decisions' statuses and of the answer's own.
func (a *Answer) httpStatus() int {
	status := http.StatusOK
	if a.status != 0 {
		status = a.status
	}
	for i := range a.Decisions {
		status = worse(status, a.Decisions[i].httpStatus())
	}
	return status
}

// write sends the answer.
func (a *Answer) write(w http.ResponseWriter) {
	if a.Decisions == nil {
		a.Decisions = []Decision{} // an empty list, not null
	}
	status := a.httpStatus()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff") // the body quotes names that strangers chose
	switch status {
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	case http.StatusMethodNotAllowed:
		h.Set("Allow", http.MethodPost)
	}
	body, err := json.Marshal(a)
	if err != nil { // strings only: it does not happen, and the status is what counts
		body = []byte(`{"decisions":[]}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a sender that has gone away delivers again
}
