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

func TestRefusesWhatItCannotDo(t *testing.T) {
	for name, args := range map[string][]string{
		"an unknown flag":   {"-colour", "red"},
		"an argument":       {"serve"},
		"no such image map": {"-images", filepath.Join(t.TempDir(), "none.json")},
		"a wrong address":   {"-listen", "nowhere"},
		"a wrong storage":   {"-storage", "http://"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), args, io.Discard); err == nil {
				t.Error("it is no error")
			}
		})
	}
}
