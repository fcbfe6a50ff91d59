package storageemulator

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// maxMetadataBytes bounds a JSON request body. The real service's own limits on
// metadata are far below.
const maxMetadataBytes = 1 << 20

// serveJSON answers what is below /storage/v1/b.
func (e *Emulator) serveJSON(w http.ResponseWriter, r *http.Request, path []string) error {
	method := r.Method
	if override := r.Header.Get("X-HTTP-Method-Override"); method == http.MethodPost && override != "" {
		method = override
	}
	var kind string
	if len(path) >= 2 {
		kind = path[1]
	}
	switch {
	case len(path) == 0:
		return e.serveBuckets(w, r, method)
	case len(path) == 1:
		return e.serveBucket(w, r, method, path[0])
	case kind == "iam":
		return e.serveIAM(w, r, path[2:])
	case kind == "o" && len(path) == 2 && method == http.MethodGet:
		return e.listObjects(w, r, path[0])
	case kind == "o" && len(path) == 2 && method == http.MethodPost:
		return e.serveUpload(w, r, path)
	case kind == "o" && len(path) == 3:
		return e.serveObject(w, r, method, path[0], path[2])
	case kind == "o" && len(path) == 4 && path[3] == "compose" && method == http.MethodPost:
		return e.compose(w, r, path[0], path[2])
	case kind == "o" && len(path) == 8 && (path[3] == "rewriteTo" || path[3] == "copyTo") && path[4] == "b" && path[6] == "o":
		return e.copyObject(w, r, path)
	case kind == "acl" || kind == "defaultObjectAcl" || len(path) >= 4 && path[3] == "acl":
		return badRequest("Cannot use legacy ACLs when uniform bucket-level access is enabled, as it is on every bucket of the emulator.")
	}
	return &apiError{http.StatusNotFound, "notFound", fmt.Sprintf(
		"The storage emulator has no %s %s. Slashes in an object name are written %%2F in the JSON API.", r.Method, r.URL.EscapedPath())}
}

func (e *Emulator) serveBuckets(w http.ResponseWriter, r *http.Request, method string) error {
	switch method {
	case http.MethodGet:
		items := []any{}
		for _, b := range e.store.listBuckets(r.URL.Query().Get("prefix")) {
			items = append(items, b.resource(e.base))
		}
		writeAnswer(w, map[string]any{"kind": "storage#buckets", "items": items})
		return nil
	case http.MethodPost:
		var body map[string]json.RawMessage
		if err := readJSON(r, &body); err != nil {
			return err
		}
		var name string
		if err := json.Unmarshal(body["name"], &name); err != nil {
			return badRequest("Required parameter: name")
		}
		b, err := e.store.createBucket(name, body)
		if err != nil {
			return err
		}
		writeAnswer(w, b.resource(e.base))
		return nil
	}
	return errMethod(r)
}

func (e *Emulator) serveBucket(w http.ResponseWriter, r *http.Request, method, name string) error {
	var b bucket
	var err error
	switch method {
	case http.MethodGet:
		b, err = e.store.bucketNamed(name)
	case http.MethodPatch, http.MethodPut:
		var body map[string]json.RawMessage
		if err := readJSON(r, &body); err != nil {
			return err
		}
		b, err = e.store.patchBucket(name, body)
	case http.MethodDelete:
		if err := e.store.deleteBucket(name); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	default:
		return errMethod(r)
	}
	if err != nil {
		return err
	}
	writeAnswer(w, b.resource(e.base))
	return nil
}

// serveIAM grants everything: the emulator has no access control.
func (e *Emulator) serveIAM(w http.ResponseWriter, r *http.Request, path []string) error {
	if len(path) == 1 && path[0] == "testPermissions" {
		writeAnswer(w, map[string]any{"kind": "storage#testIamPermissionsResponse", "permissions": r.URL.Query()["permissions"]})
		return nil
	}
	writeAnswer(w, map[string]any{"kind": "storage#policy", "etag": "CAE=", "version": 1, "bindings": []any{}})
	return nil
}

