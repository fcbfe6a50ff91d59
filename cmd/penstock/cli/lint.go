package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/pipeline"
)

// lintAnswer is what lint answers.
type lintAnswer struct {
	Pipelines []string          `json:"pipelines"` // the names of the usable ones
	Problems  pipeline.Problems `json:"problems"`
}

func (a *app) lintCommand() *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint [PATH...]",
		Short: "Check pipelines files",
		Long: `Check pipelines files, or folders of them, and report every mistake at once as
file:line:col: message (what to try).

Without a PATH the folder of $PENSTOCK_PIPELINES is checked, else ./pipelines.`,
		Example: "  penstock lint\n  penstock lint pipelines/orders.yaml -o json",
		RunE: func(_ *cobra.Command, paths []string) error {
			if len(paths) == 0 {
				paths = []string{a.pipelinesFolder()}
			}
			set, problems := loadPipelines(paths)
			if len(problems) == 0 && len(set.Pipelines()) == 0 {
				problems = pipeline.Problems{{File: paths[0], Message: "no pipelines files (*.yaml, *.yml)", Hint: "penstock init writes a first one"}}
			}
			invalid := problems.HasErrors() || strict && len(problems) > 0
			if a.out.json {
				answer := lintAnswer{Pipelines: []string{}, Problems: problems}
				for _, p := range set.Pipelines() {
					answer.Pipelines = append(answer.Pipelines, p.Name)
				}
				if answer.Problems == nil {
					answer.Problems = pipeline.Problems{}
				}
				if err := a.out.document(answer); err != nil {
					return err
				}
			} else {
				for _, p := range problems {
					a.out.printf("%s\n", clean(p.Error()))
				}
				if len(problems) == 0 {
					a.out.printf("%s, no problems\n", count(len(set.Pipelines()), "pipeline"))
				}
			}
			if invalid {
				return &exitError{code: ExitInvalid}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "let a warning fail, too")
	return cmd
}

// loadPipelines reads files and folders as if they lay in one folder.
func loadPipelines(paths []string) (*pipeline.Set, pipeline.Problems) {
	var files []string
	var problems pipeline.Problems
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			files = append(files, path)
			continue
		}
		found, err := pipeline.Files(path)
		if err != nil {
			problems = append(problems, pipeline.Problem{File: path, Message: err.Error(), Hint: "name a pipelines file, or a folder that holds some"})
		}
		files = append(files, found...)
	}
	set, found := pipeline.LoadFiles(files)
	return set, append(problems, found...)
}

func (a *app) pipelinesFolder() string {
	if dir := a.env.get("PENSTOCK_PIPELINES"); dir != "" {
		return dir
	}
	return "pipelines"
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
