package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// Status is the result of a check.
type Status string

// The results.
const (
	StatusOK   Status = "ok"
	StatusWarn Status = "warn" // it works, perhaps not as it should
	StatusFail Status = "fail"
	// StatusSkipped is a check that was not made: something that it needs failed, or is not configured.
	StatusSkipped Status = "skipped"
)

// Check is one thing that Examine looked at.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`       // what was found
	Do     string `json:"do,omitempty"` // what to do about it
}

// Subject is the deployment that Examine looks at.
type Subject struct {
	Place
	// Pipelines and Problems are those of the pipelines files.
	Pipelines *pipeline.Set
	Problems  pipeline.Problems
	// Dial connects to Temporal; Address and Namespace are where to.
	Dial               func(context.Context) (client.Client, error)
	Address, Namespace string
	// Dataflow makes the client of the Dataflow API.
	Dataflow func(context.Context) (*dataflow.Client, error)
	// FunctionsURL is the base URL of the functions; empty: they are not looked at.
	FunctionsURL string
	// Ledger opens the ledger; nil: none is known here.
	Ledger func(context.Context) (*ledger.Ledger, error)
}

// checkTimeout bounds each check.
const checkTimeout = 10 * time.Second

// Examine checks a deployment from where it is called, with the rights of who calls. It changes nothing.
func Examine(ctx context.Context, s Subject) []Check {
	var e examination
	e.settings(s)
	e.pipelines(s)
	e.temporal(ctx, s)
	e.ledger(ctx, s)
	e.dataflow(ctx, s)
	e.functions(ctx, s)
	return e.checks
}

type examination struct{ checks []Check }

func (e *examination) add(name string, status Status, detail, do string) {
	e.checks = append(e.checks, Check{Name: name, Status: status, Detail: detail, Do: do})
}

func (e *examination) settings(s Subject) {
	if err := runs.CheckDeployment(s.Deployment); err != nil {
		e.add("deployment", StatusFail, err.Error(), "set PENSTOCK_DEPLOYMENT to the ID that functions and worker have")
	} else {
		e.add("deployment", StatusOK, fmt.Sprintf("%s, whose workers poll task queue %s", s.Deployment, runs.TaskQueue(s.Deployment)), "")
	}
}

func (e *examination) pipelines(s Subject) {
	n := len(s.Pipelines.Pipelines())
	switch {
	case s.Problems.HasErrors():
		e.add("pipelines", StatusFail, fmt.Sprintf("%d usable; %s", n, s.Problems[0].Error()), "run penstock lint, which names every problem")
	case len(s.Problems) > 0:
		e.add("pipelines", StatusWarn, fmt.Sprintf("%d usable; %s", n, s.Problems[0].Error()), "run penstock lint, which names every doubt")
	case n == 0:
		e.add("pipelines", StatusWarn, "there are none", "write a first one with penstock init, or set PENSTOCK_PIPELINES to their folder")
	default:
		e.add("pipelines", StatusOK, fmt.Sprintf("%d, no problems", n), "")
	}
}

// temporal looks at the address, then at what lies behind it.
func (e *examination) temporal(ctx context.Context, s Subject) {
	ctx, cancel := context.WithTimeout(ctx, 2*checkTimeout)
	defer cancel()
	c, err := s.Dial(ctx)
	if err != nil {
		e.add("temporal", StatusFail, err.Error(), "set TEMPORAL_ADDRESS (and TEMPORAL_API_KEY or TEMPORAL_TLS_… where it needs them); make dev starts one here")
		for _, name := range []string{"namespace", "dedupe", "search attributes", "worker"} {
			e.add(name, StatusSkipped, "Temporal does not answer", "")
		}
		return
	}
	defer c.Close()
	e.add("temporal", StatusOK, s.Address+" answers", "")
	if retention, ok := e.namespace(ctx, c, s); ok {
		e.dedupe(s, retention)
		e.searchAttributes(ctx, c, s)
		e.worker(ctx, c, s)
		return
	}
	for _, name := range []string{"dedupe", "search attributes", "worker"} {
		e.add(name, StatusSkipped, "there is no namespace to look in", "")
	}
}

