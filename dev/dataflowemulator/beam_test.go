package dataflowemulator_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"

	"github.com/penstock/penstock/dev/dataflowemulator"
)

// pipelines builds the example pipelines, to where a running stack has them: a second build of the same sources costs a second.
var pipelines = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs("../../.penstock/bin/pipelines")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s", "-o", path, ".")
	build.Dir = "../../examples/pipelines"
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", &buildError{out, err}
	}
	return path, nil
})

type buildError struct {
	output []byte
	err    error
}

func (e *buildError) Error() string {
	return "build examples/pipelines: " + e.err.Error() + "\n" + string(e.output)
}

// beam is an emulator whose images are the example pipelines, each by its name.
func beam(t *testing.T) (*dataflowemulator.Emulator, *states, string) {
	t.Helper()
	binary, err := pipelines()
	if err != nil {
		t.Fatal(err)
	}
	folder, sink := t.TempDir(), newStates()
	images := map[string]dataflowemulator.Program{}
	for _, name := range []string{"heartbeat", "wait", "clean"} {
		images[name] = dataflowemulator.Command{
			// The shell leaves its process ID, then becomes the pipeline.
			Argv:  []string{"/bin/sh", "-c", `echo $$ > "$PID"; exec "$@"`, "sh", binary, name},
			Env:   []string{"PID=" + filepath.Join(folder, "pid")},
			Prism: []string{binary, "prism", "--while_stdin_open"},
			Logs:  folder,
		}
	}
	return start(t, dataflowemulator.Config{Images: images, Sink: sink}), sink, folder
}

