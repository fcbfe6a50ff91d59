package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/storage"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/penstock/penstock/runs"
)

// check is one thing that must be true at the end.
type check struct {
	what  string
	wrong string // what is the case instead; empty: it is true
}

func (d *demo) runs() []*run { return append(slices.Clip(d.files), d.report) }

// showRuns prints the table of runs.
func (d *demo) showRuns() error {
	dropped, err := d.droppedByRun()
	if err != nil {
		return err
	}
	d.chapter("The runs")
	rows := [][]string{{"PIPELINE", "KEY", "OUTCOME", "JOBS", "DURATION", "DUPLICATES DROPPED"}}
	for _, r := range d.runs() {
		rows = append(rows, []string{r.pipeline, r.key, string(r.outcome), strconv.Itoa(r.jobCount()), seconds(r.duration), strconv.Itoa(dropped[r.id()])})
	}
	d.screen.table(rows)
	return nil
}

// droppedByRun counts what the functions' log says of duplicates: one structured
// line a decision.
func (d *demo) droppedByRun() (map[string]int, error) {
	dropped := map[string]int{}
	lines := bufio.NewScanner(strings.NewReader(d.stack.Logs("functions")))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Decision string `json:"decision"`
			RunID    string `json:"runId"`
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Decision == "duplicate" {
			dropped[line.RunID]++
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the functions' log: %w", err)
	}
	return dropped, nil
}

// showResults prints a few lines of what the pipelines wrote.
func (d *demo) showResults(ctx context.Context) error {
	for _, show := range []struct {
		bucket, object string
		lines          int
	}{
		{summaries, "seattle/" + spoiledYear + ".csv", 5},
		{rejects, "seattle/" + spoiledYear + ".csv", 4},
		{reports, "seattle/" + reportYear + ".md", 5},
	} {
		text, err := d.object(ctx, show.bucket, show.object)
		if err != nil {
			d.chapter("There is nothing to show: %v", err)
			continue // the checks say so too
		}
		all := strings.Split(strings.TrimRight(text, "\n"), "\n")
		some := all[:min(show.lines, len(all))]
		d.chapter("From gs://%s/%s", show.bucket, show.object)
		for _, line := range some {
			d.screen.Print("%s", strings.TrimRight("   "+line, " "))
		}
		if more := len(all) - len(some); more > 0 {
			d.screen.Print("   %s", d.screen.paint(faint, fmt.Sprintf("(%d more lines)", more)))
		}
	}
	return nil
}

