// Package demo tells the main story of Penstock with real parts: files arrive,
// their events come more than once or broken, each file's pipeline runs exactly
// once, and the results are right. It checks all of that itself.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/storage"
	"go.temporal.io/sdk/client"

	"github.com/penstock/penstock/dev/stack"
)

// Options configure Run.
type Options struct {
	// Screen shows the story.
	Screen *Screen
	// Dir holds logs and dev.env. Defaults to .penstock/demo in the repository.
	Dir string
	// Keep leaves everything running at the end until the context ends.
	Keep bool
	// Timeout bounds everything but Keep's wait, builds included. 0: no bound.
	Timeout time.Duration
	// Within bounds each wait for runs. Defaults to 5 minutes.
	Within time.Duration
}

// The weather example's names: see examples/weather.
const (
	deployment = "dev"
	project    = "penstock-dev"
	location   = "us-central1"

	landing   = "weather-landing"
	clean     = "weather-clean"
	rejects   = "weather-rejects"
	summaries = "weather-summaries"
	reports   = "weather-reports"

	requests   = "projects/" + project + "/topics/weather-requests"
	thrice     = "seattle-2013.csv" // is delivered three times
	reportYear = "2012"
)

type demo struct {
	o        Options
	screen   *Screen
	root     string
	years    []year
	began    time.Time // of the sending
	stack    *stack.Stack
	server   client.Client // of Temporal
	objects  *storage.Client
	messages *pubsub.Client

	files   []*run // one for each year
	report  *run
	answers []answer // to what was delivered again

	lettersMu sync.Mutex
	letters   []*pubsub.Message // what the dead-letter topic has
	checks    []check
}

// Run tells the story from the first build to the last check. It returns nil when
// every check passed, and leaves nothing running.
func Run(ctx context.Context, o Options) (err error) {
	begun := time.Now()
	root, err := stack.FindRoot()
	if err != nil {
		return err
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(root, ".penstock", "demo")
	}
	if o.Within == 0 {
		o.Within = 5 * time.Minute
	}
	d := &demo{o: o, screen: o.Screen, root: root}
	defer d.screen.Live()
	weather := filepath.Join(root, "examples", "weather")
	if d.years, err = readYears(weather); err != nil {
		return err
	}

	story, cancel := context.WithCancel(ctx)
	if o.Timeout > 0 {
		story, cancel = context.WithTimeout(ctx, o.Timeout)
	}
	defer cancel()
	if err := d.start(story, weather); err != nil {
		return d.explain(ctx, story, err)
	}
	defer func() {
		if o.Keep && ctx.Err() != nil {
			d.screen.Print("Stopping.")
		}
		err = errors.Join(err, d.stack.Close())
	}()
	err = d.story(story)
	if err == nil {
		err = d.verdict(time.Since(begun))
	}
	d.whatNext(err)
	if o.Keep && ctx.Err() == nil {
		if err != nil {
			d.screen.Print("\n%s", err)
		}
		d.screen.Print("\nEverything keeps running. Stop it with Ctrl-C.")
		select {
		case <-ctx.Done():
		case died := <-d.stack.Died():
			return errors.Join(err, died)
		}
		return err
	}
	return d.explain(ctx, story, err)
}

// explain says which bound a failure ran into, where it was a bound of the demo's.
func (d *demo) explain(ctx, story context.Context, err error) error {
	if err != nil && story.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("not done after %s, the demo's limit: %w\na slow machine needs more: make demo ARGS=\"-timeout 2h\"", d.o.Timeout, err)
	}
	return err
}

func (d *demo) logs() string { return filepath.Join(d.o.Dir, "logs") }

func (d *demo) chapter(format string, args ...any) {
	d.screen.Print("\n%s", d.screen.paint(bold, fmt.Sprintf(format, args...)))
}

// start builds and starts all that a deployment has.
func (d *demo) start(ctx context.Context, weather string) error {
	d.screen.Print("%s", d.screen.paint(bold, "Penstock: a file lands, its pipeline runs, once."))
	d.screen.Print("All of it happens on this machine, with real parts: a Temporal server, Beam pipelines, and\nemulators of Cloud Storage, Pub/Sub, Eventarc and the Dataflow API.")
	d.chapter("1. Everything is built, if it is not yet, and started")
	view := newBuildView(d.screen)
	s, err := stack.Start(ctx, stack.Options{
		Root: d.root, Dir: d.o.Dir, Memory: true, Deployment: deployment, Project: project, Location: location,
		Pipelines: filepath.Join(weather, "pipelines"), Templates: filepath.Join(weather, "templates"), ImageMap: filepath.Join(weather, "images.json"),
		Progress: view,
	})
	view.end()
	if err != nil {
		return err
	}
	d.stack = s
	if err := d.connect(ctx); err != nil {
		return errors.Join(err, s.Close())
	}
	if ui := s.Addresses.TemporalUI; ui != "" {
		d.screen.Print("   Watch the runs in Temporal's web UI while they go on:  %s", d.screen.paint(link, ui))
	}
	return nil
}

