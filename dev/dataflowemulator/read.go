package dataflowemulator

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	"google.golang.org/protobuf/proto"
)

// Page sizes. Dataflow says that it caps a page, not where.
const (
	defaultPage = 100
	maxPage     = 1000
)

// GetJob answers one job. The view JOB_VIEW_SUMMARY leaves out labels and environment; every other shows all.
func (e *Emulator) GetJob(ctx context.Context, in *pb.GetJobRequest) (*pb.Job, error) {
	op := Operation{Method: "jobs.get", Project: in.ProjectId, Location: e.location(in.Location), JobID: in.JobId}
	return answer(ctx, e, op, func() (*pb.Job, error) {
		j, err := e.find(in.ProjectId, in.Location, in.JobId)
		if err != nil {
			return nil, err
		}
		return view(j, in.View), nil
	})
}

// ListJobs lists a project's jobs of one location as summaries: without labels and environment, whatever the view asked for.
func (e *Emulator) ListJobs(ctx context.Context, in *pb.ListJobsRequest) (*pb.ListJobsResponse, error) {
	op := Operation{Method: "jobs.list", Project: in.ProjectId, Location: e.location(in.Location), JobName: in.GetName()}
	b := e.behaviour(op)
	return answer(ctx, e, op, func() (*pb.ListJobsResponse, error) { return e.list(in, op.Location, b) })
}

// AggregatedListJobs lists a project's jobs of all locations.
func (e *Emulator) AggregatedListJobs(ctx context.Context, in *pb.ListJobsRequest) (*pb.ListJobsResponse, error) {
	op := Operation{Method: "jobs.aggregated", Project: in.ProjectId, JobName: in.GetName()}
	b := e.behaviour(op)
	return answer(ctx, e, op, func() (*pb.ListJobsResponse, error) { return e.list(in, "", b) })
}

// answer runs a reading operation between its hooks, under the lock.
func answer[T any](ctx context.Context, e *Emulator, op Operation, read func() (T, error)) (T, error) {
	var none T
	op = e.named(op)
	if err := e.before(ctx, op); err != nil {
		return none, err
	}
	e.mu.Lock()
	out, err := read()
	e.mu.Unlock()
	if err != nil {
		return none, err
	}
	if err := e.committed(ctx, op); err != nil {
		return none, err
	}
	return out, nil
}

// position is where a job stands in a list: active jobs before terminal ones, the newest first in each.
type position struct {
	Terminal bool
	Time     time.Time
	ID       string
}

func (p position) compare(q position) int {
	if p.Terminal != q.Terminal {
		if q.Terminal {
			return -1
		}
		return 1
	}
	return cmp.Or(q.Time.Compare(p.Time), cmp.Compare(q.ID, p.ID))
}

func (e *Emulator) list(in *pb.ListJobsRequest, location string, b Behaviour) (*pb.ListJobsResponse, error) {
	size, err := pageSize(in.PageSize)
	if err != nil {
		return nil, err
	}
	var from *position
	if in.PageToken != "" {
		from = &position{}
		if err := readToken(in.PageToken, from); err != nil {
			return nil, err
		}
	}
	type entry struct {
		position
		j *job
	}
	var found []entry
	now := time.Now()
	for _, j := range e.order {
		over := terminal(j.record.CurrentState)
		switch {
		case j.record.ProjectId != in.ProjectId,
			location != "" && j.record.Location != location,
			in.Name != nil && *in.Name != "" && j.record.Name != *in.Name,
			in.Filter == pb.ListJobsRequest_ACTIVE && over,
			in.Filter == pb.ListJobsRequest_TERMINATED && !over,
			now.Sub(j.record.CreateTime.AsTime()) < b.ListLag,
			b.HideQueued && j.record.CurrentState == pb.JobState_JOB_STATE_QUEUED:
			continue
		}
		p := position{Time: j.record.CreateTime.AsTime(), ID: j.record.Id}
		if in.Filter != pb.ListJobsRequest_UNKNOWN && over {
			p.Terminal, p.Time = true, j.record.CurrentStateTime.AsTime()
		}
		if from != nil && p.compare(*from) <= 0 {
			continue
		}
		found = append(found, entry{p, j})
	}
	slices.SortFunc(found, func(a, b entry) int { return a.compare(b.position) })
	out := &pb.ListJobsResponse{}
	if len(found) > size {
		found = found[:size]
		out.NextPageToken = token(found[size-1].position)
	}
	for _, f := range found {
		out.Jobs = append(out.Jobs, view(f.j, pb.JobView_JOB_VIEW_SUMMARY))
	}
	return out, nil
}

