package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestServesUntilToldToStop(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	images := filepath.Join(t.TempDir(), "images.json")
	if err := os.WriteFile(images, []byte(`{"images": {"acme/x": {"script": []}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-images", images, "-logs", filepath.Join(t.TempDir(), "logs"), "-sink", "http://127.0.0.1:1"}, w)
		w.Close()
	}()
	url, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("no address: %v", <-ended)
	}
	url = strings.TrimSpace(url)
	if !strings.HasPrefix(url, "http://127.0.0.1:") {
		t.Errorf("it serves on %s, want loopback", url)
	}
	resp, err := http.Get(url + "v1b3/projects/p/jobs")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("a list is answered %s", resp.Status)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestServesTheFaultLab(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	folder := t.TempDir()
	rules, log := filepath.Join(folder, "faults.json"), filepath.Join(folder, "faults.jsonl")
	if err := os.WriteFile(rules, []byte(`{"seed": 3, "rules": [{"name": "down", "at": "dataflow", "operation": "jobs.list", "fault": "status", "status": 503}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-faults", rules, "-faults_log", log}, w)
		w.Close()
	}()
	out := bufio.NewReader(r)
	url, err := out.ReadString('\n')
	if err != nil {
		t.Fatalf("no address: %v", <-ended)
	}
	url = strings.TrimSpace(url)
	if line, err := out.ReadString('\n'); err != nil || line != "faults at "+url+"faults, seed 3\n" {
		t.Errorf("it says %q, %v", line, err)
	}
	list := func() int {
		resp, err := http.Get(url + "v1b3/projects/p/jobs")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := list(); code != http.StatusServiceUnavailable {
		t.Errorf("a list is answered %d under the rule", code)
	}
	req, err := http.NewRequest(http.MethodDelete, url+"faults/down", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if code := list(); code != http.StatusOK {
		t.Errorf("a list is answered %d without it", code)
	}
	if text, err := os.ReadFile(log); err != nil || strings.Count(string(text), "\n") != 1 || !strings.Contains(string(text), `"rule":"down"`) {
		t.Errorf("the log has %q, %v", text, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestRefusesWhatItCannotDo(t *testing.T) {
	for name, args := range map[string][]string{
		"an unknown flag":   {"-colour", "red"},
		"an argument":       {"serve"},
		"no such image map": {"-images", filepath.Join(t.TempDir(), "none.json")},
		"a wrong address":   {"-listen", "nowhere"},
		"a wrong storage":   {"-storage", "http://"},
		"no such faults":    {"-faults", filepath.Join(t.TempDir(), "none.json")},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), args, io.Discard); err == nil {
				t.Error("it is no error")
			}
		})
	}
}
