// Package service is what a user can ask Penstock for: which runs there are, what became of one and why, to cancel
// one, what an event would do, and whether a deployment is sound. The command line is a face of it.
//
// It reads what functions and worker wrote: run IDs, memos, results and histories in Temporal, and Dataflow's jobs. Its
// exported types marshal as JSON; fields are only ever added to them.
package service

import (
	"context"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/runs"
)

// Service answers for the runs of one deployment. Use New.
type Service struct {
	temporal   client.Client
	namespace  string
	deployment string
	ui         string
	dataflow   string // base URL of an emulator
	patience   time.Duration
	ledger     *ledger.Ledger
	converter  converter.DataConverter
}

// Options configure New.
type Options struct {
	Deployment string // see runs.CheckDeployment
	Namespace  string // of Temporal
	// UI is the base URL of Temporal's web UI, to which runs are linked. Empty: they are not.
	UI string
	// DataflowEndpoint is the base URL of a Dataflow that is not Google's, to which jobs are then linked. Empty: they are
	// linked to Google Cloud's console.
	DataflowEndpoint string
	// Patience is how long an open run's worker may take to say how far it is, before its history has to. Defaults to
	// 3 seconds.
	Patience time.Duration
	// Ledger has the final records of runs that Temporal has forgotten; nil: there is none. The caller closes it.
	Ledger *ledger.Ledger
}

// New makes the service of a deployment whose runs lie in c's namespace.
func New(c client.Client, o Options) (*Service, error) {
	if err := runs.CheckDeployment(o.Deployment); err != nil {
		return nil, err
	}
	s := &Service{temporal: c, namespace: o.Namespace, deployment: o.Deployment, ui: o.UI, dataflow: o.DataflowEndpoint, patience: o.Patience, ledger: o.Ledger, converter: converter.GetDefaultDataConverter()}
	if s.patience == 0 {
		s.patience = 3 * time.Second
	}
	return s, nil
}

// callTimeout bounds each call of Temporal, beside the caller's own deadline.
const callTimeout = 20 * time.Second

func call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callTimeout)
}
