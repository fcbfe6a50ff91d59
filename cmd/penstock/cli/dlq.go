package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/deadletters"
	"github.com/penstock/penstock/service"
)

// redriveAnswer is what dlq redrive answers.
type redriveAnswer struct {
	DeadLetters []service.Redriven `json:"deadLetters"`
	More        bool               `json:"more,omitempty"`
	Error       string             `json:"error,omitempty"`
}

func (a *app) dlqCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look at dead letters, and deliver them again",
		Long: `Look at the events that nothing could be done with, and deliver them again once what was
wrong is mended.

Dead letters wait in a subscription of the dead-letter topic. While one is read, others
who read see it not; it is let go at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.dlqListCommand(), a.dlqShowCommand(), a.dlqRedriveCommand())
	return cmd
}

// flagSubscription adds the flag that names the subscription.
func (a *app) flagSubscription(cmd *cobra.Command) *string {
	return cmd.Flags().String("subscription", "", "the dead letters' subscription, projects/P/subscriptions/S (default $PENSTOCK_DEAD_LETTER_SUBSCRIPTION)")
}

// deadLetters opens the subscription and calls do with it.
func (a *app) deadLetters(ctx context.Context, subscription string, do func(*service.DeadLetters) error) (err error) {
	if subscription = cmp.Or(subscription, a.env.get("PENSTOCK_DEAD_LETTER_SUBSCRIPTION")); subscription == "" {
		return usage("which dead letters? Set PENSTOCK_DEAD_LETTER_SUBSCRIPTION or --subscription to the full name of a subscription of the dead-letter topic")
	}
	q, err := deadletters.Open(ctx, subscription, a.pubsubOptions()...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close(ctx)) }()
	return do(&service.DeadLetters{Queue: q, FunctionsURL: a.env.get("PENSTOCK_FUNCTIONS_URL"), Token: a.env.get("PENSTOCK_FUNCTIONS_TOKEN")})
}

func (a *app) dlqListCommand() *cobra.Command {
	var f service.LetterFilter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters with their reasons",
		Long: `List dead letters, the oldest first. Those that somebody else is reading at the moment are
not listed.`,
		Args: cobra.NoArgs,
	}
	subscription := a.flagSubscription(cmd)
	flagLetters(cmd, &f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.Limit < 1 {
			return usage("--limit is %d: it is 1 at least", f.Limit)
		}
		return a.deadLetters(cmd.Context(), *subscription, func(d *service.DeadLetters) error {
			listing, err := d.List(cmd.Context(), f)
			if a.out.json {
				return errors.Join(a.out.document(listing), err)
			}
			a.printLetters(listing)
			a.printMore(len(listing.DeadLetters), f.Limit, listing.More)
			return err
		})
	}
	return cmd
}

// flagLetters adds the flags of a filter.
func flagLetters(cmd *cobra.Command, f *service.LetterFilter) {
	cmd.Flags().StringVarP(&f.Pipeline, "pipeline", "p", "", "those that this pipeline could not take")
	cmd.Flags().IntVarP(&f.Limit, "limit", "n", 100, "at most so many")
}

func (a *app) printLetters(listing service.DeadLetterListing) {
	if len(listing.DeadLetters) == 0 {
		if !listing.More {
			fmt.Fprintln(a.std.Err, "no dead letters")
		}
		return
	}
	rows := make([][]string, len(listing.DeadLetters))
	for i := range listing.DeadLetters {
		l := &listing.DeadLetters[i]
		identity := l.Identity
		if identity == "" && l.Forwarded != nil {
			identity = "forwarded by " + cmp.Or(l.Forwarded.Subscription, "somebody")
		}
		rows[i] = []string{l.ID, moment(l.Published), cmp.Or(l.Pipeline, "-"), cmp.Or(identity, "-"), l.Reason}
	}
	a.out.table([]column{{title: "ID"}, {title: "SINCE"}, {title: "PIPELINE"}, {title: "EVENT", shrink: true}, {title: "REASON", shrink: true}}, rows)
}

// printMore says that not all dead letters were seen.
func (a *app) printMore(found, limit int, more bool) {
	switch {
	case !more:
	case found >= limit:
		fmt.Fprintln(a.std.Err, "there may be more: raise --limit")
	case found == 0:
		fmt.Fprintln(a.std.Err, "no such dead letters among those that were looked through; there may be some behind them")
	default:
		fmt.Fprintln(a.std.Err, "there may be more behind those that were looked through")
	}
}

func (a *app) dlqShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one dead letter in full",
		Args:  cobra.ExactArgs(1),
	}
	subscription := a.flagSubscription(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.deadLetters(cmd.Context(), *subscription, func(d *service.DeadLetters) error {
			c, err := d.Show(cmd.Context(), args[0])
			if c.ID == "" {
				return err
			}
			if a.out.json {
				return errors.Join(a.out.document(c), err)
			}
			a.printLetter(c)
			return err
		})
	}
	return cmd
}

func (a *app) printLetter(c service.DeadLetterContent) {
	a.printLetterHead(&c.DeadLetter)
	for _, name := range sortedKeys(c.Header) {
		a.field("", "header", name+": "+strings.Join(c.Header[name], ", "))
	}
	for _, name := range sortedKeys(c.Attributes) {
		a.field("", "attribute", name+"="+c.Attributes[name])
	}
	a.out.printf("\n")
	if c.BodyBase64 != nil {
		a.out.printf("%d bytes that are no text; -o json has them\n", len(c.BodyBase64))
		return
	}
	a.out.printf("%s\n", lines(c.Body))
}

func (a *app) printLetterHead(l *service.DeadLetter) {
	a.field("", "dead letter", l.ID)
	a.field("", "since", moment(l.Published))
	a.painted("", "reason", red, l.Reason)
	a.field("", "event", l.Identity)
	a.field("", "pipeline", l.Pipeline)
	a.field("", "arrived at", l.EntryPoint)
	a.field("", "topic", l.Topic)
	if l.Forwarded != nil {
		a.field("", "forwarded", "by "+cmp.Or(l.Forwarded.Subscription, "somebody"))
	}
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}

func (a *app) dlqRedriveCommand() *cobra.Command {
	var q service.RedriveRequest
	var all bool
	var folder string
	cmd := &cobra.Command{
		Use:   "redrive [ID...]",
		Short: "Deliver dead letters again",
		Long: `Deliver dead letters again, as they came, to the functions at PENSTOCK_FUNCTIONS_URL. Each