func (d *demo) connect(ctx context.Context) (err error) {
	if d.server, err = d.stack.TemporalClient(ctx); err != nil {
		return fmt.Errorf("connect to Temporal: %w", err)
	}
	if d.objects, err = d.stack.StorageClient(ctx); err != nil {
		return fmt.Errorf("connect to Cloud Storage: %w", err)
	}
	if d.messages, err = d.stack.PubSubClient(ctx); err != nil {
		return fmt.Errorf("connect to Pub/Sub: %w", err)
	}
	return nil
}

func (d *demo) story(ctx context.Context) error {
	defer d.server.Close()
	defer d.objects.Close()
	defer d.messages.Close()
	reading, stop := context.WithCancel(ctx)
	letters := d.readLetters(reading)
	defer func() {
		stop()
		<-letters
	}()

	d.began = time.Now()
	d.chapter("2. Files arrive: daily weather at Seattle, observed by NOAA")
	if err := d.uploadYears(ctx); err != nil {
		return err
	}
	d.chapter("3. Deliveries go as they do in life: again, otherwise, broken")
	if err := d.deliverAgain(ctx); err != nil {
		return err
	}
	if err := d.deliverBroken(ctx); err != nil {
		return err
	}
	d.chapter("4. Each file is cleaned, then summarised: one Dataflow job a step")
	if err := d.await(ctx, d.files...); err != nil {
		return err
	}
	d.chapter("5. Another system speaks: a message asks for the report of %s", reportYear)
	if err := d.requestReport(ctx); err != nil {
		return err
	}
	if err := d.await(ctx, d.report); err != nil {
		return err
	}
	if err := d.settle(ctx); err != nil {
		return fmt.Errorf("wait for the last deliveries: %w", err)
	}
	if err := d.showRuns(); err != nil {
		return err
	}
	if err := d.showResults(ctx); err != nil {
		return err
	}
	return d.check(ctx)
}

// uploadYears puts the files into the bucket, with an ordinary client.
func (d *demo) uploadYears(ctx context.Context) error {
	for _, y := range d.years {
		w := d.objects.Bucket(landing).Object("daily/" + y.name).NewWriter(ctx)
		w.ContentType = "text/csv"
		if _, err := io.WriteString(w, y.upload()); err != nil {
			return fmt.Errorf("upload %s: %w", y.name, err)
		}
		if err := w.Close(); err != nil {
			return fmt.Errorf("upload %s: %w", y.name, err)
		}
		note := ""
		if y.bad > 0 {
			note = fmt.Sprintf(", and %d spoiled ones that the demo added", y.bad)
		}
		d.screen.Print("   gs://%s/daily/%s  %d rows%s", landing, y.name, y.rows(), note)
		d.files = append(d.files, &run{
			pipeline: "weather", about: strings.TrimSuffix(y.name, ".csv"), steps: []string{"clean", "summarise"},
			key: fmt.Sprintf("finalized:%s/daily/%s#%d", landing, y.name, w.Attrs().Generation),
		})
	}
	if err := d.settle(ctx); err != nil {
		return fmt.Errorf("wait for the deliveries: %w", err)
	}
	return nil
}

// requestReport publishes what an upstream system would.
func (d *demo) requestReport(ctx context.Context) error {
	data := fmt.Sprintf(`{"station": "seattle", "year": %q}`, reportYear)
	publisher := d.messages.Publisher(requests)
	defer publisher.Stop()
	id, err := publisher.Publish(ctx, &pubsub.Message{Data: []byte(data)}).Get(ctx)
	if err != nil {
		return fmt.Errorf("ask for the report: %w", err)
	}
	d.screen.Print("   %s to the topic weather-requests", data)
	d.report = &run{
		pipeline: "weather-report", about: "seattle-" + reportYear, steps: []string{"publish"},
		key: fmt.Sprintf("pubsub:%s#%s", requests, id),
	}
	return nil
}

func (d *demo) whatNext(err error) {
	if err != nil && !d.o.Keep {
		return
	}
	d.chapter("Where to look next")
	rows := [][2]string{
		{"examples/weather/pipelines/", "the two files that declare what you saw"},
		{"docs/pipelines.md", "what such a file can say"},
		{"docs/local-development.md", "make dev: the same stack with your own pipelines"},
	}
	if d.o.Keep {
		rows = append(rows, [2]string{d.stack.Addresses.TemporalUI, "the runs, in Temporal's web UI"},
			[2]string{"make build", "the command line; then, in another terminal, with the addresses of this stack:"},
			[2]string{"", "set -a; . " + d.stack.EnvFile() + "; set +a; .penstock/bin/penstock runs"})
	} else {
		rows = append(rows, [2]string{`make demo ARGS=-keep`, "the demo again, and time to look around in Temporal's web UI"})
	}
	width := 0
	for _, row := range rows {
		width = max(width, len(row[0]))
	}
	for _, row := range rows {
		d.screen.Print("   %-*s  %s", width, row[0], row[1])
	}
}
