package dataflow

import (
	"context"
	"net/http"
	"time"
)

// Options configure New. The zero value is Google's API with the credentials of the environment.
type Options struct {
	// Endpoint is the base URL of the API, as http://127.0.0.1:8080. Empty: Google's. To an endpoint that is not
	// an https host under googleapis.com no credentials are sent.
	Endpoint string
	// HTTPClient makes the calls, with whatever authentication it has. Nil: one with the environment's credentials, or
	// none, as Endpoint says. It is not changed; its CheckRedirect is not used, as no call follows a redirect.
	HTTPClient *http.Client
	// UserAgent is put before the API client's own; empty: nothing is.
	UserAgent string
	// Timeout bounds each call, besides the context's own deadline. Zero: 1 minute.
	Timeout time.Duration
}

// Client calls the API. It is safe for concurrent use. No method retries, and none follows a redirect.
type Client struct{}

// New makes a client. It contacts nothing, but fails when it needs credentials and finds none.
func New(ctx context.Context, o Options) (*Client, error) { panic("unimplemented") }

// JobType is a job's type in the API's own words.
type JobType string

// The types. Other strings are possible; the type of a job that waits for its launch may be unknown.
const (
	TypeUnknown   JobType = "JOB_TYPE_UNKNOWN"
	TypeBatch     JobType = "JOB_TYPE_BATCH"
	TypeStreaming JobType = "JOB_TYPE_STREAMING"
)

// Job is what the API says of a job. Zero times were not told.
type Job struct {
	ID              string            `json:"id"`
	Name            string            `json:"name"`
	Project         string            `json:"project"`
	Location        string            `json:"location"`
	Type            JobType           `json:"type,omitempty"`
	State           State             `json:"state"`
	StateTime       time.Time         `json:"stateTime,omitzero"` // when it entered State
	CreateTime      time.Time         `json:"createTime,omitzero"`
	StartTime       time.Time         `json:"startTime,omitzero"`
	RequestedState  State             `json:"requestedState,omitempty"` // empty: none
	Labels          map[string]string `json:"labels,omitempty"`         // from Get only
	ReplaceJobID    string            `json:"replaceJobId,omitempty"`   // the job that this one replaced
	ReplacedByJobID string            `json:"replacedByJobId,omitempty"`
}

// Observed is the job's state, for Newer.
func (j Job) Observed() Observed { return Observed{JobID: j.ID, State: j.State, StateTime: j.StateTime} }

// Launch writes once. Its outcomes:
//   - a job and no error: this call made the job;
//   - a job and ErrAlreadyExists: the API answered with a job that existed before. Its labels are not known: Get them;
//   - no job and ErrAlreadyExists: the API refused, as a job of that name is active, without saying which;
//   - KindUnanswered: the job may exist, or come to exist;
//   - any other error: this call made no job.
func (c *Client) Launch(ctx context.Context, l Launch) (Job, error) { panic("unimplemented") }

// Find lists the jobs of exactly that name, active and terminal, newest first. They have no labels. The list may lag
// behind: that a job is not in it proves nothing. A list too long to read is an error, not a part of it.
func (c *Client) Find(ctx context.Context, project, location, name string) ([]Job, error) {
	panic("unimplemented")
}

// Get reads one job, with its labels.
func (c *Client) Get(ctx context.Context, project, location, jobID string) (Job, error) {
	panic("unimplemented")
}

// Cancel asks for the job's cancellation; it is over when the job's state says so. With force, Dataflow does not wait for
// the workers; it is meant for a job whose plain cancel does not come to an end. KindTerminated: the job was over
// already. KindNotReady: ask again in some seconds. Asking twice does no harm.
func (c *Client) Cancel(ctx context.Context, project, location, jobID string, force bool) error {
	panic("unimplemented")
}

// Drain asks a running streaming job to finish what it has read and stop. Of a batch job, and of one that is not
// running, it is KindInvalid.
func (c *Client) Drain(ctx context.Context, project, location, jobID string) error {
	panic("unimplemented")
}

// Metrics are a job's user counters and distributions, summed over its steps.
//
// A name is the counter's own where all its entries share one namespace, else namespace/name for each. Committed values
// are preferred; a job that has none of a counter (every streaming job) gives its tentative one.
type Metrics struct {
	Time          time.Time               `json:"time,omitzero"` // as of when
	Counters      map[string]int64        `json:"counters,omitempty"`
	Distributions map[string]Distribution `json:"distributions,omitempty"`
	// Truncated says that the job has more than are kept: the first 1,000 by name are.
	Truncated bool `json:"truncated,omitempty"`
}

// Distribution is what a user distribution saw.
type Distribution struct {
	Count int64 `json:"count"`
	Sum   int64 `json:"sum"`
	Min   int64 `json:"min"`
	Max   int64 `json:"max"`
}

// Metrics reads the job's user metrics.
func (c *Client) Metrics(ctx context.Context, project, location, jobID string) (Metrics, error) {
	panic("unimplemented")
}

// FirstError is the text of the job's earliest error message, cut to 4 KiB, and empty when there is none. It reads a
// bounded number of messages.
func (c *Client) FirstError(ctx context.Context, project, location, jobID string) (string, error) {
	panic("unimplemented")
}
