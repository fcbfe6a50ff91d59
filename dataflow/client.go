package dataflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/auth/httptransport"
	v1b3 "google.golang.org/api/dataflow/v1b3"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
)

const (
	scope          = "https://www.googleapis.com/auth/cloud-platform"
	defaultTimeout = time.Minute

	// Of a look by name: a name has one job an attempt, so that this many mean that something else is wrong.
	findPageSize = 100
	maxFindPages = 20
	// Of the list of active jobs: far more than a project's quota of concurrent jobs, wherever it was raised to.
	listPageSize = 1000
	maxListPages = 100
)

var errNull = errors.New("the answer is null")

// Options configure New. The zero value is Google's API with the credentials of the environment.
type Options struct {
	// Endpoint is the base URL of the API, as http://127.0.0.1:8080. Empty: Google's. To an endpoint that is not
	// an https host under googleapis.com no credentials are sent.
	Endpoint string
	// HTTPClient makes the calls, with whatever authentication it has. Nil: one with the environment's credentials, or
	// none, as Endpoint says. Its Transport and Jar are used, its CheckRedirect and Timeout are not.
	HTTPClient *http.Client
	// UserAgent is put before the API client's own; empty: nothing is.
	UserAgent string
	// Timeout bounds each call, besides the context's own deadline. Zero: 1 minute.
	Timeout time.Duration
}

// Client calls the API. It is safe for concurrent use. No method retries, and none follows a redirect.
type Client struct {
	api     *v1b3.Service
	timeout time.Duration
}

// New makes a client. It calls no API, but fails when it needs credentials and finds none.
func New(ctx context.Context, o Options) (*Client, error) {
	google, err := isGoogle(o.Endpoint)
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		// A redirect that is followed turns one write into two, or into a read.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	base := guard{network()}
	switch {
	case o.HTTPClient != nil:
		client.Jar = o.HTTPClient.Jar
		if o.HTTPClient.Transport != nil {
			base = guard{o.HTTPClient.Transport}
		}
		client.Transport = base
	case google:
		if client.Transport, err = authenticated(base); err != nil {
			return nil, fmt.Errorf("dataflow: find Google credentials: %w (run gcloud auth application-default login, "+
				"or set DATAFLOW_ENDPOINT to a local emulator)", err)
		}
	default:
		client.Transport = base
	}
	options := []option.ClientOption{option.WithHTTPClient(client)}
	if o.Endpoint != "" {
		options = append(options, option.WithEndpoint(strings.TrimSuffix(o.Endpoint, "/")+"/"))
	}
	api, err := v1b3.NewService(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("dataflow: make the API client for %q: %w", o.Endpoint, err)
	}
	api.UserAgent = o.UserAgent
	return &Client{api: api, timeout: cmp.Or(o.Timeout, defaultTimeout)}, nil
}

// isGoogle reports whether the endpoint is Google's, so that it may see credentials.
func isGoogle(endpoint string) (bool, error) {
	if endpoint == "" {
		return true, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return false, fmt.Errorf("dataflow: endpoint %q is no base URL of the form http://host:port: check DATAFLOW_ENDPOINT", endpoint)
	}
	host := strings.ToLower(u.Hostname())
	return u.Scheme == "https" && strings.HasSuffix(host, ".googleapis.com"), nil
}

func network() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport
	}
	t = t.Clone()
	t.MaxIdleConnsPerHost = 16 // one host is all there is
	return t
}

// authenticated puts the environment's credentials above base.
func authenticated(base http.RoundTripper) (http.RoundTripper, error) {
	client, err := httptransport.NewClient(&httptransport.Options{
		BaseRoundTripper: base,
		DetectOpts:       &credentials.DetectOptions{Scopes: []string{scope}},
		DisableTelemetry: true,
	})
	if err != nil {
		return nil, err
	}
	return client.Transport, nil
}

// call makes one call of the API under e's description, and completes e when it fails. The result is not nil without
// an error.
func call[T any](ctx context.Context, c *Client, e Error, write bool, do func(ctx context.Context) (*T, error)) (*T, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var d departure
	result, err := do(context.WithValue(ctx, departureKey{}, &d))
	if err == nil {
		if result != nil {
			return result, nil
		}
		err = errNull // what the API client makes of the JSON null
	}
	e.cause = err
	var refused *googleapi.Error
	var token *auth.Error
	switch {
	case errors.As(err, &refused):
		a := readAnswer(refused.Code, refused.Header, []byte(refused.Body), time.Now())
		e.Kind, e.Code, e.Status, e.Reason, e.Message = a.kind(e.Op, write), a.code, a.status, a.reason, a.message
		e.Violations, e.RetryAfter = a.violations, a.retryAfter
	case !d.given.Load() && errors.As(err, &token) && token.Response != nil && !token.Temporary() && token.Response.StatusCode < 500:
		e.Kind, e.Message = KindPermission, clip(err.Error())
	case write && d.left():
		e.Kind, e.Message = KindUnanswered, clip(err.Error())
	default:
		e.Kind, e.Message = KindTransient, clip(err.Error())
	}
	e.Hint = e.hint()
	return nil, &e
}

