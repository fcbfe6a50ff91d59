package dataflow

import (
	"cmp"
	"time"

	v1b3 "google.golang.org/api/dataflow/v1b3"
)

// JobType is a job's type in the API's own words.
type JobType string

// The types. Other strings are possible; the type of a job that waits for its launch may not be known yet.
const (
	TypeUnknown   JobType = "JOB_TYPE_UNKNOWN"
	TypeBatch     JobType = "JOB_TYPE_BATCH"
	TypeStreaming JobType = "JOB_TYPE_STREAMING"
)

// Job is what the API says of a job. Zero times were not told.
type Job struct {
	ID              string            `json:"id"`
	Name            string            `json:"name"`
	Project         string            `json:"project"` // as it was asked for
	Location        string            `json:"location"`
	Type            JobType           `json:"type"`
	State           State             `json:"state"`
	StateTime       time.Time         `json:"stateTime,omitzero"` // when it entered State
	CreateTime      time.Time         `json:"createTime,omitzero"`
	StartTime       time.Time         `json:"startTime,omitzero"`
	RequestedState  State             `json:"requestedState,omitempty"` // empty: none
	Labels          map[string]string `json:"labels,omitempty"`         // Get tells them, Find does not
	ReplaceJobID    string            `json:"replaceJobId,omitempty"`   // the job that this one replaced
	ReplacedByJobID string            `json:"replacedByJobId,omitempty"`
}

// Observed is the job's state as the answer told it, for Newer.
func (j Job) Observed() Observed {
	return Observed{JobID: j.ID, State: j.State, StateTime: j.StateTime}
}

func jobOf(j *v1b3.Job, project, location string) Job {
	return Job{
		ID: j.Id, Name: j.Name, Project: project, Location: location,
		Type:  JobType(cmp.Or(j.Type, string(TypeUnknown))),
		State: ParseState(j.CurrentState), StateTime: parseTime(j.CurrentStateTime),
		CreateTime: parseTime(j.CreateTime), StartTime: parseTime(j.StartTime),
		RequestedState: requestedState(j.RequestedState), Labels: j.Labels,
		ReplaceJobID: j.ReplaceJobId, ReplacedByJobID: j.ReplacedByJobId,
	}
}

func requestedState(s string) State {
	if s := ParseState(s); s != StateUnknown {
		return s
	}
	return ""
}

// parseTime is the zero time for what is no timestamp, and for the epoch, which the API gives for a time not come yet.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Unix() == 0 {
		return time.Time{}
	}
	return t.UTC()
}
