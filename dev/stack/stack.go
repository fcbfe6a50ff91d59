// Package stack runs all of Penstock on one machine as one process tree: a
// Temporal server, emulators of Cloud Storage, Pub/Sub, Eventarc and Dataflow,
// the functions as deployed, and the worker. `make dev`, the demo and the
// end-to-end tests start it; several can run side by side, each in its own
// state folder and on its own free loopback ports.
package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/dev/dataflowemulator/rest"
	"github.com/penstock/penstock/dev/eventarc"
	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/dev/pubsubemulator"
	"github.com/penstock/penstock/dev/storageemulator"
)

// Options say what to start. The zero value starts a stack without pipelines in
// the repository around the working directory.
type Options struct {
	// Root is the repository. Defaults to the one around the working directory.
	Root string
	// Dir holds the state: dev.env, logs, databases, objects. Defaults to
	// .penstock in Root. One stack at a time can use it.
	Dir string
	// Memory keeps Temporal's state and the objects in memory: a stack that
	// begins empty and leaves only logs. For tests.
	Memory bool
	// Pipelines is the folder of pipelines files. Its buckets and topics are made.
	// Empty: none, and the functions take no event.
	Pipelines string
	// Templates is a folder whose files are uploaded to each bucket that a
	// pipelines file takes a template from. Empty: none.
	Templates string
	// Seed are folders to upload before anything is delivered, by bucket.
	Seed map[string]string
	// Buckets and Topics are made besides those of the pipelines files. A topic is
	// an ID or projects/P/topics/T.
	Buckets, Topics []string
	// ImageMap is a JSON file that says what runs the jobs of each container image
	// (docs/dataflow-emulator.md). It needs Beam's local runner, which is built.
	ImageMap string
	// Images do the same in Go, and override ImageMap.
	Images map[string]dataflowemulator.Program
	// Beam builds the example pipelines and Beam's local runner also without an
	// ImageMap; see Stack.Prism.
	Beam bool
	// Dataflow changes the emulator's configuration before it starts; with Faults,
	// its hooks are theirs. Nil: none.
	Dataflow func(*dataflowemulator.Config)
	// DataflowProcess runs the Dataflow emulator as a part of its own, dataflow, which
	// can be killed and started again: its jobs are in Stack.LaunchLedger, and those
	// that an ImageMap scripts go on. Images and Dataflow, which are Go, cannot be
	// given with it; DataflowFlags are (docs/dataflow-emulator.md).
	DataflowProcess bool
	DataflowFlags   []string
	// Delivery configures the Eventarc stand-in. OnDeadLetter is called after the
	// letter went to the dead-letter topic.
	Delivery eventarc.Options
	// Push delivers storage changes and messages as plain Pub/Sub push envelopes,
	// the form that deployments use by default, not as Eventarc's CloudEvents.
	Push bool
	// Deployment, Project and Location default to dev, penstock-dev and us-central1.
	Deployment, Project, Location string
	// Faults makes the parts misbehave by rules, which can be changed at
	// Addresses.Faults; the log of what they did is Dir/logs/faults.jsonl unless
	// it has one. See docs/fault-lab.md. Nil: none.
	Faults *faults.Options
	// WorkerBinary and FunctionsBinary are programs to run in place of those that are
	// built from Root: of another release, or changed on purpose. Empty: what is built.
	WorkerBinary, FunctionsBinary string
	// Env are additional variables for the functions and the worker, as KEY=VALUE.
	Env []string
	// WithoutWorker leaves the worker out until StartWorker.
	WithoutWorker bool
	// Workers is the form of the workers: WorkersFixed or WorkersServerless. With the latter
	// there is no part worker, which the methods about it would start and stop.
	Workers string
	// Progress gets a line for each build and each part that is ready. Nil: none.
	Progress io.Writer
	// Output gets the log lines of all parts, each after its part's name. Nil: they
	// go to Dir/logs only.
	Output io.Writer
	// Color colours those names.
	Color bool
}

// Addresses are where the parts of a stack answer.
type Addresses struct {
	Temporal   string // host:port of the gRPC frontend
	Namespace  string
	TemporalUI string // URL; empty with a server that was running already
	Storage    string // http://host:port
	PubSub     string // host:port
	Dataflow   string // URL of the v1b3 API, ends in /
	Functions  string // http://host:port; each function is at its name
	Events     string // http://host:port of the Eventarc stand-in: POST /publish
	Faults     string // http://host:port of the fault lab: /faults; empty without Options.Faults
	Workers    string // URL where GET tells how many workers run; empty but with WorkersServerless
}

