package storageemulator

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// Object is the object resource of the Cloud Storage JSON API, and at the same
// time the payload of a storage event, which carries that resource unchanged.
// The fields and their JSON forms are those of
// https://cloud.google.com/storage/docs/json_api/v1/objects#resource; 64-bit
// integers are strings on the wire. Times are RFC 3339 in UTC with milliseconds.
type Object struct {
	Kind                    string            `json:"kind"`
	ID                      string            `json:"id"`
	SelfLink                string            `json:"selfLink,omitempty"`
	MediaLink               string            `json:"mediaLink,omitempty"`
	Name                    string            `json:"name"`
	Bucket                  string            `json:"bucket"`
	Generation              int64             `json:"generation,string"`
	Metageneration          int64             `json:"metageneration,string"`
	ContentType             string            `json:"contentType,omitempty"`
	StorageClass            string            `json:"storageClass"`
	Size                    int64             `json:"size,string"`
	MD5Hash                 string            `json:"md5Hash,omitempty"` // absent on composed objects, as in the real service
	CRC32C                  string            `json:"crc32c"`
	Etag                    string            `json:"etag"`
	TimeCreated             string            `json:"timeCreated"`
	Updated                 string            `json:"updated"`
	TimeFinalized           string            `json:"timeFinalized,omitempty"`
	TimeStorageClassUpdated string            `json:"timeStorageClassUpdated"`
	TimeDeleted             string            `json:"timeDeleted,omitempty"` // set once the version is no longer the live one
	CustomTime              string            `json:"customTime,omitempty"`
	ContentEncoding         string            `json:"contentEncoding,omitempty"`
	ContentDisposition      string            `json:"contentDisposition,omitempty"`
	ContentLanguage         string            `json:"contentLanguage,omitempty"`
	CacheControl            string            `json:"cacheControl,omitempty"`
	Metadata                map[string]string `json:"metadata,omitempty"`
	TemporaryHold           bool              `json:"temporaryHold,omitempty"`
	EventBasedHold          bool              `json:"eventBasedHold,omitempty"`
	ComponentCount          int               `json:"componentCount,omitempty"`
}

// ChangeKind says what happened to an object. Its values are the last part of
// the CloudEvent type google.cloud.storage.object.v1.<kind>.
type ChangeKind string

// The four changes that Cloud Storage reports.
const (
	Finalized       ChangeKind = "finalized"       // a new generation was written
	Deleted         ChangeKind = "deleted"         // a version was removed for good, by a delete or an overwrite
	Archived        ChangeKind = "archived"        // the live version became noncurrent in a bucket with versioning
	MetadataUpdated ChangeKind = "metadataUpdated" // metadata of a live version changed
)

// NotificationType returns the eventType attribute that a Cloud Storage
// notification to Pub/Sub carries for this change
// (https://cloud.google.com/storage/docs/pubsub-notifications#events).
func (k ChangeKind) NotificationType() string {
	switch k {
	case Finalized:
		return "OBJECT_FINALIZE"
	case Deleted:
		return "OBJECT_DELETE"
	case Archived:
		return "OBJECT_ARCHIVE"
	case MetadataUpdated:
		return "OBJECT_METADATA_UPDATE"
	}
	return ""
}

// Change is one object change. An overwrite is two of them: Finalized of the
// new generation, then Deleted (or Archived, with versioning) of the old.
type Change struct {
	Kind   ChangeKind
	Object Object
	Time   time.Time // when it happened, UTC
	// OverwroteGeneration is the generation that a Finalized one replaced; 0: none.
	OverwroteGeneration int64
	// OverwrittenByGeneration is the generation that replaced a Deleted or
	// Archived one; 0: it was deleted, not overwritten.
	OverwrittenByGeneration int64
}

// maxNameBytes is Cloud Storage's limit on an object name in UTF-8
// (https://cloud.google.com/storage/docs/objects#naming).
const maxNameBytes = 1024

func checkObjectName(name string) error {
	switch {
	case name == "":
		return badRequest("Required parameter: name: an object name has at least one byte.")
	case len(name) > maxNameBytes:
		return badRequest(fmt.Sprintf("The object name is %d bytes long in UTF-8; the maximum is %d.", len(name), maxNameBytes))
	case !utf8.ValidString(name):
		return badRequest("The object name is not valid UTF-8.")
	case strings.ContainsAny(name, "\r\n"):
		return badRequest("Disallowed unicode characters present in object name: carriage return and line feed are not allowed.")
	case name == "." || name == "..":
		return badRequest(fmt.Sprintf("The object name %q is not allowed.", name))
	case strings.HasPrefix(name, ".well-known/acme-challenge/"):
		return badRequest("Object names must not start with .well-known/acme-challenge/.")
	}
	return nil
}