// place checks what becomes part of a request's path.
func (e *Error) place() error {
	bad := checkPlace(e.Project, e.Location)
	switch {
	case e.Op == "list":
	case e.Op == "find" && !validJobName(e.Name):
		bad = append(bad, Violation{"name", fmt.Sprintf("%q is no job name", clip(e.Name))})
	case e.Op != "find" && !jobIDRule.MatchString(e.JobID):
		bad = append(bad, Violation{"jobId", fmt.Sprintf("%q is no job ID", clip(e.JobID))})
	}
	if len(bad) > 0 {
		return e.refuse(bad)
	}
	return nil
}

// Launch writes once. Its outcomes:
//   - a job and no error: this call made the job;
//   - a job and ErrAlreadyExists: the API answered with a job that existed before. Get tells its labels;
//   - no job and ErrAlreadyExists: the API refused, as a job of that name is active, without saying which;
//   - KindUnanswered: the job may exist, or come to exist;
//   - any other error: this call made no job.
func (c *Client) Launch(ctx context.Context, l Launch) (Job, error) {
	e := Error{Op: "launch", Project: l.Project, Location: l.Location, Name: l.JobName}
	var made *v1b3.Job
	var header http.Header
	sent := time.Now()
	if l.Classic {
		body, err := l.classic()
		if err != nil {
			return Job{}, err
		}
		res, err := call(ctx, c, e, true, func(ctx context.Context) (*v1b3.LaunchTemplateResponse, error) {
			return c.api.Projects.Locations.Templates.Launch(l.Project, l.Location, body).GcsPath(l.Template).Context(ctx).Do()
		})
		if err != nil {
			return Job{}, err
		}
		made, header = res.Job, res.Header
	} else {
		body, err := l.flex()
		if err != nil {
			return Job{}, err
		}
		res, err := call(ctx, c, e, true, func(ctx context.Context) (*v1b3.LaunchFlexTemplateResponse, error) {
			return c.api.Projects.Locations.FlexTemplates.Launch(l.Project, l.Location, body).Context(ctx).Do()
		})
		if err != nil {
			return Job{}, err
		}
		made, header = res.Job, res.Header
	}
	if made == nil || made.Id == "" || (made.Name != "" && made.Name != l.JobName) {
		e.Kind, e.Message = KindUnanswered, "the answer names no job, or another one"
		e.Hint = e.hint()
		return Job{}, &e
	}
	job := jobOf(made, l.Project, l.Location)
	job.Name = l.JobName
	if existed(job, l.Labels, header, time.Since(sent)) {
		e.Kind, e.JobID, e.Message = KindAlreadyExists, "", "the API answered with job "+clip(job.ID)+", which existed before"
		e.Hint = e.hint()
		return job, &e
	}
	return job, nil
}

// existed reports whether a launch that took so long was answered with a job that it did not make. The times compared
// are both Google's; the slack is for its clocks' differences, and whole seconds in the header.
func existed(j Job, labels map[string]string, header http.Header, took time.Duration) bool {
	const slack = 5 * time.Second
	if len(j.Labels) > 0 {
		for k, v := range labels {
			if j.Labels[k] != v {
				return true
			}
		}
	}
	answered, err := http.ParseTime(header.Get("Date"))
	return err == nil && !j.CreateTime.IsZero() && j.CreateTime.Before(answered.Add(-took-slack))
}

// Fields of a job that are asked for: a job of a large pipeline has megabytes of others.
const jobFields = "id,name,type,currentState,currentStateTime,createTime,startTime,requestedState,replaceJobId,replacedByJobId"

// Find lists the jobs of exactly that name, active and terminal, newest first. They have no labels. The list may lag
// behind: that a job is not in it proves nothing. A list that is not complete is an error.
func (c *Client) Find(ctx context.Context, project, location, name string) ([]Job, error) {
	e := Error{Op: "find", Project: project, Location: location, Name: name}
	if err := e.place(); err != nil {
		return nil, err
	}
	found := make(map[string]Job)
	err := c.pages(ctx, e, maxFindPages, func(list *v1b3.ProjectsLocationsJobsListCall) {
		list.Name(name).Filter("ALL").PageSize(findPageSize)
	}, func(j *v1b3.Job) {
		if j.Name == name {
			found[j.Id] = jobOf(j, project, location)
		}
	})
	if err != nil {
		return nil, err
	}
	return newestFirst(found), nil
}