func (e *Emulator) serveObject(w http.ResponseWriter, r *http.Request, method, bucketName, name string) error {
	q := r.URL.Query()
	generation, err := generationParameter(q, "generation")
	if err != nil {
		return err
	}
	cond, err := parseConditions(q, "if")
	if err != nil {
		return err
	}
	switch method {
	case http.MethodGet, http.MethodHead:
		if q.Get("alt") == "media" {
			return e.serveContent(w, r, bucketName, name, generation, cond)
		}
		o, err := e.store.get(bucketName, name, generation)
		if err != nil {
			return err
		}
		if err := cond.checkRead(&o); err != nil {
			return err
		}
		writeAnswer(w, o.linked(e.base))
		return nil
	case http.MethodDelete:
		if err := e.store.delete(bucketName, name, generation, cond); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodPatch, http.MethodPut:
		var body map[string]json.RawMessage
		if err := readJSON(r, &body); err != nil {
			return err
		}
		o, err := e.store.update(bucketName, name, generation, cond, func(o *Object) error {
			if method == http.MethodPut {
				o.clearAttributes()
			}
			return o.applyAttributes(body)
		})
		if err != nil {
			return err
		}
		writeAnswer(w, o.linked(e.base))
		return nil
	}
	return errMethod(r)
}

// clearAttributes forgets what a client may set.
func (o *Object) clearAttributes() {
	o.ContentType, o.ContentEncoding, o.ContentDisposition, o.ContentLanguage = "", "", "", ""
	o.CacheControl, o.CustomTime, o.Metadata = "", "", nil
	o.TemporaryHold, o.EventBasedHold = false, false
}

// applyAttributes takes client-set fields from a JSON body: null clears a
// field, and null inside metadata removes a key.
func (o *Object) applyAttributes(body map[string]json.RawMessage) error {
	for field, raw := range body {
		var to any
		switch field {
		case "contentType":
			to = &o.ContentType
		case "contentEncoding":
			to = &o.ContentEncoding
		case "contentDisposition":
			to = &o.ContentDisposition
		case "contentLanguage":
			to = &o.ContentLanguage
		case "cacheControl":
			to = &o.CacheControl
		case "customTime":
			to = &o.CustomTime
		case "storageClass":
			to = &o.StorageClass
		case "temporaryHold":
			to = &o.TemporaryHold
		case "eventBasedHold":
			to = &o.EventBasedHold
		case "metadata":
			if err := o.applyMetadata(raw); err != nil {
				return err
			}
			continue
		default:
			continue // computed fields, and settings without effect here
		}
		if string(raw) == "null" {
			raw = json.RawMessage(`""`)
			if _, isBool := to.(*bool); isBool {
				raw = json.RawMessage(`false`)
			}
		}
		if err := json.Unmarshal(raw, to); err != nil {
			return badRequest(fmt.Sprintf("Invalid value for %s: %v", field, err))
		}
	}
	return nil
}

