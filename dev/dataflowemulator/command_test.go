package dataflowemulator_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"

	"github.com/penstock/penstock/dev/dataflowemulator"
)

// shell is a pipeline that is no Beam pipeline: a shell script, which gets the job's arguments as "$@".
func shell(script string) dataflowemulator.Command {
	return dataflowemulator.Command{Argv: []string{"/bin/sh", "-c", script, "pipeline"}, SDK: dataflowemulator.NoSDK}
}

func TestParametersReachThePipelineAsData(t *testing.T) {
	hostile := `$(touch pwned) "; --runner=direct '` + "\n" + `${job.name} %2F ../`
	parameters := map[string]string{"input": hostile, "empty": "", "mode": "--output=x"}
	tests := map[string]struct {
		args []string
		want []string
	}{
		"by default as flags": {nil, []string{"--empty=", "--input=" + hostile, "--mode=--output=x", "--streaming=false"}},
		"by a template of arguments": {
			[]string{"run", "${param.input}", "--job=${job.name}/${job.location}", "--x=${param.absent}", "${param.mode}", "${params"},
			[]string{"run", hostile, "--job=orders/us-central1", "--output=x", "${params"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "args")
			command := shell(`for a in "$@"; do printf '%s\0' "$a"; done > "$OUT"`)
			command.Args, command.Env, command.Dir = test.args, []string{"OUT=" + out}, t.TempDir()
			e := start(t, dataflowemulator.Config{Images: map[string]dataflowemulator.Program{"acme/x": command}})
			in := request("acme/x", "orders", parameters)
			in.LaunchParameter.Environment.AdditionalPipelineOptions = []string{"streaming=false"}
			answer, err := e.LaunchFlexTemplate(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if got := wait(t, e, answer.Job.Id); got != pb.JobState_JOB_STATE_DONE {
				t.Fatalf("the job ended in %v: %s", got, firstError(t, e, answer.Job.Id))
			}
			b, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(b), strings.Join(test.want, "\x00")+"\x00"; got != want {
				t.Errorf("arguments %q\nwant      %q", got, want)
			}
		})
	}
}

func firstError(t *testing.T, e *dataflowemulator.Emulator, id string) string {
	t.Helper()
	list, err := e.ListJobMessages(t.Context(), &pb.ListJobMessagesRequest{ProjectId: project, Location: region, JobId: id, MinimumImportance: pb.JobMessageImportance_JOB_MESSAGE_ERROR})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.JobMessages) == 0 {
		return ""
	}
	return list.JobMessages[0].MessageText
}

func TestCommandsThatFail(t *testing.T) {
	noPrism := dataflowemulator.Command{Argv: []string{"true"}}
	deafPrism := dataflowemulator.Command{Argv: []string{"true"}, Prism: []string{"/bin/sh", "-c", "exit 3"}}
	tests := map[string]struct {
		program dataflowemulator.Program
		message string
	}{
		"an exit status, with what was printed": {shell("echo no such bucket >&2; exit 4"), "ended with exit status 4. It printed:\nno such bucket"},
		"a signal":                              {shell("kill -9 $$"), "signal: killed; it printed nothing"},
		"no such program":                       {dataflowemulator.Command{Argv: []string{"/nonexistent/pipeline"}, SDK: dataflowemulator.NoSDK}, "cannot be started"},
		"an empty command":                      {dataflowemulator.Command{SDK: dataflowemulator.NoSDK}, "mapped to an empty command"},
		"no Prism to run on":                    {noPrism, "was given no Prism command"},
		"a Prism that does not start":           {deafPrism, "did not print an endpoint"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			e := start(t, dataflowemulator.Config{Images: map[string]dataflowemulator.Program{"acme/x": test.program}})
			id := launch(t, e, "acme/x", "orders", nil)
			if got := wait(t, e, id); got != pb.JobState_JOB_STATE_FAILED {
				t.Errorf("the job ended in %v", got)
			}
			if got := firstError(t, e, id); !strings.Contains(got, test.message) {
				t.Errorf("error message %q, want %q in it", got, test.message)
			}
		})
	}
}

