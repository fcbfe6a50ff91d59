package events

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// The checks before the SDK keep input that it panics on away from it. Should one be missing, the request still gets an
// answer and the instance lives.
func TestPanicOfTheSDKIsAnError(t *testing.T) {
	structured := func(doc string) *http.Request {
		return &http.Request{Method: http.MethodPost, Header: http.Header{"Content-Type": {structuredType}}, Body: io.NopCloser(strings.NewReader(doc))}
	}
	for name, r := range map[string]*http.Request{
		"header named ce-":           {Method: http.MethodPost, Header: http.Header{"Ce-Specversion": {"1.0"}, "Ce-": {"x"}}},
		"data_base64 that is 1":      structured(`{"specversion":"1.0","data_base64":1}`),
		"empty content encoding 0.3": structured(`{"datacontentencoding":"","specversion":"0.3"}`),
	} {
		if ce, err := decodeAttributes(r); err == nil {
			t.Errorf("%s: decoded as %v", name, ce)
		}
	}
}