func (o *Object) applyMetadata(raw json.RawMessage) error {
	var changes map[string]*string
	if err := json.Unmarshal(raw, &changes); err != nil {
		return badRequest("Invalid value for metadata: " + err.Error())
	}
	if changes == nil { // null
		o.Metadata = nil
		return nil
	}
	// A new map: answers and events being written still read the old one.
	metadata := maps.Clone(o.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	for key, value := range changes {
		if value == nil {
			delete(metadata, key)
		} else {
			metadata[key] = *value
		}
	}
	o.Metadata = metadata
	return nil
}

func (e *Emulator) listObjects(w http.ResponseWriter, r *http.Request, bucketName string) error {
	q := r.URL.Query()
	limit := 1000
	if s := q.Get("maxResults"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return badRequest(fmt.Sprintf("Invalid value for maxResults: %q", s))
		}
		if n > 0 {
			limit = min(n, limit)
		}
	}
	after, err := base64.URLEncoding.DecodeString(q.Get("pageToken"))
	if err != nil {
		return badRequest("Invalid value for pageToken.")
	}
	glob := q.Get("matchGlob")
	if glob != "" && !doublestar.ValidatePattern(glob) {
		return badRequest(fmt.Sprintf("Invalid value for matchGlob: %q", glob))
	}
	prefix, delimiter := q.Get("prefix"), q.Get("delimiter")
	objects, err := e.store.list(bucketName, prefix, q.Get("versions") == "true")
	if err != nil {
		return err
	}

	items, prefixes := []Object{}, []string{}
	next, position, seen := "", "", map[string]bool{}
	for _, o := range objects {
		if o.Name < q.Get("startOffset") || q.Get("endOffset") != "" && o.Name >= q.Get("endOffset") {
			continue
		}
		if glob != "" && !doublestar.MatchUnvalidated(glob, o.Name) {
			continue
		}
		folder := ""
		if delimiter != "" {
			if i := strings.Index(o.Name[len(prefix):], delimiter); i >= 0 {
				folder = o.Name[:len(prefix)+i+len(delimiter)]
			}
		}
		at := o.Name + "\x00" + fmt.Sprintf("%020d", o.Generation)
		if folder != "" {
			// A folder sorts as a whole, after everything of an earlier page.
			at = folder + "\xff"
		}
		if at <= string(after) || folder != "" && seen[folder] {
			continue
		}
		if len(items)+len(prefixes) == limit {
			next = base64.URLEncoding.EncodeToString([]byte(position))
			break
		}
		position = at
		if folder != "" {
			seen[folder] = true
			prefixes = append(prefixes, folder)
			if q.Get("includeTrailingDelimiter") != "true" || o.Name != folder {
				continue
			}
		}
		items = append(items, o.linked(e.base))
	}
	answer := map[string]any{"kind": "storage#objects"}
	if len(items) > 0 {
		answer["items"] = items
	}
	if len(prefixes) > 0 {
		answer["prefixes"] = prefixes
	}
	if next != "" {
		answer["nextPageToken"] = next
	}
	writeAnswer(w, answer)
	return nil
}

// copyObject answers rewriteTo and copyTo; a rewrite is done in one step.
func (e *Emulator) copyObject(w http.ResponseWriter, r *http.Request, path []string) error {
	q := r.URL.Query()
	generation, err := generationParameter(q, "sourceGeneration")
	if err != nil {
		return err
	}
	sourceCond, err := parseConditions(q, "ifSource")
	if err != nil {
		return err
	}
	cond, err := parseConditions(q, "if")
	if err != nil {
		return err
	}
	var body map[string]json.RawMessage
	if err := readJSON(r, &body); err != nil {
		return err
	}
	source, content, err := e.readAll(path[0], path[2], generation)
	if err != nil {
		return err
	}
	if err := sourceCond.checkWrite(&version{Object: source}); err != nil {
		return err
	}
	// Attributes in the body replace the source's; without any they are copied.
	attributes := source
	if len(body) > 0 {
		attributes.clearAttributes()
		if err := attributes.applyAttributes(body); err != nil {
			return err
		}
		if attributes.ContentType == "" {
			attributes.ContentType = source.ContentType
		}
	}
	attributes.Name, attributes.MD5Hash = path[7], ""
	o, err := e.store.put(path[5], upload{attributes: attributes, content: content, components: source.ComponentCount}, cond)
	if err != nil {
		return err
	}
	if path[3] == "copyTo" {
		writeAnswer(w, o.linked(e.base))
		return nil
	}
	size := strconv.FormatInt(o.Size, 10)
	writeAnswer(w, map[string]any{
		"kind": "storage#rewriteResponse", "done": true,
		"objectSize": size, "totalBytesRewritten": size, "resource": o.linked(e.base),
	})
	return nil
}

