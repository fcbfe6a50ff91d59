// Package rotation rotates API keys of Temporal that lie in Secret Manager, without an outage and without anybody's
// restart: a new key is made and tried, becomes the newest version of the secret, and when every reader surely has it
// the old version is disabled and the old key deleted.
//
// It keeps no state of its own. What is to be done next follows from the secret's versions and from the issuer's list of
// keys, so that a pass may be killed at any call, delivered twice or run twice at once, and the next pass goes on from
// there. A key's token is told once: what a crash leaves of a key that no version holds is found and deleted.
package rotation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// What cannot be configured, since it follows from each other.
const (
	// passTimeout bounds a pass; it lies below the 10 minutes that Pub/Sub waits for an answer at most.
	passTimeout = 8 * time.Minute
	// settleWithin is how long a new key may take until it is accepted everywhere.
	settleWithin = 4 * time.Minute
	// abandonAfter is the age at which a pass no longer puts its key into the secret, by the wall clock: a pass may be
	// frozen with its instance. It lies far below MinRetire, so that no key is deleted and put into a version afterwards.
	abandonAfter = 10 * time.Minute
	// checks is how often in a row, on as many connections, a new key must be accepted: a service of many front ends may
	// know it at one and not yet at another.
	checks = 3
	// checkEvery is the time between two of them.
	checkEvery = 5 * time.Second
	// maxUnheld is how many keys of unfinished rotations may wait for their deletion before no more are made: an account
	// has only so many.
	maxUnheld = 3
)

// Bounds of Timing.
const (
	// MinGrace is the least Timing.Grace: readers read a key again when it is a minute old (package connect).
	MinGrace = 5 * time.Minute
	// MinRetire is the least Timing.Retire.
	MinRetire = time.Hour
	// MinLifetime is the least Timing.Lifetime.
	MinLifetime = 24 * time.Hour
)

// Timing says how long a rotation's steps take. Zero fields have their defaults.
type Timing struct {
	// Grace is the time from a new version to the disabling of the ones before: as long as readers may go on with
	// what they read. Defaults to 15 minutes, and is MinGrace at least.
	Grace time.Duration
	// Retire is the time from a new version to the deletion of keys that no enabled version holds, and the age that such
	// a key must have. A reader that cannot read the secret works until then. Defaults to one hour, and is MinRetire at
	// least and not below Grace.
	Retire time.Duration
	// Lifetime is how long a new key is valid. It must be well above the rotation period of the secret. Defaults to 90
	// days, and is MinLifetime at least.
	Lifetime time.Duration
	// Interval is the least time between two rotations, against a notice that is published twice. Defaults to 30
	// minutes; Secret Manager's shortest period is an hour.
	Interval time.Duration
}

// withDefaults fills in what is zero, and refuses what would cause an outage.
func (t Timing) withDefaults() (Timing, error) {
	for _, f := range []struct {
		value *time.Duration
		name  string
		zero  time.Duration
		least time.Duration
	}{
		{&t.Grace, "Grace", 15 * time.Minute, MinGrace},
		{&t.Retire, "Retire", time.Hour, MinRetire},
		{&t.Lifetime, "Lifetime", 90 * 24 * time.Hour, MinLifetime},
		{&t.Interval, "Interval", 30 * time.Minute, time.Second},
	} {
		if *f.value == 0 {
			*f.value = f.zero
		}
		if *f.value < f.least {
			return t, fmt.Errorf("rotation timing: %s is %v; it must be %v at least", f.name, *f.value, f.least)
		}
	}
	if t.Retire < t.Grace {
		return t, fmt.Errorf("rotation timing: Retire is %v and Grace %v; a key must outlive its version", t.Retire, t.Grace)
	}
	return t, nil
}

// Purposes of a key: what a new one is tried with.
const (
	ForNamespace = "namespace" // functions and worker call a Temporal namespace with it
	ForCloud     = "cloud"     // the rotator itself calls Temporal Cloud's API with it
)

// Secret is a secret of Secret Manager whose versions are API keys, each the key and nothing else.
type Secret struct {
	// Name is projects/PROJECT/secrets/ID.
	Name string `json:"secret"`
	// Owner is the ID of the Temporal Cloud service account that the keys belong to. Empty: the keys come from
	// elsewhere and a person adds the versions; a rotation that is due is then only said, and old versions are disabled.
	Owner string `json:"owner,omitempty"`
	// Purpose is ForNamespace (also when empty) or ForCloud.
	Purpose string `json:"for,omitempty"`
}

// id is the secret's ID without its project, which notices give by number.
func (s Secret) id() string { return s.Name[strings.LastIndexByte(s.Name, '/')+1:] }

