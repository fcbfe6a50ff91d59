// Package rest is the JSON face of the Dataflow emulator: the paths, query parameters and bodies of https://dataflow.googleapis.com/v1b3, by the JSON rules that
// all of Google's APIs share (https://protobuf.dev/programming-guides/json/ and https://cloud.google.com/apis/docs/system-parameters).
package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/penstock/penstock/dev/dataflowemulator"
)

// maxBody bounds a request's body.
const maxBody = 10 << 20

// call is one request after its path was taken apart.
type call struct {
	project, location, job string
	query                  url.Values
	body                   []byte
}

// route is one method of the API: its path after /v1b3/projects/P[/locations/L]/, where "*" stands for a job's ID.
type route struct {
	method  string
	path    []string
	located located
	call    func(context.Context, *dataflowemulator.Emulator, call) (proto.Message, error)
}

// located says in which of the two forms of path a route exists.
type located int

const (
	both located = iota
	onlyWith
	onlyWithout
)

var routes = []route{
	{http.MethodPost, []string{"flexTemplates:launch"}, onlyWith, launchFlexTemplate},
	{http.MethodPost, []string{"templates:launch"}, both, launchTemplate},
	{http.MethodPost, []string{"templates"}, both, createFromTemplate},
	{http.MethodGet, []string{"jobs"}, both, listJobs},
	{http.MethodGet, []string{"jobs:aggregated"}, onlyWithout, aggregatedJobs},
	{http.MethodGet, []string{"jobs", "*"}, both, getJob},
	{http.MethodPut, []string{"jobs", "*"}, both, updateJob},
	{http.MethodGet, []string{"jobs", "*", "metrics"}, both, getMetrics},
	{http.MethodGet, []string{"jobs", "*", "messages"}, both, listMessages},
}

// Handler serves the v1b3 API of an emulator.
func Handler(e *dataflowemulator.Emulator) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(e, w, r) })
}

func serve(e *dataflowemulator.Emulator, w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, query, status.Errorf(codes.InvalidArgument, "The query cannot be read: %v", err))
		return
	}
	c := call{query: query}
	route, allowed := c.match(r)
	switch {
	case route == nil && len(allowed) > 0:
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		failWith(w, query, http.StatusMethodNotAllowed, status.Newf(codes.Unimplemented, "The method %s is not defined for %s; it takes %s.", r.Method, r.URL.Path, strings.Join(allowed, " or ")))
		return
	case route == nil:
		fail(w, query, status.Errorf(codes.NotFound, "The Dataflow emulator has nothing at %s. Its paths begin with /v1b3/projects/.", r.URL.Path))
		return
	}
	if alt := first(query, "alt", "$alt"); alt != "" && alt != "json" && !strings.HasPrefix(alt, "json;") {
		fail(w, query, status.Errorf(codes.InvalidArgument, "alt=%s is not supported; the answers are JSON.", alt))
		return
	}
	if c.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			failWith(w, query, http.StatusRequestEntityTooLarge, status.Newf(codes.InvalidArgument, "The request's body is larger than %d bytes.", maxBody))
			return
		}
		fail(w, query, status.Errorf(codes.InvalidArgument, "The request's body cannot be read: %v", err))
		return
	}
	out, err := route.call(r.Context(), e, c)
	if errors.Is(err, dataflowemulator.ErrNoAnswer) {
		panic(http.ErrAbortHandler) // net/http's way to cut the connection
	}
	if err != nil {
		fail(w, query, err)
		return
	}
	write(w, query, out)
}

// match finds the route of a request and takes its path apart. Without one it answers the methods that the path has.
func (c *call) match(r *http.Request) (*route, []string) {
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/v1b3/projects/")
	if !ok {
		return nil, nil
	}
	var parts []string
	for part := range strings.SplitSeq(rest, "/") {
		p, err := url.PathUnescape(part)
		if err != nil || p == "" {
			return nil, nil
		}
		parts = append(parts, p)
	}
	c.project, parts = parts[0], parts[1:]
	with := len(parts) > 2 && parts[0] == "locations"
	if with {
		c.location, parts = parts[1], parts[2:]
	} else {
		c.location = c.query.Get("location")
	}
	var allowed []string
	for i := range routes {
		route := &routes[i]
		if with && route.located == onlyWithout || !with && route.located == onlyWith || !c.fits(route.path, parts) {
			continue
		}
		if route.method == r.Method {
			return route, nil
		}
		if !slices.Contains(allowed, route.method) {
			allowed = append(allowed, route.method)
		}
	}
	return nil, allowed
}

func (c *call) fits(pattern, parts []string) bool {
	if len(pattern) != len(parts) {
		return false
	}
	for i, p := range pattern {
		if p == "*" {
			c.job = parts[i]
		} else if p != parts[i] {
			return false
		}
	}
	return true
}

func launchFlexTemplate(ctx context.Context, e *dataflowemulator.Emulator, c call) (proto.Message, error) {
	in := &pb.LaunchFlexTemplateRequest{}
	if err := readBody(c.body, in); err != nil {
		return nil, err
	}
	in.ProjectId, in.Location = c.project, c.location
	return e.LaunchFlexTemplate(ctx, in)
}

