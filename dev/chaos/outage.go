package chaos

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock/penstock/dev/stack"
)

// outages are scenarios in which what Penstock stands on goes away.
var outages = []Scenario{
	{
		Name:  "temporal-killed",
		Alone: true,
		What:  "Temporal is killed every 10 s, six times, while events come in and jobs run and end: nothing is lost, nothing runs twice.",
		Bound: 2 * time.Minute,
		Setup: Setup{Env: []string{patient}},
		Run: func(ctx context.Context, b *Bench) error {
			const kills, apart = 6, 10 * time.Second
			sending := b.Send(ctx, Load{Events: b.Shuffle(Repeat(b.Objects("orders", b.N(300)), 2)), Over: kills * apart})
			for range kills {
				if err := b.Sleep(ctx, apart-time.Second); err != nil {
					return err
				}
				if err := b.Kill("temporal"); err != nil {
					return err
				}
				if err := b.Sleep(ctx, time.Second); err != nil {
					return err
				}
				if err := b.Start(ctx, "temporal"); err != nil {
					return err
				}
			}
			return sending.Wait()
		},
	},
	{
		Name:  "beam",
		What:  "The weather example's real Beam jobs run, and the worker is killed in the middle: each file gives its figures, once.",
		Bound: 2 * time.Minute,
		Setup: Setup{PipelinesFrom: "examples/weather/pipelines", Stack: weather},
		Run:   beam,
	},
}

// weather makes a stack run the jobs of the weather example.
func weather(o *stack.Options) {
	example := filepath.Join(o.Root, "examples", "weather")
	o.ImageMap = filepath.Join(example, "images.json")
	o.Seed = map[string]string{"weather-templates": filepath.Join(example, "templates")}
}

func beam(ctx context.Context, b *Bench) error {
	files, err := filepath.Glob(filepath.Join(b.options.root, "examples", "weather", "data", "seattle-*.csv"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("find the observations of the weather example: %d files (%w)", len(files), err)
	}
	var years []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read the observations: %w", err)
		}
		if _, err := b.UploadAs(ctx, "weather-landing", "daily/"+filepath.Base(file), "weather", string(text)); err != nil {
			return err
		}
		years = append(years, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "seattle-"), ".csv"))
	}
	if err := b.Await(ctx, "a job runs", func() (bool, error) {
		jobs, err := b.Jobs()
		for _, j := range jobs {
			if j.State == "JOB_STATE_RUNNING" {
				return true, err
			}
		}
		return false, err
	}); err != nil {
		return err
	}
	if err := b.Kill("worker"); err != nil {
		return err
	}
	if err := b.Sleep(ctx, 3*time.Second); err != nil {
		return err
	}
	if err := b.Start(ctx, "worker"); err != nil {
		return err
	}
	if err := b.AwaitClosed(ctx); err != nil {
		return nil //nolint:nilerr // the check says which is open
	}
	for _, year := range years {
		r, err := b.Store.Bucket("weather-summaries").Object("seattle/" + year + ".csv").NewReader(ctx)
		if err != nil {
			b.Fail("the figures of %s were not written: %v", year, err)
			continue
		}
		text, err := io.ReadAll(r)
		_ = r.Close() // it was read
		if err != nil {
			return fmt.Errorf("read the figures of %s: %w", year, err)
		}
		if months := strings.Count(string(text), "seattle,"+year+"-"); months != 12 {
			b.Fail("the figures of %s have %d months, want 12", year, months)
		}
	}
	return nil
}
