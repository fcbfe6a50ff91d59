package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A project's storage events can all come to one function, most of them for nobody.
// Each is answered, and none hangs: not the 60,000th, with 64 under way at any time.
func TestEventsThatNobodyWantsAreAllAnswered(t *testing.T) {
	const (
		total   = 60_000
		clients = 64
		within  = 10 * time.Second // Pub/Sub's own patience with one delivery
	)
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport, Timeout: within}
	var (
		sent, answered atomic.Int64
		mu             sync.Mutex
		slowest        time.Duration
		wrong          []string
		wg             sync.WaitGroup
	)
	complain := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		if len(wrong) < 10 {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	began := time.Now()
	for range clients {
		wg.Go(func() {
			for n := sent.Add(1); n <= total; n = sent.Add(1) {
				name := fmt.Sprintf("load/%d.csv", n)
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, shared.Addresses.Functions+"/StorageTrigger",
					strings.NewReader(fmt.Sprintf(`{"bucket":"e2e-of-nobody","name":%q,"generation":"%d","size":"1"}`, name, n)))
				if err != nil {
					complain("%v", err)
					return
				}
				for key, value := range storageHeader(fmt.Sprint("load-", n), "finalized", "e2e-of-nobody") {
					r.Header.Set(key, value)
				}
				at := time.Now()
				response, err := c.Do(r)
				if err != nil {
					complain("event %d: %v", n, err)
					continue
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				took := time.Since(at)
				mu.Lock()
				slowest = max(slowest, took)
				mu.Unlock()
				if want := fmt.Sprintf("{\"identity\":\"finalized:e2e-of-nobody/%s#%d\",\"decisions\":[]}\n", name, n); err != nil || response.StatusCode != http.StatusOK || string(body) != want {
					complain("event %d: %s %q, %v; want 200 %q", n, response.Status, body, err, want)
					continue
				}
				answered.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	t.Logf("%d events answered in %s, %.0f a second; the slowest took %s", answered.Load(), took.Round(time.Millisecond),
		float64(answered.Load())/took.Seconds(), slowest.Round(time.Millisecond))
	if n := answered.Load(); n != total {
		t.Errorf("%d of %d events were answered as they should be; the first that were not:\n%s", n, total, strings.Join(wrong, "\n"))
	}
}
