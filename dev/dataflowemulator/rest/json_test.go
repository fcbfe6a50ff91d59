package rest_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/penstock/penstock/dev/dataflowemulator"
)

const flexPath = "/v1b3/projects/acme/locations/us-central1/flexTemplates:launch"

func TestBodiesByGooglesJSONRules(t *testing.T) {
	b := setup(t, nil)
	names := 0
	tests := map[string]struct {
		body string
		code int
		text string // a part of the answer
	}{
		"camelCase":                     {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "environment": {"maxWorkers": 3}}}`, 200, `"name":"NAME"`},
		"snake_case":                    {`{"launch_parameter": {"job_name": "NAME", "container_spec_gcs_path": "gs://templates/flex.json", "environment": {"max_workers": 3}}}`, 200, `"name":"NAME"`},
		"integers as strings":           {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "environment": {"maxWorkers": "3", "diskSizeGb": 10.0}}}`, 200, `"name":"NAME"`},
		"enums by name":                 {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "environment": {"ipConfiguration": "WORKER_IP_PRIVATE"}}}`, 200, `"name":"NAME"`},
		"enums by number":               {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "environment": {"ipConfiguration": 2}}}`, 200, `"name":"NAME"`},
		"unknown fields":                {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "later": {"a": [1]}}, "also": true}`, 200, `"name":"NAME"`},
		"nulls":                         {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "parameters": null, "environment": null}, "validateOnly": null}`, 200, `"name":"NAME"`},
		"an inline container spec":      {`{"launchParameter": {"jobName": "NAME", "containerSpec": {"image": "acme/quick"}}}`, 200, `"name":"NAME"`},
		"an unknown enum name":          {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "environment": {"ipConfiguration": "WORKER_IP_SECRET"}}}`, 400, `WORKER_IP_SECRET`},
		"a number for text":             {`{"launchParameter": {"jobName": 7}}`, 400, `Invalid JSON payload`},
		"a parameter that is no text":   {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "parameters": {"n": 7}}}`, 400, `Invalid JSON payload`},
		"one field in two spellings":    {`{"launchParameter": {"jobName": "NAME", "job_name": "other", "containerSpecGcsPath": "gs://templates/flex.json"}}`, 400, `Invalid JSON payload`},
		"both forms of container spec":  {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "containerSpec": {"image": "x"}}}`, 400, `Invalid JSON payload`},
		"a list for an object":          {`[]`, 400, `Invalid JSON payload`},
		"half a body":                   {`{"launchParameter": {`, 400, `Invalid JSON payload`},
		"two values":                    {`{} {}`, 400, `Invalid JSON payload`},
		"no body":                       {``, 400, `no launch parameter`},
		"no container spec":             {`{"launchParameter": {"jobName": "NAME"}}`, 400, `must have a container spec`},
		"no job name":                   {`{"launchParameter": {"containerSpecGcsPath": "gs://templates/flex.json"}}`, 400, `Invalid job name`},
		"a job name in capitals":        {`{"launchParameter": {"jobName": "Orders", "containerSpecGcsPath": "gs://templates/flex.json"}}`, 400, `Invalid job name`},
		"a job name that ends in -":     {`{"launchParameter": {"jobName": "orders-", "containerSpecGcsPath": "gs://templates/flex.json"}}`, 400, `Invalid job name`},
		"a job name of 1025 characters": {`{"launchParameter": {"jobName": "` + strings.Repeat("a", 1025) + `", "containerSpecGcsPath": "gs://templates/flex.json"}}`, 400, `Invalid job name`},
		"a job name of 1024 characters": {`{"launchParameter": {"jobName": "` + strings.Repeat("a", 1024) + `", "containerSpecGcsPath": "gs://templates/flex.json"}}`, 200, `aaa`},
		"a label in capitals":           {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "environment": {"additionalUserLabels": {"Team": "x"}}}}`, 400, `Invalid label key`},
		"a label value with a space":    {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "environment": {"additionalUserLabels": {"team": "a b"}}}}`, 400, `Invalid value`},
		"65 labels":                     {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/flex.json", "environment": {"additionalUserLabels": {` + labels(65) + `}}}}`, 400, `64 labels at most`},
		"a template that is not there":  {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/none.json"}}`, 404, `Unable to open template file: gs://templates/none.json.`},
		"a template that is no JSON":    {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/broken.json"}}`, 400, `Unable to parse template file`},
		"a template that is classic":    {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "gs://templates/classic"}}`, 400, `names no image`},
		"a template that is no path":    {`{"launchParameter": {"jobName": "NAME", "containerSpecGcsPath": "/etc/passwd"}}`, 400, `is not a Cloud Storage path`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			names++
			job := fmt.Sprintf("job-%d", names)
			code, answer := (&bench{t, b.emulator, b.url, b.api}).raw("POST", flexPath, strings.ReplaceAll(test.body, "NAME", job))
			text := string(mustJSON(t, answer))
			if code != test.code || !strings.Contains(text, strings.ReplaceAll(test.text, "NAME", job)) {
				t.Errorf("answered %d %.300s, want %d with %s", code, text, test.code, test.text)
			}
		})
	}
}

func labels(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"l%d": "x"`, i))
	}
	return strings.Join(all, ",")
}

