package dataflow_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/dataflow"
)

// What is sent is what Request shows, whatever the names hold.
func TestLaunchSendsTheRequest(t *testing.T) {
	a := serve(t, reply(200, `{"job": {"id": "id"}}`))
	flex, classic := orders(), orders()
	classic.Classic, classic.Template = true, "gs://acme/a&gcsPath=b+c%2F é"
	flex.Parameters["input"] = "gs://a/../${x}{{y}}\"'<&>,%2F\u2028\x00 é"
	for _, l := range []dataflow.Launch{flex, classic} {
		want, err := l.Request()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.client.Launch(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		r, body := a.last(t)
		q := r.URL.Query()
		q.Del("alt")
		q.Del("prettyPrint")
		path := r.URL.EscapedPath()
		if len(q) > 0 {
			path += "?" + q.Encode()
		}
		if r.Method != want.Method || path != want.Path {
			t.Errorf("sent %s %s, want %s %s", r.Method, path, want.Method, want.Path)
		}
		if !sameJSON(t, body, string(want.Body)) {
			t.Errorf("sent %s\nwant %s", body, want.Body)
		}
	}
}

func TestLaunchInvalidIsNotSent(t *testing.T) {
	a := serve(t, reply(200, `{}`))
	for _, classic := range []bool{false, true} {
		l := orders()
		l.Classic, l.JobName = classic, "X"
		_, err := a.client.Launch(t.Context(), l)
		_ = failure(t, err, dataflow.KindInvalid)
	}
	if a.requests() != 0 {
		t.Error("a request went out")
	}
}

func TestLaunchMakesAJob(t *testing.T) {
	created := time.Now().UTC().Truncate(time.Microsecond)
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		reply(200, fmt.Sprintf(`{"job": {"id": "2026-11-22_06_00_00-1", "name": "dev-orders-clean-0a1b2c3d-1", "projectId": "123",
			"location": "europe-west4", "createTime": %q, "currentStateTime": "1970-01-01T00:00:00Z", "startTime": %[1]q}}`,
			created.Format(time.RFC3339Nano)))(w, r)
	})
	got, err := a.client.Launch(t.Context(), orders())
	want := dataflow.Job{
		ID: "2026-11-22_06_00_00-1", Name: "dev-orders-clean-0a1b2c3d-1", Project: "acme", Location: "europe-west4",
		Type: dataflow.TypeUnknown, State: dataflow.StateUnknown, CreateTime: created, StartTime: created,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestLaunchFindsAJob(t *testing.T) {
	ago := func(d time.Duration) string { return time.Now().Add(-d).UTC().Format(time.RFC3339Nano) }
	for name, answer := range map[string]string{
		"by its age":    `{"job": {"id": "old", "name": "dev-orders-clean-0a1b2c3d-1", "createTime": "` + ago(2*time.Minute) + `"}}`,
		"by its labels": `{"job": {"id": "old", "createTime": "` + ago(0) + `", "labels": {"penstock_deployment": "other"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			a := serve(t, reply(200, answer))
			job, err := a.client.Launch(t.Context(), orders())
			_ = failure(t, err, dataflow.KindAlreadyExists)
			if job.ID != "old" {
				t.Errorf("job %q, want the one that exists", job.ID)
			}
		})
	}
	t.Run("without saying which", func(t *testing.T) {
		a := serve(t, refuse(409, "ALREADY_EXISTS", "alreadyExists",
			"(d4f5): The workflow could not be created. Causes: (d4f6): There is already an active job named dev-orders-clean-0a1b2c3d-1."))
		job, err := a.client.Launch(t.Context(), orders())
		_ = failure(t, err, dataflow.KindAlreadyExists)
		if job.ID != "" {
			t.Errorf("job %q from a refusal", job.ID)
		}
	})
	t.Run("not by an age that the answer's own slowness explains", func(t *testing.T) {
		a := serve(t, func(w http.ResponseWriter, r *http.Request) {
			// The server's clock is an hour ahead of ours; both its times agree.
			now := time.Now().Add(time.Hour).UTC()
			w.Header().Set("Date", now.Format(http.TimeFormat))
			reply(200, `{"job": {"id": "new", "createTime": "`+now.Add(-time.Second).Format(time.RFC3339Nano)+`"}}`)(w, r)
		})
		if _, err := a.client.Launch(t.Context(), orders()); err != nil {
			t.Error(err)
		}
	})
}

// A success that names no job, or another, leaves open what was made.
func TestLaunchWithoutAJob(t *testing.T) {
	for _, answer := range []string{`{}`, `{"job": {}}`, `null`, `{"job": {"id": "x", "name": "another"}}`} {
		a := serve(t, reply(200, answer))
		_, err := a.client.Launch(t.Context(), orders())
		_ = failure(t, err, dataflow.KindUnanswered)
	}
}

func TestFind(t *testing.T) {
	pages := map[string]string{
		"": `{"nextPageToken": "2", "jobs": [
			{"id": "first", "name": "a", "type": "JOB_TYPE_BATCH", "currentState": "JOB_STATE_FAILED", "createTime": "2026-11-22T06:00:00Z"},
			{"id": "stranger", "name": "ab"}]}`,
		"2": `{"jobs": [
			{"id": "first", "name": "a", "type": "JOB_TYPE_BATCH", "currentState": "JOB_STATE_FAILED", "createTime": "2026-11-22T06:00:00Z"},
			{"id": "second", "name": "a", "type": "JOB_TYPE_BATCH", "currentState": "JOB_STATE_ODD", "createTime": "2026-11-22T06:00:00.5Z",
			"currentStateTime": "2026-11-22T06:01:00.123456Z", "requestedState": "JOB_STATE_CANCELLED"}]}`,
	}
	a := serve(t, func(w http.ResponseWriter, r *http.Request) { reply(200, pages[r.URL.Query().Get("pageToken")])(w, r) })
	got, err := a.client.Find(t.Context(), "acme", "us-central1", "a")
	want := []dataflow.Job{
		{ID: "second", Name: "a", Project: "acme", Location: "us-central1", Type: dataflow.TypeBatch, State: "JOB_STATE_ODD",
			CreateTime: time.Date(2026, 11, 22, 6, 0, 0, 5e8, time.UTC), StateTime: time.Date(2026, 11, 22, 6, 1, 0, 123456000, time.UTC),
			RequestedState: dataflow.StateCancelled},
		{ID: "first", Name: "a", Project: "acme", Location: "us-central1", Type: dataflow.TypeBatch, State: dataflow.StateFailed,
			CreateTime: time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	r, _ := a.last(t)
	if q := r.URL.Query(); r.Method != http.MethodGet || r.URL.Path != "/v1b3/projects/acme/locations/us-central1/jobs" || q.Get("name") != "a" || q.Get("filter") != "ALL" {
		t.Errorf("asked %s %s", r.Method, r.URL)
	}
}

func TestList(t *testing.T) {
	pages := map[string]string{
		"": `{"nextPageToken": "2", "jobs": [
			{"id": "first", "name": "a", "type": "JOB_TYPE_BATCH", "currentState": "JOB_STATE_RUNNING", "createTime": "2026-11-22T06:00:00Z"},
			{"id": "third", "name": "b", "type": "JOB_TYPE_STREAMING", "currentState": "JOB_STATE_DRAINING", "createTime": "2026-11-22T06:00:02Z"}]}`,
		"2": `{"jobs": [
			{"id": "first", "name": "a", "type": "JOB_TYPE_BATCH", "currentState": "JOB_STATE_RUNNING", "createTime": "2026-11-22T06:00:00Z"}, null,
			{"id": "second", "name": "a", "type": "JOB_TYPE_BATCH", "currentState": "JOB_STATE_QUEUED", "createTime": "2026-11-22T06:00:01Z",
			"currentStateTime": "2026-11-22T06:00:01.123456Z"}]}`,
	}
	a := serve(t, func(w http.ResponseWriter, r *http.Request) { reply(200, pages[r.URL.Query().Get("pageToken")])(w, r) })
	got, err := a.client.List(t.Context(), "acme", "us-central1")
	at := time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)
	want := []dataflow.Job{
		{ID: "third", Name: "b", Project: "acme", Location: "us-central1", Type: dataflow.TypeStreaming, State: dataflow.StateDraining, CreateTime: at.Add(2 * time.Second)},
		{ID: "second", Name: "a", Project: "acme", Location: "us-central1", Type: dataflow.TypeBatch, State: dataflow.StateQueued,
			CreateTime: at.Add(time.Second), StateTime: at.Add(time.Second + 123456*time.Microsecond)},
		{ID: "first", Name: "a", Project: "acme", Location: "us-central1", Type: dataflow.TypeBatch, State: dataflow.StateRunning, CreateTime: at},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	r, _ := a.last(t)
	if q := r.URL.Query(); r.URL.Path != "/v1b3/projects/acme/locations/us-central1/jobs" || q.Get("filter") != "ACTIVE" || q.Has("name") {
		t.Errorf("asked %s", r.URL)
	}
	if n := a.requests(); n != 2 {
		t.Errorf("%d requests for 2 pages", n)
	}
}

func TestListTellsWhenItIsNotWholeAndHowLongToWait(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"without an end":     reply(200, `{"nextPageToken": "again", "jobs": [{"id": "x", "name": "a"}]}`),
		"a place is missing": reply(200, `{"failedLocation": [{"name": "us-central1"}], "jobs": [{"id": "x", "name": "a"}]}`),
		"too many requests": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "17")
			refuse(429, "", "", "slow down")(w, r)
		},
	} {
		a := serve(t, answer)
		jobs, err := a.client.List(t.Context(), "acme", "us-central1")
		e := failure(t, err, dataflow.KindTransient)
		if jobs != nil || name == "too many requests" && e.RetryAfter != 17*time.Second {
			t.Errorf("%s: %v, wait %v", name, jobs, e.RetryAfter)
		}
	}
}

// Half a list would let a job be launched that exists.
func TestFindTellsWhenItIsNotWhole(t *testing.T) {
	for name, answer := range map[string]string{
		"without an end":     `{"nextPageToken": "again", "jobs": [{"id": "x", "name": "a"}]}`,
		"a place is missing": `{"failedLocation": [{"name": "us-central1"}], "jobs": [{"id": "x", "name": "a"}]}`,
	} {
		a := serve(t, reply(200, answer))
		jobs, err := a.client.Find(t.Context(), "acme", "us-central1", "a")
		_ = failure(t, err, dataflow.KindTransient)
		if jobs != nil {
			t.Errorf("%s: %v", name, jobs)
		}
		if n := a.requests(); n > 100 {
			t.Errorf("%s: asked %d times", name, n)
		}
	}
}

func TestGet(t *testing.T) {
	a := serve(t, reply(200, `{"id": "2026-11-22_06_00_00-1", "name": "a", "projectId": "acme", "type": "JOB_TYPE_STREAMING",
		"currentState": "JOB_STATE_UPDATED", "currentStateTime": "2026-11-22T06:00:00Z", "labels": {"penstock_spec": "x"},
		"replaceJobId": "before", "replacedByJobId": "after", "somethingNew": {"a": 1}}`))
	got, err := a.client.Get(t.Context(), "acme", "us-central1", "2026-11-22_06_00_00-1")
	want := dataflow.Job{
		ID: "2026-11-22_06_00_00-1", Name: "a", Project: "acme", Location: "us-central1", Type: dataflow.TypeStreaming, State: dataflow.StateUpdated,
		StateTime: time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC), Labels: map[string]string{"penstock_spec": "x"}, ReplaceJobID: "before", ReplacedByJobID: "after",
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if r, _ := a.last(t); r.Method != http.MethodGet || r.URL.Path != "/v1b3/projects/acme/locations/us-central1/jobs/2026-11-22_06_00_00-1" {
		t.Errorf("asked %s %s", r.Method, r.URL)
	}
	if got.Observed() != (dataflow.Observed{JobID: got.ID, State: got.State, StateTime: got.StateTime}) {
		t.Errorf("Observed() = %v", got.Observed())
	}
	_, err = a.client.Get(t.Context(), "acme", "us-central1", "another")
	_ = failure(t, err, dataflow.KindTransient)
}

// Job IDs and names come out of events: they are data, never a path.
func TestHostileIDs(t *testing.T) {
	a := serve(t, reply(200, `{}`))
	for _, id := range []string{"", ".", "..", "a/../../b", "a%2Fb", "a?b=c", "a b", "-x", "a\n", "é"} {
		c, ctx := a.client, t.Context()
		_, getErr := c.Get(ctx, "acme", "us-central1", id)
		_, metricsErr := c.Metrics(ctx, "acme", "us-central1", id)
		_, messagesErr := c.FirstError(ctx, "acme", "us-central1", id)
		_, findErr := c.Find(ctx, "acme", "us-central1", id)
		_, placeErr := c.Find(ctx, id, id+"/", "a")
		_, listErr := c.List(ctx, id, id+"/")
		for _, err := range []error{getErr, metricsErr, messagesErr, findErr, placeErr, listErr,
			c.Cancel(ctx, "acme", "us-central1", id, false), c.Drain(ctx, "acme", "us-central1", id)} {
			if e := failure(t, err, dataflow.KindInvalid); len(e.Violations) == 0 {
				t.Errorf("%v names no parameter", err)
			}
		}
	}
	if a.requests() != 0 {
		t.Error("a request went out")
	}
}

func TestCancelAndDrain(t *testing.T) {
	a := serve(t, reply(200, `{"id": "id"}`))
	for _, tt := range []struct {
		name, body string
		do         func() error
	}{
		{"cancel", `{"requestedState": "JOB_STATE_CANCELLED"}`, func() error { return a.client.Cancel(t.Context(), "acme", "us-central1", "id", false) }},
		{"force", `{"requestedState": "JOB_STATE_CANCELLED", "labels": {"force_cancel_job": "true"}}`,
			func() error { return a.client.Cancel(t.Context(), "acme", "us-central1", "id", true) }},
		{"drain", `{"requestedState": "JOB_STATE_DRAINED"}`, func() error { return a.client.Drain(t.Context(), "acme", "us-central1", "id") }},
	} {
		if err := tt.do(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		r, body := a.last(t)
		if r.Method != http.MethodPut || r.URL.Path != "/v1b3/projects/acme/locations/us-central1/jobs/id" || !sameJSON(t, body, tt.body) {
			t.Errorf("%s sent %s %s %s", tt.name, r.Method, r.URL, body)
		}
		if r.URL.Query().Has("updateMask") {
			t.Errorf("%s has an update mask, which the API refuses beside a requested state", tt.name)
		}
	}
}

func TestMetrics(t *testing.T) {
	metric := func(name, namespace, step, tentative string, value string) string {
		return fmt.Sprintf(`{"name": {"origin": "user", "name": %q, "context": {"namespace": %q, "step": %q%s}}, %s}`, name, namespace, step, tentative, value)
	}
	const only = `, "tentative": "true"`
	a := serve(t, reply(200, `{"metricTime": "2026-11-22T06:00:00Z", "metrics": [`+strings.Join([]string{
		metric("rows", "clean", "s1", only, `"scalar": 999`),
		metric("rows", "clean", "s1", "", `"scalar": 100`),
		metric("rows", "clean", "s2", "", `"scalar": 20`),
		metric("live", "clean", "s1", only, `"scalar": 7`),
		metric("seen", "read", "s1", "", `"scalar": 1`),
		metric("seen", "write", "s2", "", `"scalar": 2`),
		metric("huge", "clean", "s1", "", `"scalar": 1e300`),
		metric("size", "clean", "s1", "", `"distribution": {"count": 2, "sum": 30, "min": 10, "max": 20, "mean": 15}`),
		metric("size", "clean", "s2", "", `"distribution": {"count": 1, "sum": 5, "min": 5, "max": 5}`),
		metric("size", "clean", "s3", "", `"distribution": {"count": 0, "sum": 0, "min": 0, "max": 0}`),
		metric("odd", "clean", "s1", "", `"set": ["x"]`),
		`{"name": {"origin": "dataflow/v1b3", "name": "TotalVcpuTime"}, "scalar": 5}`, `{}`, `null`,
	}, ",")+`]}`))
	got, err := a.client.Metrics(t.Context(), "acme", "us-central1", "id")
	want := dataflow.Metrics{
		Time:          time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC),
		Counters:      map[string]int64{"rows": 120, "live": 7, "read/seen": 1, "write/seen": 2, "huge": 1<<63 - 1},
		Distributions: map[string]dataflow.Distribution{"size": {Count: 3, Sum: 35, Min: 5, Max: 20}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if r, _ := a.last(t); r.Method != http.MethodGet || r.URL.Path != "/v1b3/projects/acme/locations/us-central1/jobs/id/metrics" {
		t.Errorf("asked %s %s", r.Method, r.URL)
	}
}

func TestMetricsAreBounded(t *testing.T) {
	var many []any
	for i := range 1500 {
		many = append(many, map[string]any{"name": map[string]any{"origin": "user", "name": fmt.Sprintf("c%04d", i)}, "scalar": 1})
	}
	b, err := json.Marshal(map[string]any{"metrics": many})
	if err != nil {
		t.Fatal(err)
	}
	a := serve(t, reply(200, string(b)))
	got, err := a.client.Metrics(t.Context(), "acme", "us-central1", "id")
	if err != nil || !got.Truncated || len(got.Counters) != 1000 || got.Counters["c0999"] != 1 {
		t.Errorf("%d counters, truncated %v, %v", len(got.Counters), got.Truncated, err)
	}
}

func TestFirstError(t *testing.T) {
	message := func(time, importance, text string) string {
		return fmt.Sprintf(`{"time": %q, "messageImportance": %q, "messageText": %q}`, time, importance, text)
	}
	long := strings.Repeat("é", 4<<10)
	for name, tt := range map[string]struct {
		pages map[string]string
		want  string
	}{
		"none": {map[string]string{"": `{}`}, ""},
		"the earliest, on whichever page": {map[string]string{
			"": `{"nextPageToken": "2", "jobMessages": [` + message("2026-11-22T06:00:02Z", "JOB_MESSAGE_ERROR", "Workflow failed.") + `, null]}`,
			"2": `{"jobMessages": [` + message("2026-11-22T06:00:01.5Z", "JOB_MESSAGE_ERROR", " no column region\n") + `,` +
				message("2026-11-22T06:00:01.75Z", "JOB_MESSAGE_ERROR", "again") + `]}`,
		}, "no column region"},
		"no mere warning": {map[string]string{"": `{"jobMessages": [` + message("2026-11-22T06:00:00Z", "JOB_MESSAGE_WARNING", "slow") + `,` +
			message("2026-11-22T06:00:01Z", "JOB_MESSAGE_ERROR", "failed") + `]}`}, "failed"},
		"no empty one": {map[string]string{"": `{"jobMessages": [` + message("2026-11-22T06:00:00Z", "JOB_MESSAGE_ERROR", " ") + `,` +
			message("2026-11-22T06:00:01Z", "JOB_MESSAGE_ERROR", "failed") + `]}`}, "failed"},
		"a long one": {map[string]string{"": `{"jobMessages": [` + message("2026-11-22T06:00:00Z", "JOB_MESSAGE_ERROR", "x"+long) + `]}`}, ("x" + long)[:4095]},
		"messages without an end": {map[string]string{
			"":      `{"nextPageToken": "again", "jobMessages": [` + message("2026-11-22T06:00:00Z", "JOB_MESSAGE_ERROR", "failed") + `]}`,
			"again": `{"nextPageToken": "again"}`}, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			a := serve(t, func(w http.ResponseWriter, r *http.Request) {
				reply(200, tt.pages[r.URL.Query().Get("pageToken")])(w, r)
			})
			got, err := a.client.FirstError(t.Context(), "acme", "us-central1", "id")
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v\nwant %q", got, err, tt.want)
			}
			r, _ := a.last(t)
			if r.URL.Path != "/v1b3/projects/acme/locations/us-central1/jobs/id/messages" || r.URL.Query().Get("minimumImportance") != "JOB_MESSAGE_ERROR" {
				t.Errorf("asked %s", r.URL)
			}
			if a.requests() > 20 {
				t.Errorf("asked %d times", a.requests())
			}
		})
	}
}

func TestUserAgent(t *testing.T) {
	a := serve(t, reply(200, `{"id": "id"}`))
	a.client = dial(t, dataflow.Options{Endpoint: a.URL + "/", UserAgent: "penstock/1.0"})
	if _, err := a.client.Get(t.Context(), "acme", "us-central1", "id"); err != nil {
		t.Fatal(err)
	}
	if r, _ := a.last(t); !strings.Contains(r.UserAgent(), "penstock/1.0") {
		t.Errorf("user agent %q", r.UserAgent())
	}
}

// A client's own transport is used, and so is its authentication.
func TestHTTPClient(t *testing.T) {
	secure := httptest.NewTLSServer(reply(200, `{"id": "id"}`))
	defer secure.Close()
	c := dial(t, dataflow.Options{Endpoint: secure.URL, HTTPClient: secure.Client()})
	if _, err := c.Get(t.Context(), "acme", "us-central1", "id"); err != nil {
		t.Error(err)
	}
}
