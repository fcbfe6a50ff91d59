package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// Version is the major version of claims and records: a reader refuses another.
// ClaimMinor and RecordMinor count the fields that were added within it: a reader
// refuses a field that it does not know, unless the writer's minor version is
// newer than its own.
const (
	Version     = 1
	ClaimMinor  = 0
	RecordMinor = 1
)

const (
	maxObject = 1 << 20  // bytes
	maxKey    = 16 << 10 // bytes, of an identity too
)

// ErrInvalid is what errors.Is finds when a claim, a record or a key is itself
// wrong: the same call will never succeed.
var ErrInvalid = errors.New("the ledger cannot hold it")

// Claim says which chain of executions a key belongs to.
type Claim struct {
	// Version and Minor are the format's, set by the ledger.
	Version int `json:"version"`
	Minor   int `json:"minor"`

	Deployment string `json:"deployment"`
	Pipeline   string `json:"pipeline"`
	Key        string `json:"key"`
	// RunID is the run's workflow ID.
	RunID string `json:"runId"`
	// Chain is the first run ID of the execution chain, Temporal's FirstRunID: it
	// survives reset, retry policy and continue-as-new.
	Chain string `json:"chain"`
	// Identity is the event's that started the run.
	Identity string `json:"identity"`
	// At is when the run claimed the key.
	At time.Time `json:"at"`
	// Expires is from when another run may have the key; zero: never.
	Expires time.Time `json:"expires,omitzero"`
	// Retries is set by the run of a person's retry: the chain that it runs again,
	// whose claim it may take over whatever became of it. Empty for the run of an event.
	Retries string `json:"retries,omitempty"`

	// The rest is the ledger's, what a caller sets is overwritten.

	// After is the chain whose claim this one replaced; empty: none.
	After string `json:"after,omitempty"`
	// Since is when the oldest of the chains claimed the key whose outcome is not on
	// record: this one's own At, unless it took over from one without a final record.
	// Dataflow's memory of their jobs is counted from it.
	Since time.Time `json:"since"`
	// LastRecord is the chain whose final record is the newest that an earlier
	// holder of the key left; empty: none.
	LastRecord string `json:"lastRecord,omitempty"`
}

// Record is what became of a run: the archive that outlives Temporal's retention.
// It holds no event.
type Record struct {
	// Version and Minor are the format's, set by the ledger.
	Version int `json:"version"`
	Minor   int `json:"minor"`

	Deployment string `json:"deployment"`
	Pipeline   string `json:"pipeline"`
	Key        string `json:"key"`
	RunID      string `json:"runId"` // the workflow ID
	Chain      string `json:"chain"` // the first run ID of the execution chain
	// Execution is the Temporal run ID of the execution that ended.
	Execution string `json:"execution"`
	Identity  string `json:"identity"` // the event's that started the run
	// Decision is what became of that event: "started", or "retry" for a person's retry.
	Decision string `json:"decision"`
	// Config is the version of the pipeline that the run kept.
	Config  pipeline.Version `json:"config"`
	Outcome runs.Outcome     `json:"outcome"`
	Error   string           `json:"error,omitempty"` // the first failure, in words
	Started time.Time        `json:"started"`
	Ended   time.Time        `json:"ended"`
	// Steps holds each step's jobs, in the order of the pipelines file.
	Steps []runs.StepResult `json:"steps"`
	// Trimmed says what the record lost to stay below 1 MiB, in words; empty: nothing.
	Trimmed string `json:"trimmed,omitempty"`
}

func (c Claim) sameKey(deployment, pipeline, key string) bool {
	return c.Deployment == deployment && c.Pipeline == pipeline && c.Key == key
}

func (c Claim) about(deployment, pipeline, key string) error {
	return about(c.sameKey(deployment, pipeline, key), c.Deployment, c.Pipeline, c.Key)
}

func (r Record) about(deployment, pipeline, key string) error {
	return about(r.Deployment == deployment && r.Pipeline == pipeline && r.Key == key, r.Deployment, r.Pipeline, r.Key)
}

func about(same bool, deployment, pipeline, key string) error {
	if same {
		return nil
	}
	return fmt.Errorf("it is about another key: %q of %s/%s", clip(key), clip(deployment), clip(pipeline))
}

// succeeding is the claim as it replaces another.
func (c Claim) succeeding(seen Entry) Claim {
	c.After = seen.Claim.Chain
	c.Since, c.LastRecord = seen.Claim.Since, seen.Claim.LastRecord
	if seen.Record != nil {
		c.Since, c.LastRecord = c.At, seen.Claim.Chain
	}
	if seen.Claim.Expired(c.At) { // what became of it no longer matters
		c.Since = c.At
	}
	return c
}

