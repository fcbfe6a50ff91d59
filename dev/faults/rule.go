package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// Place is where a rule acts.
type Place string

// The places.
const (
	Dataflow Place = "dataflow" // the calls of Dataflow's API; the operation is the REST method, such as flexTemplates.launch, the subject a job's name
	Job      Place = "job"      // the jobs themselves; the operation is the container image or classic template, the subject the job's name
	Storage  Place = "storage"  // the calls of Cloud Storage; the operation is the JSON API's method, such as objects.insert, the subject bucket/object
	PubSub   Place = "pubsub"   // the calls of Pub/Sub; the operation is the gRPC method, such as Publish, the subject its topic or subscription
	Events   Place = "events"   // what is delivered to functions; the operation is the trigger's name, such as job-status, the subject a job's name or an object's
	Temporal Place = "temporal" // connections to Temporal; the operation is who connects: functions or worker
)

// Fault is what a rule does.
type Fault string

// The faults. Which place has which, and by what fields, docs/fault-lab.md says.
const (
	Latency        Fault = "latency"
	Status         Fault = "status"
	Hang           Fault = "hang"
	Reset          Fault = "reset"
	SameName       Fault = "same-name"
	Quota          Fault = "quota"
	ListLag        Fault = "list-lag"
	HideQueued     Fault = "hide-queued"
	CancelNotReady Fault = "cancel-not-ready"
	Fail           Fault = "fail"
	Lose           Fault = "lose"
	Duplicate      Fault = "duplicate"
	Delay          Fault = "delay"
	Shuffle        Fault = "shuffle"
	Unacknowledged Fault = "unacknowledged"
	Refuse         Fault = "refuse"
	Throttle       Fault = "throttle"
	Cut            Fault = "cut"
)

// mode says that a fault is a way to behave, not an event: it is neither counted nor logged.
func (f Fault) mode() bool {
	switch f {
	case SameName, Quota, ListLag, HideQueued, CancelNotReady:
		return true
	}
	return false
}

// Duration is a time.Duration that JSON has as Go's text: "1.5s", "2m".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. Negative durations are refused.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration; write it as 300ms, 1.5s or 2m", text)
	}
	if v < 0 {
		return fmt.Errorf("the duration %s is negative", text)
	}
	*d = Duration(v)
	return nil
}

// Rule is one fault, and what it strikes.
type Rule struct {
	// Name identifies the rule, in the log too, and seeds its draws. Unique; lower-case letters, digits, "-" and "_".
	Name string `json:"name"`
	// At is the place, Fault what happens there.
	At    Place `json:"at"`
	Fault Fault `json:"fault"`

	// Operation and Subject select by the names that the place gives them; "*" in either stands for any text. Empty: all.
	Operation string `json:"operation,omitempty"`
	Subject   string `json:"subject,omitempty"`
	// Rate is how likely a selected operation is struck, from 0 to 1. Nil: 1.
	Rate *float64 `json:"rate,omitempty"`
	// Count ends the rule after so many. 0: no end.
	Count int `json:"count,omitempty"`
	// From and Until are a window in time, counted from when the rule was set. Until 0: no end.
	From  Duration `json:"from,omitzero"`
	Until Duration `json:"until,omitzero"`

	// Committed makes latency, status, hang and reset strike after the operation took effect, in place of its answer.
	Committed bool `json:"committed,omitempty"`
	// Proceeds has a call that is late take effect also when its caller has given up meanwhile. Otherwise it then does not.
	Proceeds bool `json:"proceeds,omitempty"`
	// Delay and Jitter are how long: Delay, and up to Jitter more.
	Delay  Duration `json:"delay,omitzero"`
	Jitter Duration `json:"jitter,omitzero"`
	// Status is an HTTP status; RetryAfter, if not 0, the Retry-After that goes with it, rounded up to seconds.
	Status     int      `json:"status,omitempty"`
	RetryAfter Duration `json:"retryAfter,omitzero"`
	// Message is the error's text.
	Message string `json:"message,omitempty"`
	// State is the state that a job hangs or fails in.
	State string `json:"state,omitempty"`
	// Form is how Dataflow behaves where it has been seen to behave in two ways.
	Form string `json:"form,omitempty"`
	// Limit is the quota of active jobs.
	Limit *int `json:"limit,omitempty"`
	// Copies is how many more deliveries there are. 0: 1.
	Copies int `json:"copies,omitempty"`
	// Bytes is after how many bytes a connection is cut, or how many a second it lets through, in each direction.
	Bytes int64 `json:"bytes,omitempty"`
	// Direction restricts what strikes a connection to one way: Requests or Answers. Empty: both.
	Direction Direction `json:"direction,omitempty"`
}

