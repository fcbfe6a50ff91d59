package functions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"golang.org/x/sync/singleflight"

	"github.com/penstock/penstock/deadletters"
	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
)

// eventTimeout bounds what is done about one event. It lies below the 10 s that Pub/Sub and Eventarc wait for an answer by
// default: an answer that comes later is a redelivery anyway.
const eventTimeout = 9 * time.Second

// readTimeout bounds the reading of a request. The framework's server sets none, so half a body would hold a connection for
// good.
const readTimeout = 30 * time.Second

// receiver turns deliveries into decisions. There is one for the process; its parts are replaced in tests.
type receiver struct {
	settings    settings
	settingsErr error // why settings cannot be used; every event is then answered 503

	log      *slog.Logger
	now      func() time.Time
	temporal func(context.Context) (temporal, error)
	publish  func(context.Context, *pubsub.Message) error
	open     func() (folder, error)

	readTimeout time.Duration

	memory *memory
	starts singleflight.Group // of starts under way, by run ID

	folderMu sync.Mutex
	folder   folder
	warned   time.Time // when the folder's problems were logged last
}

// folder is what the functions need of a pipeline.Folder.
type folder interface {
	Look() pipeline.Look
}

// delivery is one request that was read.
type delivery struct {
	request
	header   http.Header
	topic    string // query parameter of a plain Pub/Sub push's endpoint
	body     []byte
	identity string // of its event; empty when it did not decode

	// incomplete says that a pipelines file has no usable version, so that the delivery comes again whatever is decided.
	incomplete bool
}

// handler serves one entry point. decide gets every event that decodes.
func (r *receiver) handler(entryPoint string, decide func(context.Context, *delivery, *events.Event) Answer) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		q := newRequest(entryPoint, req, r.now())
		defer func() {
			if v := recover(); v != nil {
				a := Answer{Decisions: []Decision{r.crashed(req.Context(), &q, "", v)}}
				a.write(w)
			}
		}()
		a := r.receive(&q, w, req, decide)
		for i := range a.Decisions {
			r.logDecision(req.Context(), &q, a.Identity, &a.Decisions[i])
		}
		if len(a.Decisions) == 0 {
			r.log.LogAttrs(req.Context(), slog.LevelDebug, "no pipeline wants the event",
				append(q.attrs(r.settings, nil, r.now()), slog.String("identity", a.Identity))...)
		}
		a.write(w)
	}
}

// receive reads, decodes and decides one delivery.
func (r *receiver) receive(q *request, w http.ResponseWriter, req *http.Request, decide func(context.Context, *delivery, *events.Event) Answer) Answer {
	if r.settingsErr != nil {
		return Answer{Decisions: []Decision{{Outcome: Undecided, Reason: r.settingsErr.Error()}}}
	}
	deadlines := http.NewResponseController(w)
	_ = deadlines.SetReadDeadline(time.Now().Add(r.readTimeout)) // a server without deadlines is one of tests
	e, err := events.Decode(req)
	if err == nil || poison(err) {
		_ = deadlines.SetReadDeadline(time.Time{})
	} // else there is body left, which the server reads on before it answers: it must not wait for that, either

	// What was begun is finished though the sender goes away: its redelivery then finds it done.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), eventTimeout)
	defer cancel()
	d := &delivery{request: *q, header: req.Header, topic: req.URL.Query().Get("topic")}
	if err != nil {
		a := Answer{Decisions: []Decision{r.undecodable(d, err)}}
		r.keep(ctx, a.Decisions)
		return a
	}
	d.body, d.identity = e.Body(), e.Identity()
	if was := req.Header.Get(deadletters.HeaderIdentity); was != "" && was != url.PathEscape(d.identity) {
		return Answer{Identity: d.identity, Decisions: []Decision{{
			Outcome: Rejected, status: http.StatusConflict,
			Reason: fmt.Sprintf("the delivery is said to be of event %q, and is not: a redelivery under another identity could run a pipeline twice", was),
		}}}
	}
	return decide(ctx, d, e)
}

// undecodable decides a delivery that holds no event that can be read.
func (r *receiver) undecodable(d *delivery, err error) Decision {
	var rejection *events.Error
	if !errors.As(err, &rejection) {
		return Decision{Outcome: Undecided, Reason: err.Error()}
	}
	decision := Decision{Outcome: Rejected, Reason: rejection.Error()}
	switch {
	case rejection.Poison():
		d.body = rejection.Body()
		return r.bury(d, decision)
	case errors.Is(err, events.TooLarge):
		decision.status = http.StatusRequestEntityTooLarge
	case errors.Is(err, events.BadMethod):
		decision.status = http.StatusMethodNotAllowed
	default:
		decision.Outcome = Undecided
	}
	return decision
}

