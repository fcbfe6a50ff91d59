package service

import (
	"context"
	"slices"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// sweeper is a namespace that takes asks for sweeps.
type sweeper struct {
	workflows
	asks []runs.SweepAsk
}

func (w *sweeper) SignalWithStartWorkflow(_ context.Context, id, name string, ask any, _ client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	if name != runs.SignalAsk || workflow != runs.TypeSweep || args[0].(runs.SweepInput).Project != "acme" {
		panic(name)
	}
	w.asks = append(w.asks, ask.(runs.SweepAsk))
	w.byID = map[string]*workflowpb.WorkflowExecutionInfo{id: {Execution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: "sweep-1"}}}
	return nil, nil
}

func (w *sweeper) GetWorkflow(_ context.Context, id, execution string) client.WorkflowRun {
	return swept{id: id, execution: execution}
}

type swept struct {
	client.WorkflowRun
	id, execution string
}

func (s swept) Get(_ context.Context, into any) error {
	into.(*runs.SweepResult).Error = s.id + "@" + s.execution
	return nil
}

func TestASweepIsAskedForAndAwaited(t *testing.T) {
	w := &sweeper{}
	s := &Service{temporal: w, deployment: "dev", ui: "http://ui", namespace: "default"}
	got, err := s.AskForSweep(t.Context(), "acme", "us-central1")
	if err != nil {
		t.Fatal(err)
	}
	if got.WorkflowID != "dev/sweep/acme/us-central1" || got.Execution != "sweep-1" || got.Result != nil || !strings.Contains(got.Link, "sweep-1") {
		t.Errorf("asked for %+v", got)
	}
	if len(w.asks) != 1 || w.asks[0] != (runs.SweepAsk{Version: runs.RecordVersion}) {
		t.Errorf("asked %+v, want a look at the place", w.asks)
	}
	if err := s.AwaitSweep(t.Context(), &got); err != nil || got.Result == nil || got.Result.Error != "dev/sweep/acme/us-central1@sweep-1" {
		t.Errorf("awaited %+v, %v", got.Result, err)
	}
	for _, place := range [][2]string{{"", "us-central1"}, {"acme", ""}} {
		if _, err := s.AskForSweep(t.Context(), place[0], place[1]); err == nil || len(w.asks) != 1 {
			t.Errorf("a sweep of %q was asked for: %v", place, err)
		}
	}
}

func TestLocationsOfJobs(t *testing.T) {
	p, problems := pipeline.Parse("orders.yaml", []byte(orders+`  - name: far
    dataflow: {template: gs://templates/load.json, location: europe-west4}
  - name: near
    dataflow: {template: gs://templates/load.json, location: us-central1}
`))
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	set := pipeline.NewSet([]*pipeline.Pipeline{p})
	if got := Locations(set, "us-central1"); !slices.Equal(got, []string{"europe-west4", "us-central1"}) {
		t.Errorf("jobs run in %q", got)
	}
	if got := Locations(set, "asia-east1"); !slices.Equal(got, []string{"asia-east1", "europe-west4", "us-central1"}) {
		t.Errorf("jobs run in %q", got)
	}
}
