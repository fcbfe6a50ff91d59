package dataflow

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxText       = 4 << 10 // of a message, in bytes
	maxViolations = 100
	maxRetryAfter = time.Hour // a longer wait is cut, so that a strange answer does not park a job for days
)

// answer is an error answer of the API, read without trust: a proxy may have written it.
type answer struct {
	code       int
	status     string // canonical code, as INVALID_ARGUMENT
	reason     string
	message    string
	violations []Violation
	retryAfter time.Duration
}

// errorBody is the API's error body. Everything in it is optional, and details are a list of any messages.
//
// Source: https://cloud.google.com/apis/design/errors#http_mapping
type errorBody struct {
	Error struct {
		Message string `json:"message"`
		Status  string `json:"status"`
		Errors  []struct {
			Reason string `json:"reason"`
		} `json:"errors"`
		Details []json.RawMessage `json:"details"`
	} `json:"error"`
}

// errorDetail has the fields of all the detail messages that are of use; a message of another type leaves them empty.
type errorDetail struct {
	Reason              string      `json:"reason"`              // google.rpc.ErrorInfo
	RetryDelay          string      `json:"retryDelay"`          // google.rpc.RetryInfo
	ParameterViolations []Violation `json:"parameterViolations"` // google.dataflow.v1beta3.InvalidTemplateParameters
	FieldViolations     []struct {  // google.rpc.BadRequest
		Field       string `json:"field"`
		Description string `json:"description"`
	} `json:"fieldViolations"`
}

// readAnswer reads what it can of an error answer. Now is the time to which a Retry-After date is relative.
func readAnswer(code int, header http.Header, body []byte, now time.Time) answer {
	a := answer{code: code, retryAfter: retryAfter(header.Get("Retry-After"), now)}
	var parsed errorBody
	if err := json.Unmarshal(unlist(body), &parsed); err != nil {
		a.message = clip(http.StatusText(code) + ": " + string(bytes.TrimSpace(body)))
		return a
	}
	e := parsed.Error
	a.status, a.message = clip(e.Status), clip(e.Message)
	if len(e.Errors) > 0 {
		a.reason = clip(e.Errors[0].Reason)
	}
	for _, raw := range e.Details {
		var d errorDetail
		if json.Unmarshal(raw, &d) != nil {
			continue
		}
		if d.Reason != "" {
			a.reason = clip(d.Reason)
		}
		if wait, err := time.ParseDuration(d.RetryDelay); err == nil && a.retryAfter == 0 {
			a.retryAfter = clampWait(wait)
		}
		for _, v := range d.ParameterViolations {
			a.violate(v.Parameter, v.Description)
		}
		for _, v := range d.FieldViolations {
			a.violate(v.Field, v.Description)
		}
	}
	if len(a.violations) == 0 {
		a.readViolations(e.Message)
	}
	if a.message == "" {
		a.message = http.StatusText(code)
	}
	return a
}

// unlist takes the first element of a body that is a list, a form that the API's front end uses too.
func unlist(body []byte) []byte {
	if b := bytes.TrimSpace(body); len(b) > 0 && b[0] == '[' {
		var list []json.RawMessage
		if json.Unmarshal(b, &list) == nil && len(list) > 0 {
			return list[0]
		}
	}
	return body
}

func (a *answer) violate(parameter, description string) {
	if len(a.violations) < maxViolations && (parameter != "" || description != "") {
		a.violations = append(a.violations, Violation{clip(parameter), clip(description)})
	}
}

var (
	// The text form of a flex template's refusal: one "parameter: description" a line after this.
	violationsFollow = regexp.MustCompile(`template parameters are invalid\.\s+Details:`)
	violationLine    = regexp.MustCompile(`^\s*([A-Za-z0-9_.-]+):\s+(\S.*)$`)
	// The text form of a classic template's: a list of quoted names, each perhaps with a remark in parentheses.
	violationList = regexp.MustCompile(`(?i)(unexpected|missing)[a-z ]* parameters: \[([^\]]*)\]`)
	violationName = regexp.MustCompile(`'([^']*)'(?:\s*\(([^)]*)\))?`)
)

