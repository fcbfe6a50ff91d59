package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// A document that grows is one document whatever came of it.
func TestADocumentThatGrows(t *testing.T) {
	type item struct {
		Name string `json:"name"`
	}
	rest := map[string]any{"count": 3, "notes": []string{"a", "b"}}
	for name, c := range map[string]struct {
		add    []string // lists to add to
		failed error
		want   string
	}{
		"both lists":    {[]string{"a", "a", "b"}, nil, `{"a":[{"name":"<x\u202e>"},{"name":"<x\u202e>"}],"b":[{"name":"<x\u202e>"}],"count":3,"notes":["a","b"]}`},
		"the last list": {[]string{"b"}, nil, ""},
		"nothing":       {nil, nil, `{"a":[],"b":[],"count":3,"notes":["a","b"]}`},
		"a failure":     {[]string{"a"}, errors.New("it \"failed\""), `{"a":[{"name":"<x\u202e>"}],"b":[],"count":3,"error":"it \"failed\"","notes":["a","b"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			g := &growing{p: &printer{w: &b, json: true}}
			for _, list := range c.add {
				if err := g.add(list, item{"<x\u202e>"}); err != nil {
					t.Fatal(err)
				}
			}
			if err := g.end([]string{"a", "b"}, rest, c.failed); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(b.String(), "\u202e") {
				t.Errorf("it commands a terminal: %q", b.String())
			}
			var got map[string]any
			if err := json.Unmarshal(b.Bytes(), &got); err != nil {
				t.Fatalf("%v in %s", err, b.String())
			}
			if c.want == "" {
				return
			}
			var want map[string]any
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			one, _ := json.Marshal(got)
			other, _ := json.Marshal(want)
			if !bytes.Equal(one, other) {
				t.Errorf("got  %s\nwant %s", one, other)
			}
		})
	}
}
