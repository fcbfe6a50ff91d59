package functions

import (
	"container/list"
	"sync"
	"time"
)

// Bounds of what an instance remembers: a few megabytes at most. An hour covers a burst of duplicates and the redeliveries
// that follow an outage; it ends so that deleting a run on purpose, to have its event start another, works soon.
const (
	memoryEntries = 10_000
	memoryAge     = time.Hour
)

// memory knows which identity started which run, for runs that this instance started or was told of. It holds decided facts
// only, so that forgetting costs one call and remembering never decides anything new.
type memory struct {
	now func() time.Time

	mu    sync.Mutex
	runs  map[string]*list.Element
	order list.List // of *remembered, the latest used first
}

type remembered struct {
	runID, identity string
	since           time.Time
}

func newMemory(now func() time.Time) *memory {
	return &memory{now: now, runs: make(map[string]*list.Element)}
}

// startedBy says whether identity is known to have started the run.
func (m *memory) startedBy(runID, identity string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	el, ok := m.runs[runID]
	if !ok {
		return false
	}
	r := el.Value.(*remembered)
	if m.now().Sub(r.since) > memoryAge {
		m.order.Remove(el)
		delete(m.runs, runID)
		return false
	}
	m.order.MoveToFront(el)
	return r.identity == identity
}

// remember records that identity started the run.
func (m *memory) remember(runID, identity string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if el, ok := m.runs[runID]; ok {
		*el.Value.(*remembered) = remembered{runID, identity, m.now()}
		m.order.MoveToFront(el)
		return
	}
	m.runs[runID] = m.order.PushFront(&remembered{runID, identity, m.now()})
	if m.order.Len() > memoryEntries {
		oldest := m.order.Back()
		m.order.Remove(oldest)
		delete(m.runs, oldest.Value.(*remembered).runID)
	}
}