// readViolations reads the parameters at fault from the message, for answers that carry them there only.
func (a *answer) readViolations(message string) {
	if at := violationsFollow.FindStringIndex(message); at != nil {
		for line := range strings.Lines(message[at[1]:]) {
			if m := violationLine.FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil {
				a.violate(m[1], m[2])
			}
		}
		return
	}
	for _, list := range violationList.FindAllStringSubmatch(message, maxViolations) {
		for _, m := range violationName.FindAllStringSubmatch(list[2], maxViolations) {
			description := strings.ToLower(list[1]) + " parameter"
			if m[2] != "" {
				description += ", " + m[2]
			}
			a.violate(m[1], description)
		}
	}
}

// kind says what the answer means. It errs to the safe side: of a write, an answer that is no plain refusal leaves open
// whether it was carried out.
func (a answer) kind(op string, write bool) Kind {
	unclear := KindTransient
	if write {
		unclear = KindUnanswered
	}
	deadline := a.status == "DEADLINE_EXCEEDED" || a.code == http.StatusNotFound && strings.Contains(a.message, "DEADLINE_EXCEEDED")
	switch {
	case a.code < 400, a.code >= 500, a.code == http.StatusRequestTimeout, a.code == 499, deadline:
		// 499 is CANCELLED: the caller went away. A 404 that speaks of a deadline says that a job just launched could
		// not be read, not that there is none.
		return unclear
	case op == "launch" && a.alreadyExists():
		return KindAlreadyExists
	case (op == "cancel" || op == "drain") && hasTerminated.MatchString(a.message):
		return KindTerminated
	case (op == "cancel" || op == "drain") && notReady.MatchString(a.message):
		return KindNotReady
	case len(a.violations) > 0:
		return KindInvalid
	case a.quota():
		return KindQuota
	}
	switch a.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return KindPermission
	case http.StatusNotFound, http.StatusGone:
		return KindNotFound
	case http.StatusTooManyRequests, http.StatusTooEarly:
		return KindTransient
	case http.StatusConflict:
		return unclear // ABORTED: lost against another change
	}
	return KindInvalid
}

func (a answer) alreadyExists() bool {
	return a.code == http.StatusConflict &&
		(a.status == "ALREADY_EXISTS" || a.reason == "alreadyExists" || strings.Contains(a.message, "already an active job"))
}

var quotaReasons = map[string]bool{
	"quotaExceeded": true, "dailyLimitExceeded": true, "rateLimitExceeded": true, "userRateLimitExceeded": true,
	"RATE_LIMIT_EXCEEDED": true, "RESOURCE_QUOTA_EXCEEDED": true, "QUOTA_EXCEEDED": true,
}

func (a answer) quota() bool {
	return a.status == "RESOURCE_EXHAUSTED" || quotaReasons[a.reason] || QuotaMessage(a.message)
}

var (
	hasTerminated = regexp.MustCompile(`(?i)\bhas (already )?(been )?terminated\b|\balready terminated\b|\bterminal state\b`)
	notReady      = regexp.MustCompile(`(?i)\bnot (yet )?ready for cancell?ing\b`)
	// A quota's name may stand between the words, as in: Quota 'CPUS' exceeded. The word alone is not enough, as
	// a pipeline's own error may hold it: column "quota" is missing.
	quotaWords = regexp.MustCompile(`(?i)quotas?\b[^\n.;]{0,80}\b(exceeded|error|exhausted|insufficient)\b` +
		`|\b(exceed(s|ed|ing)?|insufficient|exhausted|out of|over|not enough|lack of)\b[^\n.;]{0,80}\bquota` +
		`|\bquota error\b|QUOTA_EXCEEDED|QUOTA_FOR_`)
)

// QuotaMessage reports whether a failed job's message says that a quota kept it from running. A flex template's launch
// is accepted before Dataflow looks at quotas, so that this refusal comes as a failed job.
func QuotaMessage(message string) bool { return quotaWords.MatchString(message) }

// retryAfter reads the header of that name: seconds, or a date.
//
// Source: RFC 9110, section 10.2.3.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return clampWait(time.Duration(seconds) * time.Second)
	}
	if at, err := http.ParseTime(value); err == nil {
		return clampWait(at.Sub(now))
	}
	return 0
}

func clampWait(d time.Duration) time.Duration { return min(max(d, 0), maxRetryAfter) }

// clip makes a text from outside valid UTF-8 of bounded length.
func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
		// Not half a character at the cut.
		for i := 0; i < utf8.UTFMax-1 && len(s) > 0; i++ {
			if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	return strings.ToValidUTF8(s, "?")
}
