package dataflow

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	v1b3 "google.golang.org/api/dataflow/v1b3"
)

// Launch describes a job to be launched from a template. Its fields and their order are those of the launch that
// travels in a run's input, so that one converts to the other.
type Launch struct {
	Project  string // project ID
	Location string // region, as us-central1
	// JobName is the name of the job: lower-case letters, digits and -, from a letter on, at most 1,024.
	JobName string
	// Template is the gs:// path of the template: a flex template's JSON file, or the classic template itself.
	Template   string
	Classic    bool // a classic template, not a flex one
	Parameters map[string]string
	// Labels are the job's labels. They override those of the same key in Environment's additionalUserLabels.
	Labels map[string]string
	// Environment holds runtime settings under the API's own field names, as maxWorkers or serviceAccountEmail.
	// A name that the API does not have is an error, as Dataflow would ignore it in silence.
	//
	// Source: FlexTemplateRuntimeEnvironment at
	// https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.locations.flexTemplates/launch
	// and, for classic templates, RuntimeEnvironment beside it.
	Environment map[string]any
	// Streaming says which type of job is expected. It changes nothing in the request, as the template decides:
	// compare Type with Job.Type.
	Streaming bool
}

// Request is a call of the API as it would be made.
type Request struct {
	Method string          `json:"method"`
	Path   string          `json:"path"` // with the query, from the endpoint on
	Body   json.RawMessage `json:"body"`
}

// SpecHash identifies what the launch would run: template and parameters. It is 16 lower-case hexadecimal digits, fit
// for a label, the same in every process and release. Name, labels and environment are not part of it.
func (l Launch) SpecHash() string {
	h := sha256.New()
	kind := "flex"
	if l.Classic {
		kind = "classic"
	}
	writeField(h, kind)
	writeField(h, l.Template)
	for _, k := range slices.Sorted(maps.Keys(l.Parameters)) {
		writeField(h, k)
		writeField(h, l.Parameters[k])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// writeField puts the length before the bytes, so that no two lists of fields give the same stream.
func writeField(h hash.Hash, s string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(s)))
	h.Write(n[:])
	h.Write([]byte(s))
}

// Type is the type of job that the launch expects.
func (l Launch) Type() JobType {
	if l.Streaming {
		return TypeStreaming
	}
	return TypeBatch
}

// Request is what Client.Launch would send, touching nothing. Its error is an *Error of KindInvalid that lists all
// that the API would refuse, or ignore, without a look at the template.
func (l Launch) Request() (Request, error) {
	var body any
	path := "/v1b3/projects/" + url.PathEscape(l.Project) + "/locations/" + url.PathEscape(l.Location)
	if l.Classic {
		p, err := l.classic()
		if err != nil {
			return Request{}, err
		}
		body, path = p, path+"/templates:launch?"+url.Values{"gcsPath": {l.Template}}.Encode()
	} else {
		p, err := l.flex()
		if err != nil {
			return Request{}, err
		}
		body, path = p, path+"/flexTemplates:launch"
	}
	b, err := json.Marshal(body)
	if err != nil {
		return Request{}, l.invalid([]Violation{{"environment", err.Error()}})
	}
	return Request{Method: http.MethodPost, Path: path, Body: b}, nil
}

// flex is the body of a flex template's launch.
func (l Launch) flex() (*v1b3.LaunchFlexTemplateRequest, error) {
	p := &v1b3.LaunchFlexTemplateParameter{JobName: l.JobName, ContainerSpecGcsPath: l.Template, Parameters: l.Parameters}
	bad := l.check()
	if len(l.Environment) > 0 || len(l.Labels) > 0 {
		p.Environment = new(v1b3.FlexTemplateRuntimeEnvironment)
		bad = append(bad, decodeEnvironment(l.Environment, p.Environment)...)
		p.Environment.AdditionalUserLabels = l.mergeLabels(p.Environment.AdditionalUserLabels)
		bad = append(bad, checkLabels(p.Environment.AdditionalUserLabels)...)
	}
	if len(bad) > 0 {
		return nil, l.invalid(bad)
	}
	return &v1b3.LaunchFlexTemplateRequest{LaunchParameter: p}, nil
}

// classic is the body of a classic template's launch; the template's path travels in the query.
func (l Launch) classic() (*v1b3.LaunchTemplateParameters, error) {
	p := &v1b3.LaunchTemplateParameters{JobName: l.JobName, Parameters: l.Parameters}
	bad := l.check()
	if len(l.Environment) > 0 || len(l.Labels) > 0 {
		p.Environment = new(v1b3.RuntimeEnvironment)
		bad = append(bad, decodeEnvironment(l.Environment, p.Environment)...)
		p.Environment.AdditionalUserLabels = l.mergeLabels(p.Environment.AdditionalUserLabels)
		bad = append(bad, checkLabels(p.Environment.AdditionalUserLabels)...)
	}
	if len(bad) > 0 {
		return nil, l.invalid(bad)
	}
	return p, nil
}

