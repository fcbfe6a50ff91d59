package eventarc

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/dev/pubsubemulator"
	"github.com/penstock/penstock/dev/storageemulator"
)

// Types of the events that the emulators give rise to, from
// https://cloud.google.com/eventarc/docs/reference/supported-events.
const (
	StorageTypePrefix    = "google.cloud.storage.object.v1."
	MessagePublishedType = "google.cloud.pubsub.topic.v1.messagePublished"
	JobStatusType        = "google.cloud.dataflow.job.v1beta3.statusChanged"
)

// StorageEvent is the event of one object change.
func StorageEvent(c storageemulator.Change) Event {
	return Event{
		ID:          messageID(),
		Source:      "//storage.googleapis.com/projects/_/buckets/" + c.Object.Bucket,
		Type:        StorageTypePrefix + string(c.Kind),
		Subject:     "objects/" + c.Object.Name,
		Time:        c.Time,
		ContentType: "application/json; charset=utf-8",
		Extensions:  map[string]string{"bucket": c.Object.Bucket},
		Data:        encodeJSON(c.Object),
	}
}

// StorageNotification is the same change as the message that a bucket's
// notification configuration (payload format JSON_API_V1) publishes to topic.
func StorageNotification(c storageemulator.Change, topic string) Message {
	attributes := map[string]string{
		"bucketId":           c.Object.Bucket,
		"objectId":           c.Object.Name,
		"objectGeneration":   strconv.FormatInt(c.Object.Generation, 10),
		"eventType":          c.Kind.NotificationType(),
		"eventTime":          c.Time.UTC().Format("2006-01-02T15:04:05.000000Z"),
		"payloadFormat":      "JSON_API_V1",
		"notificationConfig": fmt.Sprintf("projects/_/buckets/%s/notificationConfigs/1", c.Object.Bucket),
	}
	if c.OverwroteGeneration != 0 {
		attributes["overwroteGeneration"] = strconv.FormatInt(c.OverwroteGeneration, 10)
	}
	if c.OverwrittenByGeneration != 0 {
		attributes["overwrittenByGeneration"] = strconv.FormatInt(c.OverwrittenByGeneration, 10)
	}
	return Message{Topic: topic, ID: messageID(), Data: encodeJSON(c.Object), Attributes: attributes, PublishTime: c.Time}
}

// MessageEvent is the event of one message published to a topic.
func MessageEvent(m pubsubemulator.Message) Event {
	message := fromPubSub(m)
	project, name := splitTopic(m.Topic)
	return Event{
		ID:          m.ID,
		Source:      "//pubsub.googleapis.com/" + m.Topic,
		Type:        MessagePublishedType,
		Time:        m.PublishTime,
		ContentType: "application/json",
		Data:        message.envelope(fmt.Sprintf("projects/%s/subscriptions/eventarc-local-%s", project, name), 0),
	}
}

func fromPubSub(m pubsubemulator.Message) Message {
	return Message{Topic: m.Topic, ID: m.ID, Data: m.Data, Attributes: m.Attributes, OrderingKey: m.OrderingKey, PublishTime: m.PublishTime}
}

func splitTopic(topic string) (project, name string) {
	part := strings.Split(topic, "/")
	if len(part) != 4 {
		return "", topic
	}
	return part[1], part[3]
}

// messageID makes an ID in the form of Pub/Sub's: a decimal number that does
// not come again.
func messageID() string {
	random := make([]byte, 2)
	_, _ = rand.Read(random) // never fails, since Go 1.24
	return strconv.FormatInt(time.Now().UnixMicro(), 10) + fmt.Sprintf("%05d", int(random[0])<<8|int(random[1]))
}
