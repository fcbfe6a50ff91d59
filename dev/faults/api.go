package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// State is the answer of GET /faults.
type State struct {
	Seed   uint64            `json:"seed"`
	Rules  []Rule            `json:"rules"`
	Counts map[string]Counts `json:"counts"`
}

// Handler is the lab's HTTP face:
//
//	GET    /faults         the seed, the rules in force and what they did
//	PUT    /faults         replace all rules: {"rules": […]}
//	DELETE /faults         no rules
//	GET    /faults/{name}  what one rule did; with ?injected=20 once it struck so often
//	PUT    /faults/{name}  set one rule
//	DELETE /faults/{name}  end one rule
//
// Every change answers as GET /faults does. A rule that is wrong is answered 400 and changes nothing.
func (l *Lab) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { l.show(w) })
	mux.HandleFunc("PUT /faults", func(w http.ResponseWriter, r *http.Request) {
		text, err := body(w, r)
		var plan Plan
		if err == nil {
			plan, err = ParsePlan(text)
		}
		if err == nil && plan.Seed != 0 && plan.Seed != l.seed {
			err = fmt.Errorf("seed: it is %d and cannot change while the lab runs", l.seed)
		}
		if err == nil {
			err = l.Set(plan.Rules)
		}
		l.changedOr(w, err)
	})
	mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) { l.changedOr(w, l.Set(nil)) })
	mux.HandleFunc("GET /faults/{name}", func(w http.ResponseWriter, r *http.Request) {
		n := 0
		if text := r.URL.Query().Get("injected"); text != "" {
			var err error
			if n, err = strconv.Atoi(text); err != nil || n < 0 {
				reply(w, http.StatusBadRequest, map[string]string{"error": fmt.Sprintf("injected: %q is no number of strikes", text)})
				return
			}
		}
		counts, err := l.Await(r.Context(), r.PathValue("name"), n)
		if err != nil {
			reply(w, http.StatusNotFound, map[string]string{"error": err.Error()})
			return
		}
		reply(w, http.StatusOK, counts)
	})
	mux.HandleFunc("PUT /faults/{name}", func(w http.ResponseWriter, r *http.Request) {
		text, err := body(w, r)
		var one Rule
		if err == nil {
			err = decode(text, &one)
		}
		if name := r.PathValue("name"); err == nil && one.Name == "" {
			one.Name = name
		} else if err == nil && one.Name != name {
			err = fmt.Errorf("rule %q: name: the path says %q", one.Name, name)
		}
		if err == nil {
			err = l.Put(one)
		}
		l.changedOr(w, err)
	})
	mux.HandleFunc("DELETE /faults/{name}", func(w http.ResponseWriter, r *http.Request) {
		if name := r.PathValue("name"); !l.Delete(name) {
			reply(w, http.StatusNotFound, map[string]string{"error": fmt.Sprintf("there is no rule %q", name)})
			return
		}
		l.show(w)
	})
	return mux
}

func body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPlan))
	if errors.As(err, new(*http.MaxBytesError)) {
		return nil, fmt.Errorf("the rules are larger than %d bytes", maxPlan)
	}
	return text, err
}

func (l *Lab) show(w http.ResponseWriter) {
	reply(w, http.StatusOK, State{Seed: l.seed, Rules: l.Rules(), Counts: l.Counts()})
}

func (l *Lab) changedOr(w http.ResponseWriter, err error) {
	if err != nil {
		reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	l.show(w)
}

func reply(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(value) // a client that is gone is no news
}
