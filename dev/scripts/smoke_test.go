package scripts

import (
	"strings"
	"testing"
)

// TestHowFarACanaryCame has an event be stuck at each stage.
func TestHowFarACanaryCame(t *testing.T) {
	t.Parallel()
	const run = `{"runId": "prod/orders/a", "outcome": "running", "steps": [{"name": "load", "outcome": "running", "waiting": "%", "attempts": [%]}]}`
	with := func(waiting, attempts string) string {
		return strings.Replace(strings.Replace(run, "%", waiting, 1), "%", attempts, 1)
	}
	for _, tc := range []struct {
		name      string
		explained string // empty: the object starts a run of orders
		run       string // what describe says; empty: there is no such run
		trouble   string // what it says then instead of that
		letters   string
		fails     string
		args      []string
		status    int
		said      string
	}{
		{name: "the run succeeded", run: `{"outcome": "succeeded", "steps": []}`, said: "prod/orders/a: succeeded"},
		{name: "starting is enough", run: with("", ""), args: []string{"--until", "started"}, said: "prod/orders/a: started"},
		{name: "launching is enough", run: with("", `{"jobId": "1", "outcome": "running"}`), args: []string{"--until", "launched"}, said: "prod/orders/a: launched"},
		{name: "the object cannot be written", fails: "store", status: 1, said: "was not written"},
		{name: "no pipeline wants it", explained: `{"events": [{"pipelines": [{"pipeline": "orders", "decision": "skipped", "reasons": ["when is false"]}]}]}`, status: 1, said: "orders: skipped (when is false)"},
		{name: "another pipeline wants it", args: []string{"--pipeline", "returns"}, status: 1, said: "no pipeline returns is started"},
		{name: "the event does not arrive", status: 1, said: "the run was not started in 0s"},
		{name: "the event is a dead letter", letters: `{"deadLetters": [{"identity": "finalized:OBJECT#1", "reason": "too large"}]}`, status: 1, said: "among the dead letters: too large"},
		{name: "Temporal cannot be asked", trouble: "connect to Temporal: refused", status: 1, said: "whether the run was started is not known"},
		{name: "no worker takes it up", run: `{"outcome": "running", "waits": ["a worker"]}`, status: 1, said: "no worker has taken it up in 0s"},
		{name: "a job is not launched", run: with("quota", `{"jobName": "prod-orders-load-x-1", "outcome": "running", "error": "out of quota"}`), status: 1, said: "step load: job prod-orders-load-x-1: out of quota"},
		{name: "a job does not end", run: with("the job", `{"jobName": "prod-orders-load-x-1", "jobId": "1", "outcome": "running", "state": "JOB_STATE_RUNNING"}`), status: 1, said: "job prod-orders-load-x-1 is JOB_STATE_RUNNING"},
		{name: "the run failed", run: `{"outcome": "failed", "error": "step load failed", "steps": []}`, status: 1, said: "the run ended as failed: prod/orders/a\n       step load failed"},
		{name: "a pattern that is not one object", args: []string{"gs://acme-landing/{region}/*.csv"}, status: 2, said: "more than one *"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, "smoke")
			if tc.explained == "" {
				tc.explained = `{"events": [{"pipelines": [{"pipeline": "orders", "decision": "started", "runId": "prod/orders/a"}, {"pipeline": "clicks", "decision": "unmatched"}]}]}`
			}
			y.write(t, "explained.json", tc.explained)
			if tc.run != "" {
				y.write(t, "run.json", tc.run)
			}
			if tc.trouble == "" {
				tc.trouble = "no such run: prod/orders/a in deployment prod"
			}
			y.write(t, "describe.err", "penstock: "+tc.trouble)
			if tc.letters == "" {
				tc.letters = `{"deadLetters": []}`
			}
			env := []string{"FAILS=" + tc.fails, "PENSTOCK_DEAD_LETTER_SUBSCRIPTION=projects/p/subscriptions/d"}
			args := tc.args
			if len(args) == 0 || !strings.HasPrefix(args[0], "gs://") {
				args = append(args, "gs://acme-landing/canary/*.csv")
			}
			y.write(t, "letters.json", tc.letters)
			r := y.run(t, env, "smoke", append([]string{"--pipelines", "deploy/prod/pipelines", "--timeout", "0"}, args...)...)
			r.wantStatus(t, tc.status)
			r.wantSaid(t, tc.said)
		})
	}
}

func TestEachCanaryHasANameOfItsOwn(t *testing.T) {
	t.Parallel()
	y := newYard(t, "smoke")
	y.write(t, "explained.json", `{"events": [{"pipelines": [{"pipeline": "orders", "decision": "started", "runId": "prod/orders/a"}]}]}`)
	y.write(t, "run.json", `{"outcome": "succeeded"}`)
	seen := map[string]bool{}
	for range 3 {
		r := y.run(t, nil, "smoke", "--pipelines", "deploy/prod/pipelines", "gs://acme-landing/canary/*.csv")
		r.wantStatus(t, 0)
		_, name, _ := strings.Cut(r.calls[0], "gs://")
		name, _, _ = strings.Cut(name, " ")
		if !strings.HasPrefix(name, "acme-landing/canary/canary-") || !strings.HasSuffix(name, ".csv") || seen[name] {
			t.Errorf("it writes %q, after %v", name, seen)
		}
		seen[name] = true
		if !strings.Contains(r.calls[0], "--if-generation-match=0") {
			t.Error("it would write over an object that is there")
		}
	}
}
