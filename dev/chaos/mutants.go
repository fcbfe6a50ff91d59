package chaos

import "slices"

// Mutants are all there are. Each says of one mechanism what happens without it.
func Mutants() []Mutant {
	return slices.Concat(lifecycleMutants, dataflowMutants, furtherMutants)
}

// lifecycleMutants take out what keeps runs and events single and jobs in good hands.
var lifecycleMutants = []Mutant{
	{
		Name:    "attempt-ends-with-its-workflow",
		Removes: "the rule that an attempt ends only with its job", Program: "worker", File: "worker/run.go",
		Old: `			if err == nil && !res.HandedOver {
				return res
			}
`,
		New: `			if err != nil {
				return runs.JobResult{Version: runs.RecordVersion, Outcome: runs.OutcomeFailed, Attempt: attempt, JobName: in.JobName, JobID: "unknown", Error: err.Error()}
			}
			if !res.HandedOver {
				return res
			}
`,
		Scenario: "child-terminated", Size: Short, Invariant: "I1", Says: "two jobs at once", Stops: true,
	},
	{
		Name:    "orphans-at-first-sight",
		Removes: "the second look at orphans", Program: "worker", File: "worker/sweep.go",
		Old:      `x.Since.Add(s.state.Settings.Timing.OrphanRecheck); now.Before(at)`,
		New:      `x.Since; now.Before(at)`,
		Scenario: "handed-over-under-sweep", Size: Short, Invariant: "own", Says: "was to be left alone", // a healthy job is cancelled; what its run then tells of depends on the moment
	},
	{
		Name:    "closed-runs-start-again",
		Removes: "the policy that rejects duplicates of closed runs", Program: "functions", File: "functions/start.go",
		Old:      `options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE`,
		New:      `options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE`,
		Scenario: "retention", Size: Short, Invariant: "I1", Says: "was started 3 times",
	},
	{
		Name:    "keys-unclaimed",
		Removes: "the claim of the key in the ledger", Program: "worker", File: "worker/ledger.go",
		Old: `	if r.in.Dedupe == nil {
		return
	}
`,
		New: `	if r.in.Dedupe == nil || keepsLedger {
		return
	}
`,
		Scenario: "retention", Size: Short, Invariant: "I1", Says: "launched",
	},
	{
		Name:    "any-contents-adopted",
		Removes: "the comparison of a job's contents with the attempt's", Program: "worker", File: "worker/activities.go",
		Old:      `	case spec != "" && job.Labels[runs.LabelSpec] != spec:`,
		New:      `	case false:`,
		Scenario: "changed-spec", Size: Short, Invariant: "I3", Says: "is succeeded, want failed",
	},
	{
		Name:    "dead-letters-dropped",
		Removes: "the dead letter of an event that nothing can be done with", Program: "functions", File: "functions/deadletter.go",
		Old:      `		if err := r.publish(ctx, d.letter); err != nil {`,
		New:      `		if err := ctx.Err(); err != nil {`,
		Scenario: "redrive-twice", Size: Short, Invariant: "I2", Says: "went to the dead-letter topic, which does not have it",
	},
}