func TestTemplateParameters(t *testing.T) {
	b := setup(t, nil)
	tests := map[string]struct {
		parameters string
		violations string // of the answer's details, as JSON; empty: accepted
	}{
		"all that is needed":        {`{"input": "gs://a/b"}`, ""},
		"options and numbers":       {`{"input": "gs://a/b", "mode": "safe", "count": "1.5", "dry": "true"}`, ""},
		"a required one is missing": {`{}`, `[{"description":"Missing required parameter","parameter":"input"}]`},
		"one is unknown":            {`{"input": "gs://a/b", "inptu": "x"}`, `[{"description":"Unrecognized parameter","parameter":"inptu"}]`},
		"a regex does not match":    {`{"input": "s3://a/b"}`, `[{"description":"The value does not match the regular expression \"^gs://.+\"","parameter":"input"}]`},
		"no such option":            {`{"input": "gs://a/b", "mode": "wild"}`, `[{"description":"The value must be one of: fast, safe","parameter":"mode"}]`},
		"several at once":           {`{"count": "many", "dry": "perhaps"}`, `[{"description":"Missing required parameter","parameter":"input"},{"description":"The value must be a number","parameter":"count"},{"description":"The value must be true or false","parameter":"dry"}]`},
	}
	i := 0
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			i++
			code, answer := (&bench{t, b.emulator, b.url, b.api}).raw("POST", flexPath, fmt.Sprintf(`{"launchParameter": {"jobName": "job-%d", "containerSpecGcsPath": "gs://templates/strict.json", "parameters": %s}}`, i, test.parameters))
			if test.violations == "" {
				if code != 200 {
					t.Errorf("refused: %d %s", code, mustJSON(t, answer))
				}
				return
			}
			refusal, _ := answer["error"].(map[string]any)
			details, _ := refusal["details"].([]any)
			if code != 400 || refusal["status"] != "INVALID_ARGUMENT" || len(details) != 1 {
				t.Fatalf("answered %d %s", code, mustJSON(t, answer))
			}
			detail := details[0].(map[string]any)
			if got := string(mustJSON(t, detail["parameterViolations"])); got != test.violations || detail["@type"] != "type.googleapis.com/google.dataflow.v1beta3.InvalidTemplateParameters" {
				t.Errorf("violations %s\nwant       %s", got, test.violations)
			}
			if !strings.Contains(refusal["message"].(string), "The template parameters are invalid. Details: ") {
				t.Errorf("message %q", refusal["message"])
			}
		})
	}
}

