// Package cloudlog makes the loggers of what runs on Google Cloud: one JSON object a
// line on standard error, with the field names that Cloud Logging takes out of it.
package cloudlog

import (
	"io"
	"log/slog"
)

// Field names that Cloud Logging gives a meaning.
//
// Source: https://cloud.google.com/logging/docs/structured-logging#special-payload-fields
const (
	FieldTrace  = "logging.googleapis.com/trace"
	FieldSpan   = "logging.googleapis.com/spanId"
	FieldLabels = "logging.googleapis.com/labels"
)

// New makes a logger that writes to w what is at level or above.
func New(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: rename}))
}

// Level reads a level's name, as debug or WARN. Anything else, an empty name among
// it, is info.
func Level(name string) slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return slog.LevelInfo
	}
	return level
}

func rename(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.MessageKey:
		a.Key = "message"
	case slog.LevelKey:
		a.Key = "severity"
		if level, ok := a.Value.Any().(slog.Level); ok && level == slog.LevelWarn {
			a.Value = slog.StringValue("WARNING")
		}
	}
	return a
}
