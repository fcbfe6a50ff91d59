package functions

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/penstock/penstock/runs"
)

// settings is what the environment says about a deployment.
type settings struct {
	deployment string
	project    string // ID of the project that jobs run in
	location   string // region of jobs whose step names none
	pipelines  string // folder of the pipelines files
	deadLetter string // full name of the dead-letter topic; empty when there is none
}

// The environment variables of the functions, besides Temporal's own.
const (
	envDeployment = "PENSTOCK_DEPLOYMENT"
	envPipelines  = "PENSTOCK_PIPELINES"
	envLocation   = "PENSTOCK_LOCATION"
	envDeadLetter = "PENSTOCK_DEAD_LETTER_TOPIC"
	envLogLevel   = "PENSTOCK_LOG_LEVEL"
	envProject    = "GOOGLE_CLOUD_PROJECT"
)

var (
	projectRE  = regexp.MustCompile(`^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$`) // a domain may stand before it
	locationRE = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	topicRE    = regexp.MustCompile(`^projects/[^/]+/topics/[^/]+$`)
)

// readSettings reads the environment and reports every mistake in it at once.
func readSettings(getenv func(string) string) (settings, error) {
	s := settings{
		deployment: getenv(envDeployment),
		project:    getenv(envProject),
		location:   getenv(envLocation),
		pipelines:  pipelinesFolder(getenv(envPipelines)),
		deadLetter: getenv(envDeadLetter),
	}
	var errs []error
	if err := runs.CheckDeployment(s.deployment); err != nil {
		errs = append(errs, err)
	}
	if !projectRE.MatchString(s.project) {
		errs = append(errs, fmt.Errorf("%s is %q, which is not a project ID; set it to the ID, not the number, of the project that jobs run in", envProject, s.project))
	}
	if !locationRE.MatchString(s.location) {
		errs = append(errs, fmt.Errorf("%s is %q, which is not a region; set it to the region that jobs run in, for example us-central1", envLocation, s.location))
	}
	if s.deadLetter != "" && !topicRE.MatchString(s.deadLetter) {
		errs = append(errs, fmt.Errorf("%s is %q; set it to a topic's full name, projects/PROJECT/topics/TOPIC, or leave it empty", envDeadLetter, s.deadLetter))
	}
	if err := errors.Join(errs...); err != nil {
		return settings{}, fmt.Errorf("read the function's environment: %w", err)
	}
	return s, nil
}

// sourceFolder is where the Go buildpack of Cloud Functions moves what was uploaded, below the directory that the function
// runs in.
const sourceFolder = "serverless_function_source_code"

// pipelinesFolder finds the folder that was deployed with the function where the environment names none, or names it as it
// was called in the upload.
func pipelinesFolder(name string) string {
	if name == "" {
		name = "pipelines"
	}
	if filepath.IsAbs(name) || strings.Contains(name, "://") {
		return name
	}
	if _, err := os.Stat(name); err != nil {
		if deployed := filepath.Join(sourceFolder, name); isDir(deployed) {
			return deployed
		}
	}
	return name
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
