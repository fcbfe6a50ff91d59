package service

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

func archive(t *testing.T, keys ...string) *Service {
	t.Helper()
	l, err := ledger.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for _, key := range keys {
		begun := time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)
		if err := l.Finish(t.Context(), ledger.Record{
			Deployment: "dev", Pipeline: "orders", Key: key, RunID: runs.RunID("dev", "orders", key), Chain: "first", Execution: "second", Identity: key,
			Decision: "started", Config: pipeline.Version{Hash: "abc"}, Outcome: runs.OutcomeFailed, Error: "step load failed", Started: begun, Ended: begun.Add(time.Hour),
			Steps: []runs.StepResult{{Name: "load", Outcome: runs.OutcomeFailed, Attempts: []runs.JobResult{
				{Version: runs.RecordVersion, Outcome: runs.OutcomeFailed, Attempt: 1, Project: "p", Location: "l", JobName: "n", JobID: "j", Error: "boom"},
			}}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	return &Service{deployment: "dev", ui: "http://ui", ledger: l}
}

func TestARunThatTemporalHasForgottenIsDescribedFromTheLedger(t *testing.T) {
	long := strings.Repeat("ä/", 200) + "a.csv" // only its hash is in the run ID
	s := archive(t, "a.csv", long)
	for _, ref := range []string{"dev/orders/a.csv", "orders/a.csv", runs.RunID("dev", "orders", long), "orders/" + long} {
		d, err := s.archived(t.Context(), ref)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if d.Source != SourceLedger || d.Outcome != runs.OutcomeFailed || d.Error != "step load failed" || d.Execution != "second" || d.Config.Hash != "abc" || d.Duration(time.Now()) != time.Hour {
			t.Errorf("%s is %+v", ref, d)
		}
		if len(d.Steps) != 1 || len(d.Steps[0].Attempts) != 1 || d.Steps[0].Attempts[0].Error != "boom" || d.Steps[0].Attempts[0].Console == "" || d.Steps[0].Attempts[0].Link != "" {
			t.Errorf("%s has the steps %+v", ref, d.Steps)
		}
	}
	for _, ref := range []string{"orders/b.csv", "orders/a", "a.csv", "prod/orders/a.csv", "../x"} {
		if d, err := s.archived(t.Context(), ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %+v, %v", ref, d, err)
		}
	}
}

func TestADuplicateNamesTheRunThatHasItsKey(t *testing.T) {
	for name, c := range map[string]struct {
		chain string
		keeps bool // the ledger has the other's record
	}{
		"with its record":    {"first", true},
		"without its record": {"lost", false},
	} {
		t.Run(name, func(t *testing.T) {
			d := Description{Run: Run{RunID: "dev/orders/a.csv", Pipeline: "orders", Key: "a.csv"}}
			archive(t, "a.csv").first(t.Context(), &d, &runs.Taken{RunID: "dev/orders/a.csv", Chain: c.chain, OfferRetry: true, Reason: "run x ended as failed"})
			if text := strings.Join(d.Notes, "\n"); !strings.Contains(text, "run x ended as failed") || !strings.Contains(text, "penstock retry") {
				t.Errorf("notes %q", d.Notes)
			}
			if (d.First != nil) != c.keeps || d.Taken == nil {
				t.Errorf("taken %+v, first %+v", d.Taken, d.First)
			}
		})
	}
}

// A record has neither the event nor the launches: what it can say is what helps.
func TestARunThatTemporalHasForgottenCannotBeRetried(t *testing.T) {
	const object = "finalized:landing/in/a.csv#7"
	s := archive(t, object, "event:s#1")
	s.temporal = &workflows{}
	for ref, says := range map[string]string{"orders/" + object: "gs://landing/in/a.csv", "orders/event:s#1": "another identity than event:s#1"} {
		if _, err := s.Retry(t.Context(), ref, RetryRequest{SameConfig: true}); !errors.Is(err, ErrForgotten) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "ended as failed") {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := s.Retry(t.Context(), "orders/b.csv", RetryRequest{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a run that never was: %v", err)
	}
}
