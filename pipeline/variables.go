package pipeline

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"

	"github.com/penstock/penstock/events"
)

// variable is a field of event, run or steps.<name>: what the checker, the reference page and the values agree on.
type variable struct {
	name    string
	celType *cel.Type
	doc     string
}

var stringMap = cel.MapType(cel.StringType, cel.StringType)

var commonFields = []variable{
	{"type", cel.StringType, "CloudEvents type"},
	{"source", cel.StringType, "CloudEvents source"},
	{"id", cel.StringType, "CloudEvents ID. One change may come under several IDs: `identity` is the one to tell events apart by"},
	{"subject", cel.StringType, "CloudEvents subject, or empty"},
	{"time", cel.TimestampType, "when it happened; absent if the event does not say"},
	{"identity", cel.StringType, "what makes two deliveries the same event"},
	{"extensions", stringMap, "CloudEvents extension attributes"},
}

// eventFields are the fields of event by kind. A field of one name has one type in all of them: deferred expressions meet their
// variables again without knowing the kind.
var eventFields = map[events.Kind][]variable{
	events.KindStorage: append([]variable{
		{"bucket", cel.StringType, "the bucket's name"},
		{"name", cel.StringType, "the object's name, byte for byte"},
		{"uri", cel.StringType, "gs://BUCKET/NAME"},
		{"change", cel.StringType, "finalized, deleted, archived or metadataUpdated"},
		{"generation", cel.StringType, "which content of the object it is: a number too large for most programs, so text; int(event.generation) compares"},
		{"metageneration", cel.StringType, "which metadata of that generation"},
		{"size", cel.IntType, "bytes"},
		{"contentType", cel.StringType, "or empty, like the next ones"},
		{"contentEncoding", cel.StringType, ""},
		{"contentDisposition", cel.StringType, ""},
		{"contentLanguage", cel.StringType, ""},
		{"cacheControl", cel.StringType, ""},
		{"md5Hash", cel.StringType, "base64; empty for composite objects"},
		{"crc32c", cel.StringType, "base64"},
		{"etag", cel.StringType, ""},
		{"storageClass", cel.StringType, ""},
		{"kmsKeyName", cel.StringType, ""},
		{"metadata", stringMap, "the object's own metadata"},
		{"componentCount", cel.IntType, "parts of a composite object"},
		{"temporaryHold", cel.BoolType, ""},
		{"eventBasedHold", cel.BoolType, ""},
		{"timeCreated", cel.TimestampType, "absent if the event does not say, like the next ones"},
		{"updated", cel.TimestampType, ""},
		{"timeDeleted", cel.TimestampType, ""},
		{"timeStorageClassUpdated", cel.TimestampType, ""},
		{"retentionExpirationTime", cel.TimestampType, ""},
	}, commonFields...),
	events.KindPubSub: append([]variable{
		{"topic", cel.StringType, "projects/P/topics/T"},
		{"messageId", cel.StringType, "unique within the topic"},
		{"publishTime", cel.TimestampType, "absent if the event does not say"},
		{"orderingKey", cel.StringType, "or empty"},
		{"attributes", stringMap, "the message's attributes"},
		{"data", cel.DynType, "the message: a JSON object, array or string parsed, else its text, else (not UTF-8) base64"},
	}, commonFields...),
	events.KindJobStatus: append([]variable{
		{"project", cel.StringType, "project ID"},
		{"location", cel.StringType, "region"},
		{"jobName", cel.StringType, ""},
		{"jobId", cel.StringType, ""},
		{"jobType", cel.StringType, "JOB_TYPE_BATCH, JOB_TYPE_STREAMING or empty"},
		{"state", cel.StringType, "JOB_STATE_…"},
		{"stateTime", cel.TimestampType, "when that state began; absent if the event does not say"},
		{"labels", stringMap, "the job's labels"},
	}, commonFields...),
	events.KindGeneric: append([]variable{
		{"data", cel.DynType, "the event's JSON data, null if it has none"},
	}, commonFields...),
}

var runFields = []variable{
	{"pipeline", cel.StringType, "the pipeline's name"},
	{"key", cel.StringType, "the run's key"},
}

var stepResultFields = []variable{
	{"jobId", cel.StringType, "the job of the last attempt"},
	{"jobName", cel.StringType, "its name"},
	{"state", cel.StringType, "its last state, JOB_STATE_…"},
	{"metrics", cel.MapType(cel.StringType, cel.IntType), "the pipeline's own counters by name; of very many the first 32 KiB"},
	{"error", cel.StringType, "the job's first error message, or empty"},
	{"parameters", stringMap, "the parameters it was launched with"},
	{"attempts", cel.IntType, "how many jobs it took"},
}

func fieldNames(fields []variable) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return names
}

// typedFields maps the names of event's numbers and times to their types, for values that JSON has made something else of.
var typedFields = func() map[string]*cel.Type {
	typed := map[string]*cel.Type{}
	for _, fields := range eventFields {
		for _, f := range fields {
			if f.celType == cel.IntType || f.celType == cel.TimestampType {
				typed[f.name] = f.celType
			}
		}
	}
	return typed
}()

