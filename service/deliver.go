package service

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/deadletters"
)

// Functions are the functions of a deployment, to deliver events to.
type Functions struct {
	// URL is their base URL: each is at its name below it.
	URL string
	// Token is a bearer token for functions that take deliveries from known senders only; empty: none.
	Token string
}

// deliveryTimeout bounds one delivery: a function may take its whole time for an event.
const deliveryTimeout = 60 * time.Second

// delivered is a function's answer to an event.
type delivered struct {
	status    int // zero: there was no answer
	decisions []RedriveDecision
}

var errNoFunctions = errors.New("where are the functions? Set PENSTOCK_FUNCTIONS_URL to their base URL")

// deliver posts an event to an entry point, for the letter's pipeline alone where it names one. identity, if there is one, is the event's: a function that reads another from
// the delivery refuses it. The error is nil where a function of ours took the event, though the pipeline may not want it; goOn is false where it did not for a
// reason that the next event would meet, too.
func (f Functions) deliver(ctx context.Context, l deadletters.Letter, identity string) (d delivered, goOn bool, err error) {
	if f.URL == "" {
		return d, false, errNoFunctions
	}
	if !deadletters.IsEntryPoint(l.EntryPoint) {
		return d, true, fmt.Errorf("it is for %q, and no function that this program knows is called so: if a newer Penstock made it, use its command line", l.EntryPoint)
	}
	target, err := url.JoinPath(f.URL, l.EntryPoint)
	if err != nil {
		return d, false, fmt.Errorf("the functions' URL %q: %w", f.URL, err)
	}
	if l.Topic != "" {
		target += "?" + url.Values{"topic": {l.Topic}}.Encode()
	}
	ctx, cancel := context.WithTimeout(ctx, deliveryTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(l.Body))
	if err != nil {
		return d, false, fmt.Errorf("deliver to %s: %w", target, err)
	}
	request.Header = l.Header.Clone()
	if identity != "" {
		request.Header.Set(deadletters.HeaderIdentity, url.PathEscape(identity))
	}
	if l.Pipeline != "" {
		request.Header.Set(deadletters.HeaderPipeline, l.Pipeline)
	}
	if err := wellFormed(request.Header); err != nil {
		return d, true, err // before the token is among them: that one is every letter's
	}
	if f.Token != "" {
		request.Header.Set("Authorization", "Bearer "+f.Token)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return d, false, fmt.Errorf("deliver: %w", err)
	}
	defer func() { _ = answer.Body.Close() }() // only read from
	d.status = answer.StatusCode
	const most = 1 << 20
	text, _ := io.ReadAll(io.LimitReader(answer.Body, most)) // the status counts; the text explains it
	var said struct {
		Decisions []RedriveDecision `json:"decisions"`
		Error     string            `json:"error"`
	}
	ours := json.Unmarshal(text, &said) == nil && said.Decisions != nil
	d.decisions = said.Decisions
	switch {
	case answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
		return d, false, fmt.Errorf("%s answers %s: set PENSTOCK_FUNCTIONS_TOKEN to an identity token that may call the functions", target, answer.Status)
	case answer.StatusCode/100 != 2:
		return d, true, fmt.Errorf("%s answers %s: %s", target, answer.Status, cmp.Or(said.Error, reasons(said.Decisions), clip(text)))
	case !ours:
		// Whoever answered 200 there is no function of ours: to take its word for it would lose the event.
		return d, false, fmt.Errorf("%s answers %s, but not as Penstock's functions do: %q", target, answer.Status, clip(text))
	}
	return d, true, nil
}

// unwantedBy says whether the functions have the pipeline no more, or it does not want the event: nobody took it then. What did
// not get as far as a pipeline, since it does not decode, is a dead letter anew.
func (d *delivered) unwantedBy(pipeline string) bool {
	own := slices.IndexFunc(d.decisions, func(d RedriveDecision) bool { return d.Pipeline == pipeline || d.Pipeline == "" })
	return own < 0 || d.decisions[own].Decision == string(Skipped) && d.decisions[own].Reason == deadletters.ReasonUnwanted
}

// wellFormed says whether net/http sends the headers. Its own error cannot be told from one of the connection.
// https://www.rfc-editor.org/rfc/rfc9110#section-5
func wellFormed(h http.Header) error {
	for name, values := range h {
		if name == "" || strings.ContainsFunc(name, func(c rune) bool {
			return c <= ' ' || c > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
		}) {
			return fmt.Errorf("it cannot be delivered: %q is no name of a header", name)
		}
		for _, value := range values {
			if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
				return fmt.Errorf("it cannot be delivered: the header %s has a control character: %q", name, value)
			}
		}
	}
	return nil
}
