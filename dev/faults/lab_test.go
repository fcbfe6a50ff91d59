package faults_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/dev/eventarc"
	"github.com/penstock/penstock/dev/faults"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) injected(t *testing.T) []faults.Injected {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []faults.Injected
	for d := json.NewDecoder(bytes.NewReader(l.text.Bytes())); ; {
		var one faults.Injected
		err := d.Decode(&one)
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, one)
	}
}

// open makes a lab with rules given as JSON, seed 7, and its log.
func open(t *testing.T, rules ...string) (*faults.Lab, *lines) {
	t.Helper()
	plan, err := faults.ParsePlan([]byte(`{"seed": 7, "rules": [` + strings.Join(rules, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	log := &lines{}
	lab, err := faults.New(faults.Options{Plan: plan, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab, log
}

// lost tells which events of jobs 0 to n-1 a lab loses, when they come in the given order.
func lost(lab *faults.Lab, order []int) map[int]bool {
	var o eventarc.Options
	lab.Deliver(&o)
	out := map[int]bool{}
	for _, i := range order {
		if o.Route("job-status", eventarc.Event{Extensions: map[string]string{"job": fmt.Sprint("job-", i)}}) == nil {
			out[i] = true
		}
	}
	return out
}

func TestChanceFollowsTheSeed(t *testing.T) {
	const loses = `{"name": "lost", "at": "events", "operation": "job-status", "fault": "lose", "rate": 0.3}`
	order := make([]int, 1000)
	for i := range order {
		order[i] = i
	}
	lab, _ := open(t, loses)
	first := lost(lab, order)
	if n := len(first); n < 240 || n > 360 {
		t.Errorf("%d of 1000 were lost, want about 300", n)
	}
	t.Run("the same again", func(t *testing.T) {
		lab, _ := open(t, loses)
		if !maps.Equal(lost(lab, order), first) {
			t.Error("the same seed and rules lost other events")
		}
	})
	t.Run("in another order", func(t *testing.T) {
		lab, _ := open(t, loses)
		mixed := append([]int{}, order...)
		rand.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		if !maps.Equal(lost(lab, mixed), first) {
			t.Error("the order of arrival changed what is lost")
		}
	})
	t.Run("beside other rules", func(t *testing.T) {
		lab, _ := open(t, `{"name": "early", "at": "events", "fault": "delay", "delay": "1h", "rate": 0.5}`, loses, `{"name": "late", "at": "events", "fault": "duplicate", "rate": 0.5}`)
		if !maps.Equal(lost(lab, order), first) {
			t.Error("other rules changed what is lost")
		}
	})
	t.Run("with another seed", func(t *testing.T) {
		lab, err := faults.New(faults.Options{Plan: faults.Plan{Seed: 8, Rules: nil}})
		if err != nil {
			t.Fatal(err)
		}
		defer lab.Close()
		rate := 0.3
		if err := lab.Put(faults.Rule{Name: "lost", At: faults.Events, Fault: faults.Lose, Rate: &rate}); err != nil {
			t.Fatal(err)
		}
		if maps.Equal(lost(lab, order), first) {
			t.Error("another seed lost the same events")
		}
	})
	t.Run("without a seed one is chosen, and told", func(t *testing.T) {
		lab, err := faults.New(faults.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer lab.Close()
		if lab.Seed() == 0 {
			t.Error("no seed")
		}
	})
}

func TestCountWindowAndLog(t *testing.T) {
	lab, log := open(t,
		`{"name": "two", "at": "events", "subject": "job-*", "fault": "lose", "count": 2}`,
		`{"name": "later", "at": "events", "fault": "lose", "from": "1h"}`,
		`{"name": "none", "at": "events", "fault": "lose", "rate": 0}`,
		`{"name": "others", "at": "events", "subject": "landing/*", "fault": "lose"}`)
	if got := lost(lab, []int{0, 1, 2, 3}); !maps.Equal(got, map[int]bool{0: true, 1: true}) {
		t.Errorf("lost %v, want the first two", got)
	}
	got := log.injected(t)
	for i := range got {
		if time.Since(got[i].Time) > time.Minute {
			t.Errorf("line %d is of %v", i, got[i].Time)
		}
		got[i].Time = time.Time{}
	}
	want := []faults.Injected{
		{Rule: "two", At: faults.Events, Fault: faults.Lose, Operation: "job-status", Job: "job-0"},
		{Rule: "two", At: faults.Events, Fault: faults.Lose, Operation: "job-status", Job: "job-1"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the log has %+v, want %+v", got, want)
	}
	counts := lab.Counts()
	if counts["two"] != (faults.Counts{Selected: 4, Injected: 2}) || counts["later"].Injected+counts["none"].Injected+counts["others"].Selected != 0 {
		t.Errorf("counts are %+v", counts)
	}
}

// ask calls the lab's API.
func ask(t *testing.T, url, method, body string) (int, faults.State, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var s faults.State
	if response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
	}
	return response.StatusCode, s, string(text)
}

func TestAPI(t *testing.T) {
	lab, _ := open(t)
	server := httptest.NewServer(lab.Handler())
	defer server.Close()
	url := server.URL + "/faults"

	const rules = `[{"name": "a", "at": "dataflow", "fault": "status", "operation": "*.launch", "status": 429, "retryAfter": "3s", "rate": 0.5, "count": 4, "from": "1s", "until": "1m0s"},
		{"name": "b", "at": "dataflow", "fault": "quota", "limit": 0, "form": "refuse"}, {"name": "c", "at": "events", "fault": "lose"}]`
	code, state, text := ask(t, url, http.MethodPut, `{"seed": 7, "rules": `+rules+`}`)
	if code != http.StatusOK || state.Seed != 7 || len(state.Rules) != 3 {
		t.Fatalf("PUT answered %d %s", code, text)
	}
	again, err := json.Marshal(state.Rules)
	if err != nil {
		t.Fatal(err)
	}
	var sent, got any
	if json.Unmarshal([]byte(rules), &sent) != nil || json.Unmarshal(again, &got) != nil || !reflect.DeepEqual(sent, got) {
		t.Errorf("the rules came back as %s", again)
	}
	lost(lab, []int{1, 2})
	if _, state, _ = ask(t, url, http.MethodPut, `{"rules": `+string(again)+`}`); state.Counts["c"].Injected != 2 {
		t.Errorf("rules that stay the same lost their counts: %+v", state.Counts)
	}
	if _, state, _ = ask(t, url+"/c", http.MethodPut, `{"at": "events", "fault": "lose"}`); state.Counts["c"].Injected != 0 || len(state.Rules) != 3 {
		t.Errorf("PUT of one rule did not begin it anew: %+v", state)
	}
	if code, state, _ = ask(t, url+"/a", http.MethodDelete, ""); code != http.StatusOK || len(state.Rules) != 2 {
		t.Errorf("DELETE of one rule answered %d %+v", code, state)
	}

	for name, test := range map[string]struct {
		path, method, body string
		code               int
		says               string
	}{
		"no JSON":                    {"", http.MethodPut, "rules", 400, "cannot be read"},
		"a wrong rule":               {"", http.MethodPut, `{"rules": [{"name": "x", "at": "x", "fault": "x"}]}`, 400, "there is no place"},
		"another seed":               {"", http.MethodPut, `{"seed": 9, "rules": []}`, 400, "it is 7 and cannot change"},
		"too many bytes":             {"", http.MethodPut, `{"rules": [` + strings.Repeat(" ", 2<<20) + `]}`, 400, "larger than"},
		"a name besides the path's":  {"/x", http.MethodPut, `{"name": "y", "at": "events", "fault": "lose"}`, 400, `the path says \"x\"`},
		"one wrong rule":             {"/x", http.MethodPut, `{"at": "events", "fault": "hang"}`, 400, "has no fault"},
		"a rule that is not there":   {"/x", http.MethodDelete, "", 404, `there is no rule \"x\"`},
		"a method that is not there": {"", http.MethodPost, "", 405, ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, text := ask(t, url+test.path, test.method, test.body)
			if code != test.code || !strings.Contains(text, test.says) {
				t.Errorf("answered %d %s, want %d with %q", code, text, test.code, test.says)
			}
		})
	}
	if _, state, _ = ask(t, url, http.MethodGet, ""); len(state.Rules) != 2 {
		t.Errorf("what was refused changed the rules: %+v", state)
	}
	if _, state, _ = ask(t, url, http.MethodDelete, ""); len(state.Rules) != 0 {
		t.Errorf("DELETE left %+v", state)
	}
}