func launchTemplate(ctx context.Context, e *dataflowemulator.Emulator, c call) (proto.Message, error) {
	in := &pb.LaunchTemplateRequest{LaunchParameters: &pb.LaunchTemplateParameters{}}
	if err := readBody(c.body, in.LaunchParameters); err != nil {
		return nil, err
	}
	// The generated query fields would overwrite each other: the path and the dynamic template are one choice.
	if path := first(c.query, "gcsPath", "gcs_path"); path != "" {
		in.Template = &pb.LaunchTemplateRequest_GcsPath{GcsPath: path}
	} else if path := first(c.query, "dynamicTemplate.gcsPath", "dynamic_template.gcs_path"); path != "" {
		in.Template = &pb.LaunchTemplateRequest_DynamicTemplate{DynamicTemplate: &pb.DynamicTemplateLaunchParams{
			GcsPath: path, StagingLocation: first(c.query, "dynamicTemplate.stagingLocation", "dynamic_template.staging_location"),
		}}
	}
	if err := readQuery(c.query, in, "validate_only"); err != nil {
		return nil, err
	}
	in.ProjectId, in.Location = c.project, c.location
	return e.LaunchTemplate(ctx, in)
}

func createFromTemplate(ctx context.Context, e *dataflowemulator.Emulator, c call) (proto.Message, error) {
	in := &pb.CreateJobFromTemplateRequest{}
	if err := readBody(c.body, in); err != nil {
		return nil, err
	}
	in.ProjectId = c.project
	if c.location != "" {
		in.Location = c.location
	}
	return e.CreateJobFromTemplate(ctx, in)
}

func listRequest(c call) (*pb.ListJobsRequest, error) {
	in := &pb.ListJobsRequest{}
	if err := readQuery(c.query, in, "filter", "view", "page_size", "page_token", "name"); err != nil {
		return nil, err
	}
	in.ProjectId, in.Location = c.project, c.location
	return in, nil
}

func listJobs(ctx context.Context, e *dataflowemulator.Emulator, c call) (proto.Message, error) {
	in, err := listRequest(c)
	if err != nil {
		return nil, err
	}
	return e.ListJobs(ctx, in)
}

func aggregatedJobs(ctx context.Context, e *dataflowemulator.Emulator, c call) (proto.Message, error) {
	in, err := listRequest(c)
	if err != nil {
		return nil, err
	}
	return e.AggregatedListJobs(ctx, in)
}

func getJob(ctx context.Context, e *dataflowemulator.Emulator, c call) (proto.Message, error) {
	in := &pb.GetJobRequest{}
	if err := readQuery(c.query, in, "view"); err != nil {
		return nil, err
	}
	in.ProjectId, in.Location, in.JobId = c.project, c.location, c.job
	return e.GetJob(ctx, in)
}

func updateJob(ctx context.Context, e *dataflowemulator.Emulator, c call) (proto.Message, error) {
	in := &pb.UpdateJobRequest{Job: &pb.Job{}}
	if err := readBody(c.body, in.Job); err != nil {
		return nil, err
	}
	if mask := first(c.query, "updateMask", "update_mask"); mask != "" {
		in.UpdateMask = &fieldmaskpb.FieldMask{}
		for path := range strings.SplitSeq(mask, ",") {
			in.UpdateMask.Paths = append(in.UpdateMask.Paths, snakeCase(strings.TrimSpace(path)))
		}
	}
	in.ProjectId, in.Location, in.JobId = c.project, c.location, c.job
	return e.UpdateJob(ctx, in)
}

func getMetrics(ctx context.Context, e *dataflowemulator.Emulator, c call) (proto.Message, error) {
	in := &pb.GetJobMetricsRequest{}
	if err := readQuery(c.query, in, "start_time"); err != nil {
		return nil, err
	}
	in.ProjectId, in.Location, in.JobId = c.project, c.location, c.job
	return e.GetJobMetrics(ctx, in)
}

func listMessages(ctx context.Context, e *dataflowemulator.Emulator, c call) (proto.Message, error) {
	in := &pb.ListJobMessagesRequest{}
	if err := readQuery(c.query, in, "minimum_importance", "page_size", "page_token", "start_time", "end_time"); err != nil {
		return nil, err
	}
	in.ProjectId, in.Location, in.JobId = c.project, c.location, c.job
	return e.ListJobMessages(ctx, in)
}

// first returns the first value that one of the names has.
func first(query url.Values, names ...string) string {
	for _, name := range names {
		if v := query.Get(name); v != "" {
			return v
		}
	}
	return ""
}

// snakeCase turns the JSON form of a field path into the proto form: update masks come in either.
func snakeCase(path string) string {
	var b strings.Builder
	for _, r := range path {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func fieldByName(m proto.Message, name string) protoreflect.FieldDescriptor {
	fd := m.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name))
	if fd == nil {
		panic(fmt.Sprintf("no field %s in %T", name, m)) // the routes above name fields that exist
	}
	return fd
}