func TestPathsAndMethods(t *testing.T) {
	b := setup(t, nil)
	id := b.launch(endless, "orders")
	const here = "/v1b3/projects/acme/locations/us-central1"
	tests := map[string]struct {
		method, path string
		code         int
		status       string
	}{
		"get with a location":                       {"GET", here + "/jobs/" + id, 200, ""},
		"get without: the default location":         {"GET", "/v1b3/projects/acme/jobs/" + id, 200, ""},
		"get with the location as a query":          {"GET", "/v1b3/projects/acme/jobs/" + id + "?location=us-central1", 200, ""},
		"get in another location":                   {"GET", "/v1b3/projects/acme/locations/europe-west1/jobs/" + id, 404, "NOT_FOUND"},
		"get in another project":                    {"GET", "/v1b3/projects/other/locations/us-central1/jobs/" + id, 404, "NOT_FOUND"},
		"escaped parts of a path":                   {"GET", "/v1b3/projects/%61cme/jobs/" + id, 200, ""},
		"a slash that is data":                      {"GET", here + "/jobs/a%2Fmetrics", 404, "NOT_FOUND"},
		"metrics":                                   {"GET", here + "/jobs/" + id + "/metrics", 200, ""},
		"messages":                                  {"GET", "/v1b3/projects/acme/jobs/" + id + "/messages?minimumImportance=4", 200, ""},
		"metrics of no job":                         {"GET", here + "/jobs/2026-01-01_00_00_00-1/metrics", 404, "NOT_FOUND"},
		"messages of no job":                        {"GET", here + "/jobs/2026-01-01_00_00_00-1/messages", 404, "NOT_FOUND"},
		"update of no job":                          {"PUT", here + "/jobs/2026-01-01_00_00_00-1", 404, "NOT_FOUND"},
		"aggregated":                                {"GET", "/v1b3/projects/acme/jobs:aggregated", 200, ""},
		"aggregated has no location":                {"GET", here + "/jobs:aggregated", 404, "NOT_FOUND"},
		"a flex launch has one":                     {"POST", "/v1b3/projects/acme/flexTemplates:launch", 404, "NOT_FOUND"},
		"a method that a path has not":              {"DELETE", here + "/jobs/" + id, 405, "UNIMPLEMENTED"},
		"PATCH is not PUT":                          {"PATCH", here + "/jobs/" + id, 405, "UNIMPLEMENTED"},
		"an empty part":                             {"GET", here + "/jobs/", 404, "NOT_FOUND"},
		"a path beyond the API":                     {"GET", here + "/jobs/" + id + "/snapshots/x", 404, "NOT_FOUND"},
		"the root":                                  {"GET", "/", 404, "NOT_FOUND"},
		"another version":                           {"GET", "/v1/projects/acme/jobs", 404, "NOT_FOUND"},
		"system parameters":                         {"GET", here + "/jobs?alt=json&$alt=json%3Benum-encoding%3Dint&key=k&quotaUser=u&prettyPrint=false&unknown=1", 200, ""},
		"another format":                            {"GET", here + "/jobs?alt=proto", 400, "INVALID_ARGUMENT"},
		"filters by name and number":                {"GET", here + "/jobs?filter=3&view=JOB_VIEW_ALL&page_size=5", 200, ""},
		"an unknown filter":                         {"GET", here + "/jobs?filter=SOME", 400, "INVALID_ARGUMENT"},
		"a page size that is no number":             {"GET", here + "/jobs?pageSize=ten", 400, "INVALID_ARGUMENT"},
		"a negative page size":                      {"GET", here + "/jobs?pageSize=-1", 400, "INVALID_ARGUMENT"},
		"a page token of another's":                 {"GET", here + "/jobs?pageToken=xyz", 400, "INVALID_ARGUMENT"},
		"a time that is none":                       {"GET", here + "/jobs/" + id + "/messages?startTime=yesterday", 400, "INVALID_ARGUMENT"},
		"a selection of fields that makes no sense": {"GET", here + "/jobs?fields=jobs(id", 400, "INVALID_ARGUMENT"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, answer := (&bench{t, b.emulator, b.url, b.api}).raw(test.method, test.path, "")
			refusal, _ := answer["error"].(map[string]any)
			got, _ := refusal["status"].(string)
			if code != test.code || got != test.status {
				t.Errorf("answered %d %q, want %d %q: %s", code, got, test.code, test.status, mustJSON(t, answer))
			}
			if refusal != nil && refusal["code"] != float64(code) {
				t.Errorf("the body says %v, the answer %d", refusal["code"], code)
			}
		})
	}
}

