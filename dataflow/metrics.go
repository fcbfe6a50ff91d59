package dataflow

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	v1b3 "google.golang.org/api/dataflow/v1b3"
)

// maxMetrics is how many counters, and how many distributions, are kept of a job.
const maxMetrics = 1000

// Metrics are a job's user counters and distributions, summed over its steps.
//
// A name is the counter's own where all counters of that name share one namespace, else namespace/name for each.
// Committed values are preferred; a counter that has none, as in every streaming job, gives its tentative one.
type Metrics struct {
	Time          time.Time               `json:"time,omitzero"` // as of when; zero: not told
	Counters      map[string]int64        `json:"counters,omitempty"`
	Distributions map[string]Distribution `json:"distributions,omitempty"`
	// Truncated says that the job has more than 1,000 of a sort: the first by name are kept.
	Truncated bool `json:"truncated,omitempty"`
}

// Distribution is what a user distribution saw. Min and Max mean nothing when Count is zero.
type Distribution struct {
	Count int64 `json:"count"`
	Sum   int64 `json:"sum"`
	Min   int64 `json:"min"`
	Max   int64 `json:"max"`
}

func (d Distribution) plus(o Distribution) Distribution {
	switch {
	case d.Count == 0:
		return o
	case o.Count == 0:
		return d
	}
	return Distribution{d.Count + o.Count, d.Sum + o.Sum, min(d.Min, o.Min), max(d.Max, o.Max)}
}

// Metrics reads the job's user metrics.
func (c *Client) Metrics(ctx context.Context, project, location, jobID string) (Metrics, error) {
	e := Error{Op: "metrics", Project: project, Location: location, JobID: jobID}
	if err := e.place(); err != nil {
		return Metrics{}, err
	}
	m, err := call(ctx, c, e, false, func(ctx context.Context) (*v1b3.JobMetrics, error) {
		return c.api.Projects.Locations.Jobs.GetMetrics(project, location, jobID).Context(ctx).Do()
	})
	if err != nil {
		return Metrics{}, err
	}
	return metricsOf(m), nil
}

// metricID tells the user metrics of a job apart.
type metricID struct{ namespace, name, step string }

func metricsOf(m *v1b3.JobMetrics) Metrics {
	counters := make(map[metricID]int64)
	distributions := make(map[metricID]Distribution)
	// Tentative values first, so that the committed ones replace them.
	for _, tentative := range []bool{true, false} {
		for _, u := range m.Metrics {
			if u == nil || u.Name == nil || u.Name.Origin != "user" || (u.Name.Context["tentative"] == "true") != tentative {
				continue
			}
			id := metricID{u.Name.Context["namespace"], u.Name.Name, u.Name.Context["step"]}
			if fields, ok := u.Distribution.(map[string]any); ok {
				distributions[id] = Distribution{whole(fields["count"]), whole(fields["sum"]), whole(fields["min"]), whole(fields["max"])}
			} else if _, ok := u.Scalar.(float64); ok {
				counters[id] = whole(u.Scalar)
			}
		}
	}
	out := Metrics{Time: parseTime(m.MetricTime)}
	var cutC, cutD bool
	out.Counters, cutC = sum(counters, func(a, b int64) int64 { return a + b })
	out.Distributions, cutD = sum(distributions, Distribution.plus)
	out.Truncated = cutC || cutD
	return out
}

// sum adds up steps and names the sums. It also reports whether there were more than it returns.
func sum[V any](values map[metricID]V, plus func(a, b V) V) (map[string]V, bool) {
	namespaces := make(map[string]string)
	shared := make(map[string]bool) // by several namespaces
	for id := range values {
		if ns, ok := namespaces[id.name]; ok && ns != id.namespace {
			shared[id.name] = true
		}
		namespaces[id.name] = id.namespace
	}
	sums := make(map[string]V)
	for id, v := range values {
		key := id.name
		if shared[id.name] {
			key = id.namespace + "/" + id.name
		}
		if known, ok := sums[clip(key)]; ok {
			v = plus(known, v)
		}
		sums[clip(key)] = v
	}
	if len(sums) <= maxMetrics {
		return sums, false
	}
	for _, key := range slices.Sorted(maps.Keys(sums))[maxMetrics:] {
		delete(sums, key)
	}
	return sums, true
}

// whole is a JSON number as an integer; what is none is 0, and what does not fit becomes the nearest that does.
func whole(v any) int64 {
	f, ok := v.(float64)
	switch {
	case !ok || math.IsNaN(f):
		return 0
	case f >= math.MaxInt64:
		return math.MaxInt64
	case f <= math.MinInt64:
		return math.MinInt64
	}
	return int64(f)
}

// Of the messages of a job this many are looked at.
const (
	messagePageSize = 100
	maxMessagePages = 10
)

// FirstError is the text of the job's earliest error message, cut to 4 KiB, and empty when there is none. It looks at
// 1,000 error messages at most.
func (c *Client) FirstError(ctx context.Context, project, location, jobID string) (string, error) {
	e := Error{Op: "messages", Project: project, Location: location, JobID: jobID}
	if err := e.place(); err != nil {
		return "", err
	}
	const importance = "JOB_MESSAGE_ERROR"
	var first *v1b3.JobMessage
	token := ""
	for range maxMessagePages {
		page, err := call(ctx, c, e, false, func(ctx context.Context) (*v1b3.ListJobMessagesResponse, error) {
			return c.api.Projects.Locations.Jobs.Messages.List(project, location, jobID).MinimumImportance(importance).
				PageSize(messagePageSize).PageToken(token).Fields("nextPageToken,jobMessages").Context(ctx).Do()
		})
		if err != nil {
			return "", err
		}
		for _, m := range page.JobMessages {
			if m != nil && m.MessageImportance == importance && strings.TrimSpace(m.MessageText) != "" &&
				(first == nil || parseTime(m.Time).Before(parseTime(first.Time))) {
				first = m
			}
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if first == nil {
		return "", nil
	}
	return strings.TrimSpace(clip(first.MessageText)), nil
}
