package ledger

import (
	"context"
	"fmt"
)

// ErrChanged is what errors.Is finds when an object is not of the generation that a
// write was to replace: nothing was written, and the object can be read anew.
var ErrChanged = errChanged

// Objects are a few JSON objects that several processes change, in a bucket or a
// local folder, by the same conditional writes as claims. It is safe for concurrent use.
type Objects struct {
	place string
	store store
}

// OpenObjects opens a place as [OpenFrom] does, for objects that are no claims or
// records. It calls no API. Close it.
func OpenObjects(ctx context.Context, place string, getenv func(string) string) (*Objects, error) {
	s, err := openStore(ctx, place, getenv)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", clip(place), err)
	}
	return &Objects{place: place, store: s}, nil
}

// Close frees what OpenObjects took. No method may be called after it.
func (o *Objects) Close() error { return o.store.close() }

// String is the place that the objects were opened with.
func (o *Objects) String() string { return o.place }

// URL is an object's full name, for people.
func (o *Objects) URL(name string) string { return o.store.url(name) }

// Read answers with an object's content and its generation. The name is that of a
// .json file. errors.Is(err, ErrNotFound): there is none.
func (o *Objects) Read(ctx context.Context, name string) ([]byte, int64, error) {
	return o.store.read(ctx, name)
}

// Write creates an object (generation 0), or replaces the one of the generation that
// Read answered with. errors.Is(err, ErrChanged): somebody else wrote before, and
// nothing was written. Any other error leaves open whether it was.
func (o *Objects) Write(ctx context.Context, name string, data []byte, generation int64) error {
	_, err := o.store.write(ctx, name, data, generation)
	return err
}
