package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/temporal"

	"github.com/penstock/penstock/runs"
)

// run is a run that the demo expects: exactly one for each thing that it sent.
type run struct {
	pipeline string
	about    string // for people: seattle-2012
	key      string
	steps    []string

	seen     bool
	over     bool
	status   enumspb.WorkflowExecutionStatus
	outcome  runs.Outcome
	problem  string
	duration time.Duration
	jobs     map[string][]*dataflowpb.Job // by step, in the order of their names
}

func (r *run) id() string { return runs.RunID(deployment, r.pipeline, r.key) }

func (r *run) jobCount() int {
	n := 0
	for _, jobs := range r.jobs {
		n += len(jobs)
	}
	return n
}

// lookEvery is how often the runs are looked at for the display.
const lookEvery = 200 * time.Millisecond

// await shows the runs until all of them are over.
func (d *demo) await(ctx context.Context, expected ...*run) error {
	ctx, cancel := context.WithTimeout(ctx, d.o.Within)
	defer cancel()
	defer d.screen.Live()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	shown := map[string]string{}
	for {
		open := 0
		for _, r := range expected {
			if !r.over {
				if err := d.look(ctx, r); err != nil && ctx.Err() == nil {
					return err
				}
			}
			d.tell(r, shown)
			if !r.over {
				open++
			}
		}
		if open == 0 {
			return nil
		}
		d.screen.Live(d.lines(expected)...)
		select {
		case err := <-d.stack.Died():
			return fmt.Errorf("%w\nlogs are in %s", err, d.logs())
		case <-ctx.Done():
			return d.stuck(ctx, expected)
		case <-ticker.C:
		}
	}
}

// look brings what is known of a run up to date: its execution in Temporal, its
// jobs in Dataflow.
func (d *demo) look(ctx context.Context, r *run) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	description, err := d.server.DescribeWorkflowExecution(ctx, r.id(), "")
	if errors.As(err, new(*serviceerror.NotFound)) {
		return nil // its event is on its way
	}
	if err != nil {
		return fmt.Errorf("look at run %s: %w", r.id(), err)
	}
	info := description.WorkflowExecutionInfo
	r.seen, r.status = true, info.Status
	if r.jobs, err = d.jobsOf(ctx, r); err != nil {
		return err
	}
	if info.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return nil
	}
	r.over = true
	r.duration = info.CloseTime.AsTime().Sub(info.StartTime.AsTime())
	var result runs.RunResult
	if err := d.server.GetWorkflow(ctx, r.id(), "").Get(ctx, &result); err != nil {
		// A run that failed or was cancelled tells more in its error's details.
		result.Outcome, result.Error = runs.OutcomeFailed, err.Error()
		if ended := new(temporal.ApplicationError); errors.As(err, &ended) && ended.HasDetails() {
			_ = ended.Details(&result)
		}
	}
	r.outcome, r.problem = result.Outcome, gist(result.Error)
	return nil
}

// gist is the last line of an error, where Beam says what happened after where.
func gist(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := lines[len(lines)-1]; len(lines) > 1 {
		return "… " + last
	}
	return lines[0]
}

// jobsOf finds the jobs of every attempt of every step by their names.
func (d *demo) jobsOf(ctx context.Context, r *run) (map[string][]*dataflowpb.Job, error) {
	all, err := d.allJobs(ctx)
	if err != nil {
		return nil, err
	}
	jobs := map[string][]*dataflowpb.Job{}
	for _, step := range r.steps {
		prefix := strings.TrimSuffix(runs.JobName(deployment, r.pipeline, r.key, step, 1), "1")
		for _, job := range all {
			if strings.HasPrefix(job.Name, prefix) {
				jobs[step] = append(jobs[step], job)
			}
		}
		slices.SortFunc(jobs[step], func(a, b *dataflowpb.Job) int { return strings.Compare(a.Name, b.Name) })
	}
	return jobs, nil
}

// allJobs are the jobs that Dataflow was ever asked for.
func (d *demo) allJobs(ctx context.Context) ([]*dataflowpb.Job, error) {
	var all []*dataflowpb.Job
	for token := ""; ; {
		page, err := d.stack.Dataflow.ListJobs(ctx, &dataflowpb.ListJobsRequest{ProjectId: project, Location: location, PageToken: token})
		if err != nil {
			return nil, fmt.Errorf("list the Dataflow jobs: %w", err)
		}
		all = append(all, page.Jobs...)
		if token = page.NextPageToken; token == "" {
			return all, nil
		}
	}
}

// tell adds a line to the story for what is new about a run.
func (d *demo) tell(r *run, shown map[string]string) {
	for _, step := range r.steps {
		for _, job := range r.jobs[step] {
			state := stateWord(job.CurrentState)
			if d.screen.inPlace || shown[job.Id] == state || state == "starting" || state == "finishing" {
				continue // a terminal shows them in place
			}
			shown[job.Id] = state
			d.screen.Print("   %7s  %s %s: %s is %s (job %s)", d.clock(), r.pipeline, r.about, step, state, job.Name)
		}
	}
	if r.over && shown[r.id()] == "" {
		shown[r.id()] = "over"
		text := fmt.Sprintf("%s %s: %s after %s", r.pipeline, r.about, r.outcome, seconds(r.duration))
		if r.problem != "" {
			text += ": " + r.problem
		}
		color := good
		if r.outcome != runs.OutcomeSucceeded {
			color = wrong
		}
		d.screen.Print("   %7s  %s", d.clock(), d.screen.paint(color, text))
	}
}

