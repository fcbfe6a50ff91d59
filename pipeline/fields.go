package pipeline

import (
	"regexp"
	"time"
)

// The caps of a pipelines file. They bound the work that a file can ask for and keep names within what Dataflow and Temporal take.
const (
	maxFileSize    = 256 << 10 // bytes
	maxTriggers    = 50
	maxSteps       = 100
	maxParameters  = 200
	maxLabels      = 32 // of the 64 that a job may have, the rest being Dataflow's and ours
	maxName        = 40 // leaves room in a job name of 63 for the deployment, a hash and the attempt
	maxAttempts    = 20
	maxTextLength  = 8 << 10 // characters of one value as written
	maxRenderedLen = 64 << 10
	maxKeyLen      = 4 << 10
	maxLabelLen    = 63
	maxTimeout     = 28 * 24 * time.Hour // Dataflow forgets a job after 30 days
	maxKeep        = 3650 * 24 * time.Hour
)

// kind is the type of a field's value.
type kind int

const (
	text kind = iota
	whole
	truth
	duration
	object
	list
	mapping // names chosen by the user to values of one kind
)

// expressions says what a field's text may hold.
type expressions int

const (
	static     expressions = iota // text as it is; an unescaped ${ is a mistake
	templated                     // text with ${ }
	expressive                    // one bare CEL expression
)

// rule is a form that a text must have.
type rule struct {
	re   *regexp.Regexp
	says string // completes "… is not"
	hint string
}

// field describes one field of the pipelines file. The descriptions in this file are the only ones: strict decoding, lint, the
// reference page and the JSON Schema all follow them.
type field struct {
	name     string
	kind     kind
	doc      string
	required bool
	def      string // what its absence means, for readers
	example  string // YAML, for the reference
	expr     expressions
	why      string // why ${ } may not stand here
	rule     *rule
	enum     []string // what a text must be one of; words that a duration may be instead, meaning zero
	min, max int64    // of a whole number, or nanoseconds of a duration; max 0 means none
	maxItems int      // of a list or mapping
	minItems int
	fields   []*field // of an object
	oneOf    []string // exactly one of these fields of an object
	item     *field   // of a list or mapping
	keyRule  *rule    // of a mapping
	refused  map[string]string
}

const (
	whyIdentity = "what decides identity, code or network is static"
	whyStatic   = "only parameters, labels, the key and the ID of a workflow to signal take ${ }"
)

var (
	nameRule = &rule{regexp.MustCompile(`^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$`), "a name of 1 to 40 lower-case letters, digits and dashes that begins with a letter and does not end with a dash",
		"it becomes part of Dataflow job names, which take nothing else"}
	gcsPathRule    = &rule{regexp.MustCompile(`^gs://[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]/[^\r\n]+$`), "a gs:// path", "write gs://BUCKET/PATH"}
	bucketRule     = &rule{regexp.MustCompile(`^[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]$`), "a bucket's name", "write the name alone, without gs:// and without a path"}
	topicRule      = &rule{regexp.MustCompile(`^(projects/[^/\s]+/topics/)?[A-Za-z][-A-Za-z0-9._~+%]{2,254}$`), "a topic's ID or full name", "write ID or projects/PROJECT/topics/ID"}
	locationRule   = &rule{regexp.MustCompile(`^[a-z]+(-[a-z]+)+[0-9]+$`), "a region", "write a region such as us-central1, without a zone's letter"}
	zoneRule       = &rule{regexp.MustCompile(`^[a-z]+(-[a-z]+)+[0-9]+-[a-z]$`), "a zone", "write a zone such as us-central1-a"}
	paramRule      = &rule{regexp.MustCompile(`^[A-Za-z_][-A-Za-z0-9_.]{0,127}$`), "a template parameter's name", "letters, digits, _, - and ., beginning with a letter"}
	labelKeyRule   = &rule{regexp.MustCompile(`^[a-z][-_a-z0-9]{0,62}$`), "a label's name", "1 to 63 lower-case letters, digits, _ and -, beginning with a letter"}
	labelValueRule = &rule{regexp.MustCompile(`^[-_a-z0-9]{0,63}$`), "a label's value", "at most 63 lower-case letters, digits, _ and -; label(x) makes any text into one"}
	emailRule      = &rule{regexp.MustCompile(`^[^@\s]+@[^@\s]+\.[^@\s]+$`), "a service account's email", "write NAME@PROJECT.iam.gserviceaccount.com"}
	lineRule       = &rule{regexp.MustCompile(`^[^\r\n]*$`), "one line", ""}
)

