package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/service"
)

// explainAnswer is what explain answers.
type explainAnswer struct {
	Events   []explainedEvent  `json:"events"`
	Problems pipeline.Problems `json:"problems,omitempty"` // of the pipelines files
	Notes    []string          `json:"notes,omitempty"`    // on what was assumed
}

// explainedEvent is one file's event, or why it is none.
type explainedEvent struct {
	File  string `json:"file"`
	Error string `json:"error,omitempty"`
	*service.Explanation
}

// Stand-ins for what the environment does not say; explain tells that it uses them.
const (
	assumedDeployment = "dev"
	assumedProject    = "my-project"
	assumedLocation   = "us-central1"
)

func (a *app) explainCommand() *cobra.Command {
	var at service.Place
	var folder, topic string
	cmd := &cobra.Command{
		Use:   "explain EVENT.json...",
		Short: "Say what an event would do, without doing it",
		Long: `Say for every pipeline why an event would or would not start it, under which run ID, and
which requests its steps would make to Dataflow. Nothing is touched and nobody asked, so
whether a run of that ID exists is not known.

An event is a file, or - for standard input: a CloudEvent in structured mode, a Pub/Sub
push envelope (with --topic), or the text of a whole HTTP POST.

In the requests the label penstock_deployment ends in zeros: a real one ends in a hash of
the Temporal namespace's own ID. What waits for an earlier step's result is listed below
each request.`,
		Example: "  penstock explain event.json --pipelines pipelines",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, files []string) error {
			var answer explainAnswer
			assume := func(value *string, variable, stand string) {
				if *value == "" {
					if *value = a.env.get(variable); *value == "" {
						*value = stand
						answer.Notes = append(answer.Notes, fmt.Sprintf("%s is not set: the answer is for %q", variable, stand))
					}
				}
			}
			assume(&at.Deployment, "PENSTOCK_DEPLOYMENT", assumedDeployment)
			assume(&at.Project, "GOOGLE_CLOUD_PROJECT", assumedProject)
			assume(&at.Location, "PENSTOCK_LOCATION", assumedLocation)
			set, problems := loadPipelines([]string{cmp.Or(folder, a.pipelinesFolder())})
			answer.Problems = problems
			if len(set.Pipelines()) == 0 && len(problems) == 0 {
				answer.Notes = append(answer.Notes, "there are no pipelines in "+cmp.Or(folder, a.pipelinesFolder()))
			}
			bad := 0
			for _, file := range files {
				explained := explainedEvent{File: file}
				x, err := a.explain(file, topic, set, at)
				if err != nil {
					bad++
					explained.Error = err.Error()
				} else {
					explained.Explanation = &x
				}
				answer.Events = append(answer.Events, explained)
			}
			if a.out.json {
				if err := a.out.document(answer); err != nil {
					return err
				}
			} else {
				a.printExplanations(answer)
			}
			switch {
			case problems.HasErrors():
				return &exitError{ExitInvalid, fmt.Errorf("a pipelines file is invalid, so what its pipeline would do is not known")}
			case bad > 0:
				return &exitError{code: ExitFailed}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&folder, "pipelines", "", "folder of pipelines files, or one file (default $PENSTOCK_PIPELINES, else pipelines)")
	flags.StringVar(&topic, "topic", "", "topic of a Pub/Sub push envelope, as projects/P/topics/T")
	flags.StringVar(&at.Deployment, "deployment", "", "deployment ID (default $PENSTOCK_DEPLOYMENT)")
	flags.StringVar(&at.Project, "project", "", "project that jobs run in (default $GOOGLE_CLOUD_PROJECT)")
	flags.StringVar(&at.Location, "location", "", "region of jobs whose step names none (default $PENSTOCK_LOCATION)")
	return cmd
}

func (a *app) explain(file, topic string, set *pipeline.Set, at service.Place) (service.Explanation, error) {
	src, err := a.readEventFile(file)
	if err != nil {
		return service.Explanation{}, err
	}
	e, err := events.FromJSON(src, topic)
	if err != nil {
		return service.Explanation{}, fmt.Errorf("it is no event, and would be dead-lettered: %w", err)
	}
	return service.Explain(e, set, at)
}

// readEventFile reads a file, or - for standard input, as far as an event can be long.
func (a *app) readEventFile(file string) ([]byte, error) {
	var src []byte
	var err error
	if file == "-" {
		src, err = io.ReadAll(io.LimitReader(a.std.In, events.MaxBodyBytes+1))
	} else {
		src, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the event: %w", err)
	}
	return src, nil
}

func (a *app) printExplanations(answer explainAnswer) {
	for _, p := range answer.Problems {
		a.out.printf("%s\n", clean(p.Error()))
	}
	for _, note := range answer.Notes {
		a.out.printf("note: %s\n", clean(note))
	}
	for i, e := range answer.Events {
		if i > 0 || len(answer.Problems)+len(answer.Notes) > 0 {
			a.out.printf("\n")
		}
		a.out.printf("%s\n", a.out.paint(bold, clean(e.File)))
		if e.Error != "" {
			a.out.printf("  %s\n", clean(e.Error))
			continue
		}
		a.out.printf("  %s event %s\n  identity %s\n", clean(e.Kind), clean(e.Type), clean(e.Identity))
		for i := range e.Verdicts {
			a.printVerdict(&e.Verdicts[i])
		}
	}
}

func (a *app) printVerdict(v *service.Verdict) {
	words := map[service.Decision][2]string{ // what to say, and its colour
		service.Unmatched:    {"does not want it", dim},
		service.Skipped:      {"skips it", yellow},
		service.Started:      {"starts", green},
		service.Signalled:    {"sends a signal", green},
		service.DeadLettered: {"sends it to the dead letters", red},
	}
	said := words[v.Decision]
	a.out.printf("\n%s %s\n", a.out.paint(bold, clean(v.Pipeline)), a.out.paint(said[1], said[0]))
	for _, r := range v.Reasons {
		a.out.printf("  %s\n", clean(r))
	}
	if v.RunID != "" {
		id := "run"
		if v.Signal != nil {
			id = "workflow"
		}
		a.out.printf("  %-9s %s\n", id, clean(v.RunID))
	}
	if v.Identity != "" {
		a.out.printf("  identity  %s\n", clean(v.Identity))
	}
	if v.Key != "" {
		a.out.printf("  key       %s\n", clean(v.Key))
	}
	if v.Signal != nil {
		a.out.printf("  signal    %s\n", clean(v.Signal.Name))
		if s := v.Signal.Start; s != nil {
			a.out.printf("            starting workflow %s on task queue %s where none is open\n", clean(s.Type), clean(s.TaskQueue))
		}
	}
	if v.Workflow != nil {
		a.out.printf("  workflow  %s on task queue %s\n", clean(v.Workflow.Type), clean(v.Workflow.TaskQueue))
	}
	for i := range v.Launches {
		a.printLaunch(&v.Launches[i])
	}
}

func (a *app) printLaunch(l *service.PlannedLaunch) {
	a.out.printf("  step %s", clean(l.Step))
	if len(l.Needs) > 0 {
		a.out.printf(" after %s", clean(strings.Join(l.Needs, ", ")))
	}
	a.out.printf(": job %s\n", clean(l.JobName))
	if l.Problem != "" {
		a.out.printf("    %s %s\n", a.out.paint(red, "refused:"), clean(l.Problem))
		return
	}
	a.out.printf("    %s %s\n", l.Request.Method, clean(l.Request.Path))
	for line := range strings.Lines(indented(l.Request.Body)) {
		a.out.printf("    %s\n", clean(strings.TrimSuffix(line, "\n")))
	}
	for _, d := range l.Deferred {
		a.out.printf("    %s.%s waits for an earlier step: %s\n", d.In, clean(d.Name), clean(d.Text))
	}
}

func indented(doc json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, doc, "", "  "); err != nil { // it was encoded a moment ago
		return string(doc)
	}
	return b.String()
}
