package functions

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/pipeline"
)

const badFile = "name: broken\npurpose: Be unreadable.\nsteps: {nonsense\n"

func TestFileTurnsBadWhileTheInstanceIsWarm(t *testing.T) {
	b := setup(t, ordersFile)
	b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
	b.write(t, "p0.yaml", badFile)
	w, a := b.post(t, NameStorageTrigger, finalized("orders/b.csv", 1))
	if w.Code != 200 || a.outcomes() != "orders: started" {
		t.Errorf("the last good version is not in force: %d %s", w.Code, w.Body)
	}
}

func TestColdInstanceHasTheLastGoodVersion(t *testing.T) {
	b := setup(t, ordersFile)
	b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
	b.write(t, "p0.yaml", badFile)
	b.folder = nil // another instance starts
	w, a := b.post(t, NameStorageTrigger, finalized("orders/b.csv", 1))
	if w.Code != 200 || a.outcomes() != "orders: started" {
		t.Errorf("the last good version is not in force: %d %s", w.Code, w.Body)
	}
}

// The file may want the event: were it answered 200, the file's pipeline would never see it.
func TestFileThatWasNeverGoodLosesNoEvent(t *testing.T) {
	b := setup(t, ordersFile, badFile)
	w, a := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
	if w.Code != 503 || a.outcomes() != "orders: started" || !strings.Contains(a.Error, "p1.yaml:") {
		t.Errorf("first delivery: %d %s", w.Code, w.Body)
	}
	w, a = b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
	if w.Code != 503 || a.outcomes() != "orders: duplicate" {
		t.Errorf("redelivery: %d %s", w.Code, w.Body)
	}
	if w, _ = b.post(t, NameStorageTrigger, finalized("other/a.csv", 1)); w.Code != 503 {
		t.Errorf("an event that no known pipeline wants: %d %s", w.Code, w.Body)
	}
	if n := strings.Count(b.log.String(), "no usable version"); n != 1 {
		t.Errorf("the log says so %d times for three events", n)
	}
	b.write(t, "p1.yaml", auditFile)
	w, a = b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
	if w.Code != 200 || a.outcomes() != "audit: started, orders: duplicate" {
		t.Errorf("once the file is corrected: %d %s", w.Code, w.Body)
	}
}

// changingFolder has another state at each look.
type changingFolder struct {
	looks []pipeline.Look
	n     int
}

func (f *changingFolder) Look() pipeline.Look {
	f.n++
	return f.looks[min(f.n, len(f.looks))-1]
}

// Were the pipelines those of another moment than the unusable files, an event for a file that was unusable in one of the two
// could be answered 200.
func TestAnEventMeetsTheFilesOfOneMoment(t *testing.T) {
	b := setup(t)
	orders, problems := pipeline.Parse("orders.yaml", []byte(ordersFile))
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	whole := pipeline.Look{Set: pipeline.NewSet([]*pipeline.Pipeline{orders})}
	lacking := pipeline.Look{Set: pipeline.NewSet(nil), Unusable: []string{"orders.yaml"}, Problems: pipeline.Problems{{File: "orders.yaml", Message: "odd"}}}
	for name, tt := range map[string]struct {
		looks    []pipeline.Look
		status   int
		outcomes string
	}{
		"a file that turns bad":  {[]pipeline.Look{whole, lacking}, 200, "orders: started"},
		"a file that turns good": {[]pipeline.Look{lacking, whole}, 503, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := &changingFolder{looks: tt.looks}
			b.folder = f
			w, a := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
			if w.Code != tt.status || a.outcomes() != tt.outcomes || f.n != 1 || (a.Error != "") != (tt.status == 503) {
				t.Errorf("%d looks, answered %d %s", f.n, w.Code, w.Body)
			}
		})
	}
}

func TestFolderIsMissing(t *testing.T) {
	b := setup(t)
	b.dir = filepath.Join(b.dir, "absent")
	w, a := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
	if w.Code != 503 || !strings.Contains(a.Error, envPipelines) {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.write(t, "p0.yaml", ordersFile)
	if w, a = b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1)); w.Code != 200 || a.outcomes() != "orders: started" {
		t.Errorf("once it is there: %d %s", w.Code, w.Body)
	}
}

// A job's status needs no pipelines: the job's name says everything.
func TestJobStatusNeedsNoPipelines(t *testing.T) {
	b := setup(t)
	b.open = func() (folder, error) { return nil, errors.New("must not be asked") }
	if w, a := b.post(t, NameJobStatus, jobEvent("dev-orders-load-abc-1", "JOB_STATE_DONE")); w.Code != 200 || a.outcomes() != "signalled" {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
}

func TestPipelinesFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, dir := range []string{"here", filepath.Join(sourceFolder, "pipelines"), filepath.Join(sourceFolder, "here")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"":          filepath.Join(sourceFolder, "pipelines"), // as the buildpack leaves it
		"here":      "here",
		"pipelines": filepath.Join(sourceFolder, "pipelines"),
		"absent":    "absent",
		"/absolute": "/absolute",
		"gs://x/y":  "gs://x/y",
	} {
		if got := pipelinesFolder(name); got != want {
			t.Errorf("%s=%q is the folder %q, want %q", envPipelines, name, got, want)
		}
	}
}

func TestSettings(t *testing.T) {
	good := map[string]string{
		envDeployment: "dev", envProject: "penstock-dev", envLocation: "us-central1", envPipelines: "/p",
		envDeadLetter: "projects/penstock-dev/topics/dead",
	}
	for name, tt := range map[string]struct{ variable, value, blamed string }{
		"complete":                    {},
		"no dead-letter topic":        {envDeadLetter, "", ""},
		"a project of a domain":       {envProject, "example.com:penstock-dev", ""},
		"no deployment":               {envDeployment, "", envDeployment},
		"a deployment with a dash":    {envDeployment, "my-dev", "my-dev"},
		"a project's number":          {envProject, "123456789", envProject},
		"no region":                   {envLocation, "", envLocation},
		"a topic without its project": {envDeadLetter, "dead", envDeadLetter},
	} {
		_, err := readSettings(func(variable string) string {
			if variable == tt.variable {
				return tt.value
			}
			return good[variable]
		})
		if (err == nil) != (tt.blamed == "") || err != nil && !strings.Contains(err.Error(), tt.blamed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
