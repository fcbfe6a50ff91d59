package chaos

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// testBench is a bench without a stack.
func testBench(t *testing.T) *Bench {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "sent.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Bench{random: draws(1, t.Name()), known: map[string]bool{}, sent: &sendLog{file: file}}
}

// receiver counts the requests of each body, and answers what it is told.
type receiver struct {
	mu     sync.Mutex
	bodies map[string]int
}

func (r *receiver) serve(t *testing.T, answer func(try int) int) string {
	t.Helper()
	r.bodies = map[string]int{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var body json.RawMessage
		if err := json.NewDecoder(q.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		r.bodies[string(body)]++
		try := r.bodies[string(body)]
		r.mu.Unlock()
		w.WriteHeader(answer(try))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestTheSenderDeliversUntilItIsAcknowledged(t *testing.T) {
	for _, tt := range []struct {
		name     string
		attempts int
		answer   func(try int) int
		want     []Delivery // of each event
	}{
		{"at once", 0, func(int) int { return 204 }, []Delivery{{Attempt: 1, Status: 204}}},
		{"after refusals of any kind", 0, func(try int) int { return []int{503, 400, 302, 200}[try-1] },
			[]Delivery{{Attempt: 1, Status: 503}, {Attempt: 2, Status: 400}, {Attempt: 3, Status: 302}, {Attempt: 4, Status: 200}}},
		{"or its attempts are used up", 2, func(int) int { return 503 },
			[]Delivery{{Attempt: 1, Status: 503}, {Attempt: 2, Status: 503, GivenUp: true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, r := testBench(t), receiver{}
			events := b.Objects("orders", 20)
			for i := range events {
				one := events[i].Request(rand.New(rand.NewPCG(1, uint64(i)))) // each of its deliveries is the same here
				events[i].Request = func(*rand.Rand) Request { return one }
			}
			if err := b.Deliver(t.Context(), Load{Events: events, Senders: 8, Attempts: tt.attempts, To: r.serve(t, tt.answer)}); err != nil {
				t.Fatal(err)
			}
			lines, err := b.sent.all()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				var got []Delivery
				for _, d := range lines {
					if d.Identity == e.Identity {
						got = append(got, Delivery{Attempt: d.Attempt, Status: d.Status, GivenUp: d.GivenUp})
					}
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("%s: %+v, want %+v", e.Identity, got, tt.want)
				}
			}
			if len(b.wants) != len(events) {
				t.Errorf("%d events are expected to lead to something, want %d", len(b.wants), len(events))
			}
		})
	}
}

func TestAnEventHasOneIdentityInBothForms(t *testing.T) {
	b := testBench(t)
	e := b.Object("orders", "a.csv")
	draw := draws(1, "forms")
	forms := map[bool]int{}
	for range 50 {
		q := e.Request(draw)
		push := strings.Contains(q.Path, "?topic=")
		forms[push]++
		generation := e.Identity[strings.LastIndex(e.Identity, "#")+1:]
		if !strings.Contains(string(q.Body), generation) {
			t.Errorf("a delivery of %s does not have its generation: %s", e.Identity, q.Body)
		}
	}
	if forms[true] < 10 || forms[false] < 10 {
		t.Errorf("of 50 deliveries %d are pushes and %d are CloudEvents", forms[true], forms[false])
	}
}

func TestASeedDrawsTheSameForAScenario(t *testing.T) {
	if a, b := draws(7, "duplicates").Uint64(), draws(7, "duplicates").Uint64(); a != b {
		t.Errorf("one seed draws %d and %d", a, b)
	}
	if draws(7, "duplicates").Uint64() == draws(7, "poison").Uint64() || draws(7, "duplicates").Uint64() == draws(8, "duplicates").Uint64() {
		t.Error("another scenario or seed draws the same")
	}
}

func TestTheLedgerIsReadAsFarAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "launches.jsonl")
	text := `{"time":"2026-01-02T03:00:00Z","kind":"launch","id":"j1","job":"chaos-a-1","parameters":{"step":"load"}}
{"time":"2026-01-02T03:00:01Z","kind":"state","id":"j1","job":"chaos-a-1","state":"JOB_STATE_RUNNING"}
{"time":"2026-01-02T03:00:02Z","kind":"told","id":"j1","job":"chaos-a-1","state":"JOB_STATE_RUNNING"}
{"time":"2026-01-02T03:00:03Z","kind":"state","id":"j1","job":"chaos-a-1","state":"JOB_STATE_DONE"}
{"time":"2026-01-02T03:00:04Z","kind":"launch","id":"j2","jo`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	jobs, err := readLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(jobs) != 1 || jobs[0].State != "JOB_STATE_DONE" || !jobs[0].Ended.Equal(time.Date(2026, 1, 2, 3, 0, 3, 0, time.UTC)) {
		t.Errorf("the jobs: %+v", jobs)
	}
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if jobs, err := readLedger(path); err == nil {
		t.Errorf("a whole line that is no JSON is read as %+v", jobs)
	}
}
