package worker

import (
	"strconv"
	"testing"
	"time"

	"github.com/penstock/penstock/runs"
)

func TestJobsThatCouldAskAtOnceSpreadOut(t *testing.T) {
	const jobs, tenths = 1000, 10
	var asked [tenths]int
	for i := range jobs {
		j := job{in: runs.JobInput{JobName: runs.JobName("dev", "orders", strconv.Itoa(i), "load", 1)}}
		share := j.share(time.Minute)
		if share != j.share(time.Minute) || share < 0 || share > time.Minute {
			t.Fatalf("job %d asks %v late, then %v; want one time within a minute", i, share, j.share(time.Minute))
		}
		asked[min(int(share*tenths/time.Minute), tenths-1)]++
	}
	for i, n := range asked {
		if n < jobs/tenths/2 || n > jobs/tenths*2 {
			t.Errorf("%d of %d jobs ask in tenth %d of the minute: %v", n, jobs, i, asked)
		}
	}
}
