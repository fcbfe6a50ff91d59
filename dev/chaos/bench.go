package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"cloud.google.com/go/storage"
	"go.temporal.io/sdk/client"
	"go.yaml.in/yaml/v4"

	"github.com/penstock/penstock/dev/eventarc"
	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/dev/stack"
)

// What the stack of every scenario is called.
const (
	Deployment = "chaos"
	Project    = "penstock-dev"
	Location   = "us-central1"
)

// Setup is what a scenario's stack is made of.
type Setup struct {
	// Pipelines are the pipelines files, by name. Empty: one, called orders, whose
	// only step runs a job of the image quick for each object orders/**.
	Pipelines map[string]string
	// PipelinesFrom is a folder in the repository whose pipelines files are added. Empty: none.
	PipelinesFrom string
	// Images are container images besides those of Images, as an image map has them
	// (docs/dataflow-emulator.md). Each has a template gs://chaos-templates/<image>.json
	// that takes any of the parameters "input" and "step".
	Images map[string]string
	// Env are variables for the functions and the worker, after the bench's own.
	Env []string
	// Faults are rules from the start. More can be set while it runs.
	Faults []faults.Rule
	// Stack changes the rest of its options.
	Stack func(*stack.Options)
}

// Orders is the pipelines file of a Setup that has none.
const Orders = `
name: orders
purpose: Load each order export into the warehouse.
owner: data-platform@example.com
on:
  - storage: {bucket: chaos-landing, object: "orders/**"}
steps:
  - name: load
    dataflow:
      template: gs://chaos-templates/quick.json
      parameters: {input: "${event.uri}", step: load}
`

// images are those that every scenario has. They run no process: their jobs go by a timetable.
var images = map[string]string{
	"quick":   `{"script": [{"state": "RUNNING"}, {"after": "300ms", "state": "DONE"}]}`,
	"seconds": `{"script": [{"state": "RUNNING"}, {"after": "3s", "state": "DONE"}]}`,
	"failing": `{"script": [{"state": "RUNNING"}, {"after": "200ms", "state": "FAILED", "message": "the warehouse refused the rows"}]}`,
	"endless": `{"script": [{"state": "RUNNING"}], "stopTakes": "200ms"}`,
	"stream":  `{"script": [{"state": "RUNNING"}], "streaming": true, "stopTakes": "200ms"}`,
}

// waits make the product's waits short enough to be waited for; all are settings of its own.
var waits = []string{
	"PENSTOCK_LOOKUP_HORIZON=4s", "PENSTOCK_CALL_TIMEOUT=5s", "PENSTOCK_SAFETY_INTERVAL=15s",
	"PENSTOCK_DRAIN_GRACE=4s", "PENSTOCK_CANCEL_GRACE=4s", "PENSTOCK_HAND_OVER=15s",
}

// Bench is a stack under trial, with what a scenario does to it.
type Bench struct {
	*stack.Stack
	Temporal client.Client
	Store    *storage.Client
	// Folder holds the stack's state and logs; PipelinesDir the pipelines files, of
	// which a change is seen within a second.
	Folder, PipelinesDir string
	Size                 Size

	options Options
	name    string
	sent    *sendLog
	letters *letterBox
	steps   map[string][]string // of each pipeline, by name
	bound   time.Duration

	mu        sync.Mutex
	random    *rand.Rand
	counter   int
	wants     []Want
	known     map[string]bool // wants by identity, or body
	foreign   []string
	forgotten []string             // ledgers of jobs that Dataflow was made to forget
	kept      []Execution          // executions that Temporal may forget
	read      map[string]Execution // ends that were read already, by the execution's ID
	own       []Violation
	ended     time.Time // the end of the last fault
	timeline  *os.File
	lock      *os.File
}

// lockFolder claims a scenario's folder, so that another chaos run does not empty it. The
// claim ends with the process, or when the file is closed.
func lockFolder(folder string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of scenarios: %w", err)
	}
	f, err := os.OpenFile(folder+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the scenario's folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is in use by another run of this scenario (%w): wait for its end, or give this one a folder of its own (ARGS=\"-state DIR\")", folder, err)
	}
	return f, nil
}