func (d *demo) object(ctx context.Context, bucket, name string) (string, error) {
	r, err := d.objects.Bucket(bucket).Object(name).NewReader(ctx)
	if errors.Is(err, storage.ErrObjectNotExist) {
		return "", fmt.Errorf("gs://%s/%s does not exist", bucket, name)
	}
	if err != nil {
		return "", fmt.Errorf("read gs://%s/%s: %w", bucket, name, err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		return "", fmt.Errorf("read gs://%s/%s: %w", bucket, name, err)
	}
	return string(text), nil
}

// check looks whether what the demo is there to show is so.
func (d *demo) check(ctx context.Context) error {
	for _, c := range []struct {
		what string
		is   func(context.Context) error
	}{
		{fmt.Sprintf("%d files and a message gave %d runs, and all succeeded", len(d.files), len(d.runs())), d.checkOutcomes},
		{"Temporal has one execution for each run, and no other run", d.checkExecutions},
		{"Dataflow was asked for one job for each step, and all are done", d.checkJobs},
		{thrice + " came three times and ran once: 2 duplicates dropped", d.checkDuplicates},
		{"the broken event, alone, is in the dead-letter topic with its reason", d.checkDeadLetter},
		{fmt.Sprintf("all %d observed rows are in the clean files, unchanged", d.observed()), d.checkClean},
		{fmt.Sprintf("the %d spoiled rows were diverted, each with its reason", d.spoiled()), d.checkRejects},
		{"the monthly figures are those of a calculation without Beam", d.checkFigures},
		{"the figures of " + spoiledYear + " are those on record in the repository", d.checkRecord},
		{"the report of " + reportYear + " is there and has the year's rain right", d.checkReport},
	} {
		result := check{what: c.what}
		if err := c.is(ctx); err != nil {
			result.wrong = err.Error()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.checks = append(d.checks, result)
	}
	return nil
}

// verdict prints the checks and says whether one failed.
func (d *demo) verdict(took time.Duration) error {
	d.chapter("Checks")
	failed := 0
	for _, c := range d.checks {
		d.screen.Print("   %s %s", d.screen.mark(c.wrong == ""), c.what)
		if c.wrong != "" {
			failed++
			d.screen.Print("     %s", d.screen.paint(wrong, strings.ReplaceAll(c.wrong, "\n", "\n     ")))
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed; logs are in %s", failed, len(d.checks), d.logs())
	}
	d.screen.Print("\n%s", d.screen.paint(good, fmt.Sprintf("All %d checks passed, %s after the start.", len(d.checks), took.Round(time.Second))))
	return nil
}

func (d *demo) observed() int {
	n := 0
	for _, y := range d.years {
		n += y.rows()
	}
	return n
}

func (d *demo) spoiled() int {
	n := 0
	for _, y := range d.years {
		n += y.bad
	}
	return n
}

func (d *demo) checkOutcomes(context.Context) error {
	var errs []error
	for _, r := range d.runs() {
		if r.outcome != runs.OutcomeSucceeded {
			errs = append(errs, fmt.Errorf("%s %s %s: %s", r.pipeline, r.about, r.outcome, r.problem))
		}
	}
	return errors.Join(errs...)
}

// visibleWithin is how long Temporal's list may lag behind its runs.
const visibleWithin = 30 * time.Second

func (d *demo) checkExecutions(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, visibleWithin)
	defer cancel()
	jobs := 0
	for _, r := range d.runs() {
		jobs += len(r.steps)
	}
	for {
		count, open, err := d.executions(ctx)
		if err != nil {
			return err
		}
		total := 0
		var errs []error
		for _, r := range d.runs() {
			if n := count[r.id()]; n != 1 {
				errs = append(errs, fmt.Errorf("%s %s has %d executions", r.pipeline, r.about, n))
			}
		}
		for _, n := range count {
			total += n
		}
		if want := len(d.runs()) + jobs; total != want {
			errs = append(errs, fmt.Errorf("there are %d executions, runs and their jobs together; want %d", total, want))
		}
		if open > 0 {
			errs = append(errs, fmt.Errorf("%d executions are still open", open))
		}
		if len(errs) == 0 {
			return nil
		}
		select { // the list lags and offers no event to wait for
		case <-ctx.Done():
			return errors.Join(errs...)
		case <-time.After(lookEvery):
		}
	}
}

// executions counts all executions that there ever were, by workflow ID.
func (d *demo) executions(ctx context.Context) (count map[string]int, open int, err error) {
	count = map[string]int{}
	for token := []byte(nil); ; {
		page, err := d.server.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query:         fmt.Sprintf("WorkflowType IN (%q, %q, %q, %q)", runs.TypeRun, runs.TypeStreamingRun, runs.TypeJob, runs.TypeStreamingJob),
			NextPageToken: token,
		})
		if err != nil {
			return nil, 0, fmt.Errorf("list the executions: %w", err)
		}
		for _, execution := range page.Executions {
			count[execution.Execution.WorkflowId]++
			if execution.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
				open++
			}
		}
		if token = page.NextPageToken; len(token) == 0 {
			return count, open, nil
		}
	}
}

func (d *demo) checkJobs(ctx context.Context) error {
	all, err := d.allJobs(ctx)
	if err != nil {
		return err
	}
	byName := map[string][]*dataflowpb.Job{}
	for _, job := range all {
		byName[job.Name] = append(byName[job.Name], job)
	}
	var errs []error
	steps := 0
	for _, r := range d.runs() {
		for _, step := range r.steps {
			steps++
			name := runs.JobName(deployment, r.pipeline, r.key, step, 1)
			switch jobs := byName[name]; {
			case len(jobs) != 1:
				errs = append(errs, fmt.Errorf("%s %s, step %s: %d jobs are called %s", r.pipeline, r.about, step, len(jobs), name))
			case jobs[0].CurrentState != dataflowpb.JobState_JOB_STATE_DONE:
				errs = append(errs, fmt.Errorf("%s %s, step %s: its job is %s", r.pipeline, r.about, step, stateWord(jobs[0].CurrentState)))
			}
		}
	}
	if len(all) != steps {
		errs = append(errs, fmt.Errorf("there are %d jobs for %d steps", len(all), steps))
	}
	return errors.Join(errs...)
}