// checkBucketName applies the rules of
// https://cloud.google.com/storage/docs/buckets#naming that protect the
// emulator itself: a bucket is a folder in its data directory.
func checkBucketName(name string) error {
	valid := len(name) >= 3 && len(name) <= 222 && !strings.Contains(name, "..")
	for i := 0; valid && i < len(name); i++ {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		inner := i > 0 && i < len(name)-1
		valid = alnum || inner && (c == '-' || c == '_' || c == '.')
	}
	if !valid {
		return badRequest(fmt.Sprintf("Invalid bucket name: %q: 3 to 222 lower-case letters, digits, '-', '_' and '.', with a letter or digit at both ends.", name))
	}
	return nil
}

// stamp fills the fields that follow from others.
func (o *Object) stamp() {
	o.Kind = "storage#object"
	o.ID = fmt.Sprintf("%s/%s/%d", o.Bucket, o.Name, o.Generation)
	// The real service's etag is the base64 of a two-field protocol buffer:
	// generation and metageneration. The same form keeps it one for one.
	b := binary.AppendUvarint([]byte{1 << 3}, uint64(o.Generation))
	b = binary.AppendUvarint(append(b, 2<<3), uint64(o.Metageneration))
	o.Etag = base64.StdEncoding.EncodeToString(b)
}

// linked returns the resource with links that lead back to the emulator; they
// are not stored, as the next start may have another port.
func (o Object) linked(base string) Object {
	path := fmt.Sprintf("/storage/v1/b/%s/o/%s", url.PathEscape(o.Bucket), url.PathEscape(o.Name))
	o.SelfLink = base + path
	o.MediaLink = fmt.Sprintf("%s/download%s?generation=%d&alt=media", base, path, o.Generation)
	return o
}

func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// bucket is the bucket resource. Settings that have no effect here (labels,
// lifecycle and the like) are kept as they came and given back.
type bucket struct {
	Name           string                     `json:"name"`
	Created        string                     `json:"created"`
	Updated        string                     `json:"updated"`
	Metageneration int64                      `json:"metageneration"`
	Versioning     bool                       `json:"versioning"`
	Other          map[string]json.RawMessage `json:"other,omitempty"`
}

// bucketOwnFields are computed here and never taken from a request.
var bucketOwnFields = []string{
	"kind", "id", "name", "selfLink", "timeCreated", "updated", "metageneration", "etag",
	"versioning", "projectNumber", "acl", "defaultObjectAcl", "iamConfiguration",
}

// apply takes settings from a request body: null removes one.
func (b *bucket) apply(body map[string]json.RawMessage) error {
	if raw, ok := body["versioning"]; ok {
		var v struct {
			Enabled bool `json:"enabled"`
		}
		if err := json.Unmarshal(raw, &v); err != nil {
			return badRequest("Invalid value for versioning: " + err.Error())
		}
		b.Versioning = v.Enabled
	}
	own := make(map[string]bool, len(bucketOwnFields))
	for _, f := range bucketOwnFields {
		own[f] = true
	}
	// A new map: answers being written still read the old one.
	other := map[string]json.RawMessage{}
	maps.Copy(other, b.Other)
	for field, raw := range body {
		switch {
		case own[field]:
		case string(raw) == "null":
			delete(other, field)
		default:
			other[field] = raw
		}
	}
	b.Other = other
	return nil
}

func (b *bucket) resource(base string) map[string]any {
	r := map[string]any{"location": "US-CENTRAL1", "locationType": "region", "storageClass": "STANDARD"}
	for k, v := range b.Other {
		r[k] = v
	}
	etag := base64.StdEncoding.EncodeToString(binary.AppendUvarint([]byte{1 << 3}, uint64(b.Metageneration)))
	for k, v := range map[string]any{
		"kind": "storage#bucket", "id": b.Name, "name": b.Name, "projectNumber": projectNumber,
		"selfLink":    base + "/storage/v1/b/" + url.PathEscape(b.Name),
		"timeCreated": b.Created, "updated": b.Updated, "etag": etag,
		"metageneration": fmt.Sprint(b.Metageneration),
		"versioning":     map[string]bool{"enabled": b.Versioning},
		"iamConfiguration": map[string]any{
			"uniformBucketLevelAccess": map[string]any{"enabled": true},
			"publicAccessPrevention":   "enforced",
		},
	} {
		r[k] = v
	}
	return r
}

// projectNumber is what every local resource reports as its project's number.
const projectNumber = "123456789012"
