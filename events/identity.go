package events

import (
	"strconv"
	"strings"
)

// Identity returns what makes two deliveries the same event; it is never empty for a decoded event, and two different
// events never share one:
//
//	finalized:BUCKET/NAME#GENERATION            also deleted: and archived:
//	metadataUpdated:BUCKET/NAME#GENERATION.METAGENERATION
//	pubsub:projects/P/topics/T#MESSAGE_ID
//	event:SOURCE#ID                             % and # in SOURCE written %25 and %23
//
// Redeliveries, a publisher's several messages for one object change, and the same change by CloudEvent or by plain push
// have one identity; an overwrite of an object is another event. It is valid UTF-8 and holds object names and message IDs
// as they are: encode it before it goes where only some characters may. The forms never change.
func (e *Event) Identity() string {
	switch e.Kind {
	case KindStorage:
		s := e.Storage
		b := make([]byte, 0, len(s.Change)+len(s.Bucket)+len(s.Name)+44)
		b = append(b, s.Change...)
		b = append(b, ':')
		b = append(b, s.Bucket...) // holds no slash
		b = append(b, '/')
		b = append(b, s.Name...) // may hold anything: the last # is ours
		b = append(b, '#')
		b = strconv.AppendInt(b, s.Generation, 10)
		if s.Change == MetadataUpdated {
			b = append(b, '.')
			b = strconv.AppendInt(b, s.Metageneration, 10)
		}
		return string(b)
	case KindPubSub:
		return "pubsub:" + e.PubSub.Topic + "#" + e.PubSub.MessageID // a topic's name holds no #
	default:
		return "event:" + sourceEscaper.Replace(e.Source) + "#" + e.ID
	}
}

var sourceEscaper = strings.NewReplacer("%", "%25", "#", "%23")
