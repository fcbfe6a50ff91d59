package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain is also the real command, for the tests that kill it.
func TestMain(m *testing.M) {
	if os.Getenv("DATAFLOW_EMULATOR_TEST_COMMAND") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// command is a running emulator of its own process.
type command struct {
	t   *testing.T
	cmd *exec.Cmd
	url string
	log *bytes.Buffer
}

func startCommand(t *testing.T, args ...string) *command {
	t.Helper()
	c := &command{t: t, cmd: exec.Command(os.Args[0], args...), log: &bytes.Buffer{}}
	c.cmd.Env = append(os.Environ(), "DATAFLOW_EMULATOR_TEST_COMMAND=1", "STORAGE_EMULATOR_HOST=")
	c.cmd.Stderr = c.log
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = c.cmd.Wait()
		t.Fatalf("it does not serve: %v; it said %s", err, c.log)
	}
	c.url = strings.TrimSpace(line)
	return c
}

// kill ends it with SIGKILL.
func (c *command) kill() {
	_ = c.cmd.Process.Signal(syscall.SIGKILL)
	_ = c.cmd.Wait()
}

// call returns the answer's fields; an error when there was no answer.
func (c *command) call(method, path string, body any) (map[string]any, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+"v1b3/projects/p/locations/us-central1/"+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	var fields map[string]any
	return fields, json.Unmarshal(answer, &fields)
}

func (c *command) launch(name, image string) (id string, err error) {
	answer, err := c.call(http.MethodPost, "flexTemplates:launch", map[string]any{"launchParameter": map[string]any{
		"jobName": name, "parameters": map[string]string{"input": "gs://b/" + name}, "containerSpec": map[string]any{"image": image},
		"environment": map[string]any{"additionalUserLabels": map[string]string{"owner": "tests"}, "maxWorkers": 3},
	}})
	if err != nil {
		return "", err
	}
	return answer["job"].(map[string]any)["id"].(string), nil
}

