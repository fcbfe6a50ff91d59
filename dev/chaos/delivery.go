package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.temporal.io/api/serviceerror"

	"github.com/penstock/penstock/dev/faults"
)

// delivery are scenarios about what is sent, and about those that receive it.
var delivery = []Scenario{
	{
		Name:  "duplicates",
		What:  "Every event is delivered five times, in both forms and in any order, by 32 senders at once: each runs once.",
		Short: true,
		Alone: true,
		// There is no fault to recover from: it is how long so many runs take, and three
		// times that on a machine that others use as well.
		Bound:  5 * time.Minute,
		Within: 10 * time.Minute,
		Setup:  Setup{Env: []string{patient}},
		Run: func(ctx context.Context, b *Bench) error {
			// Three deliveries of each come close together, in bursts, and two more when its run may be over.
			events := b.Objects("orders", b.N(1000))
			const burst = 100
			var deliveries []Event
			for block := range slices.Chunk(events, burst) {
				deliveries = append(deliveries, b.Shuffle(Repeat(block, 3))...)
			}
			deliveries = append(deliveries, b.Shuffle(Repeat(events, 2))...)
			return b.Deliver(ctx, Load{Events: deliveries, Senders: 32, Burst: 3 * burst, Over: pace(len(events)) * 5 / 3})
		},
	},
	{
		Name:  "functions-killed-before-start",
		What:  "The functions are killed while they ask Temporal to start runs, before it hears of it: redelivery starts each once.",
		Short: true,
		Bound: 2 * time.Minute,
		Run:   functionsKilled(faults.Requests),
	},
	{
		Name:  "functions-killed-after-start",
		What:  "The functions are killed after Temporal started the runs, before they hear of it: redelivery starts nothing.",
		Bound: 2 * time.Minute,
		Run:   functionsKilled(faults.Answers),
	},
	{
		Name:  "poison",
		Alone: true,
		What:  "One event in twenty can never be handled: it becomes a dead letter. One in twenty is not wanted, which is on record. The others run.",
		Short: true,
		Bound: 4 * time.Minute, // as in duplicates
		Setup: Setup{Pipelines: map[string]string{"orders.yaml": Orders, "exports.yaml": exports, "large.yaml": large}, Env: []string{patient}},
		Run:   poison,
	},
	{
		Name:  "bad-file",
		What:  "A pipelines file turns bad under warm and under cold functions: what it can still be known to want runs, the rest waits for its repair.",
		Bound: 2 * time.Minute,
		Setup: Setup{Pipelines: map[string]string{"orders.yaml": Orders, "exports.yaml": exports, "reports.yaml": reports}},
		Run:   badFile,
	},
}

// patient keeps the safety timers, which are made short for jobs whose news is lost, out
// of a load that takes longer than they wait.
const patient = "PENSTOCK_SAFETY_INTERVAL=5m"

// pace is how long n runs are to take to come in: much faster, and a Temporal server on
// SQLite spends its time on work that it gives up, where a machine is slow or shared.
func pace(n int) time.Duration { return time.Duration(n) * 50 * time.Millisecond }

