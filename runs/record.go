package runs

import (
	"time"

	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
)

// RecordVersion is the version of the inputs and results below. A reader refuses
// what is newer than it knows; fields are only ever added within a version.
const RecordVersion = 1

// Temporal workflow types. A streaming type is a type of its own because a
// versioning behaviour belongs to a type: what lives for months must move to new
// workers, what ends within hours may stay on its own.
const (
	TypeRun          = "Run"
	TypeStreamingRun = "StreamingRun"
	TypeJob          = "DataflowJob"
	TypeStreamingJob = "StreamingJob"
)

// Signals and queries.
const (
	// SignalStatus tells a job's workflow what a job-status event said: JobStatus.
	SignalStatus = "status"
	// SignalStop tells a job's workflow to end its job: Stop.
	SignalStop = "stop"
	// SignalHandOver tells a job's workflow to close without touching its job,
	// because a new execution of its run will start it anew under the same ID.
	SignalHandOver = "hand-over"
	// SignalRunning tells a run that a streaming step's job runs, so that the
	// steps which need it may start: Running.
	SignalRunning = "running"
	// QueryState answers with a run's RunResult as it is now, or with a job's JobResult.
	QueryState = "state"
)

// RunInput is the input of the workflows Run and StreamingRun.
type RunInput struct {
	Version    int    `json:"version"`
	Deployment string `json:"deployment"`
	Pipeline   string `json:"pipeline"`
	Purpose    string `json:"purpose,omitempty"`
	Owner      string `json:"owner,omitempty"`
	// Key is what the run is for; Identity is the event that started it.
	Key      string `json:"key"`
	Identity string `json:"identity"`
	// Config is the version of the pipeline that the run keeps to its end.
	Config pipeline.Version `json:"config"`
	// Project and Location are the deployment's: jobs run in the project, and in
	// the location unless their step names another.
	Project  string                 `json:"project"`
	Location string                 `json:"location"`
	Steps    []pipeline.PlannedStep `json:"steps"`
	// Vars holds what of the event the steps' remaining expressions use.
	Vars pipeline.Vars `json:"vars,omitempty"`
	// Event is the event that started the run, where the run keeps it: a retry with
	// a later version of the pipelines file renders that with it.
	Event *events.Event `json:"event,omitempty"`
	// Earlier holds what an earlier execution for the same key left, by step: it
	// is empty for the first. Finished steps are not run again, attempts go on.
	Earlier map[string]StepResult `json:"earlier,omitempty"`
	// Dedupe has the run claim its key in the ledger before its first launch; nil: it does not.
	Dedupe *pipeline.Dedupe `json:"dedupe,omitempty"`
	// Retries is the chain of executions (Temporal's first run ID) that a person's
	// retry runs again, and whose claim of the key this one takes over. Empty for
	// the run of an event.
	Retries string `json:"retries,omitempty"`
}

// Outcome is how a run, a step or an attempt ended, or that it has not.
type Outcome string

// Outcomes. Pending and skipped occur for steps alone.
const (
	OutcomePending   Outcome = "pending"   // waits for the steps it needs
	OutcomeRunning   Outcome = "running"   // not over
	OutcomeSucceeded Outcome = "succeeded" // DONE, or a streaming job's DRAINED
	OutcomeFailed    Outcome = "failed"
	OutcomeTimedOut  Outcome = "timed-out" // its timeout ended it
	OutcomeCancelled Outcome = "cancelled"
	// Another run has or had the key, as the ledger knows: nothing was launched. The
	// one was started by the same event, the other by another.
	OutcomeDuplicate Outcome = "duplicate"
	OutcomeKeyTaken  Outcome = "key-taken"
	OutcomeSkipped   Outcome = "skipped" // never began, because another step failed or the run was cancelled
)

// Over says whether nothing more will happen.
func (o Outcome) Over() bool { return o != OutcomePending && o != OutcomeRunning && o != "" }

// RunResult is the result of a run. A failed or cancelled run carries it in the
// details of its error, a running one answers the query "state" with it.
type RunResult struct {
	Version int              `json:"version"`
	Outcome Outcome          `json:"outcome"`
	Error   string           `json:"error,omitempty"` // the first failure, in words
	Config  pipeline.Version `json:"config"`
	Steps   []StepResult     `json:"steps"` // in the order of the pipelines file
	// Taken names the run that has the key, where this one ended for it.
	Taken *Taken `json:"taken,omitempty"`
	// Note says what a reader should know besides.
	Note string `json:"note,omitempty"`
}

