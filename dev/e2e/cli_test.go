package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/operatorservice/v1"

	"github.com/penstock/penstock/runs"
)

// penstockBinary is the command as users build it.
var penstockBinary = sync.OnceValues(func() (string, error) {
	out, err := filepath.Abs(filepath.Join("..", "..", ".penstock", "bin", "penstock"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", out, "./cmd/penstock")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", errors.New(err.Error() + ": " + string(text))
	}
	return out, nil
})

// cli runs one command line with nothing in its environment but env.
func cli(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	program, err := penstockBinary()
	if err != nil {
		t.Fatal("build penstock:", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = t.TempDir() // where no stack is to be found
	cmd.Env = append([]string{"HOME=" + cmd.Dir, "TEMPORAL_CONFIG_FILE=" + os.DevNull}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("penstock %q: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// environment is what dev.env has.
func (b *bench) environment() []string {
	var env []string
	for _, v := range b.Env() {
		env = append(env, v.Key+"="+v.Value)
	}
	return env
}

// penstock runs a command line on the stack, wants the exit code, and gives what it
// wrote to standard output.
func (b *bench) penstock(t *testing.T, want int, args ...string) string {
	t.Helper()
	code, stdout, stderr := cli(t, b.environment(), args...)
	if code != want {
		t.Fatalf("penstock %q ends with %d, want %d\n%s\n%s", args, code, want, stdout, stderr)
	}
	return stdout
}

// The JSON that commands write, spelled out as a user's script reads it.
type (
	listing struct {
		Runs []listedRun `json:"runs"`
		More bool        `json:"more"`
	}
	listedRun struct {
		RunID    string    `json:"runId"`
		Pipeline string    `json:"pipeline"`
		Key      string    `json:"key"`
		Outcome  string    `json:"outcome"`
		Begun    time.Time `json:"begun"`
		Ended    time.Time `json:"ended"`
	}
	description struct {
		listedRun
		Error string `json:"error"`
		Link  string `json:"link"`
		Steps []struct {
			Name     string `json:"name"`
			Outcome  string `json:"outcome"`
			Attempts []struct {
				JobName string `json:"jobName"`
				JobID   string `json:"jobId"`
				State   string `json:"state"`
				Error   string `json:"error"`
				Console string `json:"console"`
				Link    string `json:"link"`
			} `json:"attempts"`
		} `json:"steps"`
	}
	check struct {
		Name   string `json:"name"`
		Status string `json:"status"`
		Detail string `json:"detail"`
		Do     string `json:"do"`
	}
)

func decodeJSON(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

func removeSearchAttributes(t *testing.T, b *bench) {
	t.Helper()
	if _, err := b.Client.OperatorService().RemoveSearchAttributes(t.Context(), &operatorservice.RemoveSearchAttributesRequest{
		Namespace: b.Addresses.Namespace, SearchAttributes: runs.SearchAttributes(),
	}); err != nil {
		t.Fatal(err)
	}
	// The server serves what it has cached for a while.
	eventually(t, "the search attributes are gone", func() bool {
		missing, err := runs.MissingSearchAttributes(t.Context(), b.Client.OperatorService(), b.Addresses.Namespace)
		return err == nil && len(missing) == len(runs.SearchAttributes())
	})
}

// Three runs in three states, as somebody meets them who looks after a deployment.
func TestRunsAreListedDescribedAndCancelled(t *testing.T) {
	t.Parallel()
	land := func(object string) *run {
		t.Helper()
		r := shared.runOf("seen", shared.upload(t, "e2e-seen", object, "x"), object)
		r.job(t, "only", 1)
		return r
	}
	before := time.Now()
	good := land("good, really.csv")
	good.job(t, "only", 1).done()
	good.result(t)
	bad := land("bad.csv")
	bad.job(t, "only", 1).fail("row 7 of the input has no date")
	bad.result(t)
	open := land("open.csv")

	list := func(args ...string) (ids []string) {
		t.Helper()
		var l listing
		decodeJSON(t, shared.penstock(t, 0, append([]string{"runs", "-o", "json", "--pipeline", "seen"}, args...)...), &l)
		for _, r := range l.Runs {
			if r.Pipeline != "seen" || r.Begun.Before(before.Add(-time.Minute)) {
				t.Errorf("listed %+v, want a run of seen that began just now", r)
			}
			ids = append(ids, r.RunID)
		}
		return ids
	}
	wantList := func(want []*run, args ...string) {
		t.Helper()
		var ids []string
		for _, r := range want {
			ids = append(ids, r.id)
		}
		got := list(args...)
		if strings.Join(got, "\n") != strings.Join(ids, "\n") {
			t.Errorf("penstock runs %q lists %q, want %q", args, got, ids)
		}
	}
	// Visibility lags a moment behind.
	eventually(t, "the runs are listed as they are", func() bool {
		return len(list()) == 3 && len(list("--outcome", "running")) == 1
	})
	wantList([]*run{open, bad, good}, "--since", "1h")
	wantList([]*run{open}, "--outcome", "running")
	wantList([]*run{bad}, "--outcome", "failed")
	wantList([]*run{bad, good}, "--outcome", "failed,succeeded")
	wantList([]*run{open}, "--limit", "1")
	wantList(nil, "--until", "1h")
	wantList(nil, "--since", time.Now().Add(time.Hour).Format(time.RFC3339))
	table := shared.penstock(t, 0, "runs", "--pipeline", "seen")
	for _, want := range []string{"PIPELINE", "OUTCOME", "good, really.csv", "succeeded", "failed", "running"} {
		if !strings.Contains(table, want) {
			t.Errorf("penstock runs does not show %q:\n%s", want, table)
		}
	}
	if code, _, stderr := cli(t, shared.environment(), "runs", "--outcome", "splendid"); code != 2 || !strings.Contains(stderr, "splendid") {
		t.Errorf("an outcome that there is not: exit code %d and %q, want 2 and its name", code, stderr)
	}

	var d description
	decodeJSON(t, shared.penstock(t, 0, "describe", bad.id, "-o", "json"), &d)
	if d.RunID != bad.id || d.Key != bad.key || d.Outcome != "failed" || !strings.Contains(d.Error, "row 7 of the input has no date") {
		t.Errorf("describe says %+v, want the failed run and its job's first error", d)
	}
	if len(d.Steps) != 1 || len(d.Steps[0].Attempts) != 1 {
		t.Fatalf("describe says %+v, want one step with one attempt", d)
	}
	job := d.Steps[0].Attempts[0]
	if job.JobName != bad.jobName("only", 1) || job.State != "JOB_STATE_FAILED" || job.Error != "row 7 of the input has no date" {
		t.Errorf("describe says of the job %+v", job)
	}
	for _, link := range []string{d.Link, job.Link, job.Console} {
		response, err := http.Get(link)
		if err != nil {
			t.Errorf("the link %q leads nowhere: %v", link, err)
			continue
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("the link %s answers %s", link, response.Status)
		}
	}
	if !strings.HasPrefix(d.Link, shared.Addresses.TemporalUI) || !strings.Contains(job.Console, job.JobID) {
		t.Errorf("links %q and %q, want the run's in Temporal's web UI and one of job %s", d.Link, job.Console, job.JobID)
	}
	text := shared.penstock(t, 0, "describe", "seen/"+good.key) // PIPELINE/KEY will do
	for _, want := range []string{good.id, "Show runs in each state", "succeeded", good.jobName("only", 1)} {
		if !strings.Contains(text, want) {
			t.Errorf("penstock describe does not show %q:\n%s", want, text)
		}
	}
	if code, _, stderr := cli(t, shared.environment(), "describe", "seen/none"); code != 1 || !strings.Contains(stderr, "no such run") {
		t.Errorf("a run that there is not: exit code %d and %q, want 1", code, stderr)
	}

	var cancelled struct {
		Runs []struct {
			RunID string `json:"runId"`
			Jobs  []struct {
				JobName string `json:"jobName"`
			} `json:"jobs"`
			End *description `json:"end"`
		} `json:"runs"`
	}
	decodeJSON(t, shared.penstock(t, 0, "cancel", open.id, "--wait", "--reason", "it is not needed", "-o", "json"), &cancelled)
	if len(cancelled.Runs) != 1 || cancelled.Runs[0].RunID != open.id || len(cancelled.Runs[0].Jobs) != 1 || cancelled.Runs[0].Jobs[0].JobName != open.jobName("only", 1) {
		t.Fatalf("cancel says %+v, want the run and its job", cancelled)
	}
	end := cancelled.Runs[0].End
	if end == nil || end.Outcome != "cancelled" || len(end.Steps) != 1 || len(end.Steps[0].Attempts) != 1 || end.Steps[0].Attempts[0].State != "JOB_STATE_CANCELLED" {
		t.Errorf("cancel --wait says %+v, want the cancelled run with its cancelled job", end)
	}
	if !open.job(t, "only", 1).over() {
		t.Error("the job still runs after cancel --wait")
	}
	if code, _, stderr := cli(t, shared.environment(), "cancel", open.id); code != 1 || !strings.Contains(stderr, "is over") {
		t.Errorf("a run that is over: exit code %d and %q, want 1", code, stderr)
	}
	if text := shared.penstock(t, 0, "describe", open.id); !strings.Contains(text, "it is not needed") {
		t.Errorf("penstock describe does not say why the run was cancelled:\n%s", text)
	}
}

func TestRunsOfHostileNamesAreFound(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"-o json --help", "${HOME} {{x}} \"q\", %2F ../ ñ\t🌊", strings.Repeat("n", 1024)} {
		identity := shared.upload(t, "e2e-names", "found/"+name[:min(len(name), 1000)], "x")
		r := shared.runOf("names", identity, "found/"+name[:min(len(name), 1000)])
		r.job(t, "only", 1).done()
		r.result(t)
		for _, ref := range []string{r.id, "names/" + identity} {
			var d description
			decodeJSON(t, shared.penstock(t, 0, "describe", "-o", "json", "--", ref), &d)
			if d.RunID != r.id || d.Key != identity || d.Outcome != "succeeded" {
				t.Errorf("describe %q says %+v, want run %s of %q", ref, d, r.id, identity)
			}
		}
		// A terminal is not theirs to command.
		if text := shared.penstock(t, 0, "describe", "--", r.id); strings.ContainsAny(text, "\t\x1b\r") {
			t.Errorf("describe passes control characters on: %q", text)
		}
	}
}

func TestDoctorSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	t.Parallel()
	// Nobody listens there: the port was free just now.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nowhere := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	pipelines, err := filepath.Abs(filepath.Join("..", "..", "examples", "weather", "pipelines"))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, change string
		code         int
		check        string // that fails; none: all are well
		do           string // what it says to do
	}{
		{name: "all is well"},
		{"the wrong address", "TEMPORAL_ADDRESS=" + nowhere, 1, "temporal", "TEMPORAL_ADDRESS"},
		{"the wrong namespace", "TEMPORAL_NAMESPACE=elsewhere", 1, "namespace", "TEMPORAL_NAMESPACE"},
		{"no Dataflow", "DATAFLOW_ENDPOINT=http://" + nowhere + "/", 1, "dataflow", "DATAFLOW_ENDPOINT"},
		{"no functions", "PENSTOCK_FUNCTIONS_URL=http://" + nowhere, 1, "functions", "deployed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			env := shared.environment()
			if row.change != "" {
				env = append(env, row.change)
			}
			code, stdout, stderr := cli(t, env, "doctor", "--pipelines", pipelines, "-o", "json")
			if code != row.code {
				t.Errorf("exit code %d, want %d\n%s", code, row.code, stderr)
			}
			var answer struct {
				Healthy bool    `json:"healthy"`
				Checks  []check `json:"checks"`
			}
			decodeJSON(t, stdout, &answer)
			if answer.Healthy != (row.check == "") || len(answer.Checks) < 7 {
				t.Errorf("doctor says %+v", answer)
			}
			for _, c := range answer.Checks {
				switch {
				case c.Name == row.check:
					if c.Status != "fail" || !strings.Contains(c.Do, row.do) {
						t.Errorf("check %+v, want a failure that says to do something about %s", c, row.do)
					}
				case row.check == "" && c.Status != "ok", c.Status == "fail":
					t.Errorf("check %+v is not ok", c)
				}
			}
			code, stdout, _ = cli(t, env, "doctor", "--pipelines", pipelines)
			if code != row.code || row.check != "" && !strings.Contains(stdout, row.do) {
				t.Errorf("as text: exit code %d, %s", code, stdout)
			}
		})
	}
}
