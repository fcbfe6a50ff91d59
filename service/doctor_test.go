package service

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/pipeline"
)

// subject is a deployment whose Temporal does not answer; the server plays Dataflow and the functions.
func subject(t *testing.T, answer http.HandlerFunc) Subject {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return Subject{
		Place:     Place{Deployment: "prod", Project: "acme-prod", Location: "us-central1"},
		Pipelines: pipeline.NewSet(nil),
		Dial:      func(context.Context) (client.Client, error) { return nil, errors.New("nobody is there") },
		Dataflow: func(ctx context.Context) (*dataflow.Client, error) {
			return dataflow.New(ctx, dataflow.Options{Endpoint: server.URL})
		},
		FunctionsURL: server.URL + "/base",
	}
}

func check(t *testing.T, checks []Check, name string) Check {
	t.Helper()
	for _, c := range checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %q in %+v", name, checks)
	return Check{}
}

func TestExamineDataflow(t *testing.T) {
	for name, row := range map[string]struct {
		status int
		body   string
		want   Status
		do     string
	}{
		"may list":     {200, `{}`, StatusOK, ""},
		"may not list": {403, `{"error":{"code":403,"status":"PERMISSION_DENIED","message":"no dataflow.jobs.list"}}`, StatusFail, "roles/dataflow.viewer"},
		"no project":   {404, `{"error":{"code":404,"status":"NOT_FOUND","message":"no such project"}}`, StatusFail, "GOOGLE_CLOUD_PROJECT"},
		"down":         {503, `{}`, StatusFail, "DATAFLOW_ENDPOINT"},
	} {
		t.Run(name, func(t *testing.T) {
			s := subject(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(row.status)
				_, _ = io.WriteString(w, row.body)
			})
			c := check(t, Examine(t.Context(), s), "dataflow")
			if c.Status != row.want || !strings.Contains(c.Do, row.do) {
				t.Errorf("got %+v", c)
			}
		})
	}
}

// The functions take events by POST alone: a look must not be an event.
func TestExamineFunctions(t *testing.T) {
	for name, row := range map[string]struct {
		status int
		want   Status
		detail string
	}{
		"there":              {http.StatusMethodNotAllowed, StatusOK, "answers"},
		"there, not for all": {http.StatusForbidden, StatusOK, "not open to you"},
		"elsewhere":          {http.StatusNotFound, StatusFail, "404"},
		"misconfigured":      {http.StatusServiceUnavailable, StatusFail, "PENSTOCK_LOCATION is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			s := subject(t, func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.URL.Path, "/base") {
					return
				}
				if r.Method != http.MethodGet || r.URL.Path != "/base/StorageTrigger" {
					t.Errorf("%s %s", r.Method, r.URL)
				}
				w.WriteHeader(row.status)
				_, _ = io.WriteString(w, "PENSTOCK_LOCATION is wrong")
			})
			c := check(t, Examine(t.Context(), s), "functions")
			if c.Status != row.want || !strings.Contains(c.Detail, row.detail) {
				t.Errorf("got %+v", c)
			}
		})
	}
}

// Each check that cannot be made says so: an answer has all of them, always.
func TestExamineWithoutTemporal(t *testing.T) {
	checks := Examine(t.Context(), subject(t, func(http.ResponseWriter, *http.Request) {}))
	if c := check(t, checks, "temporal"); c.Status != StatusFail || c.Detail != "nobody is there" || !strings.Contains(c.Do, "TEMPORAL_ADDRESS") {
		t.Errorf("got %+v", c)
	}
	for _, name := range []string{"namespace", "dedupe", "search attributes", "worker"} {
		if c := check(t, checks, name); c.Status != StatusSkipped {
			t.Errorf("got %+v", c)
		}
	}
}

func parsed(t *testing.T, file string) *pipeline.Set {
	t.Helper()
	p, problems := pipeline.Parse("orders.yaml", []byte(file))
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	return pipeline.NewSet([]*pipeline.Pipeline{p})
}

func TestExamineLedger(t *testing.T) {
	dir := t.TempDir()
	open := func(place, emulator string) func(context.Context) (*ledger.Ledger, error) {
		return func(ctx context.Context) (*ledger.Ledger, error) {
			return ledger.OpenFrom(ctx, place, func(string) string { return emulator })
		}
	}
	bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method != http.MethodGet:
			t.Errorf("%s %s", r.Method, r.URL)
		case strings.Contains(r.URL.Path, "/missing/"):
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error":{"code":404,"message":"The specified bucket does not exist."}}`)
		case strings.Contains(r.URL.Path, "/closed/"):
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"error":{"code":403,"message":"no storage.objects.get"}}`)
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error":{"code":404,"message":"No such object"}}`)
		}
	}))
	defer bucket.Close()
	for name, row := range map[string]struct {
		file   string
		ledger func(context.Context) (*ledger.Ledger, error)
		want   Status
		detail string
	}{
		"a folder":                       {orders, open(dir, ""), StatusOK, dir},
		"a bucket":                       {orders, open("gs://there/x", bucket.URL), StatusOK, "gs://there/x"},
		"a bucket that is missing":       {orders, open("gs://missing/x", bucket.URL), StatusFail, "does not exist"},
		"a bucket that may not be read":  {orders, open("gs://closed/x", bucket.URL), StatusFail, "403"},
		"no place for one":               {orders, open("ftp://x", ""), StatusFail, "ftp"},
		"none":                           {orders, nil, StatusSkipped, "none is known"},
		"none, and a pipeline needs one": {orders + "dedupe: {keep: forever}\n", nil, StatusWarn, "orders"},
	} {
		t.Run(name, func(t *testing.T) {
			s := subject(t, func(http.ResponseWriter, *http.Request) {})
			s.Pipelines, s.Ledger = parsed(t, row.file), row.ledger
			if c := check(t, Examine(t.Context(), s), "ledger"); c.Status != row.want || !strings.Contains(c.Detail, row.detail) {
				t.Errorf("got %+v", c)
			}
		})
	}
}

func TestExamineDedupe(t *testing.T) {
	for name, row := range map[string]struct {
		dedupe string
		want   Status
	}{
		"none":                {"", StatusOK},
		"for ever":            {"dedupe: {keep: forever}\n", StatusOK},
		"for longer":          {"dedupe: {keep: 2000h}\n", StatusOK},
		"shorter than it has": {"dedupe: {keep: 24h}\n", StatusWarn},
	} {
		t.Run(name, func(t *testing.T) {
			var e examination
			e.dedupe(Subject{Pipelines: parsed(t, orders+row.dedupe)}, 72*time.Hour)
			c := check(t, e.checks, "dedupe")
			if c.Status != row.want || row.want == StatusWarn && (!strings.Contains(c.Detail, "orders (24h0m0s)") || !strings.Contains(c.Detail, "3 days")) {
				t.Errorf("got %+v", c)
			}
		})
	}
}
