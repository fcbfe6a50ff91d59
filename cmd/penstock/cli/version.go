package cli

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionAnswer is what version answers.
type versionAnswer struct {
	Version  string `json:"version"` // of the module; "(devel)" for a build of a working tree
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"` // the working tree had uncommitted changes
	Time     string `json:"time,omitempty"`     // of the revision
	Go       string `json:"go"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which build this is",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := buildVersion(debug.ReadBuildInfo())
			if a.out.json {
				return a.out.document(v)
			}
			a.out.printf("penstock %s", v.Version)
			if v.Revision != "" {
				a.out.printf(" (%s", v.Revision)
				if v.Modified {
					a.out.printf(", modified")
				}
				a.out.printf(")")
			}
			a.out.printf(", %s\n", v.Go)
			return nil
		},
	}
}

func buildVersion(info *debug.BuildInfo, ok bool) versionAnswer {
	if !ok {
		return versionAnswer{Version: "unknown"}
	}
	v := versionAnswer{Version: info.Main.Version, Go: info.GoVersion}
	if v.Version == "" {
		v.Version = "(devel)"
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
