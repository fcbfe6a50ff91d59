package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
	"github.com/penstock/penstock/service"
)

// screen is an app that prints to a terminal of a width, or to a file (0).
func screen(t *testing.T, width int, output string, env map[string]string) (*app, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	std := IO{Out: &out, Err: &out, Getenv: func(k string) string { return env[k] }, Width: width}
	p, err := newPrinter(std, output)
	if err != nil {
		t.Fatal(err)
	}
	return &app{std: std, out: p}, &out
}

var listing = service.Listing{Runs: []service.Run{
	{RunID: "prod/orders/finalized:acme-landing/orders/eu/2026-11-22/part-1.csv#1763700000123456", Pipeline: "orders", Key: "finalized:acme-landing/orders/eu/2026-11-22/part-1.csv#1763700000123456", Outcome: runs.OutcomeFailed, Begun: time.Unix(0, 0), Ended: time.Unix(75, 0)},
	{RunID: "prod/price-list/eu", Pipeline: "price-list", Key: "eu", Outcome: runs.OutcomeSucceeded, Begun: time.Unix(0, 0), Ended: time.Unix(2, 3e8)},
}}

func TestTableFitsTheTerminal(t *testing.T) {
	for _, width := range []int{100, 120, 150} {
		a, out := screen(t, width, "", map[string]string{"NO_COLOR": "1"})
		a.printRuns(listing, time.Now())
		for _, line := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n") {
			if n := utf8.RuneCountInString(line); n > width {
				t.Errorf("a line of %d columns on a terminal of %d: %s", n, width, line)
			}
		}
		if !strings.Contains(out.String(), "…") || !strings.Contains(out.String(), "price-list  eu") {
			t.Errorf("at %d columns:\n%s", width, out)
		}
	}
}

func TestNothingIsCutOrColouredWhereItIsNotATerminal(t *testing.T) {
	for name, row := range map[string]struct {
		width  int
		output string
	}{"a file": {0, ""}, "plain on a terminal": {80, "plain"}} {
		t.Run(name, func(t *testing.T) {
			a, out := screen(t, row.width, row.output, nil)
			a.printRuns(listing, time.Now())
			if strings.Contains(out.String(), "\x1b") || !strings.Contains(out.String(), listing.Runs[0].RunID) || !strings.Contains(out.String(), "1m15s") {
				t.Errorf("got\n%s", out)
			}
		})
	}
}

func TestColourIsAskedFor(t *testing.T) {
	for name, row := range map[string]struct {
		env  map[string]string
		want bool
	}{
		"a terminal":    {nil, true},
		"NO_COLOR":      {map[string]string{"NO_COLOR": "1"}, false},
		"dumb terminal": {map[string]string{"TERM": "dumb"}, false},
	} {
		a, out := screen(t, 200, "", row.env)
		a.printRuns(listing, time.Now())
		if got := strings.Contains(out.String(), "\x1b[31mfailed"); got != row.want {
			t.Errorf("%s: coloured %v\n%q", name, got, out)
		}
	}
}

// Names are data: whoever names an object does not command the terminal of whoever looks at it.
func TestNamesDoNotCommandTheTerminal(t *testing.T) {
	for in, want := range map[string]string{
		"plain name, ключ, 日本":    "plain name, ключ, 日本",
		"\x1b]0;title\x07":        `\x1b]0;title\a`,
		"a\nb\r\tc":               `a\nb\r\tc`,
		"\u009b31m":               `\u009b31m`,
		"left\u202eright":         `left\u202eright`,
		"zero\u200bwidth":         `zero\u200bwidth`,
		"\xff\xfe":                `\xff\xfe`,
		"tag \U000E0041":          `tag \U000e0041`,
		`a backslash \ is itself`: `a backslash \ is itself`,
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
		if got := clean(want); got != want {
			t.Errorf("clean(%q) = %q: not twice", want, got)
		}
		doc, err := json.Marshal(strings.ToValidUTF8(in, "?"))
		if err != nil {
			t.Fatal(err)
		}
		escaped := escapeJSON(doc)
		var back string
		if err := json.Unmarshal(escaped, &back); err != nil || back != strings.ToValidUTF8(in, "?") {
			t.Errorf("escapeJSON changed %q to %q (%v)", in, back, err)
		}
		if clean(string(escaped)) != string(escaped) {
			t.Errorf("escapeJSON left %q", escaped)
		}
	}
}

