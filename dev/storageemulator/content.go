package storageemulator

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// serveUpload answers the three forms of
// https://cloud.google.com/storage/docs/uploads-downloads: media, multipart and
// resumable.
func (e *Emulator) serveUpload(w http.ResponseWriter, r *http.Request, path []string) error {
	if len(path) != 2 || path[1] != "o" {
		return &apiError{http.StatusNotFound, "notFound", "An upload goes to /upload/storage/v1/b/BUCKET/o."}
	}
	bucketName, q := path[0], r.URL.Query()
	if id := q.Get("upload_id"); id != "" {
		return e.continueUpload(w, r, id)
	}
	if r.Method != http.MethodPost && r.Method != http.MethodPut {
		return errMethod(r)
	}
	cond, err := parseConditions(q, "if")
	if err != nil {
		return err
	}
	var u upload
	switch kind := q.Get("uploadType"); kind {
	case "resumable":
		return e.startUpload(w, r, bucketName, cond)
	case "multipart":
		u, err = readMultipart(r)
	case "media", "":
		u.attributes.ContentType = r.Header.Get("Content-Type")
		u.attributes.ContentEncoding = q.Get("contentEncoding")
		u.content, err = io.ReadAll(r.Body)
	default:
		err = badRequest(fmt.Sprintf("Invalid value for uploadType: %q; media, multipart or resumable.", kind))
	}
	if err != nil {
		return err
	}
	return e.finishUpload(w, r, bucketName, u, cond)
}

func (e *Emulator) finishUpload(w http.ResponseWriter, r *http.Request, bucketName string, u upload, cond conditions) error {
	if name := r.URL.Query().Get("name"); name != "" {
		u.attributes.Name = name
	}
	for _, header := range r.Header.Values("X-Goog-Hash") {
		for hash := range strings.SplitSeq(header, ",") {
			if crc, ok := strings.CutPrefix(strings.TrimSpace(hash), "crc32c="); ok {
				u.attributes.CRC32C = crc
			} else if md5Hash, ok := strings.CutPrefix(strings.TrimSpace(hash), "md5="); ok {
				u.attributes.MD5Hash = md5Hash
			}
		}
	}
	o, err := e.store.put(bucketName, u, cond)
	if err != nil {
		return err
	}
	writeAnswer(w, o.linked(e.base))
	return nil
}

// uploadAttributes reads the object resource that begins an upload.
func uploadAttributes(data []byte) (Object, error) {
	var o Object
	if len(bytes.TrimSpace(data)) == 0 {
		return o, nil
	}
	var body map[string]json.RawMessage
	if err := json.Unmarshal(data, &body); err != nil {
		return o, &apiError{http.StatusBadRequest, "parseError", "Parse Error: " + err.Error()}
	}
	for field, to := range map[string]*string{"name": &o.Name, "crc32c": &o.CRC32C, "md5Hash": &o.MD5Hash} {
		if raw, ok := body[field]; ok {
			if err := json.Unmarshal(raw, to); err != nil {
				return o, badRequest(fmt.Sprintf("Invalid value for %s: %v", field, err))
			}
		}
	}
	return o, o.applyAttributes(body)
}

func readMultipart(r *http.Request) (upload, error) {
	var u upload
	contentType := r.Header.Get("Content-Type")
	// gsutil quotes its boundary with single quotes, which RFC 2045 does not know.
	if before, boundary, ok := strings.Cut(contentType, "boundary='"); ok {
		contentType = before + `boundary="` + strings.TrimSuffix(boundary, "'") + `"`
	}
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["boundary"] == "" {
		return u, badRequest("A multipart upload has Content-Type multipart/related with a boundary.")
	}
	reader := multipart.NewReader(r.Body, params["boundary"])
	metadata, err := reader.NextRawPart()
	if err != nil {
		return u, badRequest("The multipart upload lacks its metadata part: " + err.Error())
	}
	data, err := io.ReadAll(io.LimitReader(metadata, maxMetadataBytes))
	if err != nil {
		return u, badRequest("Reading the metadata part failed: " + err.Error())
	}
	if u.attributes, err = uploadAttributes(data); err != nil {
		return u, err
	}
	media, err := reader.NextRawPart()
	if err != nil {
		return u, badRequest("The multipart upload lacks its media part: " + err.Error())
	}
	if u.attributes.ContentType == "" {
		u.attributes.ContentType = media.Header.Get("Content-Type")
	}
	if u.content, err = io.ReadAll(media); err != nil {
		return u, badRequest("Reading the media part failed: " + err.Error())
	}
	return u, nil
}

// uploadSessions are resumable uploads in progress. They end with the process,
// after which a client starts its upload again.
type uploadSessions struct {
	mu   sync.Mutex
	open map[string]*uploadSession
}

type uploadSession struct {
	mu     sync.Mutex
	bucket string
	upload upload
	cond   conditions
	done   *Object // the result, for a client that lost the last answer
}

