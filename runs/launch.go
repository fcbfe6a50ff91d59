package runs

import (
	"maps"

	"github.com/penstock/penstock/pipeline"
)

// Launch is a Dataflow launch request in full. It has the fields of dataflow.Launch
// in their order, so that one converts to the other; it stands here as well so that
// the functions, which share this package, do not link the Dataflow API.
type Launch struct {
	Project     string
	Location    string
	JobName     string
	Template    string
	Classic     bool
	Parameters  map[string]string
	Labels      map[string]string
	Environment map[string]any
	Streaming   bool
}

// Launch is the request for a job whose expressions are rendered. deploymentLabel is
// DeploymentLabel's; the label LabelSpec is left to the caller, who knows the hash.
func (in JobInput) Launch(job pipeline.Job, deploymentLabel string) Launch {
	labels := make(map[string]string, len(job.Labels)+4)
	maps.Copy(labels, job.Labels)
	labels[LabelDeployment] = deploymentLabel
	labels[LabelPipeline] = in.Pipeline
	labels[LabelRun] = RunLabel(in.RunID)
	return Launch{
		Project:     in.Project,
		Location:    in.Location,
		JobName:     in.JobName,
		Template:    job.Template,
		Classic:     job.Classic,
		Parameters:  job.Parameters,
		Labels:      labels,
		Environment: job.Environment,
		Streaming:   job.Streaming,
	}
}
