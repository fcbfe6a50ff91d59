package pipeline

import (
	"errors"

	"github.com/penstock/penstock/events"
)

type (
	expression    struct{}
	objectPattern struct{}
	template      struct{}
)

// Parse reads one pipelines file. It returns the pipeline only if no problem is an Error.
func Parse(file string, src []byte) (*Pipeline, Problems) { return nil, nil }

// Set is the pipelines of a folder, indexed by the events that they want. It is safe for concurrent use.
type Set struct{}

// LoadDir reads every *.yaml and *.yml file of a folder, one pipeline a file.
func LoadDir(dir string) (*Set, Problems) { return nil, nil }

// NewSet indexes pipelines.
func NewSet(pipelines []*Pipeline) *Set { return nil }

// Pipelines returns the pipelines of the set in the order of their names.
func (s *Set) Pipelines() []*Pipeline { return nil }

// Pipeline returns the pipeline of that name, or nil.
func (s *Set) Pipeline(name string) *Pipeline { return nil }

// Match returns the pipelines that the event is for, in the order of their names.
func (s *Set) Match(e *events.Event) []Match { return nil }

// Match is an event that a trigger of a pipeline wants.
type Match struct {
	Pipeline *Pipeline
	Trigger  *Trigger
	Captures map[string]string // of the object pattern; nil without one
	Event    *events.Event
}

// Evaluate decides what becomes of the match.
func (m Match) Evaluate() (Plan, *Skip, error) { return Plan{}, nil, errors.ErrUnsupported }

// Render fills in the deferred values.
func (j Job) Render(vars map[string]any, steps map[string]StepResult) (Job, error) { return j, nil }

// Folder keeps the pipelines of a folder loaded while they change.
type Folder struct{}

// Open loads a folder.
func Open(dir string, opts FolderOptions) (*Folder, error) { return nil, nil }

// FolderOptions change how a Folder works.
type FolderOptions struct{}

// Set returns the pipelines in force.
func (f *Folder) Set() *Set { return nil }

// Incomplete reports whether some file has no usable version.
func (f *Folder) Incomplete() bool { return false }

// Problems returns what is wrong with the files as they are now.
func (f *Folder) Problems() Problems { return nil }
