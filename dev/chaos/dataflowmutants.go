package chaos

// dataflowMutants take out what keeps Penstock's picture of Dataflow's jobs true.
var dataflowMutants = []Mutant{
	{
		Name:    "launch-without-look-up",
		Removes: "the look for a job of the name before each launch", Program: "worker", File: "worker/activities.go",
		Old:      `	reply := a.find(ctx, in, label, spec, req.Hints)`,
		New:      `	reply := launchReply{Kind: replyNone}`,
		Scenario: "launch-answer-lost-job-ends", Size: Short, Invariant: "I1", Says: "after",
	},
	{
		Name:    "no-horizon",
		Removes: "the wait until a launch that was not answered must be in the list", Program: "worker", File: "worker/launch.go",
		Old:      `j.launch(over || now.Before(doubt), `,
		New:      `j.launch(over, `,
		Scenario: "launch-answer-lost-job-ends", Size: Short, Invariant: "I1", Says: "after",
	},
	{
		Name:    "any-job-under-the-name",
		Removes: "the match of a status event's job ID with the job's", Program: "worker", File: "worker/news.go",
		Old: `	if s.JobID != j.state.JobID {
		return
	}
`,
		New: `	s.JobID = j.state.JobID
`,
		Scenario: "false-status", Size: Short, Invariant: "I3", Says: "want succeeded",
	},
	{
		Name:    "news-in-any-order",
		Removes: "the order of a job's states", Program: "worker", File: "dataflow/state.go",
		Old: `	case known.JobID != seen.JobID, known.State.Terminal():
		return false
`,
		New: `	case known.JobID != seen.JobID:
		return false
	case known.State != "":
		return true
`,
		Scenario: "false-status", Size: Short, Invariant: "left", Says: "is still open",
	},
	{
		Name:    "retry-at-will",
		Removes: "the handling of Retry-After", Program: "worker", File: "dataflow/client.go",
		Old:      `		e.Violations, e.RetryAfter = a.violations, a.retryAfter`,
		New:      `		e.Violations = a.violations`,
		Scenario: "throttled", Size: Short, Invariant: "own", Says: "Retry-After",
	},
	{
		Name:    "launch-past-the-deadline",
		Removes: "the deadline after which an activity writes nothing", Program: "worker", File: "worker/activities.go",
		Old:      `	return a.tryLaunch(ctx, req), nil`,
		New:      `	return a.tryLaunch(context.WithoutCancel(ctx), req), nil`,
		Scenario: "paused-worker", Size: Short, Invariant: "I1", Says: "after",
	},
}