// poison says whether err is about an event that was read whole.
func poison(err error) bool {
	var rejection *events.Error
	return errors.As(err, &rejection) && rejection.Poison()
}

// event decides what every pipeline makes of an event.
func (r *receiver) event(ctx context.Context, d *delivery, e *events.Event) Answer {
	a := Answer{Identity: d.identity}
	f, err := r.pipelines()
	if err != nil {
		a.status, a.Error = http.StatusServiceUnavailable, err.Error()
		r.logProblem(ctx, &d.request, a.Error)
		return a
	}
	look := f.Look()
	if d.incomplete = look.Incomplete(); d.incomplete {
		a.status = http.StatusServiceUnavailable
		a.Error = fmt.Sprintf("a pipelines file has no usable version, so whether it wants the event is unknown: %v", look.Problems)
		r.logProblem(ctx, &d.request, a.Error)
	}
	matches := look.Set.Match(e)
	if only := d.header.Get(deadletters.HeaderPipeline); only != "" {
		matches = slices.DeleteFunc(matches, func(m pipeline.Match) bool { return m.Pipeline.Name != only })
		if len(matches) == 0 {
			a.Decisions = []Decision{{Pipeline: only, Outcome: Skipped, Reason: deadletters.ReasonUnwanted}}
		}
	}
	if len(matches) == 0 {
		return a
	}
	a.Decisions = make([]Decision, len(matches))
	if len(matches) == 1 {
		a.Decisions[0] = r.match(ctx, d, matches[0])
	} else {
		// Side by side, so that one that does not answer keeps the others from nothing.
		var wg sync.WaitGroup
		for i, m := range matches {
			wg.Go(func() { a.Decisions[i] = r.match(ctx, d, m) })
		}
		wg.Wait()
	}
	r.keep(ctx, a.Decisions)
	return a
}

// match decides what one pipeline makes of an event.
func (r *receiver) match(ctx context.Context, d *delivery, m pipeline.Match) (decision Decision) {
	defer func() {
		if v := recover(); v != nil {
			decision = r.crashed(ctx, &d.request, m.Pipeline.Name, v)
		}
	}()
	decision = Decision{Pipeline: m.Pipeline.Name, ConfigVersion: m.Pipeline.Version.Hash}
	plan, skip, err := m.Evaluate()
	switch {
	case err != nil:
		return r.unevaluated(d, decision, err)
	case skip != nil:
		decision.Outcome, decision.Reason = Skipped, skip.Reason
		return decision
	}
	decision.Key = plan.Key
	if plan.Identity != d.identity {
		decision.identity = plan.Identity
	}
	if plan.Signal != nil {
		return r.signal(ctx, d, m.Event, &plan, decision)
	}
	return r.start(ctx, d, m.Event, &plan, decision)
}

// unevaluated decides an event that a pipeline's expressions gave no plan for. Only what they make of its data is the event's
// fault; a time that ran out is the machine's.
func (r *receiver) unevaluated(d *delivery, decision Decision, err error) Decision {
	var poison *pipeline.EvalError
	if !errors.As(err, &poison) {
		return undecided(decision, err)
	}
	decision.Reason = err.Error()
	return r.bury(d, decision)
}

// crashed reports a panic. Delivery tries again: the next version of this program may do better.
func (r *receiver) crashed(ctx context.Context, q *request, pipelineName string, v any) Decision {
	d := Decision{Pipeline: pipelineName, Outcome: Crashed, Reason: "a bug in Penstock: see the function's log"}
	r.log.LogAttrs(ctx, slog.LevelError, fmt.Sprintf("panic: %v", v),
		append(q.attrs(r.settings, &d, r.now()), slog.String("stack_trace", string(debug.Stack())))...)
	return d
}

// pipelines opens the folder with the first event that needs it. A failure is not kept: the next event tries again.
func (r *receiver) pipelines() (folder, error) {
	r.folderMu.Lock()
	defer r.folderMu.Unlock()
	if r.folder == nil {
		f, err := r.open()
		if err != nil {
			return nil, fmt.Errorf("read the pipelines in %s (%s): %w", r.settings.pipelines, envPipelines, err)
		}
		r.folder = f
	}
	return r.folder, nil
}

// problemInterval keeps a broken file from one line for every event.
const problemInterval = 10 * time.Second

func (r *receiver) logProblem(ctx context.Context, q *request, problem string) {
	r.folderMu.Lock()
	now := r.now()
	due := now.Sub(r.warned) >= problemInterval
	if due {
		r.warned = now
	}
	r.folderMu.Unlock()
	if due {
		r.log.LogAttrs(ctx, slog.LevelError, problem, q.attrs(r.settings, nil, now)...)
	}
}