func TestBodyTooLarge(t *testing.T) {
	b := setup(t, nil)
	code, answer := b.raw("POST", flexPath, `{"x": "`+strings.Repeat("a", 11<<20)+`"}`)
	if code != http.StatusRequestEntityTooLarge || answer["error"] == nil {
		t.Errorf("answered %d %.200s", code, mustJSON(t, answer))
	}
}

func TestAnswersArePrettyUnlessAsked(t *testing.T) {
	b := setup(t, nil)
	for query, pretty := range map[string]bool{"": true, "?prettyPrint=true": true, "?prettyPrint=false": false, "?$prettyPrint=0": false} {
		resp, err := http.Get(b.url + "/v1b3/projects/acme/jobs/none" + query)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		if _, err := body.ReadFrom(resp.Body); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := strings.Count(body.String(), "\n") > 1; got != pretty {
			t.Errorf("%q: pretty is %v, want %v", query, got, pretty)
		}
	}
}

func TestListsAreSummariesOfOneRegionInPages(t *testing.T) {
	b := setup(t, nil)
	for i := range 7 {
		b.launch(endless, fmt.Sprintf("active-%d", i))
	}
	for i := range 3 {
		b.wait(b.launch(flex, fmt.Sprintf("over-%d", i)))
	}
	if code, answer := b.raw("POST", "/v1b3/projects/acme/locations/europe-west1/flexTemplates:launch", `{"launchParameter": {"jobName": "abroad", "containerSpecGcsPath": "gs://templates/endless.json"}}`); code != 200 {
		t.Fatalf("launch in Europe: %d %s", code, mustJSON(t, answer))
	}
	for filter, want := range map[string]int{"": 10, "UNKNOWN": 10, "ALL": 10, "ACTIVE": 7, "TERMINATED": 3} {
		seen := map[string]bool{}
		token, pages := "", 0
		for pages == 0 || token != "" {
			call := b.api.Projects.Locations.Jobs.List(project, region).PageSize(3).PageToken(token)
			if filter != "" {
				call.Filter(filter)
			}
			page, err := call.Do()
			if err != nil {
				t.Fatal(err)
			}
			if pages++; pages > 9 {
				t.Fatalf("filter %q: the list does not end", filter)
			}
			for _, j := range page.Jobs {
				if seen[j.Id] {
					t.Errorf("filter %q: %s is listed twice", filter, j.Name)
				}
				seen[j.Id] = true
				if j.Labels != nil || j.Environment != nil {
					t.Errorf("filter %q: the entry of %s has labels or environment", filter, j.Name)
				}
			}
			token = page.NextPageToken
		}
		if len(seen) != want || pages != (want+2)/3 {
			t.Errorf("filter %q: %d jobs in %d pages, want %d", filter, len(seen), pages, want)
		}
	}
	named, err := b.api.Projects.Locations.Jobs.List(project, region).Name("over-1").Filter("ALL").Do()
	if err != nil || len(named.Jobs) != 1 || named.Jobs[0].Name != "over-1" {
		t.Errorf("list by name: %s, %v", mustJSON(t, named), err)
	}
	if part, err := b.api.Projects.Locations.Jobs.List(project, region).Name("over").Do(); err != nil || len(part.Jobs) != 0 {
		t.Errorf("a name is matched whole; its beginning found %d jobs, %v", len(part.Jobs), err)
	}
	all, err := b.api.Projects.Jobs.Aggregated(project).Do()
	if err != nil || len(all.Jobs) != 11 {
		t.Errorf("aggregated: %d jobs, %v, want 11", len(all.Jobs), err)
	}
	id := named.Jobs[0].Id
	summary, err := b.api.Projects.Locations.Jobs.Get(project, region, id).View("JOB_VIEW_SUMMARY").Do()
	if err != nil || summary.Labels != nil || summary.Environment != nil {
		t.Errorf("summary %s, %v", mustJSON(t, summary), err)
	}
	if full := b.get(id); full.Labels["team"] != "data" || full.Environment == nil {
		t.Errorf("get shows no labels or no environment: %s", mustJSON(t, full))
	}
}

