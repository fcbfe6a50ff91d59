package chaos

import "slices"

// Mutants are all there are. Each says of one mechanism what happens without it.
func Mutants() []Mutant {
	return slices.Concat(lifecycleMutants, dataflowMutants)
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
		Scenario: "child-terminated", Size: Short, Invariant: "I1",
	},
	{
		Name:    "orphans-at-first-sight",
		Removes: "the second look at orphans", Program: "worker", File: "worker/sweep.go",
		Old:      `x.Since.Add(s.state.Settings.Timing.OrphanRecheck); now.Before(at)`,
		New:      `x.Since; now.Before(at)`,
		Scenario: "handed-over-under-sweep", Size: Short, Invariant: "I3",
	},
	{
		Name:    "closed-runs-start-again",
		Removes: "the policy that rejects duplicates of closed runs", Program: "functions", File: "functions/start.go",
		Old:      `options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE`,
		New:      `options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE`,
		Scenario: "retention", Size: Short, Invariant: "I1",
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
		Scenario: "retention", Size: Short, Invariant: "I1",
	},
	{
		Name:    "any-contents-adopted",
		Removes: "the comparison of a job's contents with the attempt's", Program: "worker", File: "worker/activities.go",
		Old:      `	case spec != "" && job.Labels[runs.LabelSpec] != spec:`,
		New:      `	case false:`,
		Scenario: "changed-spec", Size: Short, Invariant: "I3",
	},
	{
		Name:    "dead-letters-dropped",
		Removes: "the dead letter of an event that nothing can be done with", Program: "functions", File: "functions/deadletter.go",
		Old:      `	if err := r.publish(ctx, m); err != nil {`,
		New:      `	if err := ctx.Err(); err != nil {`,
		Scenario: "redrive-twice", Size: Short, Invariant: "I2",
	},
}
