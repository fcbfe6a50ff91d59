package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"

	"github.com/penstock/penstock/deadletters"
)

// dlqBench is a subscription of dead letters, and functions that take everything.
type dlqBench struct {
	server *pstest.Server
	env    map[string]string
}

func newDLQBench(t *testing.T) *dlqBench {
	t.Helper()
	b := &dlqBench{server: pstest.NewServer()}
	t.Cleanup(func() { _ = b.server.Close() })
	const topic, subscription = "projects/p/topics/dead", "projects/p/subscriptions/dead"
	if _, err := b.server.GServer.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.server.GServer.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: subscription, Topic: topic, AckDeadlineSeconds: 600}); err != nil {
		t.Fatal(err)
	}
	functions := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"decisions":[{"pipeline":%q,"decision":"started"}]}`, r.Header.Get(deadletters.HeaderPipeline))
	}))
	t.Cleanup(functions.Close)
	b.env = map[string]string{
		"TEMPORAL_ADDRESS":     "127.0.0.1:1", // no stack of this tree is joined
		"PUBSUB_EMULATOR_HOST": b.server.Addr, "PENSTOCK_FUNCTIONS_URL": functions.URL,
		"PENSTOCK_DEAD_LETTER_SUBSCRIPTION": subscription, "PENSTOCK_PIPELINES": t.TempDir(),
	}
	return b
}

func (b *dlqBench) bury(pipeline string) {
	l := deadletters.Letter{Reason: "r", Pipeline: pipeline, EntryPoint: "EventTrigger", Header: http.Header{"Content-Type": {"text/plain"}}, Body: []byte("x")}
	m := l.Message()
	b.server.Publish("projects/p/topics/dead", m.Data, m.Attributes)
}

func (b *dlqBench) run(t *testing.T, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	std := IO{In: strings.NewReader(""), Out: &out, Err: &errs, Getenv: func(name string) string { return b.env[name] }, Environ: func() []string { return nil }}
	if code := Run(t.Context(), std, append([]string{"dlq"}, args...)); code != ExitOK {
		t.Errorf("%q exits with %d: %s", args, code, &errs)
	}
	return out.String(), errs.String()
}

// A limit that was reached is no end: who reads "no dead letters", or a list, is told where it goes on.
func TestDeadLettersBeyondTheLimitAreTold(t *testing.T) {
	b := newDLQBench(t)
	for range 5 {
		b.bury("others")
	}
	for range 2 {
		b.bury("orders")
	}
	type answer struct {
		DeadLetters []struct {
			Pipeline  string `json:"pipeline"`
			Delivered bool   `json:"delivered"`
		} `json:"deadLetters"`
		More bool `json:"more"`
	}
	for _, command := range [][]string{{"list", "-p", "orders"}, {"redrive", "--pipeline", "orders"}} {
		stdout, stderr := b.run(t, append(command, "-n", "1")...)
		if stdout == "" || !strings.Contains(stderr, "there may be more: raise --limit") || strings.Contains(stderr, "no dead letters") {
			t.Errorf("%q says\n%s%s", command, stdout, stderr)
		}
		b.bury("orders")
		stdout, _ = b.run(t, append(command, "-n", "1", "-o", "json")...)
		var a answer
		if err := json.Unmarshal([]byte(stdout), &a); err != nil || len(a.DeadLetters) != 1 || a.DeadLetters[0].Pipeline != "orders" || !a.More {
			t.Errorf("%q says %s (%v)", command, stdout, err)
		}
	}
	if stdout, stderr := b.run(t, "list", "-p", "none"); stdout != "" || strings.TrimSpace(stderr) != "no dead letters" {
		t.Errorf("of a pipeline that has none:\n%s%s", stdout, stderr)
	}
}

func TestWhereALookAtDeadLettersEnded(t *testing.T) {
	for name, tt := range map[string]struct {
		found, limit int
		more         bool
		want         string
	}{
		"all were seen":                  {1, 2, false, ""},
		"the limit was reached":          {2, 2, true, "raise --limit"},
		"some of those looked through":   {1, 2, true, "behind those that were looked through"},
		"none of those looked through":   {0, 2, true, "no such dead letters among those"},
		"none, and there are no others":  {0, 2, false, ""},
		"as many as asked for, and done": {2, 2, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var errs bytes.Buffer
			a := &app{std: IO{Err: &errs}}
			a.printMore(tt.found, tt.limit, tt.more)
			if got := errs.String(); (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("it says %q, want %q", got, tt.want)
			}
		})
	}
}