// Stack is a running stack. Close it.
type Stack struct {
	Addresses Addresses
	// Storage, PubSub, Events and Dataflow run in this process; Dataflow is nil with
	// Options.DataflowProcess.
	Storage  *storageemulator.Emulator
	PubSub   *pubsubemulator.Emulator
	Events   *eventarc.Broker
	Dataflow *dataflowemulator.Emulator
	// Faults is nil without Options.Faults. With Options.DataflowProcess the rules at
	// dataflow and job are in the emulator's own lab: see PutFault.
	Faults *faults.Lab
	// Workers is the pool of the workers with WorkersServerless, else nil.
	Workers *WorkerPool

	o         Options
	logs      *logs
	lock      *os.File
	stop      context.CancelFunc
	watching  sync.WaitGroup
	servers   []*http.Server
	partsMu   sync.Mutex
	parts     []*Part                  // in the order of their coming
	proxies   map[string]*faults.Proxy // to Temporal, by the part that connects
	emulator  emulatorFaults           // with Options.DataflowProcess
	died      chan error
	closeOnce sync.Once
	closeErr  error
}

// Start builds what is missing, starts every part and returns when each answers.
// A failed start leaves nothing running. ctx bounds the start only.
func Start(ctx context.Context, o Options) (_ *Stack, err error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	s := &Stack{o: o, died: make(chan error, 8)}
	running, stop := context.WithCancel(context.Background())
	s.stop = stop
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.lock, err = lockDir(o.Dir); err != nil {
		return nil, err
	}
	if s.logs, err = openLogs(filepath.Join(o.Dir, "logs"), o.Output, o.Color); err != nil {
		return nil, err
	}
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	for _, part := range []struct {
		name  string
		start func(context.Context) error
	}{
		{"fault lab", s.startFaults},
		{"emulators", s.startEmulators},
		{"temporal", s.startTemporal},
		{"functions and the worker", s.startOwn},
	} {
		if err := part.start(ctx); err != nil {
			return nil, fmt.Errorf("start the %s: %w", part.name, err)
		}
	}
	// Triggers come last: nothing is delivered before somebody can take it, and
	// the seed is no news.
	if err := s.addTriggers("", s.Addresses.Functions); err != nil {
		return nil, err
	}
	if err := s.writeEnv(); err != nil {
		return nil, err
	}
	s.watching.Go(func() { s.watchPipelines(running) })
	s.progress("ready in %s", time.Since(began).Round(100*time.Millisecond))
	return s, nil
}

func (o *Options) complete() error {
	var err error
	if o.Root == "" {
		if o.Root, err = FindRoot(); err != nil {
			return err
		}
	}
	o.Dir = cmp.Or(o.Dir, filepath.Join(o.Root, ".penstock"))
	for _, path := range []*string{&o.Root, &o.Dir, &o.Pipelines, &o.Templates, &o.ImageMap, &o.WorkerBinary, &o.FunctionsBinary} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("stack: %w", err)
		}
	}
	if o.Pipelines != "" {
		if info, err := os.Stat(o.Pipelines); err != nil || !info.IsDir() {
			return fmt.Errorf("stack: %s is not a folder of pipelines files; give the folder that holds the *.yaml files", o.Pipelines)
		}
	}
	if o.DataflowProcess && (o.Images != nil || o.Dataflow != nil) {
		return errors.New("stack: Images and Dataflow are Go code, which a Dataflow emulator in a process of its own cannot run; give an ImageMap, and DataflowFlags")
	}
	if err := o.checkWorkers(); err != nil {
		return err
	}
	o.Deployment = cmp.Or(o.Deployment, "dev")
	o.Project = cmp.Or(o.Project, "penstock-dev")
	o.Location = cmp.Or(o.Location, "us-central1")
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	return nil
}

// FindRoot looks upward from the working directory for the repository: the folder of
// the production module.
func FindRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("stack: find the repository: %w", err)
	}
	for at := dir; ; at = filepath.Dir(at) {
		mod, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/penstock/penstock\n") {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("stack: %s is not inside the repository of github.com/penstock/penstock; run it from there, or set Root", dir)
		}
	}
}

func (s *Stack) progress(format string, args ...any) {
	fmt.Fprintf(s.o.Progress, format+"\n", args...)
}

// DeadLetterTopic is the full name of the topic for what could not be handled.
func (s *Stack) DeadLetterTopic() string {
	return "projects/" + s.o.Project + "/topics/penstock-dead-letters"
}

// DeadLetterSubscription is the full name of the subscription that keeps what came
// to that topic until somebody has seen to it: here as long as the stack runs.
func (s *Stack) DeadLetterSubscription() string {
	return "projects/" + s.o.Project + "/subscriptions/penstock-dead-letters"
}

// Prism is the command that serves Beam's local runner, and Pipelines the binary
// that holds the example pipelines. Both need Options.Beam or an ImageMap.
func (s *Stack) Prism() []string {
	return []string{s.Pipelines(), "prism", "--while_stdin_open"}
}