// furtherMutants show of the other scenarios that they can fail.
var furtherMutants = []Mutant{
	{
		Name: "closed-runs-unheeded", OnRequest: true,
		Removes: "the look of a job's workflow at its run", Program: "worker", File: "worker/job.go",
		Old:      `		j.setStop(runs.StopRunClosed)`,
		New:      `		_ = runs.StopRunClosed`,
		Scenario: "run-terminated", Size: Short, Invariant: "left", Says: "is still JOB_STATE_RUNNING",
	},
	{
		Name: "no-hand-over", OnRequest: true,
		Removes: "the take-over of a job's workflow after a reset", Program: "worker", File: "worker/run.go",
		Old:      `			r.takeOver(ctx, id, since)`,
		New:      `			_ = r.takeOver`,
		Scenario: "run-reset-before-child-end", Size: Short, Invariant: "left", Says: "is still open", Stops: true,
	},
	{
		Name: "job-names-used-once", OnRequest: true,
		Removes: "the reuse of a job's workflow ID after its end", Program: "worker", File: "worker/run.go",
		Old:      `WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE`,
		New:      `WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE`,
		Scenario: "run-reset-after-child-end", Size: Short, Invariant: "left", Says: "is still open",
	},
	{
		Name: "cancelled-launches-abandoned", OnRequest: true,
		Removes: "the look for the job of an unanswered launch after a cancel", Program: "worker", File: "worker/launch.go",
		Old:      `(doubt.IsZero() || !lookedAt.Before(doubt))`,
		New:      `(doubt.IsZero() || !doubt.IsZero() || lookedAt.IsZero())`,
		Scenario: "cancel-during-launch", Size: Short, Invariant: "left", Says: "is still JOB_STATE_RUNNING",
	},
	{
		Name: "failures-alone", OnRequest: true,
		Removes: "the stop of the other steps when one fails", Program: "worker", File: "worker/run.go",
		Old:      `	r.stopAll(runs.StopFailing)`,
		New:      `	_ = runs.StopFailing`,
		Scenario: "one-of-three-fails", Size: Short, Invariant: "left", Says: "is still",
	},
	{
		Name: "one-name-for-all-deployments", OnRequest: true,
		Removes: "the deployment in a run's ID", Program: "functions", File: "runs/names.go",
		Old:      `prefix := deployment + "/"`,
		New:      `prefix := "chaos" + "/"`,
		Scenario: "two-deployments", Size: Short, Invariant: "I2", Says: "did not lead to a run", Stops: true,
	},
	{
		Name: "refusals-are-failures", OnRequest: true,
		Removes: "the exemption of refusals for want of quota", Program: "worker", File: "worker/run.go",
		Old:      `		if res.Quota {`,
		New:      `		if false {`,
		Scenario: "quota", Size: Short, Invariant: "I3", Says: "want succeeded",
	},
	{
		Name: "jobs-in-one-history", OnRequest: true,
		Removes: "the new history of a job's workflow whose history is full", Program: "worker", File: "worker/job.go",
		Old:      `	if !workflow.GetInfo(j.ctx).GetContinueAsNewSuggested() {`,
		New:      `	if workflow.GetInfo(j.ctx) != nil {`,
		Scenario: "status-flood", Size: Default, Invariant: "own", Says: "goes on in a new history",
	},
	{
		Name: "troubled-sweeps-in-one-history", OnRequest: true,
		Removes: "the new history of a sweep that meets trouble", Program: "worker", File: "worker/sweep.go",
		Old: `			s.leaving = true
			return false
`,
		New:      ``,
		Scenario: "status-flood", Size: Default, Invariant: "own", Says: "goes on in a new history",
	},
	{
		Name: "redriven-undelivered", OnRequest: true,
		Removes: "the delivery of a dead letter before it is taken away", Program: "penstock", File: "service/deadletter.go",
		Old:      `	answer, answered, err := functions.deliver(ctx, l, identity)`,
		New:      `	answer, answered, err := delivered{status: 200, decisions: []RedriveDecision{{Pipeline: l.Pipeline, Decision: "started"}}}, true, error(nil)`,
		Scenario: "redrive-twice", Size: Short, Invariant: "own", Says: "that were redriven",
	},
	{
		Name: "missed-left-missed", OnRequest: true,
		Removes: "the start of what is missed", Program: "penstock", File: "service/reconcile.go",
		Old:      `o.Verdict == FindingMissed && r.q.StartMissing`,
		New:      `o.Verdict == FindingMissed && false`,
		Scenario: "reconcile-twice", Size: Short, Invariant: "own", Says: "the first of 4 objects finds", Stops: true,
	},
}