func TestDescriptionInWords(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 11, 22, 12, 0, s, 0, time.Local) }
	a, out := screen(t, 0, "", nil)
	a.printDescription(service.Description{
		Run: service.Run{
			RunID: "prod/orders/eu", Execution: "e1", Pipeline: "orders", Key: "eu", Identity: "finalized:b/o#1", Outcome: runs.OutcomeRunning, Begun: at(0),
			Purpose: "Load orders.", Owner: "sue@example.com", Config: pipeline.Version{Hash: "0123456789abcdef", ChangedAt: at(1), ChangedBy: "sue"},
		},
		Waits:   []string{"clean: job prod-orders-clean-x-2, running"},
		Cancels: []service.CancelRequest{{Time: at(2), By: "penstock-cli/prod@host", Reason: "wrong\x1b[0mfile"}},
		Link:    "http://ui/run", Notes: []string{"a note"},
		Steps: []service.Step{
			{Name: "clean", Outcome: runs.OutcomeRunning, Waiting: "job prod-orders-clean-x-2, running", Attempts: []service.Attempt{
				{JobResult: runs.JobResult{Attempt: 1, Outcome: runs.OutcomeFailed, State: "JOB_STATE_FAILED", JobName: "prod-orders-clean-x-1", JobID: "j1", Begun: at(0), Ended: at(8),
					Error: "no such column:\n\tprice\n", Metrics: map[string]int64{"rows": 7, "bad": 1}}, Console: "http://console/j1", Link: "http://ui/j1"},
				{JobResult: runs.JobResult{Attempt: 2, Outcome: runs.OutcomeRunning, State: "JOB_STATE_RUNNING", JobName: "prod-orders-clean-x-2", JobID: "j2", Begun: at(10), Adopted: true}},
			}},
			{Name: "load", Outcome: runs.OutcomePending, Waiting: "the steps it needs"},
		},
	}, at(70))
	want := `run        prod/orders/eu
pipeline   orders
purpose    Load orders.
owner      sue@example.com
key        eu
started by finalized:b/o#1
outcome    running
begun      2026-11-22 12:00:00
duration   1m10s
config     0123456789ab, of 2026-11-22 12:00:01, by sue
execution  e1
temporal   http://ui/run
waits for  clean: job prod-orders-clean-x-2, running
cancel     asked for at 2026-11-22 12:00:02 by penstock-cli/prod@host: wrong\x1b[0mfile
note       a note

step clean  running
  waits for  job prod-orders-clean-x-2, running
  attempt 1  failed, FAILED, 8s
    job        prod-orders-clean-x-1
    job ID     j1
    dataflow   http://console/j1
    temporal   http://ui/j1
    error      no such column:
                   price
    metrics    bad=1 rows=7
  attempt 2  running, RUNNING, 1m0s
    job        prod-orders-clean-x-2
    job ID     j2
    note       the job was found, not launched, by its workflow

step load  pending
  waits for  the steps it needs
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestTimes(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"":                     {},
		"90m":                  now.Add(-90 * time.Minute),
		"7d":                   now.AddDate(0, 0, -7),
		"2026-11-20T10:00:00Z": time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC),
		"2026-11-20":           time.Date(2026, 11, 20, 0, 0, 0, 0, time.Local),
	} {
		if got, err := parseTime(in, now); err != nil || !got.Equal(want) {
			t.Errorf("parseTime(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"tomorrow", "-5m", "-1d", "d", "20261120"} {
		if got, err := parseTime(in, now); err == nil {
			t.Errorf("parseTime(%q) = %v", in, got)
		}
	}
	for want, d := range map[string]time.Duration{"0s": 0, "2.3s": 2340 * time.Millisecond, "1m15s": 75*time.Second + 300*time.Millisecond, "1d1h2m0s": 25*time.Hour + 2*time.Minute} {
		if got := took(d); got != want {
			t.Errorf("took(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestARetrySaysWhatItDoesNotKnow(t *testing.T) {
	a, out := screen(t, 0, "", nil)
	a.printRetried(service.Retried{RunID: "prod/orders/eu", Steps: []service.RetriedStep{{Name: "clean", Action: service.StepKept, Attempt: 1}, {Name: "load"}}, Notes: []string{"the worker knows"}})
	if text := out.String(); !strings.Contains(text, "clean is finished") || strings.Contains(text, "load") || !strings.Contains(text, "the worker knows") {
		t.Errorf("got\n%s", text)
	}
}