that is answered 2xx is a dead letter no more; the others stay. The event keeps its
identity, so delivering it twice does no harm: the second time it is a duplicate.

Name them by ID, or take those of a --pipeline, or --all. What becomes a dead letter
anew meanwhile, because it still cannot be handled, is left for another time.

A plain message that Pub/Sub itself forwarded has lost its message ID. It is delivered
again only where every pipeline that wants it tells messages apart by a payload key, or
with --force. The pipelines files here have to be those of the functions for that.

An event that the pipeline of its dead letter does not want any more, such as one that was
renamed, stays a dead letter, and so does one of no pipeline that none wants. With --force
it goes to all pipelines that want it, and is taken away even if none does.

A push whose endpoint names no topic does not decode, and is a dead letter for that. Name
its topic with --topic.`,
		Example: "  penstock dlq redrive --pipeline orders",
	}
	subscription := a.flagSubscription(cmd)
	flagLetters(cmd, &q.LetterFilter)
	flags := cmd.Flags()
	flags.BoolVar(&all, "all", false, "all that the limit allows")
	flags.BoolVar(&q.Force, "force", false, "also an event whose identity was lost, or that its pipeline, or any, does not want: it may run once more")
	flags.StringVar(&q.Topic, "topic", "", "topic of plain messages, projects/P/topics/T: of those that Pub/Sub forwarded (default: asked of their subscription), and of pushes whose endpoint named none")
	flags.StringVar(&folder, "pipelines", "", "folder of pipelines files that the functions have (default $PENSTOCK_PIPELINES, else pipelines)")
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		switch ways := len(ids) > 0; {
		case ways && (all || q.Pipeline != ""):
			return usage("name dead letters by ID, or take those of a --pipeline, or --all: not several of these")
		case !ways && !all && q.Pipeline == "":
			return usage("which dead letters? Name them by ID, or say --pipeline or --all")
		case q.Limit < 1:
			return usage("--limit is %d: it is 1 at least", q.Limit)
		}
		slices.Sort(ids)
		q.IDs, q.Before = slices.Compact(ids), time.Now()
		return a.deadLetters(cmd.Context(), *subscription, func(d *service.DeadLetters) error {
			if set, problems := loadPipelines([]string{cmp.Or(folder, a.pipelinesFolder())}); !problems.HasErrors() {
				d.Pipelines = set
			}
			redriven, more, err := d.Redrive(cmd.Context(), q)
			answer := redriveAnswer{DeadLetters: redriven, More: more}
			left := 0
			for i := range redriven {
				if !redriven[i].Delivered {
					left++
				}
				a.printRedriven(&redriven[i])
			}
			if err != nil {
				answer.Error = err.Error()
			} else if len(redriven) == 0 && !more && !a.out.json {
				fmt.Fprintln(a.std.Err, "no dead letters")
			}
			if a.out.json {
				err = errors.Join(a.out.document(answer), err)
			} else {
				a.printMore(len(redriven), q.Limit, more)
			}
			if left > 0 {
				err = errors.Join(err, fmt.Errorf("%s could not be delivered", count(left, "dead letter")))
			}
			return err
		})
	}
	return cmd
}

func (a *app) printRedriven(r *service.Redriven) {
	if a.out.json {
		return
	}
	if !r.Delivered {
		fmt.Fprintf(a.std.Err, "%s: %s\n", clean(r.ID), lines(r.Error))
		return
	}
	a.out.printf("%s: delivered  %s\n", clean(r.ID), clean(r.Identity))
	for _, d := range r.Decisions {
		text := d.Decision
		if d.RunID != "" {
			text += "  " + d.RunID
		}
		if d.Reason != "" {
			text += ": " + d.Reason
		}
		a.out.printf("  %s %s\n", clean(cmp.Or(d.Pipeline, "-")), clean(text))
	}
	if len(r.Decisions) == 0 {
		a.out.printf("  no pipeline wants it\n")
	}
}
