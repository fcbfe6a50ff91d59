package stack_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/dev/stack"
)

func TestWorkersSideBySide(t *testing.T) {
	s := start(t, func(o *stack.Options) { o.Faults = &faults.Options{} })
	second, err := s.AddWorker(t.Context(), "worker-2", stack.PartOptions{Env: []string{"K_REVISION=second"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddWorker(t.Context(), "worker-2", stack.PartOptions{}); err == nil {
		t.Error("two parts have one name")
	}
	own := s.Part("worker")
	if own.Pid() == second.Pid() || own.Addr() == second.Addr() {
		t.Errorf("one process for two: %d, %d", own.Pid(), second.Pid())
	}
	if err := s.KillWorker(); err != nil {
		t.Fatal(err)
	}
	upload(t, s, "in/1.csv")
	awaitRuns(t, s, 1)
	if err := second.Kill(); err != nil {
		t.Fatal(err)
	}
	if second.Running() || second.Pid() != 0 {
		t.Error("a killed worker runs")
	}
	upload(t, s, "in/2.csv")
	addr := second.Addr()
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if second.Addr() != addr {
		t.Errorf("it came back at %s, was at %s", second.Addr(), addr)
	}
	awaitRuns(t, s, 2)
	if rss, err := second.RSS(); err != nil || rss < 1<<20 || rss > 1<<30 {
		t.Errorf("a worker uses %d bytes, %v", rss, err)
	}
	if cpu, err := second.CPU(); err != nil || cpu <= 0 || cpu > time.Minute {
		t.Errorf("a worker has used %s, %v", cpu, err)
	}
	if err := second.Stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(s.Logs("worker-2"), "second") {
		t.Errorf("the second worker's log does not show its variable:\n%s", s.Logs("worker-2"))
	}
	select {
	case err := <-s.Died():
		t.Errorf("a worker that was killed or stopped is no death: %v", err)
	default:
	}
}

func TestPausedPartAnswersNobodyUntilItGoesOn(t *testing.T) {
	s := start(t, nil)
	f := s.Part("functions")
	ask := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL(), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(r)
		if err == nil {
			response.Body.Close()
		}
		return err
	}
	for range 20 { // a thread that is late to stop answers now and then
		if err := f.Pause(); err != nil {
			t.Fatal(err)
		}
		if ask(50*time.Millisecond) == nil {
			t.Error("paused functions answer")
		}
		if !f.Running() {
			t.Error("paused functions have ended")
		}
		if err := f.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := ask(30 * time.Second); err != nil {
			t.Errorf("they do not go on: %v", err)
		}
	}
	// One that is paused can be stopped in order all the same.
	w := s.Part("worker")
	if err := w.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := w.Stop(); err != nil {
		t.Error(err)
	}
	if err := w.Pause(); err == nil {
		t.Error("a part that does not run was paused")
	}
}

func TestProgramsInPlaceOfTheBuiltOnes(t *testing.T) {
	dir := t.TempDir()
	wrapped := map[string]string{}
	root, err := stack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"worker", "functions"} {
		wrapped[name] = filepath.Join(dir, name)
		text := "#!/bin/sh\necho another " + name + "\nexec " + filepath.Join(root, ".penstock", "bin", name) + "\n"
		if err := os.WriteFile(wrapped[name], []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, func(o *stack.Options) { o.WorkerBinary, o.FunctionsBinary = wrapped["worker"], wrapped["functions"] })
	upload(t, s, "in/1.csv")
	awaitRuns(t, s, 1)
	for name := range wrapped {
		if !strings.HasPrefix(s.Logs(name), "another "+name+"\n") {
			t.Errorf("the %s is not the given one:\n%s", name, s.Logs(name))
		}
	}
}

// One file in one bucket, two deployments: each starts a run of its own, and job
// names tell whose is whose.
func TestTwoDeploymentsOnOneBucket(t *testing.T) {
	var pipelines string
	s := start(t, func(o *stack.Options) { pipelines = o.Pipelines })
	d, err := s.AddDeployment(t.Context(), "second", pipelines)
	if err != nil {
		t.Fatal(err)
	}
	if d.Functions.Name() != "functions-second" || d.Worker.Name() != "worker-second" || !d.Worker.Running() {
		t.Errorf("the deployment is %+v", d)
	}
	upload(t, s, "in/1.csv")
	awaitRuns(t, s, 2)
	response, err := http.Get(s.Addresses.Dataflow + "v1b3/projects/penstock-dev/locations/us-central1/jobs")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var list struct{ Jobs []struct{ Name string } }
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	of := map[string]int{}
	for _, j := range list.Jobs {
		deployment, _, _ := strings.Cut(j.Name, "-")
		of[deployment]++
	}
	if len(list.Jobs) != 2 || of["dev"] != 1 || of["second"] != 1 {
		t.Errorf("jobs %+v, want one of each deployment", list.Jobs)
	}
}
