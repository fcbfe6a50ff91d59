package faults_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/penstock/penstock/dev/eventarc"
	"github.com/penstock/penstock/dev/faults"
)

// strike lets one event meet the lab's rules.
func strike(lab *faults.Lab) {
	var o eventarc.Options
	lab.Deliver(&o)
	o.Route("job-status", eventarc.Event{})
}

func TestAwaitReturnsAtTheStrikesAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab, _ := open(t, `{"name": "lost", "at": "events", "fault": "lose"}`)
		var got faults.Counts
		go func() {
			var err error
			if got, err = lab.Await(t.Context(), "lost", 3); err != nil {
				t.Error(err)
			}
		}()
		for n := range 4 {
			synctest.Wait()
			if want := 3 * (n / 3); got.Injected != want {
				t.Errorf("after %d strikes it has returned %+v", n, got)
			}
			strike(lab)
		}
		if counts, err := lab.Await(t.Context(), "lost", 2); err != nil || counts.Injected != 4 {
			t.Errorf("late, it returned %+v, %v", counts, err)
		}
	})
}

func TestAwaitEndsWithItsRuleOrItsContext(t *testing.T) {
	lab, _ := open(t, `{"name": "lost", "at": "events", "fault": "lose"}`)
	if _, err := lab.Await(t.Context(), "none", 0); err == nil {
		t.Error("a rule that is not there has counts")
	}
	strike(lab)
	ended := make(chan error, 1)
	go func() {
		_, err := lab.Await(t.Context(), "lost", 3)
		ended <- err
	}()
	lab.Delete("lost")
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("the rule ended, and it says %v", err)
	}
	put(t, lab, `{"name": "lost", "at": "events", "fault": "lose"}`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lab.Await(ctx, "lost", 3); !errors.Is(err, context.Canceled) {
		t.Errorf("its context ended, and it says %v", err)
	}
}

func TestStrikesAreAwaitedOverHTTP(t *testing.T) {
	lab, _ := open(t, `{"name": "lost", "at": "events", "fault": "lose"}`)
	server := httptest.NewServer(lab.Handler())
	defer server.Close()
	ask := func(path string) (int, faults.Counts) {
		t.Helper()
		response, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var counts faults.Counts
		if err := json.NewDecoder(response.Body).Decode(&counts); err != nil {
			t.Error(err)
		}
		return response.StatusCode, counts
	}
	if code, counts := ask("/faults/lost"); code != http.StatusOK || counts.Injected != 0 {
		t.Errorf("at first %d, %+v", code, counts)
	}
	go strike(lab)
	if code, counts := ask("/faults/lost?injected=1"); code != http.StatusOK || counts.Injected != 1 {
		t.Errorf("after a strike %d, %+v", code, counts)
	}
	if code, _ := ask("/faults/lost?injected=some"); code != http.StatusBadRequest {
		t.Errorf("no number is answered %d", code)
	}
	if code, _ := ask("/faults/none"); code != http.StatusNotFound {
		t.Errorf("no rule is answered %d", code)
	}
}
