package rest_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dataflow "google.golang.org/api/dataflow/v1b3"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/dev/dataflowemulator/rest"
)

const (
	project  = "acme"
	region   = "us-central1"
	flex     = "gs://templates/flex.json"
	strict   = "gs://templates/strict.json"
	endless  = "gs://templates/endless.json"
	stream   = "gs://templates/stream.json"
	failing  = "gs://templates/failing.json"
	orphan   = "gs://templates/orphan.json"
	classic  = "gs://templates/classic"
	broken   = "gs://templates/broken.json"
	deadline = 20 * time.Second
)

var templates = map[string]string{
	flex:                  `{"image": "acme/quick", "sdkInfo": {"language": "PYTHON", "version": "2.70.0"}, "defaultEnvironment": {"additionalUserLabels": {"team": "data"}}}`,
	endless:               `{"image": "acme/endless"}`,
	stream:                `{"image": "acme/endless", "metadata": {"streaming": true}}`,
	failing:               `{"image": "acme/failing"}`,
	orphan:                `{"image": "acme/unmapped"}`,
	classic:               `{"steps": []}`,
	classic + "_metadata": `{"name": "Classic", "parameters": [{"name": "input", "regexes": ["^gs://"]}]}`,
	broken:                `{"image": `,
	strict: `{"image": "acme/quick", "metadata": {"parameters": [
		{"name": "input", "regexes": ["^gs://.+"]}, {"name": "mode", "isOptional": true, "enumOptions": [{"value": "fast"}, {"value": "safe"}]},
		{"name": "count", "is_optional": true, "paramType": "NUMBER"}, {"name": "dry", "isOptional": true, "paramType": 17}]}}`,
}

func images() map[string]dataflowemulator.Program {
	return map[string]dataflowemulator.Program{
		"acme/quick": dataflowemulator.Script{Launches: [][]dataflowemulator.Step{{
			{State: pb.JobState_JOB_STATE_RUNNING, Message: "all is well"}, {State: pb.JobState_JOB_STATE_DONE, Counters: map[string]int64{"rows": 1461}},
		}}},
		"acme/endless": dataflowemulator.Script{},
		"acme/failing": dataflowemulator.Script{Launches: [][]dataflowemulator.Step{{{State: pb.JobState_JOB_STATE_RUNNING, Message: "reading"}, {State: pb.JobState_JOB_STATE_FAILED, Message: "row 7 has no date"}}}},
		classic:        dataflowemulator.Script{},
	}
}

// bench is an emulator with the templates above, and the Go client on it.
type bench struct {
	*testing.T
	emulator *dataflowemulator.Emulator
	url      string
	api      *dataflow.Service
}

func setup(t *testing.T, change func(*dataflowemulator.Config)) *bench {
	t.Helper()
	folder := t.TempDir()
	config := dataflowemulator.Config{Images: images(), Templates: map[string]string{}}
	for path, body := range templates {
		file := filepath.Join(folder, strings.ReplaceAll(strings.TrimPrefix(path, "gs://"), "/", "_"))
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		config.Templates[path] = file
	}
	if change != nil {
		change(&config)
	}
	e, err := dataflowemulator.New(config)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(rest.Handler(e))
	t.Cleanup(func() {
		server.Close()
		if err := e.Close(); err != nil {
			t.Errorf("close the emulator: %v", err)
		}
	})
	api, err := dataflow.NewService(t.Context(), option.WithEndpoint(server.URL), option.WithoutAuthentication())
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t, e, server.URL, api}
}

// launch launches a flex template and returns the job's ID.
func (b *bench) launch(template, name string) string {
	b.Helper()
	out, err := b.tryLaunch(&dataflow.LaunchFlexTemplateParameter{JobName: name, ContainerSpecGcsPath: template})
	if err != nil {
		b.Fatalf("launch %s: %v", name, err)
	}
	return out.Job.Id
}

func (b *bench) tryLaunch(p *dataflow.LaunchFlexTemplateParameter) (*dataflow.LaunchFlexTemplateResponse, error) {
	return b.api.Projects.Locations.FlexTemplates.Launch(project, region, &dataflow.LaunchFlexTemplateRequest{LaunchParameter: p}).Do()
}

// wait waits for the job's end.
func (b *bench) wait(id string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), deadline)
	defer cancel()
	state, err := b.emulator.Wait(ctx, id)
	if err != nil {
		b.Fatal(err)
	}
	return state.String()
}

// until waits for a state on the way.
func (b *bench) until(id, state string) {
	b.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(2 * time.Millisecond) {
		if got := b.get(id).CurrentState; got == state {
			return
		} else if time.Now().After(end) {
			b.Fatalf("job %s is %s, not %s, after %v", id, got, state, deadline)
		}
	}
}