func (c *command) get(id string) map[string]any {
	c.t.Helper()
	j, err := c.call(http.MethodGet, "jobs/"+id+"?view=JOB_VIEW_ALL", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return j
}

// await asks until a job is in a state.
func (c *command) await(id, state string) map[string]any {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	for {
		j := c.get(id)
		if j["currentState"] == "JOB_STATE_"+state {
			return j
		}
		select { // the API has no call that waits
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			c.t.Fatalf("job %s is %v, want %s", id, j["currentState"], state)
		}
	}
}

const killedImages = `{"images": {
	"long":    {"script": [{"state": "RUNNING"}]},
	"short":   {"script": [{"state": "RUNNING"}, {"after": "300ms", "state": "DONE", "counters": {"rows": 5}}]},
	"failing": {"launches": [[{"state": "FAILED", "message": "disk full"}], [{"state": "DONE"}]]},
	"slow-to-stop": {"script": [{"state": "RUNNING"}], "stopTakes": "200ms"},
	"stuck":   {"script": [{"state": "RUNNING"}], "stuckCancel": true},
	"process": {"command": ["/bin/sh", "-c", "sleep 20"], "sdk": "none"}
}}`

func killedFlags(t *testing.T) (ledger string, flags []string) {
	t.Helper()
	dir := t.TempDir()
	images := filepath.Join(dir, "images.json")
	if err := os.WriteFile(images, []byte(killedImages), 0o600); err != nil {
		t.Fatal(err)
	}
	ledger = filepath.Join(dir, "ledger.jsonl")
	return ledger, []string{"-images", images, "-ledger", ledger, "-concurrent_jobs", "-1"}
}

func TestKilledEmulatorKnowsItsJobsAgain(t *testing.T) {
	ledger, flags := killedFlags(t)
	c := startCommand(t, flags...)
	ids := map[string]string{}
	for _, image := range []string{"long", "short", "failing", "slow-to-stop", "stuck", "process", "unmapped"} {
		id, err := c.launch("job-"+image, image)
		if err != nil {
			t.Fatal(err)
		}
		ids[image] = id
	}
	before := map[string]map[string]any{"short": c.await(ids["short"], "DONE"), "failing": c.await(ids["failing"], "FAILED"), "unmapped": c.await(ids["unmapped"], "FAILED")}
	before["long"] = c.await(ids["long"], "RUNNING")
	c.await(ids["process"], "RUNNING")
	stop := func(image string, labels map[string]string) {
		t.Helper()
		if _, err := c.call(http.MethodPut, "jobs/"+ids[image], map[string]any{"requestedState": "JOB_STATE_CANCELLED", "labels": labels}); err != nil {
			t.Fatal(err)
		}
	}
	for _, image := range []string{"slow-to-stop", "stuck"} {
		c.await(ids[image], "RUNNING")
		stop(image, map[string]string{"stopped": "by-hand"})
	}
	c.kill()
	torn, err := os.OpenFile(ledger, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString(`{"time":"2026-11-22T20:00:00Z","kind":"launch","id":"never","job":"nev`); err != nil {
		t.Fatal(err)
	}
	torn.Close()

	c = startCommand(t, flags...)
	for image, want := range before {
		if got := c.get(ids[image]); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("job of %s was\n%v\nand is\n%v", image, want, got)
		}
	}
	if j := c.await(ids["slow-to-stop"], "CANCELLED"); fmt.Sprint(j["labels"]) != "map[stopped:by-hand]" {
		t.Errorf("it has the labels %v", j["labels"])
	}
	if state := c.get(ids["stuck"])["currentState"]; state != "JOB_STATE_CANCELLING" {
		t.Errorf("a cancel that never ends ended in %v", state)
	}
	stop("stuck", map[string]string{"force_cancel_job": "true"})
	c.await(ids["stuck"], "CANCELLED")
	c.await(ids["process"], "FAILED")
	for image, want := range map[string]string{"process": "ended with the emulator", "failing": "disk full", "unmapped": "no local program"} {
		messages, err := c.call(http.MethodGet, "jobs/"+ids[image]+"/messages", nil)
		if err != nil || !strings.Contains(fmt.Sprint(messages), want) {
			t.Errorf("messages of the job of %s: %v, %v; want %q", image, messages, err, want)
		}
	}
	metrics, err := c.call(http.MethodGet, "jobs/"+ids["short"]+"/metrics", nil)
	if err != nil || !strings.Contains(fmt.Sprint(metrics), "rows") {
		t.Errorf("metrics of a job that was over: %v, %v", metrics, err)
	}
	// A name that is taken stays taken; the image's second launch is its second.
	if _, err := c.launch("job-long", "long"); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("a launch under the name of a running job: %v", err)
	}
	second, err := c.launch("job-failing", "failing")
	if err != nil {
		t.Fatal(err)
	}
	c.await(second, "DONE")
	list, err := c.call(http.MethodGet, "jobs?filter=ALL", nil)
	if err != nil || len(list["jobs"].([]any)) != len(ids)+1 || strings.Contains(fmt.Sprint(list), "never") {
		t.Errorf("the list has %v, %v", list, err)
	}
	c.kill()
	c = startCommand(t, flags...) // also of a ledger that was cut and written on
	c.await(second, "DONE")
}

