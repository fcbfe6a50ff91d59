// Package faults makes the parts of the local stack misbehave by rules: calls that are slow, refused, unanswered or cut, jobs that fail or hang, events that
// are lost or doubled, connections that break. Rules come from a file or, while it all runs, over HTTP; what they did is logged; and chance follows a seed.
package faults

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"reflect"
	"sync"
	"time"
)

// Options make a Lab.
type Options struct {
	Plan
	// Log gets one line of JSON, an Injected, for each fault, before it strikes, in one Write. Close closes it if it can be closed. Nil: none.
	Log io.Writer
}

// Injected is one line of the log.
type Injected struct {
	Time      time.Time `json:"time"`
	Rule      string    `json:"rule"`
	At        Place     `json:"at"`
	Fault     Fault     `json:"fault"`
	Operation string    `json:"operation"`
	Job       string    `json:"job,omitempty"`     // the job's name, where the subject is a job
	Subject   string    `json:"subject,omitempty"` // else
}

// Counts are how often a rule selected an operation, and how often it struck. A way to behave strikes uncounted.
type Counts struct {
	Selected int `json:"selected"`
	Injected int `json:"injected"`
}

// Lab holds rules and decides. Its methods are safe for concurrent use.
type Lab struct {
	seed uint64
	log  io.Writer

	mu       sync.Mutex
	rules    []*rule
	changed  chan struct{} // closed and renewed at each change of the rules
	struck   chan struct{} // closed and renewed at each strike that is counted
	closed   bool
	logError error
}

// rule is a Rule at work.
type rule struct {
	Rule
	since time.Time
	gone  chan struct{} // closed when the rule is no more
	Counts
	seen map[string]uint64 // how often each operation with its subject came
}

// New makes a lab with the options' rules in force, and chooses a seed if there is none. Close it.
func New(o Options) (*Lab, error) {
	for o.Seed == 0 {
		o.Seed = rand.Uint64N(1 << 32) // short enough to be typed
	}
	l := &Lab{seed: o.Seed, log: o.Log, changed: make(chan struct{}), struck: make(chan struct{})}
	return l, l.Set(o.Rules)
}

// ReadPlan reads and checks a faults file.
func ReadPlan(path string) (Plan, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Plan{}, fmt.Errorf("read the faults file: %w", err)
	}
	p, err := ParsePlan(text)
	if err != nil {
		return Plan{}, fmt.Errorf("faults file %s: %w", path, err)
	}
	return p, nil
}

// Seed is what all draws follow: another lab with this seed and these rules decides the same.
func (l *Lab) Seed() uint64 { return l.seed }

// Set replaces all rules. One that was there in the same form goes on with its counts, draws and window.
func (l *Lab) Set(rules []Rule) error {
	if err := checkAll(rules); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := map[string]*rule{}
	for _, r := range l.rules {
		old[r.Name] = r
	}
	next := make([]*rule, 0, len(rules))
	for _, r := range rules {
		if o := old[r.Name]; o != nil && reflect.DeepEqual(o.Rule, r) {
			delete(old, r.Name)
			next = append(next, o)
			continue
		}
		next = append(next, newRule(r))
	}
	return l.replace(next, old)
}

// Put sets one rule, in place of the one of its name. Its counts, draws and window begin anew.
func (l *Lab) Put(r Rule) error {
	if err := r.Check(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	next, old := make([]*rule, 0, len(l.rules)+1), map[string]*rule{}
	placed := newRule(r)
	for _, o := range l.rules {
		if o.Name == r.Name {
			old[o.Name] = o
			next = append(next, placed)
			continue
		}
		next = append(next, o)
	}
	if len(old) == 0 {
		next = append(next, placed)
	}
	if len(next) > maxRules {
		return fmt.Errorf("rule %q: there are %d rules already", r.Name, maxRules)
	}
	return l.replace(next, old)
}

// Delete ends one rule, and says whether there was one of that name.
func (l *Lab) Delete(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range l.rules {
		if r.Name == name {
			next := append(append([]*rule{}, l.rules[:i]...), l.rules[i+1:]...)
			return l.replace(next, map[string]*rule{name: r}) == nil
		}
	}
	return false
}

func newRule(r Rule) *rule {
	return &rule{Rule: r, since: time.Now(), gone: make(chan struct{}), seen: map[string]uint64{}}
}

// replace puts rules in force, and ends what the old ones hold up. The lock is held.
func (l *Lab) replace(next []*rule, old map[string]*rule) error {
	if l.closed {
		return errors.New("the fault lab is closed")
	}
	l.rules = next
	for _, r := range old {
		close(r.gone)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// Rules are those in force, in their order.
func (l *Lab) Rules() []Rule {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Rule, 0, len(l.rules))
	for _, r := range l.rules {
		out = append(out, r.Rule)
	}
	return out
}

// Counts are those of the rules in force, by name.
func (l *Lab) Counts() map[string]Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]Counts{}
	for _, r := range l.rules {
		out[r.Name] = r.Counts
	}
	return out
}

