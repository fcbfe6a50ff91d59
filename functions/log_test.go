package functions

import (
	"bytes"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/serviceerror"

	"github.com/penstock/penstock/cloudlog"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// What is searched for and alerted upon must not change unnoticed.
func TestLogLines(t *testing.T) {
	b := setup(t, ordersFile, dailyFile)
	b.now = func() time.Time { return time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC) }
	traced := func(r *http.Request, header, value string) *http.Request {
		r.Header.Set("Function-Execution-Id", "exec1")
		r.Header.Set(header, value)
		return r
	}
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	b.post(t, NameStorageTrigger, traced(finalized("orders/a.csv", 1), "Traceparent", "00-"+trace+"-00f067aa0ba902b7-01"))
	b.post(t, NameStorageTrigger, traced(finalized("orders/a.csv", 1), "X-Cloud-Trace-Context", trace+"/123;o=1"))
	b.post(t, NameStorageTrigger, traced(finalized("other", 1), "X-Cloud-Trace-Context", "not a trace"))
	b.post(t, NameStorageTrigger, finalized("daily/1/a.csv", 1))
	b.post(t, NameStorageTrigger, finalized("daily/1/b.csv", 1))
	b.temporal.fail = func(string) error { return serviceerror.NewUnavailable("away\nfor \"lunch\"") }
	b.post(t, NameStorageTrigger, finalized("orders/${x}%s.csv", 1))
	b.post(t, NameJobStatus, jobEvent("dev-orders-load-abc-1", "JOB_STATE_DONE"))

	got := b.log.Bytes()
	for _, line := range bytes.Split(bytes.TrimSpace(got), []byte("\n")) {
		i := bytes.Index(line, []byte(`{"time":"`))
		if i != 0 {
			t.Fatalf("no time: %s", line)
		}
	}
	got = withoutTimes(got)
	golden := filepath.Join("testdata", "log.golden")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the log changed.\ngot:\n%s\nwant:\n%s", got, want)
	}
}

// withoutTimes drops the time, which opens each line, and the files' hashes stay: they are the tests' own.
func withoutTimes(log []byte) []byte {
	var b bytes.Buffer
	for _, line := range strings.SplitAfter(string(log), "\n") {
		if _, rest, ok := strings.Cut(line, ","); ok {
			b.WriteString("{" + rest)
		}
	}
	return b.Bytes()
}

func TestEventThatNothingWantsIsSilent(t *testing.T) {
	b := setup(t, ordersFile)
	b.receiver.log = cloudlog.New(b.log, cloudlog.Level(""))
	for range 3 {
		b.post(t, NameStorageTrigger, finalized("other/a.csv", 1))
	}
	b.post(t, NameJobStatus, jobEvent("others-job", "JOB_STATE_DONE"))
	if b.log.Len() != 0 {
		t.Errorf("at the usual level it costs a line: %s", b.log)
	}
}

// Whoever only looks whether a function is there, such as penstock doctor, raises no alarm.
func TestLookAtAFunctionIsNoError(t *testing.T) {
	b := setup(t, ordersFile)
	b.post(t, NameStorageTrigger, httptest.NewRequest(http.MethodGet, "/", nil))
	if got := b.log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"severity":"INFO"`) {
		t.Errorf("logged %s, want one line of INFO", got)
	}
}

func TestTraces(t *testing.T) {
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for name, tt := range map[string]struct{ traceparent, cloud, trace, span string }{
		"W3C":                      {traceparent: "00-" + trace + "-" + span + "-01", trace: trace, span: span},
		"Google's own":             {cloud: trace + "/1;o=1", trace: trace},
		"Google's own, trace only": {cloud: trace, trace: trace},
		"both: W3C has the span":   {traceparent: "00-" + trace + "-" + span + "-01", cloud: trace + "/1", trace: trace, span: span},
		"neither":                  {},
		"a forged trace":           {traceparent: "00-" + strings.Repeat("g", 32) + "-" + span + "-01", cloud: "x/../y"},
		"all zeros":                {traceparent: "00-" + strings.Repeat("0", 32) + "-" + span + "-01"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header.Set("Traceparent", tt.traceparent)
		r.Header.Set("X-Cloud-Trace-Context", tt.cloud)
		if q := newRequest(NameJobStatus, r, time.Now()); q.trace != tt.trace || q.span != tt.span {
			t.Errorf("%s: trace %q, span %q; want %q, %q", name, q.trace, q.span, tt.trace, tt.span)
		}
	}
}
