package eventarc

import (
	"net/http"
)

// Handler is the broker's own HTTP face:
//
//	POST /publish       a CloudEvent, in binary or structured mode; 202 when accepted
//	GET  /triggers      what is delivered where
//	GET  /deliveries    the latest attempts
//	GET  /dead-letters  the latest events that were given up
//	GET  /healthz       how many events are pending
func (b *Broker) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /publish", func(w http.ResponseWriter, r *http.Request) {
		e, err := readEvent(r)
		if err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		n, err := b.Publish(e)
		if err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		answer(w, http.StatusAccepted, map[string]int{"triggers": n})
	})
	mux.HandleFunc("GET /triggers", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, list(b.Triggers())) })
	mux.HandleFunc("GET /deliveries", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, list(b.Deliveries())) })
	mux.HandleFunc("GET /dead-letters", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, list(b.DeadLetters())) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]int{"pending": b.Pending()})
	})
	return mux
}

// list makes an empty list [] in JSON, not null.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(encodeJSON(value), '\n'))
}