func TestListsThatLag(t *testing.T) {
	tests := map[string]func(*dataflowemulator.Config){
		"a lag": func(c *dataflowemulator.Config) { c.ListLag = 1 << 40 },
		"hidden in QUEUED": func(c *dataflowemulator.Config) {
			c.HideQueued = true
			c.Images["acme/endless"] = dataflowemulator.Script{Launches: [][]dataflowemulator.Step{{}}}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			b := setup(t, change)
			id := b.launch(endless, "orders")
			list, err := b.api.Projects.Locations.Jobs.List(project, region).Name("orders").Do()
			if err != nil || len(list.Jobs) != 0 {
				t.Errorf("listed %d jobs, %v, want none yet", len(list.Jobs), err)
			}
			b.get(id)
		})
	}
}

func TestPartialResponses(t *testing.T) {
	b := setup(t, nil)
	id := b.launch(endless, "orders")
	for fields, want := range map[string]string{
		"jobs/id":                                    `{"jobs":[{"id":"` + id + `"}]}`,
		"jobs(id,name)":                              `{"jobs":[{"id":"` + id + `","name":"orders"}]}`,
		"jobs(id),nextPageToken":                     `{"jobs":[{"id":"` + id + `"}]}`,
		"jobs/jobMetadata/sdkVersion/version":        `{"jobs":[{"jobMetadata":{"sdkVersion":{"version":"2.77.0"}}}]}`,
		"jobs(name,jobMetadata(sdkVersion/version))": `{"jobs":[{"jobMetadata":{"sdkVersion":{"version":"2.77.0"}},"name":"orders"}]}`,
		"*/name": `{"jobs":[{"name":"orders"}]}`,
		"none":   `{}`,
	} {
		if code, answer := b.raw("GET", "/v1b3/projects/acme/jobs?$fields="+fields, ""); code != 200 || string(mustJSON(t, answer)) != want {
			t.Errorf("fields=%s: %d %s, want %s", fields, code, mustJSON(t, answer), want)
		}
	}
}

func TestMessagesBySeverityTimeAndPage(t *testing.T) {
	b := setup(t, nil)
	id := b.launch(failing, "orders")
	b.wait(id)
	list := func(query string) string {
		code, answer := b.raw("GET", "/v1b3/projects/acme/jobs/"+id+"/messages?"+query, "")
		if code != 200 {
			t.Fatalf("%s: %d %s", query, code, mustJSON(t, answer))
		}
		var texts []string
		all, _ := answer["jobMessages"].([]any)
		for _, m := range all {
			texts = append(texts, m.(map[string]any)["messageText"].(string))
		}
		return strings.Join(texts, "|")
	}
	for query, want := range map[string]string{
		"":                                      "reading|row 7 has no date",
		"minimumImportance=JOB_MESSAGE_BASIC":   "reading|row 7 has no date",
		"minimumImportance=JOB_MESSAGE_WARNING": "row 7 has no date", // the enum's numbers are not in the order of severity
		"minimumImportance=4":                   "row 7 has no date",
		"pageSize=1":                            "reading",
		"startTime=2999-01-01T00:00:00Z":        "",
		"endTime=2020-01-01T00:00:00Z":          "",
	} {
		if got := list(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	first, err := b.api.Projects.Jobs.Messages.List(project, id).PageSize(1).Do()
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.api.Projects.Jobs.Messages.List(project, id).PageSize(1).PageToken(first.NextPageToken).Do()
	if err != nil || len(second.JobMessages) != 1 || second.JobMessages[0].MessageText != "row 7 has no date" || second.NextPageToken != "" {
		t.Errorf("second page %s, %v", mustJSON(t, second), err)
	}
}
