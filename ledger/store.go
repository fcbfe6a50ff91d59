package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// store keeps small objects by name. A generation identifies what an object holds:
// it is above zero, and differs after each write.
type store interface {
	// read answers with an object's whole content and its generation. ErrNotFound: there is none.
	read(ctx context.Context, name string) ([]byte, int64, error)
	// write creates an object (generation 0) or replaces the one of a generation, and
	// answers with the new generation. errChanged: there is another, or one at all,
	// or none any more; nothing was written. Any other error leaves open whether it was.
	write(ctx context.Context, name string, data []byte, generation int64) (int64, error)
	// list gives the objects whose names begin with prefix, a page at a time, until page says no.
	list(ctx context.Context, prefix string, page func([]listed) bool) error
	// url is the full name of an object, for people.
	url(name string) string
	close() error
}

type listed struct {
	name    string
	written time.Time // when this generation was
}

var (
	errChanged   = errors.New("the object is not as expected")
	errContended = errors.New("others kept changing it; try again")
	errTooLarge  = fmt.Errorf("it has more than %d bytes", maxObject)
)

// Error is what a bucket or folder answered to one call.
type Error struct {
	Op     string // read, write or list
	Object string // the object's full name, or the prefix of a list
	Code   int    // the HTTP status of a bucket's answer; zero: none, or a folder
	Hint   string // what to try; empty where there is nothing to add
	Err    error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %v", e.Op, e.Object, e.Err)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }
