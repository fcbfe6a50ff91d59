package pipeline

import (
	"slices"
	"strings"
)

// Template parameters travel as pipeline options to a flex template, so a parameter of such a name is as good as the option.
// Case and underscores do not tell them apart: Beam takes serviceAccount and service_account alike.
var (
	// forbiddenOptions name, update or move a job behind Penstock's back.
	forbiddenOptions = map[string]string{
		"jobname":               "Penstock names the jobs: the name is how a step is known to run once",
		"update":                "a run never updates a job that runs already: it launches its own",
		"transformnamemapping":  "it belongs to updates, and a run never updates a job that runs already",
		"transformnamemappings": "it belongs to updates, and a run never updates a job that runs already",
		"createfromsnapshot":    "a run starts a job from the beginning",
		"runner":                "the template decides what runs it",
	}
	// staticOptions decide identity, code or network.
	staticOptions = []string{
		"serviceaccount", "serviceaccountemail", "impersonateserviceaccount", "gcpcredential", "project", "region", "workerregion", "workerzone", "zone", "network", "subnetwork",
		"usepublicips", "nousepublicips", "experiments", "experiment", "additionalexperiments", "dataflowserviceoptions", "dataflowserviceoption",
		"sdkcontainerimage", "workerharnesscontainerimage", "sdklocation", "setupfile", "requirementsfile", "extrapackage", "extrapackages", "filestostage",
		"javascripttextransformgcspath", "dataflowkmskey", "dataflowendpoint", "apirooturl", "labels",
	}
	// updatesJobs is the experiment that makes a launch update the running job of its name.
	updatesJobs = "create_or_update_job"
)

func optionName(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// checkParameter refuses parameters that would decide what only the file may.
func (r *reader) checkParameter(name string, v *value, parsed Value) {
	option := optionName(name)
	if why, bad := forbiddenOptions[option]; bad {
		r.fail(v.key, why, "parameter %s is refused", name)
		return
	}
	if slices.Contains(staticOptions, option) && parsed.dynamic() {
		r.fail(v.node, whyIdentity, "${ } may not stand in parameter %s", name)
	}
	if strings.Contains(option, "experiment") && strings.Contains(v.text, updatesJobs) {
		r.fail(v.node, "it makes a launch update the job that runs: one event would end another's job", "experiment %s is refused", updatesJobs)
	}
}

// checkOption refuses experiments and pipeline options that update or rename jobs.
func (r *reader) checkOption(field string, v *value) {
	if strings.Contains(v.text, updatesJobs) {
		r.fail(v.node, "it makes a launch update the job that runs: one event would end another's job", "experiment %s is refused", updatesJobs)
		return
	}
	if field != "additionalPipelineOptions" {
		return
	}
	name, _, _ := strings.Cut(strings.TrimLeft(v.text, "-"), "=")
	if why, bad := forbiddenOptions[optionName(strings.TrimSpace(name))]; bad {
		r.fail(v.node, why, "pipeline option %s is refused", name)
	}
}

// checkWorkflowID refuses a fixed workflow ID that Temporal's Go client cannot send.
func (r *reader) checkWorkflowID(id Value) {
	for _, s := range id.segments {
		if err := checkWorkflowID(s.literal); s.expr == nil && s.literal != "" && err != nil {
			r.report(id.Position, Error, "", "signal.workflowId: %v", err)
			return
		}
	}
}

// checkKey warns of a key that says too little. It is no error: one run for many objects may be just what is meant.
func (r *reader) checkKey(p *Pipeline) {
	if !p.Key.set() || p.Signal != nil {
		return
	}
	var fields, captures []string
	for _, s := range p.Key.segments {
		if s.literal != "" {
			continue
		}
		if s.expr == nil {
			return // it has a problem of its own
		}
		for _, ref := range s.expr.refs {
			name := ""
			if len(ref.path) > 0 {
				name = ref.path[0]
			}
			if ref.root == "object" {
				captures = append(captures, name)
			} else {
				fields = append(fields, name)
			}
		}
	}
	const then = "the first event starts a run, and the others are decided key-taken"
	if len(fields)+len(captures) == 0 {
		r.report(p.Key.Position, Warning, then, "every event has this key")
		return
	}
	for i, t := range p.On {
		if t.Storage == nil {
			continue
		}
		if slices.Contains(fields, "id") && !slices.Contains(fields, "identity") {
			r.report(p.Key.Position, Warning, "use event.identity", "one change of an object may come under several event.id, and would run as often")
			return
		}
		if slices.ContainsFunc(fields, func(f string) bool { return f == "name" || f == "uri" || f == "identity" || f == "subject" || f == "" }) {
			continue
		}
		if pattern := t.Storage.pattern; pattern != nil && pattern.named && !slices.ContainsFunc(pattern.captures, func(c string) bool { return !slices.Contains(captures, c) }) {
			continue
		}
		r.report(p.Key.Position, Warning, then, "several objects that the trigger in line %d wants can share this key", p.On[i].Position.Line)
		return
	}
}
