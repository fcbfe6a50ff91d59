package faults

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestRulesThatAreRefused(t *testing.T) {
	for name, test := range map[string]struct{ rule, says string }{
		"no name":                          {`{"at": "storage", "fault": "reset"}`, "name: it has 1 to 63"},
		"a name that is no file name":      {`{"name": "A b", "at": "storage", "fault": "reset"}`, "name: it has 1 to 63"},
		"an unknown place":                 {`{"name": "a", "at": "moon", "fault": "reset"}`, `at: there is no place "moon"; there are dataflow, events, job, pubsub, storage, temporal`},
		"a fault of another place":         {`{"name": "a", "at": "events", "fault": "quota"}`, `fault: events has no fault "quota"; it has delay, duplicate`},
		"a misspelt field":                 {`{"name": "a", "at": "storage", "fault": "reset", "rat": 1}`, `unknown field "rat"`},
		"a rate above 1":                   {`{"name": "a", "at": "storage", "fault": "reset", "rate": 1.5}`, "rate: 1.5 is not between 0 and 1"},
		"a negative rate":                  {`{"name": "a", "at": "storage", "fault": "reset", "rate": -0.1}`, "rate: -0.1 is not between"},
		"a negative count":                 {`{"name": "a", "at": "storage", "fault": "reset", "count": -1}`, "count: -1 is negative"},
		"a count of a way to behave":       {`{"name": "a", "at": "dataflow", "fault": "hide-queued", "count": 1}`, "count: hide-queued is a way to behave"},
		"a window that ends before":        {`{"name": "a", "at": "storage", "fault": "reset", "from": "2s", "until": "1s"}`, "until: 1s is not after from, 2s"},
		"a number for a duration":          {`{"name": "a", "at": "storage", "fault": "latency", "delay": 5}`, "cannot be read"},
		"a text that is no duration":       {`{"name": "a", "at": "storage", "fault": "latency", "delay": "soon"}`, `"soon" is no duration; write it as 300ms`},
		"a negative duration":              {`{"name": "a", "at": "storage", "fault": "latency", "delay": "-1s"}`, "negative"},
		"latency without a delay":          {`{"name": "a", "at": "storage", "fault": "latency"}`, "delay: it is missing; latency at storage needs it"},
		"a field that the fault lacks":     {`{"name": "a", "at": "storage", "fault": "reset", "status": 503}`, "status: reset at storage does not take it"},
		"a status that is no error":        {`{"name": "a", "at": "storage", "fault": "status", "status": 200}`, "status: 200 cannot be answered; there are 400, 401"},
		"an unknown form":                  {`{"name": "a", "at": "dataflow", "fault": "same-name", "form": "both"}`, `form: "both" is none of conflict, existing`},
		"a state that no job can hang in":  {`{"name": "a", "at": "job", "fault": "hang", "state": "DONE"}`, `state: a job cannot hang in "DONE"; it can in QUEUED`},
		"a quota without its limit":        {`{"name": "a", "at": "dataflow", "fault": "quota"}`, "limit: it is missing"},
		"an unknown direction":             {`{"name": "a", "at": "temporal", "fault": "hang", "direction": "up"}`, `direction: "up" is none of requests, answers`},
		"a direction of a whole reset":     {`{"name": "a", "at": "temporal", "fault": "reset", "direction": "answers"}`, "direction: reset at temporal does not take it"},
		"a commit where nothing is called": {`{"name": "a", "at": "temporal", "fault": "reset", "committed": true}`, "committed: reset at temporal does not take it"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParsePlan([]byte(`{"rules": [` + test.rule + `]}`))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("it says %v, want %q", err, test.says)
			}
		})
	}
	t.Run("two rules of one name", func(t *testing.T) {
		_, err := ParsePlan([]byte(`{"rules": [{"name": "a", "at": "storage", "fault": "reset"}, {"name": "a", "at": "pubsub", "fault": "reset"}]}`))
		if err == nil || !strings.Contains(err.Error(), `rule "a": name: another rule has it`) {
			t.Error(err)
		}
	})
	t.Run("all that is wrong at once", func(t *testing.T) {
		_, err := ParsePlan([]byte(`{"rules": [{"name": "a", "at": "storage", "fault": "reset", "rate": 2}, {"name": "b", "at": "nowhere", "fault": "reset"}]}`))
		if err == nil || !strings.Contains(err.Error(), `rule "a": rate`) || !strings.Contains(err.Error(), `rule "b": at`) {
			t.Error(err)
		}
	})
	t.Run("text after the rules", func(t *testing.T) {
		if _, err := ParsePlan([]byte(`{"rules": []} {}`)); err == nil {
			t.Error("accepted")
		}
	})
}

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "anything", true},
		{"jobs.get", "jobs.get", true},
		{"jobs.get", "jobs.getMetrics", false},
		{"jobs.*", "jobs.messages.list", true},
		{"*.launch", "flexTemplates.launch", true},
		{"landing/*.csv", "landing/a/b.csv", true},
		{"landing/*.csv", "other/a/b.csv", false},
		{"a*b*a", "aba", true},
		{"a*a", "a", false},
	} {
		if got := matches(test.pattern, test.text); got != test.want {
			t.Errorf("%q and %q: %v", test.pattern, test.text, got)
		}
	}
}

func TestTheDocumentationsRules(t *testing.T) {
	text, err := os.ReadFile("../../docs/fault-lab.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllSubmatch(text, -1)
	if len(blocks) == 0 {
		t.Fatal("it has none")
	}
	for _, b := range blocks {
		if p, err := ParsePlan(b[1]); err != nil || len(p.Rules) == 0 {
			t.Errorf("%v in %s", err, b[1])
		}
	}
	for place, known := range places {
		for fault := range known {
			if !regexp.MustCompile("(?m)^\\| `" + string(fault) + "` \\|").Match(text) {
				t.Errorf("it does not tell of %s at %s", fault, place)
			}
		}
	}
}
