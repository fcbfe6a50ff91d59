package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/events"
)

// extras tells of the runs begun in the window that no object in it explains.
func (r *reconciler) extras(ctx context.Context, places []place) error {
	query := Filter{Pipeline: r.judge.p.Name, Since: r.q.From, Until: r.q.To}.query(r.deployment)
	var failed error
	err := r.each(ctx, query, reconcilePage, func(page []Run) bool {
		failed = r.extrasOf(ctx, page, places)
		return failed == nil
	})
	return errors.Join(err, failed)
}

func (r *reconciler) extrasOf(ctx context.Context, page []Run, places []place) error {
	page = slices.DeleteFunc(page, func(run Run) bool {
		known := r.judge.runs[digestOf(run.Identity)]
		return run.Identity != "" && known != nil && known.explained
	})
	reasons := make([]string, len(page))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(reconcileParallel)
	for i := range page {
		g.Go(func() (err error) {
			reasons[i], err = r.extra(gctx, page[i].Identity, places)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range page {
		if reasons[i] == "" {
			continue
		}
		r.result.Extra++
		if err := r.seen.Extra(ExtraRun{Run: page[i], Reason: reasons[i]}); err != nil {
			return err
		}
	}
	return nil
}

// extra says why no object explains a run that an event started; empty: one does that was created outside the window.
func (r *reconciler) extra(ctx context.Context, identity string, places []place) (string, error) {
	if identity == "" {
		return "it was started by something else than an event", nil
	}
	bucket, name, generation, ok := finalized(identity)
	if !ok {
		return "it was started by an event that cannot be listed", nil
	}
	if !slices.ContainsFunc(places, func(at place) bool { return at.bucket == bucket && strings.HasPrefix(name, at.prefix) }) {
		return "no trigger of the pipelines file as it is covers its object", nil
	}
	o, err := r.q.Buckets.generation(ctx, bucket, name, generation)
	switch {
	case errors.Is(err, errNoObject):
		return "its object is gone: it was deleted, or overwritten", nil
	case err != nil && ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return fmt.Sprintf("its object cannot be looked at: %v", err), nil
	case len(r.judge.set.Match(o.event)) == 0:
		return "no trigger of the pipelines file as it is covers its object", nil
	}
	return "", nil
}

// finalized takes apart the identity of the event of an object's creation.
func finalized(identity string) (bucket, name string, generation int64, ok bool) {
	rest, ok := strings.CutPrefix(identity, string(events.Finalized)+":")
	bucket, rest, found := strings.Cut(rest, "/")
	at := strings.LastIndexByte(rest, '#')
	if !ok || !found || at < 0 {
		return "", "", 0, false
	}
	generation, err := strconv.ParseInt(rest[at+1:], 10, 64)
	return bucket, rest[:at], generation, err == nil
}
