// Package pubsubemulator is a Pub/Sub server for one machine: the in-memory
// server of Google's own client library (pstest) on a chosen address, over gRPC
// as every client library speaks it, with the REST calls that curl needs on the
// same port.
//
// It adds what a local stack needs. Message IDs stay unique over restarts (they
// are part of an event's identity), and a callback sees each published message
// together with the push subscriptions of its topic, since pstest never pushes.
package pubsubemulator

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Options configure an emulator.
type Options struct {
	// Addr is where to listen, as host:port. Defaults to 127.0.0.1:0, a free port.
	Addr string
	// OnPublish is told of every message, after its publisher's topic has it and
	// before the publisher has its answer. It must be quick. Nil: nobody is told.
	OnPublish func(Message)
	// Server are more options of the gRPC server, and Wrap stands between the connections and the REST calls; for tests that make the API misbehave.
	Server []grpc.ServerOption
	Wrap   func(http.Handler) http.Handler
	// Log reports a server that stopped serving. Defaults to none.
	Log *slog.Logger
}

// Message is one published message.
type Message struct {
	Topic       string // projects/P/topics/T
	ID          string
	Data        []byte
	Attributes  map[string]string
	OrderingKey string
	PublishTime time.Time
	// Pushes are the topic's push subscriptions whose filter is empty; pstest
	// applies filters to pulls only.
	Pushes []Push
}

// Push is a subscription that wants its messages POSTed.
type Push struct {
	Subscription    string // projects/P/subscriptions/S
	Endpoint        string // URL
	DeadLetterTopic string // empty: none
	MaxAttempts     int    // of delivery before a message goes to DeadLetterTopic; 0: no limit
}

// Emulator is a running server.
type Emulator struct {
	addr    string
	fake    *pstest.Server
	service *service
	grpc    *grpc.Server
	http    *http.Server
	split   *splitListener
	serving sync.WaitGroup
}

// Start serves until Close.
func Start(o Options) (*Emulator, error) {
	if o.OnPublish == nil {
		o.OnPublish = func(Message) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	listener, err := net.Listen("tcp", cmp.Or(o.Addr, "127.0.0.1:0"))
	if err != nil {
		return nil, fmt.Errorf("pubsub emulator: listen: %w; choose another port, or 0 for a free one", err)
	}
	// pstest makes its state only together with a listener of its own, on a
	// free loopback port; clients use ours, where IDs are renumbered.
	fake := pstest.NewServerWithAddress("127.0.0.1:0")
	e := &Emulator{
		addr:    listener.Addr().String(),
		fake:    fake,
		service: &service{GServer: &fake.GServer, firstID: time.Now().UnixMicro(), onPublish: o.OnPublish, subscriptions: map[string]*pb.Subscription{}},
		grpc:    grpc.NewServer(append([]grpc.ServerOption{grpc.MaxRecvMsgSize(16 << 20)}, o.Server...)...),
		split:   split(listener),
	}
	pb.RegisterPublisherServer(e.grpc, e.service)
	pb.RegisterSubscriberServer(e.grpc, e.service)
	pb.RegisterSchemaServiceServer(e.grpc, e.service.GServer)
	rest := restHandler(e.service)
	if o.Wrap != nil {
		rest = o.Wrap(rest)
	}
	e.http = &http.Server{Handler: rest, ReadHeaderTimeout: 10 * time.Second}
	e.serving.Go(e.split.serve)
	e.serving.Go(func() {
		if err := e.grpc.Serve(e.split.http2); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
			o.Log.Error("pubsub emulator stopped serving gRPC", "error", err)
		}
	})
	e.serving.Go(func() {
		if err := e.http.Serve(e.split.http1); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			o.Log.Error("pubsub emulator stopped serving REST", "error", err)
		}
	})
	return e, nil
}

// Addr is the host:port for PUBSUB_EMULATOR_HOST.
func (e *Emulator) Addr() string { return e.addr }

// EnsureTopic makes a topic, named projects/P/topics/T, unless it exists.
func (e *Emulator) EnsureTopic(name string) error {
	_, err := e.service.CreateTopic(context.Background(), &pb.Topic{Name: name})
	if err != nil && status.Code(err) != codes.AlreadyExists {
		return fmt.Errorf("pubsub emulator: make topic %s: %w", name, err)
	}
	return nil
}

// EnsureSubscription makes a pull subscription unless it exists.
func (e *Emulator) EnsureSubscription(name, topic string) error {
	_, err := e.service.CreateSubscription(context.Background(), &pb.Subscription{Name: name, Topic: topic, AckDeadlineSeconds: 60})
	if err != nil && status.Code(err) != codes.AlreadyExists {
		return fmt.Errorf("pubsub emulator: make subscription %s of %s: %w", name, topic, err)
	}
	return nil
}

// Publish sends one message to a topic and returns its ID.
func (e *Emulator) Publish(topic string, data []byte, attributes map[string]string) (string, error) {
	r, err := e.service.Publish(context.Background(), &pb.PublishRequest{
		Topic: topic, Messages: []*pb.PubsubMessage{{Data: data, Attributes: attributes}},
	})
	if err != nil {
		return "", fmt.Errorf("pubsub emulator: publish to %s: %w", topic, err)
	}
	return r.MessageIds[0], nil
}

// Close stops serving; messages are gone.
func (e *Emulator) Close() error {
	e.grpc.Stop()
	err := e.http.Close()
	e.split.Close()
	e.serving.Wait()
	return errors.Join(err, e.fake.Close())
}

// service is pstest's, seen through unique message IDs.
type service struct {
	*pstest.GServer
	firstID   int64
	onPublish func(Message)

	mu            sync.Mutex
	subscriptions map[string]*pb.Subscription // those that push, by name
}

