package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"

	"github.com/penstock/penstock/dev/stack"
	"github.com/penstock/penstock/runs"
)

// settle waits until every run that was asked for is closed, though not for long past the bound.
func (b *Bench) settle(ctx context.Context) {
	b.Say("the story is told; waiting for the runs")
	if err := b.AwaitClosed(ctx); err != nil {
		b.Say("%v", err) // the evidence says what is open
	}
	b.Say("gathering the evidence")
}

// gatherWithin bounds the gathering of the evidence.
const gatherWithin = 2 * time.Minute

// patience is how long past the bound what does not get on is waited for. What does get
// on, if late, is waited for to its end: I4 is then broken, and the rest can be told.
const patience = 30 * time.Second

// AwaitClosed waits until the run of each event that was acknowledged is closed, and
// nothing else of Penstock's is open in Temporal; past the bound only while runs close.
func (b *Bench) AwaitClosed(ctx context.Context) error {
	b.mu.Lock()
	until := b.ended.Add(b.bound)
	b.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	most, moved := 0, time.Now()
	return b.Await(ctx, "all runs are closed", func() (bool, error) {
		if now := time.Now(); now.After(until) && now.Sub(moved) > patience {
			cancel(fmt.Errorf("no run has closed for %s, nor within the bound of %s", patience, b.bound))
		}
		n, err := b.Temporal.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: b.Addresses.Namespace, Query: "ExecutionStatus != 'Running'"})
		if err != nil {
			return false, fmt.Errorf("count what is closed: %w", err)
		}
		if closed := int(n.GetCount()); closed > most {
			most, moved = closed, time.Now()
		}
		open, err := b.list(ctx, "ExecutionStatus = 'Running'")
		if err != nil || len(open) > 0 {
			return false, err
		}
		// The list may lag: what it has not closed by now may not have begun for it.
		closed, err := b.list(ctx, "ExecutionStatus != 'Running' AND (WorkflowType = 'Run' OR WorkflowType = 'StreamingRun')")
		if err != nil {
			return false, err
		}
		have, counted := map[string]int{}, map[string]bool{}
		count := func(id, execution string) {
			if !counted[execution] {
				counted[execution] = true
				have[id]++
			}
		}
		for _, e := range closed {
			count(e.GetExecution().GetWorkflowId(), e.GetExecution().GetRunId())
		}
		b.mu.Lock()
		wants := slices.Clone(b.wants)
		for _, run := range b.kept {
			count(run.ID, run.RunID)
		}
		b.mu.Unlock()
		for _, w := range wants {
			id := runs.RunID(w.Deployment, w.Pipeline, w.Key)
			if w.Fate != Runs || have[id] >= max(w.Executions, 1) {
				continue
			}
			d, err := b.Temporal.DescribeWorkflowExecution(ctx, id, "")
			var notFound *serviceerror.NotFound
			switch {
			case errors.As(err, &notFound):
				// Objects are delivered by the stack, in its own time; what the sender delivered is there or lost.
				if !b.uploaded(w.Identity) {
					continue
				}
				return false, fmt.Errorf("run %s has not started", id)
			case err != nil:
				return false, err
			case d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
				return false, fmt.Errorf("run %s is open", id)
			case w.Executions > 1:
				return false, fmt.Errorf("%d executions of run %s are closed, want %d", have[id], id, w.Executions)
			}
		}
		return true, nil
	})
}

func (b *Bench) uploaded(identity string) bool {
	lines, _ := b.sent.all()
	return slices.ContainsFunc(lines, func(d Delivery) bool { return d.Identity == identity && d.Function == uploaded })
}

// list lists workflows of Penstock's but the sweep, which nobody waits for.
func (b *Bench) list(ctx context.Context, query string) ([]*workflowpb.WorkflowExecutionInfo, error) {
	var all []*workflowpb.WorkflowExecutionInfo
	var token []byte
	for {
		page, err := b.Temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: b.Addresses.Namespace, PageSize: 1000, NextPageToken: token, Query: query,
		})
		if err != nil {
			return nil, fmt.Errorf("list workflows where %s: %w", query, err)
		}
		for _, e := range page.GetExecutions() {
			if !strings.Contains(e.GetExecution().GetWorkflowId(), "/"+runs.SweepName+"/") {
				all = append(all, e)
			}
		}
		if token = page.GetNextPageToken(); len(token) == 0 {
			return all, nil
		}
	}
}

