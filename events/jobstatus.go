package events

import "strings"

const dataflowSource = "//dataflow.googleapis.com/"

// jobStates and jobTypes are the enums' values by number, for senders that write numbers
// (google.events.cloud.dataflow.v1beta3).
var (
	jobStates = []string{
		"JOB_STATE_UNKNOWN", "JOB_STATE_STOPPED", "JOB_STATE_RUNNING", "JOB_STATE_DONE", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED",
		"JOB_STATE_UPDATED", "JOB_STATE_DRAINING", "JOB_STATE_DRAINED", "JOB_STATE_PENDING", "JOB_STATE_CANCELLING",
		"JOB_STATE_QUEUED", "JOB_STATE_RESOURCE_CLEANING_UP",
	}
	jobTypes = []string{"JOB_TYPE_UNKNOWN", "JOB_TYPE_BATCH", "JOB_TYPE_STREAMING"}
)

// setJobStatus makes e a status event of the job in data. Project and location come from the source, where the project
// is an ID; the data and the attributes may have its number.
func (e *Event) setJobStatus(data []byte, field string) error {
	parts := strings.Split(strings.TrimPrefix(e.Source, dataflowSource), "/")
	if !strings.HasPrefix(e.Source, dataflowSource) || len(parts) != 4 || parts[0] != "projects" || parts[1] == "" || parts[2] != "locations" || parts[3] == "" {
		return malformed("source", "%s is not %sprojects/P/locations/L, which says where the job is", quote(e.Source), dataflowSource)
	}
	envelope, err := readObject(field, data)
	if err != nil {
		return err
	}
	o := envelope.object("payload")
	if o == nil {
		if envelope.err != nil {
			return envelope.err
		}
		return malformed(envelope.field("payload"), "the field is missing; a job status event carries the job there")
	}
	j := &JobStatus{
		Project:         parts[1],
		Location:        parts[3],
		JobName:         o.required("name"),
		JobID:           o.required("id"),
		State:           o.enum("currentState", jobStates),
		StateTime:       o.timestamp("currentStateTime"),
		Type:            o.enum("type", jobTypes),
		CreateTime:      o.timestamp("createTime"),
		StartTime:       o.timestamp("startTime"),
		Labels:          o.stringMap("labels"),
		ReplaceJobID:    o.str("replaceJobId"),
		ReplacedByJobID: o.str("replacedByJobId"),
	}
	location := o.str("location")
	if o.err != nil {
		return o.err
	}
	if j.State == "" {
		return malformed(o.field("currentState"), "the field is missing or empty")
	}
	if location != "" && location != j.Location {
		return malformed(o.field("location"), "the field is %s and the event's source says %s", quote(location), quote(j.Location))
	}
	if name, ok := strings.CutPrefix(e.Subject, "jobs/"); ok && name != j.JobName {
		return malformed(o.field("name"), "the field is %s and the event's subject says %s", quote(j.JobName), quote(name))
	}
	if name, ok := e.Extensions["job"]; ok && name != j.JobName {
		return malformed(o.field("name"), "the field is %s and the event's job attribute says %s", quote(j.JobName), quote(name))
	}
	e.Kind, e.JobStatus = KindJobStatus, j
	return nil
}
