// Command generate writes what follows from the descriptions of the pipelines file's fields: its JSON Schema and the reference
// part of docs/pipelines.md. Run it by `go generate ./pipeline`.
package main

import (
	"fmt"
	"os"

	"github.com/penstock/penstock/pipeline"
)

func main() {
	if err := run("../schemas/pipeline.schema.json", "../docs/pipelines.md"); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// run takes paths from the folder of package pipeline, where go generate runs.
func run(schema, page string) error {
	if err := os.WriteFile(schema, pipeline.Schema(), 0o644); err != nil {
		return fmt.Errorf("write the schema: %w", err)
	}
	old, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("read the reference page: %w", err)
	}
	updated, err := pipeline.UpdateReference(old)
	if err != nil {
		return fmt.Errorf("update %s: %w", page, err)
	}
	if err := os.WriteFile(page, updated, 0o644); err != nil {
		return fmt.Errorf("write the reference page: %w", err)
	}
	return nil
}
