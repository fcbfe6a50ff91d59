package dataflow

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Whatever an answer holds, reading it ends in bounded, printable values, and never in the belief that a write was not
// done which may have been.
func FuzzAnswer(f *testing.F) {
	f.Add(400, "7", `{"error": {"message": "The template parameters are invalid. Details: \na: b", "status": "INVALID_ARGUMENT"}}`)
	f.Add(409, "", `{"error": {"errors": [{"reason": "alreadyExists"}], "details": [{"parameterViolations": [{"parameter": "a", "description": "b"}]}]}}`)
	f.Add(404, "", `[{"error": {"message": "RPC::DEADLINE_EXCEEDED"}}]`)
	f.Add(429, "Sun, 22 Nov 2026 06:00:00 GMT", `{"error": {"details": [{"retryDelay": "9999999h"}, null, 7, "x", {"parameterViolations": 1}]}}`)
	f.Add(400, "", `{"error": {"message": "Found unexpected parameters: ['a' (perhaps you meant 'b'), 'c']"}}`)
	f.Add(200, "x", `<html>`)
	f.Add(503, "", "\xff"+strings.Repeat("é", 5000))
	f.Add(403, "", `{"error": "text"}`)
	f.Fuzz(func(t *testing.T, code int, wait, body string) {
		a := readAnswer(code, http.Header{"Retry-After": {wait}}, []byte(body), time.Unix(1795000000, 0))
		texts := []string{a.status, a.reason, a.message}
		for _, v := range a.violations {
			texts = append(texts, v.Parameter, v.Description)
		}
		for _, s := range texts {
			if len(s) > maxText || !utf8.ValidString(s) {
				t.Errorf("text of %d bytes: %.100q", len(s), s)
			}
		}
		if a.retryAfter < 0 || a.retryAfter > maxRetryAfter || len(a.violations) > maxViolations {
			t.Errorf("wait %v, %d violations", a.retryAfter, len(a.violations))
		}
		for _, op := range []string{"launch", "cancel", "drain"} {
			if k := a.kind(op, true); (code < 400 || code >= 500) && k != KindUnanswered {
				t.Errorf("%s: kind %q of %d", op, k, code)
			}
		}
		if k := a.kind("get", false); k == "" || k == KindUnanswered || k == KindAlreadyExists || k == KindTerminated {
			t.Errorf("kind %q of a read", k)
		}
		if e := (&Error{Op: "launch", Code: code, Message: a.message, Violations: a.violations, Kind: a.kind("launch", true)}); e.Error() == "" {
			t.Error("no text")
		}
	})
}

func TestClip(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"short":                 {"é", "é"},
		"exactly as long":       {strings.Repeat("x", maxText), strings.Repeat("x", maxText)},
		"half a character":      {strings.Repeat("x", maxText-1) + "é", strings.Repeat("x", maxText-1)},
		"three quarters of one": {strings.Repeat("x", maxText-3) + "😀", strings.Repeat("x", maxText-3)},
		"no text":               {"a\xffb", "a?b"},
	} {
		if got := clip(tt.in); got != tt.want {
			t.Errorf("%s: %d bytes, ends in %q", name, len(got), got[max(0, len(got)-8):])
		}
	}
}
