package functions

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/penstock/penstock/cloudlog"
)

// request says which request a log line belongs to.
type request struct {
	entryPoint  string
	begun       time.Time
	trace, span string // empty when the request has none
	executionID string // of Cloud Functions; empty elsewhere
}

func newRequest(entryPoint string, r *http.Request, now time.Time) request {
	q := request{entryPoint: entryPoint, begun: now, executionID: plain(r.Header.Get("Function-Execution-Id"))}
	if trace, span, ok := traceparent(r.Header.Get("Traceparent")); ok {
		q.trace, q.span = trace, span
	} else {
		q.trace = cloudTrace(r.Header.Get("X-Cloud-Trace-Context"))
	}
	return q
}

// traceparent reads version-trace-span-flags. https://www.w3.org/TR/trace-context/#traceparent-header
func traceparent(h string) (trace, span string, ok bool) {
	parts := strings.Split(h, "-")
	if len(parts) < 4 || !isHex(parts[0], 2) || parts[0] == "ff" || !isHex(parts[1], 32) || !isHex(parts[2], 16) || strings.Trim(parts[1], "0") == "" {
		return "", "", false
	}
	return parts[1], parts[2], true
}

// cloudTrace reads the trace of TRACE/SPAN;o=OPTIONS. The span is a decimal number, which logging does not take for a span ID.
// https://cloud.google.com/trace/docs/trace-context#legacy-http-header
func cloudTrace(h string) string {
	trace, _, _ := strings.Cut(h, "/")
	trace, _, _ = strings.Cut(trace, ";")
	if !isHex(trace, 32) {
		return ""
	}
	return trace
}

func isHex(s string, n int) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == n && s == strings.ToLower(s)
}

// plain keeps a short printable value and drops any other: it becomes a label.
func plain(s string) string {
	if len(s) > 63 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return s
}

// attrs are the fields that every line about the request has.
func (q *request) attrs(set settings, d *Decision, now time.Time) []slog.Attr {
	attrs := make([]slog.Attr, 0, 16)
	if q.trace != "" && set.project != "" {
		attrs = append(attrs, slog.String(cloudlog.FieldTrace, "projects/"+set.project+"/traces/"+q.trace))
		if q.span != "" {
			attrs = append(attrs, slog.String(cloudlog.FieldSpan, q.span))
		}
	}
	labels := make([]any, 0, 5)
	label := func(name, value string) {
		if value != "" {
			labels = append(labels, slog.String(name, value))
		}
	}
	label("execution_id", q.executionID)
	label("penstock_deployment", set.deployment)
	label("penstock_entry_point", q.entryPoint)
	if d != nil {
		label("penstock_pipeline", d.Pipeline)
		label("penstock_decision", string(d.Outcome))
	}
	attrs = append(attrs, slog.Group(cloudlog.FieldLabels, labels...))
	return append(attrs, slog.Float64("durationMs", float64(now.Sub(q.begun).Microseconds())/1000))
}

// logDecision writes the one line of a decision.
func (r *receiver) logDecision(ctx context.Context, q *request, identity string, d *Decision) {
	level := d.level()
	if !r.log.Enabled(ctx, level) {
		return
	}
	attrs := append(q.attrs(r.settings, d, r.now()), slog.String("entryPoint", q.entryPoint), slog.String("identity", identity))
	field := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	field("pipeline", d.Pipeline)
	field("decision", string(d.Outcome))
	field("reason", d.Reason)
	field("runId", d.RunID)
	field("key", d.Key)
	field("pipelineIdentity", d.identity)
	field("configVersion", d.ConfigVersion)
	if d.Remembered {
		attrs = append(attrs, slog.Bool("remembered", true))
	}
	r.log.LogAttrs(ctx, level, d.message(), attrs...)
}

// message is the decision for a reader who scrolls through a log.
func (d *Decision) message() string {
	m := string(d.Outcome)
	if d.Pipeline != "" {
		m = d.Pipeline + ": " + m
	}
	switch {
	case d.Reason != "":
		m += ": " + d.Reason
	case d.RunID != "":
		m += ": " + d.RunID
	}
	return m
}
