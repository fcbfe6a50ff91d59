package dataflow

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// maxAnswer bounds what is read of an answer, in bytes. The largest that is asked for, a page of a list, stays far below.
const maxAnswer = 16 << 20

var (
	errTooLong = errors.New("the answer is longer than 16 MiB")
	errTooLate = errors.New("the call's deadline had passed before it was sent")
)

// departure records how far a call's request came.
type departure struct {
	given  atomic.Bool // the transport was given the request
	traced atomic.Bool // the transport reports its progress, so that wrote means something
	wrote  atomic.Bool // it wrote the request, or was about to
}

// left reports whether the request may have reached the other side.
func (d *departure) left() bool {
	return d.given.Load() && (d.wrote.Load() || !d.traced.Load())
}

type departureKey struct{}

// guard sits right above the network, below authentication: it gives up a request whose time has passed, notes whether
// one left, and bounds the answer.
type guard struct{ base http.RoundTripper }

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	err := ctx.Err()
	if err == nil && late(ctx, time.Now()) {
		err = errTooLate
	}
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	if d, ok := ctx.Value(departureKey{}).(*departure); ok {
		_, traced := g.base.(*http.Transport)
		d.traced.Store(traced)
		d.given.Store(true)
		wrote := func() { d.wrote.Store(true) }
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GetConn: func(string) { d.traced.Store(true) },
			// The headers are reported before the body has left, under HTTP/1 even before they themselves have. So
			// no request is complete at the other side without this having been called; WroteRequest can come after
			// a cancelled call has returned.
			WroteHeaders: wrote,
			WroteRequest: func(httptrace.WroteRequestInfo) { wrote() },
		})
		req = req.WithContext(ctx)
	}
	res, err := g.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = &boundedBody{ReadCloser: res.Body, left: maxAnswer}
	return res, nil
}

// late reports whether the context's deadline has passed by the wall clock too: while a machine is suspended the
// monotonic clock, which a context goes by, may stand still.
func late(ctx context.Context, now time.Time) bool {
	deadline, ok := ctx.Deadline()
	return ok && !now.Round(0).Before(deadline.Round(0))
}

// boundedBody is a body that fails, rather than ends, once it is too long.
type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLong
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, errTooLong
	}
	return n, err
}
