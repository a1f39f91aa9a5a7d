package forwardauth_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// answering is a service that answers with these fields, name and value by
// turns.
func answering(t *testing.T, fields ...string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Add(fields[i], fields[i+1])
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func ask(r *policytest.Rig, target string, fields ...exchange.Field) (*policytest.Answer, *policytest.Received) {
	a := r.Do(policytest.Request{Target: target, Header: fields})
	if got := r.Received(); len(got) == 1 {
		return a, got[0]
	}
	return a, nil
}

// TestTakenBesideOthers has a field taken that another method reads, and hides.
func TestTakenBesideOthers(t *testing.T) {
	s := answering(t, "Authorization", "Bearer minted")
	r := policytest.NewRig(t, all.Catalog(), `
consumers:
  - name: ann
    credentials:
      - api_key: { hash: "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" }
routes:
  - match: /any
    upstream: http://up
    policies: [ any_of: { policies: [ api_key: { header: Authorization, scheme: Bearer }, forward_auth: { url: "`+s.URL+`", take: Authorization } ] } ]
  - match: /all
    upstream: http://up
    policies: [ all_of: { policies: [ forward_auth: { url: "`+s.URL+`", take: Authorization }, api_key: { header: Authorization, scheme: Bearer } ] } ]
  - match: /key
    upstream: http://up
    policies: [ any_of: { policies: [ api_key: {}, forward_auth: { url: "`+s.URL+`", take: Authorization } ] } ]
  - match: /kept
    upstream: http://up
    policies: [ any_of: { policies: [ api_key: { header: Authorization, scheme: Bearer, forward: true }, forward_auth: { url: "`+s.URL+`", take: Authorization } ] } ]
`, nil)
	defer r.Close()
	foo := exchange.Field{Name: "Authorization", Value: "Bearer foo"}
	for _, c := range []struct {
		target string
		fields []exchange.Field
		want   string
	}{
		{"/any", nil, "Bearer minted"},
		{"/any", []exchange.Field{foo}, ""},
		{"/all", []exchange.Field{foo}, "Bearer minted"},
		{"/key", []exchange.Field{{Name: "X-API-Key", Value: "foo"}, foo}, ""}, // it is nobody's word
		{"/kept", []exchange.Field{foo}, "Bearer foo"},
	} {
		a, got := ask(r, c.target, c.fields...)
		if got == nil || got.Header.Get("Authorization") != c.want {
			t.Errorf("%s: %d, %v, the service gets %v, want %q", c.target, a.Status, a.Problem, got, c.want)
		}
	}
}

// TestChallenges: an answer 401 of the service says beside its own challenge what
// else would have been taken.
func TestChallenges(t *testing.T) {
	s, _ := checker(t)
	r := policytest.NewRig(t, all.Catalog(), `
routes:
  - match: /*
    upstream: http://up
    policies: [ any_of: { policies: [ basic: {}, forward_auth: { url: "`+s.URL+`" } ] } ]
`, nil)
	defer r.Close()
	a, got := ask(r, "/", exchange.Field{Name: "Authorization", Value: "Bearer wrong"})
	if want := `Bearer realm="service"|Basic realm="gatehouse", charset="UTF-8"`; a.Status != 401 || got != nil || strings.Join(slices.Collect(a.Header.Values("WWW-Authenticate")), "|") != want {
		t.Errorf("%d, %v", a.Status, a.Header)
	}
}

// TestOneName has a service that names two, one, or none, and a client that
// names itself.
func TestOneName(t *testing.T) {
	for name, c := range map[string]struct {
		fields []string
		status int
	}{
		"one":           {[]string{"X-Consumer", "ann", "X-User", "ann"}, 200},
		"none":          {nil, 200},
		"two consumers": {[]string{"X-Consumer", "ann", "X-Consumer", "bob"}, 503},
		"two users":     {[]string{"X-User", "ann", "X-User", "root"}, 503},
	} {
		s := answering(t, c.fields...)
		r := policytest.NewRig(t, all.Catalog(), `
consumers: [ { name: ann }, { name: bob } ]
routes:
  - match: /*
    upstream: http://up
    policies: [ forward_auth: { url: "`+s.URL+`", consumer_field: X-Consumer, subject_field: X-User, headers: { X-Who: consumer } } ]
`, nil)
		a, got := ask(r, "/", exchange.Field{Name: "X-Consumer", Value: "bob"}, exchange.Field{Name: "x-user", Value: "root"})
		if a.Status != c.status || (got != nil) != (c.status == 200) {
			t.Errorf("%s: %d, %v", name, a.Status, a.Problem)
		}
		if got != nil && (got.Header.Get("X-Consumer") != "" || got.Header.Get("X-User") != "") {
			t.Errorf("%s: what the client says of itself goes on: %v", name, got)
		}
		r.Close()
	}
}

// TestQuestion has the service asked without body and fields that nobody listed.
func TestQuestion(t *testing.T) {
	type asked struct {
		names []string
		body  string
	}
	last := make(chan asked, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var names []string
		for name := range r.Header {
			names = append(names, name)
		}
		slices.Sort(names)
		last <- asked{names, string(body) + r.Header.Get("Content-Length") + strings.Join(r.TransferEncoding, "")}
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("X-Odd", "1")
		w.Header().Set("X-Forwarded-User", "root")
		w.WriteHeader(http.StatusForbidden)
	}))
	defer s.Close()
	r := policytest.NewRig(t, all.Catalog(), `
routes:
  - match: /*
    upstream: http://up
    policies: [ forward_auth: { url: "`+s.URL+`", send: [Cookie], answer: [Set-Cookie] } ]
`, nil)
	defer r.Close()
	a := r.Do(policytest.Request{Method: "PUT", Target: "/", Body: "hello", Chunked: true, Header: []exchange.Field{
		{Name: "Cookie", Value: "c=d"},
		{Name: "Authorization", Value: "Basic x"},
		{Name: "X-Other", Value: "1"},
		{Name: "X_Forwarded_For", Value: "1"},
		{Name: "X-Forwarded-User", Value: "root"},
		{Name: "Forwarded", Value: "for=1"},
		{Name: "X-Real-IP", Value: "1"},
		{Name: "Connection", Value: "Cookie, close"},
		{Name: "TE", Value: "trailers"},
		{Name: "Expect", Value: "100-continue"},
		{Name: "Proxy-Authorization", Value: "Basic x"},
	}})
	got := <-last
	want := []string{"Cookie", "User-Agent", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Method", "X-Forwarded-Proto", "X-Forwarded-Uri"}
	if !slices.Equal(got.names, want) || got.body != "" {
		t.Errorf("the service is asked with %q and %q", got.names, got.body)
	}
	if a.Status != 403 || a.Header.Get("Set-Cookie") != "a=b" || a.Header.Get("X-Odd") != "" || a.Header.Get("X-Forwarded-User") != "" {
		t.Errorf("the client is answered %v", a)
	}
	for _, bad := range []string{"send: Connection", "send: Transfer-Encoding", "send: Host", "send: Content-Length", "take: X-Forwarded-For", "take: Forwarded", "take: X-Real-IP", "take: Client-Cert", "take: Connection", "take: Host", "answer: Transfer-Encoding", "answer: Content-Length"} {
		if r.Apply(`
routes:
  - match: /*
    upstream: http://up
    policies: [ forward_auth: { url: "`+s.URL+`", `+bad+` } ]
`) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestSilent has a service that never answers.
func TestSilent(t *testing.T) {
	end := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-end }))
	defer s.Close()
	defer close(end)
	r := policytest.NewRig(t, all.Catalog(), `
routes:
  - match: /*
    upstream: http://up
    policies: [ forward_auth: { url: "`+s.URL+`", http: { timeout: 10ms } } ]
`, nil)
	defer r.Close()
	if a, got := ask(r, "/"); a.Status != 503 || got != nil || a.Problem.Code != "identity_unavailable" {
		t.Errorf("%d, %v", a.Status, a.Problem)
	}
}