// prefix begins the display names of all keys that were made for the secret, and of no other.
func (s Secret) prefix() string {
	sum := sha256.Sum256([]byte(s.Name))
	return "penstock-" + hex.EncodeToString(sum[:8]) + "-"
}

// Request asks for a pass over a secret.
type Request struct {
	// Due is when a rotation was asked for. A newest version that is younger has answered it. Zero: nobody asked; the pass
	// finishes what was begun, and puts in a new key only where the newest cannot be used at all.
	Due time.Time
	// Force rotates though the last rotation is less than Timing.Interval ago.
	Force bool
}

// Result is what a pass left.
type Result struct {
	// Rotated says that this pass put in a new version.
	Rotated bool
	// Next is when there is more to do; zero: all is done.
	Next time.Time
}

// wait notes that there is something to do at a time.
func (r *Result) wait(at time.Time) {
	if r.Next.IsZero() || at.Before(r.Next) {
		r.Next = at
	}
}

// Rotator rotates keys. It is safe for concurrent use, also by several processes.
type Rotator struct {
	vault  *Vault
	cloud  *Cloud
	check  func(ctx context.Context, key string) error
	timing Timing
	log    *slog.Logger
	clock  clock
}

// clock is time, which tests replace.
type clock struct {
	now   func() time.Time
	sleep func(context.Context, time.Duration) error
}

// New makes a rotator of secrets in vault with keys from cloud, which may be nil if no secret has an owner. check tries a
// key with the namespace that it is for (see Namespace). A nil log is slog's default.
func New(vault *Vault, cloud *Cloud, check func(ctx context.Context, key string) error, timing Timing, log *slog.Logger) (*Rotator, error) {
	timing, err := timing.withDefaults()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.Default()
	}
	return &Rotator{vault: vault, cloud: cloud, check: check, timing: timing, log: log, clock: clock{now: time.Now, sleep: sleep}}, nil
}

// pass is one look at one secret, with what was found.
type pass struct {
	*Rotator
	secret Secret
	log    *slog.Logger

	versions []Version      // newest first
	holds    map[int]string // ID of the key that an enabled version holds, by the version's number
	unknown  error          // why it is not known of every enabled version
}

// Pass does what there is to do about a secret now. Its error means that something could not be done or found out: nothing
// was taken away then that may be in use, and a later pass tries again.
func (r *Rotator) Pass(ctx context.Context, secret Secret, request Request) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	p := &pass{Rotator: r, secret: secret, log: r.log.With("secret", secret.Name)}
	result, err := p.run(ctx, request)
	if err != nil {
		return result, fmt.Errorf("rotate the key in %s: %w", secret.Name, err)
	}
	return result, nil
}

func (p *pass) run(ctx context.Context, request Request) (Result, error) {
	var result Result
	if err := p.look(ctx); err != nil {
		return result, err
	}
	rotate, err := p.wanted(ctx, request)
	if err != nil {
		return result, err
	}
	if rotate {
		if err := p.begin(ctx); err != nil {
			return result, err
		}
		result.Rotated = true
		if err := p.look(ctx); err != nil {
			return result, err
		}
	}
	return result, p.finish(ctx, &result)
}

// look reads the versions.
func (p *pass) look(ctx context.Context) (err error) {
	p.versions, err = p.vault.versions(ctx, p.secret.Name)
	return err
}

// newest is the version that readers get as `latest`, which is the newest whatever its state; nil: there is none.
func (p *pass) newest() *Version {
	if len(p.versions) == 0 {
		return nil
	}
	return &p.versions[0]
}

