package dataflow

import (
	"errors"
	"time"
)

// Kind says what an error means to whoever decides what to do next. It is an error itself, so that
// errors.Is(err, dataflow.KindNotFound) works, and its text is stable.
type Kind string

// The kinds. Those of a call that was not answered differ by what may have happened: KindTransient means that nothing
// was done, KindUnanswered that it may have been.
const (
	// KindTransient: nothing was done, and the same call may succeed later: 429 without a word of quota, 500, 503 and
	// network trouble of a read, a write that surely never left, and the 404 DEADLINE_EXCEEDED of a look at a job just
	// launched.
	KindTransient Kind = "transient"
	// KindUnanswered: a write was sent and its outcome is not known: time-out, reset, 5xx, a redirect, an unreadable
	// answer. It may have been carried out, and may still be.
	KindUnanswered Kind = "unanswered"
	// KindInvalid: the request is wrong and will stay so. Violations has the parameters at fault where they are told.
	KindInvalid Kind = "invalid"
	// KindPermission: 401, 403.
	KindPermission Kind = "permission"
	// KindQuota: a quota or rate limit of the project is used up. Nothing was done; it may succeed later.
	KindQuota Kind = "quota"
	// KindNotFound: no such job, project or template.
	KindNotFound Kind = "not-found"
	// KindAlreadyExists: a job of that name is active. See Client.Launch.
	KindAlreadyExists Kind = "already-exists"
	// KindTerminated: cancel or drain of a job that is over.
	KindTerminated Kind = "terminated"
	// KindNotReady: cancel of a job that cannot be cancelled yet, as it was only just launched.
	KindNotReady Kind = "not-ready"
)

// ErrAlreadyExists is what errors.Is finds in the errors of Launch for a name that is taken.
var ErrAlreadyExists error = KindAlreadyExists

func (k Kind) Error() string { return "dataflow: " + string(k) }

// KindOf is the kind of the first *Error in err's chain, and empty where there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// Error is what every method of Client returns when it fails. It marshals as JSON, without the wrapped cause.
type Error struct {
	Op       string `json:"op"` // launch, find, get, cancel, drain, metrics, messages
	Project  string `json:"project,omitempty"`
	Location string `json:"location,omitempty"`
	Name     string `json:"name,omitempty"`  // the job's name, of launch and find
	JobID    string `json:"jobId,omitempty"` // the job's ID, of everything else
	Kind     Kind   `json:"kind"`
	// Code is the HTTP status of the answer; zero: no answer.
	Code int `json:"code,omitempty"`
	// Status is the answer's canonical code, as INVALID_ARGUMENT, and Reason its finer one, as alreadyExists.
	Status  string `json:"status,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message"`
	// Violations are the parameters that the template refused.
	Violations []Violation `json:"violations,omitempty"`
	// RetryAfter is how long the API asks to wait; zero: it does not say.
	RetryAfter time.Duration `json:"retryAfter,omitempty"`
	// Hint says what to try.
	Hint string `json:"hint,omitempty"`

	cause error
}

// Violation is one parameter that was refused.
type Violation struct {
	Parameter   string `json:"parameter"`
	Description string `json:"description"`
}

func (e *Error) Error() string { return e.Message }

// Unwrap is the error below: of the network, of the context, or the API client's own.
func (e *Error) Unwrap() error { return e.cause }

// Is makes errors.Is match an Error with its Kind.
func (e *Error) Is(target error) bool { k, ok := target.(Kind); return ok && k == e.Kind }

// QuotaMessage reports whether a failed job's message says that a quota kept it from running. A flex template's launch
// is accepted before Dataflow looks at quotas, so that this refusal comes as a failed job.
func QuotaMessage(message string) bool { panic("unimplemented") }