func (c Claim) object() string  { return claimObject(c.Deployment, c.Pipeline, c.Key) }
func (r Record) object() string { return recordObject(r.Deployment, r.Pipeline, r.Key, r.Chain) }

func (c Claim) failed(op string, err error) error { return failed(op, c.Pipeline, c.Key, err) }

func (r Record) failed(op string, err error) error { return failed(op, r.Pipeline, r.Key, err) }

// failed puts the key before an error; nil stays nil.
func failed(op, pipeline, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s key %q of pipeline %q: %w", op, clip(key), clip(pipeline), err)
}

func (c *Claim) encode() ([]byte, error) {
	c.Version, c.Minor = Version, ClaimMinor
	c.At, c.Since = c.At.UTC(), c.Since.UTC()
	if !c.Expires.IsZero() {
		c.Expires = c.Expires.UTC()
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return encode(c)
}

// check says what makes a claim unusable, read or to be written.
func (c *Claim) check() error {
	errs := []error{checkKey(c.Deployment, c.Pipeline, c.Key), checkRun(c.RunID, c.Chain, c.Identity), checkTime("at", c.At), checkTime("since", c.Since)}
	for _, chain := range []string{c.After, c.Retries, c.LastRecord} {
		if chain != "" {
			errs = append(errs, checkChain(chain))
		}
	}
	if !c.Expires.IsZero() {
		errs = append(errs, checkTime("expires", c.Expires))
		if !c.Expires.After(c.At) {
			errs = append(errs, errors.New("the claim expires before it is made"))
		}
	}
	return invalid(errs...)
}

func (r *Record) encode() ([]byte, error) {
	r.Version, r.Minor, r.Trimmed = Version, RecordMinor, ""
	r.Started, r.Ended = r.Started.UTC(), r.Ended.UTC()
	if err := r.check(); err != nil {
		return nil, err
	}
	// A claim whose run left no final record may be taken over: so the record is
	// written at any price, that of its details first.
	data, err := encode(r)
	for _, trim := range trims {
		if err != nil || len(data) <= maxObject {
			return data, err
		}
		r.Steps = trim.steps(r.Steps)
		r.Error = cut(r.Error, trimmedText)
		r.Trimmed = trim.lost
		data, err = encode(r)
	}
	if err == nil && len(data) > maxObject {
		err = invalid(fmt.Errorf("the record has %d bytes even without the steps' details, more than %d", len(data), maxObject))
	}
	return data, err
}

func (r *Record) check() error {
	errs := []error{checkKey(r.Deployment, r.Pipeline, r.Key), checkRun(r.RunID, r.Chain, r.Identity), checkTime("started", r.Started), checkTime("ended", r.Ended)}
	if r.Execution == "" {
		errs = append(errs, errors.New("the execution is missing"))
	}
	if !r.Outcome.Over() {
		errs = append(errs, fmt.Errorf("the outcome %q is not final", clip(string(r.Outcome))))
	}
	return invalid(errs...)
}

const trimmedText = 1 << 10 // bytes of a message that is left

// trims are what a record too large loses, the least missed first.
var trims = []struct {
	lost  string
	steps func([]runs.StepResult) []runs.StepResult
}{
	{"parameters and metrics of all but each step's last attempt, and long messages", func(steps []runs.StepResult) []runs.StepResult {
		return eachAttempt(steps, func(a *runs.JobResult, last bool) {
			a.Error, a.Note = cut(a.Error, trimmedText), cut(a.Note, trimmedText)
			if !last {
				a.Parameters, a.Metrics = nil, nil
			}
		})
	}},
	{"parameters and metrics, and messages", func(steps []runs.StepResult) []runs.StepResult {
		return eachAttempt(steps, func(a *runs.JobResult, _ bool) {
			a.Parameters, a.Metrics, a.Error, a.Note = nil, nil, cut(a.Error, 100), ""
		})
	}},
	{"parameters and metrics, messages, and all but each step's last attempt", func(steps []runs.StepResult) []runs.StepResult {
		out := eachAttempt(steps, func(*runs.JobResult, bool) {})
		for i := range out {
			if n := len(out[i].Attempts); n > 0 {
				out[i].Attempts = out[i].Attempts[n-1:]
			}
			out[i].Error = cut(out[i].Error, 100)
		}
		return out
	}},
}

// eachAttempt copies the steps, so that the caller's stay as they are.
func eachAttempt(steps []runs.StepResult, change func(a *runs.JobResult, last bool)) []runs.StepResult {
	out := append([]runs.StepResult(nil), steps...)
	for i := range out {
		out[i].Error = cut(out[i].Error, trimmedText)
		out[i].Attempts = append([]runs.JobResult(nil), out[i].Attempts...)
		for j := range out[i].Attempts {
			change(&out[i].Attempts[j], j == len(out[i].Attempts)-1)
		}
	}
	return out
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // people read it
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, invalid(fmt.Errorf("make JSON of it: %w", err))
	}
	return b.Bytes(), nil
}

