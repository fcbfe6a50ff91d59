package faults_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/storage"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/dev/pubsubemulator"
	"github.com/penstock/penstock/dev/storageemulator"
)

// startStorage makes a Cloud Storage under rules with a bucket landing that holds the object old, and Google's client of it, which repeats nothing.
func startStorage(t *testing.T, rules ...string) (*storage.BucketHandle, *lines, string) {
	t.Helper()
	lab, log := open(t)
	e, err := storageemulator.Start(storageemulator.Options{Wrap: lab.StorageHandler})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := e.EnsureBucket("landing"); err != nil {
		t.Fatal(err)
	}
	c, err := storage.NewClient(t.Context(), option.WithEndpoint("http://"+e.Addr()+"/storage/v1/"), storage.WithJSONReads(),
		option.WithHTTPClient(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetRetry(storage.WithPolicy(storage.RetryNever))
	b := c.Bucket("landing")
	if err := write(t.Context(), b, "old"); err != nil {
		t.Fatal(err)
	}
	for _, r := range parse(t, rules...) {
		if err := lab.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	return b, log, e.Addr()
}

func write(ctx context.Context, b *storage.BucketHandle, name string) error {
	w := b.Object(name).NewWriter(ctx)
	w.ChunkSize = 0 // in one request
	if _, err := io.WriteString(w, "a,b\n"); err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

func TestStorageCalls(t *testing.T) {
	t.Run("a read is refused, others are not", func(t *testing.T) {
		b, log, _ := startStorage(t, `{"name": "busy", "at": "storage", "operation": "objects.get", "subject": "landing/ol*", "fault": "status", "status": 429, "retryAfter": "1s"}`)
		_, err := b.Object("old").Attrs(t.Context())
		if api := wantCode(t, err, 429); api.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After %q", api.header.Get("Retry-After"))
		}
		_, err = b.Object("old").NewReader(t.Context())
		wantCode(t, err, 429)
		if err := write(t.Context(), b, "new"); err != nil {
			t.Error(err)
		}
		if got := log.injected(t); len(got) != 2 || got[0].Subject != "landing/old" || got[0].Operation != "objects.get" {
			t.Errorf("the log has %+v", got)
		}
	})
	t.Run("an upload is reset, and not there", func(t *testing.T) {
		b, _, _ := startStorage(t, `{"name": "cut", "at": "storage", "operation": "objects.insert", "subject": "landing/new", "fault": "reset"}`)
		if err := write(t.Context(), b, "new"); err == nil || errors.As(err, new(*googleapi.Error)) {
			t.Errorf("answered %v, want a broken connection", err)
		}
		if _, err := b.Object("new").Attrs(t.Context()); !errors.Is(err, storage.ErrObjectNotExist) {
			t.Errorf("the object: %v", err)
		}
	})
	t.Run("an upload is told by the name in its metadata, and unharmed", func(t *testing.T) {
		b, log, addr := startStorage(t, `{"name": "late", "at": "storage", "operation": "objects.insert", "subject": "landing/new", "fault": "latency", "delay": "1ms"}`)
		body := "--b\r\nContent-Type: application/json\r\n\r\n{\"name\": \"new\"}\r\n--b\r\nContent-Type: text/csv\r\n\r\na,b\n\r\n--b--\r\n"
		response, err := http.Post("http://"+addr+"/upload/storage/v1/b/landing/o?uploadType=multipart", "multipart/related; boundary=b", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if got := log.injected(t); len(got) != 1 {
			t.Errorf("the log has %+v", got)
		}
		if a, err := b.Object("new").Attrs(t.Context()); err != nil || a.Size != 4 {
			t.Errorf("the object: %+v, %v", a, err)
		}
	})
	t.Run("an upload's answer is lost, and the object is there", func(t *testing.T) {
		b, _, _ := startStorage(t, `{"name": "lost", "at": "storage", "operation": "objects.insert", "fault": "status", "status": 503, "committed": true}`)
		wantCode(t, write(t.Context(), b, "new"), 503)
		if _, err := b.Object("new").Attrs(t.Context()); err != nil {
			t.Errorf("the object: %v", err)
		}
	})
	t.Run("what failed by itself keeps its answer", func(t *testing.T) {
		b, log, _ := startStorage(t, `{"name": "lost", "at": "storage", "fault": "reset", "committed": true}`)
		if _, err := b.Object("none").Attrs(t.Context()); !errors.Is(err, storage.ErrObjectNotExist) {
			t.Errorf("answered %v", err)
		}
		if got := log.injected(t); len(got) != 0 {
			t.Errorf("the log has %+v", got)
		}
	})
	t.Run("a list hangs until its caller gives up", func(t *testing.T) {
		b, _, _ := startStorage(t, `{"name": "hang", "at": "storage", "operation": "objects.list", "fault": "hang"}`)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := b.Objects(ctx, nil).Next(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("answered %v", err)
		}
	})
	t.Run("the XML API is under the same rules", func(t *testing.T) {
		_, _, addr := startStorage(t, `{"name": "down", "at": "storage", "operation": "objects.get", "subject": "landing/old", "fault": "status", "status": 503}`)
		response, err := http.Get("http://" + addr + "/landing/old")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("answered %s", response.Status)
		}
	})
}

func TestPubSubCalls(t *testing.T) {
	const topic, subscription = "projects/p/topics/t", "projects/p/subscriptions/s"
	setup := func(t *testing.T, rules ...string) (*pubsub.Client, string) {
		t.Helper()
		lab, _ := open(t, rules...)
		e, err := pubsubemulator.Start(pubsubemulator.Options{Server: lab.PubSubServer(), Wrap: lab.PubSubHandler})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := errors.Join(e.EnsureTopic(topic), e.EnsureSubscription(subscription, topic)); err != nil {
			t.Fatal(err)
		}
		c, err := pubsub.NewClient(t.Context(), "p", option.WithEndpoint(e.Addr()), option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c, e.Addr()
	}
	// once publishes without the client's own retries.
	once := func(ctx context.Context, c *pubsub.Client) error {
		_, err := c.TopicAdminClient.Publish(ctx, &pubsubpb.PublishRequest{Topic: topic, Messages: []*pubsubpb.PubsubMessage{{Data: []byte("x")}}},
			gax.WithRetry(func() gax.Retryer { return gax.OnErrorFunc(gax.Backoff{}, func(error) bool { return false }) }))
		return err
	}
	pulled := func(t *testing.T, c *pubsub.Client) int {
		t.Helper()
		answer, err := c.SubscriptionAdminClient.Pull(t.Context(), &pubsubpb.PullRequest{Subscription: subscription, MaxMessages: 10, ReturnImmediately: true}) //nolint:staticcheck // an empty subscription is an answer here
		if err != nil {
			t.Fatal(err)
		}
		return len(answer.ReceivedMessages)
	}
	for name, test := range map[string]struct {
		rule string
		code codes.Code
		kept int
	}{
		"429":                    {`{"name": "x", "at": "pubsub", "operation": "Publish", "subject": "*/topics/t", "fault": "status", "status": 429}`, codes.ResourceExhausted, 0},
		"503":                    {`{"name": "x", "at": "pubsub", "operation": "Publish", "fault": "status", "status": 503}`, codes.Unavailable, 0},
		"a reset":                {`{"name": "x", "at": "pubsub", "operation": "Publish", "fault": "reset"}`, codes.Unavailable, 0},
		"a lost answer":          {`{"name": "x", "at": "pubsub", "operation": "Publish", "fault": "reset", "committed": true}`, codes.Unavailable, 1},
		"another topic":          {`{"name": "x", "at": "pubsub", "operation": "Publish", "subject": "*/topics/u", "fault": "reset"}`, codes.OK, 1},
		"a hang":                 {`{"name": "x", "at": "pubsub", "operation": "Publish", "fault": "hang"}`, codes.DeadlineExceeded, 0},
		"a hang after the write": {`{"name": "x", "at": "pubsub", "operation": "Publish", "fault": "hang", "committed": true}`, codes.DeadlineExceeded, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := setup(t, test.rule)
			ctx, cancel := context.WithTimeout(t.Context(), within)
			if test.code == codes.DeadlineExceeded {
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
			}
			defer cancel()
			if err := once(ctx, c); status.Code(err) != test.code {
				t.Errorf("answered %v, want %s", err, test.code)
			}
			if n := pulled(t, c); n != test.kept {
				t.Errorf("the topic has %d messages, want %d", n, test.kept)
			}
		})
	}
	t.Run("REST is under the same rules", func(t *testing.T) {
		_, addr := setup(t, `{"name": "x", "at": "pubsub", "operation": "Publish", "subject": "projects/p/topics/t", "fault": "status", "status": 503}`)
		response, err := http.Post("http://"+addr+"/v1/projects/p/topics/t:publish", "application/json", strings.NewReader(`{"messages": [{"data": "eA=="}]}`))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("answered %s", response.Status)
		}
	})
}
