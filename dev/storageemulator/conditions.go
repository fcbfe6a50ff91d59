package storageemulator

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// conditions are the request preconditions of
// https://cloud.google.com/storage/docs/request-preconditions. A generation of
// 0 stands for "there is no live object".
type conditions struct {
	generationMatch, generationNotMatch         *int64
	metagenerationMatch, metagenerationNotMatch *int64
}

// parseConditions reads them from a query; prefix is "if", or "ifSource" for
// the source of a copy.
func parseConditions(q url.Values, prefix string) (conditions, error) {
	var c conditions
	for _, p := range []struct {
		name string
		to   **int64
	}{
		{prefix + "GenerationMatch", &c.generationMatch},
		{prefix + "GenerationNotMatch", &c.generationNotMatch},
		{prefix + "MetagenerationMatch", &c.metagenerationMatch},
		{prefix + "MetagenerationNotMatch", &c.metagenerationNotMatch},
	} {
		value := q.Get(p.name)
		if value == "" {
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return c, badRequest(fmt.Sprintf("Invalid value for %s: %q is not a 64-bit integer.", p.name, value))
		}
		*p.to = &n
	}
	return c, nil
}

// holds reports whether the match and the not-match conditions hold; v nil
// means there is no object.
func (c conditions) holds(v *Object) (match, notMatch bool) {
	var generation, metageneration int64
	if v != nil {
		generation, metageneration = v.Generation, v.Metageneration
	}
	match = (c.generationMatch == nil || *c.generationMatch == generation) &&
		(c.metagenerationMatch == nil || *c.metagenerationMatch == metageneration)
	notMatch = (c.generationNotMatch == nil || *c.generationNotMatch != generation) &&
		(c.metagenerationNotMatch == nil || *c.metagenerationNotMatch != metageneration)
	return match, notMatch
}

func (c conditions) checkWrite(v *version) error {
	var o *Object
	if v != nil {
		o = &v.Object
	}
	if match, notMatch := c.holds(o); !match || !notMatch {
		return errPrecondition()
	}
	return nil
}

// checkRead answers a read: a not-match that fails means "not modified".
func (c conditions) checkRead(o *Object) error {
	match, notMatch := c.holds(o)
	if !match {
		return errPrecondition()
	}
	if !notMatch {
		return &apiError{http.StatusNotModified, "notModified", "Not Modified"}
	}
	return nil
}

func errPrecondition() error {
	return &apiError{http.StatusPreconditionFailed, "conditionNotMet", "At least one of the pre-conditions you specified did not hold."}
}

// apiError is an answer of the JSON API other than success.
type apiError struct {
	code    int
	reason  string
	message string
}

func (e *apiError) Error() string { return fmt.Sprintf("%d %s: %s", e.code, e.reason, e.message) }

func badRequest(message string) error {
	return &apiError{http.StatusBadRequest, "invalid", message}
}

func asAPIError(err error) *apiError {
	var e *apiError
	if errors.As(err, &e) {
		return e
	}
	return &apiError{http.StatusInternalServerError, "backendError", err.Error()}
}
