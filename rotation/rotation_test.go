package rotation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestARotationInItsSteps(t *testing.T) {
	w := newWorld(t)
	w.slow = 12 * time.Second // the new key is not known everywhere at once
	due := w.at
	w.advance(time.Second)
	result, err := w.pass(t.Context(), due)
	if err != nil || !result.Rotated || len(w.versions) != 2 || w.versions[0].state != enabled {
		t.Fatalf("first pass: %+v, %v; want a second version, and the first enabled still", result, err)
	}
	switched := w.versions[1].created
	if want := switched.Add(15 * time.Minute); !result.Next.Equal(want) {
		t.Errorf("the first pass wants the next at %v, want %v, when the old version may be disabled", result.Next, want)
	}
	w.at = result.Next.Add(-time.Second)
	if result, err = w.pass(t.Context(), due); err != nil || w.versions[0].state != enabled {
		t.Errorf("a second before its time the old version is %s (%v)", w.versions[0].state, err)
	}
	w.at = result.Next
	if result, err = w.pass(t.Context(), due); err != nil || w.versions[0].state != "DISABLED" || !result.Next.IsZero() {
		t.Errorf("at its time the old version is %s (%+v, %v)", w.versions[0].state, result, err)
	}
	if !strings.Contains(w.log.String(), "delete it by hand") {
		t.Error("nobody is told to delete the first key, which the rotator did not make")
	}
	w.mustBeClean()

	// The next one replaces a key that the rotator made.
	w.at = begin.Add(30 * 24 * time.Hour)
	due = w.at
	if result, err = w.pass(t.Context(), due); err != nil || !result.Rotated {
		t.Fatal(result, err)
	}
	w.at = result.Next
	if result, err = w.pass(t.Context(), due); err != nil {
		t.Fatal(err)
	}
	if want := w.versions[2].created.Add(time.Hour); !result.Next.Equal(want) || w.versions[1].state != "DISABLED" || w.byToken(w.versions[1].data).deleted {
		t.Errorf("the old version is %s and its key deleted: %v, next %v; want the key to live until %v", w.versions[1].state, w.byToken(w.versions[1].data).deleted, result.Next, want)
	}
	w.at = result.Next
	if result, err = w.pass(t.Context(), due); err != nil || !result.Next.IsZero() {
		t.Errorf("last pass: %+v, %v", result, err)
	}
	// The key is listed still, while it is being deleted.
	if result, err = w.pass(t.Context(), due); err != nil || !result.Next.IsZero() {
		t.Errorf("a pass after the last: %+v, %v", result, err)
	}
	w.mustBeClean()
}

// TestACrashAtAnyCallIsFinishedByTheNextPass kills passes at each of their calls in turn, before and after it is done.
func TestACrashAtAnyCallIsFinishedByTheNextPass(t *testing.T) {
	for _, repeated := range []string{"same", "silent", "refused"} {
		for _, f := range []fate{lostBefore, lostAfter} {
			for at, last := 1, false; !last; at++ {
				reached := false
				t.Run(fmt.Sprintf("a repeated operation is answered %s, fate %d of call %d", repeated, f, at), func(t *testing.T) {
					w := newWorld(t)
					w.repeated = repeated
					w.rotateOnce() // so that the key to be replaced is one of the rotator's
					due := w.at
					ctx, crash := context.WithCancel(t.Context())
					defer crash()
					start := w.calls
					w.hook = func(call int, what string) fate {
						if call-start != at {
							return served
						}
						reached = true
						// After the switch it makes no difference how repeated operations are answered.
						last = repeated != "same" && strings.HasSuffix(what, ":addVersion")
						crash()
						return f
					}
					// The first life ends at the call, in this pass or a later one.
					for range 10 {
						result, err := w.pass(ctx, due)
						if ctx.Err() != nil || err == nil && result.Next.IsZero() {
							break
						}
						w.advance(10 * time.Minute)
					}
					w.hook = nil
					w.redeliver(due)
					w.mustBeClean()
					if len(w.versions) > 4 {
						t.Errorf("%d versions; want one more, and another if the crash hid it", len(w.versions))
					}
				})
				if !reached {
					if at < 30 {
						t.Errorf("a rotation took %d calls only; the test sees less than there is", at)
					}
					last = true
				}
			}
		}
	}
}

// rotateOnce runs a whole rotation, and moves on to when the next is due.
func (w *world) rotateOnce() {
	w.t.Helper()
	w.redeliver(w.at)
	w.mustBeClean()
	w.advance(30 * 24 * time.Hour)
}

