package functions

import (
	"fmt"
	"testing"
	"time"
)

func TestMemory(t *testing.T) {
	now := time.Unix(0, 0)
	m := newMemory(func() time.Time { return now })
	m.remember("run", "a")
	if !m.startedBy("run", "a") {
		t.Error("what was remembered is not known")
	}
	if m.startedBy("run", "b") || m.startedBy("other", "a") {
		t.Error("it knows what it was not told")
	}
	now = now.Add(memoryAge + 1)
	if m.startedBy("run", "a") {
		t.Error("it does not forget")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m := newMemory(time.Now)
	m.remember("used", "x")
	for i := range memoryEntries {
		m.startedBy("used", "x")
		m.remember(fmt.Sprint(i), "x")
	}
	if n := len(m.runs); n != memoryEntries || m.order.Len() != n {
		t.Errorf("%d entries, %d in order, want %d", n, m.order.Len(), memoryEntries)
	}
	if m.startedBy("0", "x") || !m.startedBy("used", "x") || !m.startedBy(fmt.Sprint(memoryEntries-1), "x") {
		t.Error("it forgets another than what was used longest ago")
	}
}