// Record gathers the evidence as it is now.
func (b *Bench) Record(ctx context.Context) (Record, error) {
	b.mu.Lock()
	r := Record{
		Deployment: Deployment, Wants: slices.Clone(b.wants), Foreign: slices.Clone(b.foreign), Ended: b.ended, Bound: b.bound,
	}
	kept := slices.Clone(b.kept)
	b.mu.Unlock()
	var err error
	if r.Deliveries, err = b.sent.all(); err != nil {
		return r, err
	}
	if r.Decisions, err = readDecisions(filepath.Join(b.Folder, "state", "logs")); err != nil {
		return r, err
	}
	if r.Jobs, err = b.Jobs(); err != nil {
		return r, err
	}
	r.Letters = b.letters.await(ctx, r.Decisions)
	if r.Runs, r.Open, err = b.runs(ctx, kept); err != nil {
		return r, err
	}
	return r, nil
}

// Keep remembers the runs that Temporal has now, for a scenario that has it forget them.
func (b *Bench) Keep(ctx context.Context) error {
	all, _, err := b.runs(ctx, nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = append(b.kept, all...)
	return err
}

// Jobs are the jobs in the emulator's ledger so far.
func (b *Bench) Jobs() ([]Job, error) {
	b.mu.Lock()
	ledgers := append(slices.Clone(b.forgotten), b.LaunchLedger())
	b.mu.Unlock()
	var all []Job
	for _, path := range ledgers {
		jobs, err := readLedger(path)
		if err != nil {
			return nil, err
		}
		all = append(all, jobs...)
	}
	return all, nil
}

// Decisions are those in the functions' log so far, of all instances.
func (b *Bench) Decisions() ([]Decision, error) {
	return readDecisions(filepath.Join(b.Folder, "state", "logs"))
}

// runs reads the executions of runs, and what is open.
func (b *Bench) runs(ctx context.Context, kept []Execution) (all []Execution, open []string, err error) {
	executions, err := b.list(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	have := map[string]bool{}
	for _, e := range executions {
		switch {
		case e.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
			open = append(open, e.GetExecution().GetWorkflowId())
		case e.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW:
			continue
		}
		switch e.GetType().GetName() {
		case runs.TypeRun, runs.TypeStreamingRun:
			all = append(all, Execution{
				ID: e.GetExecution().GetWorkflowId(), RunID: e.GetExecution().GetRunId(),
				Started: e.GetStartTime().AsTime(),
			})
			have[e.GetExecution().GetRunId()] = true
			if c := e.GetCloseTime(); c != nil && e.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
				all[len(all)-1].Closed = c.AsTime()
			}
		}
	}
	// Many short calls, a few at a time.
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, 8)
	)
	for i := range all {
		if all[i].Closed.IsZero() {
			continue
		}
		b.mu.Lock()
		read, ok := b.read[all[i].RunID]
		b.mu.Unlock()
		if ok { // a history that is closed stays as it is
			all[i] = read
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if e := b.readEnd(ctx, &all[i]); e != nil {
				mu.Lock()
				defer mu.Unlock()
				err = errors.Join(err, e)
				return
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			b.read[all[i].RunID] = all[i]
		})
	}
	wg.Wait()
	for _, k := range kept {
		if !have[k.RunID] {
			all = append(all, k)
		}
	}
	slices.SortStableFunc(all, func(x, y Execution) int { return x.Started.Compare(y.Started) })
	return all, open, err
}

// readEnd reads from an execution's history how it ended.
func (b *Bench) readEnd(ctx context.Context, run *Execution) error {
	it := b.Temporal.GetWorkflowHistory(ctx, run.ID, run.RunID, false, enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT)
	var last *historypb.HistoryEvent
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			return fmt.Errorf("read the history of %s: %w", run.ID, err)
		}
		last = e
	}
	run.Closed = last.GetEventTime().AsTime()
	var details *commonpb.Payloads
	switch last.GetEventType() {
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
		details = last.GetWorkflowExecutionCompletedEventAttributes().GetResult()
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
		failure := last.GetWorkflowExecutionFailedEventAttributes().GetFailure()
		details = failure.GetApplicationFailureInfo().GetDetails()
		run.Result.Error = failure.GetMessage()
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
		details = last.GetWorkflowExecutionCanceledEventAttributes().GetDetails()
	default:
		run.Outcome = Terminated
		return nil
	}
	if len(details.GetPayloads()) == 0 {
		return fmt.Errorf("run %s ended as %s without a result: %s", run.ID, last.GetEventType(), run.Result.Error)
	}
	if err := converter.GetDefaultDataConverter().FromPayloads(details, &run.Result); err != nil {
		return fmt.Errorf("read the result of %s: %w", run.ID, err)
	}
	run.Outcome = run.Result.Outcome
	return nil
}