// TestTwoPassesAtOnce runs a whole pass in the middle of another, at each of its calls.
func TestTwoPassesAtOnce(t *testing.T) {
	for _, repeated := range []string{"same", "silent", "refused"} {
		for at, last := 1, false; !last; at++ {
			reached := false
			t.Run(fmt.Sprintf("a repeated operation is answered %s, at call %d", repeated, at), func(t *testing.T) {
				w := newWorld(t)
				w.repeated = repeated
				w.rotateOnce()
				due := w.at
				start := w.calls
				w.hook = func(call int, what string) fate {
					if call-start == at {
						reached = true
						last = repeated != "same" && strings.HasSuffix(what, ":addVersion")
						w.mu.Lock()
						w.hook = nil
						w.mu.Unlock()
						_, _ = w.pass(t.Context(), due)
					}
					return served
				}
				for range 10 {
					result, err := w.pass(t.Context(), due)
					if reached || err == nil && result.Next.IsZero() {
						break
					}
					w.advance(10 * time.Minute)
				}
				w.hook = nil
				w.redeliver(due)
				w.mustBeClean()
			})
			last = last || !reached
		}
	}
}

func TestANoticeThatComesAgainRotatesOnce(t *testing.T) {
	for name, c := range map[string]struct {
		after   time.Duration // from the first notice to the publishing of the second
		request Request
		want    int
	}{
		"the same, redelivered after the end":        {0, Request{}, 2},
		"published twice, a minute apart":            {time.Minute, Request{}, 2},
		"the next one, a day later":                  {24 * time.Hour, Request{}, 3},
		"by a person in a hurry":                     {time.Minute, Request{Force: true}, 3},
		"none, but somebody looked at the secret":    {-1, Request{}, 2},
		"an old one that was on its way for a month": {-30 * 24 * time.Hour, Request{Force: true}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			due := w.at
			w.redeliver(due)
			w.advance(24 * time.Hour)
			if c.request.Due = due.Add(c.after); c.after == -1 {
				c.request.Due = time.Time{}
			}
			if c.after == time.Minute {
				c.request.Due = w.versions[1].created.Add(c.after)
			}
			if _, err := w.rotator.Pass(t.Context(), w.secret, c.request); err != nil {
				t.Fatal(err)
			}
			if len(w.versions) != c.want {
				t.Errorf("%d versions, want %d", len(w.versions), c.want)
			}
			w.redeliver(time.Time{})
			w.mustBeClean()
		})
	}
}

func TestAKeyThatDoesNotWorkNeverReachesTheSecret(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*world)
		want  string
	}{
		"the namespace does not let it in": {func(w *world) {
			w.refuses = func(k *cloudKey) bool { return k.token != firstKey }
		}, "unauthorized"},
		"it is not accepted for hours":                {func(w *world) { w.slow = 5 * time.Hour }, "not valid"},
		"its making fails":                            {func(w *world) { w.opFails = true }, "out of keys"},
		"the account has as many keys as it may":      {func(w *world) { w.limit = 2 }, "too many API keys"},
		"Temporal Cloud does not say whose key it is": {func(w *world) { w.opaque = true }, "later"},
		"the pass was frozen for an hour after it was made": {func(w *world) {
			w.hook = func(_ int, what string) fate {
				if strings.HasPrefix(what, "cloud GET /cloud/operations/") {
					w.advance(time.Hour)
				}
				return served
			}
		}, "made 1h"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.spoil(w)
			due := w.at
			for range 12 {
				if _, err := w.pass(t.Context(), due); err == nil || len(w.versions) != 1 {
					t.Fatalf("%d versions, %v; want no second version, and an error", len(w.versions), err)
				}
				w.advance(5 * time.Minute)
			}
			if !strings.Contains(strings.Join(w.told, "\n"), c.want) {
				t.Errorf("the errors do not say %q: %v", c.want, w.told)
			}
			if n := len(w.alive()); n > maxUnheld {
				t.Errorf("%d keys were made in vain in an hour, want %d at most", n, maxUnheld)
			}
			// It is repaired: the next delivery rotates, and what was made in vain goes.
			w.refuses, w.slow, w.opFails, w.opaque, w.hook, w.limit = nil, 0, false, false, nil, 10
			w.redeliver(due)
			w.mustBeClean()
		})
	}
}

// alive are the keys that the rotator made and that are not deleted.
func (w *world) alive() (keys []*cloudKey) {
	for _, k := range w.keys {
		if strings.HasPrefix(k.name, w.secret.prefix()) && k.owner == owner && !k.deleted {
			keys = append(keys, k)
		}
	}
	return keys
}