func TestCancelEndsTheProcessAndItsChildren(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	// Neither the process nor its child listens to a polite request.
	command := shell(`trap '' TERM; sleep 1000 & echo $$ $! > "$PIDS.new"; mv "$PIDS.new" "$PIDS"; while :; do wait; done`)
	command.Env, command.Grace = []string{"PIDS=" + pids}, 50*time.Millisecond
	sink := newStates()
	e := start(t, dataflowemulator.Config{Images: map[string]dataflowemulator.Program{"acme/x": command}, Sink: sink})
	id := launch(t, e, "acme/x", "orders", nil)
	sink.until(t, id, "JOB_STATE_RUNNING")
	var running string
	for end := time.Now().Add(deadline); running == ""; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(pids)
		if err != nil && !errors.Is(err, os.ErrNotExist) || time.Now().After(end) {
			t.Fatalf("the pipeline did not start: %v", err)
		}
		running = string(b)
	}
	if _, err := e.UpdateJob(t.Context(), &pb.UpdateJobRequest{ProjectId: project, Location: region, JobId: id, Job: &pb.Job{RequestedState: pb.JobState_JOB_STATE_CANCELLED}}); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, e, id); got != pb.JobState_JOB_STATE_CANCELLED {
		t.Fatalf("the job ended in %v", got)
	}
	for _, text := range strings.Fields(running) {
		pid, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		awaitGone(t, pid)
	}
}

// awaitGone waits until a process is gone; an orphan that was killed is there until someone takes note of its end.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(time.Millisecond) {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d still runs", pid)
		}
	}
}

func zombie(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z")
}

func TestImageMap(t *testing.T) {
	write := func(t *testing.T, text string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "images.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("programs, scripts and templates", func(t *testing.T) {
		path := write(t, `{"images": {
			"acme/go": {"command": ["bin/pipelines", "clean"], "env": ["A=b"]},
			"acme/py": {"command": ["python3", "clean.py"], "sdk": "python", "dir": "py", "streaming": true},
			"acme/script": {"launches": [[{"state": "FAILED", "message": "no"}], [{"after": "5ms", "state": "JOB_STATE_DONE", "counters": {"rows": 2}}]], "stopTakes": "1s"}},
			"templates": {"gs://t/x.json": "x.json"}}`)
		folder := filepath.Dir(path)
		images, templates, err := dataflowemulator.ReadImages(path, dataflowemulator.Command{Prism: []string{"prism"}, Env: []string{"Z=y"}})
		if err != nil {
			t.Fatal(err)
		}
		golang := images["acme/go"].(dataflowemulator.Command)
		if golang.Argv[0] != filepath.Join(folder, "bin/pipelines") || golang.Prism[0] != "prism" || strings.Join(golang.Env, " ") != "Z=y A=b" {
			t.Errorf("Go command %+v", golang)
		}
		python := images["acme/py"].(dataflowemulator.Command)
		if python.Argv[0] != "python3" || python.SDK != dataflowemulator.Python || python.Dir != filepath.Join(folder, "py") || !python.DeclaredStreaming() {
			t.Errorf("Python command %+v", python)
		}
		script := images["acme/script"].(dataflowemulator.Script)
		if len(script.Launches) != 2 || script.Launches[0][0].State != pb.JobState_JOB_STATE_FAILED || script.Launches[1][0].After != 5*time.Millisecond || script.Launches[1][0].Counters["rows"] != 2 || script.StopTakes != time.Second {
			t.Errorf("script %+v", script)
		}
		if templates["gs://t/x.json"] != filepath.Join(folder, "x.json") {
			t.Errorf("templates %v", templates)
		}
	})
	for name, test := range map[string]struct{ text, message string }{
		"no JSON":             {`{`, "unexpected EOF"},
		"an unknown field":    {`{"images": {"x": {"comand": ["y"]}}}`, `unknown field "comand"`},
		"neither":             {`{"images": {"x": {}}}`, "either a command or a script"},
		"both":                {`{"images": {"x": {"command": ["y"], "script": []}}}`, "either a command or a script"},
		"an empty command":    {`{"images": {"x": {"command": []}}}`, "its command is empty"},
		"an unknown SDK":      {`{"images": {"x": {"command": ["y"], "sdk": "cobol"}}}`, "not one of go, python and none"},
		"an unknown state":    {`{"images": {"x": {"script": [{"state": "FINE"}]}}}`, `"FINE" is not a job state`},
		"a wrong duration":    {`{"images": {"x": {"script": [{"after": "soon"}]}}}`, "is not a duration"},
		"a path without gs:":  {`{"templates": {"/x": "y"}}`, "must be a path gs://bucket/object"},
		"text after the JSON": {`{} {}`, "text after the JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, test.text)
			if _, _, err := dataflowemulator.ReadImages(path, dataflowemulator.Command{}); err == nil || !strings.Contains(err.Error(), test.message) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want one with %q and the file's name", err, test.message)
			}
		})
	}
}