func newBench(ctx context.Context, o Options, s Scenario, folder string) (_ *Bench, err error) {
	lock, err := lockFolder(folder)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(folder); err != nil {
		return nil, errors.Join(fmt.Errorf("empty the scenario's folder: %w", err), lock.Close())
	}
	b := &Bench{
		lock:   lock,
		Folder: folder, PipelinesDir: filepath.Join(folder, "pipelines"), Size: o.Size,
		options: o, name: s.Name, steps: map[string][]string{}, bound: s.bound(o.Size), known: map[string]bool{}, read: map[string]Execution{},
		random: draws(o.Seed, s.Name), ended: time.Now(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	imageMap, templates, err := b.writeFiles(o.root, s.Setup)
	if err != nil {
		return nil, err
	}
	if b.timeline, err = os.Create(filepath.Join(folder, "timeline.log")); err != nil {
		return nil, err
	}
	b.sent = &sendLog{}
	if b.sent.file, err = os.Create(filepath.Join(folder, "sent.jsonl")); err != nil {
		return nil, err
	}
	so := stack.Options{
		Root: o.root, Dir: filepath.Join(folder, "state"), Pipelines: b.PipelinesDir, ImageMap: imageMap,
		Seed:       map[string]string{"chaos-templates": templates},
		Deployment: Deployment, Project: Project, Location: Location,
		Buckets:      []string{Landing},
		Faults:       &faults.Options{Plan: faults.Plan{Seed: b.draw().Uint64N(1<<32) | 1, Rules: s.Setup.Faults}},
		WorkerBinary: o.WorkerBinary, FunctionsBinary: o.FunctionsBinary,
		Delivery:        eventarc.Options{MinBackoff: firstBackoff, MaxBackoff: mostBackoff},
		DataflowProcess: true, DataflowFlags: []string{"-concurrent_jobs=-1"},
		Env: append(append([]string{}, waits...), s.Setup.Env...),
	}
	if o.Verbose {
		so.Progress = o.Out
	}
	if s.Setup.Stack != nil {
		s.Setup.Stack(&so)
	}
	if b.Stack, err = stack.Start(ctx, so); err != nil {
		return nil, err
	}
	if b.Temporal, err = b.TemporalClient(ctx); err != nil {
		return nil, err
	}
	if b.Store, err = b.StorageClient(ctx); err != nil {
		return nil, err
	}
	if b.letters, err = openLetterBox(ctx, b.Stack); err != nil {
		return nil, err
	}
	b.mark()
	return b, nil
}

// writeFiles writes the pipelines files, the image map and a template for each image.
func (b *Bench) writeFiles(root string, s Setup) (imageMap, templates string, err error) {
	files := map[string]string{}
	maps.Copy(files, s.Pipelines)
	if s.PipelinesFrom != "" {
		if err := readFiles(filepath.Join(root, s.PipelinesFrom), files); err != nil {
			return "", "", err
		}
	}
	if len(files) == 0 {
		files["orders.yaml"] = Orders
	}
	templates = filepath.Join(b.Folder, "templates")
	for _, dir := range []string{b.PipelinesDir, templates} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", "", fmt.Errorf("make the scenario's folder: %w", err)
		}
	}
	for name, text := range files {
		if err := b.WritePipeline(name, text); err != nil {
			return "", "", err
		}
	}
	mapped := map[string]json.RawMessage{}
	for _, from := range []map[string]string{images, s.Images} {
		for name, text := range from {
			mapped["chaos/"+name] = json.RawMessage(text)
			template := fmt.Sprintf(`{"image": "chaos/%s", "sdkInfo": {"language": "GO"}, "metadata": {"name": %q, "streaming": %t, "parameters": [
  {"name": "input", "label": "Input", "helpText": "What to read.", "isOptional": true},
  {"name": "step", "label": "Step", "helpText": "The step.", "isOptional": true}]}}`, name, name, streaming(text))
			if err := os.WriteFile(filepath.Join(templates, name+".json"), []byte(template), 0o600); err != nil {
				return "", "", fmt.Errorf("write the template of the image %s: %w", name, err)
			}
		}
	}
	imageMap = filepath.Join(b.Folder, "images.json")
	text, err := json.MarshalIndent(map[string]any{"images": mapped}, "", " ")
	if err != nil {
		return "", "", fmt.Errorf("write the image map: %w", err)
	}
	if err := os.WriteFile(imageMap, text, 0o600); err != nil {
		return "", "", fmt.Errorf("write the image map: %w", err)
	}
	return imageMap, templates, nil
}

// readFiles reads the pipelines files of a folder.
func readFiles(dir string, into map[string]string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(paths) == 0 {
		return fmt.Errorf("find pipelines files in %s: %d files (%w)", dir, len(paths), err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read a pipelines file: %w", err)
		}
		into[filepath.Base(path)] = string(text)
	}
	return nil
}

func streaming(image string) bool {
	var m struct {
		Streaming bool `json:"streaming"`
	}
	return json.Unmarshal([]byte(image), &m) == nil && m.Streaming
}

// WritePipeline writes a pipelines file, at first or anew, and learns its steps. A file
// that is no YAML, or names no pipeline, teaches nothing.
func (b *Bench) WritePipeline(file, text string) error {
	var p struct {
		Name  string `yaml:"name"`
		Steps []struct {
			Name string `yaml:"name"`
		} `yaml:"steps"`
	}
	if err := yaml.Unmarshal([]byte(text), &p); err == nil && p.Name != "" {
		steps := []string{}
		for _, s := range p.Steps {
			steps = append(steps, s.Name)
		}
		b.mu.Lock()
		b.steps[p.Name] = steps
		b.mu.Unlock()
	}
	// In one piece, as an upload is: nobody reads half of it.
	path := filepath.Join(b.PipelinesDir, file)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the pipelines file %s: %w", file, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write the pipelines file %s: %w", file, err)
	}
	return nil
}

