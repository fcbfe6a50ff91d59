package cost

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// billed are the events of a history that Temporal Cloud bills: https://docs.temporal.io/cloud/actions.
var billed = regexp.MustCompile(`^EVENT_TYPE_(WORKFLOW_EXECUTION_STARTED|ACTIVITY_TASK_SCHEDULED|TIMER_STARTED|WORKFLOW_EXECUTION_SIGNALED|UPSERT_WORKFLOW_SEARCH_ATTRIBUTES|START_CHILD_WORKFLOW_EXECUTION_INITIATED|MARKER_RECORDED)$`)

func TestActions(t *testing.T) {
	for _, tc := range []struct {
		histories string
		ledger    bool
	}{{"v1", false}, {"v3", true}} {
		var n float64
		for _, name := range []string{"succeeded.run.json", "succeeded.only-1.json"} {
			data, err := os.ReadFile(filepath.Join("../../worker/testdata/histories", tc.histories, name))
			if err != nil {
				t.Fatal(err)
			}
			var h struct {
				Events []struct{ EventType string }
			}
			if err := json.Unmarshal(data, &h); err != nil {
				t.Fatal(err)
			}
			for _, e := range h.Events {
				if billed.MatchString(e.EventType) {
					n++
				}
			}
		}
		if got := (Load{Events: 1, Share: 1, Jobs: 1, Ledger: tc.ledger}).Actions(); got != n {
			t.Errorf("a run of one job, ledger %t: %g actions, but its saved history in %s has %g", tc.ledger, got, tc.histories, n)
		}
	}
}

func TestEstimate(t *testing.T) {
	p := ListPrices()
	for _, tc := range []struct {
		name string
		got  float64
		want float64 // worked out by hand
	}{
		{"Temporal's own example, 11.25M actions past what is included", p.Temporal.Plans[1].actions(11.25e6), 525},
		{"two fixed instances of 1 vCPU and 1 GiB, whatever comes", p.Estimate(DefaultLoad(0)).Fixed, 2 * 2628000 * 0.000012479},
		{"functions: 4 requests of 0.1 s for an event with a job", p.Estimate(DefaultLoad(1e6)).Functions, 4e6*0.1*(0.000024+0.5*0.0000025) + 4*0.40},
		{"Pub/Sub: in and out, 1500 bytes", p.Estimate(DefaultLoad(1e6)).PubSub, 4e6 * 2 * 1500 / math.Pow(2, 40) * 40},
		{"a message is billed as 1000 bytes at least", p.Estimate(Load{Events: 1e6, EventBytes: 10}).PubSub, 1e6 * 2 * 1000 / math.Pow(2, 40) * 40},
		{"a final record is a write", p.Estimate(DefaultLoad(1e6)).Storage, 5},
		{"three calls of Dataflow a job, and the daily look", p.Estimate(DefaultLoad(1e6)).Calls, 3e6 + 30},
		{"a serverless worker with one look a day", p.Estimate(Load{Locations: 1, WorkerVCPU: 1, WorkerGiB: 1, AwakeSeconds: 150, RunsASecond: 5}).Serverless, 30 * 150 * 0.000012479},
	} {
		if math.Abs(tc.got-tc.want) > 0.001*math.Abs(tc.want) {
			t.Errorf("%s: %g, want %g", tc.name, tc.got, tc.want)
		}
	}
	// A serverless worker that is never at rest costs what one fixed instance does.
	busy := p.Estimate(DefaultLoad(1e6))
	if one := busy.Fixed / 2; math.Abs(busy.Serverless-one) > 0.01*one {
		t.Errorf("a serverless worker with work at all times: %g, one fixed instance %g", busy.Serverless, one)
	}
}

func TestPricesSayWhereTheyAreFrom(t *testing.T) {
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(listed, &parts); err != nil {
		t.Fatal(err)
	}
	for name, part := range parts {
		if part[0] == '{' && !strings.Contains(string(part), `"source": "https://`) {
			t.Errorf("prices of %s have no source", name)
		}
	}
	if !regexp.MustCompile(`^20\d\d-\d\d$`).MatchString(ListPrices().Read) {
		t.Errorf("the prices were read %q", ListPrices().Read)
	}
}

// TestTheDocumentedTable holds docs/deploy.md to what scripts/cost prints.
func TestTheDocumentedTable(t *testing.T) {
	docs, err := os.ReadFile("../../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	p := ListPrices()
	for _, share := range []float64{1, 0.01} {
		var estimates []Estimate
		for _, n := range []float64{1e3, 1e5, 1e7} {
			l := DefaultLoad(n)
			l.Share = share
			estimates = append(estimates, p.Estimate(l))
		}
		var table strings.Builder
		if err := p.Write(&table, estimates); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(docs), table.String()) {
			t.Errorf("docs/deploy.md does not have this table, of a share of %g (scripts/cost -share %g):\n%s", share, share, table.String())
		}
	}
}
