package chaos

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/workflowservice/v1"

	"github.com/penstock/penstock/runs"
)

// otherHash is a hash of a template and parameters that is no run's.
const otherHash = "0123456789abcdef"

func changedSpec() Scenario {
	return Scenario{
		Name:  "changed-spec",
		What:  "jobs lie under the names that runs are to use: active or over with our label and other contents, or with another's label. Each run fails and says why; no job of theirs is touched, and none is launched",
		Short: true,
		Bound: time.Minute,
		Setup: Setup{
			Pipelines: files(pipelineOf("active", "quick"), pipelineOf("over", "quick"), pipelineOf("foreign", "quick")),
			Images:    map[string]string{"while": `{"script": [{"state": "RUNNING"}, {"after": "8s", "state": "DONE"}]}`},
		},
		Run: func(ctx context.Context, b *Bench) error {
			n := b.N(24) / 3
			active, over, foreign := b.Objects("active", n), b.Objects("over", n), b.Objects("foreign", n)
			all := withJobs(outcome(slices.Concat(active, over, foreign), runs.OutcomeFailed), only, 0)
			d, err := b.Temporal.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: b.Addresses.Namespace})
			if err != nil {
				return fmt.Errorf("ask for the namespace's ID: %w", err)
			}
			label := runs.DeploymentLabel(Deployment, d.GetNamespaceInfo().GetId())
			launch := func(events []Event, image, label string) error {
				return each(events, func(e Event) error {
					b.Foreign(e.JobName(only, 1))
					return b.Launch(ctx, e.JobName(only, 1), image, map[string]string{runs.LabelDeployment: label, runs.LabelSpec: otherHash})
				})
			}
			return inTurn(
				func() error { return launch(over, "quick", label) },
				func() error {
					return b.Await(ctx, "the jobs that are to be over are", func() (bool, error) {
						jobs, err := b.Jobs()
						return len(jobs) == n && !slices.ContainsFunc(jobs, func(j Job) bool { return j.Ended.IsZero() }), err
					})
				},
				func() error { return launch(active, "while", label) },
				func() error { return launch(foreign, "while", "somebody-else") },
				func() error { return b.Deliver(ctx, Load{Events: all}) },
				func() error { return b.saysWhy(ctx, n) },
			)
		},
	}
}

// saysWhy finds runs whose error does not say what they met, and jobs that were stopped.
func (b *Bench) saysWhy(ctx context.Context, each int) error {
	r, err := b.closedRecord(ctx)
	if err != nil {
		return err
	}
	for _, run := range r.Runs {
		if len(run.Result.Steps) != 1 || len(run.Result.Steps[0].Attempts) != 1 {
			b.Fail("run %s has no attempt that says why: %+v", run.ID, run.Result)
			continue
		}
		a := run.Result.Steps[0].Attempts[0]
		foreign := strings.HasPrefix(run.ID, Deployment+"/foreign/")
		says, refusal := []string{otherHash, "hash"}, "mismatch"
		if foreign {
			says, refusal = []string{"somebody-else", runs.LabelDeployment}, "foreign"
		}
		if a.Refusal != refusal || !strings.Contains(a.Error, says[0]) || !strings.Contains(a.Error, says[1]) {
			b.Fail("run %s was refused as %q, want %q, and says %q, want it to name %q", run.ID, a.Refusal, refusal, a.Error, says)
		}
		// Both hashes stand in the error: ours is no other's.
		if _, ours, _ := strings.Cut(a.Error, "this attempt's to "); !foreign && (ours == "" || strings.HasPrefix(ours, otherHash)) {
			b.Fail("run %s does not say what its own contents hash to: %q", run.ID, a.Error)
		}
	}
	if len(r.Jobs) != 3*each {
		b.Fail("there are %d jobs, want the %d that were there", len(r.Jobs), 3*each)
	}
	for _, j := range r.Jobs {
		if j.State == "JOB_STATE_CANCELLED" || j.State == "JOB_STATE_CANCELLING" {
			b.Fail("job %s (%s), which is not the run's, was cancelled", j.Name, j.ID)
		}
	}
	return nil
}

// Launch launches a job as anybody with access to the project could.
func (b *Bench) Launch(ctx context.Context, name, image string, labels map[string]string) error {
	body := encode(map[string]any{"launchParameter": map[string]any{
		"jobName": name, "containerSpecGcsPath": "gs://chaos-templates/" + image + ".json",
		"parameters": map[string]string{"step": "foreign"}, "environment": map[string]any{"additionalUserLabels": labels},
	}})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost,
		fmt.Sprintf("%sv1b3/projects/%s/locations/%s/flexTemplates:launch", b.Addresses.Dataflow, Project, Location), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("launch %s: %w", name, err)
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("launch %s: %w", name, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("launch %s: %s", name, response.Status)
	}
	return nil
}
