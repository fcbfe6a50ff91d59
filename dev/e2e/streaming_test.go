package e2e_test

import (
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/runs"
)

func TestAStreamingPipeline(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "streaming")
	feed := r.job(t, "feed", 1)
	eventually(t, "the run waits for the streaming job", func() bool { return outcomeOf(r.state(t), "feed") == runs.OutcomeRunning })
	if got := outcomeOf(r.state(t), "read"); got != runs.OutcomePending {
		t.Errorf("the step that needs it is %s before it runs", got)
	}
	feed.running()
	r.job(t, "read", 1).done()
	eventually(t, "the reading step is over", func() bool { return outcomeOf(r.state(t), "read") == runs.OutcomeSucceeded })
	if got := r.state(t); got.Outcome != runs.OutcomeRunning || feed.over() {
		t.Errorf("the run does not last as long as its streaming job: %+v", got)
	}
	for id, want := range map[string]string{r.id: runs.TypeStreamingRun, r.jobWorkflow("feed", 1): runs.TypeStreamingJob, r.jobWorkflow("read", 1): runs.TypeJob} {
		d, err := shared.Client.DescribeWorkflow(t.Context(), id, "")
		if err != nil || d.WorkflowType.Name != want {
			t.Errorf("%s is of type %s (%v), want %s", id, d.WorkflowType.Name, err, want)
		}
	}

	r.cancel(t)
	res := r.result(t)
	a := attemptOf(t, res, "feed")
	if res.Outcome != runs.OutcomeCancelled || a.JobID != feed.JobID || a.State != "JOB_STATE_DRAINED" {
		t.Errorf("the run: %+v", res)
	}
	if got, want := feed.asked(), []dataflowemulator.Stop{dataflowemulator.Drain}; !slices.Equal(got, want) {
		t.Errorf("the streaming job was asked %v, want %v", got, want)
	}
	r.wantJobs(t, map[string]int{"feed": 1, "read": 1})
	keep(t, r, "streaming-drained", "feed-1")
}

// A drain has its grace, then it becomes a cancel; that has one too, then it is forced.
func TestAStreamingJobThatWillNotEnd(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "streaming")
	feed := r.job(t, "feed", 1)
	feed.ignoreStops()
	feed.running()
	r.job(t, "read", 1).done()
	r.cancel(t)
	res := r.result(t)
	if a := attemptOf(t, res, "feed"); res.Outcome != runs.OutcomeCancelled || a.JobID != feed.JobID || a.State != "JOB_STATE_CANCELLED" {
		t.Errorf("the run: %+v", res)
	}
	if got, want := feed.asked(), []dataflowemulator.Stop{dataflowemulator.Drain, dataflowemulator.Cancel, dataflowemulator.ForceCancel}; !slices.Equal(got, want) {
		t.Errorf("the job was asked %v, want %v", got, want)
	}
	r.wantJobs(t, map[string]int{"feed": 1, "read": 1})
	keep(t, r, "streaming-forced", "feed-1")
}

// Somebody updates the job: another takes its name and its place, and the same attempt
// goes on with it.
func TestAStreamingJobIsReplaced(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "streaming")
	feed := r.job(t, "feed", 1)
	feed.running()
	r.job(t, "read", 1).done()
	if _, err := shared.Dataflow.LaunchFlexTemplate(t.Context(), &dataflowpb.LaunchFlexTemplateRequest{
		ProjectId: project, Location: location,
		LaunchParameter: &dataflowpb.LaunchFlexTemplateParameter{
			JobName: feed.JobName, Update: true, Parameters: feed.Parameters,
			Template: &dataflowpb.LaunchFlexTemplateParameter_ContainerSpecGcsPath{ContainerSpecGcsPath: "gs://e2e-templates/held-streaming.json"},
		},
	}); err != nil {
		t.Fatal(err)
	}
	successor := r.Jobs.awaitNth(t, feed.JobName, 2)
	successor.running()
	if state, err := shared.Dataflow.Wait(t.Context(), feed.JobID); err != nil || state != dataflowpb.JobState_JOB_STATE_UPDATED {
		t.Fatalf("the replaced job is %v (%v)", state, err)
	}
	eventually(t, "the run goes on with the successor", func() bool {
		answer, err := shared.Client.QueryWorkflow(t.Context(), r.jobWorkflow("feed", 1), "", runs.QueryState)
		var a runs.JobResult
		return err == nil && answer.Get(&a) == nil && a.JobID == successor.JobID && a.State == "JOB_STATE_RUNNING"
	})
	r.cancel(t)
	res := r.result(t)
	a := attemptOf(t, res, "feed")
	if a.JobID != successor.JobID || a.Attempt != 1 || a.State != "JOB_STATE_DRAINED" || !strings.Contains(a.Note, feed.JobID) {
		t.Errorf("the attempt: %+v", a)
	}
	if got, want := successor.asked(), []dataflowemulator.Stop{dataflowemulator.Drain}; !slices.Equal(got, want) {
		t.Errorf("the successor was asked %v, want %v", got, want)
	}
	r.wantJobs(t, map[string]int{"feed": 2, "read": 1})
	keep(t, r, "streaming-replaced", "feed-1")
}

// A step that is declared to stream launches a batch job: its dependants would start
// at a wrong time, so the step fails, says what to change, and leaves no job.
func TestAJobOfTheOtherType(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "mistyped")
	job := r.job(t, "only", 1)
	res := r.result(t)
	a := attemptOf(t, res, "only")
	if res.Outcome != runs.OutcomeFailed || a.Refusal != "type" || !strings.Contains(a.Error, "set streaming: false") {
		t.Errorf("the run: %+v", res)
	}
	job.awaitEnd(t)
	r.wantJobs(t, map[string]int{"only": 1})
	keep(t, r, "mistyped", "only-1")
}
