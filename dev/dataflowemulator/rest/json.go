package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// lenient reads JSON as Google's servers do: either case of a field's name, enums by name or number, 64-bit integers as strings or numbers. Unknown fields are
// ignored.
var lenient = protojson.UnmarshalOptions{DiscardUnknown: true}

func readBody(body []byte, into proto.Message) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	var raw any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	err := d.Decode(&raw)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("there is text after the JSON value")
		}
	}
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "Invalid JSON payload received. %v", err)
	}
	if err := checkEnums(into.ProtoReflect().Descriptor(), raw, ""); err != nil {
		return err
	}
	if err := lenient.Unmarshal(body, into); err != nil {
		return status.Errorf(codes.InvalidArgument, "Invalid JSON payload received. %v", err)
	}
	return nil
}

// checkEnums refuses unknown enum names, which the lenient reader would drop as it drops unknown fields: a request for a state that does not exist must not
// become a request for nothing.
func checkEnums(md protoreflect.MessageDescriptor, raw any, at string) error {
	object, ok := raw.(map[string]any)
	if !ok || strings.HasPrefix(string(md.FullName()), "google.protobuf.") {
		return nil
	}
	for name, value := range object {
		fd := md.Fields().ByJSONName(name)
		if fd == nil {
			fd = md.Fields().ByTextName(name)
		}
		if fd == nil || fd.IsMap() {
			continue
		}
		values := []any{value}
		if list, ok := value.([]any); ok && fd.IsList() {
			values = list
		}
		for _, v := range values {
			switch fd.Kind() {
			case protoreflect.EnumKind:
				if s, ok := v.(string); ok && fd.Enum().Values().ByName(protoreflect.Name(s)) == nil {
					return invalidEnum(at+string(fd.Name()), fd.Enum(), s)
				}
			case protoreflect.MessageKind:
				if err := checkEnums(fd.Message(), v, at+string(fd.Name())+"."); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func invalidEnum(field string, ed protoreflect.EnumDescriptor, value string) error {
	return status.Errorf(codes.InvalidArgument, "Invalid value at '%s' (type.googleapis.com/%s), %q", field, ed.FullName(), value)
}

// readQuery sets the named fields of a request from the query, where a field may stand in either case.
func readQuery(query url.Values, into proto.Message, fields ...string) error {
	for _, name := range fields {
		fd := fieldByName(into, name)
		text := first(query, fd.JSONName(), name)
		if text == "" {
			continue
		}
		// In a query everything is text; as a JSON string it is read by the same rules as a body.
		value := strconv.AppendQuote(nil, text)
		switch fd.Kind() {
		case protoreflect.EnumKind:
			if n, err := strconv.ParseInt(text, 10, 32); err == nil {
				value = strconv.AppendInt(nil, n, 10)
			} else if fd.Enum().Values().ByName(protoreflect.Name(text)) == nil {
				return invalidEnum(name, fd.Enum(), text)
			}
		case protoreflect.BoolKind:
			b, err := strconv.ParseBool(text)
			if err != nil {
				return status.Errorf(codes.InvalidArgument, "Invalid value at '%s' (TYPE_BOOL), %q", name, text)
			}
			value = strconv.AppendBool(nil, b)
		case protoreflect.StringKind:
			into.ProtoReflect().Set(fd, protoreflect.ValueOfString(strings.ToValidUTF8(text, "\uFFFD")))
			continue
		}
		part := into.ProtoReflect().New().Interface()
		if err := lenient.Unmarshal(fmt.Appendf(nil, "{%q:%s}", name, value), part); err != nil {
			return status.Errorf(codes.InvalidArgument, "Invalid value at '%s': %q", name, text)
		}
		proto.Merge(into, part)
	}
	return nil
}

// write answers a message. protojson's own output varies in its spaces, so it is written anew: pretty unless the request says otherwise, as Google's servers do.
func write(w http.ResponseWriter, query url.Values, out proto.Message) {
	b, err := protojson.Marshal(out)
	var value any
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		err = d.Decode(&value)
	}
	if err != nil {
		fail(w, query, status.Errorf(codes.Internal, "The answer cannot be written: %v", err))
		return
	}
	if fields := first(query, "fields", "$fields"); fields != "" {
		mask, err := parseFields(fields)
		if err != nil {
			fail(w, query, status.Errorf(codes.InvalidArgument, "Request contains an invalid argument. Invalid field selection %q: %v", fields, err))
			return
		}
		value = mask.apply(value)
	}
	writeJSON(w, query, http.StatusOK, value)
}

func writeJSON(w http.ResponseWriter, query url.Values, code int, value any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if pretty, err := strconv.ParseBool(first(query, "prettyPrint", "$prettyPrint")); err != nil || pretty {
		enc.SetIndent("", "  ")
	}
	// A client that is gone is no news.
	_ = enc.Encode(value)
}

// httpCodes and reasons are Google's mapping (google/rpc/code.proto) and the older error format's reasons, which the Go client shows.
var httpCodes = map[codes.Code]struct {
	code   int
	reason string
}{
	codes.InvalidArgument:    {400, "badRequest"},
	codes.FailedPrecondition: {400, "failedPrecondition"},
	codes.OutOfRange:         {400, "outOfRange"},
	codes.Unauthenticated:    {401, "authError"},
	codes.PermissionDenied:   {403, "forbidden"},
	codes.NotFound:           {404, "notFound"},
	codes.Aborted:            {409, "aborted"},
	codes.AlreadyExists:      {409, "alreadyExists"},
	codes.ResourceExhausted:  {429, "rateLimitExceeded"},
	codes.Canceled:           {499, "cancelled"},
	codes.Unknown:            {500, "backendError"},
	codes.Internal:           {500, "backendError"},
	codes.DataLoss:           {500, "backendError"},
	codes.Unimplemented:      {501, "notImplemented"},
	codes.Unavailable:        {503, "backendError"},
	codes.DeadlineExceeded:   {504, "deadlineExceeded"},
}

func fail(w http.ResponseWriter, query url.Values, err error) {
	s := status.Convert(err)
	failWith(w, query, httpCodes[s.Code()].code, s)
}

// failWith answers an error in the form of Google's: {error: {code, message, status, errors, details}}.
func failWith(w http.ResponseWriter, query url.Values, code int, s *status.Status) {
	if code == 0 {
		code = http.StatusInternalServerError
	}
	reason := httpCodes[s.Code()].reason
	if code == http.StatusNotFound {
		reason = "notFound"
	}
	body := map[string]any{
		"code": code, "message": s.Message(), "status": statusName(s.Code()),
		"errors": []any{map[string]any{"message": s.Message(), "domain": "global", "reason": reason}},
	}
	var details []any
	for _, d := range s.Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok {
			wait := retry.GetRetryDelay().AsDuration()
			w.Header().Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
		}
		m, ok := d.(proto.Message)
		if !ok {
			continue
		}
		b, err := protojson.Marshal(m)
		var detail map[string]any
		if err != nil || json.Unmarshal(b, &detail) != nil {
			continue
		}
		detail["@type"] = "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())
		details = append(details, detail)
	}
	if details != nil {
		body["details"] = details
	}
	writeJSON(w, query, code, map[string]any{"error": body})
}

// statusName is a code as google.rpc.Code spells it.
func statusName(c codes.Code) string {
	if c == codes.Canceled {
		return "CANCELLED"
	}
	var b strings.Builder
	for i, r := range c.String() {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}
