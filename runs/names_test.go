package runs_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/runs"
)

var update = flag.Bool("update", false, "rewrite the golden file; names are frozen, so this is right only for added rows")

var (
	jobNameRE   = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)
	printableRE = regexp.MustCompile(`^[ -~]*[!-~]$`)
)

// Names decide what is a duplicate: were one to change, every event in flight
// during the upgrade would start a second job.
func TestNamesAreFrozen(t *testing.T) {
	long := strings.Repeat("very-long-pipeline-name-", 2)[:40]
	rows := []struct{ Deployment, Pipeline, Key, Step string }{
		{"dev", "weather", "finalized:weather-landing/daily/seattle-2012.csv#1700000000000001", "clean"},
		{"prod", "orders", "finalized:acme-landing/orders/eu/2026-11-22/a b.csv#7", "load"},
		{"prod", "orders", "eu", "load"},
		{"prod", "orders", "ключ", "load"},
		{"prod", "orders", "~eu", "load"},
		{"prod", "orders", "eu ", "load"},
		{"prod", "orders", "a\x00b", "load"},
		{"prod", "orders", "../../etc/passwd", "load"},
		{"prod", "orders", "${event.uri} {{x}} \"quoted\", %2F", "load"},
		{"prod", "orders", strings.Repeat("k", 1024), "load"},
		{"abcdefghijkl", long, "x", long},
		{"ab", "p", "x", long},
		{"ab", long, "x", "s"},
		{"ab", "p", "", "s"},
	}
	type named struct {
		Deployment, Pipeline, Key, Step, RunID, Attempt1, Attempt12, RunLabel string
	}
	got := make([]named, 0, len(rows))
	for _, r := range rows {
		id := runs.RunID(r.Deployment, r.Pipeline, r.Key)
		got = append(got, named{r.Deployment, r.Pipeline, r.Key, r.Step, id,
			runs.JobName(r.Deployment, r.Pipeline, r.Key, r.Step, 1),
			runs.JobName(r.Deployment, r.Pipeline, r.Key, r.Step, 12),
			runs.RunLabel(id)})
	}
	b, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	golden := filepath.Join("testdata", "names.golden.json")
	if *update {
		if err := os.WriteFile(golden, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != string(want) {
		t.Errorf("names changed; they are frozen.\ngot:\n%s\nwant:\n%s", b, want)
	}
}

// So do the sweep's: with another name there would be two of them in a place.
func TestSweepNamesAreFrozen(t *testing.T) {
	for _, tt := range [][5]string{
		{"dev", "penstock-dev", "us-central1", "dev/sweep/penstock-dev/us-central1", "dev/sweep/penstock-dev/us-central1/daily"},
		{"prod", "example.com:acme", "europe-west4", "prod/sweep/example.com:acme/europe-west4", "prod/sweep/example.com:acme/europe-west4/daily"},
	} {
		if sweep, daily := runs.SweepWorkflowID(tt[0], tt[1], tt[2]), runs.DailySweepID(tt[0], tt[1], tt[2]); sweep != tt[3] || daily != tt[4] {
			t.Errorf("%s and %s, want %s and %s", sweep, daily, tt[3], tt[4])
		}
		if _, _, _, _, ok := runs.ParseRunID(tt[3]); ok {
			t.Errorf("%s passes for a run's ID", tt[3])
		}
	}
}

func deployments() *rapid.Generator[string] { return rapid.StringMatching(`[a-z][a-z0-9]{1,11}`) }
func names() *rapid.Generator[string] {
	return rapid.StringMatching(`[a-z]([-a-z0-9]{0,38}[a-z0-9])?`)
}
func keys() *rapid.Generator[string] {
	return rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{0,300}`), rapid.StringMatching(`~[a-z~]{0,60}`))
}

// Whatever a bucket or a publisher calls things, the names are ones that Temporal
// and Dataflow accept.
func TestNamesAreValidForHostileKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, p, s := deployments().Draw(t, "deployment"), names().Draw(t, "pipeline"), names().Draw(t, "step")
		key, attempt := keys().Draw(t, "key"), rapid.IntRange(1, runs.MaxAttempt).Draw(t, "attempt")
		if id := runs.RunID(d, p, key); !printableRE.MatchString(id) || len(id) > 255 {
			t.Fatalf("run ID %q (%d bytes)", id, len(id))
		}
		if name := runs.JobName(d, p, key, s, attempt); !jobNameRE.MatchString(name) || len(name) > 63 || !runs.OurJobName(d, name) {
			t.Fatalf("job name %q (%d characters)", name, len(name))
		}
	})
}

func TestNoTwoKeysShareNames(t *testing.T) {
	type of struct{ Deployment, Pipeline, Key, Step string }
	rapid.Check(t, func(t *rapid.T) {
		draw := func(n string) of {
			return of{deployments().Draw(t, n+".deployment"), names().Draw(t, n+".pipeline"), keys().Draw(t, n+".key"), names().Draw(t, n+".step")}
		}
		a := draw("a")
		b := draw("b")
		// Often differ in one part only: there a collision would be likeliest.
		switch rapid.IntRange(0, 4).Draw(t, "alike") {
		case 0:
			b.Deployment, b.Pipeline, b.Step = a.Deployment, a.Pipeline, a.Step
		case 1:
			b.Deployment, b.Key, b.Step = a.Deployment, a.Key, a.Step
		case 2:
			b.Deployment, b.Pipeline, b.Key = a.Deployment, a.Pipeline, a.Key
		case 3:
			// The key of one is the run ID of the other: hashed forms must not be forgeable.
			b = a
			b.Key = strings.TrimPrefix(runs.RunID(a.Deployment, a.Pipeline, a.Key), a.Deployment+"/"+a.Pipeline+"/")
		}
		if a == b {
			return
		}
		sameRun := a.Deployment == b.Deployment && a.Pipeline == b.Pipeline && a.Key == b.Key
		if !sameRun && runs.RunID(a.Deployment, a.Pipeline, a.Key) == runs.RunID(b.Deployment, b.Pipeline, b.Key) {
			t.Fatalf("%+v and %+v share a run ID", a, b)
		}
		if runs.JobName(a.Deployment, a.Pipeline, a.Key, a.Step, 1) == runs.JobName(b.Deployment, b.Pipeline, b.Key, b.Step, 1) {
			t.Fatalf("%+v and %+v share a job name", a, b)
		}
	})
}

func TestParseRunIDGivesBackWhatWentIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, key := deployments().Draw(t, "deployment"), keys().Draw(t, "key")
		p := names().Filter(func(s string) bool { return s != runs.SweepName }).Draw(t, "pipeline")
		gd, gp, gk, exact, ok := runs.ParseRunID(runs.RunID(d, p, key))
		if !ok || gd != d || gp != p || (exact && gk != key) {
			t.Fatalf("parsed %q %q %q exact=%v ok=%v", gd, gp, gk, exact, ok)
		}
	})
	for _, id := range []string{"", "dev", "dev/weather", "dev/weather/", "Dev/weather/x", "dev/sweep/project/us-central1"} {
		if _, _, _, _, ok := runs.ParseRunID(id); ok {
			t.Errorf("ParseRunID(%q) accepted what is no run's ID", id)
		}
	}
}

func TestDeploymentIDs(t *testing.T) {
	for id, valid := range map[string]bool{"dev": true, "p1": true, "abcdefghijkl": true, "": false, "a": false, "1a": false, "Prod": false, "my-dep": false, "abcdefghijklm": false, "a/b": false} {
		if err := runs.CheckDeployment(id); (err == nil) != valid {
			t.Errorf("CheckDeployment(%q) = %v, want valid %v", id, err, valid)
		}
	}
}
