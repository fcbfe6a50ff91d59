package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/pipeline"
)

// schemaURL is where editors find the schema of pipelines files.
const schemaURL = "https://raw.githubusercontent.com/penstock/penstock/main/schemas/pipeline.schema.json"

// initAnswer is what init answers.
type initAnswer struct {
	File     string `json:"file"`
	Pipeline string `json:"pipeline"`
}

// first is the first pipelines file.
type first struct{ Name, Owner, Bucket, Template string }

var firstFile = template.Must(template.New("first").Funcs(template.FuncMap{"yaml": yamlString}).Parse(
	`# yaml-language-server: $schema=` + schemaURL + `
# penstock lint checks this file; penstock explain EVENT.json says what an event would do.
name: {{yaml .Name}}
purpose: Say in a sentence what this is for, to whoever finds a run of it.
owner: {{yaml .Owner}}

# Which events start it, once for each event however often that is delivered.
on:
  - storage: {bucket: {{yaml .Bucket}}, object: "incoming/{date}/*.csv"}
    when: event.size > 0

# What runs: one Dataflow job a step, from a template.
steps:
  - name: load
    dataflow:
      template: {{yaml .Template}}
      parameters:
        input: ${event.uri}
        output: gs://{{.Bucket}}/processed/${object.date}/
      environment: {maxWorkers: 4}
    timeout: 2h
    retry: {attempts: 3}
`))

var plainYAML = regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)

// yamlString writes a value so that YAML reads it back as that string.
func yamlString(s string) string {
	// Words that some YAML reads as something else are as well quoted.
	if plainYAML.MatchString(s) && s != "true" && s != "false" && s != "null" && len(s) > 3 {
		return s
	}
	return strconv.QuoteToASCII(s)
}

func (a *app) initCommand() *cobra.Command {
	var f first
	cmd := &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a first pipelines file",
		Long: `Write a first pipelines file to begin from. A file that is there is left alone.

Without FILE it is named after the pipeline and lies in the folder of
$PENSTOCK_PIPELINES, else in ./pipelines.`,
		Example: "  penstock init --name orders --bucket acme-landing",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			file := filepath.Join(a.pipelinesFolder(), f.Name+".yaml")
			if len(args) == 1 {
				file = args[0]
			}
			if ext := filepath.Ext(file); ext != ".yaml" && ext != ".yml" {
				return usage("%s is no name for a pipelines file: end it in .yaml", file)
			}
			var b strings.Builder
			if err := firstFile.Execute(&b, f); err != nil {
				return fmt.Errorf("make the first pipelines file: %w", err)
			}
			if _, problems := pipeline.Parse(file, []byte(b.String())); len(problems) > 0 {
				return usage("with these values the file would be wrong:\n%w", problems)
			}
			if err := writeNew(file, b.String()); err != nil {
				return err
			}
			if a.out.json {
				return a.out.document(initAnswer{File: file, Pipeline: f.Name})
			}
			a.out.printf("wrote %s\n", clean(file))
			a.out.printf("edit it, then check it: penstock lint %s\n", clean(file))
			return nil
		},
	}
	cmd.Flags().StringVar(&f.Name, "name", "first", "name of the pipeline")
	cmd.Flags().StringVar(&f.Owner, "owner", "data-team@example.com", "who to ask about it")
	cmd.Flags().StringVar(&f.Bucket, "bucket", "my-landing", "bucket whose new objects start it")
	cmd.Flags().StringVar(&f.Template, "template", "gs://my-templates/load.json", "flex template that it launches")
	return cmd
}

func writeNew(file, text string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make the folder of pipelines files: %w", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists and is left alone: name another file, or another pipeline with --name", file)
	}
	if err != nil {
		return fmt.Errorf("write the first pipelines file: %w", err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the first pipelines file: %w", err)
	}
	return nil
}
