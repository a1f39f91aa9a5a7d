package forwardauth_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// checker is a service that lets in by the field Authorization, and does other
// things by what stands in it.
func checker(t *testing.T) (*httptest.Server, *atomic.Pointer[http.Header]) {
	t.Helper()
	last := new(atomic.Pointer[http.Header])
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		head := r.Header.Clone()
		last.Store(&head)
		switch token := r.Header.Get("Authorization"); token {
		case "ann":
			w.Header().Set("X-User", "ann")
			w.Header().Set("X-Consumer", "mobile")
			w.Header().Add("X-Role", "a")
			w.Header().Add("X-Role", "b")
		case "guest":
		case "ghost":
			w.Header().Set("X-Consumer", "ghost")
		case "login":
			w.Header().Set("Location", "https://id.example.com/login")
			w.WriteHeader(http.StatusFound)
		case "script":
			w.Header().Set("Location", "javascript:alert(1)")
			w.WriteHeader(http.StatusFound)
		case "forbidden":
			w.Header().Set("X-Reason", "because")
			w.WriteHeader(http.StatusForbidden)
		case "broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "odd":
			w.WriteHeader(http.StatusTeapot)
		case "moved":
			w.WriteHeader(http.StatusPermanentRedirect)
		case "large":
			_, _ = w.Write(make([]byte, 4096))
		case "hang up":
			panic(http.ErrAbortHandler)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="service"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	return s, last
}

func Test(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "forward_auth", Settings: `{ url: "` + s.URL + `", take: X-User }`,
		Allocs: 1000, // it makes a request of its own
	})
}

func TestForwardAuth(t *testing.T) {
	s, last := checker(t)
	r := policytest.NewRig(t, all.Catalog(), `
consumers:
  - { name: mobile, groups: [partners] }
routes:
  - match: /*
    upstream: http://up
    policies:
      - forward_auth:
          url: "`+s.URL+`/check"
          take: [X-User, X-Role]
          answer: [WWW-Authenticate, X-Reason]
          consumer_field: X-Consumer
          subject_field: X-User
          headers: { X-Groups: groups, X-Sub: subject }
          http: { max_body: 1KiB }
`, nil)
	defer r.Close()
	for _, c := range []struct {
		token  string
		status int
		code   string
		fields map[string]string // of the answer, or of what the service got
	}{
		{"ann", 200, "", map[string]string{"X-User": "ann", "X-Role": "a", "X-Groups": "partners", "X-Sub": "ann", "Authorization": "ann"}},
		{"guest", 200, "", map[string]string{"X-User": "", "X-Role": "", "X-Groups": "", "X-Sub": ""}},
		{"ghost", 401, "credential_invalid", nil},
		{"none", 401, "access_refused", map[string]string{"WWW-Authenticate": `Bearer realm="service"`}},
		{"forbidden", 403, "access_refused", map[string]string{"X-Reason": "because"}},
		{"login", 302, "", map[string]string{"Location": "https://id.example.com/login"}},
		{"script", 503, "identity_unavailable", nil},
		{"broken", 503, "identity_unavailable", nil},
		{"odd", 503, "identity_unavailable", nil},
		{"moved", 503, "identity_unavailable", nil},
		{"large", 503, "identity_unavailable", nil},
		{"hang up", 503, "identity_unavailable", nil},
	} {
		t.Run(c.token, func(t *testing.T) {
			a := r.Do(policytest.Request{Method: "POST", Target: "/a/../b?x=%20", Body: "hello", Header: []exchange.Field{
				{Name: "Authorization", Value: c.token},
				{Name: "x-user", Value: "admin"},
				{Name: "X-ROLE", Value: "admin"},
				{Name: "X-Sub", Value: "admin"},
				{Name: "X-Forwarded-Method", Value: "GET"},
				{Name: "X-Forwarded-For", Value: "127.0.0.1"},
			}})
			got := r.Received()
			if a.Status != c.status || (len(got) == 1) != (c.status == 200) || c.code != "" && a.Problem.Code != c.code {
				t.Fatalf("answer %d: %v", a.Status, a.Problem)
			}
			h := &a.Header
			if c.status == 200 {
				h = &got[0].Header
			}
			for name, want := range c.fields {
				if h.Get(name) != want {
					t.Errorf("%s is %q, want %q", name, h.Get(name), want)
				}
			}
			for name, want := range map[string]string{
				"X-Forwarded-Method": "POST", "X-Forwarded-Uri": "/b?x=%20", "X-Forwarded-Host": "gateway.test", "X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http", "X-Sub": "",
			} {
				if got := strings.Join(last.Load().Values(name), ","); got != want {
					t.Errorf("the checker is told %s: %q, want %q", name, got, want)
				}
			}
		})
	}
	s.Close()
	if a := r.Do(policytest.Request{Target: "/", Header: []exchange.Field{{Name: "Authorization", Value: "ann"}}}); a.Status != 503 {
		t.Errorf("with the service gone: %d", a.Status)
	}
}