func TestBeamPipelineRunsAsAJob(t *testing.T) {
	e, sink, folder := beam(t)
	id := launch(t, e, "wait", "wait", map[string]string{"for": "20ms"})
	if got := wait(t, e, id); got != pb.JobState_JOB_STATE_DONE {
		t.Fatalf("the job ended in %v: %s", got, firstError(t, e, id))
	}
	var seen []string
	for _, event := range sink.until(t, id, "JOB_STATE_DONE") {
		seen = append(seen, strings.TrimPrefix(payload(t, event)["currentState"].(string), "JOB_STATE_"))
	}
	if got := strings.Join(seen, " "); got != "QUEUED PENDING RUNNING DONE" {
		t.Errorf("states %s", got)
	}
	metrics, err := e.GetJobMetrics(t.Context(), &pb.GetJobMetricsRequest{ProjectId: project, Location: region, JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	committed := 0.0
	for _, m := range metrics.Metrics {
		if m.Name.Origin == "user" && m.Name.Name == "waited_ms" && m.Name.Context["tentative"] == "" {
			committed += m.Scalar.GetNumberValue()
			if m.Name.Context["namespace"] != "heartbeat" || m.Name.Context["step"] == "" {
				t.Errorf("the counter's context is %v", m.Name.Context)
			}
		}
	}
	if committed != 20 {
		t.Errorf("the job counted %v ms, want 20", committed)
	}
	if got := jobType(t, e, id); got != pb.JobType_JOB_TYPE_BATCH {
		t.Errorf("a job whose collections are all bounded is %v", got)
	}
	if _, err := os.Stat(filepath.Join(folder, id+".log")); err != nil {
		t.Errorf("the job's log: %v", err)
	}
}

func jobType(t *testing.T, e *dataflowemulator.Emulator, id string) pb.JobType {
	t.Helper()
	j, err := e.GetJob(t.Context(), &pb.GetJobRequest{ProjectId: project, Location: region, JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	return j.Type
}

func TestBeamPipelineThatFailsTellsWhy(t *testing.T) {
	e, _, folder := beam(t)
	tests := map[string]struct {
		parameters map[string]string
		message    string
	}{
		"while it runs":         {map[string]string{"input": filepath.Join(folder, "none.csv"), "station": "s", "output": filepath.Join(folder, "out"), "rejects": filepath.Join(folder, "bad")}, "open input: open " + filepath.Join(folder, "none.csv") + ": no such file or directory"},
		"before it submits":     {map[string]string{"input": "x"}, "submitted no job"},
		"for an unknown option": {map[string]string{"colour": "red"}, "-colour"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			id := launch(t, e, "clean", "clean", test.parameters)
			if got := wait(t, e, id); got != pb.JobState_JOB_STATE_FAILED {
				t.Errorf("the job ended in %v", got)
			}
			// Beam's text begins with the plan that was executed: the cause has to come first.
			if got := firstError(t, e, id); !strings.Contains(got, test.message) || strings.Contains(got, "caused by") {
				t.Errorf("first error %q, want %q in it", got, test.message)
			}
		})
	}
}

func TestBeamPipelineIsStopped(t *testing.T) {
	for name, test := range map[string]struct{ request, end pb.JobState }{
		"by a cancel": {pb.JobState_JOB_STATE_CANCELLED, pb.JobState_JOB_STATE_CANCELLED},
		"by a drain":  {pb.JobState_JOB_STATE_DRAINED, pb.JobState_JOB_STATE_DRAINED},
	} {
		t.Run(name, func(t *testing.T) {
			e, sink, folder := beam(t)
			id := launch(t, e, "heartbeat", "beats", map[string]string{"interval": "20ms"})
			sink.until(t, id, "JOB_STATE_RUNNING")
			if got := jobType(t, e, id); got != pb.JobType_JOB_TYPE_STREAMING {
				t.Errorf("a job with an unbounded collection is %v", got)
			}
			if _, err := e.UpdateJob(t.Context(), &pb.UpdateJobRequest{ProjectId: project, Location: region, JobId: id, Job: &pb.Job{RequestedState: test.request}}); err != nil {
				t.Fatal(err)
			}
			if got := wait(t, e, id); got != test.end {
				t.Errorf("the job ended in %v", got)
			}
			awaitGone(t, pipelinePID(t, folder))
		})
	}
}

func TestBeamPipelineThatIsKilledFails(t *testing.T) {
	e, sink, folder := beam(t)
	id := launch(t, e, "heartbeat", "beats", map[string]string{"interval": "20ms"})
	sink.until(t, id, "JOB_STATE_RUNNING")
	if err := syscall.Kill(pipelinePID(t, folder), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, e, id); got != pb.JobState_JOB_STATE_FAILED {
		t.Errorf("the job of a killed pipeline ended in %v", got)
	}
	if firstError(t, e, id) == "" {
		t.Error("the job tells no error")
	}
}

func pipelinePID(t *testing.T, folder string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(folder, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// Prism goes on with a job whose launcher is gone as long as the worker that it started lives: nobody would ever end it.
func TestBeamJobWhoseLauncherIsGoneFails(t *testing.T) {
	binary, err := pipelines()
	if err != nil {
		t.Fatal(err)
	}
	signal, sink := filepath.Join(t.TempDir(), "go"), newStates()
	e := start(t, dataflowemulator.Config{Sink: sink, Images: map[string]dataflowemulator.Program{"heartbeat": dataflowemulator.Command{
		Argv:  []string{"/bin/sh", "-c", `"$@" & until [ -e "$SIGNAL" ]; do sleep 0.02; done`, "sh", binary, "heartbeat"},
		Env:   []string{"SIGNAL=" + signal},
		Prism: []string{binary, "prism", "--while_stdin_open"},
	}}})
	id := launch(t, e, "heartbeat", "beats", map[string]string{"interval": "20ms"})
	sink.until(t, id, "JOB_STATE_RUNNING")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, e, id); got != pb.JobState_JOB_STATE_FAILED {
		t.Errorf("the job ended in %v", got)
	}
	if got := firstError(t, e, id); !strings.Contains(got, "gone before its job had ended") {
		t.Errorf("error %q", got)
	}
}