// functionsKilled parks 50 deliveries in one direction of the functions' connection to
// Temporal, kills the functions there, and lets them come back.
func functionsKilled(direction faults.Direction) func(context.Context, *Bench) error {
	return func(ctx context.Context, b *Bench) error {
		// The connection is there before it is parked: what is parked is not its making.
		if err := b.Deliver(ctx, Load{Events: b.Objects("orders", 1)}); err != nil {
			return err
		}
		if err := b.Fault(faults.Rule{Name: "parked", At: faults.Temporal, Operation: "functions", Fault: faults.Hang, Direction: direction}); err != nil {
			return err
		}
		if err := b.AwaitStruck(ctx, "parked", 1); err != nil {
			return err
		}
		events := b.Objects("orders", b.N(50))
		sending := b.Send(ctx, Load{Events: events, Senders: len(events)})
		started := 0
		if direction == faults.Answers {
			started = len(events)
		}
		parked := func() bool { return sending.UnderWay() == len(events) }
		if err := b.Await(ctx, fmt.Sprintf("Temporal has %d of %d runs, and all deliveries are parked", started, len(events)), func() (bool, error) {
			if !parked() {
				return false, nil // it took so long that some were answered 503, and come again
			}
			if n, err := b.startedOf(ctx, events); n != started || err != nil {
				return false, err
			}
			// They have been read, and wait for Temporal.
			err := b.Sleep(ctx, 500*time.Millisecond)
			return parked(), err
		}); err != nil {
			return err
		}
		if err := b.Kill("functions"); err != nil {
			return err
		}
		if n, err := b.startedOf(ctx, events); err != nil || n != started {
			return fmt.Errorf("at the kill Temporal had %d of %d runs, want %d: %w", n, len(events), started, err)
		}
		// What the dead had sent, and Temporal has not yet, is lost with their connection.
		if err := inTurn(
			func() error {
				return b.Fault(faults.Rule{Name: "gone", At: faults.Temporal, Operation: "functions", Fault: faults.Reset})
			},
			func() error { return b.AwaitStruck(ctx, "gone", 1) },
			func() error { return b.EndFault("parked") },
			func() error { return b.EndFault("gone") },
		); err != nil {
			return err
		}
		if n, err := b.startedOf(ctx, events); err != nil || n != started {
			return fmt.Errorf("after the kill Temporal had %d of %d runs, want %d: %w", n, len(events), started, err)
		}
		if err := b.Start(ctx, "functions"); err != nil {
			return err
		}
		return sending.Wait()
	}
}

// startedOf counts the events whose runs Temporal has.
func (b *Bench) startedOf(ctx context.Context, events []Event) (int, error) {
	var n atomic.Int64
	err := each(events, func(e Event) error {
		_, err := b.Temporal.DescribeWorkflowExecution(ctx, e.RunID(), "")
		var notFound *serviceerror.NotFound
		switch {
		case err == nil:
			n.Add(1)
		case !errors.As(err, &notFound):
			return err
		}
		return nil
	})
	return int(n.Load()), err
}

// exports takes messages, and has an expression that fails on some.
const exports = `
name: exports
purpose: Load each export that is announced.
owner: data-platform@example.com
on:
  - pubsub: {topic: projects/penstock-dev/topics/exports}
steps:
  - name: load
    dataflow:
      template: gs://chaos-templates/quick.json
      parameters: {input: "${event.data.file}", step: load}
`

// large wants objects of a size that none has.
var large = strings.NewReplacer("name: orders", "name: large", `"orders/**"}`, `"large/**"}`+"\n    when: event.size > 1000").Replace(Orders)

func poison(ctx context.Context, b *Bench) error {
	n := b.N(400)
	bad := n / 20
	events := b.Objects("orders", n-3*bad)
	for _, e := range b.Objects("large", bad) {
		e.Fate = Skipped
		events = append(events, e)
	}
	for i := range bad {
		events = append(events, b.Message("exports", "exports", map[string]string{"file": fmt.Sprintf("gs://exports/%d", i)}))
	}
	for i := range bad {
		events = append(events, b.poisonous(i))
	}
	return b.Deliver(ctx, Load{Events: b.Shuffle(Repeat(events, 2)), Over: pace(n)})
}

// poisonous is the nth event that nobody can handle. Its deliveries are the same, byte by byte.
func (b *Bench) poisonous(n int) Event {
	mark := strconv.Itoa(n)
	storage := func(body string, header map[string]string) Event {
		h := cloudEvent(b.draw(), "google.cloud.storage.object.v1.finalized", "//storage.googleapis.com/projects/_/buckets/"+Landing, "objects/orders/x")
		for name, value := range header {
			h[name] = value
		}
		return Event{Fate: DeadLetters, Request: func(*rand.Rand) Request {
			return Request{Path: "/StorageTrigger", Header: h, Body: []byte(body)}
		}}
	}
	switch n % 5 {
	case 0: // cut off
		return storage(`{"bucket":"`+Landing+`","name":"orders/`+mark+`.csv","gener`, nil)
	case 1: // without its generation, which tells an overwrite from a duplicate
		return storage(`{"bucket":"`+Landing+`","name":"orders/`+mark+`.csv","size":"17"}`, nil)
	case 2: // of a version of CloudEvents that does not exist
		return storage(`{"bucket":"`+Landing+`","name":"orders/`+mark+`.csv","generation":"17"}`, map[string]string{"ce-specversion": "7.0"})
	case 3: // no push envelope
		return Event{Fate: DeadLetters, Request: func(*rand.Rand) Request {
			return Request{Path: "/PubSubTrigger?topic=projects%2F" + Project + "%2Ftopics%2Fexports", Header: map[string]string{"Content-Type": "application/json"},
				Body: []byte(`{"message": {"data": "not base64 ` + mark + `"}}`)}
		}}
	default: // a message that lacks what the pipeline's expression reads
		e := b.Message("", "exports", map[string]string{"fiel": "gs://exports/" + mark})
		e.Fate = DeadLetters
		return e
	}
}