func pageSize(asked int32) (int, error) {
	switch {
	case asked < 0:
		return 0, invalid("The page size must not be negative; it is %d.", asked)
	case asked == 0:
		return defaultPage, nil
	}
	return min(int(asked), maxPage), nil
}

func token(at any) string {
	b, err := json.Marshal(at)
	if err != nil {
		panic(err) // positions and numbers always marshal
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func readToken(s string, into any) error {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		return invalid("The page token %q is not one that a list returned.", cut(s))
	}
	return nil
}

// GetJobMetrics answers a job's counters: the user's with origin "user", each once as committed and once, with context tentative=true, as attempted.
func (e *Emulator) GetJobMetrics(ctx context.Context, in *pb.GetJobMetricsRequest) (*pb.JobMetrics, error) {
	op := Operation{Method: "jobs.getMetrics", Project: in.ProjectId, Location: e.location(in.Location), JobID: in.JobId}
	return answer(ctx, e, op, func() (*pb.JobMetrics, error) {
		j, err := e.find(in.ProjectId, in.Location, in.JobId)
		if err != nil {
			return nil, err
		}
		if j.metrics == nil || in.StartTime != nil && j.metrics.MetricTime.AsTime().Before(in.StartTime.AsTime()) {
			return &pb.JobMetrics{MetricTime: j.record.CurrentStateTime}, nil
		}
		return proto.Clone(j.metrics).(*pb.JobMetrics), nil
	})
}

// severity orders importances, whose numbers are not in order.
var severity = map[pb.JobMessageImportance]int{
	pb.JobMessageImportance_JOB_MESSAGE_DEBUG:    1,
	pb.JobMessageImportance_JOB_MESSAGE_DETAILED: 2,
	pb.JobMessageImportance_JOB_MESSAGE_BASIC:    3,
	pb.JobMessageImportance_JOB_MESSAGE_WARNING:  4,
	pb.JobMessageImportance_JOB_MESSAGE_ERROR:    5,
}

// ListJobMessages lists a job's messages in the order of their times.
func (e *Emulator) ListJobMessages(ctx context.Context, in *pb.ListJobMessagesRequest) (*pb.ListJobMessagesResponse, error) {
	op := Operation{Method: "jobs.messages.list", Project: in.ProjectId, Location: e.location(in.Location), JobID: in.JobId}
	return answer(ctx, e, op, func() (*pb.ListJobMessagesResponse, error) {
		j, err := e.find(in.ProjectId, in.Location, in.JobId)
		if err != nil {
			return nil, err
		}
		size, err := pageSize(in.PageSize)
		if err != nil {
			return nil, err
		}
		skip := 0
		if in.PageToken != "" {
			if err := readToken(in.PageToken, &skip); err != nil {
				return nil, err
			}
		}
		out := &pb.ListJobMessagesResponse{}
		seen := 0
		for _, m := range j.messages {
			at := m.Time.AsTime()
			if severity[m.MessageImportance] < severity[in.MinimumImportance] ||
				in.StartTime != nil && at.Before(in.StartTime.AsTime()) || in.EndTime != nil && !at.Before(in.EndTime.AsTime()) {
				continue
			}
			if seen++; seen <= skip {
				continue
			}
			if len(out.JobMessages) == size {
				out.NextPageToken = token(skip + size)
				break
			}
			out.JobMessages = append(out.JobMessages, proto.Clone(m).(*pb.JobMessage))
		}
		return out, nil
	})
}

// compareNames orders metrics so that two answers of the same counters are the same.
func compareNames(a, b *pb.MetricStructuredName) int {
	return cmp.Or(
		cmp.Compare(b.Origin, a.Origin), // the user's before the service's
		cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Context["step"]+a.Context["output_user_name"], b.Context["step"]+b.Context["output_user_name"]),
		cmp.Compare(a.Context["tentative"], b.Context["tentative"]),
	)
}
