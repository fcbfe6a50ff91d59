package dataflowemulator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

// maxTemplate bounds a template file. A classic template holds a whole job graph, so it may be large.
const maxTemplate = 20 << 20

var errNoTemplate = errors.New("no such object")

// templateReader reads template files: local files first, then Cloud Storage.
type templateReader struct {
	files   map[string]string
	storage *url.URL // nil: none
	client  *http.Client
}

func newTemplateReader(files map[string]string, endpoint string) (templateReader, error) {
	r := templateReader{files: files, client: &http.Client{Timeout: 30 * time.Second}}
	if endpoint == "" {
		return r, nil
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "http://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return r, fmt.Errorf("storage endpoint %q: it must be host:port or a URL, such as 127.0.0.1:9199", endpoint)
	}
	r.storage = u
	return r, nil
}

func (r templateReader) read(ctx context.Context, path string) ([]byte, error) {
	if file, ok := r.files[path]; ok {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errNoTemplate
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readBounded(f)
	}
	bucket, object, ok := splitGS(path)
	if !ok {
		return nil, invalid("%q is not a Cloud Storage path. A template's path has the form gs://bucket/object.", path)
	}
	if r.storage == nil {
		return nil, errNoTemplate
	}
	target := *r.storage
	target.Path = strings.TrimSuffix(r.storage.Path, "/") + "/storage/v1/b/" + bucket + "/o/" + object
	target.RawPath = strings.TrimSuffix(r.storage.EscapedPath(), "/") + "/storage/v1/b/" + url.PathEscape(bucket) + "/o/" + url.PathEscape(object)
	target.RawQuery = "alt=media"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return readBounded(resp.Body)
	case http.StatusNotFound:
		return nil, errNoTemplate
	}
	return nil, fmt.Errorf("it answered %s", resp.Status)
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxTemplate+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxTemplate {
		return nil, fmt.Errorf("it is larger than %d bytes", maxTemplate)
	}
	return b, nil
}

func splitGS(path string) (bucket, object string, ok bool) {
	rest, ok := strings.CutPrefix(path, "gs://")
	if !ok {
		return "", "", false
	}
	bucket, object, ok = strings.Cut(rest, "/")
	return bucket, object, ok && bucket != "" && object != ""
}

// open reads a template file and gives Dataflow's answers for what cannot be read.
func (e *Emulator) open(ctx context.Context, path string) ([]byte, error) {
	b, err := e.templates.read(ctx, path)
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, errNoTemplate):
		return nil, notFound("Unable to open template file: %s.", path)
	case isStatus(err):
		return nil, err
	}
	return nil, refuse(codes.Unavailable, fmt.Sprintf("The template file %s cannot be read now: %v", path, err))
}

func (e *Emulator) flexSpec(ctx context.Context, path string) (*pb.ContainerSpec, error) {
	b, err := e.open(ctx, path)
	if err != nil {
		return nil, err
	}
	spec := &pb.ContainerSpec{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, spec); err != nil {
		return nil, invalid("Unable to parse template file '%s': it is not the JSON of a flex template (image, sdkInfo, metadata).", path)
	}
	if spec.Image == "" {
		return nil, invalid("Unable to parse template file '%s': it names no image, so it is not a flex template.", path)
	}
	return spec, nil
}

// classicMetadata reads the metadata file that may lie beside a classic template, as <template>_metadata.
func (e *Emulator) classicMetadata(ctx context.Context, path string) (*pb.TemplateMetadata, error) {
	b, err := e.templates.read(ctx, path+"_metadata")
	if errors.Is(err, errNoTemplate) {
		return nil, nil
	}
	if err != nil {
		return nil, refuse(codes.Unavailable, fmt.Sprintf("The template metadata file %s_metadata cannot be read now: %v", path, err))
	}
	m := &pb.TemplateMetadata{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
		return nil, invalid("Unable to parse template metadata file '%s_metadata'.", path)
	}
	return m, nil
}

// parameterName is what a parameter may be called when no metadata says. It becomes the name of a flag.
var parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// checkParameters holds a launch's parameters against the template's metadata and answers all violations at once, as InvalidTemplateParameters. Without
// metadata only the names are checked.
func checkParameters(m *pb.TemplateMetadata, given map[string]string) error {
	var bad []*pb.InvalidTemplateParameters_ParameterViolation
	violate := func(name, format string, args ...any) {
		bad = append(bad, &pb.InvalidTemplateParameters_ParameterViolation{Parameter: name, Description: fmt.Sprintf(format, args...)})
	}
	known := map[string]*pb.ParameterMetadata{}
	if m != nil {
		for _, p := range m.Parameters {
			known[p.Name] = p
			value, present := given[p.Name]
			switch {
			case present:
				checkParameter(p, value, violate)
			case !p.IsOptional && !conditional(p):
				violate(p.Name, "Missing required parameter")
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		switch {
		case m != nil && len(m.Parameters) > 0 && known[name] == nil:
			violate(name, "Unrecognized parameter")
		case !parameterName.MatchString(name):
			violate(name, "Invalid parameter name")
		}
	}
	if len(bad) == 0 {
		return nil
	}
	var text strings.Builder
	text.WriteString("The template parameters are invalid. Details: ")
	for _, v := range bad {
		fmt.Fprintf(&text, "\n%s: %s", v.Parameter, v.Description)
	}
	return refuse(codes.InvalidArgument, text.String(), &pb.InvalidTemplateParameters{ParameterViolations: bad})
}

// conditional parameters belong to a choice made by another; a launch that makes another choice need not give them.
func conditional(p *pb.ParameterMetadata) bool { return p.ParentName != "" }

func checkParameter(p *pb.ParameterMetadata, value string, violate func(name, format string, args ...any)) {
	for _, expr := range p.Regexes {
		re, err := regexp.Compile(expr)
		if err != nil {
			violate(p.Name, "The template's regular expression %q cannot be read: %v", expr, err)
			continue
		}
		if !re.MatchString(value) {
			violate(p.Name, "The value does not match the regular expression %q", expr)
		}
	}
	if len(p.EnumOptions) > 0 && !slices.ContainsFunc(p.EnumOptions, func(o *pb.ParameterMetadataEnumOption) bool { return o.Value == value }) {
		var options []string
		for _, o := range p.EnumOptions {
			options = append(options, o.Value)
		}
		violate(p.Name, "The value must be one of: %s", strings.Join(options, ", "))
	}
	switch p.ParamType {
	case pb.ParameterType_BOOLEAN:
		if _, err := strconv.ParseBool(value); err != nil {
			violate(p.Name, "The value must be true or false")
		}
	case pb.ParameterType_NUMBER:
		if _, err := strconv.ParseFloat(value, 64); err != nil {
			violate(p.Name, "The value must be a number")
		}
	}
}
