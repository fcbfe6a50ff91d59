package service

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

func TestFilterInTheLanguageOfVisibility(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.FixedZone("", 3600))
	for name, row := range map[string]struct {
		filter Filter
		want   string
	}{
		"all":                   {Filter{}, `WorkflowId STARTS_WITH 'prod/' AND ExecutionStatus != 'ContinuedAsNew'`},
		"one pipeline's":        {Filter{Pipeline: "orders"}, `WorkflowId STARTS_WITH 'prod/orders/' AND ExecutionStatus != 'ContinuedAsNew'`},
		"by two outcomes":       {Filter{Outcomes: []runs.Outcome{runs.OutcomeFailed, Terminated}}, `WorkflowId STARTS_WITH 'prod/' AND (ExecutionStatus = 'Failed' OR ExecutionStatus = 'Terminated')`},
		"that launched nothing": {Filter{Outcomes: []runs.Outcome{runs.OutcomeDuplicate, runs.OutcomeKeyTaken, runs.OutcomeSucceeded}}, `WorkflowId STARTS_WITH 'prod/' AND (ExecutionStatus = 'Completed')`},
		"by time":               {Filter{Since: noon, Until: noon.Add(time.Hour), Outcomes: []runs.Outcome{runs.OutcomeRunning}}, `WorkflowId STARTS_WITH 'prod/' AND (ExecutionStatus = 'Running') AND StartTime >= '2026-11-22T11:00:00Z' AND StartTime < '2026-11-22T12:00:00Z'`},
	} {
		t.Run(name, func(t *testing.T) {
			if err := row.filter.Check(); err != nil {
				t.Fatal(err)
			}
			if got := row.filter.query("prod"); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

func TestFilterThatMakesNoSense(t *testing.T) {
	now := time.Now()
	for want, f := range map[string]Filter{
		"is no pipeline's name":     {Pipeline: "x' OR WorkflowId != '"},
		"is no outcome of a run":    {Outcomes: []runs.Outcome{runs.OutcomePending}},
		"no run begins both since":  {Since: now, Until: now},
		"the limit is negative":     {Limit: -1},
		`"Orders" is no pipeline's`: {Pipeline: "Orders"},
	} {
		if err := f.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check(%+v) = %v, want %q in it", f, err, want)
		}
	}
}

// What a user types is a literal, whatever is in it.
func TestQuoted(t *testing.T) {
	if got, want := quoted(`a'b\' OR 'x`), `'a\'b\\\' OR \'x'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func memo(t *testing.T, fields map[string]any) *commonpb.Memo {
	t.Helper()
	m := &commonpb.Memo{Fields: map[string]*commonpb.Payload{}}
	for k, v := range fields {
		p, err := converter.GetDefaultDataConverter().ToPayload(v)
		if err != nil {
			t.Fatal(err)
		}
		m.Fields[k] = p
	}
	return m
}

func TestRunOfWhatTemporalTells(t *testing.T) {
	s := &Service{deployment: "prod", converter: converter.GetDefaultDataConverter()}
	info := func(id, kind string, status enumspb.WorkflowExecutionStatus) *workflowpb.WorkflowExecutionInfo {
		return &workflowpb.WorkflowExecutionInfo{
			Execution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: "e"}, Type: &commonpb.WorkflowType{Name: kind}, Status: status,
			StartTime: timestamppb.New(time.Unix(10, 0)), CloseTime: timestamppb.New(time.Unix(15, 0)),
		}
	}
	t.Run("a hashed key is the memo's", func(t *testing.T) {
		of := info(runs.RunID("prod", "orders", "ключ"), runs.TypeRun, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
		of.Memo = memo(t, map[string]any{runs.MemoKey: "ключ", runs.MemoOwner: "sue", runs.MemoConfig: pipeline.Version{Hash: "abc"}})
		r, ok := s.run(of)
		if !ok || r.Key != "ключ" || r.Owner != "sue" || r.Config.Hash != "abc" || r.Outcome != runs.OutcomeSucceeded || r.Duration(time.Now()) != 5*time.Second || r.Workflow != "" {
			t.Errorf("got %+v (%v)", r, ok)
		}
	})
	t.Run("without a memo the ID tells the key", func(t *testing.T) {
		r, ok := s.run(info("prod/orders/eu", "Mine", enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT))
		if !ok || r.Pipeline != "orders" || r.Key != "eu" || r.Outcome != runs.OutcomeTimedOut || r.Workflow != "Mine" {
			t.Errorf("got %+v (%v)", r, ok)
		}
	})
	t.Run("a duplicate is completed, and launched nothing", func(t *testing.T) {
		for outcome, want := range map[runs.Outcome]runs.Outcome{
			runs.OutcomeDuplicate: runs.OutcomeDuplicate, runs.OutcomeKeyTaken: runs.OutcomeKeyTaken, runs.OutcomeSucceeded: runs.OutcomeSucceeded, runs.OutcomeRunning: runs.OutcomeSucceeded,
		} {
			of := info("prod/orders/eu", runs.TypeRun, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
			of.SearchAttributes = &commonpb.SearchAttributes{IndexedFields: memo(t, map[string]any{runs.AttrOutcome.GetName(): outcome}).Fields}
			if r, ok := s.run(of); !ok || r.Outcome != want {
				t.Errorf("with the search attribute %s it is %s", outcome, r.Outcome)
			}
			of.Status = enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED // and left what it had said
			if r, ok := s.run(of); !ok || r.Outcome != Terminated {
				t.Errorf("terminated with the search attribute %s it is %s", outcome, r.Outcome)
			}
		}
	})
	t.Run("an open run has no end", func(t *testing.T) {
		of := info("prod/orders/eu", runs.TypeStreamingRun, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING)
		of.CloseTime = nil
		r, ok := s.run(of)
		if !ok || r.Outcome != runs.OutcomeRunning || !r.Ended.IsZero() || r.Duration(time.Unix(12, 0)) != 2*time.Second {
			t.Errorf("got %+v (%v)", r, ok)
		}
	})
	for _, id := range []string{"prod/sweep/p/l", "other/orders/eu", "dataflow/p/l/j", "prod"} {
		if r, ok := s.run(info(id, runs.TypeRun, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING)); ok {
			t.Errorf("%s was taken for the run %+v", id, r)
		}
	}
}

// A user names a run by its ID, with or without the deployment, or by pipeline and key.
func TestCandidates(t *testing.T) {
	s := &Service{deployment: "prod"}
	hashed := runs.RunID("prod", "orders", "ключ")
	for ref, want := range map[string][]string{
		"prod/orders/eu":                    {"prod/orders/eu", "prod/prod/orders/eu"}, // the other is of a pipeline called prod
		"orders/eu":                         {"prod/orders/eu"},
		"orders/ключ":                       {hashed},
		strings.TrimPrefix(hashed, "prod/"): {hashed, runs.RunID("prod", "orders", strings.TrimPrefix(hashed, "prod/orders/"))},
		"test/orders/eu":                    {"prod/test/orders/eu"},
		"orders":                            nil,
		"orders/":                           nil,
		"sweep/p":                           nil,
	} {
		if got := s.candidates(ref); !slices.Equal(got, want) {
			t.Errorf("candidates(%q) = %q, want %q", ref, got, want)
		}
	}
}

// Retrying or cancelling what only begins as the run that was named would be another run's harm.
func TestAWholeNameMeansNoOtherRun(t *testing.T) {
	b := newReconcileBench(t)
	b.start("orders", "b/a.csv.gz", "e", time.Hour)
	b.start("orders", "b/c.csv", "e", time.Hour)
	b.start("orders", "b/c.csv.gz", "e", time.Hour)
	const longer = "dev/orders/b/a.csv.gz"
	archived := archive(t, "b/a.csv").ledger
	for name, c := range map[string]struct {
		ref     string
		ledger  *ledger.Ledger
		read    string // what describe takes it for; "ledger": the record of the one that is forgotten
		changed string // what retry and cancel do; empty: they name the longer one
	}{
		"a run that is there":                      {"orders/b/c.csv", nil, "dev/orders/b/c.csv", "dev/orders/b/c.csv"},
		"a forgotten run that the ledger knows":    {"orders/b/a.csv", archived, "ledger", "ledger"},
		"its run ID":                               {"dev/orders/b/a.csv", archived, "ledger", "ledger"},
		"a forgotten run that the ledger does not": {"orders/b/a.c", archived, longer, ""},
		"a forgotten run, and no ledger":           {"orders/b/a.csv", nil, longer, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b.ledger = c.ledger
			check := func(what, want, id string, d *Description, err error) {
				t.Helper()
				switch {
				case want == "ledger":
					if err != nil || d == nil || d.RunID != "dev/orders/b/a.csv" || d.Source != SourceLedger {
						t.Errorf("to %s it is %q, %+v (%v), want the ledger's record", what, id, d, err)
					}
				case want == "":
					if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), longer) || id != "" {
						t.Errorf("to %s it is %q (%v), want an error that names %s", what, id, err, longer)
					}
				case err != nil || d != nil || id != want:
					t.Errorf("to %s it is %q, %+v (%v), want %s", what, id, d, err, want)
				}
			}
			id, d, err := b.find(t.Context(), c.ref)
			check("describe", c.read, id, d, err)
			id, d, err = b.findToChange(t.Context(), c.ref)
			check("change", c.changed, id, d, err)
			if c.changed == "" {
				if _, err := b.Cancel(t.Context(), c.ref, ""); !errors.Is(err, ErrNotFound) {
					t.Errorf("cancel says %v", err)
				}
				if _, err := b.Retry(t.Context(), c.ref, RetryRequest{SameConfig: true}); !errors.Is(err, ErrNotFound) {
					t.Errorf("retry says %v", err)
				}
			}
		})
	}
	b.start("returns", "only", "e", time.Hour)
	for _, ref := range []string{"ret", "returns", "returns/"} { // no key can be in these
		if id, _, err := b.findToChange(t.Context(), ref); err != nil || id != "dev/returns/only" {
			t.Errorf("%s is %q (%v), want the one run that begins so", ref, id, err)
		}
	}
}

func TestLinks(t *testing.T) {
	job := runs.JobResult{Project: "acme.com:prod", Location: "us-central1", JobID: "2026-11-22_1"}
	s := &Service{namespace: "ns", ui: "http://ui/"}
	for what, row := range map[string]struct{ got, want string }{
		"a run":                       {s.link("prod/orders/a b#1", "e"), "http://ui/namespaces/ns/workflows/prod%2Forders%2Fa%20b%231/e/history"},
		"a run where there is no UI":  {(&Service{}).link("x", "e"), ""},
		"a job":                       {s.console(job), "https://console.cloud.google.com/dataflow/jobs/us-central1/2026-11-22_1?project=acme.com%3Aprod"},
		"a job that nobody saw":       {s.console(runs.JobResult{}), ""},
		"a job of the local emulator": {(&Service{dataflow: "http://127.0.0.1:1/"}).console(job), "http://127.0.0.1:1/v1b3/projects/acme.com:prod/locations/us-central1/jobs/2026-11-22_1"},
	} {
		if row.got != row.want {
			t.Errorf("the link of %s is %q, want %q", what, row.got, row.want)
		}
	}
}

func TestRunsAreListedByHowTheyEnded(t *testing.T) {
	b := newReconcileBench(t)
	for i, outcome := range []runs.Outcome{runs.OutcomeSucceeded, runs.OutcomeDuplicate, runs.OutcomeSucceeded, runs.OutcomeKeyTaken, runs.OutcomeDuplicate} {
		key := string(rune('a' + i))
		b.start("orders", key, key, time.Hour)
		b.w.byID["dev/orders/"+key].SearchAttributes = &commonpb.SearchAttributes{IndexedFields: memo(t, map[string]any{runs.AttrOutcome.GetName(): outcome}).Fields}
	}
	for name, c := range map[string]struct {
		filter Filter
		want   string
		more   bool
	}{
		"all":                     {Filter{}, "a b c d e", false},
		"those that succeeded":    {Filter{Outcomes: []runs.Outcome{runs.OutcomeSucceeded}}, "a c", false},
		"those that did nothing":  {Filter{Outcomes: []runs.Outcome{runs.OutcomeDuplicate, runs.OutcomeKeyTaken}}, "b d e", false},
		"so many, and there more": {Filter{Outcomes: []runs.Outcome{runs.OutcomeDuplicate}, Limit: 1}, "b", true},
		"so many, and no more":    {Filter{Outcomes: []runs.Outcome{runs.OutcomeDuplicate}, Limit: 2}, "b e", false},
	} {
		t.Run(name, func(t *testing.T) {
			listing, err := b.List(t.Context(), c.filter)
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, r := range listing.Runs {
				keys = append(keys, r.Key)
			}
			if got := strings.Join(keys, " "); got != c.want || listing.More != c.more {
				t.Errorf("listed %q (more: %v), want %q", got, listing.More, c.want)
			}
		})
	}
}