func (e *examination) namespace(ctx context.Context, c client.Client, s Subject) (retention time.Duration, ok bool) {
	d, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: s.Namespace})
	var missing *serviceerror.NamespaceNotFound
	var denied *serviceerror.PermissionDenied
	switch {
	case errors.As(err, &missing):
		e.add("namespace", StatusFail, fmt.Sprintf("%s does not exist", s.Namespace), "set TEMPORAL_NAMESPACE to one that does, or make it: temporal operator namespace create --namespace "+s.Namespace)
		return 0, false
	case errors.As(err, &denied):
		e.add("namespace", StatusFail, err.Error(), "give the API key or certificate access to namespace "+s.Namespace)
		return 0, false
	case err != nil:
		e.add("namespace", StatusFail, err.Error(), "see whether Temporal is healthy, and try again")
		return 0, false
	}
	retention = d.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration()
	e.add("namespace", StatusOK, fmt.Sprintf("%s, which keeps closed runs, and so knows duplicates, for %s", s.Namespace, days(retention)), "")
	return retention, true
}

// dedupe looks for pipelines that keep their keys for so short that Temporal does anyway.
func (e *examination) dedupe(s Subject, retention time.Duration) {
	var asking int
	var idle []string
	for _, p := range s.Pipelines.Pipelines() {
		if p.Dedupe == nil {
			continue
		}
		asking++
		if p.Dedupe.Keep > 0 && p.Dedupe.Keep < retention {
			idle = append(idle, fmt.Sprintf("%s (%s)", p.Name, days(p.Dedupe.Keep)))
		}
	}
	switch {
	case asking == 0:
		e.add("dedupe", StatusOK, "no pipeline asks for it", "")
	case len(idle) > 0:
		e.add("dedupe", StatusWarn, fmt.Sprintf("keep has no effect where it is below the %s for which the namespace refuses a second run by itself: %s", days(retention), strings.Join(idle, ", ")),
			"keep keys for longer, or leave dedupe out")
	default:
		e.add("dedupe", StatusOK, fmt.Sprintf("%d of the pipelines, for longer than the namespace keeps runs", asking), "")
	}
}

