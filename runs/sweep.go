package runs

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/sdk/client"
)

// Place is where jobs of a deployment run: what one sweep looks after.
type Place struct {
	Deployment string `json:"deployment"`
	// Project is the project's ID, not its number.
	Project  string `json:"project"`
	Location string `json:"location"`
}

// SweepWorkflowID is the Temporal workflow ID of the sweep of a place:
// "<deployment>/sweep/<project>/<location>". At most one is open at a time.
func SweepWorkflowID(deployment, project, location string) string {
	return deployment + "/" + SweepName + "/" + project + "/" + location
}

// DailySweepID is the ID of the Temporal Schedule that asks for a place's sweep once
// a day. Temporal appends the time to it for the IDs of the schedule's workflows.
func DailySweepID(deployment, project, location string) string {
	return SweepWorkflowID(deployment, project, location) + "/daily"
}

// Temporal workflow types of the sweep, and the signal that asks for one.
const (
	TypeSweep      = "Sweep"
	TypeDailySweep = "DailySweep" // of the Schedule: it asks for a sweep, no more
	// SignalAsk asks a sweep for a look: SweepAsk. Whoever asks starts it, too.
	SignalAsk = "ask"
)

// MemoOrphan is the memo key under which the workflow of an orphan says what the sweep
// knew of it: OrphanMemo.
const MemoOrphan = "orphan"

// OrphanMemo is the memo of a workflow that a sweep started for an orphan.
type OrphanMemo struct {
	Sweep string `json:"sweep"` // the execution's run ID, which tells a repeated start from another's
	RunID string `json:"runId"` // the workflow ID of the run that the job belonged to; empty: not known
}

// SweepInput is the input of the workflows Sweep and DailySweep.
type SweepInput struct {
	Version int `json:"version"`
	Place
	// Resume carries the state over a continue-as-new; nil at the start.
	Resume *SweepState `json:"resume,omitempty"`
}

// SweepAsk is the payload of SignalAsk. One without a job asks for a look at the place.
type SweepAsk struct {
	Version int    `json:"version"`
	JobID   string `json:"jobId,omitempty"`
	JobName string `json:"jobName,omitempty"`
	// RunID is the workflow ID of the run that the job belongs to; empty: not known.
	RunID string `json:"runId,omitempty"`
	// State and StateTime are what is known of the job: what is newer is news.
	State     string    `json:"state,omitempty"`
	StateTime time.Time `json:"stateTime,omitzero"`
	// Watched says that the job's own workflow asks: it is open, and wants the news.
	Watched bool `json:"watched,omitempty"`
}

// KnownJob is a job whose workflow asked for news, and what that knows. Its names are
// short because ten thousand of them may go into one payload.
type KnownJob struct {
	ID    string `json:"i"`
	Name  string `json:"n,omitempty"` // left out where only the ID is of use
	State string `json:"s,omitempty"` // without Dataflow's prefix
	Time  int64  `json:"t,omitempty"` // of the state, in nanoseconds since 1970; zero: not known
}

// SweepState is what a sweep knows while it is open.
type SweepState struct {
	// Settings are the waits and the rule for orphans, as the sweep took them from its worker.
	Settings SweepSettings `json:"settings"`
	// Asked are the jobs whose workflows wait for news; Look: somebody asked for a look besides.
	Asked []KnownJob `json:"asked,omitempty"`
	Look  bool       `json:"look,omitempty"`
	// Suspects wait for their second look.
	Suspects []Suspect   `json:"suspects,omitempty"`
	Result   SweepResult `json:"result"`
	// OverdueDone says that this sweep has looked for overdue runs.
	OverdueDone bool `json:"overdueDone,omitempty"`
}

// SweepSettings decide how a sweep goes on, so its history holds them.
type SweepSettings struct {
	Timing  Timing        `json:"timing"`
	Orphans OrphanRule    `json:"orphans"`
	Overdue time.Duration `json:"overdue,omitempty"` // zero: runs are not looked at
}

// OrphanRule is what becomes of a job that nobody watches any more.
type OrphanRule string

// The rules. Each but the first starts a workflow under the job's own ID, which
// watches the job to its end.
const (
	OrphansReport OrphanRule = "report" // say so, and leave it alone; the default
	OrphansAdopt  OrphanRule = "adopt"  // let it run
	OrphansDrain  OrphanRule = "drain"  // end it: a running streaming job by a drain, another by a cancel
	OrphansCancel OrphanRule = "cancel" // end it by a cancel
)