// Await returns a rule's counts once it has struck n times, in time or late. It fails when the context or the rule ends before that, with the counts so far.
func (l *Lab) Await(ctx context.Context, name string, n int) (Counts, error) {
	var r *rule
	for {
		l.mu.Lock()
		if r == nil {
			for _, known := range l.rules {
				if known.Name == name {
					r = known
				}
			}
		}
		struck := l.struck
		counts := Counts{}
		if r != nil {
			counts = r.Counts
		}
		l.mu.Unlock()
		switch {
		case r == nil:
			return counts, fmt.Errorf("there is no rule %q", name)
		case counts.Injected >= n:
			return counts, nil
		}
		select {
		case <-struck:
		case <-r.gone:
			return counts, fmt.Errorf("rule %q ended after it struck %d times, not %d", name, counts.Injected, n)
		case <-ctx.Done():
			return counts, fmt.Errorf("rule %q struck %d times, not %d: %w", name, counts.Injected, n, ctx.Err())
		}
	}
}

// Close ends all rules, and with them what hangs, and returns the first error of writing the log.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	all := map[string]*rule{}
	for _, r := range l.rules {
		all[r.Name] = r
	}
	err := errors.Join(l.replace(nil, all), l.logError)
	l.closed = true
	if c, ok := l.log.(io.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	return err
}

// target is one operation that rules may strike.
type target struct {
	place              Place
	operation, subject string
	job                bool // the subject is a job's name
}

// strike is a rule that strikes an operation, with chance left for how.
type strike struct {
	*rule
	chance *rand.Rand
}

// strikes are the rules that strike an operation, in their order, of those that want takes. After one that is final no other strikes.
func (l *Lab) strikes(t target, want func(Rule) bool, final func(Fault) bool) []strike {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []strike
	ended := false
	for _, r := range l.rules {
		if !want(r.Rule) || !r.selects(t.place, t.operation, t.subject) {
			continue
		}
		if s, struck := l.draw(r, t, ended); struck {
			out = append(out, s)
			ended = final(r.Fault)
		}
	}
	return out
}

// draw decides whether a rule strikes, and logs it. One that is spared only goes on in its draws. The lock is held.
//
// A draw is a function of the seed, the rule's name, the operation and its subject, and how often those two came together: neither other rules nor the order in
// which other subjects arrive have a part in it.
func (l *Lab) draw(r *rule, t target, spared bool) (strike, bool) {
	key := t.operation + "\x00" + t.subject
	n := r.seen[key]
	r.seen[key] = n + 1
	if spared || !r.open(time.Now()) {
		return strike{}, false
	}
	r.Selected++
	s := strike{r, l.chance(r.Name, key, n)}
	if roll := s.chance.Float64(); r.Rate != nil && roll >= *r.Rate || r.Count > 0 && r.Injected >= r.Count {
		return strike{}, false
	}
	if !r.Fault.mode() {
		r.Injected++
		l.write(r, t)
		close(l.struck)
		l.struck = make(chan struct{})
	}
	return s, true
}

func (l *Lab) chance(name, key string, n uint64) *rand.Rand {
	h := fnv.New64a()
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], n)
	for _, part := range [][]byte{[]byte(name), {0}, []byte(key), {0}, number[:]} {
		h.Write(part)
	}
	return rand.New(rand.NewPCG(l.seed, h.Sum64()))
}

// open says whether the rule's window is open. It never changes but with time.
func (r *rule) open(now time.Time) bool {
	age := now.Sub(r.since)
	return age >= time.Duration(r.From) && (r.Until == 0 || age < time.Duration(r.Until))
}

func (l *Lab) write(r *rule, t target) {
	if l.log == nil {
		return
	}
	line := Injected{Time: time.Now().UTC(), Rule: r.Name, At: r.At, Fault: r.Fault, Operation: t.operation}
	if t.job {
		line.Job = t.subject
	} else {
		line.Subject = t.subject
	}
	text, err := json.Marshal(line)
	if err == nil {
		_, err = l.log.Write(append(text, '\n'))
	}
	if err != nil && l.logError == nil {
		l.logError = fmt.Errorf("write the log of faults: %w", err)
	}
}

// delay is how long a strike takes.
func (s strike) delay() time.Duration {
	d := time.Duration(s.Delay)
	if s.Jitter > 0 {
		d += time.Duration(s.chance.Int64N(int64(s.Jitter) + 1))
	}
	return d
}

// sleep waits for d, or less if the rule ends. It returns the context's error if that ends first.
func (s strike) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.gone:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// hang waits until the rule or its window ends, its delay (if it has one) is over, or the context ends.
func (s strike) hang(ctx context.Context) {
	var enough <-chan time.Time
	if d := s.delay(); d > 0 {
		enough = time.After(d)
	}
	var shut <-chan time.Time
	if s.Until > 0 {
		shut = time.After(time.Until(s.since.Add(time.Duration(s.Until))))
	}
	select {
	case <-enough:
	case <-shut:
	case <-s.gone:
	case <-ctx.Done():
	}
}

// news returns a channel that is closed when the rules change, and one that fires when a window opens or closes next (nil: none will).
func (l *Lab) news() (<-chan struct{}, <-chan time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var edge <-chan time.Time
	next := time.Duration(-1)
	for _, r := range l.rules {
		for _, at := range []Duration{r.From, r.Until} {
			if wait := time.Until(r.since.Add(time.Duration(at))); at > 0 && wait > 0 && (next < 0 || wait < next) {
				next = wait
			}
		}
	}
	if next >= 0 {
		edge = time.After(next)
	}
	return l.changed, edge
}
