// Package functions holds the entry points that events arrive at: Cloud Functions that turn each delivery into a run, a
// signal or another decision, and answer so that delivery tries again exactly where that can help.
//
// An event is decoded, matched against the pipelines, and for each pipeline that wants it a workflow is started under an ID
// that the deployment, the pipeline and the key alone determine. So the event may arrive any number of times, at any number
// of instances. Importing the package registers the entry points with the functions framework; everything they need is made
// with the first event and read from the environment.
package functions

import (
	"net/http"
	"os"
	"sync"
	"time"

	framework "github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/penstock/penstock/cloudlog"
	"github.com/penstock/penstock/connect"
	"github.com/penstock/penstock/pipeline"
)

// Names of the entry points: what --entry-point and FUNCTION_TARGET say, and the path where all are served at once.
const (
	NameStorageTrigger = "StorageTrigger"
	NamePubSubTrigger  = "PubSubTrigger"
	NameEventTrigger   = "EventTrigger"
	NameJobStatus      = "JobStatus"
)

func init() {
	framework.HTTP(NameStorageTrigger, StorageTrigger)
	framework.HTTP(NamePubSubTrigger, PubSubTrigger)
	framework.HTTP(NameEventTrigger, EventTrigger)
	framework.HTTP(NameJobStatus, JobStatus)
}

// StorageTrigger receives changes of Cloud Storage objects.
//
// The three triggers do the same: an event is what its content says, whichever of them it arrives at. They are apart so that
// each can be deployed, scaled, limited and watched by itself.
func StorageTrigger(w http.ResponseWriter, r *http.Request) {
	process().trigger(NameStorageTrigger)(w, r)
}

// PubSubTrigger receives Pub/Sub messages, by Eventarc or by a plain push whose endpoint names the topic in its query:
// ?topic=projects/P/topics/T.
func PubSubTrigger(w http.ResponseWriter, r *http.Request) {
	process().trigger(NamePubSubTrigger)(w, r)
}

// EventTrigger receives every other CloudEvent.
func EventTrigger(w http.ResponseWriter, r *http.Request) {
	process().trigger(NameEventTrigger)(w, r)
}

// JobStatus receives the changes of state of Dataflow jobs, of which it passes those of this deployment's jobs on to the
// workflows that watch them.
func JobStatus(w http.ResponseWriter, r *http.Request) {
	rc := process()
	rc.handler(NameJobStatus, rc.jobStatus)(w, r)
}

func (r *receiver) trigger(entryPoint string) http.HandlerFunc {
	return r.handler(entryPoint, r.event)
}

// process is the receiver of this process, made with the first event.
var process = sync.OnceValue(func() *receiver { return newReceiver(os.Getenv) })

func newReceiver(getenv func(string) string) *receiver {
	set, err := readSettings(getenv)
	logger := cloudlog.New(os.Stderr, cloudlog.Level(getenv(envLogLevel)))
	dialer := &dialer{identity: connect.Identity("functions", set.deployment), log: logger}
	letters := &publisher{topic: set.deadLetter}
	return &receiver{
		settings:    set,
		settingsErr: err,
		log:         logger,
		now:         time.Now,
		temporal:    dialer.client,
		publish:     letters.publish,
		open: func() (folder, error) {
			return pipeline.Open(set.pipelines, pipeline.FolderOptions{Logger: logger})
		},
		readTimeout: readTimeout,
		memory:      newMemory(time.Now),
	}
}