// uniqueID renumbers pstest's IDs (m0, m1 and so on from each start) to numbers
// that no earlier start has given out.
func (s *service) uniqueID(id string) string {
	n, err := strconv.ParseInt(strings.TrimPrefix(id, "m"), 10, 64)
	if err != nil {
		return id
	}
	return strconv.FormatInt(s.firstID+n, 10)
}

func (s *service) Publish(ctx context.Context, r *pb.PublishRequest) (*pb.PublishResponse, error) {
	for _, m := range r.Messages {
		if len(m.Data) == 0 && len(m.Attributes) == 0 {
			return nil, status.Error(codes.InvalidArgument, "One or more messages in the publish request is empty. Each message must contain either non-empty data, or at least one attribute.")
		}
	}
	answer, err := s.GServer.Publish(ctx, r)
	if err != nil {
		return nil, err
	}
	pushes := s.pushesOf(r.Topic)
	unique := &pb.PublishResponse{}
	for i, id := range answer.MessageIds {
		m := r.Messages[i]
		unique.MessageIds = append(unique.MessageIds, s.uniqueID(id))
		s.onPublish(Message{
			Topic: r.Topic, ID: s.uniqueID(id), Data: m.Data, Attributes: m.Attributes,
			OrderingKey: m.OrderingKey, PublishTime: m.PublishTime.AsTime(), Pushes: pushes,
		})
	}
	return unique, nil
}

func (s *service) pushesOf(topic string) []Push {
	s.mu.Lock()
	defer s.mu.Unlock()
	var pushes []Push
	for _, sub := range s.subscriptions {
		if sub.Topic != topic || sub.Filter != "" {
			continue
		}
		p := Push{Subscription: sub.Name, Endpoint: sub.PushConfig.PushEndpoint}
		if policy := sub.DeadLetterPolicy; policy != nil {
			p.DeadLetterTopic, p.MaxAttempts = policy.DeadLetterTopic, int(cmp.Or(policy.MaxDeliveryAttempts, 5))
		}
		pushes = append(pushes, p)
	}
	slices.SortFunc(pushes, func(a, b Push) int { return strings.Compare(a.Subscription, b.Subscription) })
	return pushes
}

func (s *service) CreateSubscription(ctx context.Context, sub *pb.Subscription) (*pb.Subscription, error) {
	made, err := s.GServer.CreateSubscription(ctx, sub)
	if err == nil {
		s.remember(made)
	}
	return made, err
}

func (s *service) UpdateSubscription(ctx context.Context, r *pb.UpdateSubscriptionRequest) (*pb.Subscription, error) {
	updated, err := s.GServer.UpdateSubscription(ctx, r)
	if err == nil {
		s.remember(updated)
	}
	return updated, err
}

func (s *service) DeleteSubscription(ctx context.Context, r *pb.DeleteSubscriptionRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	delete(s.subscriptions, r.Subscription)
	s.mu.Unlock()
	return s.GServer.DeleteSubscription(ctx, r)
}

func (s *service) remember(sub *pb.Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.GetPushConfig().GetPushEndpoint() == "" {
		delete(s.subscriptions, sub.Name)
		return
	}
	s.subscriptions[sub.Name] = proto.Clone(sub).(*pb.Subscription)
}

func (s *service) Pull(ctx context.Context, r *pb.PullRequest) (*pb.PullResponse, error) {
	answer, err := s.GServer.Pull(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.PullResponse{ReceivedMessages: s.renumber(answer.ReceivedMessages)}, nil
}

func (s *service) StreamingPull(stream pb.Subscriber_StreamingPullServer) error {
	return s.GServer.StreamingPull(renumberedStream{stream, s})
}

type renumberedStream struct {
	pb.Subscriber_StreamingPullServer
	service *service
}

func (r renumberedStream) Send(m *pb.StreamingPullResponse) error {
	out := proto.CloneOf(m)
	out.ReceivedMessages = r.service.renumber(m.ReceivedMessages)
	return r.Subscriber_StreamingPullServer.Send(out)
}

// renumber copies: pstest keeps what it hands out.
func (s *service) renumber(messages []*pb.ReceivedMessage) []*pb.ReceivedMessage {
	var out []*pb.ReceivedMessage
	for _, m := range messages {
		copied := proto.CloneOf(m)
		copied.Message.MessageId = s.uniqueID(m.Message.MessageId)
		out = append(out, copied)
	}
	return out
}

// splitListener hands HTTP/2 connections (gRPC) and HTTP/1 connections (curl)
// of one port to two servers, by their first bytes.
type splitListener struct {
	net.Listener
	http1, http2 *queue
}

func split(l net.Listener) *splitListener {
	return &splitListener{Listener: l, http1: newQueue(l.Addr()), http2: newQueue(l.Addr())}
}

func (l *splitListener) serve() {
	var sniffing sync.WaitGroup
	defer sniffing.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			l.http1.Close()
			l.http2.Close()
			return
		}
		sniffing.Go(func() {
			reader := bufio.NewReader(conn)
			// A client that says nothing would wait here for ever.
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			first, err := reader.Peek(3)
			_ = conn.SetReadDeadline(time.Time{})
			switch {
			case err != nil:
				conn.Close()
			case string(first) == "PRI": // the HTTP/2 preface, RFC 9113 section 3.4
				l.http2.put(peeked{conn, reader})
			default:
				l.http1.put(peeked{conn, reader})
			}
		})
	}
}

type peeked struct {
	net.Conn
	reader *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.reader.Read(b) }

// queue is a net.Listener fed by hand.
type queue struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (q *queue) put(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.closed:
		c.Close()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}

func (q *queue) Addr() net.Addr { return q.addr }
