package faults

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Proxy forwards TCP connections to one address of this machine under the rules at Temporal. Rules strike connections, also those that are open already: each is
// drawn once for each rule, when the two first meet.
type Proxy struct {
	lab      *Lab
	name     string
	target   string
	listener net.Listener
	log      *slog.Logger
	stop     chan struct{}
	once     sync.Once
	wg       sync.WaitGroup
}

// chunk is how much is forwarded at once: what latency delays.
const chunk = 16 << 10

// StartProxy listens on a free loopback port for connections to target, a host:port on loopback too: a fault lab has no business before a server that others
// use. The name is the operation that rules select by. A log of nil: none. Close it.
func (l *Lab) StartProxy(name, target string, log *slog.Logger) (*Proxy, error) {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w; give the target as host:port", name, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("proxy %s: %s is not on this machine's loopback; faults are only for a server of this stack", name, target)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy %s: listen: %w", name, err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{lab: l, name: name, target: target, listener: listener, log: log, stop: make(chan struct{})}
	p.wg.Go(p.serve)
	return p, nil
}

// Addr is the host:port to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close ends all connections.
func (p *Proxy) Close() error {
	var err error
	p.once.Do(func() {
		close(p.stop)
		err = p.listener.Close()
	})
	p.wg.Wait()
	return err
}

func (p *Proxy) serve() {
	for {
		conn, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of files, most likely
			p.log.Warn("a connection was not accepted", "proxy", p.name, "error", err)
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-p.stop:
				return
			}
		}
		p.wg.Go(func() { p.forward(conn) })
	}
}

// link is one connection and what rules made of it.
type link struct {
	proxy  *Proxy
	client net.Conn
	server net.Conn
	over   chan struct{}
	once   sync.Once

	mu    sync.Mutex
	drawn map[*rule]*strike // nil: the rule spares this connection
}

func (p *Proxy) forward(client net.Conn) {
	k := &link{proxy: p, client: client, over: make(chan struct{}), drawn: map[*rule]*strike{}}
	if len(k.strikes("", Refuse, Reset)) > 0 {
		reset(client)
		return
	}
	server, err := (&net.Dialer{Timeout: 10 * time.Second}).Dial("tcp", p.target)
	if err != nil {
		p.log.Info("the target cannot be reached", "proxy", p.name, "target", p.target, "error", err)
		reset(client)
		return
	}
	k.server = server
	var pumps, watch sync.WaitGroup
	pumps.Go(func() { k.pump(server, client, Requests) })
	pumps.Go(func() { k.pump(client, server, Answers) })
	watch.Go(k.watch)
	pumps.Wait()
	k.end(false)
	watch.Wait()
}

// end ends both sides; by a reset if it is a fault.
func (k *link) end(fault bool) {
	k.once.Do(func() {
		close(k.over)
		if fault {
			reset(k.client)
			reset(k.server)
			return
		}
		k.client.Close()
		k.server.Close()
	})
}

// watch resets a connection that may be idle when a rule comes.
func (k *link) watch() {
	for {
		changed, edge := k.proxy.lab.news()
		if len(k.strikes("", Reset)) > 0 {
			k.end(true)
			return
		}
		select {
		case <-changed:
		case <-edge:
		case <-k.over:
			return
		case <-k.proxy.stop:
			k.end(false)
			return
		}
	}
}

// pump forwards one direction to its end. If that is orderly, the other direction may go on.
func (k *link) pump(to, from net.Conn, way Direction) {
	buffer := make([]byte, chunk)
	var passed int64
	for {
		n, err := from.Read(buffer)
		for data := buffer[:n]; len(data) > 0; {
			allowed, ok := k.hold(way, passed, len(data))
			if !ok {
				return
			}
			if _, err := to.Write(data[:allowed]); err != nil {
				k.end(false)
				return
			}
			passed += int64(allowed)
			data = data[allowed:]
		}
		if errors.Is(err, io.EOF) {
			if half, ok := to.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
				return
			}
		}
		if err != nil {
			k.end(false)
			return
		}
	}
}

// hold waits as the rules say and returns how many of the bytes may pass; false: the connection is over.
func (k *link) hold(way Direction, passed int64, size int) (int, bool) {
	for k.hanging(way) {
		changed, edge := k.proxy.lab.news()
		if !k.hanging(way) {
			break
		}
		select {
		case <-changed:
		case <-edge:
		case <-k.over:
			return 0, false
		}
	}
	var wait time.Duration
	allowed := size
	for _, s := range k.strikes(way, Latency, Throttle, Cut) {
		switch s.Fault {
		case Latency:
			wait += k.delay(s)
		case Throttle:
			// A tenth of a second's worth at a time keeps a slow link flowing.
			allowed = min(allowed, int(max(s.Bytes/10, 1)))
			wait += time.Duration(float64(allowed) / float64(s.Bytes) * float64(time.Second))
		case Cut:
			left := s.Bytes - passed
			if left <= 0 {
				k.end(true)
				return 0, false
			}
			allowed = int(min(int64(allowed), left))
		}
	}
	if wait <= 0 {
		return allowed, true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return allowed, true
	case <-k.over:
		return 0, false
	}
}

func (k *link) hanging(way Direction) bool { return len(k.strikes(way, Hang)) > 0 }

// delay draws anew for each chunk; both directions share the connection's chance.
func (k *link) delay(s strike) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return s.delay()
}

// strikes are the rules of some faults that are in force now and strike this connection, in one direction or (empty) as a whole.
func (k *link) strikes(way Direction, faults ...Fault) []strike {
	l, t := k.proxy.lab, target{place: Temporal, operation: k.proxy.name}
	l.mu.Lock()
	defer l.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []strike
	now := time.Now()
	for _, r := range l.rules {
		if !r.open(now) || !r.selects(t.place, t.operation, t.subject) {
			continue
		}
		for _, f := range faults {
			if r.Fault != f || r.Direction != "" && r.Direction != way {
				continue
			}
			s, met := k.drawn[r]
			if !met {
				if drawn, struck := l.draw(r, t, false); struck {
					s = &drawn
				}
				k.drawn[r] = s
			}
			if s != nil {
				out = append(out, *s)
			}
		}
	}
	return out
}