// Pipelines is the path of the binary that holds the example pipelines.
func (s *Stack) Pipelines() string { return s.bin("pipelines") }

func (s *Stack) bin(name string) string { return filepath.Join(s.o.Root, ".penstock", "bin", name) }

func (s *Stack) startEmulators(ctx context.Context) error {
	o := s.o
	o.Delivery.Log = s.logs.logger("eventarc")
	report := o.Delivery.OnDeadLetter
	o.Delivery.OnDeadLetter = func(d eventarc.DeadLetter) {
		topic := cmp.Or(d.DeadLetterTopic, s.DeadLetterTopic())
		if _, err := s.PubSub.Publish(topic, d.Data, d.Attributes); err != nil {
			s.logs.logger("eventarc").Error("dead letter not published", "topic", topic, "error", err)
		}
		if report != nil {
			report(d)
		}
	}
	storageOptions := storageemulator.Options{Log: s.logs.logger("storage")}
	pubsubOptions := pubsubemulator.Options{OnPublish: s.onPublish, Log: s.logs.logger("pubsub")}
	if s.Faults != nil {
		s.Faults.Deliver(&o.Delivery)
		storageOptions.Wrap = s.Faults.StorageHandler
		pubsubOptions.Wrap, pubsubOptions.Server = s.Faults.PubSubHandler, s.Faults.PubSubServer()
	}
	s.Events = eventarc.New(o.Delivery)
	storageOptions.OnChange = s.onChange

	var err error
	if !o.Memory {
		storageOptions.Dir = filepath.Join(o.Dir, "storage")
	}
	if s.Storage, err = storageemulator.Start(storageOptions); err != nil {
		return err
	}
	if s.PubSub, err = pubsubemulator.Start(pubsubOptions); err != nil {
		return err
	}
	s.Addresses.Storage, s.Addresses.PubSub = "http://"+s.Storage.Addr(), s.PubSub.Addr()
	if s.Addresses.Events, err = s.serve("eventarc", s.Events.Handler()); err != nil {
		return err
	}
	if err := s.PubSub.EnsureTopic(s.DeadLetterTopic()); err != nil {
		return err
	}
	if err := s.PubSub.EnsureSubscription(s.DeadLetterSubscription(), s.DeadLetterTopic()); err != nil {
		return err
	}
	if err := s.Storage.EnsureBucket(ledgerBucket); err != nil {
		return err
	}
	if err := s.makeResources(o.Buckets, o.Topics); err != nil {
		return err
	}
	named, err := readNames(o.Pipelines)
	if err != nil {
		return err
	}
	if err := s.makeResources(named.buckets, named.topics); err != nil {
		return err
	}
	seed := maps.Clone(o.Seed)
	if seed == nil {
		seed = map[string]string{}
	}
	if o.Templates != "" {
		for _, bucket := range named.templateBuckets {
			if _, ok := seed[bucket]; !ok {
				seed[bucket] = o.Templates
			}
		}
	}
	for _, bucket := range slices.Sorted(maps.Keys(seed)) {
		if err := s.Storage.UploadDir(bucket, seed[bucket]); err != nil {
			return err
		}
	}
	if o.DataflowProcess {
		return s.startDataflowProcess(ctx)
	}
	return s.startDataflow()
}

// ledgerBucket holds the ledger of claims and final records.
const ledgerBucket = "penstock-ledger"

// onChange keeps the ledger to itself: in a deployment no trigger is on its bucket.
func (s *Stack) onChange(c storageemulator.Change) {
	if c.Object.Bucket != ledgerBucket {
		s.Events.PublishStorage(c)
	}
}

// onPublish keeps dead letters from coming back as events.
func (s *Stack) onPublish(m pubsubemulator.Message) {
	if m.Topic != s.DeadLetterTopic() {
		s.Events.PublishMessage(m)
	}
}

func (s *Stack) startDataflow() error {
	config := dataflowemulator.Config{
		StorageEndpoint: s.Addresses.Storage,
		DefaultLocation: s.o.Location,
		Log:             s.logs.logger("dataflow"),
		Sink:            dataflowemulator.SinkFunc(s.publishStatus),
		ProjectNumbers:  map[string]string{s.o.Project: "123456789012"},
	}
	if s.o.ImageMap != "" {
		jobLogs, err := s.jobLogs()
		if err != nil {
			return err
		}
		config.Images, config.Templates, err = dataflowemulator.ReadImages(s.o.ImageMap, dataflowemulator.Command{
			Prism: s.Prism(), Logs: jobLogs,
			Env: []string{"STORAGE_EMULATOR_HOST=" + s.Addresses.Storage, "GOOGLE_CLOUD_PROJECT=" + s.o.Project},
		})
		if err != nil {
			return err
		}
	}
	if config.Images == nil {
		config.Images = map[string]dataflowemulator.Program{}
	}
	maps.Copy(config.Images, s.o.Images)
	if s.Faults != nil {
		config.Hooks = s.Faults.DataflowHooks()
	}
	if s.o.Dataflow != nil {
		s.o.Dataflow(&config)
	}
	var err error
	if s.Dataflow, err = dataflowemulator.New(config); err != nil {
		return err
	}
	base, err := s.serve("dataflow", rest.Handler(s.Dataflow))
	s.Addresses.Dataflow = base + "/"
	return err
}

