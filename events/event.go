// Package events decodes the CloudEvents and Pub/Sub pushes that reach Penstock into one normal form, and gives each
// event the identity by which two deliveries are known to be the same event.
package events

import (
	"encoding/json"
	"time"
)

// Kind says which typed payload an [Event] carries.
type Kind string

// The kinds of events. Every type that is not Google's own storage, Pub/Sub or Dataflow type is KindGeneric.
const (
	KindStorage   Kind = "storage"    // Event.Storage is set
	KindPubSub    Kind = "pubsub"     // Event.PubSub is set
	KindJobStatus Kind = "job-status" // Event.JobStatus is set
	KindGeneric   Kind = "generic"    // Event.Data holds the JSON data, if any
)

// The event types that have a typed payload.
const (
	TypeStorageFinalized       = "google.cloud.storage.object.v1.finalized"
	TypeStorageDeleted         = "google.cloud.storage.object.v1.deleted"
	TypeStorageArchived        = "google.cloud.storage.object.v1.archived"
	TypeStorageMetadataUpdated = "google.cloud.storage.object.v1.metadataUpdated"
	TypePubSubMessagePublished = "google.cloud.pubsub.topic.v1.messagePublished"
	TypeJobStatusChanged       = "google.cloud.dataflow.job.v1beta3.statusChanged"
)

// Event is one CloudEvent 1.0, normalised: the same change gives the same Event whether it came as a CloudEvent in binary
// or structured mode or as a plain Pub/Sub push. Decode and FromJSON build it; the zero value is not a valid event.
//
// Its JSON encoding is a structured CloudEvent, whose data has Google's field names with 64-bit integers as strings, so a
// program in any language reads it with its CloudEvents library. The encoding is stable: fields are only ever added.
type Event struct {
	Kind    Kind
	Type    string // CloudEvents type
	Source  string // CloudEvents source, for example //storage.googleapis.com/projects/_/buckets/B
	ID      string // CloudEvents id; the messageId for a plain push. One change can arrive under several IDs: see Identity
	Subject string // CloudEvents subject; empty when there is none. For storage events always objects/NAME, from the data

	Time       time.Time         // when it happened, in UTC; zero when the event does not say
	DataSchema string            // CloudEvents dataschema; empty when there is none
	Extensions map[string]string // extension attributes in their canonical string form; nil when there are none

	Storage   *Storage        // set for KindStorage only
	PubSub    *PubSub         // set for KindPubSub only
	JobStatus *JobStatus      // set for KindJobStatus only
	Data      json.RawMessage // the JSON data, compact, of KindGeneric only; nil when the event has none

	body []byte
}

// Body returns the body as it was received, for a dead letter. It is nil for an event that was not decoded from a request,
// such as one read back from its JSON encoding. The caller must not change it.
func (e *Event) Body() []byte { return e.body }

// Change is what happened to an object.
type Change string

// The changes of an object, as in the last part of the event type.
const (
	Finalized       Change = "finalized"       // a new generation exists: created, or overwritten
	Deleted         Change = "deleted"         // a generation is gone, or was overwritten in a bucket without versioning
	Archived        Change = "archived"        // the live generation became a noncurrent one
	MetadataUpdated Change = "metadataUpdated" // the metadata of a generation changed
)

// Storage is a change of a Cloud Storage object: the object's metadata after it, with the field names of
// google.events.cloud.storage.v1.StorageObjectData. Absent fields are zero.
type Storage struct {
	Change Change `json:"-"` // in the JSON encoding it is part of the event type

	Bucket         string `json:"bucket"`                          // never empty
	Name           string `json:"name"`                            // any Unicode without CR and LF, 1 to 1,024 bytes: data, never a path
	Generation     int64  `json:"generation,string"`               // positive; a new one for each content
	Metageneration int64  `json:"metageneration,omitempty,string"` // positive for MetadataUpdated, 0 when unknown
	Size           int64  `json:"size,string"`                     // bytes

	ContentType        string            `json:"contentType,omitempty"`
	ContentEncoding    string            `json:"contentEncoding,omitempty"`
	ContentDisposition string            `json:"contentDisposition,omitempty"`
	ContentLanguage    string            `json:"contentLanguage,omitempty"`
	CacheControl       string            `json:"cacheControl,omitempty"`
	Metadata           map[string]string `json:"metadata,omitempty"` // the user's own
	MD5Hash            string            `json:"md5Hash,omitempty"`  // base64; composite objects have none
	CRC32C             string            `json:"crc32c,omitempty"`   // base64, big-endian
	ETag               string            `json:"etag,omitempty"`
	StorageClass       string            `json:"storageClass,omitempty"`
	KMSKeyName         string            `json:"kmsKeyName,omitempty"`
	ComponentCount     int64             `json:"componentCount,omitempty"` // parts of a composite object
	TemporaryHold      bool              `json:"temporaryHold,omitempty"`
	EventBasedHold     bool              `json:"eventBasedHold,omitempty"`

	TimeCreated             time.Time `json:"timeCreated,omitzero"`
	Updated                 time.Time `json:"updated,omitzero"`
	TimeDeleted             time.Time `json:"timeDeleted,omitzero"`
	TimeStorageClassUpdated time.Time `json:"timeStorageClassUpdated,omitzero"`
	RetentionExpirationTime time.Time `json:"retentionExpirationTime,omitzero"`
}

// URI returns gs://BUCKET/NAME, the name as it is. It names the object, not its generation.
func (s *Storage) URI() string { return "gs://" + s.Bucket + "/" + s.Name }

// PubSub is a message of a topic, with the field names of google.pubsub.v1.PubsubMessage.
type PubSub struct {
	Topic           string            // projects/P/topics/T; never empty
	Subscription    string            // projects/P/subscriptions/S; empty when the event does not say
	DeliveryAttempt int               // 1 for the first; 0 when the subscription does not count
	MessageID       string            // unique within the topic; never empty
	PublishTime     time.Time         // zero when the event does not say
	OrderingKey     string            // empty when there is none
	Attributes      map[string]string // nil when there are none
	Data            []byte            // decoded from base64; nil when the message has only attributes
}

// JobStatus is a Dataflow job's change of state, with the words of google.events.cloud.dataflow.v1beta3.Job.
// States and types that this build does not know are kept as they came.
type JobStatus struct {
	Project  string // project ID; never empty
	Location string // region; never empty
	JobName  string // never empty
	JobID    string // never empty

	State           string    // JOB_STATE_..., never empty
	StateTime       time.Time // when State was entered; events arrive in any order. Zero when the event does not say
	Type            string    // JOB_TYPE_BATCH, JOB_TYPE_STREAMING; empty when the event does not say
	CreateTime      time.Time
	StartTime       time.Time
	Labels          map[string]string // nil when there are none
	ReplaceJobID    string            // the job that this one replaced; empty when none
	ReplacedByJobID string            // the job that replaced this one (state JOB_STATE_UPDATED); empty when none or unknown
}