func names() *field { return &field{kind: text, rule: nameRule} }

// fileFields is the top level of a pipelines file.
var fileFields = &field{kind: object, oneOf: []string{"steps", "workflow", "signal"}, fields: []*field{
	{name: "name", kind: text, required: true, rule: nameRule, example: "orders", why: whyStatic,
		doc: "What the pipeline is called: part of run IDs, job names and labels. Unique in the folder; `sweep` is taken."},
	{name: "purpose", kind: text, required: true, example: "Load each order export into the warehouse before 06:00.", why: whyStatic,
		doc: "What the pipeline is for, in a sentence: shown wherever a run of it is."},
	{name: "owner", kind: text, required: true, rule: lineRule, example: "data-platform@example.com", why: whyStatic,
		doc: "Who to ask about it: an address or a team."},
	{name: "on", kind: list, required: true, minItems: 1, maxItems: maxTriggers, item: triggerFields,
		doc: "The events that start it. An event that several triggers of one pipeline want starts it once, by the first whose `when` holds."},
	{name: "key", kind: text, expr: templated, def: "the event's identity", example: "${event.bucket}/${event.name}",
		doc: "What the pipeline runs once for: two events with one key give one run. By default every event has its own run, and each redelivery of it is a duplicate. " +
			"Sees `event` and `object`."},
	{name: "dedupe", kind: object, def: "the key runs once for as long as Temporal remembers its run, which is its namespace's retention",
		doc: "Keeps the key single for longer, in the [ledger](ledger.md). For `steps` alone, and only where the worker has a ledger.", fields: []*field{
			{name: "keep", kind: duration, required: true, min: int64(time.Hour), max: int64(maxKeep), enum: []string{"forever"}, example: "forever",
				doc: "How long after a run has claimed the key no other may have it. Less than the namespace's retention has no effect."},
		}},
	{name: "steps", kind: list, minItems: 1, maxItems: maxSteps, item: stepFields,
		doc: "The Dataflow jobs to run. Steps run side by side unless `needs` puts them in order."},
	{name: "workflow", kind: object, fields: workflowFields,
		doc: "Instead of `steps`: a Temporal workflow of your own, in any language, started under the run's ID with the event as its only argument."},
	{name: "signal", kind: object, fields: []*field{
		{name: "workflowId", kind: text, required: true, expr: templated, example: "ingest-${event.bucket}",
			doc: "The ID of the workflow to signal: 1 to 1,000 printable ASCII characters once rendered. Sees `event`, `object` and `run`."},
		{name: "name", kind: text, required: true, rule: lineRule, why: whyStatic, example: "file-arrived", doc: "The signal's name."},
		{name: "start", kind: object, fields: workflowFields, def: "the event is dead-lettered",
			doc: "What to start, and then signal, when no workflow of that ID is running."},
	}, doc: "Instead of `steps`: a signal to a Temporal workflow of your own, with the event as its argument. Signals come at least once: the event's identity in it tells repeats."},
}}

var triggerFields = &field{kind: object, oneOf: []string{"storage", "pubsub", "event"}, fields: []*field{
	{name: "storage", kind: object, doc: "A change of an object in a Cloud Storage bucket.", fields: []*field{
		{name: "bucket", kind: text, required: true, rule: bucketRule, why: whyIdentity, example: "acme-landing", doc: "The bucket, by name."},
		{name: "kinds", kind: list, minItems: 1, maxItems: 4, def: "[finalized]", item: &field{kind: text, enum: []string{"finalized", "deleted", "archived", "metadataUpdated"}},
			doc: "The changes that count. `finalized`: an object was created or overwritten."},
		{name: "object", kind: text, def: "every object", example: `"orders/{region}/{date}/*.csv"`, why: whyStatic,
			doc: "The pattern of object names: see [Object patterns](#object-patterns)."},
	}},
	{name: "pubsub", kind: object, doc: "A message on a Pub/Sub topic.", fields: []*field{
		{name: "topic", kind: text, required: true, rule: topicRule, why: whyIdentity, example: "orders-ready", doc: "The topic's ID, or its full name `projects/P/topics/T`."},
		{name: "id", kind: text, expr: expressive, def: "the message ID", example: "event.data.exportId",
			doc: "A CEL expression over `event` whose value is the message's identity, for publishers that may publish one thing twice under two message IDs."},
	}},
	{name: "event", kind: object, doc: "Any other CloudEvent.", fields: []*field{
		{name: "type", kind: text, required: true, rule: lineRule, why: whyIdentity, example: "com.example.export.finished", doc: "The CloudEvent's `type`."},
		{name: "source", kind: text, rule: lineRule, why: whyIdentity, def: "every source", example: "//erp.example.com/exports", doc: "The CloudEvent's `source`."},
	}},
	{name: "when", kind: text, expr: expressive, def: "always", example: "event.size > 0",
		doc: "A CEL predicate: the event starts the pipeline only where it is true. Sees `event` and `object`."},
}}

