package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/deadletters"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/service"
)

func (a *app) reconcileCommand() *cobra.Command {
	q := service.ReconcileRequest{}
	var from, to, folder, decisions string
	var all bool
	cmd := &cobra.Command{
		Use:   "reconcile PIPELINE",
		Short: "Find objects that no run was started for, and start them",
		Long: `List the objects, with their generations, that the storage triggers of a pipeline cover and
that were created in a window, and say of each what came of it: ran, running, skipped,
dead-lettered, duplicate, key-taken, signalled, missed or unknown. Runs of the pipeline
that no such object explains are extra.

It compares with Temporal, with the ledger (PENSTOCK_LEDGER), with the dead letters that
wait (PENSTOCK_DEAD_LETTER_SUBSCRIPTION) and with what the functions logged (--decisions).
Nothing is changed without --start-missing, which delivers the events of missed objects to
the functions at PENSTOCK_FUNCTIONS_URL. What ran does not run again, so it can be repeated.

Where nothing is missed or unknown the exit code is 0, else 4. An event may take some
minutes: end the window before.

A time is 2026-11-22, 2026-11-22T15:04:05Z, or an age such as 90m, 36h or 7d.`,
		Example: "  penstock reconcile orders --from 36h --to 10m\n  penstock reconcile orders --from 36h --to 10m --start-missing",
		Args:    cobra.ExactArgs(1),
	}
	deployment := a.flagDeployment(cmd)
	subscription := a.flagSubscription(cmd)
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "objects created then or later; needed")
	flags.StringVar(&to, "to", "", "objects created before then (default now)")
	flags.BoolVar(&q.StartMissing, "start-missing", false, "deliver the events of missed objects to the functions")
	flags.StringVar(&decisions, "decisions", "", "file with the functions' log, one JSON object a line, or what gcloud logging read --format=json prints; - for standard input")
	flags.StringVar(&folder, "pipelines", "", "folder of pipelines files that the functions have (default $PENSTOCK_PIPELINES, else pipelines)")
	flags.BoolVar(&all, "all", false, "show also objects of which there is nothing to say; -o json has them always")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		ctx, now := cmd.Context(), time.Now()
		q.Pipeline = args[0]
		if from == "" {
			return usage("since when? Say --from")
		}
		if q.From, err = parseTime(from, now); err != nil {
			return usage("--from: %w", err)
		}
		if q.To, err = parseTime(cmp.Or(to, "0s"), now); err != nil {
			return usage("--to: %w", err)
		}
		if !q.From.Before(q.To) {
			return usage("--from %s is not before --to %s", q.From.Format(time.RFC3339), q.To.Format(time.RFC3339))
		}
		set, problems := loadPipelines([]string{cmp.Or(folder, a.pipelinesFolder())})
		if problems.HasErrors() {
			return &exitError{ExitInvalid, fmt.Errorf("a pipelines file is invalid, so what the functions make of an event is not known: %w", problems)}
		}
		q.Pipelines = set
		if set.Pipeline(q.Pipeline) == nil {
			return fmt.Errorf("there is no pipeline %q in %s; it has %s", q.Pipeline, cmp.Or(folder, a.pipelinesFolder()), cmp.Or(pipelineNames(set), "none"))
		}
		q.Functions = service.Functions{URL: a.env.get("PENSTOCK_FUNCTIONS_URL"), Token: a.env.get("PENSTOCK_FUNCTIONS_TOKEN")}
		if q.Decisions, err = a.readDecisions(decisions); err != nil {
			return err
		}
		if q.Buckets, err = service.OpenBuckets(a.env.get); err != nil {
			return err
		}
		archive := a.ledger(ctx)
		if archive != nil {
			defer func() { _ = archive.Close() }() // only read from
		}
		s, done, err := a.serviceWith(ctx, *deployment, archive)
		if err != nil {
			return err
		}
		defer done()
		if name := cmp.Or(*subscription, a.env.get("PENSTOCK_DEAD_LETTER_SUBSCRIPTION")); name != "" {
			if q.Queue, err = deadletters.Open(ctx, name, a.pubsubOptions()...); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, q.Queue.Close(ctx)) }()
		}
		return a.reconcile(ctx, s, q, all)
	}
	return cmd
}

