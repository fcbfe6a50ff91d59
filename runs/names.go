// Package runs is what the functions, the worker and the service share about a
// run: its names, its workflows' inputs and results, its signals and its search
// attributes.
//
// Everything here outlives a release: names decide what is a duplicate, inputs
// and results lie in the histories of running workflows. A golden file freezes
// the names, a version number stands in every record.
package runs

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Bounds of the names. The first three keep a job name within 63 characters,
// which also makes it a valid label value.
const (
	maxJobName    = 63
	jobHashLen    = 13 // base32 characters: 65 bits
	attemptDigits = 4  // reserved for every attempt, so that a step's names differ in the number only

	// MaxAttempt is the highest attempt number that a job name can carry.
	MaxAttempt = 9999

	// maxReadableRunID is the length in bytes up to which a run ID spells its key out.
	maxReadableRunID = 200
	hashedKeyHint    = 48 // readable bytes kept in front of a hashed key
)

var deploymentRE = regexp.MustCompile(`^[a-z][a-z0-9]{1,11}$`)

// CheckDeployment says whether id can name a deployment: 2 to 12 lower-case
// letters and digits, beginning with a letter. The form has no dash and no
// slash, so that one deployment's names are never a prefix of another's.
func CheckDeployment(id string) error {
	if !deploymentRE.MatchString(id) {
		return fmt.Errorf("deployment ID %q is not 2 to 12 lower-case letters and digits beginning with a letter; set PENSTOCK_DEPLOYMENT, for example to \"prod\"", id)
	}
	return nil
}

// TaskQueue is the Temporal task queue that the deployment's workers poll.
func TaskQueue(deployment string) string { return "penstock-" + deployment }

// RunID is the Temporal workflow ID of the run of a pipeline for a key:
// "<deployment>/<pipeline>/<key>".
//
// It is a pure function, it is printable ASCII whatever the key holds (the Go SDK
// refuses other workflow IDs), and two keys never share an ID. An ordinary key
// stands in it as it is; a key that would make the ID longer than 200 bytes, that
// holds other bytes than printable ASCII, that begins with "~" or ends with a
// space is replaced by "~", some of its readable characters, "~" and its SHA-256.
func RunID(deployment, pipeline, key string) string {
	prefix := deployment + "/" + pipeline + "/"
	if plainKey(key) && len(prefix)+len(key) <= maxReadableRunID {
		return prefix + key
	}
	sum := sha256.Sum256([]byte(key))
	return prefix + "~" + hint(key) + "~" + hex.EncodeToString(sum[:])
}

// ParseRunID takes a run ID apart. exact says that key is the run's key itself;
// otherwise the ID holds a hash and key is empty: the key is then in the run's memo.
// ok is false for an ID that RunID does not make.
func ParseRunID(id string) (deployment, pipeline, key string, exact, ok bool) {
	parts := strings.SplitN(id, "/", 3)
	if len(parts) != 3 || !deploymentRE.MatchString(parts[0]) || parts[1] == "" || parts[1] == SweepName || parts[2] == "" {
		return "", "", "", false, false
	}
	if strings.HasPrefix(parts[2], "~") {
		return parts[0], parts[1], "", false, true
	}
	return parts[0], parts[1], parts[2], true, true
}

// SweepName is the second part of a sweep's workflow ID, and therefore no name
// for a pipeline.
const SweepName = "sweep"

func plainKey(key string) bool {
	if key == "" || key[0] == '~' || key[len(key)-1] == ' ' {
		return false
	}
	for i := range len(key) {
		if key[i] < 0x20 || key[i] > 0x7e {
			return false
		}
	}
	return true
}

// hint keeps the characters of a key that are safe to read anywhere.
func hint(key string) string {
	b := make([]byte, 0, hashedKeyHint)
	for i := 0; i < len(key) && len(b) < hashedKeyHint; i++ {
		c := key[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '/', c == ':', c == '#':
			b = append(b, c)
		case len(b) > 0 && b[len(b)-1] != '_':
			b = append(b, '_')
		}
	}
	return string(b)
}

// JobName is the Dataflow job name of an attempt (from 1) of a step:
// "<deployment>-<pipeline>-<step>-<hash>-<attempt>", at most 63 characters. The
// readable parts are cut to fit; the hash covers deployment, pipeline, key and
// step, so that names differ where any of them does.
//
// It panics on an attempt outside 1 to MaxAttempt: the caller counts attempts and
// a step's retry limit is far below.
func JobName(deployment, pipeline, key, step string, attempt int) string {
	if attempt < 1 || attempt > MaxAttempt {
		panic(fmt.Sprintf("runs: attempt %d is outside 1 to %d", attempt, MaxAttempt))
	}
	room := maxJobName - len(deployment) - jobHashLen - attemptDigits - len("----")
	p, s := fit(pipeline, step, room)
	return fmt.Sprintf("%s-%s-%s-%s-%d", deployment, p, s, jobHash(deployment, pipeline, key, step), attempt)
}

// fit cuts the longer of two parts, then both, until they fit into room together.
func fit(a, b string, room int) (string, string) {
	if len(a)+len(b) > room {
		half := room / 2
		switch {
		case len(a) <= half:
			b = b[:room-len(a)]
		case len(b) <= half:
			a = a[:room-len(b)]
		default:
			a, b = a[:half], b[:room-half]
		}
	}
	return strings.TrimRight(a, "-"), strings.TrimRight(b, "-")
}

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func jobHash(parts ...string) string {
	return base32Lower.EncodeToString(digest(parts...))[:jobHashLen]
}

// digest hashes the parts with their lengths, so that moving a character from one
// part to the next makes another digest.
func digest(parts ...string) []byte {
	h := sha256.New()
	for _, p := range parts {
		_, _ = h.Write([]byte(strconv.Itoa(len(p)) + ":" + p)) // a hash never fails to write
	}
	return h.Sum(nil)
}

// OurJobName says whether a Dataflow job name has the form of this deployment's
// names. It is needed, not sufficient, for the job to be ours: its
// penstock_deployment label decides.
func OurJobName(deployment, name string) bool {
	return strings.HasPrefix(name, deployment+"-")
}

// JobWorkflowID is the Temporal workflow ID of the workflow that launches and
// watches the Dataflow job of a name: "dataflow/<project>/<location>/<job name>".
// A job-status event carries all three parts, so that nothing has to be looked up
// to signal it. project is the project's ID, not its number.
func JobWorkflowID(project, location, jobName string) string {
	return "dataflow/" + project + "/" + location + "/" + jobName
}

// Label keys that every job of ours carries.
const (
	LabelDeployment = "penstock_deployment"
	LabelPipeline   = "penstock_pipeline"
	LabelRun        = "penstock_run"
	LabelSpec       = "penstock_spec"
)

// DeploymentLabel is the value of LabelDeployment: the deployment and 8 hexadecimal
// digits of a hash of the Temporal namespace's UUID, so that a deployment of the
// same ID in another namespace is foreign.
func DeploymentLabel(deployment, namespaceUUID string) string {
	return deployment + "-" + hex.EncodeToString(digest(namespaceUUID))[:8]
}

// RunLabel is the value of LabelRun: a hash of the run ID, which itself does not
// fit into a label.
func RunLabel(runID string) string { return hex.EncodeToString(digest(runID))[:32] }