// reports wants the objects of its own prefix.
var reports = strings.NewReplacer("name: orders", "name: reports", `"orders/**"`, `"reports/**"`).Replace(Orders)

// badFile has reports.yaml turn bad four times worse: under functions that know it, under
// new ones that find its last good version beside it, and under new ones that find nothing.
func badFile(ctx context.Context, b *Bench) error {
	n := b.N(25)
	both := func() []Event { return b.Shuffle(append(b.Objects("orders", n), b.Objects("reports", n)...)) }
	if err := b.Deliver(ctx, Load{Events: both(), Over: pace(2 * n)}); err != nil {
		return err
	}

	b.Say("reports.yaml turns bad")
	broken := strings.Replace(reports, "dataflow:", "dataflw:", 1)
	if err := b.WritePipeline("reports.yaml", broken); err != nil {
		return err
	}
	if err := b.Sleep(ctx, 2*time.Second); err != nil { // the folder is looked at once a second
		return err
	}
	if err := b.Deliver(ctx, Load{Events: both(), Over: pace(2 * n)}); err != nil {
		return err
	}
	if !strings.Contains(b.Logs("functions"), "its last good version stays in force") {
		b.Fail("the functions' log does not tell of the bad file")
	}

	for _, story := range []struct {
		what   string
		before func() error
	}{
		{"new functions find its last good version", func() error { return nil }},
		{"new functions find no good version of it", func() error { return os.RemoveAll(filepath.Join(b.PipelinesDir, ".last-good")) }},
	} {
		if err := b.Kill("functions"); err != nil {
			return err
		}
		if err := story.before(); err != nil {
			return err
		}
		b.Say("%s", story.what)
		if err := b.Start(ctx, "functions"); err != nil {
			return err
		}
		events := both()
		sending := b.Send(ctx, Load{Events: events, Over: pace(2 * n)})
		if story.what == "new functions find its last good version" {
			if err := sending.Wait(); err != nil {
				return err
			}
			continue
		}
		// Whether the file wants an event cannot be known, so none is acknowledged; the good file's runs start all the same.
		if err := b.Await(ctx, "each event was refused", func() (bool, error) {
			refused, acknowledged, err := b.answered(events)
			if acknowledged > 0 {
				b.Fail("%d events were acknowledged while it could not be known who wants them", acknowledged)
			}
			return refused == len(events), err
		}); err != nil {
			return err
		}
		if n, err := b.startedOf(ctx, events); err != nil || n != len(events)/2 {
			b.Fail("%d runs were started while a file was bad, want %d: those of the good file (%v)", n, len(events)/2, err)
		}
		b.Say("reports.yaml is repaired")
		if err := b.WritePipeline("reports.yaml", reports+"# repaired\n"); err != nil {
			return err
		}
		b.mark()
		if err := sending.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// answered counts the events that were refused and not acknowledged, and those that were acknowledged.
func (b *Bench) answered(events []Event) (refused, acknowledged int, err error) {
	of := map[string]bool{}
	for _, e := range events {
		of[e.Identity] = true
	}
	lines, err := b.sent.all()
	state := map[string]bool{} // identity -> acknowledged
	for _, d := range lines {
		if of[d.Identity] && d.Status != 0 {
			state[d.Identity] = state[d.Identity] || d.acknowledged()
		}
	}
	for _, acked := range state {
		if acked {
			acknowledged++
		} else {
			refused++
		}
	}
	return refused, acknowledged, err
}
