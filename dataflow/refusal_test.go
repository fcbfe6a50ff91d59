package dataflow_test

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/dataflow"
)

type object = map[string]any

// violations is the detail message of a template's refusal.
func violations(pairs ...string) object {
	var list []any
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, object{"parameter": pairs[i], "description": pairs[i+1]})
	}
	return object{"@type": "type.googleapis.com/google.dataflow.v1beta3.InvalidTemplateParameters", "parameterViolations": list}
}

// Refusals are answers that say that nothing was done; each calls for something else.
func TestRefusals(t *testing.T) {
	const badParameters = "The template parameters are invalid. Details: \ninput: Missing required parameter\nrejcts: Unrecognized parameter"
	want := []dataflow.Violation{{Parameter: "input", Description: "Missing required parameter"}, {Parameter: "rejcts", Description: "Unrecognized parameter"}}
	for name, tt := range map[string]struct {
		call       string
		answer     http.HandlerFunc
		kind       dataflow.Kind
		violations []dataflow.Violation
		hint       string
	}{
		"parameters that the template refuses": {"launch",
			refuse(400, "INVALID_ARGUMENT", "badRequest", badParameters, violations("input", "Missing required parameter", "rejcts", "Unrecognized parameter")), dataflow.KindInvalid, want, ""},
		"the same, in the text alone": {"launch", refuse(400, "INVALID_ARGUMENT", "badRequest", badParameters), dataflow.KindInvalid, want, ""},
		"the same, of a classic template": {"launch classic", refuse(400, "INVALID_ARGUMENT", "badRequest",
			"(a1): The workflow could not be created. Causes: (a2): Found unexpected parameters: ['rejcts' (perhaps you meant 'rejects'), 'x']"), dataflow.KindInvalid,
			[]dataflow.Violation{{Parameter: "rejcts", Description: "unexpected parameter, perhaps you meant 'rejects'"}, {Parameter: "x", Description: "unexpected parameter"}}, ""},
		"a field that is not there": {"launch", refuse(400, "INVALID_ARGUMENT", "badRequest", "Invalid JSON payload received.",
			object{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": []any{object{"field": "launch_parameter", "description": "Unknown name"}}}),
			dataflow.KindInvalid, []dataflow.Violation{{Parameter: "launch_parameter", Description: "Unknown name"}}, ""},
		"a parameter named quota": {"launch", refuse(400, "INVALID_ARGUMENT", "badRequest", "The template parameters are invalid. Details: \nquota: limit exceeded",
			violations("quota", "limit exceeded")), dataflow.KindInvalid, []dataflow.Violation{{Parameter: "quota", Description: "limit exceeded"}}, ""},
		"a parameter that holds DEADLINE_EXCEEDED": {"launch", refuse(400, "INVALID_ARGUMENT", "badRequest", "no such value: DEADLINE_EXCEEDED"), dataflow.KindInvalid, nil, ""},
		"a template that does not exist":           {"launch", refuse(404, "NOT_FOUND", "notFound", "(b1): Unable to open template file: gs://acme-templates/clean.json."), dataflow.KindNotFound, nil, "template"},
		"no credentials":                           {"launch", refuse(401, "UNAUTHENTICATED", "authError", "Request had invalid authentication credentials."), dataflow.KindPermission, nil, ""},
		"no permission": {"launch", refuse(403, "PERMISSION_DENIED", "forbidden", "(c1): Could not create workflow; user does not have write access to project: acme"),
			dataflow.KindPermission, nil, "roles/dataflow.developer"},
		"the API switched off": {"launch", refuse(403, "PERMISSION_DENIED", "forbidden", "Dataflow API has not been used in project 1 before or it is disabled.",
			object{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}), dataflow.KindPermission, nil, "enable dataflow.googleapis.com"},
		"a proxy's no": {"launch", reply(403, "<html>Forbidden</html>"), dataflow.KindPermission, nil, ""},
		"too many jobs": {"launch", refuse(429, "RESOURCE_EXHAUSTED", "rateLimitExceeded",
			"(d1): The workflow could not be created. Causes: (d2): Dataflow quota error for jobs-per-project quota. Project acme is running 25 jobs."), dataflow.KindQuota, nil, "quota"},
		"too many jobs, said as a precondition": {"launch", refuse(400, "FAILED_PRECONDITION", "failedPrecondition",
			"(d1): The workflow could not be created. Causes: (d2): Dataflow quota error for jobs-per-project quota. Project acme is running 25 jobs."), dataflow.KindQuota, nil, "quota"},
		"too many requests, by reason": {"get", refuse(403, "PERMISSION_DENIED", "userRateLimitExceeded", "User Rate Limit Exceeded"), dataflow.KindQuota, nil, ""},
		"too many requests, by detail": {"find", refuse(429, "", "", "Slow down.", object{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED"}), dataflow.KindQuota, nil, ""},
		"too many requests, no more":   {"launch", reply(429, ""), dataflow.KindTransient, nil, ""},
		"no such job":                  {"get", refuse(404, "NOT_FOUND", "notFound", "(e1): Information about job id could not be found in our system."), dataflow.KindNotFound, nil, "30 days"},
		"a job just launched": {"get", refuse(404, "NOT_FOUND", "notFound",
			`Calling GetObjectMetadata with file "/bigstore/acme/staging/pipeline-x.pb": RPC::DEADLINE_EXCEEDED: Deadline exceeded, notFound`), dataflow.KindTransient, nil, ""},
		"a conflict of another sort":        {"launch", refuse(409, "ALREADY_EXISTS", "", "exists"), dataflow.KindAlreadyExists, nil, "look up"},
		"cancel of a job that is over":      {"cancel", refuse(400, "FAILED_PRECONDITION", "failedPrecondition", "(f1): Could not modify workflow; id is already in a terminal state"), dataflow.KindTerminated, nil, ""},
		"cancel after the end":              {"cancel", refuse(400, "INVALID_ARGUMENT", "badRequest", "Job id has terminated in state JOB_STATE_DONE."), dataflow.KindTerminated, nil, ""},
		"drain after the end":               {"drain", refuse(400, "INVALID_ARGUMENT", "badRequest", "Job id has terminated in state JOB_STATE_FAILED."), dataflow.KindTerminated, nil, ""},
		"cancel too early":                  {"cancel", refuse(400, "FAILED_PRECONDITION", "failedPrecondition", "Job id is not yet ready for canceling. Please retry in a few minutes."), dataflow.KindNotReady, nil, ""},
		"drain of a job that does not run":  {"drain", refuse(400, "FAILED_PRECONDITION", "failedPrecondition", "Job id cannot be drained as it is not running."), dataflow.KindInvalid, nil, ""},
		"a launch that tells of terminated": {"launch", refuse(400, "INVALID_ARGUMENT", "badRequest", "string has terminated too early"), dataflow.KindInvalid, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := serve(t, tt.answer)
			err := calls[tt.call].do(t.Context(), a.client)
			e := failure(t, err, tt.kind)
			if !reflect.DeepEqual(e.Violations, tt.violations) {
				t.Errorf("violations %q, want %q", e.Violations, tt.violations)
			}
			if tt.hint != "" && !strings.Contains(err.Error(), tt.hint) {
				t.Errorf("%q gives no hint of %q", err, tt.hint)
			}
			if e.Code == 0 || e.Project == "" || e.Location == "" || e.Name+e.JobID == "" || !strings.Contains(err.Error(), e.Message) {
				t.Errorf("%q does not say what failed", err)
			}
			if n := a.requests(); n != 1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func TestErrorInAList(t *testing.T) {
	a := serve(t, reply(400, `[{"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}]`))
	_, err := a.client.Get(t.Context(), "acme", "us-central1", "id")
	if e := failure(t, err, dataflow.KindInvalid); e.Status != "INVALID_ARGUMENT" || e.Message != "no" {
		t.Errorf("%+v", e)
	}
}

func TestRetryAfter(t *testing.T) {
	retryInfo := func(delay string) string {
		b, err := json.Marshal(object{"error": object{"message": "slow", "details": []any{object{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, tt := range map[string]struct {
		header, body string
		least, most  time.Duration
	}{
		"none":         {"", "", 0, 0},
		"seconds":      {"7", "", 7 * time.Second, 7 * time.Second},
		"a date":       {time.Now().Add(time.Minute).UTC().Format(http.TimeFormat), "", 50 * time.Second, time.Minute},
		"a past date":  {time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat), "", 0, 0},
		"days":         {"1000000", "", time.Hour, time.Hour},
		"beyond all":   {"99999999999999999999", "", 0, 0},
		"below zero":   {"-5", "", 0, 0},
		"words":        {"soon", "", 0, 0},
		"in the body":  {"", retryInfo("2.5s"), 2500 * time.Millisecond, 2500 * time.Millisecond},
		"header first": {"3", retryInfo("9s"), 3 * time.Second, 3 * time.Second},
		"negative":     {"", retryInfo("-9s"), 0, 0},
	} {
		a := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if tt.header != "" {
				w.Header().Set("Retry-After", tt.header)
			}
			reply(429, tt.body)(w, r)
		})
		_, err := a.client.Get(t.Context(), "acme", "us-central1", "id")
		if e := failure(t, err, dataflow.KindTransient); e.RetryAfter < tt.least || e.RetryAfter > tt.most {
			t.Errorf("%s: wait %v, want %v to %v", name, e.RetryAfter, tt.least, tt.most)
		}
	}
}

func TestQuotaMessage(t *testing.T) {
	for message, want := range map[string]bool{
		"Workflow failed. Causes: Project acme has insufficient quota(s) to execute this workflow with 1 instances in region us-central1. Quota summary (required/available): 1/6987 instances, 1/0 CPUs": true,
		"(a1): The workflow could not be created. Causes: (a2): Dataflow quota error for jobs-per-project quota. Project acme is running 299 jobs.":                                                       true,
		"Startup of the worker pool in zone us-central1-a failed to bring up any of the desired 1 workers. QUOTA_EXCEEDED: Instance creation failed: Quota 'CPUS' exceeded. Limit: 24.0 in region":        true,
		"The project quota may have been exceeded or access control policies may be preventing the operation":                                                                                             true,
		"Error: Message: Exceeded limit 'QUOTA_FOR_INSTANCES' on resource 'x-harness'. Limit: 8.0 HTTP Code: 403":                                                                                         true,
		"Insufficient 'N2_CPUS' quota. Requested 12.0, available 0.0.":                                                                                                                                    true,
		"Your resource request exceeds your available quota":                                                                                                                                              true,
		`KeyError: 'quota'`:                                     false,
		`row 7: column "quota" is missing`:                      false,
		"Workflow failed. Causes: The job failed.":              false,
		"Project requires a quota project, which is not set":    false,
		"memory exceeded while sorting":                         false,
		"ZONE_RESOURCE_POOL_EXHAUSTED: no capacity in the zone": false,
		"": false,
		"index exceeds the range.\nreading table quota of tenant": false,
	} {
		if got := dataflow.QuotaMessage(message); got != want {
			t.Errorf("QuotaMessage(%q) = %v", message, got)
		}
	}
}