// readDecisions reads a log of the functions; an empty name is none.
func (a *app) readDecisions(name string) (*service.DecisionLog, error) {
	in := a.std.In
	switch name {
	case "":
		return nil, nil //nolint:nilnil // as the comment says
	case "-":
	default:
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read the decision log: %w", err)
		}
		defer func() { _ = f.Close() }() // only read from
		in = io.Reader(f)
	}
	return service.ReadDecisions(in)
}

func pipelineNames(set *pipeline.Set) string {
	var names []string
	for _, p := range set.Pipelines() {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

// reconcile reconciles and writes what is found: as JSON while it is found, so that memory does not grow with the bucket.
func (a *app) reconcile(ctx context.Context, s *service.Service, q service.ReconcileRequest, all bool) error {
	var rows [][]string
	var failed []string
	doc := &growing{p: a.out}
	result, err := s.Reconcile(ctx, q, service.ReconcileObserver{
		Object: func(o service.ReconciledObject) error {
			if o.Start != nil && o.Start.Error != "" {
				failed = append(failed[:min(len(failed), 3)], o.Start.Error)
			}
			if a.out.json {
				return doc.add("objects", o)
			}
			if all || tells(&o) {
				rows = append(rows, objectRow(&o))
			}
			return nil
		},
		Extra: func(r service.ExtraRun) error {
			if a.out.json {
				return doc.add("extraRuns", r)
			}
			rows = append(rows, []string{"extra", r.Identity, moment(r.Begun), r.RunID, string(r.Outcome) + ": " + r.Reason})
			return nil
		},
	})
	if a.out.json {
		err = errors.Join(doc.end([]string{"objects", "extraRuns"}, result, err), err)
	} else {
		a.printReconciliation(&result, rows, err != nil)
	}
	switch {
	case err != nil:
		return err
	case result.Left > 0 && len(failed) > 0:
		return &exitError{ExitIncomplete, fmt.Errorf("%s missed or unknown: %s", count(result.Left, "object"), strings.Join(slices.Compact(failed), "; "))}
	case result.Left > 0:
		return &exitError{ExitIncomplete, fmt.Errorf("%s missed or unknown", count(result.Left, "object"))}
	}
	return nil
}

// tells says whether an object is one to look at.
func tells(o *service.ReconciledObject) bool {
	switch o.Verdict {
	case service.FindingRan, service.FindingRunning, service.FindingSkipped, service.FindingSignalled:
		return len(o.Twice) > 0
	}
	return true
}

func objectRow(o *service.ReconciledObject) []string {
	run := o.RunID
	if o.Verdict == service.FindingMissed || o.Verdict == service.FindingUnknown {
		run = ""
	}
	var text []string
	add := func(s string) {
		if s != "" {
			text = append(text, s)
		}
	}
	if o.Outcome != "" {
		add(string(o.Outcome))
	}
	add(o.Reason)
	if o.By != "" {
		add("by " + o.By)
	}
	if len(o.Twice) > 0 {
		add("TWICE: " + strings.Join(o.Twice, ", "))
	}
	if o.DeadLetter != "" {
		add("dead letter " + o.DeadLetter)
	}
	if o.Start != nil {
		for _, d := range o.Start.Decisions {
			add(strings.TrimSuffix(d.Pipeline+" "+d.Decision+": "+d.Reason, ": "))
		}
		add(o.Start.Error)
	}
	return []string{string(o.Verdict), fmt.Sprintf("gs://%s/%s#%d", o.Bucket, o.Name, o.Generation), moment(o.Created), cmp.Or(run, "-"), strings.Join(text, "; ")}
}

func (a *app) printReconciliation(r *service.Reconciliation, rows [][]string, cut bool) {
	if len(rows) > 0 {
		a.out.table([]column{
			{title: "VERDICT", paint: verdictColour}, {title: "OBJECT", shrink: true}, {title: "CREATED"}, {title: "RUN", shrink: true}, {title: "WHY", shrink: true},
		}, rows)
		a.out.printf("\n")
	}
	var parts []string
	total := 0
	for _, v := range []service.Finding{
		service.FindingRan, service.FindingRunning, service.FindingSignalled, service.FindingSkipped, service.FindingDeadLettered,
		service.FindingDuplicate, service.FindingKeyTaken, service.FindingMissed, service.FindingUnknown,
	} {
		if n := r.Counts[v]; n > 0 {
			total += n
			parts = append(parts, fmt.Sprintf("%d %s", n, v))
		}
	}
	text := count(total, "object")
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	if cut {
		text += ", and then it failed"
	}
	a.out.printf("%s\n", text)
	if r.Started > 0 {
		a.out.printf("%s started\n", count(r.Started, "run"))
	}
	if r.Extra > 0 {
		a.out.printf("%s extra\n", count(r.Extra, "run"))
	}
	if r.Twice > 0 {
		a.out.printf("%s\n", a.out.paint(red, count(r.Twice, "object")+" for which more than one run or job counted"))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(a.std.Err, "note: %s\n", clean(n))
	}
}

func verdictColour(verdict string) string {
	switch service.Finding(verdict) {
	case service.FindingRan:
		return green
	case service.FindingMissed, service.FindingDeadLettered:
		return red
	case service.FindingRunning, service.FindingDuplicate, service.FindingKeyTaken, service.FindingUnknown, "extra":
		return yellow
	}
	return dim
}

// growing is a JSON document with lists that are written while they grow, one after the other.
type growing struct {
	p     *printer
	lists []string // that have begun
	items int      // of the last
}

// add appends to a list, beginning it if it is not the one that was appended to last.
func (g *growing) add(list string, v any) error {
	item, err := indentJSON(v, "    ")
	if err != nil {
		return err
	}
	if err := g.begin(list); err != nil {
		return err
	}
	text := "\n    "
	if g.items > 0 {
		text = ",\n    "
	}
	g.items++
	return g.p.write(append([]byte(text), item...))
}

func (g *growing) begin(list string) error {
	if slices.Contains(g.lists, list) {
		return nil
	}
	text := "{\n  "
	if len(g.lists) > 0 {
		text = g.closing() + ",\n  "
	}
	g.lists, g.items = append(g.lists, list), 0
	return g.p.write([]byte(text + `"` + list + `": [`))
}

func (g *growing) closing() string {
	if g.items > 0 {
		return "\n  ]"
	}
	return "]"
}

// end writes the lists that never began, then the members of rest, and why the document is not whole.
func (g *growing) end(lists []string, rest any, failed error) error {
	for _, list := range lists {
		if err := g.begin(list); err != nil {
			return err
		}
	}
	members, err := indentJSON(rest, "")
	if err != nil {
		return err
	}
	members = bytes.TrimSuffix(bytes.TrimPrefix(members, []byte("{")), []byte("\n}"))
	if failed != nil {
		why, err := json.Marshal(failed.Error())
		if err != nil {
			return fmt.Errorf("encode the answer as JSON: %w", err)
		}
		members = append(append(members, ",\n  \"error\": "...), escapeJSON(why)...)
	}
	return g.p.write(append(append([]byte(g.closing()+","), members...), "\n}\n"...))
}

// indentJSON encodes as documents are, below a prefix.
func indentJSON(v any, prefix string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent(prefix, "  ")
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode the answer as JSON: %w", err)
	}
	return escapeJSON(bytes.TrimRight(b.Bytes(), "\n")), nil
}
