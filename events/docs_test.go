package events_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/penstock/penstock/events"
)

// The examples in docs/events.md are events, and have the identities that the page's table gives them.
func TestDocumentedExamplesDecode(t *testing.T) {
	page, err := os.ReadFile("../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	var seen int
	for _, block := range regexp.MustCompile("(?s)```[a-z]*\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		if !strings.HasPrefix(block[1], "{") && !strings.HasPrefix(block[1], "POST ") {
			continue
		}
		seen++
		e, err := events.FromJSON([]byte(block[1]), "")
		if err != nil {
			t.Errorf("%v in\n%s", err, block[1])
			continue
		}
		if !strings.Contains(string(page), "`"+e.Identity()+"`") {
			t.Errorf("the page does not show the identity %s of its own example", e.Identity())
		}
	}
	if seen != 2 {
		t.Errorf("found %d examples, want 2", seen)
	}
}
