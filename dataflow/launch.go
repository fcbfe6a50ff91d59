package dataflow

import "encoding/json"

// Launch describes a job to be launched from a template. Its fields and their order are those of the launch that
// travels in a run's input, so that one converts to the other.
type Launch struct {
	Project  string // project ID
	Location string // region, as us-central1
	// JobName is the name of the job, at most 1,024 characters of lower-case letters, digits and -.
	JobName string
	// Template is the gs:// path of the template: a flex template's JSON file, or the classic template itself.
	Template   string
	Classic    bool // a classic template, not a flex one
	Parameters map[string]string
	// Labels are the job's labels. One that Environment's additionalUserLabels also has is overridden.
	Labels map[string]string
	// Environment holds runtime settings under the API's own field names, as maxWorkers or serviceAccountEmail.
	// A name that the API does not have is an error, as Dataflow would ignore it in silence.
	//
	// Source: https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.locations.flexTemplates/launch
	// (FlexTemplateRuntimeEnvironment) and, for classic templates, RuntimeEnvironment.
	Environment map[string]any
	// Streaming says which type of job is expected. It changes nothing in the request, as the template decides:
	// compare Type with Job.Type.
	Streaming bool
}

// Request is a call of the API as it would be made.
type Request struct {
	Method string          `json:"method"`
	Path   string          `json:"path"` // with the query, relative to the endpoint
	Body   json.RawMessage `json:"body"`
}

// SpecHash identifies what the launch would run: template and parameters. It is 16 lower-case hexadecimal digits, fit
// for a label, the same in every process and release. Name, labels and environment are not part of it.
func (l Launch) SpecHash() string { panic("unimplemented") }

// Type is the type of job that the launch expects.
func (l Launch) Type() JobType {
	if l.Streaming {
		return TypeStreaming
	}
	return TypeBatch
}

// Request is what Client.Launch would send, touching nothing. Its error is an *Error of KindInvalid that lists every
// field that the API would refuse or ignore.
func (l Launch) Request() (Request, error) { panic("unimplemented") }