func (d *demo) checkDuplicates(context.Context) error {
	var id string
	for _, r := range d.files {
		if r.about+".csv" == thrice {
			id = r.id()
		}
	}
	var errs []error
	for _, a := range d.answers {
		if !a.is(http.StatusOK, "duplicate", id) {
			errs = append(errs, fmt.Errorf("a repeated delivery was %s", a))
		}
	}
	dropped, err := d.droppedByRun()
	if err != nil {
		return err
	}
	for _, r := range d.runs() {
		want := 0
		if r.id() == id {
			want = len(d.answers)
		}
		// Delivery is at least once: the stack itself may have repeated one.
		if got := dropped[r.id()]; got < want {
			errs = append(errs, fmt.Errorf("%s %s: the log tells of %d duplicates, want %d", r.pipeline, r.about, got, want))
		}
	}
	return errors.Join(errs...)
}

func (d *demo) checkDeadLetter(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for len(d.deadLetters()) == 0 {
		select { // the subscriber hands letters to another goroutine
		case <-ctx.Done():
			return errors.New("the dead-letter topic is empty")
		case <-time.After(lookEvery):
		}
	}
	letters := d.deadLetters()
	var errs []error
	if len(letters) != 1 {
		errs = append(errs, fmt.Errorf("the dead-letter topic has %d messages: %s", len(letters), reasons(letters)))
	}
	letter := letters[0]
	if string(letter.Data) != broken || letter.Attributes["ce-id"] != brokenID {
		errs = append(errs, fmt.Errorf("the dead letter is %q with attributes %v, not the broken event", letter.Data, letter.Attributes))
	}
	if letter.Attributes["penstock-reason"] == "" {
		errs = append(errs, errors.New("the dead letter has no reason"))
	}
	return errors.Join(errs...)
}

func reasons(letters []*pubsub.Message) string {
	var all []string
	for _, letter := range letters {
		all = append(all, letter.Attributes["penstock-reason"])
	}
	return strings.Join(all, "; ")
}

func (d *demo) checkClean(ctx context.Context) error {
	return d.eachYear(func(y year) error {
		got, err := d.object(ctx, clean, "seattle/"+y.year+".csv")
		if err != nil {
			return err
		}
		var want strings.Builder
		for i, line := range strings.SplitAfter(strings.TrimSuffix(y.source, "\n"), "\n") {
			if i == 0 {
				want.WriteString("station," + line)
			} else {
				want.WriteString("seattle," + line)
			}
		}
		return same(got, want.String()+"\n")
	})
}

func (d *demo) checkRejects(ctx context.Context) error {
	return d.eachYear(func(y year) error {
		got, err := d.object(ctx, rejects, "seattle/"+y.year+".csv")
		if err != nil {
			return err
		}
		if n := strings.Count(got, "\n") - 1; n != y.bad {
			return fmt.Errorf("%d rows are diverted, want %d", n, y.bad)
		}
		for line := range strings.Lines(y.spoiled) {
			row := strings.TrimSuffix(line, "\n")
			if !strings.HasPrefix(row, "#") && !strings.Contains(got, `"`+row+`"`) {
				return fmt.Errorf("the row %q is not among those diverted", row)
			}
		}
		return nil
	})
}

func (d *demo) checkFigures(ctx context.Context) error {
	return d.eachYear(func(y year) error {
		got, err := d.object(ctx, summaries, "seattle/"+y.year+".csv")
		if err != nil {
			return err
		}
		return same(got, y.figures)
	})
}

func (d *demo) checkRecord(ctx context.Context) error {
	want, err := os.ReadFile(filepath.Join(d.root, "examples", "pipelines", "weather", "testdata", "seattle-"+spoiledYear+"-summary.csv"))
	if err != nil {
		return fmt.Errorf("read the figures on record: %w", err)
	}
	got, err := d.object(ctx, summaries, "seattle/"+spoiledYear+".csv")
	if err != nil {
		return err
	}
	return same(got, string(want))
}

func (d *demo) checkReport(ctx context.Context) error {
	got, err := d.object(ctx, reports, "seattle/"+reportYear+".md")
	if err != nil {
		return err
	}
	for _, y := range d.years {
		if want := fmt.Sprintf("%.1f mm", y.rain); y.year == reportYear && !strings.Contains(got, want) {
			return fmt.Errorf("it does not say %q:\n%s", want, got)
		}
	}
	return nil
}

func (d *demo) eachYear(is func(year) error) error {
	var errs []error
	for _, y := range d.years {
		if err := is(y); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", y.year, err))
		}
	}
	return errors.Join(errs...)
}

// same compares line by line and names the first that differs.
func same(got, want string) error {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Errorf("line %d is %q, want %q", i+1, g[i], w[i])
		}
	}
	if len(g) != len(w) {
		return fmt.Errorf("%d lines, want %d", len(g)-1, len(w)-1)
	}
	return nil
}