// lines are the open runs as they stand, for a terminal.
func (d *demo) lines(expected []*run) []string {
	var lines []string
	for _, r := range expected {
		if r.over {
			continue
		}
		parts := make([]string, 0, len(r.steps))
		for _, step := range r.steps {
			word, color := "waits", faint
			if jobs := r.jobs[step]; len(jobs) > 0 {
				last := jobs[len(jobs)-1]
				word, color = stateWord(last.CurrentState), busy
				switch last.CurrentState {
				case dataflowpb.JobState_JOB_STATE_DONE:
					color = good
				case dataflowpb.JobState_JOB_STATE_FAILED, dataflowpb.JobState_JOB_STATE_CANCELLED:
					color = wrong
				}
			}
			parts = append(parts, step+" "+d.screen.paint(color, fmt.Sprintf("%-9s", word)))
		}
		about := r.about
		if !r.seen {
			about += " (event on its way)"
		}
		lines = append(lines, fmt.Sprintf("   %7s  %s %-14s %s", d.clock(), r.pipeline, about, strings.Join(parts, "  ")))
	}
	return lines
}

// stateWord says a Dataflow state in a word.
func stateWord(state dataflowpb.JobState) string {
	switch state {
	case dataflowpb.JobState_JOB_STATE_QUEUED, dataflowpb.JobState_JOB_STATE_PENDING, dataflowpb.JobState_JOB_STATE_UNKNOWN:
		return "starting"
	case dataflowpb.JobState_JOB_STATE_RESOURCE_CLEANING_UP:
		return "finishing"
	default:
		return strings.ToLower(strings.TrimPrefix(state.String(), "JOB_STATE_"))
	}
}

// clock is the time since the demo began to send.
func (d *demo) clock() string { return seconds(time.Since(d.began)) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }

// settle waits until every event is delivered or given up.
func (d *demo) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.o.Within)
	defer cancel()
	if err := d.stack.Events.Settle(ctx); err != nil {
		return errors.Join(err, d.stuck(ctx, d.files))
	}
	return nil
}

// stuck says which run waits for what, when time is up.
func (d *demo) stuck(ctx context.Context, expected []*run) error {
	var b strings.Builder
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return context.Canceled
	}
	fmt.Fprintf(&b, "the runs are not over %s after the first file", d.clock())
	// The time for this is not the demo's, which is up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, r := range expected {
		if r.over {
			continue
		}
		fmt.Fprintf(&b, "\n  %s %s: ", r.pipeline, r.about)
		if !r.seen {
			b.WriteString("no run has started; its event is still being delivered, or was not wanted")
			continue
		}
		b.WriteString(d.waitsFor(ctx, r))
	}
	if pending := d.stack.Events.Pending(); pending > 0 {
		fmt.Fprintf(&b, "\n  %d events are not delivered yet", pending)
	}
	for _, part := range []string{"functions", "worker", "dataflow", "eventarc", "temporal"} {
		if lines := lastLines(d.stack.Logs(part), 5); lines != "" {
			fmt.Fprintf(&b, "\nlast lines of the %s:%s", part, lines)
		}
	}
	fmt.Fprintf(&b, "\nall logs are in %s. A busy or slow machine needs more time: make demo ARGS=\"-within 15m\"", d.logs())
	return errors.New(b.String())
}

// waitsFor asks a run itself.
func (d *demo) waitsFor(ctx context.Context, r *run) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	answer, err := d.server.QueryWorkflow(ctx, r.id(), "", runs.QueryState)
	if err != nil {
		return fmt.Sprintf("running, but the worker does not say what it waits for: %v", err)
	}
	var state runs.RunResult
	if err := answer.Get(&state); err != nil {
		return fmt.Sprintf("running, but its state cannot be read: %v", err)
	}
	var steps []string
	for _, step := range state.Steps {
		text := step.Name + " is " + string(step.Outcome)
		if step.Waiting != "" {
			text += ", waiting for " + step.Waiting
		}
		if step.Error != "" {
			text += " (" + step.Error + ")"
		}
		if jobs := r.jobs[step.Name]; len(jobs) > 0 {
			last := jobs[len(jobs)-1]
			text += fmt.Sprintf("; its job %s is %s", last.Name, stateWord(last.CurrentState))
		}
		steps = append(steps, text)
	}
	return strings.Join(steps, "; ")
}

// lastLines are the last n lines of a log, cut to a length that can be read.
func lastLines(text string, n int) string {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return ""
	}
	lines := strings.Split(text, "\n")
	var b strings.Builder
	for _, line := range lines[max(0, len(lines)-n):] {
		if runes := []rune(line); len(runes) > 300 {
			line = string(runes[:300]) + " …"
		}
		b.WriteString("\n    " + line)
	}
	return b.String()
}
