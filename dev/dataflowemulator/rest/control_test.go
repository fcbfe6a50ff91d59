package rest_test

import (
	"strings"
	"testing"
	"time"

	dataflow "google.golang.org/api/dataflow/v1b3"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"

	"github.com/penstock/penstock/dev/dataflowemulator"
)

func TestRequestedStates(t *testing.T) {
	const cancel, drain, draining = "JOB_STATE_CANCELLED", "JOB_STATE_DRAINED", "JOB_STATE_DRAINING"
	tests := map[string]struct {
		template, request, end string
		refusal                string // a part of the message, if the request is to be refused
	}{
		"cancel a batch job":        {endless, cancel, "JOB_STATE_CANCELLED", ""},
		"cancel a streaming job":    {stream, cancel, "JOB_STATE_CANCELLED", ""},
		"drain a streaming job":     {stream, drain, "JOB_STATE_DRAINED", ""},
		"drain by its other name":   {stream, draining, "JOB_STATE_DRAINED", ""},
		"drain a batch job":         {endless, drain, "", "Only a streaming job can be drained"},
		"ask for an end of its own": {endless, "JOB_STATE_DONE", "", "Invalid requested state"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := setup(t, nil)
			id := b.launch(test.template, "orders")
			b.until(id, "JOB_STATE_RUNNING")
			err := b.request(id, test.request)
			if test.refusal != "" {
				if err == nil || !strings.Contains(err.Error(), test.refusal) {
					t.Errorf("answered %v, want a refusal with %q", err, test.refusal)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := b.wait(id); got != test.end {
				t.Errorf("the job ended in %s, want %s", got, test.end)
			}
		})
	}
}

func TestStopsThatComeTooEarlyOrTooLate(t *testing.T) {
	t.Run("cancel after the end says that the job has terminated", func(t *testing.T) {
		b := setup(t, nil)
		id := b.launch(flex, "orders")
		b.wait(id)
		wantError(t, b.request(id, "JOB_STATE_CANCELLED"), 400, "failedPrecondition", "Job has terminated in state JOB_STATE_DONE")
		wantError(t, b.request(id, "JOB_STATE_DRAINED"), 400, "failedPrecondition", "Job has terminated in state JOB_STATE_DONE")
	})
	t.Run("cancel right after the launch may not be ready", func(t *testing.T) {
		b := setup(t, func(c *dataflowemulator.Config) { c.CancelNotReady = time.Hour })
		id := b.launch(endless, "orders")
		wantError(t, b.request(id, "JOB_STATE_CANCELLED"), 400, "failedPrecondition", "not yet ready for canceling")
	})
	t.Run("a drain needs a running job", func(t *testing.T) {
		b := setup(t, func(c *dataflowemulator.Config) {
			c.Images["acme/endless"] = dataflowemulator.Script{Launches: [][]dataflowemulator.Step{{}}}
		})
		id := b.launch(stream, "orders")
		wantError(t, b.request(id, "JOB_STATE_DRAINED"), 400, "failedPrecondition", "Job is in state JOB_STATE_QUEUED, not running")
	})
	t.Run("a job that was told to drain can be cancelled", func(t *testing.T) {
		b := setup(t, func(c *dataflowemulator.Config) {
			c.Images["acme/endless"] = dataflowemulator.Script{StopTakes: time.Hour, StuckCancel: true}
		})
		id := b.launch(stream, "orders")
		b.until(id, "JOB_STATE_RUNNING")
		if err := b.request(id, "JOB_STATE_DRAINED"); err != nil {
			t.Fatal(err)
		}
		b.until(id, "JOB_STATE_DRAINING")
		wantError(t, b.request(id, "JOB_STATE_DRAINED"), 400, "failedPrecondition", "Job is in state JOB_STATE_DRAINING, not running")
		if err := b.request(id, "JOB_STATE_CANCELLED"); err != nil {
			t.Fatal(err)
		}
		b.until(id, "JOB_STATE_CANCELLING")
	})
	t.Run("force comes after a plain cancel, and ends what that could not", func(t *testing.T) {
		b := setup(t, func(c *dataflowemulator.Config) {
			c.Images["acme/endless"] = dataflowemulator.Script{StuckCancel: true}
		})
		force := func(id string) error {
			_, err := b.api.Projects.Locations.Jobs.Update(project, region, id, &dataflow.Job{RequestedState: "JOB_STATE_CANCELLED", Labels: map[string]string{"force_cancel_job": "true"}}).Do()
			return err
		}
		id := b.launch(endless, "orders")
		b.until(id, "JOB_STATE_RUNNING")
		wantError(t, force(id), 400, "failedPrecondition", "cancel it plainly first")
		if err := b.request(id, "JOB_STATE_CANCELLED"); err != nil {
			t.Fatal(err)
		}
		b.until(id, "JOB_STATE_CANCELLING")
		if err := b.request(id, "JOB_STATE_CANCELLED"); err != nil {
			t.Errorf("a second cancel is no error: %v", err)
		}
		if err := force(id); err != nil {
			t.Fatal(err)
		}
		if got := b.wait(id); got != "JOB_STATE_CANCELLED" {
			t.Errorf("the job ended in %s", got)
		}
		if labels := b.get(id).Labels; labels["force_cancel_job"] != "" {
			t.Errorf("the label of the request became the job's: %v", labels)
		}
	})
	t.Run("force may have to wait", func(t *testing.T) {
		b := setup(t, func(c *dataflowemulator.Config) {
			c.Images["acme/endless"] = dataflowemulator.Script{StuckCancel: true}
			c.ForceCancelAfter = time.Hour
		})
		id := b.launch(endless, "orders")
		if err := b.request(id, "JOB_STATE_CANCELLED"); err != nil {
			t.Fatal(err)
		}
		_, err := b.api.Projects.Locations.Jobs.Update(project, region, id, &dataflow.Job{RequestedState: "JOB_STATE_CANCELLED", Labels: map[string]string{"force_cancel_job": "true"}}).Do()
		wantError(t, err, 400, "failedPrecondition", "before it was cancelling for 1h")
	})
}

func TestCancelThatIsAcceptedEndsInCancelled(t *testing.T) {
	// The program itself comes to a good end after the cancel: clients wait for CANCELLED all the same.
	b := setup(t, func(c *dataflowemulator.Config) {
		c.Images["acme/endless"] = dataflowemulator.Script{StopTakes: time.Millisecond}
	})
	id := b.launch(endless, "orders")
	if err := b.request(id, "JOB_STATE_CANCELLED"); err != nil {
		t.Fatal(err)
	}
	if got := b.wait(id); got != "JOB_STATE_CANCELLED" {
		t.Errorf("the job ended in %s", got)
	}
}

func TestStreamingUpdateReplacesTheJob(t *testing.T) {
	b := setup(t, nil)
	update := &dataflow.LaunchFlexTemplateParameter{JobName: "orders", ContainerSpecGcsPath: stream, Update: true}
	_, err := b.tryLaunch(update)
	wantError(t, err, 404, "notFound", "in RUNNING OR DRAINING state")
	first := b.launch(stream, "orders")
	b.until(first, "JOB_STATE_RUNNING")
	out, err := b.tryLaunch(update)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.wait(first); got != "JOB_STATE_UPDATED" {
		t.Fatalf("the old job ended in %s", got)
	}
	if old := b.get(first); old.ReplacedByJobId != out.Job.Id {
		t.Errorf("the old job was replaced by %q, want %q", old.ReplacedByJobId, out.Job.Id)
	}
	b.until(out.Job.Id, "JOB_STATE_RUNNING")
	if j := b.get(out.Job.Id); j.ReplaceJobId != first {
		t.Errorf("the new job replaces %q, want %q", j.ReplaceJobId, first)
	}
	// The experiment makes an update of what looks like a launch.
	again, err := b.tryLaunch(&dataflow.LaunchFlexTemplateParameter{
		JobName: "orders", ContainerSpecGcsPath: stream, Environment: &dataflow.FlexTemplateRuntimeEnvironment{AdditionalExperiments: []string{"create_or_update_job"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.wait(out.Job.Id); got != "JOB_STATE_UPDATED" || again.Job.Id == out.Job.Id {
		t.Errorf("create_or_update_job left the running job in %s", got)
	}

	batch := b.launch(endless, "batch")
	b.until(batch, "JOB_STATE_RUNNING")
	_, err = b.tryLaunch(&dataflow.LaunchFlexTemplateParameter{JobName: "batch", ContainerSpecGcsPath: endless, Update: true})
	wantError(t, err, 400, "badRequest", "only a streaming job can be")
}

func TestRunningParameters(t *testing.T) {
	tests := map[string]struct {
		query, body string
		refusal     string
	}{
		"workers, by the proto's names":       {"updateMask=runtime_updatable_params.min_num_workers,runtime_updatable_params.max_num_workers", `{"runtimeUpdatableParams": {"minNumWorkers": 2, "maxNumWorkers": "9"}}`, ""},
		"workers, by the JSON names":          {"update_mask=runtimeUpdatableParams.maxNumWorkers", `{"runtime_updatable_params": {"max_num_workers": 9}}`, ""},
		"a hint":                              {"updateMask=runtime_updatable_params.worker_utilization_hint", `{"runtimeUpdatableParams": {"workerUtilizationHint": 0.5, "maxNumWorkers": 9}}`, ""},
		"fewer at most than at least":         {"updateMask=runtime_updatable_params.min_num_workers,runtime_updatable_params.max_num_workers", `{"runtimeUpdatableParams": {"minNumWorkers": 9, "maxNumWorkers": 2}}`, "must not be above"},
		"no worker":                           {"updateMask=runtime_updatable_params.min_num_workers", `{"runtimeUpdatableParams": {"minNumWorkers": 0}}`, "must be 1 or more"},
		"a hint out of range":                 {"updateMask=runtime_updatable_params.worker_utilization_hint", `{"runtimeUpdatableParams": {"workerUtilizationHint": 0.95}}`, "between 0.1 and 0.9"},
		"another field":                       {"updateMask=name", `{"name": "other"}`, "cannot be updated"},
		"a requested state beside the mask":   {"updateMask=runtime_updatable_params.max_num_workers", `{"requestedState": "JOB_STATE_CANCELLED", "runtimeUpdatableParams": {"maxNumWorkers": 9}}`, "both a requested state and an update mask"},
		"nothing at all is no change":         {"", `{}`, ""},
		"an empty map of labels is no change": {"", `{"labels": {}}`, ""},
	}
	b := setup(t, nil)
	id := b.launch(stream, "orders")
	b.until(id, "JOB_STATE_RUNNING")
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, answer := (&bench{t, b.emulator, b.url, b.api}).raw("PUT", "/v1b3/projects/acme/locations/us-central1/jobs/"+id+"?"+test.query, test.body)
			if (code == 200) != (test.refusal == "") || !strings.Contains(string(mustJSON(t, answer)), test.refusal) {
				t.Errorf("answered %d %s, want refusal %q", code, mustJSON(t, answer), test.refusal)
			}
		})
	}
	j := b.get(id)
	if p := j.RuntimeUpdatableParams; p == nil || p.MaxNumWorkers != 9 || p.WorkerUtilizationHint != 0.5 {
		t.Errorf("running parameters %s", mustJSON(t, p))
	}
	if j.CurrentState != "JOB_STATE_RUNNING" {
		t.Errorf("the job is %s after updates that only changed parameters", j.CurrentState)
	}

	batch := b.launch(endless, "batch")
	b.until(batch, "JOB_STATE_RUNNING")
	_, err := b.api.Projects.Locations.Jobs.Update(project, region, batch, &dataflow.Job{RuntimeUpdatableParams: &dataflow.RuntimeUpdatableParams{MaxNumWorkers: 9}}).UpdateMask("runtime_updatable_params.max_num_workers").Do()
	wantError(t, err, 400, "failedPrecondition", "not a streaming job")
}

func TestQuotaOfConcurrentJobs(t *testing.T) {
	for name, refuse := range map[string]bool{"a flex job over the quota fails": false, "a flex launch over the quota is refused": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, func(c *dataflowemulator.Config) { c.ConcurrentJobs, c.RefuseFlexOverQuota = 1, refuse })
			first := b.launch(endless, "one")
			_, err := b.api.Projects.Locations.Templates.Launch(project, region, &dataflow.LaunchTemplateParameters{JobName: "two", Parameters: map[string]string{"input": "gs://x"}}).GcsPath(classic).Do()
			wantError(t, err, 429, "rateLimitExceeded", "quota error")
			out, err := b.tryLaunch(&dataflow.LaunchFlexTemplateParameter{JobName: "three", ContainerSpecGcsPath: endless})
			if refuse {
				wantError(t, err, 429, "rateLimitExceeded", "quota error")
			} else if err != nil {
				t.Fatal(err)
			} else if got := b.wait(out.Job.Id); got != pb.JobState_JOB_STATE_FAILED.String() {
				t.Errorf("the job over the quota ended in %s", got)
			}
			if err := b.request(first, "JOB_STATE_CANCELLED"); err != nil {
				t.Fatal(err)
			}
			b.wait(first)
			b.until(b.launch(endless, "four"), "JOB_STATE_RUNNING")
		})
	}
}
