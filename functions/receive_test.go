package functions

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// The framework's server waits for a body for good.
func TestHalfABodyIsNotWaitedForForGood(t *testing.T) {
	b := setup(t, ordersFile)
	b.readTimeout = 50 * time.Millisecond
	server := httptest.NewServer(b.trigger(NameStorageTrigger))
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"half\":")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if body, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), string(Undecided)) {
		t.Errorf("answered %d %s", answer.StatusCode, body)
	}
}

// A redelivery would find a start that is half done; one that is finished is found as a duplicate.
func TestSenderThatGoesAwayDoesNotStopAStart(t *testing.T) {
	b := setup(t, ordersFile)
	begun, handled := make(chan struct{}), make(chan struct{})
	var gone <-chan struct{} // once the server has noticed
	b.temporal.fail = func(string) error {
		close(begun)
		<-gone
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gone = r.Context().Done()
		b.trigger(NameStorageTrigger)(w, r)
		close(handled)
	}))
	t.Cleanup(server.Close)
	r := finalized("orders/a.csv", 1)
	req, err := http.NewRequest(http.MethodPost, server.URL, r.Body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = r.Header
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	select {
	case <-begun:
	case <-handled:
		t.Fatalf("answered without a start: %s", b.log)
	}
	_ = conn.Close()
	server.Close() // waits for the handler
	if len(b.temporal.started) != 1 {
		t.Errorf("%d runs", len(b.temporal.started))
	}
}
