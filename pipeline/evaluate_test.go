package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
)

// evaluate matches the event against the one pipeline and evaluates the match.
func evaluate(t *testing.T, src string, e *events.Event) (pipeline.Plan, *pipeline.Skip, error) {
	t.Helper()
	matches := pipeline.NewSet([]*pipeline.Pipeline{parse(t, src)}).Match(e)
	if len(matches) != 1 {
		t.Fatalf("%d matches", len(matches))
	}
	return matches[0].Evaluate()
}

func mustPlan(t *testing.T, src string, e *events.Event) pipeline.Plan {
	t.Helper()
	plan, skip, err := evaluate(t, src, e)
	if err != nil || skip != nil {
		t.Fatalf("skip %+v, error %v", skip, err)
	}
	return plan
}

func TestPlanOfAnEvent(t *testing.T) {
	name := `orders/EU West/2026/a,b "${event.id}" {{.}} %2F ü.csv`
	plan := mustPlan(t, orders, stored("acme-landing", name))
	identity := "finalized:acme-landing/" + name + "#1700000000000001"
	if plan.Key != identity || plan.Identity != identity || plan.Pipeline != "orders" {
		t.Errorf("key %q, identity %q", plan.Key, plan.Identity)
	}
	want := map[string]string{
		"input": "gs://acme-landing/" + name, "output": "gs://acme-clean/EU West/2026/", "price": "${free}", "batch": "500", "strict": "true",
	}
	if got := plan.Steps[0].Job; !maps.Equal(got.Parameters, want) || got.Labels["region"] != "eu_west" || len(got.Deferred) != 0 {
		t.Errorf("job is %+v", got)
	}
	if got := plan.Steps[1].Job; len(got.Parameters) != 0 || len(got.Deferred) != 1 {
		t.Errorf("job is %+v", got)
	}
}

func TestVarsHoldOnlyWhatDeferredExpressionsUse(t *testing.T) {
	plan := mustPlan(t, orders, stored("acme-landing", "orders/eu/2026/a.csv"))
	b, err := json.Marshal(plan.Vars)
	if err != nil || string(b) != `{"event":{"size":3}}` {
		t.Errorf("vars are %s, %v", b, err)
	}
}

const deferring = `
name: report
purpose: Report.
owner: me
on: [{pubsub: {topic: exports}}]
steps:
  - {name: clean-up, dataflow: {template: gs://a-b/c}}
  - name: report
    needs: [clean-up]
    dataflow:
      template: gs://a-b/d
      parameters:
        now: ${event.data.order}
        sum: ${steps["clean-up"].metrics.rows + 1} of ${event.data.order}, ${event.data.half}, ${event.data.small}
        day: ${event.publishTime.getFullYear() + steps["clean-up"].attempts}
        job: ${steps["clean-up"].state}/${run.key}/${event.attributes["kind"]}
        out: ${steps["clean-up"].parameters.output}
      labels: {state: "${label(steps['clean-up'].state)}"}
`

