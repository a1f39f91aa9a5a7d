package admin

import (
	"encoding/json"
	"io"
	"net/http"

	"gatehouse.dev/gatehouse/internal/config"
)

// pages answers requests that were let in.
type pages struct{ deps Deps }

// ServeHTTP answers. A path has one spelling: nothing is cleaned or redirected.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var page func(http.ResponseWriter, *http.Request)
	switch r.URL.EscapedPath() {
	case "/livez":
		page = p.live
	case "/readyz":
		page = p.ready
	case "/status":
		page = p.status
	case "/metrics":
		page = p.deps.Metrics.ServeHTTP
	default:
		refuse(w, http.StatusNotFound, "not_found", "There are /livez, /readyz, /status and /metrics.")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "method_not_allowed", "This address only reads: GET and HEAD.")
		return
	}
	page(w, r)
}

func (p *pages) live(w http.ResponseWriter, _ *http.Request) { ok(w) }

func (p *pages) ready(w http.ResponseWriter, _ *http.Request) {
	if !p.deps.Ready() {
		refuse(w, http.StatusServiceUnavailable, "not_ready", "The gateway does not serve yet, or is about to stop.")
		return
	}
	ok(w)
}

func ok(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "ok\n")
}

func (p *pages) status(w http.ResponseWriter, _ *http.Request) {
	s := p.deps.Status()
	// No list is an empty one: readers of JSON tell them apart.
	if s.Listeners == nil {
		s.Listeners = []Listener{}
	}
	if s.Upstreams == nil {
		s.Upstreams = []any{}
	}
	if s.Certificates == nil {
		s.Certificates = []any{}
	}
	if s.Reload.Faults == nil {
		s.Reload.Faults = config.Faults{}
	}
	write(w, http.StatusOK, "application/json", s)
}

// problem is the body of a refusal (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func refuse(w http.ResponseWriter, status int, code, detail string) {
	write(w, status, "application/problem+json", problem{"about:blank", http.StatusText(status), status, code, detail})
}

func write(w http.ResponseWriter, status int, kind string, v any) {
	body, err := json.Marshal(v)
	if err != nil { // strings, numbers and times always can be written
		panic(err)
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
