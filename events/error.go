package events

import (
	"fmt"
	"strconv"
)

// Class says what a rejection means for the delivery. A Class is an error, so errors.Is(err, events.TooLarge) works.
type Class string

// The classes of rejections.
const (
	// Malformed is an event that contradicts its format: it will never decode. Dead-letter it.
	Malformed Class = "malformed"
	// Unsupported is a well-formed request in a form that Penstock does not take (batch mode, compressed body, CloudEvents
	// 0.3, data that is not JSON): it will never decode. Dead-letter it.
	Unsupported Class = "unsupported"
	// TooLarge is a body past MaxBodyBytes: it was not read to its end, so it cannot be dead-lettered whole. Answer non-2xx:
	// Pub/Sub then forwards the message to the subscription's own dead-letter topic.
	TooLarge Class = "too large"
	// BadMethod is a request that is not a POST, hence no delivery: answer 405.
	BadMethod Class = "method not allowed"
	// ReadFailed is a body that could not be read to its end (the sender went away, a deadline passed): let it be redelivered.
	ReadFailed Class = "read failed"
)

// Error returns the class's name.
func (c Class) Error() string { return string(c) }

// Error is a rejected event.
type Error struct {
	Class  Class
	Field  string // the attribute (id, ce-time), JSON field (data.generation, message.messageId) or header at fault; may be empty
	Reason string // what is wrong with it and what to try, one line

	body []byte
	err  error
}

// Error returns the class, the field and the reason. Text that came from the event is quoted in it.
func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("decode event: %s: %s", string(e.Class), e.Reason)
	}
	return fmt.Sprintf("decode event: %s: %s: %s", string(e.Class), e.Field, e.Reason)
}

// Is reports whether target is the error's Class.
func (e *Error) Is(target error) bool { c, ok := target.(Class); return ok && c == e.Class }

// Unwrap returns the cause, if it came from elsewhere.
func (e *Error) Unwrap() error { return e.err }

// Poison reports whether no redelivery can help, so that the event belongs in the dead-letter topic.
func (e *Error) Poison() bool { return e.Class == Malformed || e.Class == Unsupported }

// Body returns the body as it was received, for the dead letter of a Poison event. It is nil for the other classes.
func (e *Error) Body() []byte { return e.body }

func malformed(field, format string, args ...any) *Error {
	return &Error{Class: Malformed, Field: field, Reason: fmt.Sprintf(format, args...)}
}

func unsupported(field, format string, args ...any) *Error {
	return &Error{Class: Unsupported, Field: field, Reason: fmt.Sprintf(format, args...)}
}

// in says that the field at fault is inside of path.
func (e *Error) in(path string) *Error {
	e.Field = join(path, e.Field)
	return e
}

// quote shows outside text in a message: ASCII, one line, and short, whatever it holds.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