func TestDeferredValuesSurviveAWorkflowsInput(t *testing.T) {
	e := message("projects/a/topics/exports", "7", `{"order": 9007199254740993, "half": 0.5, "small": 3, "unused": "x"}`, map[string]string{"kind": "${full}"})
	e.PubSub.PublishTime = time.Date(2026, 11, 22, 10, 0, 0, 5, time.UTC)
	plan := mustPlan(t, deferring, e)
	if got := plan.Steps[1].Job.Parameters; !maps.Equal(got, map[string]string{"now": "9007199254740993"}) {
		t.Errorf("parameters rendered at once are %v", got)
	}
	b, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "unused") {
		t.Errorf("the input carries what nothing uses: %s", b)
	}
	var back pipeline.Plan
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	job, err := back.Steps[1].Job.Render(back.Vars, map[string]pipeline.StepResultVars{
		"clean-up": {State: "JOB_STATE_DONE", Metrics: map[string]int64{"rows": 41}, Attempts: 2, Parameters: map[string]string{"output": "gs://b/x"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"now": "9007199254740993", "sum": "42 of 9007199254740993, 0.5, 3", "day": "2028", "job": "JOB_STATE_DONE/pubsub:projects/a/topics/exports#7/${full}", "out": "gs://b/x",
	}
	if !maps.Equal(job.Parameters, want) || job.Labels["state"] != "job_state_done" || len(job.Deferred) != 0 {
		t.Errorf("job is %+v", job)
	}
	if len(back.Steps[1].Job.Deferred) == 0 || len(back.Steps[1].Job.Parameters) != 1 {
		t.Error("rendering changed the job that it was given")
	}
}

func TestDeferredValuesThatFailNameTheirPlace(t *testing.T) {
	plan := mustPlan(t, deferring, message("projects/a/topics/exports", "7", `{"order": 1, "half": 1, "small": 1}`, map[string]string{"kind": "a"}))
	_, err := plan.Steps[1].Job.Render(plan.Vars, map[string]pipeline.StepResultVars{"clean-up": {}})
	var failed *pipeline.EvalError
	if !errors.As(err, &failed) || failed.Position.File != "pipeline.yaml" || failed.Position.Line == 0 {
		t.Errorf("error is %v", err)
	}
}

// valueOf renders one parameter of a pipeline that a message starts.
func valueOf(t *testing.T, text string, e *events.Event) (string, error) {
	t.Helper()
	p, problems := pipeline.Parse("f.yaml", []byte("name: a\npurpose: a\nowner: a\non: [{pubsub: {topic: exports}}]\nsteps:\n  - name: a\n    dataflow:\n      template: gs://a-b/c\n      parameters:\n        p: "+text+"\n"))
	if p == nil {
		t.Fatal(problems)
	}
	plan, _, err := pipeline.NewSet([]*pipeline.Pipeline{p}).Match(e)[0].Evaluate()
	if err != nil {
		return "", err
	}
	return plan.Steps[0].Job.Parameters["p"], nil
}

func TestHowValuesAreWritten(t *testing.T) {
	e := message("projects/a/topics/exports", "7", `{"n": 3, "f": 2.50, "big": 123456789012345678901234567890, "u": 18446744073709551615, "t": true, "s": "a<b>", "l": [1, "x", null], "m": {"b": 1, "a": "<"}, "none": null}`, nil)
	e.PubSub.PublishTime = time.Date(2026, 11, 22, 10, 0, 0, 0, time.FixedZone("", 3600))
	for text, want := range map[string]string{
		"plain":                             "plain",
		`""`:                                "",
		"007":                               "007",
		"1e3":                               "1e3",
		"yes":                               "yes",
		"${event.data.n}":                   "3",
		"${event.data.n + 0.25}":            "3.25",
		"${event.data.f}":                   "2.5",
		"${event.data.big}":                 "123456789012345678901234567890",
		"${event.data.u}":                   "18446744073709551615",
		"${event.data.t}":                   "true",
		"${event.data.s}":                   "a<b>",
		"${event.data.l}":                   `[1,"x",null]`,
		"${event.data.m}":                   `{"a":"<","b":1}`,
		"${event.publishTime}":              "2026-11-22T09:00:00Z",
		`'${duration("90s")}'`:              "90s",
		"${1 + 2}":                          "3",
		"${5u}":                             "5",
		"${event.data.?path.orValue('-')}":  "-",
		`"${has(event.time) ? 1 : 2}"`:      "2",
		`'${{"a": "}"}["a"]}'`:              "}",
		`"a$${b}c$${d}"`:                    "a${b}c${d}",
		"a$b":                               "a$b",
		`${event.messageId}-${event.topic}`: "7-projects/a/topics/exports",
		`${"a-b".split("-")[1]}`:            "b",
		`${base64.encode(b"hi")}`:           "aGk=",
		`${"a,b".replace(",", "-").upperAscii()}`: "A-B",
		`${" Aé-b ".trim().lowerAscii()}`:         "aé-b",
		`${["a", "b"].join("/")}`:                 "a/b",
		`${"éa.b.c".substring(1, 4)}`:             "a.b",
		`${"éa.b.c".lastIndexOf(".")}`:            "4",
		`${"a.b.c".split(".", 2)}`:                `["a","b.c"]`,
		`${label("Größe 5 / Ü")}`:                 "gr_e_5_",
	} {
		if got, err := valueOf(t, text, e); err != nil || got != want {
			t.Errorf("%s gives %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestMessagesThatAreNotJSONAreText(t *testing.T) {
	for data, want := range map[string]string{"12e4": "12e4", "007": "007", "hello {": "hello {", `"quoted"`: "quoted", "{broken": "{broken", "": "", "\xff\x00": "/wA=", "true": "true"} {
		if got, err := valueOf(t, "${event.data}", message("projects/a/topics/exports", "7", data, nil)); err != nil || got != want {
			t.Errorf("%q gives %q, %v; want %q", data, got, err, want)
		}
	}
}

func TestValuesThatCannotBeWrittenAreErrorsWithTheirPlace(t *testing.T) {
	e := message("projects/a/topics/exports", "7", `{"none": null, "list": [`+strings.Repeat("1,", 1500)+`1]}`, nil)
	for text, want := range map[string]string{
		"${event.data.none}":  "f.yaml:10:14: evaluate event.data.none: the value is null",
		"x ${event.data.nun}": "f.yaml:10:16: evaluate event.data.nun: the event has no nun",
		"${event.data.list.map(a, event.data.list.map(b, string(a) + string(b))).size()}": "more work than an expression may: operation cancelled: actual cost limit exceeded",
		"${event.time}": "the event has no time",
		"${1 / 0}":      "division by zero",
		`${"` + strings.Repeat("x", 1000) + `".replace("x", "` + strings.Repeat("y", 100) + `")}`: "64 KiB",
	} {
		_, err := valueOf(t, text, e)
		var failed *pipeline.EvalError
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s gives %v; want an error with %q", text, err, want)
		}
	}
}

// TestExpressionsAreBounded evaluates what would take minutes, or all the memory there is. Every one has to end in an error soon.
func TestExpressionsAreBounded(t *testing.T) {
	items := message("projects/a/topics/exports", "7", "["+strings.Repeat("1,", 4999)+"1]", nil)
	long := message("projects/a/topics/exports", "7", strings.Repeat("x", 8000), nil)
	for text, e := range map[string]*events.Event{
		`${event.data.map(a, event.data.filter(b, a == b).size()).size()}`:                                              items,
		`${event.data.exists(a, event.data.exists(b, a + b == 0)) }`:                                                    items,
		`${event.data.map(a, event.data.map(b, event.data)).size()}`:                                                    items,
		`${event.data.replace("x", event.data).replace("x", event.data).size()}`:                                        long,
		`${event.data.split("").map(a, event.data).join(event.data).size()}`:                                            long,
		`${event.data.split("").map(a, event.data.lowerAscii().size()).size()}`:                                         long,
		`${[event.data].map(a, ` + strings.Repeat("a+", 40) + `a).map(a, ` + strings.Repeat("a+", 40) + `a)[0].size()}`: long,
	} {
		if got, err := valueOf(t, text, e); err == nil {
			t.Errorf("%s gives %s", text, got)
		}
	}
}

const conditional = `
name: a
purpose: a
owner: a
on:
  - {storage: {bucket: acme, object: "{region}/*"}, when: event.size > 5}
  - {storage: {bucket: acme, object: "{region}/**"}, when: 'object.region == "eu"'}
key: ${event.name}
workflow: {type: Ingest, taskQueue: ingest}
`

func TestTheFirstTriggerWhoseWhenHoldsStartsIt(t *testing.T) {
	plan := mustPlan(t, conditional, stored("acme", "eu/x"))
	if plan.Key != "eu/x" || *plan.Workflow != (pipeline.PlannedWorkflow{Type: "Ingest", TaskQueue: "ingest"}) {
		t.Errorf("plan is %+v", plan)
	}
}

// The next delivery may find that the trigger holds, and then it decides under its own identity.
func TestATriggerThatHadNoTimeLetsNoOtherDecide(t *testing.T) {
	const (
		stalls = "  - {pubsub: {topic: exports, id: event.data.id}, when: event.data.id > 0}\n"
		holds  = "  - {pubsub: {topic: exports}}\n"
		fails  = "  - {pubsub: {topic: exports}, when: event.data.none > 0}\n"
		rest   = "workflow: {type: a, taskQueue: b}\n"
	)
	for name, c := range map[string]struct {
		triggers string
		stalled  int
	}{
		"before one that holds": {stalls + holds, 0},
		"after one that fails":  {fails + stalls, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := parse(t, "name: a\npurpose: a\nowner: a\non:\n"+c.triggers+rest)
			pipeline.NoTime(&p.On[c.stalled])
			m := pipeline.NewSet([]*pipeline.Pipeline{p}).Match(message("projects/a/topics/exports", "1", `{"id": 5}`, nil))
			plan, skip, err := m[0].Evaluate()
			var poison *pipeline.EvalError
			if err == nil || errors.As(err, &poison) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("it gives %+v, %+v, %v; want that there was no time", plan, skip, err)
			}
		})
	}
}

func TestAFalseWhenSkipsWithItsReason(t *testing.T) {
	_, skip, err := evaluate(t, conditional, stored("acme", "us/x"))
	if err != nil || skip == nil {
		t.Fatalf("skip %v, error %v", skip, err)
	}
	if skip.Expression != "event.size > 5" || skip.Position.Line != 6 || !strings.Contains(skip.Reason, "event.size > 5") {
		t.Errorf("skip is %+v", skip)
	}
}

func TestMessageIdentityOfThePublisher(t *testing.T) {
	const src = "name: a\npurpose: a\nowner: a\non: [{pubsub: {topic: exports, id: event.data.id}}]\nworkflow: {type: a, taskQueue: b}\n"
	one := mustPlan(t, src, message("projects/a/topics/exports", "1", `{"id": 5}`, nil))
	two := mustPlan(t, src, message("projects/a/topics/exports", "2", `{"id": 5}`, nil))
	if one.Identity != two.Identity || one.Key != one.Identity {
		t.Errorf("identities are %q and %q", one.Identity, two.Identity)
	}
	if byID := message("projects/a/topics/exports", "5", "", nil).Identity(); byID == one.Identity {
		t.Errorf("%q is also the identity of message 5", byID)
	}
	if _, _, err := evaluate(t, src, message("projects/a/topics/exports", "1", `{}`, nil)); err == nil {
		t.Error("a message without its identity has one")
	}
}

func TestSignals(t *testing.T) {
	const src = "name: a\npurpose: a\nowner: a\non: [{storage: {bucket: acme, object: '{day}/**'}}]\nsignal: {workflowId: 'collector-${object.day}', name: arrived, start: {type: Collector, taskQueue: b}}\n"
	plan := mustPlan(t, src, stored("acme", "monday/x"))
	if s := plan.Signal; s.WorkflowID != "collector-monday" || s.Name != "arrived" || s.Start.Type != "Collector" {
		t.Errorf("signal is %+v", plan.Signal)
	}
	if _, _, err := evaluate(t, src, stored("acme", "montäg/x")); err == nil || !strings.Contains(err.Error(), "printable ASCII") {
		t.Errorf("an ID that Temporal's client refuses gives %v", err)
	}
}

func TestRenderedLabelsMustBeLabels(t *testing.T) {
	src := strings.Replace(orders, "${label(object.region)}", "${object.region}", 1)
	if _, _, err := evaluate(t, src, stored("acme-landing", "orders/EU/1/a.csv")); err == nil || !strings.Contains(err.Error(), `got "EU"`) {
		t.Errorf("error is %v", err)
	}
	if plan := mustPlan(t, src, stored("acme-landing", "orders/eu/1/a.csv")); plan.Steps[0].Job.Labels["region"] != "eu" {
		t.Errorf("job is %+v", plan.Steps[0].Job)
	}
}

func TestKeysOfNoOrTooManyBytes(t *testing.T) {
	const src = "name: a\npurpose: a\nowner: a\non: [{pubsub: {topic: exports}}]\nkey: ${event.orderingKey}\nworkflow: {type: a, taskQueue: b}\n"
	for _, key := range []string{"", strings.Repeat("x", 5000)} {
		e := message("projects/a/topics/exports", "1", "", nil)
		e.PubSub.OrderingKey = key
		if _, _, err := evaluate(t, src, e); err == nil {
			t.Errorf("a key of %d bytes is taken", len(key))
		}
	}
}

func TestEventsWithoutData(t *testing.T) {
	const src = "name: a\npurpose: a\nowner: a\non: [{event: {type: com.acme.done}, when: event.data == null}]\nworkflow: {type: a, taskQueue: b}\n"
	mustPlan(t, src, generic("com.acme.done", "//erp", ""))
}

func TestDedupeTravelsInThePlan(t *testing.T) {
	for written, want := range map[string]string{
		"":                          "null",
		"dedupe: {keep: forever}":   "{}",
		"dedupe: {keep: 90d}":       `{"keep":7776000000000000}`,
		"dedupe:\n  keep: \"1h\"\n": `{"keep":3600000000000}`,
	} {
		plan := mustPlan(t, orders+written, stored("acme-landing", "orders/eu/2026/a.csv"))
		if got, err := json.Marshal(plan.Dedupe); err != nil || string(got) != want {
			t.Errorf("%q is %s (%v), want %s", written, got, err, want)
		}
	}
}