// Taken is the run that has a key which another asked for.
type Taken struct {
	RunID    string `json:"runId"`
	Chain    string `json:"chain"`    // Temporal's first run ID
	Identity string `json:"identity"` // the event's that started it
	// Outcome is how it ended; empty: nobody knows, or it has not.
	Outcome Outcome `json:"outcome,omitempty"`
	// ByAnotherEvent says that it was not started by the event that started this run.
	ByAnotherEvent bool `json:"byAnotherEvent,omitempty"`
	// OfferRetry says that it did not succeed, or may not have.
	OfferRetry bool   `json:"offerRetry,omitempty"`
	Reason     string `json:"reason"` // in words
}

// StepResult is what became of a step.
type StepResult struct {
	Name    string  `json:"name"`
	Outcome Outcome `json:"outcome"`
	// Waiting says in words what an open step waits for.
	Waiting string `json:"waiting,omitempty"`
	Error   string `json:"error,omitempty"`
	// Attempts holds one entry a job, from the first.
	Attempts []JobResult `json:"attempts,omitempty"`
}

// Last is the newest attempt, or false where the step has none.
func (s StepResult) Last() (JobResult, bool) {
	if len(s.Attempts) == 0 {
		return JobResult{}, false
	}
	return s.Attempts[len(s.Attempts)-1], true
}

// JobInput is the input of the workflows DataflowJob and StreamingJob.
type JobInput struct {
	Version    int    `json:"version"`
	Deployment string `json:"deployment"`
	Pipeline   string `json:"pipeline"`
	// RunID is the run's workflow ID: the one to ask whether the run still is.
	RunID    string `json:"runId"`
	Key      string `json:"key"`
	Step     string `json:"step"`
	Attempt  int    `json:"attempt"`
	Project  string `json:"project"`
	Location string `json:"location"`
	JobName  string `json:"jobName"`
	// Job is the step's launch as planned; Vars and Steps feed its remaining expressions.
	Job   pipeline.Job                       `json:"job"`
	Vars  pipeline.Vars                      `json:"vars,omitempty"`
	Steps map[string]pipeline.StepResultVars `json:"steps,omitempty"`
	// First says that nobody can have launched a job under this name before. When
	// false, a refusal is believed only after a second look.
	First bool `json:"first"`
	// Timeout bounds the attempt from its begin to the job's end, for a streaming
	// job to its state RUNNING. Zero: no bound.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Begun is when the run began the attempt, from which Timeout counts.
	Begun time.Time `json:"begun"`
	// Attributes says that the namespace has our search attributes.
	Attributes bool `json:"attributes,omitempty"`
	// Timing holds the waits, as the run took them from its worker.
	Timing Timing `json:"timing,omitzero"`
	// Sweep says that the workflow asks the place's sweep for news. What began before
	// there was one looks for itself.
	Sweep bool `json:"sweep,omitempty"`
	// Resume carries the state over a continue-as-new; nil at the start.
	Resume *JobState `json:"resume,omitempty"`
}

// JobState is what a job's workflow knows of its job.
type JobState struct {
	JobID      string    `json:"jobId,omitempty"`
	State      string    `json:"state,omitempty"`
	StateTime  time.Time `json:"stateTime,omitzero"`
	Type       string    `json:"type,omitempty"`
	ReplacedBy string    `json:"replacedBy,omitempty"`
	Created    time.Time `json:"created,omitzero"` // when Dataflow took it; zero: not known
	Adopted    bool      `json:"adopted,omitempty"`
	// Parameters are the launch's as rendered; SpecHash identifies them.
	Parameters map[string]string `json:"parameters,omitempty"`
	SpecHash   string            `json:"specHash,omitempty"`
	Begun      time.Time         `json:"begun,omitzero"`
	// Announced says that the run was told of the streaming job's running.
	Announced bool `json:"announced,omitempty"`
	// Stop is why the job is being stopped, nil when it is not.
	Stop *Stop `json:"stop,omitempty"`
	// StopLater is why it is to be stopped should the timeout that is in Stop turn out not
	// to have passed; nil: nothing else asked for it.
	StopLater *Stop `json:"stopLater,omitempty"`
	// StopAsked is when Dataflow first accepted the cancel; zero before.
	StopAsked time.Time `json:"stopAsked,omitzero"`
	// DrainAsked is when Dataflow first accepted the drain; zero before.
	DrainAsked time.Time `json:"drainAsked,omitzero"`
	// Missed is since when each look finds that Dataflow does not know the job, whose last
	// news are so old that it may have forgotten it; zero: it is known, or they are not.
	Missed time.Time `json:"missed,omitzero"`
	// Early is, in a history that goes on where another grew too long, what status events
	// said before the job was known; Hints are the job IDs among it that nobody looked at.
	Early []JobStatus `json:"early,omitempty"`
	Hints []string    `json:"hints,omitempty"`
}