// ledger reads what no run has written: it needs the right to read. Whether the worker may write only a write would tell.
func (e *examination) ledger(ctx context.Context, s Subject) {
	const name = "ledger"
	if s.Ledger == nil {
		for _, p := range s.Pipelines.Pipelines() {
			if p.Dedupe != nil {
				e.add(name, StatusWarn, "none is known here, and pipeline "+p.Name+" asks for one (dedupe): its runs fail where the worker knows none either",
					"set PENSTOCK_LEDGER, on the worker too, to gs://BUCKET/PREFIX")
				return
			}
		}
		e.add(name, StatusSkipped, "none is known here", "set PENSTOCK_LEDGER to the worker's to see runs that Temporal has forgotten")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	l, err := s.Ledger(ctx)
	if err != nil {
		e.add(name, StatusFail, err.Error(), "set PENSTOCK_LEDGER to gs://BUCKET/PREFIX, or a local folder")
		return
	}
	defer func() { _ = l.Close() }() // only read from
	_, err = l.Read(ctx, s.Deployment, "penstock-doctor", "penstock-doctor")
	switch {
	case err == nil, errors.Is(err, ledger.ErrNotFound):
		e.add(name, StatusOK, fmt.Sprintf("%s can be read; whether the worker may write is seen with its first claim or record", l), "")
	case errors.Is(err, ledger.ErrInvalid):
		e.add(name, StatusSkipped, "the deployment is not known", "")
	default:
		e.add(name, StatusFail, err.Error(), "see that the bucket exists, and that you have roles/storage.objectViewer on it, the worker roles/storage.objectUser")
	}
}

func days(d time.Duration) string {
	if d%(24*time.Hour) == 0 && d > 24*time.Hour {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.String()
}

func (e *examination) searchAttributes(ctx context.Context, c client.Client, s Subject) {
	const name = "search attributes"
	missing, err := runs.MissingSearchAttributes(ctx, c.OperatorService(), s.Namespace)
	if err != nil {
		e.add(name, StatusWarn, err.Error(), "runs work without them; look in Temporal's web UI whether they are registered")
		return
	}
	if len(missing) == 0 {
		e.add(name, StatusOK, "all are registered", "")
		return
	}
	do := "register them to filter runs by them: temporal operator search-attribute create --namespace " + s.Namespace
	for _, m := range missing {
		do += " --name " + m + " --type Keyword"
	}
	e.add(name, StatusWarn, "missing, or of another type: "+strings.Join(missing, ", "), do)
}

func (e *examination) worker(ctx context.Context, c client.Client, s Subject) {
	queue := runs.TaskQueue(s.Deployment)
	var newest time.Time
	var identity string
	for _, kind := range []enumspb.TaskQueueType{enumspb.TASK_QUEUE_TYPE_WORKFLOW, enumspb.TASK_QUEUE_TYPE_ACTIVITY} {
		d, err := c.DescribeTaskQueue(ctx, queue, kind)
		if err != nil {
			e.add("worker", StatusFail, err.Error(), "see whether Temporal is healthy, and try again")
			return
		}
		if len(d.GetPollers()) == 0 {
			e.add("worker", StatusWarn, "none has polled task queue "+queue+" in the last minutes, so runs start and wait",
				"start the worker with PENSTOCK_DEPLOYMENT="+s.Deployment+"; a serverless one that is at zero comes by itself with the next run")
			return
		}
		for _, p := range d.GetPollers() {
			if at := p.GetLastAccessTime().AsTime(); at.After(newest) {
				newest, identity = at, p.GetIdentity()
			}
		}
	}
	e.add("worker", StatusOK, fmt.Sprintf("%s polled task queue %s at %s", identity, queue, newest.UTC().Format(time.RFC3339)), "")
}

// dataflow asks for jobs of a name that no job has: it needs the right to list jobs, and costs one call.
func (e *examination) dataflow(ctx context.Context, s Subject) {
	if s.Project == "" || s.Location == "" {
		e.add("dataflow", StatusSkipped, "the project or the location is not known", "set GOOGLE_CLOUD_PROJECT and PENSTOCK_LOCATION")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	c, err := s.Dataflow(ctx)
	if err == nil {
		_, err = c.Find(ctx, s.Project, s.Location, "penstock-doctor")
	}
	if err == nil {
		e.add("dataflow", StatusOK, fmt.Sprintf("jobs in %s/%s can be listed", s.Project, s.Location), "")
		return
	}
	do := "see whether the address and the network are right (DATAFLOW_ENDPOINT)"
	switch dataflow.KindOf(err) {
	case dataflow.KindPermission:
		do = "enable dataflow.googleapis.com in the project, and give the worker's service account roles/dataflow.developer, yourself roles/dataflow.viewer"
	case dataflow.KindNotFound, dataflow.KindInvalid:
		do = "set GOOGLE_CLOUD_PROJECT to the project's ID and PENSTOCK_LOCATION to a region of Dataflow"
	case "":
		do = "run gcloud auth application-default login, or set DATAFLOW_ENDPOINT to a local emulator"
	}
	e.add("dataflow", StatusFail, err.Error(), do)
}

// functions sees whether an entry point answers. It takes events by POST alone, so a GET does nothing: 405 says that it is there.
func (e *examination) functions(ctx context.Context, s Subject) {
	if s.FunctionsURL == "" {
		e.add("functions", StatusSkipped, "their address is not known", "set PENSTOCK_FUNCTIONS_URL")
		return
	}
	const entryPoint = "StorageTrigger"
	address, err := url.JoinPath(s.FunctionsURL, entryPoint)
	if err != nil {
		e.add("functions", StatusFail, err.Error(), "set PENSTOCK_FUNCTIONS_URL to their base URL")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		e.add("functions", StatusFail, err.Error(), "set PENSTOCK_FUNCTIONS_URL to their base URL")
		return
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		e.add("functions", StatusFail, err.Error(), "see whether they are deployed, and whether this place may reach them")
		return
	}
	defer func() { _ = answer.Body.Close() }()              // only read from
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 512)) // what of it there is explains the status
	detail := fmt.Sprintf("%s answers %s", address, answer.Status)
	switch answer.StatusCode {
	case http.StatusMethodNotAllowed:
		e.add("functions", StatusOK, address+" answers", "")
	case http.StatusUnauthorized, http.StatusForbidden:
		e.add("functions", StatusOK, detail+": it is there, and not open to you", "")
	case http.StatusNotFound:
		e.add("functions", StatusFail, detail, "set PENSTOCK_FUNCTIONS_URL to the base URL below which "+entryPoint+" is served")
	default:
		e.add("functions", StatusFail, detail+": "+strings.TrimSpace(string(body)), "see the function's log")
	}
}