func (l Launch) mergeLabels(labels map[string]string) map[string]string {
	merged := make(map[string]string, len(labels)+len(l.Labels))
	maps.Copy(merged, labels)
	maps.Copy(merged, l.Labels)
	return merged
}

var (
	// Source: https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.jobs (name)
	jobNameRule = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)
	// A project ID may carry a domain, as example.com:project.
	projectRule  = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]*$`)
	locationRule = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	jobIDRule    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
	labelRule    = regexp.MustCompile(`^[a-z0-9_-]{0,63}$`)
)

// The API's limits.
const (
	maxLabels  = 64
	maxJobName = 1024
)

func validJobName(name string) bool { return len(name) <= maxJobName && jobNameRule.MatchString(name) }

// relaunchUpdates is an experiment under which a launch with the name of an active job updates that job: two launches
// would no longer be one job.
const relaunchUpdates = "create_or_update_job"

func (l Launch) check() []Violation {
	bad := checkPlace(l.Project, l.Location)
	if !validJobName(l.JobName) {
		bad = append(bad, Violation{"jobName", fmt.Sprintf("%q is no job name: it must match %s and have %d characters at most", clip(l.JobName), jobNameRule, maxJobName)})
	}
	if bucket, object, _ := strings.Cut(strings.TrimPrefix(l.Template, "gs://"), "/"); !strings.HasPrefix(l.Template, "gs://") || bucket == "" || object == "" {
		bad = append(bad, Violation{"template", fmt.Sprintf("%q is no path of the form gs://bucket/object", clip(l.Template))})
	}
	for _, k := range slices.Sorted(maps.Keys(l.Parameters)) {
		if strings.Contains(strings.ToLower(k), "experiments") && strings.Contains(l.Parameters[k], relaunchUpdates) {
			bad = append(bad, Violation{"parameters." + clip(k), relaunchUpdates + " is refused: a second launch would update the running job"})
		}
	}
	return bad
}

func checkPlace(project, location string) []Violation {
	var bad []Violation
	if !projectRule.MatchString(project) {
		bad = append(bad, Violation{"project", fmt.Sprintf("%q is no project ID", clip(project))})
	}
	if !locationRule.MatchString(location) {
		bad = append(bad, Violation{"location", fmt.Sprintf("%q is no location, as us-central1", clip(location))})
	}
	return bad
}

func checkLabels(labels map[string]string) []Violation {
	var bad []Violation
	if len(labels) > maxLabels {
		bad = append(bad, Violation{"labels", fmt.Sprintf("%d labels: a job has at most %d", len(labels), maxLabels)})
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if k == "" || !labelRule.MatchString(k) || !labelRule.MatchString(labels[k]) {
			bad = append(bad, Violation{"labels." + clip(k), "keys and values have at most 63 characters of a-z, 0-9, _ and -"})
		}
	}
	return bad
}

// decodeEnvironment fills env, a pointer to one of the API's environment structs, and refuses fields that it lacks.
func decodeEnvironment(fields map[string]any, env any) []Violation {
	var bad []Violation
	v := reflect.ValueOf(env).Elem()
	forced := v.FieldByName("ForceSendFields")
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		f, ok := fieldByJSONName(v.Type(), name)
		if !ok {
			bad = append(bad, Violation{"environment." + clip(name), "the API has no such field"})
			continue
		}
		b, err := json.Marshal(fields[name])
		if err == nil {
			err = json.Unmarshal(b, v.FieldByIndex(f.Index).Addr().Interface())
		}
		if err != nil {
			bad = append(bad, Violation{"environment." + name, fmt.Sprintf("want %s: %v", f.Type, err)})
			continue
		}
		if bytes.Contains(b, []byte(relaunchUpdates)) {
			bad = append(bad, Violation{"environment." + name, relaunchUpdates + " is refused: a second launch would update the running job"})
		}
		// An explicit 0, false or "" is sent as it stands, not dropped as an empty value.
		if string(b) != "null" {
			forced.Set(reflect.Append(forced, reflect.ValueOf(f.Name)))
		}
	}
	return bad
}

func fieldByJSONName(t reflect.Type, name string) (reflect.StructField, bool) {
	for f := range t.Fields() {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag == name && tag != "-" {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func (l Launch) invalid(bad []Violation) *Error {
	e := &Error{Op: "launch", Project: l.Project, Location: l.Location, Name: l.JobName}
	return e.refuse(bad)
}