// List lists the active jobs of a location, whatever their names, newest first. They have no labels. The list may lag
// behind: that a job is not in it proves nothing. A list that is not complete is an error.
func (c *Client) List(ctx context.Context, project, location string) ([]Job, error) {
	e := Error{Op: "list", Project: project, Location: location}
	if err := e.place(); err != nil {
		return nil, err
	}
	found := make(map[string]Job)
	err := c.pages(ctx, e, maxListPages, func(list *v1b3.ProjectsLocationsJobsListCall) {
		list.Filter("ACTIVE").PageSize(listPageSize)
	}, func(j *v1b3.Job) {
		found[j.Id] = jobOf(j, project, location)
	})
	if err != nil {
		return nil, err
	}
	return newestFirst(found), nil
}

// pages reads every page of a list. A job can be on two of them when one is made in between.
func (c *Client) pages(ctx context.Context, e Error, most int, ask func(*v1b3.ProjectsLocationsJobsListCall), each func(*v1b3.Job)) error {
	token := ""
	for range most {
		page, err := call(ctx, c, e, false, func(ctx context.Context) (*v1b3.ListJobsResponse, error) {
			list := c.api.Projects.Locations.Jobs.List(e.Project, e.Location)
			ask(list)
			return list.PageToken(token).Fields("nextPageToken,failedLocation,jobs(" + jobFields + ")").Context(ctx).Do()
		})
		if err != nil {
			return err
		}
		if len(page.FailedLocation) > 0 {
			e.Kind, e.Message = KindTransient, "the API could not ask the location for its jobs"
			return &e
		}
		for _, j := range page.Jobs {
			if j != nil {
				each(j)
			}
		}
		if token = page.NextPageToken; token == "" {
			return nil
		}
	}
	e.Kind, e.Message = KindTransient, fmt.Sprintf("the list does not end within %d pages", most)
	return &e
}

func newestFirst(jobs map[string]Job) []Job {
	return slices.SortedFunc(maps.Values(jobs), func(a, b Job) int {
		return cmp.Or(b.CreateTime.Compare(a.CreateTime), strings.Compare(b.ID, a.ID))
	})
}

// Get reads one job, with its labels.
func (c *Client) Get(ctx context.Context, project, location, jobID string) (Job, error) {
	e := Error{Op: "get", Project: project, Location: location, JobID: jobID}
	if err := e.place(); err != nil {
		return Job{}, err
	}
	j, err := call(ctx, c, e, false, func(ctx context.Context) (*v1b3.Job, error) {
		return c.api.Projects.Locations.Jobs.Get(project, location, jobID).Fields(jobFields + ",labels").Context(ctx).Do()
	})
	if err != nil {
		return Job{}, err
	}
	if j.Id != jobID {
		e.Kind, e.Message = KindTransient, fmt.Sprintf("the answer is about %q", clip(j.Id))
		return Job{}, &e
	}
	return jobOf(j, project, location), nil
}

// Cancel asks for the job's cancellation; it is over when the job's state says so. With force, Dataflow does not wait for
// the workers; it is meant for a job whose plain cancel does not come to an end. KindTerminated: the job was over
// already. KindNotReady: ask again in some seconds. Asking twice does no harm.
func (c *Client) Cancel(ctx context.Context, project, location, jobID string, force bool) error {
	change := &v1b3.Job{RequestedState: string(StateCancelled)}
	if force {
		change.Labels = map[string]string{"force_cancel_job": "true"}
	}
	return c.request(ctx, "cancel", project, location, jobID, change)
}

// Drain asks a running streaming job to finish what it has read and stop. Of a batch job, and of one that is not
// running, it is KindInvalid; of one that is over, KindTerminated.
func (c *Client) Drain(ctx context.Context, project, location, jobID string) error {
	return c.request(ctx, "drain", project, location, jobID, &v1b3.Job{RequestedState: string(StateDrained)})
}

// request asks for a state. It sets no update mask: with a requested state the API refuses one.
func (c *Client) request(ctx context.Context, op, project, location, jobID string, change *v1b3.Job) error {
	e := Error{Op: op, Project: project, Location: location, JobID: jobID}
	if err := e.place(); err != nil {
		return err
	}
	_, err := call(ctx, c, e, true, func(ctx context.Context) (*v1b3.Job, error) {
		return c.api.Projects.Locations.Jobs.Update(project, location, jobID, change).Fields("id").Context(ctx).Do()
	})
	return err
}
