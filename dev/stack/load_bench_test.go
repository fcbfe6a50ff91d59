package stack_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/dev/stack"
)

// BenchmarkRuns takes 1,000 files through the whole stack, each a run with one scripted job: Temporal on a file, every part a process.
func BenchmarkRuns(b *testing.B) {
	const files, senders = 1000, 32
	dir := b.TempDir()
	for name, text := range map[string]string{
		"pipelines/copy.yaml": pipelineFile, "templates/copy.json": templateFile,
		"images.json": `{"images": {"test/copy": {"script": [{"state": "RUNNING"}, {"after": "1s", "state": "DONE"}]}}}`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	s, err := stack.Start(b.Context(), stack.Options{
		Dir: filepath.Join(dir, "state"), Pipelines: filepath.Join(dir, "pipelines"), Templates: filepath.Join(dir, "templates"), ImageMap: filepath.Join(dir, "images.json"),
		DataflowProcess: true, DataflowFlags: []string{"-concurrent_jobs=-1"}, Faults: &faults.Options{},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}()
	objects, err := s.StorageClient(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer objects.Close()
	temporal, err := s.TemporalClient(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer temporal.Close()
	count := func(query string) int {
		n, err := temporal.CountWorkflow(b.Context(), &workflowservice.CountWorkflowExecutionsRequest{Query: query})
		if err != nil {
			b.Log(err)
			return -1
		}
		return int(n.Count)
	}
	round := 0
	for b.Loop() {
		began := time.Now()
		round++
		work := make(chan int)
		var sending sync.WaitGroup
		for range senders {
			sending.Go(func() {
				for i := range work {
					w := objects.Bucket("side-landing").Object(fmt.Sprintf("in/%d-%d.csv", round, i)).NewWriter(b.Context())
					if _, err := io.WriteString(w, "a,b\n"); err != nil {
						b.Error(err)
					}
					if err := w.Close(); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for i := range files {
			work <- i
		}
		close(work)
		sending.Wait()
		sent := time.Since(began)
		if err := s.Events.Settle(b.Context()); err != nil {
			b.Fatal(err)
		}
		settled := time.Since(began)
		for count("WorkflowType = 'Run' AND ExecutionStatus = 'Completed'") < round*files {
			if time.Since(began) > 10*time.Minute {
				b.Fatalf("after %s: %d runs, %d completed", time.Since(began), count("WorkflowType = 'Run'"), count("WorkflowType = 'Run' AND ExecutionStatus = 'Completed'"))
			}
			time.Sleep(500 * time.Millisecond) // visibility offers no event to wait for
		}
		took := time.Since(began)
		b.ReportMetric(files/took.Seconds(), "runs/s")
		b.Logf("sent in %s, settled in %s, done in %s", sent.Round(time.Millisecond), settled.Round(time.Millisecond), took.Round(time.Millisecond))
		for _, name := range []string{"temporal", "functions", "worker", "dataflow"} {
			cpu, err := s.Part(name).CPU()
			if err != nil {
				b.Error(err)
			}
			rss, err := s.Part(name).RSS()
			if err != nil {
				b.Error(err)
			}
			b.Logf("%-10s %s of processor time, %d MiB", name, cpu.Round(100*time.Millisecond), rss>>20)
		}
	}
}