// Validate returns an error for a rule that there is not. The empty one is OrphansReport.
func (r OrphanRule) Validate() error {
	switch r {
	case "", OrphansReport, OrphansAdopt, OrphansDrain, OrphansCancel:
		return nil
	}
	return fmt.Errorf("the rule for orphans is %q; it must be %s, %s, %s or %s", string(r), OrphansReport, OrphansAdopt, OrphansDrain, OrphansCancel)
}

// Orphan is an active job of ours whose workflow, and whose run, are closed or unknown.
type Orphan struct {
	JobID     string    `json:"jobId"`
	JobName   string    `json:"jobName"`
	State     string    `json:"state"`
	StateTime time.Time `json:"stateTime,omitzero"`
	Type      string    `json:"type,omitempty"`
	Created   time.Time `json:"created,omitzero"`
	Pipeline  string    `json:"pipeline,omitempty"`
	// Workflow and Run say what Temporal told: "closed", or "unknown".
	Workflow string `json:"workflow"`
	Run      string `json:"run"`
	// RunID is the run's workflow ID; empty: nobody knows it any more.
	RunID string `json:"runId,omitempty"`
	// Done is what was done about it: an OrphanRule, or "none" with the reason in Note.
	Done string `json:"done,omitempty"`
	Note string `json:"note,omitempty"`
}

// Suspect is an orphan that was seen once.
type Suspect struct {
	Orphan
	Since time.Time `json:"since"`
	// Troubled is since when its second look, or what follows from it, meets trouble; zero:
	// it was not tried, or met none.
	Troubled time.Time `json:"troubled,omitzero"`
}

// OverdueRun is a run that is open for longer than runs are meant to be.
type OverdueRun struct {
	RunID string    `json:"runId"` // the workflow ID
	Begun time.Time `json:"begun"`
}

// SweepResult is the result of a sweep, and while it is open the answer to the query
// "state". Its lists are bounded; the counts are not.
type SweepResult struct {
	Version   int `json:"version"`
	Lists     int `json:"lists"`     // of active jobs that were read
	Seen      int `json:"seen"`      // jobs in the last one
	Ours      int `json:"ours"`      // and those of them whose names are ours
	Asked     int `json:"asked"`     // jobs whose workflows asked for news
	Looked    int `json:"looked"`    // of them, those that were looked at one by one
	Signalled int `json:"signalled"` // and those that had news
	// Suspects are orphans at first sight, Cleared those that were none at the second.
	Suspects int `json:"suspects"`
	Cleared  int `json:"cleared"`
	// Waiting are the suspects that wait for their second look now.
	Waiting     int          `json:"waiting,omitempty"`
	OrphanCount int          `json:"orphanCount"`
	Orphans     []Orphan     `json:"orphans,omitempty"`
	Overdue     []OverdueRun `json:"overdue,omitempty"`
	OverdueMore bool         `json:"overdueMore,omitempty"` // there are more than Overdue holds
	// Unseen counts jobs that this sweep left to the next, for their number or because they
	// could not be looked at (Error says why).
	Unseen int `json:"unseen,omitempty"`
	// Error is the last trouble that made the sweep leave something to the next one.
	Error string `json:"error,omitempty"`
}

// Asker is the part of a Temporal client that AskForSweep uses.
type Asker interface {
	SignalWithStartWorkflow(ctx context.Context, workflowID, signalName string, signalArg any, options client.StartWorkflowOptions, workflow any, workflowArgs ...any) (client.WorkflowRun, error)
}

// AskForSweep asks for a place's sweep: the open one, or one that it starts. Any
// number of asks end in one list of jobs.
func AskForSweep(ctx context.Context, c Asker, at Place, ask SweepAsk) error {
	ask.Version = RecordVersion
	id := SweepWorkflowID(at.Deployment, at.Project, at.Location)
	_, err := c.SignalWithStartWorkflow(ctx, id, SignalAsk, ask, client.StartWorkflowOptions{
		ID: id, TaskQueue: TaskQueue(at.Deployment), StaticSummary: "jobs in " + at.Project + "/" + at.Location,
	}, TypeSweep, SweepInput{Version: RecordVersion, Place: at})
	if err != nil {
		return fmt.Errorf("ask for the sweep %s: %w", id, err)
	}
	return nil
}