// Whoever was answered finds the job after the crash; what the ledger does not have is nowhere.
func TestLaunchIsInTheLedgerBeforeItIsAnswered(t *testing.T) {
	ledger, flags := killedFlags(t)
	var mu sync.Mutex
	answered := map[string]string{}
	for round := range 3 {
		c := startCommand(t, flags...)
		var clients sync.WaitGroup
		enough := make(chan struct{})
		once := sync.OnceFunc(func() { close(enough) })
		for client := range 8 {
			clients.Go(func() {
				for i := 0; ; i++ {
					name := fmt.Sprintf("job-%d-%d-%d", round, client, i)
					id, err := c.launch(name, "long")
					if err != nil {
						return // the emulator is gone
					}
					mu.Lock()
					answered[id] = name
					mu.Unlock()
					if i == 20+10*round {
						once()
					}
				}
			})
		}
		<-enough
		c.kill() // in the middle of launches
		clients.Wait()
	}
	c := startCommand(t, flags...)
	for id, name := range answered {
		if j := c.get(id); j["name"] != name || j["createTime"] == nil {
			t.Errorf("job %s of %s was answered and is %v", id, name, j)
		}
	}
	text, err := os.ReadFile(ledger)
	if err != nil {
		t.Fatal(err)
	}
	launches := strings.Count(string(text), `"kind":"launch"`)
	listed, token := 0, ""
	for {
		page, err := c.call(http.MethodGet, "jobs?pageSize=1000&pageToken="+token, nil)
		if err != nil {
			t.Fatal(err)
		}
		listed += len(page["jobs"].([]any))
		if token, _ = page["nextPageToken"].(string); token == "" {
			break
		}
	}
	if listed != launches || launches < len(answered) {
		t.Errorf("%d launches answered, %d in the ledger, %d listed", len(answered), launches, listed)
	}
}

// The receiver is down while a job goes through its states, and the emulator dies before it is back.
func TestStateIsToldAfterACrash(t *testing.T) {
	_, flags := killedFlags(t)
	var mu sync.Mutex
	down := true
	told := map[string][]string{}
	news := make(chan struct{}, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var event struct {
			Payload struct{ Name, CurrentState string }
		}
		if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if down && event.Payload.Name == "job-missed" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		told[event.Payload.Name] = append(told[event.Payload.Name], strings.TrimPrefix(event.Payload.CurrentState, "JOB_STATE_"))
		news <- struct{}{}
	}))
	defer receiver.Close()
	flags = append(flags, "-sink", receiver.URL)
	c := startCommand(t, flags...)
	for _, name := range []string{"job-heard", "job-missed"} {
		id, err := c.launch(name, "short")
		if err != nil {
			t.Fatal(err)
		}
		c.await(id, "DONE")
	}
	await := func(name string) {
		t.Helper()
		timeout := time.After(30 * time.Second)
		for {
			mu.Lock()
			got := slices.Clone(told[name])
			mu.Unlock()
			if len(got) > 0 && got[len(got)-1] == "DONE" {
				return
			}
			select {
			case <-news:
			case <-timeout:
				t.Fatalf("%s: told of %q", name, got)
			}
		}
	}
	await("job-heard")
	c.kill()
	mu.Lock()
	down = false
	mu.Unlock()
	startCommand(t, flags...)
	await("job-missed")
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(told["job-missed"], " "); got != "QUEUED RUNNING DONE" {
		t.Errorf("the job that nobody heard of was told as %s", got)
	}
	// The last state may be told twice: the crash may have come between its delivery and the ledger's line.
	if got := strings.Join(told["job-heard"], " "); got != "QUEUED RUNNING DONE" && got != "QUEUED RUNNING DONE DONE" {
		t.Errorf("the job that was heard of was told as %s", got)
	}
}

func TestOneEmulatorALedger(t *testing.T) {
	_, flags := killedFlags(t)
	startCommand(t, flags...)
	err := run(t.Context(), flags, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "another emulator writes to it") {
		t.Errorf("a second emulator: %v", err)
	}
}

func TestLedgerThatIsNoneIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"other text":         "hello\n",
		"a state of no job":  `{"kind":"state","id":"1","state":"JOB_STATE_DONE"}` + "\n",
		"an unreadable job":  `{"kind":"launch","id":"1","job":"x","record":{"name":7}}` + "\n",
		"an unknown request": `{"kind":"launch","id":"1","job":"x"}` + "\n" + `{"kind":"update","id":"1","stop":"explode"}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			ledger, flags := killedFlags(t)
			if err := os.WriteFile(ledger, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			err := run(t.Context(), flags, io.Discard)
			if err == nil || !strings.Contains(err.Error(), "line") {
				t.Errorf("it was taken: %v", err)
			}
			if kept, _ := os.ReadFile(ledger); string(kept) != text {
				t.Errorf("it was changed to %q", kept)
			}
		})
	}
}
