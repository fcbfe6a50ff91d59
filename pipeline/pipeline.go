// Package pipeline is the pipelines file: what it may say, whether it says it right, which events it wants, and what a run
// of it is to do.
//
// [Parse] reads one file and reports every mistake in it with its line and column. [Folder] keeps a folder of them loaded,
// with the last good version of each in force. [Set.Match] finds the pipelines that an event starts through an index, and
// [Match.Evaluate] turns an event into a [Plan]: the key, and each job's launch request. Parts of a launch request that need
// the result of an earlier step stay expressions in it, which [Job.Render] fills in once that step is done.
package pipeline

import "time"

// Pipeline is one pipelines file: a declared contract. Exactly one of Steps, Workflow and Signal is set.
//
// Pipelines come from [Parse], which compiles their expressions; a Pipeline put together by hand cannot be evaluated.
type Pipeline struct {
	File    string // where it was read, as given to Parse
	Name    string // unique in a folder; part of run IDs and job names
	Purpose string // one or two sentences for whoever finds a run of it
	Owner   string // who to ask: an address or a team
	On      []Trigger
	// Key is what the pipeline runs once for. The zero Value means the event's identity.
	Key Value
	// Dedupe keeps the key single in the ledger; nil means that Temporal's retention is enough.
	Dedupe   *Dedupe
	Steps    []Step // in the order of the file
	Workflow *Workflow
	Signal   *Signal
	Version  Version

	namePosition Position
}

// Version says which text of the file a pipeline was read from.
type Version struct {
	// Hash is the SHA-256 of the file's bytes in lower-case hex, as sha256sum prints it.
	Hash string `json:"hash"`
	// ChangedAt is when the file was changed last; zero for a file that was parsed from memory.
	ChangedAt time.Time `json:"changedAt,omitzero"`
	// ChangedBy is who changed it, empty where the place that the file lies in does not record it.
	ChangedBy string `json:"changedBy,omitempty"`
}

// Dedupe says how long a key that has run may not run again.
type Dedupe struct {
	// Keep counts from when a run claims the key, in nanoseconds; zero means forever.
	Keep time.Duration `json:"keep,omitempty"`
}

// Position is a place in a pipelines file. Line and Col count from 1, Col in characters.
type Position struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Col  int    `json:"col"`
}

// Trigger says which events start a pipeline. Exactly one of Storage, PubSub and Event is set.
type Trigger struct {
	Position Position
	Storage  *StorageTrigger
	PubSub   *PubSubTrigger
	Event    *EventTrigger
	// When is a CEL predicate over the event; empty means always.
	When string

	when     *expression
	identity *expression
}

// StorageTrigger matches changes of objects in a bucket.
type StorageTrigger struct {
	Bucket string
	// Kinds are the changes that count: finalized, deleted, archived, metadataUpdated. Never empty after Parse, which
	// defaults it to finalized.
	Kinds []string
	// Object is the pattern that object names match; empty matches every object.
	Object string

	pattern *objectPattern
}

// PubSubTrigger matches messages of a topic.
type PubSubTrigger struct {
	// Topic is a topic's ID, or its full name projects/P/topics/T.
	Topic string
	// ID is a CEL expression whose value identifies the message for good, for publishers that repeat themselves under new
	// message IDs; empty means the message ID.
	ID string
}

// EventTrigger matches any other CloudEvent.
type EventTrigger struct {
	Type   string
	Source string // empty matches every source
}

// Step is one Dataflow job of a pipeline's graph, in as many attempts as Retry grants.
type Step struct {
	Name     string
	Needs    []string // steps that must be done first
	Dataflow Dataflow
	// Timeout bounds one attempt; zero means no bound. For a streaming step it bounds the time until the job runs.
	Timeout time.Duration
	Retry   Retry
}

// Retry says how often a failed job is tried again, and how fast.
type Retry struct {
	// Attempts is the number of jobs that may be tried in all, 1 (the default) meaning no second one.
	Attempts int `json:"attempts"`
	// Backoff is the wait before the second attempt; it doubles with each further one up to MaxBackoff.
	Backoff    time.Duration `json:"backoff"`
	MaxBackoff time.Duration `json:"maxBackoff"`
}

// Dataflow is the launch request of a step, its expressions not yet evaluated.
type Dataflow struct {
	Template string // gs:// path
	Classic  bool   // a classic template rather than a flex template
	// Parameters are the template's own; Labels become the job's labels.
	Parameters map[string]Value
	Labels     map[string]Value
	// Environment holds the fields of v1b3's FlexTemplateRuntimeEnvironment (or RuntimeEnvironment for a classic template)
	// under Dataflow's own names: string, int64, bool or []string each.
	Environment map[string]any
	Location    string // region; empty means the deployment's
	Streaming   bool
}

// Workflow starts a Temporal workflow of the user's own, in any language, with the event as its input.
type Workflow struct {
	Type      string
	TaskQueue string
}

// Signal sends a signal, with the event in it, to a Temporal workflow of the user's own.
type Signal struct {
	WorkflowID Value
	Name       string
	// Start says what to start where no such workflow is open; nil means that the event is dead-lettered instead.
	Start *Workflow
}
