package e2e_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/penstock/penstock/runs"
)

// archived is what describe says of a run, beside what it says of every one.
type archived struct {
	description
	Source string   `json:"source"`
	Notes  []string `json:"notes"`
	Taken  *struct {
		RunID  string `json:"runId"`
		Chain  string `json:"chain"`
		Reason string `json:"reason"`
	} `json:"taken"`
	First *archived `json:"first"`
}

// forget deletes closed workflows, as Temporal does when retention has passed.
func (b *bench) forget(t *testing.T, workflowIDs ...string) {
	t.Helper()
	for _, id := range workflowIDs {
		if _, err := b.Client.WorkflowService().DeleteWorkflowExecution(t.Context(), &workflowservice.DeleteWorkflowExecutionRequest{
			Namespace: b.Addresses.Namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: id},
		}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "Temporal forgets "+id, func() bool {
			_, err := b.Client.DescribeWorkflowExecution(t.Context(), id, "")
			var gone *serviceerror.NotFound
			return errors.As(err, &gone)
		})
	}
}

// An event that comes again after Temporal has forgotten its run does not run again,
// and what became of it can still be told.
func TestAKeyStaysSingleAfterTemporalHasForgottenItsRun(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)                                                                              // its functions are restarted: they, too, must have forgotten
	for _, c := range []struct{ pipeline, history string }{{"kept", "claimed"}, {"one", "recorded"}} { // one is without dedupe
		r := b.land(t, c.pipeline)
		r.job(t, "only", 1).done()
		if res := r.result(t); res.Outcome != runs.OutcomeSucceeded || res.Note != "" {
			t.Fatalf("%s: %s %q", c.pipeline, res.Outcome, res.Note)
		}
		keep(t, r, c.history)
		var before, after archived
		decodeJSON(t, b.penstock(t, 0, "describe", r.id, "-o", "json"), &before)
		b.forget(t, r.id, r.jobWorkflow("only", 1))

		// The last record of a key answers, with the run's claim or without.
		decodeJSON(t, b.penstock(t, 0, "describe", r.id, "-o", "json"), &after)
		if after.Source != "ledger" || after.Outcome != "succeeded" || after.RunID != r.id || after.Key != r.key || !after.Ended.After(after.Begun) ||
			len(after.Steps) != 1 || len(after.Steps[0].Attempts) != 1 || after.Steps[0].Attempts[0].JobID != before.Steps[0].Attempts[0].JobID {
			t.Errorf("%s: described from the ledger as %+v", c.pipeline, after)
		}
		if text := b.penstock(t, 0, "describe", c.pipeline+"/"+r.key); !strings.Contains(text, "Temporal has forgotten it") {
			t.Errorf("%s: shown as\n%s", c.pipeline, text)
		}
		if c.pipeline != "kept" {
			continue
		}

		if err := b.KillFunctions(); err != nil {
			t.Fatal(err)
		}
		if err := b.StartFunctions(t.Context()); err != nil {
			t.Fatal(err)
		}
		if status, a := b.again(t, landing, r.key); status != 200 || !slices.ContainsFunc(a.Decisions, func(d decision) bool { return d.Pipeline == "kept" && d.Outcome == "started" }) {
			t.Fatalf("delivered again: %d %+v", status, a)
		}
		res := r.result(t)
		if res.Outcome != runs.OutcomeDuplicate || res.Taken == nil || res.Taken.RunID != r.id || res.Taken.Chain == "" || !strings.Contains(res.Taken.Reason, "ended as succeeded") {
			t.Errorf("the second run: %+v, taken by %+v", res, res.Taken)
		}
		keep(t, r, "duplicate")
		r.wantJobs(t, map[string]int{"only": 1})

		var second archived
		decodeJSON(t, b.penstock(t, 0, "describe", r.id, "-o", "json"), &second)
		if second.Outcome != "duplicate" || second.Taken == nil || second.Taken.Chain != res.Taken.Chain || second.First == nil || second.First.Outcome != "succeeded" || second.First.Source != "ledger" {
			t.Errorf("the second run is described as %+v", second)
		}
		// A list tells it from a run that succeeded.
		eventually(t, "the duplicate is listed as one", func() bool {
			var duplicates, succeeded listing
			decodeJSON(t, b.penstock(t, 0, "runs", "--pipeline", "kept", "--outcome", "duplicate", "-o", "json"), &duplicates)
			decodeJSON(t, b.penstock(t, 0, "runs", "--pipeline", "kept", "--outcome", "succeeded", "-o", "json"), &succeeded)
			return len(duplicates.Runs) == 1 && duplicates.Runs[0].Outcome == "duplicate" && len(succeeded.Runs) == 0
		})
		// Nor does it run for the duplicate's sake: there is nothing to mend.
		if code, _, stderr := cli(t, b.environment(), "retry", r.id, "--same-config"); code != 1 || !strings.Contains(stderr, "ended as succeeded") {
			t.Errorf("retry of a duplicate ends with %d: %s", code, stderr)
		}
	}
}
