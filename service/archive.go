package service

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/runs"
)

// archived describes the run that ref means from its final record in the ledger. ErrNotFound: there is none.
func (s *Service) archived(ctx context.Context, ref string) (Description, error) {
	for _, id := range s.candidates(ref) {
		_, name, key, exact, _ := runs.ParseRunID(id)
		hash := ledger.KeyHash(key)
		if !exact {
			hash = id[strings.LastIndexByte(id, '~')+1:]
		}
		callCtx, cancel := call(ctx)
		record, err := s.ledger.Last(callCtx, s.deployment, name, hash)
		cancel()
		switch {
		case err == nil:
			return s.describeRecord(ctx, record), nil
		case !errors.Is(err, ledger.ErrNotFound) && !errors.Is(err, ledger.ErrInvalid): // invalid: no run can have this ID
			return Description{}, fmt.Errorf("ask the ledger %s for run %s: %w", s.ledger, id, err)
		}
	}
	return Description{}, fmt.Errorf("%w: neither Temporal nor the ledger %s knows %s", ErrNotFound, s.ledger, ref)
}

// describeRecord describes a run that has left a final record.
func (s *Service) describeRecord(ctx context.Context, r ledger.Record) Description {
	d := Description{
		Run: Run{
			RunID: r.RunID, Execution: r.Execution, Pipeline: r.Pipeline, Key: r.Key, Outcome: r.Outcome, Begun: r.Started, Ended: r.Ended,
			Identity: r.Identity, Config: r.Config,
		},
		Source: SourceLedger,
		Error:  r.Error,
	}
	for _, step := range r.Steps {
		d.Steps = append(d.Steps, s.step(ctx, &d, &history{}, step, false))
	}
	for i := range d.Steps { // Temporal has no page of a workflow that it has forgotten
		for j := range d.Steps[i].Attempts {
			d.Steps[i].Attempts[j].Link = ""
		}
	}
	if r.Trimmed != "" {
		d.Notes = append(d.Notes, "its record was too large to keep whole; it lost "+r.Trimmed)
	}
	return d
}

// first describes the run that has the key of a run which ended for it, as far as the ledger knows it.
func (s *Service) first(ctx context.Context, d *Description, taken *runs.Taken) {
	d.Taken = taken
	d.Notes = append(d.Notes, "it launched nothing: "+taken.Reason)
	if taken.OfferRetry {
		d.Notes = append(d.Notes, "penstock retry runs it in that one's place")
	}
	if s.ledger == nil {
		return
	}
	ctx, cancel := call(ctx)
	defer cancel()
	switch record, err := s.ledger.Record(ctx, s.deployment, d.Pipeline, d.Key, taken.Chain); {
	case err == nil:
		first := s.describeRecord(ctx, record)
		d.First = &first
	case !errors.Is(err, ledger.ErrNotFound):
		d.Notes = append(d.Notes, fmt.Sprintf("the ledger %s does not tell of that one: %v", s.ledger, err))
	}
}
