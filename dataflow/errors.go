package dataflow

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind says what an error means to whoever decides what to do next. It is an error itself, so that
// errors.Is(err, dataflow.KindNotFound) works, and its text is stable.
type Kind string

// The kinds. Those of a call without an answer differ by what may have happened: KindTransient means that nothing was
// done, KindUnanswered that it may have been.
const (
	// KindTransient: nothing was done, and the same call may succeed later: 429 without a word of quota; 5xx and network
	// trouble of a read; a write that surely never left; the 404 DEADLINE_EXCEEDED of a look at a job just launched.
	KindTransient Kind = "transient"
	// KindUnanswered: a write was sent and its outcome is not known: time-out, reset, 5xx, a redirect, an unreadable
	// answer. It may have been carried out, and may still be.
	KindUnanswered Kind = "unanswered"
	// KindInvalid: the request is wrong and will stay so. Violations has the parameters at fault where they are told.
	KindInvalid Kind = "invalid"
	// KindPermission: 401 and 403, and credentials that the token endpoint refuses.
	KindPermission Kind = "permission"
	// KindQuota: a quota or rate limit is used up. Nothing was done; the same call may succeed later.
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
	Op       string `json:"op"` // launch, find, list, get, cancel, drain, metrics, messages
	Project  string `json:"project,omitempty"`
	Location string `json:"location,omitempty"`
	Name     string `json:"name,omitempty"`  // the job's name, of launch and find
	JobID    string `json:"jobId,omitempty"` // the job's ID, of everything else
	Kind     Kind   `json:"kind"`
	// Code is the HTTP status of the answer; zero: no answer.
	Code int `json:"code,omitempty"`
	// Status is the answer's canonical code, as INVALID_ARGUMENT, and Reason its finer one, as alreadyExists.
	Status string `json:"status,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Message is the answer's own text, or what went wrong without one. It has at most 4 KiB.
	Message string `json:"message"`
	// Violations are the parameters that were refused, 100 at most.
	Violations []Violation `json:"violations,omitempty"`
	// RetryAfter is how long the API asks to wait, in nanoseconds as JSON; zero: it does not say.
	RetryAfter time.Duration `json:"retryAfter,omitempty"`
	// Hint says what to try; empty where there is nothing to add.
	Hint string `json:"hint,omitempty"`

	cause error
}

// Violation is one parameter that was refused.
type Violation struct {
	Parameter   string `json:"parameter"`
	Description string `json:"description"`
}

// Error says what was tried, on what, why it failed and what to try.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "dataflow %s", e.Op)
	if job := e.Name + e.JobID; job != "" {
		fmt.Fprintf(&b, " of %q", job)
	}
	fmt.Fprintf(&b, " in %s/%s: %s", e.Project, e.Location, e.Kind.text())
	if e.Code != 0 {
		fmt.Fprintf(&b, " (HTTP %d", e.Code)
		if e.Status != "" {
			fmt.Fprintf(&b, " %s", e.Status)
		}
		b.WriteByte(')')
	}
	fmt.Fprintf(&b, ": %s", e.Message)
	for _, v := range e.Violations {
		// The text form of the answer already lists them.
		if !strings.Contains(e.Message, v.Parameter+": "+v.Description) {
			fmt.Fprintf(&b, "; %s: %s", v.Parameter, v.Description)
		}
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

// text is the kind in a sentence.
func (k Kind) text() string {
	switch k {
	case KindTransient:
		return "failed for now, nothing was done"
	case KindUnanswered:
		return "no usable answer, it may have been done"
	case KindInvalid:
		return "refused as invalid"
	case KindPermission:
		return "permission denied"
	case KindQuota:
		return "quota used up"
	case KindNotFound:
		return "not found"
	case KindAlreadyExists:
		return "a job of that name is active"
	case KindTerminated:
		return "the job is over"
	case KindNotReady:
		return "the job cannot be cancelled yet"
	}
	return string(k)
}

// Unwrap is the error below: of the network, of the context, or the API client's own. Nil: there is none.
func (e *Error) Unwrap() error { return e.cause }

// Is makes errors.Is match an Error with its Kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// refuse makes e the error of a request that is not sent, as it is wrong.
func (e *Error) refuse(bad []Violation) *Error {
	e.Kind, e.Violations = KindInvalid, bad
	e.Message = "the request was not sent"
	return e
}

// hint is what to try about an error of this kind and operation.
func (e *Error) hint() string {
	switch e.Kind {
	case KindPermission:
		if e.Code == 0 {
			return "check the credentials of this process"
		}
		if e.Reason == "SERVICE_DISABLED" || e.Reason == "accessNotConfigured" {
			return "enable dataflow.googleapis.com in the project"
		}
		return "give this process's service account roles/dataflow.developer, and roles/iam.serviceAccountUser on the job's"
	case KindQuota:
		return "wait for other jobs to end, or ask for more quota"
	case KindNotFound:
		if e.Op == "launch" {
			return "check the template's path, and that this process's service account can read it"
		}
		return "check project, location and ID: Dataflow forgets jobs after 30 days"
	case KindAlreadyExists:
		return "look up the job by its name"
	case KindUnanswered:
		return "look before doing it again"
	}
	if e.Code >= 300 && e.Code < 400 {
		return "the endpoint redirects: check DATAFLOW_ENDPOINT"
	}
	return ""
}
