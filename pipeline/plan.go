package pipeline

import (
	"fmt"
	"time"
)

// Plan is what one event makes of one pipeline: the key to run once for, and what to do. It is data, made to travel as JSON
// in a workflow's input, and needs neither the event nor the pipelines file any more.
type Plan struct {
	Pipeline string `json:"pipeline"`
	Purpose  string `json:"purpose,omitempty"`
	Owner    string `json:"owner,omitempty"`
	// Key is what the pipeline runs once for, never empty. It may hold any bytes that the event held.
	Key string `json:"key"`
	// Identity is the identity of the event: events.Event's, or the trigger's own `id`. A pipeline without a `key` of its own
	// has Key == Identity.
	Identity string           `json:"identity"`
	Version  Version          `json:"version"`
	Dedupe   *Dedupe          `json:"dedupe,omitempty"` // nil: the key is not claimed in the ledger
	Steps    []PlannedStep    `json:"steps,omitempty"`
	Workflow *PlannedWorkflow `json:"workflow,omitempty"`
	Signal   *PlannedSignal   `json:"signal,omitempty"`
	// Vars are the variables that the deferred parts of Steps use, and no others: pass them to [Job.Render].
	Vars Vars `json:"vars,omitempty"`
}

// PlannedStep is a Step with its launch request rendered as far as the event allows.
type PlannedStep struct {
	Name    string        `json:"name"`
	Needs   []string      `json:"needs,omitempty"`
	Job     Job           `json:"job"`
	Timeout time.Duration `json:"timeout,omitempty"` // nanoseconds; zero means no bound
	Retry   Retry         `json:"retry"`
}

// PlannedWorkflow is the user's own workflow to start.
type PlannedWorkflow struct {
	Type      string `json:"type"`
	TaskQueue string `json:"taskQueue"`
}

// PlannedSignal is the signal to send. WorkflowID is printable ASCII of 1 to 1,000 bytes.
type PlannedSignal struct {
	WorkflowID string           `json:"workflowId"`
	Name       string           `json:"name"`
	Start      *PlannedWorkflow `json:"start,omitempty"`
}

// Job is the launch request of one Dataflow job. Where Deferred is empty it is complete.
type Job struct {
	Template   string            `json:"template"`
	Classic    bool              `json:"classic,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	// Environment holds the fields of the launch request's environment under Dataflow's own names. After a trip through JSON
	// its integers are float64.
	Environment map[string]any `json:"environment,omitempty"`
	Location    string         `json:"location,omitempty"` // region; empty means the deployment's
	Streaming   bool           `json:"streaming,omitempty"`
	// Deferred are the values that wait for the result of an earlier step.
	Deferred []Deferred `json:"deferred,omitempty"`
}

// Deferred is a parameter or label whose value needs the result of an earlier step.
type Deferred struct {
	In       string   `json:"in"` // "parameters" or "labels"
	Name     string   `json:"name"`
	Text     string   `json:"text"` // as in the file, with its ${ }
	Position Position `json:"position"`
}

// Skip says that a matched event does not start its pipeline, and why.
type Skip struct {
	Reason     string   `json:"reason"`
	Expression string   `json:"expression"` // the `when` that was false
	Position   Position `json:"position"`
}

// StepResultVars is what `steps.<name>` shows to the expressions of later steps.
type StepResultVars struct {
	JobID      string            `json:"jobId"`
	JobName    string            `json:"jobName"`
	State      string            `json:"state"`
	Metrics    map[string]int64  `json:"metrics,omitempty"` // user counters
	Error      string            `json:"error,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
	Attempts   int               `json:"attempts"`
}

// EvalError is an expression that failed on the data of an event, or gave a value that cannot stand where it is meant to.
type EvalError struct {
	Position   Position
	Expression string
	Value      string // what it gave, quoted and cut short; empty if it gave nothing
	Err        error
}

// Error renders "file:line:col: what failed".
func (e *EvalError) Error() string {
	s := fmt.Sprintf("%s:%d:%d: evaluate %s: %v", e.Position.File, e.Position.Line, e.Position.Col, e.Expression, e.Err)
	if e.Value != "" {
		s += ": got " + e.Value
	}
	return s
}

// Unwrap returns what went wrong.
func (e *EvalError) Unwrap() error { return e.Err }