func (b *bench) get(id string) *dataflow.Job {
	b.Helper()
	j, err := b.api.Projects.Locations.Jobs.Get(project, region, id).Do()
	if err != nil {
		b.Fatal(err)
	}
	return j
}

func (b *bench) request(id, state string) error {
	_, err := b.api.Projects.Locations.Jobs.Update(project, region, id, &dataflow.Job{RequestedState: state}).Do()
	return err
}

// raw makes a request without the client and decodes the answer.
func (b *bench) raw(method, path, body string) (int, map[string]any) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		b.Fatalf("%s %s answered %d and no JSON: %s", method, path, resp.StatusCode, text)
	}
	return resp.StatusCode, out
}

// wantError asserts what a client sees of a refusal.
func wantError(t *testing.T, err error, code int, reason, text string) {
	t.Helper()
	var refused *googleapi.Error
	if !errors.As(err, &refused) {
		t.Fatalf("got error %v, want a refusal with code %d", err, code)
	}
	if refused.Code != code || len(refused.Errors) != 1 || refused.Errors[0].Reason != reason || !strings.Contains(refused.Message, text) {
		t.Errorf("refused with %d %v, want %d %s and a message with %q", refused.Code, refused, code, reason, text)
	}
}

func TestFlexLaunchRunsTheJobToItsEnd(t *testing.T) {
	b := setup(t, nil)
	out, err := b.tryLaunch(&dataflow.LaunchFlexTemplateParameter{
		JobName: "orders-1", ContainerSpecGcsPath: flex, Parameters: map[string]string{"input": "gs://in/a b.csv"},
		Environment: &dataflow.FlexTemplateRuntimeEnvironment{MaxWorkers: 7, ServiceAccountEmail: "orders@acme.iam.gserviceaccount.com", AdditionalUserLabels: map[string]string{"run": "r1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if j := out.Job; j.Id == "" || j.Name != "orders-1" || j.ProjectId != project || j.Location != region || j.CurrentState != "" || j.CurrentStateTime != "1970-01-01T00:00:00Z" {
		t.Errorf("the launch's answer is not Dataflow's: %+v", j)
	}
	if state := b.wait(out.Job.Id); state != "JOB_STATE_DONE" {
		t.Fatalf("the job ended in %s", state)
	}
	j := b.get(out.Job.Id)
	if j.Labels["team"] != "data" || j.Labels["run"] != "r1" {
		t.Errorf("labels %v lack the template's or the launch's", j.Labels)
	}
	if j.Type != "JOB_TYPE_BATCH" || j.JobMetadata.SdkVersion.Version != "2.70.0" || j.Environment.ServiceAccountEmail != "orders@acme.iam.gserviceaccount.com" {
		t.Errorf("job %+v", j)
	}
	var options struct {
		Options map[string]string `json:"options"`
	}
	if err := json.Unmarshal(j.Environment.SdkPipelineOptions, &options); err != nil || options.Options["input"] != "gs://in/a b.csv" {
		t.Errorf("pipeline options %s: %v", j.Environment.SdkPipelineOptions, err)
	}
	for _, at := range []string{j.CreateTime, j.StartTime, j.CurrentStateTime} {
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil || !strings.HasSuffix(at, "Z") {
			t.Errorf("time %q is not one that ends in Z", at)
		}
	}
	metrics, err := b.api.Projects.Locations.Jobs.GetMetrics(project, region, j.Id).Do()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range metrics.Metrics {
		var context map[string]string
		if err := json.Unmarshal(mustJSON(t, m.Name.Context), &context); err != nil {
			t.Fatal(err)
		}
		if m.Name.Origin == "user" && m.Name.Name == "rows" && m.Scalar == 1461.0 && context["step"] == "script" {
			seen[context["tentative"]] = true
		}
	}
	if !seen[""] || !seen["true"] {
		t.Errorf("metrics lack the counter, committed and tentative: %s", mustJSON(t, metrics))
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFailedJobTellsItsFirstError(t *testing.T) {
	b := setup(t, nil)
	for template, want := range map[string]string{failing: "row 7 has no date", orphan: `"acme/unmapped"`} {
		id := b.launch(template, "job-"+strings.Trim(filepath.Base(template), ".json"))
		if state := b.wait(id); state != "JOB_STATE_FAILED" {
			t.Fatalf("%s ended in %s", template, state)
		}
		list, err := b.api.Projects.Locations.Jobs.Messages.List(project, region, id).MinimumImportance("JOB_MESSAGE_ERROR").Do()
		if err != nil {
			t.Fatal(err)
		}
		if len(list.JobMessages) != 1 || !strings.Contains(list.JobMessages[0].MessageText, want) || list.JobMessages[0].MessageImportance != "JOB_MESSAGE_ERROR" {
			t.Errorf("%s: error messages %s, want one with %q", template, mustJSON(t, list.JobMessages), want)
		}
	}
}

func TestValidateOnlyStartsNothing(t *testing.T) {
	b := setup(t, nil)
	out, err := b.api.Projects.Locations.FlexTemplates.Launch(project, region, &dataflow.LaunchFlexTemplateRequest{
		ValidateOnly: true, LaunchParameter: &dataflow.LaunchFlexTemplateParameter{JobName: "a", ContainerSpecGcsPath: flex},
	}).Do()
	if err != nil || out.Job != nil {
		t.Fatalf("answered %+v, %v", out.Job, err)
	}
	if _, err := b.api.Projects.Locations.Templates.Launch(project, region, &dataflow.LaunchTemplateParameters{JobName: "a", Parameters: map[string]string{"input": "gs://x"}}).GcsPath(classic).ValidateOnly(true).Do(); err != nil {
		t.Fatal(err)
	}
	list, err := b.api.Projects.Jobs.Aggregated(project).Do()
	if err != nil || len(list.Jobs) != 0 {
		t.Errorf("jobs after validation: %d, %v", len(list.Jobs), err)
	}
}

func TestClassicTemplates(t *testing.T) {
	b := setup(t, nil)
	parameters := map[string]string{"input": "gs://in/x"}
	launched, err := b.api.Projects.Locations.Templates.Launch(project, region, &dataflow.LaunchTemplateParameters{JobName: "one", Parameters: parameters}).GcsPath(classic).Do()
	if err != nil {
		t.Fatal(err)
	}
	older, err := b.api.Projects.Templates.Launch(project, &dataflow.LaunchTemplateParameters{JobName: "two", Parameters: parameters}).GcsPath(classic).Location("europe-west1").Do()
	if err != nil {
		t.Fatal(err)
	}
	created, err := b.api.Projects.Templates.Create(project, &dataflow.CreateJobFromTemplateRequest{JobName: "three", GcsPath: classic, Parameters: parameters}).Do()
	if err != nil {
		t.Fatal(err)
	}
	if launched.Job.Location != region || older.Job.Location != "europe-west1" || created.Location != "us-central1" || created.Name != "three" {
		t.Errorf("jobs %+v, %+v and %+v", launched.Job, older.Job, created)
	}
	_, err = b.api.Projects.Locations.Templates.Launch(project, region, &dataflow.LaunchTemplateParameters{JobName: "four", Parameters: map[string]string{"input": "in"}}).GcsPath(classic).Do()
	wantError(t, err, 400, "badRequest", "The template parameters are invalid. Details: \ninput: ")
	_, err = b.api.Projects.Locations.Templates.Launch(project, region, &dataflow.LaunchTemplateParameters{JobName: "five"}).GcsPath(flex).Do()
	wantError(t, err, 400, "badRequest", "Invalid template file "+flex)
}

func TestTheNameOfAnActiveJobIsTaken(t *testing.T) {
	again := func(b *bench, location string) (*dataflow.LaunchFlexTemplateResponse, error) {
		return b.api.Projects.Locations.FlexTemplates.Launch(project, location, &dataflow.LaunchFlexTemplateRequest{
			LaunchParameter: &dataflow.LaunchFlexTemplateParameter{JobName: "orders", ContainerSpecGcsPath: endless},
		}).Do()
	}
	b := setup(t, nil)
	id := b.launch(endless, "orders")
	_, err := again(b, region)
	wantError(t, err, 409, "alreadyExists", "There is already an active job named orders.")
	if strings.Contains(err.Error(), id) {
		t.Error("the refusal tells the job's ID, which Dataflow's does not")
	}
	if _, err := again(b, "europe-west1"); err != nil {
		t.Errorf("another region has names of its own: %v", err)
	}
	b.until(id, "JOB_STATE_RUNNING")
	if err := b.request(id, "JOB_STATE_CANCELLED"); err != nil {
		t.Fatal(err)
	}
	b.wait(id)
	second := b.launch(endless, "orders")
	if second == id {
		t.Error("the second job has the first one's ID")
	}

	b = setup(t, func(c *dataflowemulator.Config) { c.ReturnExisting = true })
	id = b.launch(endless, "orders")
	if out, err := again(b, region); err != nil || out.Job.Id != id {
		t.Errorf("with ReturnExisting the launch answered %+v, %v; want job %s", out, err, id)
	}
}