func TestNothingIsTakenAwayOnAGuess(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*world)
		want  string
	}{
		"the newest key stopped working in the namespace": {func(w *world) {
			newest := w.versions[len(w.versions)-1].data
			w.refuses = func(k *cloudKey) bool { return k.token == newest }
		}, "nothing is disabled"},
		"Temporal Cloud does not say which key is in the secret": {func(w *world) { w.opaque = true }, "later"},
		"it says so for one call only: not accepted": {func(w *world) {
			n := 0
			w.hook = func(_ int, what string) fate {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.slow = 0
				if what == "cloud GET /cloud/current-identity" {
					if n++; n == 3 { // wanted, works, identify
						w.slow = 1000 * time.Hour
					}
				}
				return served
			}
		}, "not valid"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.rotateOnce()
			due := w.at
			if _, err := w.pass(t.Context(), due); err != nil {
				t.Fatal(err)
			}
			w.advance(2 * time.Hour)
			c.spoil(w)
			w.mu.Lock()
			broken := len(w.broken)
			w.mu.Unlock()
			_, err := w.pass(t.Context(), due)
			w.hook, w.slow = nil, 0
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want one with %q", err, c.want)
			}
			if got := len(w.alive()); got != 2 {
				t.Errorf("%d keys are left, want both", got)
			}
			w.broken = w.broken[:broken] // the namespace was broken by the test itself
			w.refuses, w.opaque = nil, false
			w.redeliver(due)
			w.mustBeClean()
		})
	}
}

func TestKeysOfOtherAccountsAreLeftAloneThoughTheyAreListed(t *testing.T) {
	w := newWorld(t)
	w.allKeys = true
	w.rotateOnce()
	w.rotateOnce()
}

func TestAVersionThatChangedSinceItWasSeenIsLookedAtAgain(t *testing.T) {
	w := newWorld(t)
	due := w.at
	if _, err := w.pass(t.Context(), due); err != nil {
		t.Fatal(err)
	}
	w.advance(time.Hour)
	w.hook = func(_ int, what string) fate {
		if strings.HasSuffix(what, ":disable") {
			w.mu.Lock()
			w.versions[0].etag++ // somebody disabled and enabled it
			w.mu.Unlock()
		}
		return served
	}
	if _, err := w.pass(t.Context(), due); err == nil || w.versions[0].state != enabled {
		t.Errorf("%v, the version is %s; want it left, and an error", err, w.versions[0].state)
	}
	w.hook = nil
	w.redeliver(due)
	w.mustBeClean()
}

func TestASecretThatNobodyCanUseIsRepaired(t *testing.T) {
	for name, harm := range map[string]func(*world){
		"it has no version":                      func(w *world) { w.versions = nil },
		"the newest version is disabled":         func(w *world) { w.versions[0].state = "DISABLED" },
		"the newest version is destroyed":        func(w *world) { w.versions[0].state = "DESTROYED" },
		"the newest key was deleted by a person": func(w *world) { w.keys[0].deleted = true },
		"somebody put in a file by mistake":      func(w *world) { w.versions[0].data = "two\nlines" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			harm(w)
			result, err := w.pass(t.Context(), time.Time{}) // nobody asks for a rotation
			if err != nil || !result.Rotated {
				t.Fatalf("%+v, %v; want a new key", result, err)
			}
			w.broken = nil // it was broken from the start
			if name == "the newest key was deleted by a person" {
				w.keys[0].deleted = false
				w.keys[0].token += "-gone"
			}
			w.redeliver(time.Time{})
			w.broken = nil
			w.mustBeClean()
		})
	}
}

func TestKeysThatCrashesLeftAreDeletedAndBounded(t *testing.T) {
	w := newWorld(t)
	due := w.at
	for range 6 { // each pass is killed when its key was made
		ctx, crash := context.WithCancel(t.Context())
		w.hook = func(_ int, what string) fate {
			if what == "cloud POST /cloud/api-keys" {
				defer crash()
				return lostAfter
			}
			return served
		}
		if _, err := w.pass(ctx, due); err == nil {
			t.Fatal("a killed pass succeeded")
		}
		crash()
		w.advance(time.Minute)
	}
	if n := len(w.alive()); n != maxUnheld {
		t.Errorf("%d keys are left by six crashes, want %d", n, maxUnheld)
	}
	w.hook = nil
	w.redeliver(due)
	w.mustBeClean()
}