func (e *Emulator) startUpload(w http.ResponseWriter, r *http.Request, bucketName string, cond conditions) error {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxMetadataBytes))
	if err != nil {
		return badRequest("Reading the request failed: " + err.Error())
	}
	attributes, err := uploadAttributes(data)
	if err != nil {
		return err
	}
	if name := r.URL.Query().Get("name"); name != "" {
		attributes.Name = name
	}
	if attributes.ContentType == "" {
		attributes.ContentType = r.Header.Get("X-Upload-Content-Type")
	}
	if err := checkObjectName(attributes.Name); err != nil {
		return err
	}
	if _, err := e.store.bucketNamed(bucketName); err != nil {
		return err
	}
	id := rand.Text()
	e.uploads.mu.Lock()
	if e.uploads.open == nil {
		e.uploads.open = map[string]*uploadSession{}
	}
	e.uploads.open[id] = &uploadSession{bucket: bucketName, upload: upload{attributes: attributes}, cond: cond}
	e.uploads.mu.Unlock()
	w.Header().Set("Location", fmt.Sprintf("%s/upload/storage/v1/b/%s/o?uploadType=resumable&name=%s&upload_id=%s",
		e.base, url.PathEscape(bucketName), url.QueryEscape(attributes.Name), id))
	w.Header().Set("X-GUploader-UploadID", id)
	w.WriteHeader(http.StatusOK)
	return nil
}

func (e *Emulator) continueUpload(w http.ResponseWriter, r *http.Request, id string) error {
	e.uploads.mu.Lock()
	session := e.uploads.open[id]
	if r.Method == http.MethodDelete {
		delete(e.uploads.open, id)
	}
	e.uploads.mu.Unlock()
	if session == nil {
		return &apiError{http.StatusNotFound, "notFound", "There is no upload session with that upload_id; start the upload again."}
	}
	if r.Method == http.MethodDelete {
		w.WriteHeader(499) // how the real service confirms a cancelled upload
		return nil
	}
	session.mu.Lock()
	defer session.mu.Unlock()
	if session.done != nil {
		writeAnswer(w, session.done.linked(e.base))
		return nil
	}
	chunk, err := parseContentRange(r.Header.Get("Content-Range"))
	if err != nil {
		return err
	}
	have := int64(len(session.upload.content))
	if !chunk.query {
		if chunk.start > have {
			return &apiError{http.StatusServiceUnavailable, "backendError", fmt.Sprintf("The chunk begins at byte %d, the upload has %d.", chunk.start, have)}
		}
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return badRequest("Reading the chunk failed: " + err.Error())
		}
		// A chunk sent again overlaps what is already there.
		if overlap := have - chunk.start; overlap < int64(len(data)) {
			session.upload.content = append(session.upload.content, data[overlap:]...)
		}
		have = int64(len(session.upload.content))
	}
	final := chunk.total >= 0 && have == chunk.total || chunk.whole
	if !final {
		if have > 0 {
			w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", have-1))
		}
		if r.Header.Get("X-GUploader-No-308") == "yes" {
			w.Header().Set("X-Http-Status-Code-Override", "308")
			w.WriteHeader(http.StatusOK)
			return nil
		}
		w.WriteHeader(http.StatusPermanentRedirect)
		return nil
	}
	u := session.upload
	for _, header := range r.Header.Values("X-Goog-Hash") {
		for hash := range strings.SplitSeq(header, ",") {
			if crc, ok := strings.CutPrefix(strings.TrimSpace(hash), "crc32c="); ok {
				u.attributes.CRC32C = crc
			}
		}
	}
	o, err := e.store.put(session.bucket, u, session.cond)
	if err != nil {
		return err
	}
	session.done, session.upload.content = &o, nil
	writeAnswer(w, o.linked(e.base))
	return nil
}

// contentRange is the Content-Range header of a chunk.
type contentRange struct {
	start int64
	total int64 // -1: not known yet
	query bool  // "bytes */...": no data, only a question
	whole bool  // no header: the body is the whole content
}

func parseContentRange(header string) (contentRange, error) {
	if header == "" {
		return contentRange{total: -1, whole: true}, nil
	}
	invalid := badRequest(fmt.Sprintf("Invalid Content-Range %q: bytes FIRST-LAST/TOTAL, with * for what is not known.", header))
	spec, ok := strings.CutPrefix(header, "bytes ")
	first, total, cut := strings.Cut(spec, "/")
	if !ok || !cut {
		return contentRange{}, invalid
	}
	c := contentRange{total: -1}
	var err error
	if total != "*" {
		if c.total, err = strconv.ParseInt(total, 10, 64); err != nil || c.total < 0 {
			return c, invalid
		}
	}
	if first == "*" {
		c.query = true
		return c, nil
	}
	start, _, cut := strings.Cut(first, "-")
	if c.start, err = strconv.ParseInt(start, 10, 64); err != nil || !cut || c.start < 0 {
		return c, invalid
	}
	return c, nil
}

