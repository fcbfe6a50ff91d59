// Package dataflowemulator answers the Dataflow v1b3 API on this machine: it keeps jobs, moves them through Dataflow's states, tells a sink of each state, and runs
// each launched template as a real Beam pipeline (Command) or by a timetable (Script).
//
// The operations take and return the messages of google.dataflow.v1beta3 and fail with gRPC status errors, so that a face of the API only translates: package
// rest is the JSON one.
//
// Where Dataflow's behaviour is documented, its documentation is followed (https://cloud.google.com/dataflow/docs/reference/rest); where it is not, what public
// clients of the API expect of it.
package dataflowemulator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
)

// Config says what an Emulator runs and how it differs from its defaults. The zero value is usable: no image is mapped, so every job fails and says so.
type Config struct {
	// Images maps the container image of a flex template, or the gs:// path of a classic template, to what runs its jobs. A job of an image that is not here
	// fails with a message that names the image, as one of an image that cannot be pulled does.
	Images map[string]Program

	// Templates maps gs:// paths of template files to local files, which are read in place of Cloud Storage.
	Templates map[string]string

	// StorageEndpoint is the Cloud Storage that template files are read from when Templates does not have them: "host:port" or a URL, as STORAGE_EMULATOR_HOST
	// has it. Empty: only Templates are known.
	StorageEndpoint string

	// Sink receives a status event for each state of each job. Nil: none are sent.
	Sink Sink

	// Ledger is a file to which each launch and each state is appended, as one JSON object a line, and flushed to the disk before anyone is told of it. One that is
	// there already is read: its jobs are known again, those of scripts go on, and states that may not have reached the sink are sent again. Empty: none.
	Ledger string

	// DefaultLocation is the region that the paths without a location speak of. Defaults to us-central1, as Dataflow's own.
	DefaultLocation string

	// ProjectNumbers maps project IDs to the numbers that status events carry. A project that is not here gets a number derived from its ID.
	ProjectNumbers map[string]string

	// ConcurrentJobs is the quota of active jobs in a project. 0 means 25, Dataflow's default; negative: no limit.
	ConcurrentJobs int

	// RefuseFlexOverQuota makes a flex launch over the quota fail with RESOURCE_EXHAUSTED. By default it is accepted and the job fails, as Dataflow's do, for a
	// flex template's job is made before its launcher meets the quota. Classic launches are always refused at once.
	RefuseFlexOverQuota bool

	// ReturnExisting makes a launch under the name of an active job return that job, which the documentation of jobs.create promises. By default it is refused
	// with ALREADY_EXISTS, which is what Dataflow does.
	ReturnExisting bool

	// CancelNotReady is how long after its creation a job refuses to be cancelled as "not yet ready for canceling". 0: never.
	CancelNotReady time.Duration

	// ForceCancelAfter is how long a job must have been cancelling before it may be cancelled by force. 0: at once after a plain cancel; Dataflow's is 30 minutes.
	ForceCancelAfter time.Duration

	// ListLag keeps a new job out of lists for so long. Dataflow's lists promise no consistency. 0: no lag.
	ListLag time.Duration

	// HideQueued keeps QUEUED jobs out of lists, which has been seen of Dataflow's flex jobs.
	HideQueued bool

	// Hooks are called around each operation; for tests that make the API misbehave.
	Hooks Hooks

	// Log receives what is worth an operator's eye. Defaults to slog.Default().
	Log *slog.Logger
}

// Operation names one call of the API to a hook.
type Operation struct {
	// Method is the REST method without "projects.locations.": "flexTemplates.launch", "jobs.get", …
	Method   string
	Project  string
	Location string
	// JobName is the name that a launch or a list asks for, or that the job which the call speaks of has; JobID is that job, or the one that a launch made. Either
	// may be empty.
	JobName, JobID string
}

// Hooks are the seams for faults. A hook runs outside the emulator's locks and may block; the context is the call's.
type Hooks struct {
	// Before runs before the operation looks at anything. An error is the call's answer, and nothing happens.
	Before func(context.Context, Operation) error
	// Committed runs after the operation took effect and before it is answered. An error is the call's answer; the effect stays.
	Committed func(context.Context, Operation) error
	// Behaviour changes, for this call, what the configuration says.
	Behaviour func(Operation, *Behaviour)
	// Program gives a new job's program, in place of its image's. It must be quick, and must not call the emulator.
	Program func(Launch, Program) Program
}

// Behaviour is what of a Config may change from call to call; its fields mean the same there.
type Behaviour struct {
	ReturnExisting bool
	// ConcurrentJobs is the quota itself: 0 lets no job begin.
	ConcurrentJobs      int
	RefuseFlexOverQuota bool
	ListLag             time.Duration
	HideQueued          bool
	CancelNotReady      time.Duration
}