// Direction is one way of a connection.
type Direction string

// The directions.
const (
	Requests Direction = "requests" // from who connects to the server
	Answers  Direction = "answers"  // from the server
)

// takes lists the fields of a fault at a place, beyond those that every rule has: what must be there, and what may be.
type takes struct{ must, may []string }

var (
	latencyTakes = takes{[]string{"delay"}, []string{"jitter", "committed"}}
	statusTakes  = takes{[]string{"status"}, []string{"retryAfter", "message", "committed"}}
	hangTakes    = takes{nil, []string{"delay", "jitter", "committed"}}
	resetTakes   = takes{nil, []string{"committed"}}
	callFaults   = map[Fault]takes{Latency: latencyTakes, Status: statusTakes, Hang: hangTakes, Reset: resetTakes}

	places = map[Place]map[Fault]takes{
		Dataflow: {
			Latency: {latencyTakes.must, append([]string{"proceeds"}, latencyTakes.may...)},
			Status:  statusTakes, Hang: hangTakes, Reset: resetTakes,
			SameName:       {must: []string{"form"}},
			Quota:          {must: []string{"limit"}, may: []string{"form"}},
			ListLag:        {must: []string{"delay"}},
			HideQueued:     {},
			CancelNotReady: {must: []string{"delay"}},
		},
		Job: {
			Fail: {may: []string{"state", "message", "delay", "jitter"}},
			Hang: {must: []string{"state"}, may: []string{"delay", "jitter"}},
		},
		Storage: callFaults,
		PubSub:  callFaults,
		Events: {
			Lose:           {},
			Duplicate:      {may: []string{"copies", "delay", "jitter"}},
			Delay:          {must: []string{"delay"}, may: []string{"jitter"}},
			Shuffle:        {must: []string{"jitter"}},
			Unacknowledged: {},
		},
		Temporal: {
			Latency:  {must: []string{"delay"}, may: []string{"jitter", "direction"}},
			Reset:    {},
			Refuse:   {},
			Hang:     {may: []string{"direction"}},
			Throttle: {must: []string{"bytes"}, may: []string{"direction"}},
			Cut:      {must: []string{"bytes"}, may: []string{"direction"}},
		},
	}

	forms = map[Fault][]string{SameName: {"conflict", "existing"}, Quota: {"fail", "refuse"}}

	states = map[Fault][]string{
		Fail: {"QUEUED", "PENDING", "RUNNING"},
		Hang: {"QUEUED", "PENDING", "RUNNING", "CANCELLING", "DRAINING"},
	}

	ruleName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
)

// present are the names of the fields that are set, of those that not every fault takes.
func (r Rule) present() map[string]bool {
	set := map[string]bool{
		"committed": r.Committed, "proceeds": r.Proceeds, "delay": r.Delay != 0, "jitter": r.Jitter != 0, "status": r.Status != 0, "retryAfter": r.RetryAfter != 0,
		"message": r.Message != "", "state": r.State != "", "form": r.Form != "", "limit": r.Limit != nil, "copies": r.Copies != 0, "bytes": r.Bytes != 0,
		"direction": r.Direction != "",
	}
	maps.DeleteFunc(set, func(_ string, there bool) bool { return !there })
	return set
}

