package dataflowemulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
)

// mapFile is the JSON of an image map.
type mapFile struct {
	Images    map[string]mapImage `json:"images"`
	Templates map[string]string   `json:"templates"`
}

type mapImage struct {
	Command     []string    `json:"command"`
	Args        []string    `json:"args"`
	SDK         SDK         `json:"sdk"`
	Env         []string    `json:"env"`
	Dir         string      `json:"dir"`
	Script      []mapStep   `json:"script"`
	Launches    [][]mapStep `json:"launches"`
	Streaming   bool        `json:"streaming"`
	StopTakes   duration    `json:"stopTakes"`
	StuckCancel bool        `json:"stuckCancel"`
}

type mapStep struct {
	After    duration         `json:"after"`
	State    string           `json:"state"`
	Message  string           `json:"message"`
	Counters map[string]int64 `json:"counters"`
}

type duration time.Duration

// UnmarshalJSON reads a text such as "200ms".
func (d *duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return errors.New(`a duration is a string such as "200ms"`)
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 200ms or 5s", s)
	}
	*d = duration(v)
	return nil
}

// ReadImages reads an image map from a JSON file, in which relative paths of programs, folders and templates are relative to the file's folder. defaults gives each
// Command what the file does not say: Prism, Logs, Grace, and variables that go before its own. docs/dataflow-emulator.md describes the file.
func ReadImages(path string, defaults Command) (images map[string]Program, templates map[string]string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the image map: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var file mapFile
	if err := d.Decode(&file); err != nil {
		return nil, nil, fmt.Errorf("read the image map %s: %w", path, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, nil, fmt.Errorf("read the image map %s: there is text after the JSON object", path)
	}
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, nil, fmt.Errorf("read the image map %s: %w", path, err)
	}
	images, templates = map[string]Program{}, map[string]string{}
	for image, m := range file.Images {
		if images[image], err = m.program(folder, defaults); err != nil {
			return nil, nil, fmt.Errorf("read the image map %s: image %q: %w", path, image, err)
		}
	}
	for template, file := range file.Templates {
		if _, _, ok := splitGS(template); !ok {
			return nil, nil, fmt.Errorf("read the image map %s: template %q: it must be a path gs://bucket/object", path, template)
		}
		templates[template] = within(folder, file)
	}
	return images, templates, nil
}

// within resolves a relative path against the map's folder.
func within(folder, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(folder, path)
}

func (m mapImage) program(folder string, defaults Command) (Program, error) {
	scripted := m.Script != nil || m.Launches != nil
	switch {
	case scripted == (m.Command != nil):
		return nil, errors.New("it must have either a command or a script")
	case scripted:
		return m.script()
	case len(m.Command) == 0 || m.Command[0] == "":
		return nil, errors.New("its command is empty")
	case m.SDK != "" && m.Args == nil && sdkArgs[m.SDK] == nil:
		return nil, fmt.Errorf("its sdk %q is not one of go, python and none; give its args", m.SDK)
	}
	c := defaults
	c.Argv = append([]string{}, m.Command...)
	// A bare name is looked up on the PATH; a path is the map's.
	if strings.ContainsRune(c.Argv[0], filepath.Separator) {
		c.Argv[0] = within(folder, c.Argv[0])
	}
	c.Args, c.SDK, c.Streaming = m.Args, m.SDK, m.Streaming
	c.Env = append(append([]string{}, defaults.Env...), m.Env...)
	if m.Dir != "" {
		c.Dir = within(folder, m.Dir)
	}
	return c, nil
}

func (m mapImage) script() (Program, error) {
	s := Script{Streaming: m.Streaming, StopTakes: time.Duration(m.StopTakes), StuckCancel: m.StuckCancel}
	launches := m.Launches
	if m.Script != nil {
		if launches != nil {
			return nil, errors.New("it must have either a script or launches, one script each")
		}
		launches = [][]mapStep{m.Script}
	}
	for i, steps := range launches {
		var script []Step
		for k, step := range steps {
			var state pb.JobState
			if step.State != "" {
				n, ok := pb.JobState_value["JOB_STATE_"+strings.TrimPrefix(step.State, "JOB_STATE_")]
				if !ok {
					return nil, fmt.Errorf("step %d of script %d: %q is not a job state such as RUNNING, DONE or FAILED", k+1, i+1, step.State)
				}
				state = pb.JobState(n)
			}
			script = append(script, Step{After: time.Duration(step.After), State: state, Message: step.Message, Counters: step.Counters})
		}
		s.Launches = append(s.Launches, script)
	}
	return s, nil
}
