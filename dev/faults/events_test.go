package faults_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/dev/eventarc"
)

// deliver publishes job-status events with the IDs 0 to n-1, for jobs job-0 to job-n-1, under rules, and returns the IDs that a function received, in order.
func deliver(t *testing.T, n int, rules ...string) []string {
	t.Helper()
	lab, _ := open(t, rules...)
	var mu sync.Mutex
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.Header.Get("ce-id"))
	}))
	defer server.Close()
	o := eventarc.Options{MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond, Parallel: 1}
	lab.Deliver(&o)
	b := eventarc.New(o)
	defer b.Close()
	if err := b.AddTrigger(eventarc.Trigger{Name: "job-status", URL: server.URL}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := b.Publish(eventarc.Event{ID: fmt.Sprint(i), Source: "s", Type: "t", Extensions: map[string]string{"job": fmt.Sprint("job-", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := b.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return got
}

func TestDelivery(t *testing.T) {
	t.Run("without rules", func(t *testing.T) {
		if got := deliver(t, 3); !slices.Equal(got, []string{"0", "1", "2"}) {
			t.Errorf("received %q", got)
		}
	})
	t.Run("lost", func(t *testing.T) {
		got := deliver(t, 3, `{"name": "lost", "at": "events", "operation": "job-status", "subject": "job-1", "fault": "lose"}`)
		if !slices.Equal(got, []string{"0", "2"}) {
			t.Errorf("received %q", got)
		}
	})
	t.Run("another trigger's rule", func(t *testing.T) {
		if got := deliver(t, 1, `{"name": "lost", "at": "events", "operation": "storage", "fault": "lose"}`); len(got) != 1 {
			t.Errorf("received %q", got)
		}
	})
	t.Run("duplicated", func(t *testing.T) {
		got := deliver(t, 2, `{"name": "twice", "at": "events", "fault": "duplicate", "copies": 2}`)
		if !slices.Equal(got, []string{"0", "0", "0", "1", "1", "1"}) {
			t.Errorf("received %q", got)
		}
	})
	t.Run("delayed", func(t *testing.T) {
		got := deliver(t, 3, `{"name": "late", "at": "events", "subject": "job-0", "fault": "delay", "delay": "200ms"}`)
		if !slices.Equal(got, []string{"1", "2", "0"}) {
			t.Errorf("received %q", got)
		}
	})
	t.Run("shuffled", func(t *testing.T) {
		got := deliver(t, 50, `{"name": "mixed", "at": "events", "fault": "shuffle", "jitter": "200ms"}`)
		if len(got) != 50 || slices.IsSortedFunc(got, func(a, b string) int { return len(a)*100 + int(a[0]) - len(b)*100 - int(b[0]) }) {
			t.Errorf("received %q", got)
		}
		slices.Sort(got)
		if len(slices.Compact(got)) != 50 {
			t.Errorf("received %q", got)
		}
	})
	t.Run("handled, but not acknowledged", func(t *testing.T) {
		got := deliver(t, 1, `{"name": "again", "at": "events", "fault": "unacknowledged", "count": 2}`)
		if !slices.Equal(got, []string{"0", "0", "0"}) {
			t.Errorf("received %q", got)
		}
	})
}