func (e *Emulator) compose(w http.ResponseWriter, r *http.Request, bucketName, name string) error {
	var body struct {
		SourceObjects []struct {
			Name                string
			Generation          int64 `json:",string"`
			ObjectPreconditions struct {
				IfGenerationMatch *int64 `json:"ifGenerationMatch,string"`
			}
		}
		Destination map[string]json.RawMessage
	}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	if n := len(body.SourceObjects); n == 0 || n > 32 {
		return badRequest(fmt.Sprintf("The number of source components provided (%d) is not between 1 and 32.", n))
	}
	cond, err := parseConditions(r.URL.Query(), "if")
	if err != nil {
		return err
	}
	attributes := Object{Name: name}
	if err := attributes.applyAttributes(body.Destination); err != nil {
		return err
	}
	u := upload{}
	for _, source := range body.SourceObjects {
		o, content, err := e.readAll(bucketName, source.Name, source.Generation)
		if err != nil {
			return err
		}
		if match := source.ObjectPreconditions.IfGenerationMatch; match != nil && *match != o.Generation {
			return errPrecondition()
		}
		if attributes.ContentType == "" {
			attributes.ContentType = o.ContentType
		}
		u.content = append(u.content, content...)
		u.components += max(1, o.ComponentCount)
	}
	u.attributes = attributes
	o, err := e.store.put(bucketName, u, cond)
	if err != nil {
		return err
	}
	writeAnswer(w, o.linked(e.base))
	return nil
}

func (e *Emulator) readAll(bucketName, name string, generation int64) (Object, []byte, error) {
	o, content, err := e.store.open(bucketName, name, generation)
	if err != nil {
		return o, nil, err
	}
	defer content.Close()
	data, err := io.ReadAll(content)
	return o, data, err
}

// serveBatch answers many requests in one (multipart/mixed of application/http).
func (e *Emulator) serveBatch(w http.ResponseWriter, r *http.Request, _ []string) error {
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || params["boundary"] == "" {
		return badRequest("A batch has Content-Type multipart/mixed with a boundary.")
	}
	var answers bytes.Buffer
	out := multipart.NewWriter(&answers)
	in := multipart.NewReader(r.Body, params["boundary"])
	for {
		part, err := in.NextPart()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return badRequest("The batch is malformed: " + err.Error())
		}
		inner, err := http.ReadRequest(bufio.NewReader(part))
		if err != nil {
			return badRequest("The batch holds a malformed request: " + err.Error())
		}
		recorder := httptest.NewRecorder()
		e.ServeHTTP(recorder, inner)
		header := textproto.MIMEHeader{"Content-Type": {"application/http"}}
		if id := part.Header.Get("Content-Id"); id != "" {
			header.Set("Content-ID", "<response-"+strings.TrimPrefix(id, "<"))
		}
		to, err := out.CreatePart(header)
		if err != nil {
			return err
		}
		response := recorder.Result()
		response.ContentLength = int64(recorder.Body.Len())
		if err := response.Write(to); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "multipart/mixed; boundary="+out.Boundary())
	_, _ = answers.WriteTo(w)
	return nil
}

func generationParameter(q url.Values, name string) (int64, error) {
	s := q.Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, badRequest(fmt.Sprintf("Invalid value for %s: %q is not a generation.", name, s))
	}
	return n, nil
}

// readJSON decodes a request body; an empty one leaves value as it is.
func readJSON(r *http.Request, value any) error {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxMetadataBytes+1))
	if err != nil {
		return badRequest("Reading the request failed: " + err.Error())
	}
	if len(data) > maxMetadataBytes {
		return badRequest(fmt.Sprintf("The request's metadata is larger than %d bytes.", maxMetadataBytes))
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	if err := json.Unmarshal(data, value); err != nil {
		return &apiError{http.StatusBadRequest, "parseError", "Parse Error: " + err.Error()}
	}
	return nil
}

func errMethod(r *http.Request) error {
	return &apiError{http.StatusMethodNotAllowed, "methodNotAllowed", fmt.Sprintf("The storage emulator has no %s %s.", r.Method, r.URL.EscapedPath())}
}
