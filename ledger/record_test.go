package ledger

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/runs"
)

var update = flag.Bool("update", false, "write the golden file anew")

// A reader refuses fields that it does not know, unless the minor version is newer
// than its own. So each field that comes, in runs and pipeline too, needs a new one.
func TestTheFormatIsFrozen(t *testing.T) {
	got := fmt.Sprintf("claim %d.%d\n%s\nrecord %d.%d\n%s\n", Version, ClaimMinor, strings.Join(fields(reflect.TypeFor[Claim](), ""), "\n"),
		Version, RecordMinor, strings.Join(fields(reflect.TypeFor[Record](), ""), "\n"))
	c := claim("landing/ä.csv#1", "5f0c", day0)
	c.Since = day0
	r := record(c, runs.OutcomeSucceeded, day0.Add(time.Hour))
	got += string(must(c.encode())(t)) + string(must(r.encode())(t)) + c.object() + "\n" + r.object() + "\n"
	const golden = "testdata/format.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := string(must(os.ReadFile(golden))(t))
	if got != want {
		t.Errorf("the format has changed. If fields were added, raise ClaimMinor or RecordMinor, then run the test with -update; anything else breaks what is stored.\ngot:\n%s\nwant:\n%s", got, want)
	}
}

func fields(of reflect.Type, prefix string) []string {
	for of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || of == reflect.TypeFor[time.Time]() {
		return []string{prefix + " " + of.String()}
	}
	var names []string
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		names = append(names, fields(of.Field(i).Type, prefix+"."+name)...)
	}
	return names
}

func TestVersions(t *testing.T) {
	c := claim("k", "first", day0)
	c.Since = day0
	good := string(must(c.encode())(t))
	with := func(replaced, by string) string {
		t.Helper()
		if !strings.Contains(good, replaced) {
			t.Fatalf("%q is not in %s", replaced, good)
		}
		return strings.Replace(good, replaced, by, 1)
	}
	for _, test := range []struct {
		name string
		data string
		ok   bool
	}{
		{"as it is written", good, true},
		{"a field of a newer minor version", with(`"minor": 0`, `"minor": 1, "shade": "green"`), true},
		{"an unknown field of this version", with(`"minor": 0`, `"minor": 0, "shade": "green"`), false},
		{"a newer major version", with(`"version": 1`, `"version": 2`), false},
		{"no version", with(`"version": 1,`, ``), false},
		{"a negative minor version", with(`"minor": 0`, `"minor": -1`), false},
		{"something behind it", good + "{}", false},
		{"half of it", good[:len(good)/2], false},
		{"no key", with(`"key": "k"`, `"key": ""`), false},
		{"bytes that are not UTF-8", with(`"key": "k"`, "\"key\": \"k\xff\""), false},
		{"null", "null", false},
		{"nothing", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := decodeClaim([]byte(test.data))
			if (err == nil) != test.ok {
				t.Fatalf("got %+v, %v", got, err)
			}
			if err == nil && got.Key != "k" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// A claim whose run has no final record may be taken over, so a record is written
// however large the run was.
func TestALargeRecordLosesDetailsOnly(t *testing.T) {
	c := claim("k", "first", day0)
	for _, test := range []struct {
		name     string
		attempts int
		each     func(i int, last bool, a *runs.JobResult)
		lost     string
		kept     func(steps []runs.StepResult) bool
	}{
		{"small", 3, func(int, bool, *runs.JobResult) {}, "", func(s []runs.StepResult) bool { return len(s[1].Attempts) == 3 }},
		{"much in attempts that failed", 20, func(_ int, last bool, a *runs.JobResult) {
			a.Parameters = map[string]string{"x": "kept"}
			if !last {
				a.Parameters["x"] = strings.Repeat("p", 100_000)
			}
		}, "of all but each step's last attempt", func(s []runs.StepResult) bool {
			return len(s[1].Attempts) == 20 && s[1].Attempts[19].Parameters["x"] == "kept"
		}},
		{"much in the last attempt", 2, func(_ int, _ bool, a *runs.JobResult) {
			a.Parameters = map[string]string{"x": strings.Repeat("ä", 1_000_000)}
		}, "parameters and metrics, and messages", func(s []runs.StepResult) bool { return len(s[1].Attempts) == 2 && s[1].Attempts[1].Parameters == nil }},
		{"attempts without end", 9999, func(_ int, _ bool, a *runs.JobResult) { a.Error = strings.Repeat("e", 5000) },
			"all but each step's last attempt", func(s []runs.StepResult) bool {
				return len(s[1].Attempts) == 1 && s[1].Attempts[0].Attempt == 9999
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := record(c, runs.OutcomeFailed, day0)
			steps := []runs.StepResult{{Name: "one"}, {Name: "two", Error: strings.Repeat("x", 500)}}
			for i := range test.attempts {
				a := runs.JobResult{Version: 1, Attempt: i + 1, JobName: "prod-orders-two-x", JobID: "id", State: "JOB_STATE_FAILED"}
				test.each(i, i == test.attempts-1, &a)
				steps[1].Attempts = append(steps[1].Attempts, a)
			}
			r.Steps = steps
			l := open(t, t.TempDir())
			finish(t, l, r)
			got := must(l.Record(t.Context(), "prod", "orders", "k", "first"))(t)
			if !strings.Contains(got.Trimmed, test.lost) || (test.lost == "") != (got.Trimmed == "") || !test.kept(got.Steps) || got.Steps[1].Attempts[len(got.Steps[1].Attempts)-1].JobID != "id" {
				t.Errorf("it lost %q; the step's %d attempts end with %+v", got.Trimmed, len(got.Steps[1].Attempts), got.Steps[1].Attempts[len(got.Steps[1].Attempts)-1])
			}
			if len(steps[1].Attempts) != test.attempts {
				t.Error("the caller's steps were changed")
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	c := claim("k", "first", day0)
	c.Since, c.Expires, c.Retries = day0, day0.Add(time.Hour), "zeroth"
	r := record(c, runs.OutcomeFailed, day0)
	for _, v := range []any{c, r} {
		data, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add([]byte(strings.Replace(string(data), `"version":0,"minor":0`, `"version":1,"minor":9,"more":{}`, 1)))
		f.Add([]byte(strings.Replace(string(data), `"version":0`, `"version":1`, 1)))
	}
	f.Add([]byte(`{"version":1,"at":"9999-12-31T23:59:59-23:59"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		// What can be read can be written, and reads as the same.
		if c, err := decodeClaim(data); err == nil {
			again := must(decodeClaim(must(c.encode())(t)))(t)
			if !c.At.Equal(again.At) || again.Key != c.Key || again.Chain != c.Chain || again.object() != c.object() {
				t.Errorf("%+v reads as %+v", c, again)
			}
		}
		if r, err := decodeRecord(data); err == nil {
			again := must(decodeRecord(must(r.encode())(t)))(t)
			if again.Key != r.Key || again.Outcome != r.Outcome || len(again.Steps) != len(r.Steps) {
				t.Errorf("%+v reads as %+v", r, again)
			}
			if !slices.EqualFunc(r.Steps, again.Steps, func(a, b runs.StepResult) bool { return a.Name == b.Name }) {
				t.Errorf("%+v reads as %+v", r.Steps, again.Steps)
			}
		}
	})
}
