package pubsubemulator

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	pb "cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// restHandler serves the calls of
// https://cloud.google.com/pubsub/docs/reference/rest that a shell needs: make,
// read, list and delete topics and subscriptions, publish, pull, acknowledge.
func restHandler(s *service) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := callREST(r, s)
		if err != nil {
			code := httpStatus(status.Code(err))
			w.Header().Set("Content-Type", "application/json; charset=UTF-8")
			w.WriteHeader(code)
			fmt.Fprintf(w, `{"error":{"code":%d,"message":%q,"status":%q}}`+"\n", code, status.Convert(err).Message(), status.Code(err))
			return
		}
		data, err := protojson.Marshal(answer)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		_, _ = w.Write(append(data, '\n'))
	})
}

func callREST(r *http.Request, s *service) (proto.Message, error) {
	ctx := r.Context()
	name, verb, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/"), ":")
	part := strings.Split(name, "/")
	kind := ""
	if len(part) >= 3 && part[0] == "projects" {
		kind = part[2]
	}
	project := strings.Join(part[:min(2, len(part))], "/")
	switch call := fmt.Sprintf("%s %s %d %s", r.Method, kind, len(part), verb); call {
	case "GET topics 3 ":
		return s.ListTopics(ctx, &pb.ListTopicsRequest{Project: project})
	case "GET topics 4 ":
		return s.GetTopic(ctx, &pb.GetTopicRequest{Topic: name})
	case "DELETE topics 4 ":
		return s.DeleteTopic(ctx, &pb.DeleteTopicRequest{Topic: name})
	case "PUT topics 4 ":
		return withBody(ctx, r, &pb.Topic{}, func(ctx context.Context, t *pb.Topic) (*pb.Topic, error) {
			t.Name = name
			return s.CreateTopic(ctx, t)
		})
	case "POST topics 4 publish":
		return withBody(ctx, r, &pb.PublishRequest{}, func(ctx context.Context, p *pb.PublishRequest) (*pb.PublishResponse, error) {
			p.Topic = name
			return s.Publish(ctx, p)
		})
	case "GET subscriptions 3 ":
		return s.ListSubscriptions(ctx, &pb.ListSubscriptionsRequest{Project: project})
	case "GET subscriptions 4 ":
		return s.GetSubscription(ctx, &pb.GetSubscriptionRequest{Subscription: name})
	case "DELETE subscriptions 4 ":
		return s.DeleteSubscription(ctx, &pb.DeleteSubscriptionRequest{Subscription: name})
	case "PUT subscriptions 4 ":
		return withBody(ctx, r, &pb.Subscription{}, func(ctx context.Context, sub *pb.Subscription) (*pb.Subscription, error) {
			sub.Name = name
			if sub.AckDeadlineSeconds == 0 {
				sub.AckDeadlineSeconds = 10
			}
			return s.CreateSubscription(ctx, sub)
		})
	case "POST subscriptions 4 pull":
		return withBody(ctx, r, &pb.PullRequest{}, func(ctx context.Context, p *pb.PullRequest) (*pb.PullResponse, error) {
			p.Subscription = name
			p.MaxMessages = max(1, p.MaxMessages)
			return s.Pull(ctx, p)
		})
	case "POST subscriptions 4 acknowledge":
		return withBody(ctx, r, &pb.AcknowledgeRequest{}, func(ctx context.Context, a *pb.AcknowledgeRequest) (proto.Message, error) {
			a.Subscription = name
			return s.Acknowledge(ctx, a)
		})
	default:
		return nil, status.Errorf(codes.NotFound, "the Pub/Sub emulator has no %s %s over REST; client libraries reach everything over gRPC", r.Method, r.URL.Path)
	}
}

func withBody[In, Out proto.Message](ctx context.Context, r *http.Request, in In, call func(context.Context, In) (Out, error)) (proto.Message, error) {
	data, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "read the request: %v", err)
	}
	if len(data) > 0 {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, in); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "the request is not the JSON of a %s: %v", in.ProtoReflect().Descriptor().Name(), err)
		}
	}
	return call(ctx, in)
}

// httpStatus maps as https://cloud.google.com/apis/design/errors#handling_errors does.
func httpStatus(c codes.Code) int {
	switch c {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}
