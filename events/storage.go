package events

import "strings"

const storageSource = "//storage.googleapis.com/projects/_/buckets/"

// changes maps the storage event types to what they say of the object.
var changes = map[string]Change{
	TypeStorageFinalized:       Finalized,
	TypeStorageDeleted:         Deleted,
	TypeStorageArchived:        Archived,
	TypeStorageMetadataUpdated: MetadataUpdated,
}

// notificationTypes maps the eventType attribute of a Cloud Storage notification to the event type of the same change
// (https://cloud.google.com/storage/docs/pubsub-notifications).
var notificationTypes = map[string]string{
	"OBJECT_FINALIZE":        TypeStorageFinalized,
	"OBJECT_DELETE":          TypeStorageDeleted,
	"OBJECT_ARCHIVE":         TypeStorageArchived,
	"OBJECT_METADATA_UPDATE": TypeStorageMetadataUpdated,
}

// setStorage makes e a storage event of the object resource in data. Bucket, name and generation come from there and not
// from subject or source, which senders encode in different ways.
func (e *Event) setStorage(change Change, data []byte, field string) error {
	o, err := readObject(field, data)
	if err != nil {
		return err
	}
	s := &Storage{
		Change:                  change,
		Bucket:                  o.required("bucket"),
		Name:                    o.required("name"),
		Generation:              o.integer("generation"),
		Metageneration:          o.integer("metageneration"),
		Size:                    o.integer("size"),
		ContentType:             o.str("contentType"),
		ContentEncoding:         o.str("contentEncoding"),
		ContentDisposition:      o.str("contentDisposition"),
		ContentLanguage:         o.str("contentLanguage"),
		CacheControl:            o.str("cacheControl"),
		Metadata:                o.stringMap("metadata"),
		MD5Hash:                 o.str("md5Hash"),
		CRC32C:                  o.str("crc32c"),
		ETag:                    o.str("etag"),
		StorageClass:            o.str("storageClass"),
		KMSKeyName:              o.str("kmsKeyName"),
		ComponentCount:          o.integer("componentCount"),
		TemporaryHold:           o.boolean("temporaryHold"),
		EventBasedHold:          o.boolean("eventBasedHold"),
		TimeCreated:             o.timestamp("timeCreated"),
		Updated:                 o.timestamp("updated"),
		TimeDeleted:             o.timestamp("timeDeleted"),
		TimeStorageClassUpdated: o.timestamp("timeStorageClassUpdated"),
		RetentionExpirationTime: o.timestamp("retentionExpirationTime"),
	}
	kind := o.str("kind")
	if o.err != nil {
		return o.err
	}
	switch {
	case kind != "" && kind != "storage#object":
		return malformed(o.field("kind"), "%s is not storage#object, which events of type %s are about", quote(kind), e.Type)
	case !validBucket(s.Bucket):
		return malformed(o.field("bucket"), "%s is not a bucket name", quote(s.Bucket))
	case len(s.Name) > 1024:
		return malformed(o.field("name"), "the object name has %d bytes; Cloud Storage allows 1024", len(s.Name))
	case strings.ContainsAny(s.Name, "\r\n"):
		return malformed(o.field("name"), "%s has a line break, which Cloud Storage does not allow", quote(s.Name))
	case s.Generation <= 0:
		return malformed(o.field("generation"), "the field is missing or not positive; without it an overwrite looks like a duplicate")
	case s.Metageneration < 0:
		return malformed(o.field("metageneration"), "the field is negative")
	case change == MetadataUpdated && s.Metageneration == 0:
		return malformed(o.field("metageneration"), "the field is missing; without it one metadata update looks like another")
	case s.Size < 0:
		return malformed(o.field("size"), "the field is negative")
	}
	if bucket, ok := strings.CutPrefix(e.Source, storageSource); ok && bucket != s.Bucket {
		return malformed(o.field("bucket"), "the field is %s and the event's source says %s", quote(s.Bucket), quote(bucket))
	}
	if bucket, ok := e.Extensions["bucket"]; ok && bucket != s.Bucket {
		return malformed(o.field("bucket"), "the field is %s and the event's bucket attribute says %s", quote(s.Bucket), quote(bucket))
	}
	e.Kind, e.Storage, e.Subject = KindStorage, s, "objects/"+s.Name
	return nil
}

// isNotification tells a Cloud Storage notification from an ordinary message by the attributes that each of them has.
func isNotification(attributes map[string]string) bool {
	for _, name := range []string{"bucketId", "objectId", "eventType", "payloadFormat"} {
		if attributes[name] == "" {
			return false
		}
	}
	return strings.HasPrefix(attributes["eventType"], "OBJECT_")
}

// setNotification makes e the storage event that a Cloud Storage notification is about, as Eventarc would have sent it.
// message is the path of the message in the body, for errors.
func (e *Event) setNotification(p *PubSub, message string) error {
	attribute := func(name string) string { return join(message, "attributes."+name) }
	a := p.Attributes
	eventType, ok := notificationTypes[a["eventType"]]
	if !ok {
		return unsupported(attribute("eventType"), "%s is not a change that Penstock knows", quote(a["eventType"]))
	}
	if a["payloadFormat"] != "JSON_API_V1" {
		return unsupported(attribute("payloadFormat"), "the notification has payload format %s, so it lacks the object's size and metadata; create the bucket's notification with JSON_API_V1", quote(a["payloadFormat"]))
	}
	when := p.PublishTime
	if a["eventTime"] != "" {
		var err *Error
		if when, err = parseTime(a["eventTime"]); err != nil {
			return err.in(attribute("eventTime"))
		}
	}
	e.Type, e.Time, e.PubSub = eventType, when, nil
	e.Source = storageSource + a["bucketId"]
	e.Extensions = map[string]string{"bucket": a["bucketId"]}
	if err := e.setStorage(changes[eventType], p.Data, join(message, "data")); err != nil {
		return err
	}
	if e.Storage.Name != a["objectId"] {
		return malformed(attribute("objectId"), "the attribute is %s and the payload's name is %s", quote(a["objectId"]), quote(e.Storage.Name))
	}
	if g := a["objectGeneration"]; g != "" {
		if n, err := parseInt([]byte(g)); err != nil || n != e.Storage.Generation {
			return malformed(attribute("objectGeneration"), "the attribute is %s and the payload's generation is %d", quote(g), e.Storage.Generation)
		}
	}
	return nil
}

// validBucket takes every bucket name there is, old ones with upper case and underscores too, and above all no slash.
func validBucket(s string) bool {
	return s != "" && len(s) <= 222 && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-:", r)
	}) < 0
}
