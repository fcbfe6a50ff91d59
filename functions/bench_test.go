package functions

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/penstock/penstock/cloudlog"
	"github.com/penstock/penstock/pipeline"
)

// What an event costs that asks nobody: the two cases that a busy bucket makes most of.
func BenchmarkEvent(b *testing.B) {
	files := []string{ordersFile}
	for i := range 100 {
		files = append(files, strings.NewReplacer("name: orders", fmt.Sprintf("name: orders-%d", i), "bucket: landing", fmt.Sprintf("bucket: landing-%d", i)).Replace(ordersFile))
	}
	for name, object := range map[string]string{"nothing wants it": "other/a.csv", "remembered duplicate": "orders/a.csv"} {
		b.Run(name, func(b *testing.B) {
			s := setup(b, files...)
			s.receiver.log = cloudlog.New(io.Discard, slog.LevelInfo)
			f, err := pipeline.Open(s.dir, pipeline.FolderOptions{})
			if err != nil {
				b.Fatal(err)
			}
			s.folder = f
			h := s.trigger(NameStorageTrigger)
			h(httptest.NewRecorder(), finalized(object, 1))
			r := finalized(object, 1)
			data, err := io.ReadAll(r.Body)
			if err != nil {
				b.Fatal(err)
			}
			var body bytes.Reader
			b.ReportAllocs()
			for b.Loop() {
				body.Reset(data)
				r.Body = io.NopCloser(&body)
				w := httptest.NewRecorder()
				h(w, r)
				if w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
