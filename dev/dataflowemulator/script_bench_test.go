package dataflowemulator_test

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"

	"github.com/penstock/penstock/dev/dataflowemulator"
)

// BenchmarkScriptedJobs launches 5,000 jobs that all run at once, looks each up by its name as a worker does before a launch, and ends them together.
func BenchmarkScriptedJobs(b *testing.B) {
	const jobs = 5_000
	for _, ledger := range []bool{false, true} {
		b.Run(fmt.Sprintf("ledger=%v", ledger), func(b *testing.B) {
			for b.Loop() {
				events := make(chan struct{}, 10*jobs)
				config := dataflowemulator.Config{
					ConcurrentJobs: -1,
					Images:         map[string]dataflowemulator.Program{"scripted": dataflowemulator.Script{}},
					Sink: dataflowemulator.SinkFunc(func(context.Context, dataflowemulator.StatusEvent) error {
						events <- struct{}{}
						return nil
					}),
				}
				if ledger {
					config.Ledger = filepath.Join(b.TempDir(), "ledger")
				}
				var before, running runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				began := time.Now()
				e, err := dataflowemulator.New(config)
				if err != nil {
					b.Fatal(err)
				}
				ids := make([]string, jobs)
				for i := range ids {
					name := fmt.Sprint("job-", i)
					found, err := e.ListJobs(b.Context(), &pb.ListJobsRequest{ProjectId: "p", Location: "us-central1", Name: &name})
					if err != nil || len(found.Jobs) != 0 {
						b.Fatalf("look up %s: %v, %v", name, found, err)
					}
					out, err := e.LaunchFlexTemplate(b.Context(), &pb.LaunchFlexTemplateRequest{ProjectId: "p", Location: "us-central1", LaunchParameter: &pb.LaunchFlexTemplateParameter{
						JobName: name, Template: &pb.LaunchFlexTemplateParameter_ContainerSpec{ContainerSpec: &pb.ContainerSpec{Image: "scripted"}},
						Parameters: map[string]string{"input": "gs://bucket/" + name + ".csv"},
					}})
					if err != nil {
						b.Fatal(err)
					}
					ids[i] = out.Job.Id
				}
				launched := time.Since(began)
				for range 2 * jobs { // QUEUED and RUNNING
					<-events
				}
				runtime.GC()
				runtime.ReadMemStats(&running)
				for _, id := range ids {
					if _, err := e.UpdateJob(b.Context(), &pb.UpdateJobRequest{ProjectId: "p", Location: "us-central1", JobId: id, Job: &pb.Job{RequestedState: pb.JobState_JOB_STATE_CANCELLED}}); err != nil {
						b.Fatal(err)
					}
				}
				for _, id := range ids {
					if state, err := e.Wait(b.Context(), id); err != nil || state != pb.JobState_JOB_STATE_CANCELLED {
						b.Fatalf("job %s: %s, %v", id, state, err)
					}
				}
				b.ReportMetric(launched.Seconds()/jobs*1e6, "µs/launch")
				b.ReportMetric(time.Since(began).Seconds(), "s/5000-jobs")
				b.ReportMetric(float64(running.HeapAlloc+running.StackInuse-before.HeapAlloc-before.StackInuse)/jobs/1024, "KiB/job")
				if err := e.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