// eventVariables returns the fields of event. Every field that is not a time is there.
func eventVariables(e *events.Event) map[string]any {
	v := map[string]any{
		"type": e.Type, "source": e.Source, "id": e.ID, "subject": e.Subject, "identity": e.Identity(), "extensions": orEmpty(e.Extensions),
	}
	times := map[string]time.Time{"time": e.Time}
	switch e.Kind {
	case events.KindStorage:
		s := e.Storage
		maps.Copy(v, map[string]any{
			"bucket": s.Bucket, "name": s.Name, "uri": s.URI(), "change": string(s.Change),
			"generation": strconv.FormatInt(s.Generation, 10), "metageneration": strconv.FormatInt(s.Metageneration, 10), "size": s.Size,
			"contentType": s.ContentType, "contentEncoding": s.ContentEncoding, "contentDisposition": s.ContentDisposition,
			"contentLanguage": s.ContentLanguage, "cacheControl": s.CacheControl, "md5Hash": s.MD5Hash, "crc32c": s.CRC32C, "etag": s.ETag,
			"storageClass": s.StorageClass, "kmsKeyName": s.KMSKeyName, "metadata": orEmpty(s.Metadata), "componentCount": s.ComponentCount,
			"temporaryHold": s.TemporaryHold, "eventBasedHold": s.EventBasedHold,
		})
		maps.Copy(times, map[string]time.Time{
			"timeCreated": s.TimeCreated, "updated": s.Updated, "timeDeleted": s.TimeDeleted,
			"timeStorageClassUpdated": s.TimeStorageClassUpdated, "retentionExpirationTime": s.RetentionExpirationTime,
		})
	case events.KindPubSub:
		p := e.PubSub
		maps.Copy(v, map[string]any{
			"topic": p.Topic, "messageId": p.MessageID, "orderingKey": p.OrderingKey, "attributes": orEmpty(p.Attributes), "data": messageData(p.Data),
		})
		times["publishTime"] = p.PublishTime
	case events.KindJobStatus:
		j := e.JobStatus
		maps.Copy(v, map[string]any{
			"project": j.Project, "location": j.Location, "jobName": j.JobName, "jobId": j.JobID, "jobType": j.Type, "state": j.State, "labels": orEmpty(j.Labels),
		})
		times["stateTime"] = j.StateTime
	case events.KindGeneric:
		data, err := parseJSON(e.Data)
		if err != nil {
			data = nil // events has checked it; none is null
		}
		v["data"] = data
	}
	for name, t := range times {
		if !t.IsZero() {
			v[name] = t
		}
	}
	return v
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// messageData is a message's data as expressions see it: a JSON object, array or string parsed; else the text; else base64. A
// bare number stays text: a message such as 12e4 or 007 is somebody's identifier.
func messageData(data []byte) any {
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && bytes.IndexByte([]byte(`{["`), trimmed[0]) >= 0 {
		if v, err := parseJSON(data); err == nil {
			return v
		}
	}
	if utf8.Valid(data) {
		return string(data)
	}
	return base64.StdEncoding.EncodeToString(data)
}

// parseJSON reads one JSON value without rounding its integers: see number.
func parseJSON(data []byte) (any, error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("parse JSON: there is none")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("parse JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("parse JSON: more than one value")
	}
	return numbers(v), nil
}

func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		return number(v.String())
	case map[string]any:
		for k, x := range v {
			v[k] = numbers(x)
		}
	case []any:
		for i, x := range v {
			v[i] = numbers(x)
		}
	}
	return v
}

// number turns a JSON number into what CEL says JSON numbers are, a double, unless that would round an integer: 64-bit
// integers beyond 2^53 stay integers, and longer ones stay the text they were. An order number of 19 digits in a key must not
// become its neighbour's.
func number(s string) any {
	const exact = 1 << 53
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		if i >= -exact && i <= exact {
			return float64(i)
		}
		return i
	}
	if u, err := strconv.ParseUint(s, 10, 64); err == nil {
		return u
	}
	if !bytes.ContainsAny([]byte(s), ".eE") {
		return s
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) {
		return s
	}
	return f
}

// Vars are the variables of deferred expressions by name: parts of `event`, `object` and `run`. It reads its own JSON back
// without rounding large integers.
type Vars map[string]any

// UnmarshalJSON reads what json.Marshal wrote.
func (v *Vars) UnmarshalJSON(data []byte) error {
	parsed, err := parseJSON(data)
	if err != nil {
		return fmt.Errorf("read the variables of deferred expressions: %w", err)
	}
	m, ok := parsed.(map[string]any)
	if !ok && parsed != nil {
		return fmt.Errorf("read the variables of deferred expressions: they are not an object")
	}
	*v = m
	return nil
}

// restore gives the fields of event the types back that JSON does not have. The variables are not changed.
func restore(vars map[string]any) (map[string]any, error) {
	event, ok := vars["event"].(map[string]any)
	if !ok {
		return vars, nil
	}
	event = maps.Clone(event)
	for name, t := range typedFields {
		switch x := event[name].(type) {
		case float64:
			if t == cel.IntType {
				event[name] = int64(x)
			}
		case string:
			if t == cel.TimestampType {
				at, err := time.Parse(time.RFC3339Nano, x)
				if err != nil {
					return nil, fmt.Errorf("read event.%s: %w", name, err)
				}
				event[name] = at
			}
		}
	}
	vars = maps.Clone(vars)
	vars["event"] = event
	return vars, nil
}

// pick copies the part of from that a path of names leads to. Longer paths have to come first: what a shorter one copies whole
// is shared with from, and never written to again.
func pick(to, from map[string]any, path []string) {
	if len(path) == 0 {
		maps.Copy(to, from)
		return
	}
	v, ok := from[path[0]]
	if !ok {
		return
	}
	inner, nested := v.(map[string]any)
	if !nested || len(path) == 1 {
		to[path[0]] = v
		return
	}
	part, ok := to[path[0]].(map[string]any)
	if !ok {
		part = map[string]any{}
		to[path[0]] = part
	}
	pick(part, inner, path[1:])
}
