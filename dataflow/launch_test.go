package dataflow_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/penstock/penstock/dataflow"
)

func orders() dataflow.Launch {
	return dataflow.Launch{
		Project: "acme", Location: "europe-west4", JobName: "dev-orders-clean-0a1b2c3d-1", Template: "gs://acme-templates/clean.json",
		Parameters:  map[string]string{"input": "gs://acme-landing/a b,c.csv", "output": "gs://acme-clean/"},
		Labels:      map[string]string{"penstock_deployment": "dev-00000000"},
		Environment: map[string]any{"maxWorkers": 10, "serviceAccountEmail": "orders@acme.iam.gserviceaccount.com", "enableStreamingEngine": false},
	}
}

func TestRequest(t *testing.T) {
	flex := orders()
	classic := orders()
	classic.Classic, classic.Template = true, "gs://acme-templates/a&b c"
	classic.Environment = map[string]any{"tempLocation": "gs://acme-temp/", "additionalUserLabels": map[string]any{"team": "data", "penstock_deployment": "mine"}}
	bare := dataflow.Launch{Project: "example.com:acme", Location: "us-central1", JobName: "a", Template: "gs://t/x"}
	for name, tt := range map[string]struct {
		launch     dataflow.Launch
		path, body string
	}{
		"flex": {flex, "/v1b3/projects/acme/locations/europe-west4/flexTemplates:launch",
			`{"launchParameter": {"jobName": "dev-orders-clean-0a1b2c3d-1", "containerSpecGcsPath": "gs://acme-templates/clean.json",
			"parameters": {"input": "gs://acme-landing/a b,c.csv", "output": "gs://acme-clean/"},
			"environment": {"maxWorkers": 10, "serviceAccountEmail": "orders@acme.iam.gserviceaccount.com", "enableStreamingEngine": false,
			"additionalUserLabels": {"penstock_deployment": "dev-00000000"}}}}`},
		"classic, whose labels win": {classic, "/v1b3/projects/acme/locations/europe-west4/templates:launch?gcsPath=gs%3A%2F%2Facme-templates%2Fa%26b+c",
			`{"jobName": "dev-orders-clean-0a1b2c3d-1", "parameters": {"input": "gs://acme-landing/a b,c.csv", "output": "gs://acme-clean/"},
			"environment": {"tempLocation": "gs://acme-temp/", "additionalUserLabels": {"team": "data", "penstock_deployment": "dev-00000000"}}}`},
		"only what must be": {bare, "/v1b3/projects/example.com:acme/locations/us-central1/flexTemplates:launch",
			`{"launchParameter": {"jobName": "a", "containerSpecGcsPath": "gs://t/x"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := tt.launch.Request()
			if err != nil {
				t.Fatal(err)
			}
			if r.Method != http.MethodPost || r.Path != tt.path {
				t.Errorf("%s %s, want POST %s", r.Method, r.Path, tt.path)
			}
			if !sameJSON(t, string(r.Body), tt.body) {
				t.Errorf("body %s\nwant %s", r.Body, tt.body)
			}
		})
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal([]byte(a), &x), json.Unmarshal([]byte(b), &y)); err != nil {
		t.Errorf("%q, %q: %v", a, b, err)
	}
	return reflect.DeepEqual(x, y)
}

func TestRequestRefuses(t *testing.T) {
	manyLabels := make(map[string]string)
	for i := range 65 {
		manyLabels[fmt.Sprintf("l%d", i)] = ""
	}
	for name, tt := range map[string]struct {
		spoil func(*dataflow.Launch)
		want  []string // parameters at fault
	}{
		"no project":                {func(l *dataflow.Launch) { l.Project = "" }, []string{"project"}},
		"a path for a project":      {func(l *dataflow.Launch) { l.Project = "acme/../other" }, []string{"project"}},
		"a path for a location":     {func(l *dataflow.Launch) { l.Location = ".." }, []string{"location"}},
		"upper case in the name":    {func(l *dataflow.Launch) { l.JobName = "Orders" }, []string{"jobName"}},
		"a name that ends in -":     {func(l *dataflow.Launch) { l.JobName = "orders-" }, []string{"jobName"}},
		"a local template":          {func(l *dataflow.Launch) { l.Template = "/tmp/x" }, []string{"template"}},
		"a bucket for a template":   {func(l *dataflow.Launch) { l.Template = "gs://acme" }, []string{"template"}},
		"a label with a capital":    {func(l *dataflow.Launch) { l.Labels = map[string]string{"a": "B"} }, []string{"labels.a"}},
		"too many labels":           {func(l *dataflow.Launch) { l.Labels = manyLabels }, []string{"labels"}},
		"a setting spelt wrong":     {func(l *dataflow.Launch) { l.Environment = map[string]any{"maxWokers": 3} }, []string{"environment.maxWokers"}},
		"a setting in other case":   {func(l *dataflow.Launch) { l.Environment = map[string]any{"MaxWorkers": 3} }, []string{"environment.MaxWorkers"}},
		"a client's own field":      {func(l *dataflow.Launch) { l.Environment = map[string]any{"-": []string{"x"}} }, []string{"environment.-"}},
		"a setting of another type": {func(l *dataflow.Launch) { l.Environment = map[string]any{"maxWorkers": "three"} }, []string{"environment.maxWorkers"}},
		"a classic template with a flex setting": {func(l *dataflow.Launch) {
			l.Classic, l.Environment = true, map[string]any{"sdkContainerImage": "x"}
		}, []string{"environment.sdkContainerImage"}},
		"the experiment that updates a running job": {func(l *dataflow.Launch) {
			l.Environment = map[string]any{"additionalExperiments": []any{"create_or_update_job"}}
		}, []string{"environment.additionalExperiments"}},
		"the same as a pipeline option": {func(l *dataflow.Launch) {
			l.Environment = map[string]any{"additionalPipelineOptions": []any{"experiments=create_or_update_job"}}
		}, []string{"environment.additionalPipelineOptions"}},
		"the same as a parameter":  {func(l *dataflow.Launch) { l.Parameters = map[string]string{"experiments": "x,create_or_update_job"} }, []string{"parameters.experiments"}},
		"several things at a time": {func(l *dataflow.Launch) { l.Location, l.JobName = "", "" }, []string{"location", "jobName"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := orders()
			tt.spoil(&l)
			_, err := l.Request()
			var e *dataflow.Error
			if !errors.As(err, &e) || e.Kind != dataflow.KindInvalid {
				t.Fatalf("error %v, want one of kind invalid", err)
			}
			var got []string
			for _, v := range e.Violations {
				got = append(got, v.Parameter)
				if v.Description == "" || !strings.Contains(err.Error(), v.Description) {
					t.Errorf("%q does not say %q", err, v.Description)
				}
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("at fault %q, want %q", got, tt.want)
			}
		})
	}
}

// The hash is a label of jobs that run for months: it must not change from one release to the next.
func TestSpecHash(t *testing.T) {
	const frozen = "af05124437565f2b"
	l := orders()
	if got := l.SpecHash(); got != frozen || !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(got) {
		t.Errorf("SpecHash() = %q, want %q", got, frozen)
	}
	same := orders()
	same.JobName, same.Labels, same.Environment, same.Location, same.Streaming = "b", nil, nil, "us-east1", true
	if got := same.SpecHash(); got != frozen {
		t.Errorf("name, labels, environment, location or type change the hash to %q", got)
	}
	for name, change := range map[string]func(*dataflow.Launch){
		"template": func(l *dataflow.Launch) { l.Template += "2" },
		"classic":  func(l *dataflow.Launch) { l.Classic = true },
		"a value":  func(l *dataflow.Launch) { l.Parameters["input"] = "" },
		"a name":   func(l *dataflow.Launch) { l.Parameters["more"] = "" },
		"key and value run on": func(l *dataflow.Launch) {
			l.Parameters = map[string]string{"inputg": "s://acme-landing/a b,c.csv", "output": "gs://acme-clean/"}
		},
		"two parameters as if one": func(l *dataflow.Launch) {
			l.Parameters = map[string]string{"input": "gs://acme-landing/a b,c.csvoutputgs://acme-clean/"}
		},
	} {
		other := orders()
		change(&other)
		if other.SpecHash() == frozen {
			t.Errorf("another %s has the same hash", name)
		}
	}
}

func TestType(t *testing.T) {
	if got := (dataflow.Launch{}).Type(); got != dataflow.TypeBatch {
		t.Errorf("Type() = %q", got)
	}
	if got := (dataflow.Launch{Streaming: true}).Type(); got != dataflow.TypeStreaming {
		t.Errorf("Type() = %q", got)
	}
}