// wanted decides whether a new key is to be put in.
func (p *pass) wanted(ctx context.Context, request Request) (bool, error) {
	newest := p.newest()
	switch {
	case p.secret.Owner == "":
		if newest == nil || newest.State != enabled || newest.Created.Before(request.Due) {
			p.log.Warn("a rotation is due: put a new key into the secret by hand; the old version is disabled afterwards", "finding", "rotation-due", "due", request.Due)
		}
		return false, nil
	case newest == nil:
		p.log.Info("the secret has no version: it gets its first key")
		return true, nil
	case newest.State != enabled:
		p.log.Warn("the newest version of the secret is not enabled, so that nobody can read it: it gets a new key", "version", newest.Number, "state", newest.State)
		return true, nil
	}
	key, err := p.vault.read(ctx, newest.Name)
	if errors.Is(err, errNoKey) {
		p.log.Warn("the newest version of the secret holds no key: it gets one", "version", newest.Number)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if _, err := p.cloud.Identify(ctx, key); errors.Is(err, ErrRefused) {
		p.log.Warn("Temporal Cloud does not know the newest key: it is replaced", "version", newest.Number)
		return true, nil
	} else if err != nil {
		return false, err
	}
	if !newest.Created.Before(request.Due) {
		return false, nil // a version that came after the request has answered it, or nobody asked
	}
	if age := request.Due.Sub(newest.Created); age < p.timing.Interval && !request.Force {
		p.log.Info("the key was rotated a moment before it was asked for: nothing to rotate", "version", newest.Number, "age", age.String())
		return false, nil
	}
	return true, nil
}

// begin makes a key, tries it, and only then makes it the newest version, which is what readers get: nobody reads a key
// that was not seen to work.
//
// It deletes nothing of what it made, whatever fails: another pass may have asked for the same key at the same time and
// have put it in. finish finds what nobody put in.
func (p *pass) begin(ctx context.Context) error {
	keys, err := p.affordable(ctx)
	if err != nil {
		return err
	}
	made := p.clock.now()
	key, err := p.cloud.create(ctx, spec{
		owner:       p.secret.Owner,
		name:        p.secret.prefix() + made.UTC().Format("20060102-150405"),
		description: "Made by Penstock's rotator for " + p.secret.Name,
		expires:     made.Add(p.timing.Lifetime),
		operation:   p.operation(keys, made),
	})
	if err != nil {
		return err
	}
	p.log.Info("a new key was made", "key", key.id)
	if err := p.try(ctx, key); err != nil {
		return fmt.Errorf("the new key %s is not put in, since it does not work: %w", key.id, err)
	}
	if age := p.clock.now().Round(0).Sub(made.Round(0)); age > abandonAfter || age < 0 {
		return fmt.Errorf("the new key %s is not put in, since it was made %v ago; a later pass deletes it, and the next makes another", key.id, age)
	}
	added, err := p.vault.add(ctx, p.secret.Name, key.token)
	if err != nil {
		return err
	}
	p.log.Info("the new key is in force for whoever reads the secret from now on", "version", added.Number, "key", key.id)
	return nil
}

// affordable lists the keys there are, and makes room where too many of them were made in vain.
func (p *pass) affordable(ctx context.Context) ([]Key, error) {
	keys, err := p.keys(ctx)
	if err != nil {
		return nil, err
	}
	if len(keys) < maxUnheld {
		return keys, nil
	}
	if err := p.identify(ctx); err != nil {
		return nil, err
	}
	unheld := p.unheld(keys)
	if p.unknown != nil || len(unheld) < maxUnheld {
		return keys, p.unknown
	}
	if err := p.retire(ctx, p.orphans(unheld), &Result{}); err != nil {
		return nil, err
	}
	if keys, err = p.keys(ctx); err != nil {
		return nil, err
	}
	if left := p.unheld(keys); len(left) >= maxUnheld {
		return nil, fmt.Errorf("no more keys are made: %d are in no enabled version of the secret and wait for their deletion, %v after they were made or replaced: see why the passes before failed", len(left), p.timing.Retire)
	}
	return keys, nil
}

// orphans are those of the unheld keys that were never in the secret: they are younger than its newest version, by more than
// clocks differ.
func (p *pass) orphans(unheld []Key) []Key {
	newest := p.newest()
	if newest == nil {
		return unheld
	}
	return slices.DeleteFunc(slices.Clone(unheld), func(k Key) bool { return !k.Created.After(newest.Created.Add(time.Minute)) })
}

// operation is the ID that the issuer knows the making of the next key by. It follows from what there is, so that two
// passes that run at once ask for one and the same key, and differs after a key was made. The half hour is in it since an
// issuer remembers operations for longer than keys that were made in vain: without it the ID would come back with their
// deletion.
func (p *pass) operation(keys []Key, now time.Time) string {
	h := sha256.New()
	newest := 0
	if v := p.newest(); v != nil {
		newest = v.Number
	}
	fmt.Fprintln(h, p.secret.Name, p.secret.Owner, newest, now.Truncate(MinRetire/2).Unix())
	for _, k := range keys {
		fmt.Fprintln(h, k.ID)
	}
	return "penstock-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// try waits until a new key is accepted, several times in a row.
func (p *pass) try(ctx context.Context, key made) error {
	deadline := p.clock.now().Add(settleWithin)
	for good := 0; ; {
		err := p.works(ctx, key)
		if err == nil {
			good++
		} else {
			good = 0
		}
		if good == checks {
			return nil
		}
		if err != nil && p.clock.now().Add(checkEvery).After(deadline) {
			return err
		}
		if slept := p.clock.sleep(ctx, checkEvery); slept != nil {
			return errors.Join(err, slept)
		}
	}
}

// works tries a key once with what it is for. If it has an ID, it must be that key and the owner's.
func (p *pass) works(ctx context.Context, key made) error {
	if p.secret.Owner != "" {
		k, err := p.cloud.Identify(ctx, key.token)
		switch {
		case err != nil:
			return err
		case key.id != "" && (k.ID != key.id || k.Owner != p.secret.Owner):
			return fmt.Errorf("ask whose key it is: Temporal Cloud says the key %q of %q, and not %q of %q", k.ID, k.Owner, key.id, p.secret.Owner)
		}
	}
	if p.secret.Purpose == ForCloud {
		_, err := p.cloud.with(key.token).keys(ctx, p.secret.Owner)
		return err
	}
	return p.check(ctx, key.token)
}

// finish disables the versions before the newest and deletes the keys that none holds, each when it is time. Nothing of
// that is done unless the newest key was just seen to work.
func (p *pass) finish(ctx context.Context, result *Result) error {
	newest := p.newest()
	if newest == nil || newest.State != enabled {
		return nil // only where a person puts keys in, who was told
	}
	key, err := p.vault.read(ctx, newest.Name)
	if err != nil {
		return err
	}
	if err := p.works(ctx, made{token: key}); err != nil {
		return fmt.Errorf("nothing is disabled or deleted, since the newest version %d does not work: %w", newest.Number, err)
	}
	var keys []Key
	if p.secret.Owner != "" {
		if keys, err = p.keys(ctx); err != nil {
			return err
		}
		if err := p.identify(ctx); err != nil {
			return err
		}
	}
	for i := range p.versions[1:] {
		v := &p.versions[1+i]
		if v.State != enabled {
			continue
		}
		if at := newest.Created.Add(p.timing.Grace); p.clock.now().Before(at) {
			result.wait(at)
			continue
		}
		if err := p.vault.disable(ctx, *v); err != nil {
			return err
		}
		v.State = "DISABLED"
		p.log.Info("an old version of the secret is disabled", "version", v.Number, "newest", newest.Number)
		held := p.holds[v.Number]
		delete(p.holds, v.Number)
		if held != "" && !slices.ContainsFunc(keys, func(k Key) bool { return k.ID == held }) {
			p.log.Warn("the old version's key was not made by the rotator, which leaves it: delete it by hand", "finding", "key-left", "version", v.Number, "key", held)
		}
	}
	if p.unknown != nil {
		return fmt.Errorf("no key is deleted: %w", p.unknown)
	}
	return p.retire(ctx, p.unheld(keys), result)
}

// retire deletes keys that no enabled version holds, once both they and the newest version are old enough.
func (p *pass) retire(ctx context.Context, unheld []Key, result *Result) error {
	for _, k := range unheld {
		at := k.Created
		if v := p.newest(); v != nil && v.Created.After(at) {
			at = v.Created
		}
		if at = at.Add(p.timing.Retire); p.clock.now().Before(at) {
			result.wait(at)
			continue
		}
		if err := p.cloud.delete(ctx, k); err != nil {
			return err
		}
		p.log.Info("a key that no enabled version holds is deleted", "key", k.ID)
	}
	return nil
}

// keys are those that were ever made for the secret and are not deleted, by ID.
func (p *pass) keys(ctx context.Context) ([]Key, error) {
	all, err := p.cloud.keys(ctx, p.secret.Owner)
	if err != nil {
		return nil, err
	}
	ours := slices.DeleteFunc(all, func(k Key) bool { return !strings.HasPrefix(k.Name, p.secret.prefix()) || k.gone() })
	slices.SortFunc(ours, func(a, b Key) int { return strings.Compare(a.ID, b.ID) })
	return ours, nil
}

// identify asks the issuer which key each enabled version holds. An old version whose key the issuer refuses holds none.
func (p *pass) identify(ctx context.Context) error {
	p.holds, p.unknown = map[int]string{}, nil
	for i, v := range p.versions {
		if v.State != enabled {
			continue
		}
		token, err := p.vault.read(ctx, v.Name)
		if errors.Is(err, errNoKey) {
			continue
		}
		if err != nil {
			return err
		}
		k, err := p.cloud.Identify(ctx, token)
		switch {
		case errors.Is(err, ErrRefused) && i > 0:
		case err != nil:
			p.unknown = fmt.Errorf("find out which key version %d holds: %w", v.Number, err)
		case k.ID == "":
			p.unknown = fmt.Errorf("find out which key version %d holds: Temporal Cloud does not say", v.Number)
		default:
			p.holds[v.Number] = k.ID
		}
	}
	return nil
}

// unheld are the keys that no enabled version holds.
func (p *pass) unheld(keys []Key) []Key {
	held := slices.Collect(maps.Values(p.holds))
	return slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { return slices.Contains(held, k.ID) })
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait %v: %w", d, ctx.Err())
	case <-t.C:
		return nil
	}
}