// Check says what is wrong with a rule: all of it, as one error that names the rule and the fields.
func (r Rule) Check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("rule %q: "+format, append([]any{r.Name}, args...)...))
	}
	if !ruleName.MatchString(r.Name) {
		bad(`name: it has 1 to 63 of the characters a-z, 0-9, "-" and "_", and begins with a letter or digit`)
	}
	if r.Rate != nil && !(*r.Rate >= 0 && *r.Rate <= 1) {
		bad("rate: %v is not between 0 and 1", *r.Rate)
	}
	if r.Count < 0 {
		bad("count: %d is negative", r.Count)
	}
	if r.Count > 0 && r.Fault.mode() {
		bad("count: %s is a way to behave, which cannot be counted; use rate, from and until", r.Fault)
	}
	if r.Until != 0 && r.Until <= r.From {
		bad("until: %s is not after from, %s", time.Duration(r.Until), time.Duration(r.From))
	}
	known, ok := places[r.At]
	if !ok {
		bad("at: there is no place %q; there are %s", r.At, list(places))
		return errors.Join(errs...)
	}
	takes, ok := known[r.Fault]
	if !ok {
		bad("fault: %s has no fault %q; it has %s", r.At, r.Fault, list(known))
		return errors.Join(errs...)
	}
	present := r.present()
	for _, name := range takes.must {
		if !present[name] {
			bad("%s: it is missing; %s at %s needs it", name, r.Fault, r.At)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(present)) {
		if !slices.Contains(takes.must, name) && !slices.Contains(takes.may, name) {
			bad("%s: %s at %s does not take it", name, r.Fault, r.At)
		}
	}
	if r.Status != 0 && answers[r.Status] == 0 {
		bad("status: %d cannot be answered; there are %s", r.Status, list(answers))
	}
	if f := forms[r.Fault]; r.Form != "" && !slices.Contains(f, r.Form) {
		bad("form: %q is none of %s", r.Form, strings.Join(f, ", "))
	}
	if s := states[r.Fault]; r.State != "" && !slices.Contains(s, r.State) {
		bad("state: a job cannot %s in %q; it can in %s", r.Fault, r.State, strings.Join(s, ", "))
	}
	if r.Copies < 0 || r.Copies > 100 {
		bad("copies: %d is not between 1 and 100", r.Copies)
	}
	if r.Direction != "" && r.Direction != Requests && r.Direction != Answers {
		bad("direction: %q is none of %s, %s", r.Direction, Requests, Answers)
	}
	if r.Bytes < 0 {
		bad("bytes: %d is negative", r.Bytes)
	}
	return errors.Join(errs...)
}

func list[K ~string | ~int, V any](m map[K]V) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprint(k))
	}
	return strings.Join(out, ", ")
}

// selects says whether the rule speaks of an operation.
func (r Rule) selects(place Place, operation, subject string) bool {
	return r.At == place && matches(r.Operation, operation) && matches(r.Subject, subject)
}

// matches compares text with a pattern in which "*" stands for any text, also one with slashes. The empty pattern matches all.
func matches(pattern, text string) bool {
	if pattern == "" {
		return true
	}
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return strings.HasSuffix(text, last)
}

// Plan is a faults file, and the body of PUT /faults.
type Plan struct {
	// Seed is what all draws follow. 0: chosen at random, and printed.
	Seed  uint64 `json:"seed,omitempty"`
	Rules []Rule `json:"rules"`
}

// maxPlan bounds a plan's text, and maxRules its rules: they are looked at one by one.
const (
	maxPlan  = 1 << 20
	maxRules = 1000
)

// ParsePlan reads and checks a plan. Fields that it does not know are errors, so that a misspelt one is no fault that never comes.
func ParsePlan(text []byte) (Plan, error) {
	var p Plan
	if err := decode(text, &p); err != nil {
		return Plan{}, err
	}
	return p, checkAll(p.Rules)
}

func checkAll(rules []Rule) error {
	if len(rules) > maxRules {
		return fmt.Errorf("there are %d rules; at most %d can be", len(rules), maxRules)
	}
	var errs []error
	names := map[string]bool{}
	for _, r := range rules {
		errs = append(errs, r.Check())
		if names[r.Name] {
			errs = append(errs, fmt.Errorf("rule %q: name: another rule has it", r.Name))
		}
		names[r.Name] = true
	}
	return errors.Join(errs...)
}

func decode(text []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("the rules cannot be read: %w", err)
	}
	if d.More() {
		return errors.New("the rules cannot be read: there is text after the JSON value")
	}
	return nil
}

// answers are the statuses that a rule can answer, with what gRPC calls them (google/rpc/code.proto).
var answers = map[int]codes.Code{
	http.StatusBadRequest:          codes.InvalidArgument,
	http.StatusUnauthorized:        codes.Unauthenticated,
	http.StatusForbidden:           codes.PermissionDenied,
	http.StatusNotFound:            codes.NotFound,
	http.StatusConflict:            codes.Aborted,
	http.StatusTooManyRequests:     codes.ResourceExhausted,
	http.StatusInternalServerError: codes.Internal,
	http.StatusServiceUnavailable:  codes.Unavailable,
	http.StatusGatewayTimeout:      codes.DeadlineExceeded,
}