// jobLogs makes the folder for what the jobs' processes print.
func (s *Stack) jobLogs() (string, error) {
	dir := filepath.Join(s.o.Dir, "logs", "jobs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the folder for job logs: %w", err)
	}
	return dir, nil
}

// publishStatus hands a job's status to the Eventarc stand-in, which retries.
func (s *Stack) publishStatus(_ context.Context, e dataflowemulator.StatusEvent) error {
	_, err := s.Events.Publish(eventarc.Event{
		ID: e.ID, Source: e.Source, Type: e.Type, Subject: e.Subject, Time: e.Time, DataSchema: e.DataSchema,
		ContentType: "application/json; charset=utf-8", Data: e.Data,
		Extensions: map[string]string{"job": e.Job, "project": e.Project, "location": e.Location},
	})
	return err
}

// serve runs an HTTP server in this process on a free loopback port.
func (s *Stack) serve(name string, h http.Handler) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("%s: listen: %w", name, err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.logs.logger(name).Handler(), slog.LevelWarn)}
	s.servers = append(s.servers, server)
	s.watching.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.died <- fmt.Errorf("%s stopped serving: %w", name, err)
		}
	})
	return "http://" + listener.Addr().String(), nil
}

// addTriggers delivers everything to functions at a URL.
func (s *Stack) addTriggers(suffix, url string) error {
	form := eventarc.CloudEvents
	if s.o.Push {
		form = eventarc.Push
	}
	topic := "projects/" + s.o.Project + "/topics/storage-notifications"
	for _, t := range []eventarc.Trigger{
		{Name: "storage", Filters: map[string]string{"type": eventarc.StorageTypePrefix + "*"}, URL: url + "/StorageTrigger", Form: form, Topic: topic},
		{Name: "pubsub", Filters: map[string]string{"type": eventarc.MessagePublishedType}, URL: url + "/PubSubTrigger", Form: form},
		{Name: "job-status", Filters: map[string]string{"type": eventarc.JobStatusType}, URL: url + "/JobStatus"},
		{Name: "other", Rest: true, URL: url + "/EventTrigger"},
	} {
		t.Name += suffix
		if err := s.Events.AddTrigger(t); err != nil {
			return err
		}
	}
	return nil
}

// Died reports a part that ended by itself, with its last log lines. Nothing is
// started again.
func (s *Stack) Died() <-chan error { return s.died }

// Logs returns what a part (temporal, functions, worker, dataflow, eventarc,
// storage, pubsub, and those that were added) has printed so far in this stack's life.
func (s *Stack) Logs(part string) string { return s.logs.text(part) }

// stopParts stops whatever Temporal and the emulators serve, all at once.
func (s *Stack) stopParts() error {
	s.partsMu.Lock()
	defer s.partsMu.Unlock()
	errs := make([]error, len(s.parts))
	var stopping sync.WaitGroup
	stopping.Go(s.Workers.close)
	for i, p := range s.parts {
		if p.name != "temporal" && p.name != "dataflow" {
			stopping.Go(func() { errs[i] = p.Stop() })
		}
	}
	stopping.Wait()
	return errors.Join(errs...)
}

// Close stops every part, removes dev.env and waits. It may be called again.
func (s *Stack) Close() error {
	s.closeOnce.Do(func() {
		var errs []error
		s.stop()
		if s.lock != nil {
			errs = append(errs, s.removeEnv())
		}
		errs = append(errs, s.stopParts())
		if s.Events != nil {
			errs = append(errs, s.Events.Close())
		}
		if s.Dataflow != nil {
			errs = append(errs, s.Dataflow.Close())
		}
		errs = append(errs, s.Part("dataflow").Stop())
		for _, server := range s.servers {
			errs = append(errs, server.Close())
		}
		if s.PubSub != nil {
			errs = append(errs, s.PubSub.Close())
		}
		if s.Storage != nil {
			errs = append(errs, s.Storage.Close())
		}
		for _, p := range s.proxies {
			errs = append(errs, p.Close())
		}
		errs = append(errs, s.Part("temporal").Stop())
		s.watching.Wait()
		if s.Faults != nil {
			errs = append(errs, s.Faults.Close())
		}
		if s.logs != nil {
			errs = append(errs, s.logs.close())
		}
		if s.lock != nil {
			errs = append(errs, s.lock.Close())
		}
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}