func decodeClaim(data []byte) (Claim, error) {
	var c Claim
	err := decode(data, ClaimMinor, &c)
	if err == nil {
		err = c.check()
	}
	return c, err
}

func decodeRecord(data []byte) (Record, error) {
	var r Record
	err := decode(data, RecordMinor, &r)
	if err == nil {
		err = r.check()
	}
	return r, err
}

func decode(data []byte, minor int, into any) error {
	if !utf8.Valid(data) {
		return errors.New("it is not UTF-8")
	}
	var format struct {
		Version int `json:"version"`
		Minor   int `json:"minor"`
	}
	if err := json.Unmarshal(data, &format); err != nil {
		return fmt.Errorf("it is not the JSON of a claim or record: %w", err)
	}
	switch {
	case format.Version > Version:
		return fmt.Errorf("it has version %d, and this program knows %d; use a newer penstock", format.Version, Version)
	case format.Version != Version || format.Minor < 0:
		return errors.New("it has no version of a claim or record")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if format.Minor <= minor {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("it is not the JSON of a claim or record: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind its JSON")
	}
	return nil
}

const (
	root      = "v1/"
	claimName = "claim.json"
)

var (
	pipelineRE = regexp.MustCompile(`^[a-z](?:[-a-z0-9]{0,62}[a-z0-9])?$`)
	keyHashRE  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	chainRE    = regexp.MustCompile(`^[0-9a-z](?:[-0-9a-z]{0,62}[0-9a-z])?$`)
)

func pipelinePrefix(deployment, pipeline string) string {
	return root + deployment + "/" + pipeline + "/"
}

// claimObject is the claim's name below the ledger's place. Only the key may hold
// anything, so only the key is hashed.
func claimObject(deployment, pipeline, key string) string {
	return pipelinePrefix(deployment, pipeline) + KeyHash(key) + "/" + claimName
}

// KeyHash is the SHA-256 of a key in lower-case hex. Run IDs that do not hold the key
// itself hold this.
func KeyHash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// recordObject names a record after its chain, so that what a run of long ago
// writes late cannot stand for the run that took its key over.
func recordObject(deployment, pipeline, key, chain string) string {
	return strings.TrimSuffix(claimObject(deployment, pipeline, key), claimName) + "record-" + chain + ".json"
}

func isClaimObject(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	hash, file, two := strings.Cut(rest, "/")
	return ok && two && file == claimName && len(hash) == hex.EncodedLen(sha256.Size)
}

// invalid joins what is wrong into one ErrInvalid; nil if nothing is.
func invalid(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

func checkPipeline(deployment, pipeline string) error {
	errs := []error{runs.CheckDeployment(deployment)}
	if !pipelineRE.MatchString(pipeline) {
		errs = append(errs, fmt.Errorf("%q is no name of a pipeline", clip(pipeline)))
	}
	return errors.Join(errs...)
}

func checkKey(deployment, pipeline, key string) error {
	err := checkPipeline(deployment, pipeline)
	switch {
	case key == "":
		return errors.Join(err, errors.New("the key is empty"))
	case len(key) > maxKey:
		return errors.Join(err, fmt.Errorf("the key has %d bytes, more than %d; make the pipeline's key shorter", len(key), maxKey))
	case !utf8.ValidString(key): // JSON cannot carry it, and two keys would become one
		return errors.Join(err, errors.New("the key is not UTF-8"))
	}
	return err
}

func checkRun(id, chain, identity string) error {
	errs := []error{checkChain(chain)}
	if id == "" || len(id) > 1000 || !utf8.ValidString(id) { // Temporal's limit
		errs = append(errs, fmt.Errorf("%q is no workflow ID", clip(id)))
	}
	if len(identity) > maxKey || !utf8.ValidString(identity) {
		errs = append(errs, fmt.Errorf("the event identity is not UTF-8 of at most %d bytes", maxKey))
	}
	return errors.Join(errs...)
}

func checkChain(chain string) error {
	if !chainRE.MatchString(chain) {
		return fmt.Errorf("the chain %q is no run ID of Temporal", clip(chain))
	}
	return nil
}

func checkTime(name string, t time.Time) error {
	if year := t.UTC().Year(); t.IsZero() || year < 1 || year > 9999 {
		return fmt.Errorf("the time %q is missing or outside the years 1 to 9999", name)
	}
	return nil
}

func clip(s string) string { return cut(s, 200) }

// cut shortens a text to n bytes, without tearing a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const more = "…"
	n -= len(more)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + more
}
