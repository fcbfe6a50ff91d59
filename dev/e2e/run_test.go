package e2e_test

import (
	"testing"

	"github.com/penstock/penstock/runs"
)

func TestAJobThatGoesWell(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "one")
	r.job(t, "only", 1).done()
	if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("outcome %s, want %s: %+v", res.Outcome, runs.OutcomeSucceeded, res)
	}
	r.wantJobs(t, map[string]int{"only": 1})
}