func (b *Bench) close() error {
	var errs []error
	if b.letters != nil {
		errs = append(errs, b.letters.close())
	}
	if b.Store != nil {
		errs = append(errs, b.Store.Close())
	}
	if b.Temporal != nil {
		b.Temporal.Close()
	}
	if b.Stack != nil {
		errs = append(errs, b.Stack.Close())
	}
	if b.sent != nil {
		errs = append(errs, b.sent.file.Close())
	}
	if b.timeline != nil {
		errs = append(errs, b.timeline.Close())
	}
	errs = append(errs, b.lock.Close())
	return errors.Join(errs...)
}

// N is a number of the default size, made larger or smaller for another.
func (b *Bench) N(n int) int {
	switch b.Size {
	case Short:
		return max(n/10, 3)
	case Full:
		return fullFactor * n
	}
	return n
}

// draw is the scenario's chance. It is for the goroutine that tells the story alone.
func (b *Bench) draw() *rand.Rand { return b.random }

// fork is chance for another goroutine.
func (b *Bench) fork() *rand.Rand { return rand.New(rand.NewPCG(b.random.Uint64(), b.random.Uint64())) }

func (b *Bench) next() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counter++
	return b.counter
}

// Say puts a line into the scenario's timeline, for whoever asks why it failed.
func (b *Bench) Say(format string, args ...any) {
	line := fmt.Sprintf("%s %s\n", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, args...))
	_, _ = io.WriteString(b.timeline, line) // a file that is full shows elsewhere
	if b.options.Verbose {
		fmt.Fprintf(b.options.Out, "    %s %s", b.name, line)
	}
}

// mark says that a fault, or the load, ends now: what comes after it is recovery.
func (b *Bench) mark() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = time.Now()
}

// Expect declares what an event is to lead to. Send does so for what it sends; it is for events that come by other ways.
func (b *Bench) Expect(e Event, body string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := e.want(b.steps, body)
	id := w.Deployment + " " + w.Identity + " " + w.Body
	if b.known[id] {
		return
	}
	b.known[id] = true
	b.wants = append(b.wants, w)
}

// ExpectAnew declares again what an event is to lead to, after something happened to its run.
func (b *Bench) ExpectAnew(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := e.want(b.steps, "")
	for i := range b.wants {
		if b.wants[i].Identity == w.Identity && b.wants[i].Deployment == w.Deployment {
			b.wants[i] = w
		}
	}
}

// Foreign says that the scenario itself launched jobs of these names.
func (b *Bench) Foreign(jobs ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.foreign = append(b.foreign, jobs...)
}

// Fail reports what a scenario itself found, beside what Check finds.
func (b *Bench) Fail(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own = append(b.own, Violation{"own", fmt.Sprintf(format, args...)})
}

// found is what the scenario itself found, and what ended without being told to.
func (b *Bench) found() []Violation {
	for more := true; more; {
		select {
		case err := <-b.Died():
			b.Fail("%v", err)
		default:
			more = false
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.own
}

// Upload writes n objects "<pipeline>/…" into Landing, whose events the stack's
// Eventarc delivers, and declares that each starts a run of the pipeline.
func (b *Bench) Upload(ctx context.Context, pipeline string, n int) ([]Event, error) {
	events := make([]Event, 0, n)
	for range n {
		e, err := b.UploadAs(ctx, Landing, fmt.Sprintf("%s/%05d.csv", pipeline, b.next()), pipeline, "a,b\n1,2\n")
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

// uploaded stands in the sender's log for an object that was written, in place of the function
// that the stack delivers its event to.
const uploaded = "upload"

// UploadAs writes any object, and declares that its event starts a run of the pipeline.
func (b *Bench) UploadAs(ctx context.Context, bucket, object, pipeline, content string) (Event, error) {
	w := b.Store.Bucket(bucket).Object(object).NewWriter(ctx)
	if _, err := io.WriteString(w, content); err != nil {
		return Event{}, fmt.Errorf("upload %s: %w", object, err)
	}
	if err := w.Close(); err != nil {
		return Event{}, fmt.Errorf("upload %s: %w", object, err)
	}
	e := objectEvent(bucket, pipeline, object, w.Attrs().Generation)
	b.Expect(e, "")
	// Cloud Storage has it: that is the acknowledgement that its event will be delivered.
	b.sent.append(Delivery{Time: time.Now(), Delivery: b.sent.reserve(1), Attempt: 1, Deployment: e.deployment(), Identity: e.Identity, Function: uploaded, Status: 200})
	b.mark()
	return e, nil
}

// Await polls until cond holds.
func (b *Bench) Await(ctx context.Context, what string, cond func() (bool, error)) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		ok, err := cond()
		if ok && err == nil {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-tick.C:
		case err := <-b.Died():
			b.Fail("%v", err)
			return fmt.Errorf("waiting until %s: %w", what, err)
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, errors.Join(context.Cause(ctx), last))
		}
	}
}
