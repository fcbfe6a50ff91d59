package worker

import (
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/runs"
)

// defaultOverdue is the default of PENSTOCK_OVERDUE: a day, which is also a step's
// default timeout.
const defaultOverdue = 24 * time.Hour

// SettingsFromEnv reads Settings from the environment, through getenv:
//
//	PENSTOCK_DEPLOYMENT              the deployment's ID; needed
//	DATAFLOW_ENDPOINT                base URL of the Dataflow API; default Google's
//	PENSTOCK_LEDGER                  where the ledger lies: gs://BUCKET/PREFIX or a folder;
//	                                 default none
//	PENSTOCK_HEALTH_ADDRESS          default ":8080" (":" and PORT where that is set)
//	TEMPORAL_DEPLOYMENT_NAME,
//	TEMPORAL_WORKER_BUILD_ID         the Worker Deployment Version; both or none
//	PENSTOCK_VERSIONING              auto-upgrade (the default) or pinned
//	PENSTOCK_LOOKUP_HORIZON, PENSTOCK_SAFETY_INTERVAL, PENSTOCK_CANCEL_GRACE,
//	PENSTOCK_DRAIN_GRACE, PENSTOCK_HAND_OVER, PENSTOCK_CALL_TIMEOUT,
//	PENSTOCK_ORPHAN_RECHECK, PENSTOCK_SWEEP_GATHER
//	                                 Timing, as Go durations
//	PENSTOCK_ORPHANS                 what becomes of a job that nobody watches: report (the
//	                                 default), adopt, drain or cancel
//	PENSTOCK_OVERDUE                 how long a batch run may be open before it is reported, as a
//	                                 Go duration; default 24h; off: never
//
// Its error names every variable that is wrong.
func SettingsFromEnv(getenv func(string) string) (Settings, error) {
	s := Settings{
		Deployment:       getenv("PENSTOCK_DEPLOYMENT"),
		DataflowEndpoint: getenv("DATAFLOW_ENDPOINT"),
		Ledger:           getenv("PENSTOCK_LEDGER"),
		HealthAddress:    getenv("PENSTOCK_HEALTH_ADDRESS"),
		Orphans:          runs.OrphanRule(getenv("PENSTOCK_ORPHANS")),
		Overdue:          defaultOverdue,
	}
	if s.HealthAddress == "" {
		port := getenv("PORT")
		if port == "" {
			port = "8080"
		}
		s.HealthAddress = ":" + port
	}
	var errs []error
	if err := s.Orphans.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("PENSTOCK_ORPHANS: %w", err))
	}
	for _, t := range []struct {
		name string
		to   *time.Duration
	}{
		{"PENSTOCK_LOOKUP_HORIZON", &s.Timing.Horizon},
		{"PENSTOCK_SAFETY_INTERVAL", &s.Timing.Safety},
		{"PENSTOCK_CANCEL_GRACE", &s.Timing.CancelGrace},
		{"PENSTOCK_DRAIN_GRACE", &s.Timing.DrainGrace},
		{"PENSTOCK_HAND_OVER", &s.Timing.HandOver},
		{"PENSTOCK_CALL_TIMEOUT", &s.Timing.Call},
		{"PENSTOCK_ORPHAN_RECHECK", &s.Timing.OrphanRecheck},
		{"PENSTOCK_SWEEP_GATHER", &s.Timing.Gather},
		{"PENSTOCK_OVERDUE", &s.Overdue},
	} {
		if t.to == &s.Overdue && getenv(t.name) == "off" {
			s.Overdue = 0
			continue
		}
		if v := getenv(t.name); v != "" {
			d, err := time.ParseDuration(v)
			if err != nil || d <= 0 {
				errs = append(errs, fmt.Errorf("%s is %q; set it to a positive duration such as 90s or 2m, or leave it empty", t.name, v))
				continue
			}
			*t.to = d
		}
	}
	name, build, versioning := getenv("TEMPORAL_DEPLOYMENT_NAME"), getenv("TEMPORAL_WORKER_BUILD_ID"), getenv("PENSTOCK_VERSIONING")
	if (name == "") != (build == "") {
		errs = append(errs, errors.New("TEMPORAL_DEPLOYMENT_NAME and TEMPORAL_WORKER_BUILD_ID go together; set both or none"))
	}
	if name != "" && build != "" {
		s.Version = &Version{DeploymentName: name, BuildID: build, Pinned: versioning == "pinned"}
	}
	switch versioning {
	case "", "auto-upgrade", "pinned":
		if versioning != "" && s.Version == nil {
			errs = append(errs, errors.New("PENSTOCK_VERSIONING needs TEMPORAL_DEPLOYMENT_NAME and TEMPORAL_WORKER_BUILD_ID"))
		}
	default:
		errs = append(errs, fmt.Errorf("PENSTOCK_VERSIONING is %q; set it to auto-upgrade or pinned", versioning))
	}
	if err := errors.Join(errs...); err != nil {
		return Settings{}, fmt.Errorf("read the worker's environment: %w", err)
	}
	return s, nil
}
