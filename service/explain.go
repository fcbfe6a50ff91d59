package service

import (
	"fmt"
	"unicode/utf8"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// Place is where a deployment's jobs run.
type Place struct {
	Deployment string // see runs.CheckDeployment
	Project    string // project ID
	Location   string // region of the steps that name none
}

// Decision is what would become of an event and a pipeline, in the words of the functions' answers where they have one.
type Decision string

// The decisions. What was decided for the same key before is not looked up: a start or a signal may turn out to be a duplicate.
const (
	Unmatched    Decision = "unmatched"     // no trigger of the pipeline wants the event
	Skipped      Decision = "skipped"       // a trigger wants it, and its `when` is false
	Started      Decision = "started"       // it would start the run
	Signalled    Decision = "signalled"     // it would be sent to a workflow
	DeadLettered Decision = "dead-lettered" // nothing can be done with it
)

// Explanation is what an event would do.
type Explanation struct {
	Identity string    `json:"identity"`
	Kind     string    `json:"kind"`
	Type     string    `json:"type"`
	Source   string    `json:"source"`
	Subject  string    `json:"subject,omitempty"`
	Verdicts []Verdict `json:"pipelines"` // one for every pipeline, in the order of their names
}

// Verdict is what an event would do to one pipeline, and why.
type Verdict struct {
	Pipeline string   `json:"pipeline"`
	File     string   `json:"file"`
	Decision Decision `json:"decision"`
	// Reasons has one entry for each trigger that does not want the event, or what is wrong with it.
	Reasons []string `json:"reasons,omitempty"`
	Key     string   `json:"key,omitempty"`
	// Identity is the one that the pipeline gives the event, where it differs from the event's own.
	Identity      string `json:"identity,omitempty"`
	RunID         string `json:"runId,omitempty"` // the workflow to start or to signal
	ConfigVersion string `json:"configVersion,omitempty"`
	// Launches are the jobs of a run's steps, in the order of the file.
	Launches []PlannedLaunch           `json:"launches,omitempty"`
	Workflow *pipeline.PlannedWorkflow `json:"workflow,omitempty"`
	Signal   *pipeline.PlannedSignal   `json:"signal,omitempty"`
}

// PlannedLaunch is the request that a step's first attempt would make.
type PlannedLaunch struct {
	Step    string   `json:"step"`
	Needs   []string `json:"needs,omitempty"`
	JobName string   `json:"jobName"`
	// Request lacks the parameters and labels in Deferred, and the label penstock_deployment in it ends in zeros instead
	// of the hash of the namespace's UUID, which only Temporal knows. It is nil where Problem says why Dataflow would
	// refuse it.
	Request  *dataflow.Request   `json:"request,omitempty"`
	Deferred []pipeline.Deferred `json:"deferred,omitempty"` // filled in from the results of earlier steps
	Problem  string              `json:"problem,omitempty"`
}

// unknownNamespace stands for the part of the deployment label that cannot be known without asking Temporal.
const unknownNamespace = "00000000"

// Explain says for every pipeline why an event would or would not start it, under which run ID, and which requests its
// steps would make. It touches nothing and asks nobody.
func Explain(e *events.Event, set *pipeline.Set, at Place) (Explanation, error) {
	if err := runs.CheckDeployment(at.Deployment); err != nil {
		return Explanation{}, err
	}
	x := Explanation{Identity: e.Identity(), Kind: string(e.Kind), Type: e.Type, Source: e.Source, Subject: e.Subject, Verdicts: []Verdict{}}
	matches := map[string]pipeline.Match{}
	for _, m := range set.Match(e) {
		matches[m.Pipeline.Name] = m
	}
	for _, p := range set.Pipelines() {
		v := Verdict{Pipeline: p.Name, File: p.File, ConfigVersion: p.Version.Hash, Decision: Unmatched}
		if m, ok := matches[p.Name]; ok {
			v.evaluate(m, at, x.Identity)
		} else {
			for i := range p.On {
				v.Reasons = append(v.Reasons, fmt.Sprintf("trigger in line %d: %s", p.On[i].Position.Line, p.On[i].Mismatch(e)))
			}
		}
		x.Verdicts = append(x.Verdicts, v)
	}
	return x, nil
}

// evaluate decides on a pipeline that wants the event.
func (v *Verdict) evaluate(m pipeline.Match, at Place, identity string) {
	plan, skip, err := m.Evaluate()
	switch {
	case err != nil:
		v.Decision, v.Reasons = DeadLettered, []string{err.Error()}
		return
	case skip != nil:
		v.Decision, v.Reasons = Skipped, []string{fmt.Sprintf("line %d: %s", skip.Position.Line, skip.Reason)}
		return
	}
	v.Key = plan.Key
	if plan.Identity != identity {
		v.Identity = plan.Identity
	}
	if plan.Signal != nil {
		v.Decision, v.RunID, v.Signal = Signalled, plan.Signal.WorkflowID, plan.Signal
		return
	}
	if !utf8.ValidString(plan.Key) {
		v.Decision, v.Reasons = DeadLettered, []string{"the key is not valid UTF-8, so a run's input cannot hold it: hash or encode it in the pipeline's key"}
		return
	}
	v.Decision, v.RunID, v.Workflow = Started, runs.RunID(at.Deployment, plan.Pipeline, plan.Key), plan.Workflow
	for i := range plan.Steps {
		v.Launches = append(v.Launches, plannedLaunch(&plan, &plan.Steps[i], v.RunID, at))
	}
}

func plannedLaunch(plan *pipeline.Plan, step *pipeline.PlannedStep, runID string, at Place) PlannedLaunch {
	in := runs.JobInput{
		Deployment: at.Deployment, Pipeline: plan.Pipeline, RunID: runID, Key: plan.Key, Step: step.Name, Attempt: 1,
		Project: at.Project, Location: at.Location,
		JobName: runs.JobName(at.Deployment, plan.Pipeline, plan.Key, step.Name, 1),
	}
	if step.Job.Location != "" {
		in.Location = step.Job.Location
	}
	planned := PlannedLaunch{Step: step.Name, Needs: step.Needs, JobName: in.JobName, Deferred: step.Job.Deferred}
	launch := dataflow.Launch(in.Launch(step.Job, at.Deployment+"-"+unknownNamespace))
	if len(step.Job.Deferred) == 0 {
		launch.Labels[runs.LabelSpec] = launch.SpecHash() // it covers every parameter, so it waits for the last
	}
	request, err := launch.Request()
	if err != nil {
		planned.Problem = err.Error()
		return planned
	}
	planned.Request = &request
	return planned
}