// ErrNoAnswer is the error by which a hook makes a face of the API cut the connection instead of answering.
var ErrNoAnswer = errors.New("dataflow emulator: a hook asked for no answer")

const (
	defaultLocation       = "us-central1"
	defaultConcurrentJobs = 25
)

// Emulator holds jobs in memory and runs them. Its methods are safe for concurrent use.
type Emulator struct {
	config    Config
	templates templateReader
	ledger    *ledger

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	jobs   map[string]*job    // by ID
	order  []*job             // by creation
	active map[activeKey]*job // the job that holds a name now
	starts map[string]int     // launches so far, by image
}

type activeKey struct{ project, location, name string }

// New returns an emulator that is ready to take launches. It fails if the ledger cannot be opened or read. Close it.
func New(config Config) (*Emulator, error) {
	if config.DefaultLocation == "" {
		config.DefaultLocation = defaultLocation
	}
	if config.ConcurrentJobs == 0 {
		config.ConcurrentJobs = defaultConcurrentJobs
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	e := &Emulator{
		config: config,
		jobs:   map[string]*job{},
		active: map[activeKey]*job{},
		starts: map[string]int{},
	}
	var err error
	if e.templates, err = newTemplateReader(config.Templates, config.StorageEndpoint); err != nil {
		return nil, err
	}
	if config.Ledger != "" {
		var lines []ledgerLine
		if e.ledger, lines, err = openLedger(config.Ledger); err != nil {
			return nil, err
		}
		e.ctx, e.stop = context.WithCancel(context.Background())
		if err := e.reload(lines); err != nil {
			return nil, errors.Join(err, e.Close())
		}
		return e, nil
	}
	e.ctx, e.stop = context.WithCancel(context.Background())
	return e, nil
}

// Close ends every job's program, whatever its state, and waits for them and for the events under way. Jobs do not reach a terminal state by it. Launches
// and updates after Close are refused; a second Close does nothing more.
func (e *Emulator) Close() error {
	e.mu.Lock()
	again := e.closed
	e.closed = true
	e.mu.Unlock()
	e.stop()
	e.wg.Wait()
	if e.ledger == nil || again {
		return nil
	}
	return e.ledger.close()
}

// DefaultLocation is the region that requests without a location speak of.
func (e *Emulator) DefaultLocation() string { return e.config.DefaultLocation }

func (e *Emulator) before(ctx context.Context, op Operation) error {
	if e.config.Hooks.Before == nil {
		return nil
	}
	return e.config.Hooks.Before(ctx, op)
}

func (e *Emulator) committed(ctx context.Context, op Operation) error {
	if e.config.Hooks.Committed == nil {
		return nil
	}
	return e.config.Hooks.Committed(ctx, op)
}

func (e *Emulator) behaviour(op Operation) Behaviour {
	c := e.config
	b := Behaviour{c.ReturnExisting, c.ConcurrentJobs, c.RefuseFlexOverQuota, c.ListLag, c.HideQueued, c.CancelNotReady}
	if c.Hooks.Behaviour != nil {
		c.Hooks.Behaviour(op, &b)
	}
	return b
}

// named adds the name of the job that an operation speaks of by its ID.
func (e *Emulator) named(op Operation) Operation {
	e.mu.Lock()
	defer e.mu.Unlock()
	if j := e.jobs[op.JobID]; j != nil {
		op.JobName = j.record.Name
	}
	return op
}

func (e *Emulator) location(asked string) string {
	if asked == "" {
		return e.config.DefaultLocation
	}
	return asked
}

// find returns the job of an ID in its project and location. The caller holds mu.
func (e *Emulator) find(project, location, id string) (*job, error) {
	j, ok := e.jobs[id]
	if !ok || j.record.ProjectId != project || j.record.Location != e.location(location) {
		return nil, notFound("Information about job %s could not be found in project %s, location %s. Check that the ID and the location are those of the job.", id, project, e.location(location))
	}
	return j, nil
}

// Wait returns when the job is terminal, or with the context's error. It is a convenience for tests: Dataflow has no such call.
func (e *Emulator) Wait(ctx context.Context, id string) (pb.JobState, error) {
	e.mu.Lock()
	j, ok := e.jobs[id]
	e.mu.Unlock()
	if !ok {
		return pb.JobState_JOB_STATE_UNKNOWN, fmt.Errorf("wait for job %s: there is no such job", id)
	}
	select {
	case <-j.ended:
		e.mu.Lock()
		defer e.mu.Unlock()
		return j.record.CurrentState, nil
	case <-ctx.Done():
		return pb.JobState_JOB_STATE_UNKNOWN, fmt.Errorf("wait for job %s: %w", id, ctx.Err())
	}
}
