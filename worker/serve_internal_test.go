package worker

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"
)

// polling is a worker that does nothing but end.
type polling struct {
	sdkworker.Worker
	stopped int
}

func (*polling) Start() error { return nil }
func (p *polling) Stop()      { p.stopped++ }

// well is a Temporal that answers whoever asks after its health.
type well struct{ client.Client }

func (well) CheckHealth(context.Context, *client.CheckHealthRequest) (*client.CheckHealthResponse, error) {
	return &client.CheckHealthResponse{}, nil
}

func TestAWorkerThatHasGivenUpPollingEndsItsProcess(t *testing.T) {
	health, w := &health{}, &polling{}
	asked := func() int {
		answer := httptest.NewRecorder()
		health.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/healthz", nil))
		return answer.Code
	}
	namespaceGone := errors.New("namespace not found")
	serve := func(ctx context.Context, meanwhile func(givenUp func(error))) error {
		var givenUp func(error)
		return health.serve(ctx, well{}, func(f func(error)) sdkworker.Worker {
			givenUp = workerOptions(Settings{}, f).OnFatalError
			return w
		}, func(serving context.Context) {
			if code := asked(); code != http.StatusOK {
				t.Errorf("health %d while it polls", code)
			}
			meanwhile(givenUp)
			<-serving.Done()
			if code := asked(); ctx.Err() == nil && code != http.StatusServiceUnavailable {
				t.Errorf("health %d when it polls no more", code)
			}
		})
	}
	if err := serve(t.Context(), func(givenUp func(error)) { givenUp(namespaceGone) }); !errors.Is(err, namespaceGone) {
		t.Errorf("it ended with %v, want %v", err, namespaceGone)
	}
	ctx, stop := context.WithCancel(t.Context())
	if err := serve(ctx, func(func(error)) { stop() }); err != nil {
		t.Errorf("it was stopped, and ended with %v", err)
	}
	if w.stopped != 2 {
		t.Errorf("stopped %d times", w.stopped)
	}
}