// readLedger reads the Dataflow emulator's ledger. A last line that was cut off by a kill is no line.
func readLedger(path string) ([]Job, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the launch ledger: %w", err)
	}
	var jobs []Job
	at := map[string]int{}
	for line := range bytes.Lines(text) {
		var l struct {
			Time       time.Time         `json:"time"`
			Kind       string            `json:"kind"`
			ID         string            `json:"id"`
			Job        string            `json:"job"`
			State      string            `json:"state"`
			Replaces   string            `json:"replaces"`
			Parameters map[string]string `json:"parameters"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			if line[len(line)-1] != '\n' {
				continue
			}
			return nil, fmt.Errorf("read the launch ledger: line %q: %w", line, err)
		}
		i, ok := at[l.ID]
		switch {
		case l.Kind == "launch" && !ok:
			at[l.ID] = len(jobs)
			jobs = append(jobs, Job{Name: l.Job, ID: l.ID, Launched: l.Time, Replaces: l.Replaces, Parameters: l.Parameters})
		case l.Kind == "state" && ok:
			jobs[i].State = l.State
			if ended(l.State) {
				jobs[i].Ended = l.Time
			}
		}
	}
	return jobs, nil
}

// ended says that a job in this state is over: Dataflow's terminal states.
// https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.jobs#JobState
func ended(state string) bool {
	switch strings.TrimPrefix(state, "JOB_STATE_") {
	case "DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED":
		return true
	}
	return false
}

// readDecisions reads the logs of all instances of the functions.
func readDecisions(logs string) ([]Decision, error) {
	files, err := filepath.Glob(filepath.Join(logs, "functions*.log"))
	if err != nil {
		return nil, fmt.Errorf("find the functions' logs: %w", err)
	}
	var all []Decision
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the functions' log: %w", err)
		}
		for line := range bytes.Lines(text) {
			var d Decision
			// Other lines are the framework's, or one that a kill cut off.
			if json.Unmarshal(line, &d) == nil && d.Decision != "" {
				all = append(all, d)
			}
		}
	}
	return all, nil
}

// letterBox reads the dead-letter topic through a subscription of its own, so that the
// scenario's own reading of dead letters goes on beside it.
type letterBox struct {
	client *pubsub.Client
	stop   context.CancelFunc
	done   chan error

	mu      sync.Mutex
	letters []Letter
}

func openLetterBox(ctx context.Context, s *stack.Stack) (*letterBox, error) {
	subscription := "projects/" + Project + "/subscriptions/chaos-letters"
	if err := s.PubSub.EnsureSubscription(subscription, s.DeadLetterTopic()); err != nil {
		return nil, err
	}
	c, err := s.PubSubClient(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the dead letters: %w", err)
	}
	receiving, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &letterBox{client: c, stop: stop, done: make(chan error, 1)}
	go func() {
		l.done <- c.Subscriber(subscription).Receive(receiving, func(_ context.Context, m *pubsub.Message) {
			l.mu.Lock()
			l.letters = append(l.letters, Letter{Body: hash(m.Data), Identity: m.Attributes["penstock-identity"], Reason: m.Attributes["penstock-reason"]})
			l.mu.Unlock()
			m.Ack()
		})
	}()
	return l, nil
}

// await gives the letters once there is one of each event that the functions say, or after a while.
func (l *letterBox) await(ctx context.Context, decisions []Decision) []Letter {
	said := map[string]bool{} // identities; several letters have none
	nameless := 0
	for _, d := range decisions {
		switch {
		case d.Decision != "dead-lettered":
		case d.Identity == "":
			nameless++
		default:
			said[d.Identity] = true
		}
	}
	late := time.After(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		l.mu.Lock()
		letters := slices.Clone(l.letters)
		l.mu.Unlock()
		got, without := map[string]bool{}, 0
		for _, letter := range letters {
			if letter.Identity == "" {
				without++
			} else if said[letter.Identity] {
				got[letter.Identity] = true
			}
		}
		if len(got) == len(said) && without >= nameless {
			return letters
		}
		select {
		case <-tick.C:
		case <-late:
			return letters
		case <-ctx.Done():
			return letters
		}
	}
}

func (l *letterBox) close() error {
	l.stop()
	return errors.Join(<-l.done, l.client.Close())
}
