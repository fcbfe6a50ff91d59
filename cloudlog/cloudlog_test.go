package cloudlog_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/penstock/penstock/cloudlog"
)

func TestLinesHaveCloudLoggingsFields(t *testing.T) {
	for level, severity := range map[slog.Level]string{slog.LevelDebug: "DEBUG", slog.LevelInfo: "INFO", slog.LevelWarn: "WARNING", slog.LevelError: "ERROR"} {
		var out bytes.Buffer
		cloudlog.New(&out, slog.LevelDebug).Log(t.Context(), level, "it happened", slog.Group("object", "level", "kept"))
		var line struct {
			Severity, Message, Time string
			Object                  struct{ Level string }
		}
		if err := json.Unmarshal(out.Bytes(), &line); err != nil {
			t.Fatalf("%v in %s", err, out.Bytes())
		}
		if line.Severity != severity || line.Message != "it happened" || line.Time == "" || line.Object.Level != "kept" {
			t.Errorf("%v: line %s, want severity %s", level, out.Bytes(), severity)
		}
	}
}

func TestLevelNames(t *testing.T) {
	for name, want := range map[string]slog.Level{"": slog.LevelInfo, "debug": slog.LevelDebug, "WARN": slog.LevelWarn, "loud": slog.LevelInfo} {
		if got := cloudlog.Level(name); got != want {
			t.Errorf("Level(%q) = %v, want %v", name, got, want)
		}
	}
}
