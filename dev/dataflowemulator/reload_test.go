package dataflowemulator_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"

	"github.com/penstock/penstock/dev/dataflowemulator"
)

// What a job was in, and how long ago it came into each, decides where its script goes on.
func TestScriptGoesOnWhereItWas(t *testing.T) {
	const (
		queued  = pb.JobState_JOB_STATE_QUEUED
		pending = pb.JobState_JOB_STATE_PENDING
		running = pb.JobState_JOB_STATE_RUNNING
		cleanup = pb.JobState_JOB_STATE_RESOURCE_CLEANING_UP
		done    = pb.JobState_JOB_STATE_DONE
		failed  = pb.JobState_JOB_STATE_FAILED
	)
	type was struct {
		state pb.JobState
		ago   time.Duration
		stop  string
	}
	timetable := []dataflowemulator.Step{{State: pending}, {After: time.Hour, State: running}, {After: time.Hour, State: done}}
	twice := []dataflowemulator.Step{{State: running}, {State: cleanup}, {After: time.Hour, State: running}, {After: time.Hour, State: failed}}
	for name, row := range map[string]struct {
		script dataflowemulator.Script
		was    []was
		want   []pb.JobState // the states that it comes into now
	}{
		"the time of the next step is not yet there":     {dataflowemulator.Script{Launches: [][]dataflowemulator.Step{timetable}}, []was{{queued, 10 * time.Minute, ""}, {pending, 9 * time.Minute, ""}}, nil},
		"the time of the next step passed":               {dataflowemulator.Script{Launches: [][]dataflowemulator.Step{timetable}}, []was{{queued, 70 * time.Minute, ""}, {pending, 69 * time.Minute, ""}}, []pb.JobState{running}},
		"the whole timetable passed":                     {dataflowemulator.Script{Launches: [][]dataflowemulator.Step{timetable}}, []was{{queued, 5 * time.Hour, ""}, {pending, 4 * time.Hour, ""}}, []pb.JobState{running, done}},
		"a step that comes at once":                      {dataflowemulator.Script{Launches: [][]dataflowemulator.Step{timetable}}, []was{{queued, time.Minute, ""}}, []pb.JobState{pending}},
		"the second time in a state":                     {dataflowemulator.Script{Launches: [][]dataflowemulator.Step{twice}}, []was{{queued, 5 * time.Hour, ""}, {running, 5 * time.Hour, ""}, {cleanup, 4 * time.Hour, ""}, {running, 30 * time.Minute, ""}}, nil},
		"the end after the second time in a state":       {dataflowemulator.Script{Launches: [][]dataflowemulator.Step{twice}}, []was{{queued, 5 * time.Hour, ""}, {running, 5 * time.Hour, ""}, {cleanup, 4 * time.Hour, ""}, {running, 2 * time.Hour, ""}}, []pb.JobState{failed}},
		"a stop whose time is not yet there":             {dataflowemulator.Script{StopTakes: time.Hour}, []was{{queued, time.Hour, ""}, {running, time.Hour, ""}, {pb.JobState_JOB_STATE_CANCELLING, time.Minute, "cancel"}}, nil},
		"a cancel whose time passed":                     {dataflowemulator.Script{StopTakes: time.Hour}, []was{{queued, 9 * time.Hour, ""}, {running, 9 * time.Hour, ""}, {pb.JobState_JOB_STATE_CANCELLING, 2 * time.Hour, "cancel"}}, []pb.JobState{pb.JobState_JOB_STATE_CANCELLED}},
		"a drain whose time passed":                      {dataflowemulator.Script{StopTakes: time.Hour, Streaming: true}, []was{{queued, 9 * time.Hour, ""}, {running, 9 * time.Hour, ""}, {pb.JobState_JOB_STATE_DRAINING, 2 * time.Hour, "drain"}}, []pb.JobState{pb.JobState_JOB_STATE_DRAINED}},
		"a launch that was written, and no state of it":  {dataflowemulator.Script{}, nil, []pb.JobState{queued, running}},
		"a job without a timetable that runs until told": {dataflowemulator.Script{}, []was{{queued, time.Hour, ""}, {running, time.Hour, ""}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ledger := filepath.Join(t.TempDir(), "ledger")
			now := time.Now().UTC()
			text, err := json.Marshal(map[string]any{"kind": "launch", "time": now.Add(-10 * time.Hour), "id": "1", "job": "j", "project": "p", "location": "us-central1", "image": "i", "template": "gs://b/t.json"})
			if err != nil {
				t.Fatal(err)
			}
			text = append(text, '\n')
			for _, w := range row.was {
				at := now.Add(-w.ago).Truncate(time.Microsecond)
				for _, kind := range []string{"state", "told"} {
					line, err := json.Marshal(map[string]any{"kind": kind, "time": at, "id": "1", "state": w.state.String(), "stop": w.stop})
					if err != nil {
						t.Fatal(err)
					}
					text = append(append(text, line...), '\n')
				}
			}
			if err := os.WriteFile(ledger, text, 0o600); err != nil {
				t.Fatal(err)
			}
			events := make(chan string, 10)
			e, err := dataflowemulator.New(dataflowemulator.Config{
				Ledger: ledger, Images: map[string]dataflowemulator.Program{"i": row.script},
				Sink: dataflowemulator.SinkFunc(func(_ context.Context, event dataflowemulator.StatusEvent) error {
					var data struct{ Payload struct{ CurrentState string } }
					if err := json.Unmarshal(event.Data, &data); err != nil {
						return err
					}
					events <- data.Payload.CurrentState
					return nil
				}),
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range row.want {
				select {
				case got := <-events:
					if got != want.String() {
						t.Errorf("it came into %s, want %s", got, want)
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("it did not come into %s", want)
				}
			}
			if err := e.Close(); err != nil { // which waits for the programs: what is due at once has come
				t.Error(err)
			}
			if len(events) > 0 {
				t.Errorf("it came into %s as well", <-events)
			}
		})
	}
}

func TestJobThatWasBeingReplacedIsReplaced(t *testing.T) {
	ledger := filepath.Join(t.TempDir(), "ledger")
	// The emulator died between the line of the new job and that of the old one's end.
	text := `{"time":"2026-11-22T10:00:00Z","kind":"launch","id":"1","job":"feed","project":"p","location":"us-central1","image":"i","record":{"id":"1","projectId":"p","name":"feed","location":"us-central1","type":"JOB_TYPE_STREAMING"}}
{"time":"2026-11-22T10:00:01Z","kind":"state","id":"1","job":"feed","project":"p","location":"us-central1","state":"JOB_STATE_RUNNING"}
{"time":"2026-11-22T11:00:00Z","kind":"launch","id":"2","job":"feed","project":"p","location":"us-central1","image":"i","replaces":"1","record":{"id":"2","projectId":"p","name":"feed","location":"us-central1","type":"JOB_TYPE_STREAMING","replaceJobId":"1"}}
{"time":"2026-11-22T11:00:00Z","kind":"state","id":"2","job":"feed","project":"p","location":"us-central1","state":"JOB_STATE_PENDING"}
`
	if err := os.WriteFile(ledger, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and what was made good stays so
		e, err := dataflowemulator.New(dataflowemulator.Config{Ledger: ledger, Images: map[string]dataflowemulator.Program{"i": dataflowemulator.Script{Streaming: true}}})
		if err != nil {
			t.Fatal(err)
		}
		for id, check := range map[string]func(*pb.Job) bool{
			"1": func(j *pb.Job) bool {
				return j.CurrentState == pb.JobState_JOB_STATE_UPDATED && j.ReplacedByJobId == "2"
			},
			"2": func(j *pb.Job) bool {
				return j.CurrentState != pb.JobState_JOB_STATE_UPDATED && j.ReplaceJobId == "1" && j.Type == pb.JobType_JOB_TYPE_STREAMING
			},
		} {
			j, err := e.GetJob(t.Context(), &pb.GetJobRequest{ProjectId: "p", Location: "us-central1", JobId: id})
			if err != nil || !check(j) {
				t.Errorf("job %s is %v, %v", id, j, err)
			}
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}
