package deadletters_test

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"github.com/penstock/penstock/deadletters"
)

func binary(more map[string]string) http.Header {
	h := http.Header{"Content-Type": {"application/json"}, "Ce-Id": {"1"}, "Ce-Type": {"x"}}
	for name, value := range more {
		h.Set(name, value)
	}
	return h
}

// A letter says what it said when it went into the topic.
func TestALetterIsReadAsItWasWritten(t *testing.T) {
	many := binary(nil)
	for i := range 120 {
		many.Set(fmt.Sprintf("Ce-Ext%d", i), "v")
	}
	twice := binary(nil)
	twice.Add("Ce-Id", "2")
	tests := map[string]deadletters.Letter{
		"a CloudEvent":                           {Reason: "r", Identity: "event:a#1", Pipeline: "orders", EntryPoint: "EventTrigger", Header: binary(nil), Body: []byte(`{"a":1}`)},
		"a plain push":                           {Reason: "r", Identity: "pubsub:t#1", EntryPoint: "PubSubTrigger", Topic: "projects/p/topics/t", Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(`{}`)},
		"an identity of several attributes":      {Reason: "r", Identity: strings.Repeat("é", 2000), EntryPoint: "EventTrigger", Header: binary(nil), Body: []byte("x")},
		"no identity, no body":                   {Reason: "r", EntryPoint: "EventTrigger", Header: http.Header{}},
		"a header too long for an attribute":     {Reason: "r", EntryPoint: "EventTrigger", Header: binary(map[string]string{"Ce-Traceparent": strings.Repeat("x", 1025)}), Body: []byte("a\r\n\r\nb")},
		"a header that is not UTF-8, on a topic": {Reason: "r", EntryPoint: "PubSubTrigger", Topic: "projects/p/topics/t&u=%2F", Header: binary(map[string]string{"Ce-Bad": "\xff: \x80"}), Body: []byte("\x00\xff")},
		"more headers than attributes":           {Reason: "r", EntryPoint: "EventTrigger", Header: many, Body: []byte("x")},
		"a header given twice":                   {Reason: "r", EntryPoint: "EventTrigger", Header: twice, Body: []byte("x")},
	}
	for name, l := range tests {
		t.Run(name, func(t *testing.T) {
			m := l.Message()
			for attribute, value := range m.Attributes {
				if len(attribute) > deadletters.MaxAttributeKey || len(value) > deadletters.MaxAttributeValue || value == "" {
					t.Errorf("Pub/Sub does not take the attribute %q with %d bytes", attribute, len(value))
				}
			}
			if len(m.Attributes) > deadletters.MaxAttributes {
				t.Errorf("Pub/Sub does not take %d attributes", len(m.Attributes))
			}
			got, err := deadletters.Read(&pubsubpb.PubsubMessage{MessageId: "7", Data: m.Data, Attributes: m.Attributes})
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != "7" || got.Forwarded != nil || string(got.Body) != string(l.Body) {
				t.Errorf("read %+v", got)
			}
			got.Body = l.Body
			if !reflect.DeepEqual(got.Letter, l) {
				t.Errorf("read %+v, want %+v", got.Letter, l)
			}
		})
	}
}

func TestAHeaderThatNoRedeliveryNeedsIsNotKept(t *testing.T) {
	l := deadletters.Letter{Reason: "r", EntryPoint: "EventTrigger", Header: binary(map[string]string{"Authorization": "Bearer secret", "Penstock-Identity": "x"})}
	for name := range l.Message().Attributes {
		if name == "authorization" || name == "penstock-identity" {
			t.Errorf("the dead letter has the attribute %s", name)
		}
	}
}

func TestIdentitiesTooLongForAttributesAreToldApart(t *testing.T) {
	for _, long := range []string{"short", strings.Repeat("x", 8150), strings.Repeat("é", 4076), strings.Repeat("x", 50_000)} {
		l := deadletters.Letter{Reason: "r", EntryPoint: "EventTrigger", Identity: long}
		m := l.Message()
		got, err := deadletters.Read(&pubsubpb.PubsubMessage{Attributes: m.Attributes})
		if err != nil {
			t.Fatal(err)
		}
		if !deadletters.SameIdentity(got.Identity, long) || deadletters.SameIdentity(got.Identity, long+"y") || deadletters.SameIdentity(got.Identity, long[1:]) {
			t.Errorf("an identity of %d bytes, kept in %d, is not told from its neighbours", len(long), len(got.Identity))
		}
	}
}

func TestALetterOfAnUnknownFormIsNotGuessedAt(t *testing.T) {
	l := deadletters.Letter{Reason: "r", EntryPoint: "EventTrigger"}
	m := l.Message()
	m.Attributes[deadletters.AttrForm] = "cbor"
	if _, err := deadletters.Read(&pubsubpb.PubsubMessage{MessageId: "7", Attributes: m.Attributes}); err == nil || !strings.Contains(err.Error(), "cbor") {
		t.Errorf("it says %v, want the form", err)
	}
}

// The publisher of a message chooses its attributes. That Pub/Sub forwarded it is said by those that Pub/Sub adds.
func TestWhatPubSubForwardedIsNoLetterOfAFunction(t *testing.T) {
	l := deadletters.Letter{Reason: "r", Pipeline: "orders", EntryPoint: "../../x", Header: binary(nil), Body: []byte("x")}
	m := l.Message()
	m.Attributes["CloudPubSubDeadLetterSourceSubscription"] = "items"
	got, err := deadletters.Read(&pubsubpb.PubsubMessage{MessageId: "7", Data: m.Data, Attributes: m.Attributes})
	if err != nil {
		t.Fatal(err)
	}
	if got.Forwarded == nil || got.EntryPoint != "" || got.Pipeline != "" || got.Forwarded.Attributes[deadletters.AttrReason] != "r" {
		t.Errorf("read %+v", got)
	}
}
