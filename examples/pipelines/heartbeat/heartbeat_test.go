package heartbeat

import (
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/ptest"
)

func TestMain(m *testing.M) { ptest.Main(m) }

func TestWaitTakesItsTime(t *testing.T) {
	const want = 300 * time.Millisecond
	start := time.Now()
	result := ptest.BuildAndRun(t, func(s beam.Scope) {
		if err := (&Wait{For: want}).Build(s); err != nil {
			t.Fatal(err)
		}
	})
	if took := time.Since(start); took < want {
		t.Errorf("the job took %v, want at least %v", took, want)
	}
	for _, c := range result.Metrics().AllMetrics().Counters() {
		if c.Name() == "waited_ms" && c.Result() == want.Milliseconds() {
			return
		}
	}
	t.Errorf("counters are %v, want waited_ms %d", result.Metrics().AllMetrics().Counters(), want.Milliseconds())
}

func TestImpossibleParameters(t *testing.T) {
	for _, c := range []struct {
		name     string
		pipeline interface{ Build(beam.Scope) error }
		says     string
	}{
		{"beats without an interval", &Forever{}, "--interval is 0s; it must be positive, for example 1s"},
		{"waiting backwards", &Wait{For: -time.Second}, "--for is -1s; it cannot be negative"},
	} {
		if err := c.pipeline.Build(beam.NewPipeline().Root()); err == nil || err.Error() != c.says {
			t.Errorf("%s: got %v, want %s", c.name, err, c.says)
		}
	}
}