// JobResult is the result of a job's workflow: one attempt.
type JobResult struct {
	Version  int     `json:"version"`
	Outcome  Outcome `json:"outcome"`
	Attempt  int     `json:"attempt"`
	Project  string  `json:"project"`
	Location string  `json:"location"`
	JobName  string  `json:"jobName"`
	// JobID is empty when no job was seen: such an attempt used up no number.
	JobID string `json:"jobId,omitempty"`
	// State is Dataflow's, such as JOB_STATE_DONE.
	State   string    `json:"state,omitempty"`
	Begun   time.Time `json:"begun,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Adopted bool      `json:"adopted,omitempty"` // the job was found, not launched, by this workflow
	// Refusal is why Dataflow would not take the launch: "invalid", "permission",
	// "foreign", "mismatch", "type", "render", or empty.
	Refusal string `json:"refusal,omitempty"`
	// NameUsed says, of the refusal "mismatch", that the job with other contents is over:
	// nothing runs under the attempt's name, and nothing will.
	NameUsed bool `json:"nameUsed,omitempty"`
	// Created is when Dataflow took the job, or that with other contents; zero: not known.
	Created time.Time `json:"created,omitzero"`
	// Quota says that the job failed for want of quota: not counted as a failure.
	Quota bool `json:"quota,omitempty"`
	// Error is the job's first error message, or the refusal in words.
	Error string `json:"error,omitempty"`
	// Note says what a reader should know besides, such as a cancel that came too late.
	Note string `json:"note,omitempty"`
	// Metrics holds the job's user counters; a distribution is spread over
	// "<name>.count", ".sum", ".min" and ".max". Of very many the first 32 KiB by name are
	// kept, and Note says so.
	Metrics    map[string]int64  `json:"metrics,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
	// HandedOver says that the workflow closed for its successor, without touching the job.
	HandedOver bool `json:"handedOver,omitempty"`
}

// JobStatus is the payload of SignalStatus.
type JobStatus struct {
	JobID     string    `json:"jobId"`
	State     string    `json:"state"`
	StateTime time.Time `json:"stateTime,omitzero"`
	Type      string    `json:"type,omitempty"` // JOB_TYPE_BATCH, JOB_TYPE_STREAMING, or empty when not told
	// ReplacedBy is the job that took an UPDATED job's place.
	ReplacedBy string `json:"replacedBy,omitempty"`
	// Event is the identity of the event, for the history's reader.
	Event string `json:"event,omitempty"`
	// Forgotten says that Dataflow knows no such job, which the sweep tells.
	Forgotten bool `json:"forgotten,omitempty"`
}

// Reasons for a stop.
const (
	StopCancelled = "cancelled"  // the run was cancelled
	StopTimeout   = "timeout"    // the step's timeout passed
	StopFailing   = "failing"    // another step of the run failed
	StopRunClosed = "run-closed" // the run is over, or gone, and its job is not
	StopWrongType = "wrong-type" // the job is not of the type that the step declares
	StopOrphan    = "orphan"     // nobody watched the job any more, and the sweep was to end it
)

// Stop is the payload of SignalStop.
type Stop struct {
	Reason string `json:"reason"`
	// NoDrain has a streaming job cancelled at once.
	NoDrain bool `json:"noDrain,omitempty"`
}

// Running is the payload of SignalRunning.
type Running struct {
	Step    string `json:"step"`
	JobName string `json:"jobName"`
	JobID   string `json:"jobId"`
}