var workflowFields = []*field{
	{name: "type", kind: text, required: true, rule: lineRule, why: whyIdentity, example: "IngestFile", doc: "The workflow's type name."},
	{name: "taskQueue", kind: text, required: true, rule: lineRule, why: whyIdentity, example: "ingest", doc: "The task queue that its workers poll."},
}

var stepFields = &field{kind: object, fields: []*field{
	{name: "name", kind: text, required: true, rule: nameRule, why: whyStatic, example: "clean", doc: "Unique in the pipeline: part of job names."},
	{name: "needs", kind: list, maxItems: maxSteps, item: names(), example: "[clean]",
		doc: "The steps that must be done before this one starts. Its expressions see their results, and those of the steps that they need, as `steps.<name>`."},
	{name: "dataflow", kind: object, required: true, fields: dataflowFields, doc: "The job to launch.",
		refused: map[string]string{
			"update":                "a run never updates a job that runs already: it launches its own",
			"transformNameMapping":  "it belongs to updates, and a run never updates a job that runs already",
			"transformNameMappings": "it belongs to updates, and a run never updates a job that runs already",
			"jobName":               "Penstock names the jobs: the name is how a step is known to run once",
			"project":               "jobs run in the deployment's project",
		}},
	{name: "timeout", kind: duration, min: int64(time.Minute), max: int64(maxTimeout), def: "none", example: "2h",
		doc: "How long one attempt may take before its job is cancelled (drained, if it streams). For a streaming step: how long until it runs."},
	{name: "retry", kind: object, doc: "What happens after a failed job.", fields: []*field{
		{name: "attempts", kind: whole, min: 1, max: maxAttempts, def: "1", example: "3", doc: "How many jobs may be tried in all. Jobs that Dataflow refuses for their parameters or for lack of permission are not tried again."},
		{name: "backoff", kind: duration, min: int64(time.Second), max: int64(24 * time.Hour), def: "1m", example: "30s", doc: "The wait before the second attempt; it doubles with each further one."},
		{name: "maxBackoff", kind: duration, min: int64(time.Second), max: int64(24 * time.Hour), def: "30m", example: "1h", doc: "The longest wait."},
	}},
}}

var dataflowFields = []*field{
	{name: "template", kind: text, required: true, rule: gcsPathRule, why: whyIdentity, example: "gs://acme-templates/clean.json", doc: "The template: a flex template's JSON file, or a classic template's file."},
	{name: "classic", kind: truth, def: "false", doc: "It is a classic template, not a flex template."},
	{name: "parameters", kind: mapping, maxItems: maxParameters, keyRule: paramRule, item: &field{kind: text, expr: templated},
		example: "{input: \"${event.uri}\"}",
		doc:     "The template's parameters. Numbers and booleans are passed as they are written. Sees `event`, `object`, `run` and `steps`."},
	{name: "labels", kind: mapping, maxItems: maxLabels, keyRule: labelKeyRule, item: &field{kind: text, expr: templated},
		example: "{region: \"${label(object.region)}\"}",
		doc:     "Labels of the job, besides Penstock's own. Sees `event`, `object`, `run` and `steps`; `label(x)` makes any text into a label's value."},
	{name: "environment", kind: object, fields: flexEnvironment, doc: "How the job runs, in Dataflow's own names.", refused: environmentRefused},
	{name: "location", kind: text, rule: locationRule, why: whyIdentity, def: "the deployment's", example: "europe-west4", doc: "The region to run in."},
	{name: "streaming", kind: truth, def: "false", doc: "The job streams: steps that need this one start once it runs, and the run lasts as long as it does. A job of the other type fails the step."},
}

var environmentRefused = map[string]string{
	"additionalUserLabels": "write them under labels",
	"update":               "a run never updates a job that runs already: it launches its own",
}

const (
	flexOnly    = 1
	classicOnly = 2
)

// environmentNames says which kind of template takes a field that not both take.
var environmentNames = map[string]int{
	"autoscalingAlgorithm": flexOnly, "dumpHeapOnOom": flexOnly, "enableLauncherVmSerialPortLogging": flexOnly, "flexrsGoal": flexOnly,
	"launcherMachineType": flexOnly, "saveHeapDumpsToGcsPath": flexOnly, "sdkContainerImage": flexOnly, "stagingLocation": flexOnly,
	"bypassTempDirValidation": classicOnly,
}