// TestTheKeyInMemoryOutlivesRotationsThatFail has a person disable the newest version, so that readers go on with what they
// have, while no new key works.
func TestTheKeyInMemoryOutlivesRotationsThatFail(t *testing.T) {
	w := newWorld(t)
	w.rotateOnce()
	inMemory := w.byToken(w.versions[1].data)
	w.versions[1].state = "DISABLED"
	w.refuses = func(k *cloudKey) bool { return k != inMemory }
	for range 60 {
		if _, err := w.pass(t.Context(), time.Time{}); err == nil {
			t.Fatal("a key that does not work was put in")
		}
		w.advance(5 * time.Minute)
	}
	if inMemory.deleted {
		t.Error("the key that readers have was deleted while there is no other")
	}
	if n := len(w.alive()); n > maxUnheld+1 {
		t.Errorf("%d keys are there", n)
	}
	w.refuses = nil
	w.redeliver(time.Time{})
	w.broken = nil // a person broke it
	w.mustBeClean()
}

func TestKeysOfAPersonAreOnlyAskedFor(t *testing.T) {
	w := newWorld(t)
	w.secret.Owner = ""
	due := w.at
	result, err := w.pass(t.Context(), due)
	if err != nil || result != (Result{}) || len(w.versions) != 1 || !strings.Contains(w.log.String(), "put a new key into the secret by hand") {
		t.Fatalf("%+v, %v, %d versions; want a reminder, and nothing else", result, err, len(w.versions))
	}
	w.advance(time.Hour)
	w.mu.Lock()
	w.put("token-of-a-person", w.at)
	w.mu.Unlock()
	w.redeliver(time.Time{}) // SECRET_VERSION_ADD
	if w.versions[0].state != "DISABLED" || w.versions[1].state != enabled {
		t.Errorf("the versions are %s and %s; want the old one disabled", w.versions[0].state, w.versions[1].state)
	}
	w.mu.Lock()
	w.put("a-typo", w.at)
	w.broken = nil
	w.mu.Unlock()
	w.advance(time.Hour)
	if _, err := w.pass(t.Context(), time.Time{}); err == nil || w.versions[1].state != enabled {
		t.Errorf("a key that does not work: %v, the one before is %s; want an error, and it enabled", err, w.versions[1].state)
	}
	w.broken = nil
}

func TestTheRotatorsOwnKeyIsRotatedToo(t *testing.T) {
	w := newWorld(t)
	w.secret = Secret{Name: secretName, Owner: "sa-rotator", Purpose: ForCloud}
	w.versions = nil
	w.put(adminKey, begin.Add(-time.Hour*1000))
	w.rotator.cloud.key = func() (string, error) { return KeyFile(w.mount)() } // what it calls with is what it rotates
	for range 3 {
		due := w.at
		w.redeliver(due)
		w.advance(24 * time.Hour)
	}
	if n := len(w.versions); n != 4 {
		t.Errorf("%d versions, want 4", n)
	}
	if k := w.byToken(w.versions[3].data); k == nil || k.deleted || k.owner != "sa-rotator" {
		t.Errorf("the newest version holds %+v", k)
	}
	if k := w.byToken(w.versions[2].data); !k.deleted {
		t.Error("the key before it is not deleted")
	}
}

func TestTimingThatWouldCauseAnOutageIsRefused(t *testing.T) {
	for name, timing := range map[string]Timing{
		"less grace than readers take":           {Grace: time.Minute},
		"keys deleted before versions disabled":  {Grace: 2 * time.Hour, Retire: time.Hour},
		"keys deleted while a pass may be at it": {Retire: 20 * time.Minute},
		"keys that expire at once":               {Lifetime: time.Hour},
		"negative":                               {Interval: -1},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(nil, nil, nil, timing, nil); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestKeysAreSentToNobodyElse(t *testing.T) {
	for _, base := range []string{"http://saas-api.tmprl.cloud", "saas-api.tmprl.cloud", "ftp://127.0.0.1", ""} {
		if _, err := NewCloud(base, nil); err == nil && base != "ftp://127.0.0.1" {
			t.Errorf("%q is accepted", base)
		}
	}
	w := newWorld(t)
	key, err := w.rotator.cloud.Identify(t.Context(), "token-of-a-stranger")
	if err != nil || key.ID != "key-stranger" {
		t.Errorf("%+v, %v", key, err)
	}
	_, err = w.rotator.cloud.Identify(t.Context(), "tok3n-that-is-not-known")
	if !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "tok3n") {
		t.Errorf("the error is %v; want ErrRefused, without the key that the server repeats", err)
	}
}