// serveDownload answers /download/storage/v1/b/BUCKET/o/OBJECT.
func (e *Emulator) serveDownload(w http.ResponseWriter, r *http.Request, path []string) error {
	if len(path) != 3 || path[1] != "o" {
		return &apiError{http.StatusNotFound, "notFound", "A download comes from /download/storage/v1/b/BUCKET/o/OBJECT."}
	}
	generation, err := generationParameter(r.URL.Query(), "generation")
	if err != nil {
		return err
	}
	cond, err := parseConditions(r.URL.Query(), "if")
	if err != nil {
		return err
	}
	return e.serveContent(w, r, path[0], path[2], generation, cond)
}

func (e *Emulator) serveContent(w http.ResponseWriter, r *http.Request, bucketName, name string, generation int64, cond conditions) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return errMethod(r)
	}
	o, content, err := e.store.open(bucketName, name, generation)
	if err != nil {
		return err
	}
	defer content.Close()
	if err := cond.checkRead(&o); err != nil {
		return err
	}
	h := w.Header()
	h.Set("X-Goog-Generation", strconv.FormatInt(o.Generation, 10))
	h.Set("X-Goog-Metageneration", strconv.FormatInt(o.Metageneration, 10))
	h.Set("X-Goog-Storage-Class", o.StorageClass)
	h.Set("X-Goog-Stored-Content-Length", strconv.FormatInt(o.Size, 10))
	h.Set("X-Goog-Stored-Content-Encoding", "identity")
	h.Add("X-Goog-Hash", "crc32c="+o.CRC32C)
	if o.MD5Hash != "" {
		h.Add("X-Goog-Hash", "md5="+o.MD5Hash)
	}
	h.Set("ETag", `"`+o.Etag+`"`)
	for key, value := range o.Metadata {
		h.Set("X-Goog-Meta-"+key, value)
	}
	for header, value := range map[string]string{
		"Content-Encoding": o.ContentEncoding, "Content-Disposition": o.ContentDisposition,
		"Content-Language": o.ContentLanguage, "Cache-Control": o.CacheControl,
	} {
		if value != "" {
			h.Set(header, value)
		}
	}
	h.Set("Content-Type", "application/octet-stream")
	if o.ContentType != "" {
		h.Set("Content-Type", o.ContentType)
	}
	if o.ContentEncoding == "gzip" {
		h.Set("X-Goog-Stored-Content-Encoding", "gzip")
		// https://cloud.google.com/storage/docs/transcoding: served unpacked, and
		// whole, to a client that does not accept gzip.
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") && !strings.Contains(o.CacheControl, "no-transform") {
			if unpacked, err := gzip.NewReader(content); err == nil {
				h.Del("Content-Encoding")
				if r.Method == http.MethodGet {
					_, _ = io.Copy(w, unpacked)
				}
				return nil
			}
			if _, err := content.Seek(0, io.SeekStart); err != nil {
				return fmt.Errorf("storage emulator: read %s/%s: %w", bucketName, name, err)
			}
		}
	}
	modified, err := time.Parse(time.RFC3339, o.Updated)
	if err != nil {
		return fmt.Errorf("storage emulator: updated time of %s/%s: %w", bucketName, name, err)
	}
	http.ServeContent(w, r, "", modified, content)
	return nil
}

// serveXML answers the one XML API call that the Go client makes by default:
// reading an object at /BUCKET/OBJECT.
func (e *Emulator) serveXML(w http.ResponseWriter, r *http.Request, path string) {
	bucketName, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	name, err := url.PathUnescape(rest)
	if err == nil && name == "" {
		err = &apiError{http.StatusNotFound, "notFound", "The storage emulator serves objects at /BUCKET/OBJECT; everything else is in the JSON API below /storage/v1."}
	}
	var cond conditions
	var generation int64
	if err == nil {
		generation, err = generationParameter(r.URL.Query(), "generation")
	}
	if err == nil {
		q := url.Values{}
		for header, parameter := range map[string]string{
			"x-goog-if-generation-match": "ifGenerationMatch", "x-goog-if-metageneration-match": "ifMetagenerationMatch",
		} {
			if value := r.Header.Get(header); value != "" {
				q.Set(parameter, value)
			}
		}
		cond, err = parseConditions(q, "if")
	}
	if err == nil {
		err = e.serveContent(w, r, bucketName, name, generation, cond)
	}
	if err == nil {
		return
	}
	failure := asAPIError(err)
	code := "InternalError"
	switch {
	case failure.code == http.StatusNotFound && strings.Contains(failure.message, "bucket"):
		code = "NoSuchBucket"
	case failure.code == http.StatusNotFound:
		code = "NoSuchKey"
	case failure.code == http.StatusPreconditionFailed:
		code = "PreconditionFailed"
	case failure.code < 500:
		code = "InvalidArgument"
	}
	w.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	w.WriteHeader(failure.code)
	if r.Method == http.MethodHead || failure.code == http.StatusNotModified {
		return
	}
	type xmlError struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}
	if data, err := xml.Marshal(xmlError{Code: code, Message: failure.message}); err == nil {
		_, _ = w.Write(append([]byte(xml.Header), data...))
	}
}