// flexEnvironment describes the union of FlexTemplateRuntimeEnvironment and RuntimeEnvironment.
// https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.locations.flexTemplates/launch
// https://cloud.google.com/dataflow/docs/reference/rest/v1b3/RuntimeEnvironment
var flexEnvironment = []*field{
	env("numWorkers", whole, "Workers to begin with.", func(f *field) { f.min, f.max = 1, 4000 }),
	env("maxWorkers", whole, "Workers at most.", func(f *field) { f.min, f.max = 1, 4000; f.example = "10" }),
	env("machineType", text, "The workers' machine type.", func(f *field) { f.example = "n2-standard-4" }),
	env("diskSizeGb", whole, "Disk of a worker, in gigabytes.", func(f *field) { f.min, f.max = 1, 65536 }),
	env("autoscalingAlgorithm", text, "Whether the number of workers follows the load.", func(f *field) {
		f.enum = []string{"AUTOSCALING_ALGORITHM_NONE", "AUTOSCALING_ALGORITHM_BASIC"}
	}),
	env("serviceAccountEmail", text, "The service account that the job runs as.", func(f *field) { f.rule = emailRule }),
	env("network", text, "The workers' network.", nil),
	env("subnetwork", text, "The workers' subnetwork.", func(f *field) { f.example = "regions/us-central1/subnetworks/dataflow" }),
	env("ipConfiguration", text, "Whether workers have public addresses.", func(f *field) {
		f.enum = []string{"WORKER_IP_PUBLIC", "WORKER_IP_PRIVATE"}
	}),
	env("workerRegion", text, "The region of the workers, where it is not the job's.", func(f *field) { f.rule = locationRule }),
	env("workerZone", text, "The zone of the workers.", func(f *field) { f.rule = zoneRule }),
	env("zone", text, "The zone of the workers: the older name of `workerZone`.", func(f *field) { f.rule = zoneRule }),
	env("tempLocation", text, "Where temporary files go.", func(f *field) { f.rule = gcsPathRule }),
	env("stagingLocation", text, "Where files are staged.", func(f *field) { f.rule = gcsPathRule }),
	env("kmsKeyName", text, "The Cloud KMS key that encrypts the job's data.", func(f *field) {
		f.rule = &rule{regexp.MustCompile(`^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$`), "a key's full name", "write projects/P/locations/L/keyRings/R/cryptoKeys/K"}
	}),
	env("enableStreamingEngine", truth, "Whether Streaming Engine runs the job.", nil),
	env("streamingMode", text, "How often a streaming job may process a message.", func(f *field) {
		f.enum = []string{"STREAMING_MODE_EXACTLY_ONCE", "STREAMING_MODE_AT_LEAST_ONCE"}
	}),
	env("flexrsGoal", text, "Whether a batch job may wait for cheaper workers.", func(f *field) {
		f.enum = []string{"FLEXRS_SPEED_OPTIMIZED", "FLEXRS_COST_OPTIMIZED"}
	}),
	env("sdkContainerImage", text, "The container image of the workers' SDK harness.", nil),
	env("launcherMachineType", text, "The machine type of the VM that launches a flex template.", nil),
	env("enableLauncherVmSerialPortLogging", truth, "Whether that VM logs its serial port.", nil),
	env("dumpHeapOnOom", truth, "Whether a worker out of memory leaves a heap dump.", nil),
	env("saveHeapDumpsToGcsPath", text, "Where heap dumps go.", func(f *field) { f.rule = gcsPathRule }),
	env("bypassTempDirValidation", truth, "Whether the check of the temporary directory is skipped.", nil),
	env("additionalExperiments", list, "Experiments of the service. `create_or_update_job` is refused.", func(f *field) { f.maxItems, f.item = 50, &field{kind: text, why: whyIdentity, rule: lineRule} }),
	env("additionalPipelineOptions", list, "Further pipeline options, `name=value` each. Options that name or update a job are refused.", func(f *field) {
		f.maxItems, f.item = 50, &field{kind: text, why: whyIdentity, rule: lineRule}
	}),
}

func env(name string, k kind, doc string, more func(*field)) *field {
	f := &field{name: name, kind: k, doc: doc, why: whyIdentity}
	if more != nil {
		more(f)
	}
	switch environmentNames[name] {
	case flexOnly:
		f.doc += " Flex templates only."
	case classicOnly:
		f.doc += " Classic templates only."
	}
	return f
}
