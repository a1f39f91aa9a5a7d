package introspect_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

type issuer struct {
	*httptest.Server
	asked atomic.Int64
	good  atomic.Int64 // asked about the token "good"
}

// newIssuer answers by what a token is called.
func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := new(issuer)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		user, pass, _ := r.BasicAuth()
		if r.Method != http.MethodPost || user != "gate%3Ahouse" || pass != "s%2Bcret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		now := time.Now().Unix()
		m := map[string]any{"active": true, "sub": "ann", "aud": "shop", "iss": "https://id", "exp": now + 300, "scope": "read write", "roles": []string{"admin"}, "tenant": "acme"}
		token := r.FormValue("token")
		if strings.HasPrefix(token, "inactive") {
			token = "inactive"
		}
		switch token {
		case "good":
			i.good.Add(1)
		case "inactive":
			m = map[string]any{"active": false}
		case "expired":
			m["exp"] = now
		case "expired text":
			m["exp"] = "never"
		case "early":
			m["nbf"] = now + 100
		case "early in words":
			m["nbf"] = "tomorrow"
		case "early by a fraction":
			m["nbf"] = float64(now) + 100.5
		case "early for ever":
			m["nbf"] = 1e300
		case "issued in words":
			m["iat"] = "yesterday"
		case "expires by a fraction":
			m["exp"] = float64(now) + 300.5
		case "issuer in a list":
			m["iss"] = []string{"https://evil"}
		case "issuer is null":
			m["iss"] = nil
		case "audience and a number":
			m["aud"] = []any{"shop", 1}
		case "other audience":
			m["aud"] = []string{"bank"}
		case "no audience":
			delete(m, "aud")
		case "other issuer":
			m["iss"] = "https://evil"
		case "nobody":
			delete(m, "sub")
		case "bound":
			m["cnf"] = map[string]string{"x5t#S256": "AAAA"}
		case "bound to a key":
			m["cnf"] = map[string]string{"jkt": "AAAA"}
		case "bound otherwise":
			m["cnf"] = map[string]string{"kid": "AAAA"}
		case "gone":
			m["sub"] = "bob"
		case "not said":
			delete(m, "active")
		case "said in words":
			m["active"] = "true"
		case "twice":
			_, _ = fmt.Fprint(w, `{"active":false,"active":true,"sub":"ann","aud":"shop"}`)
			return
		case "no json":
			_, _ = fmt.Fprint(w, `active`)
			return
		case "large":
			m["x"] = string(make([]byte, 4096))
		case "broken":
			w.WriteHeader(http.StatusBadGateway)
		case "hangs":
			<-r.Context().Done()
			return
		case "redirect":
			http.Redirect(w, r, "/", http.StatusTemporaryRedirect)
			return
		}
		_ = json.NewEncoder(w).Encode(m)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) settings(more string) string {
	return `{ url: "` + i.URL + `", client_id: "gate:house", client_secret: { file: testdata/secret }, audience: shop, issuer: "https://id"` + more + ` }`
}

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "introspect", Settings: newIssuer(t).settings(", optional: true")})
}

func TestIntrospect(t *testing.T) {
	i := newIssuer(t)
	r := policytest.NewRig(t, all.Catalog(), `
consumers:
  - name: mobile
    groups: [partners]
    credentials: [ jwt: { issuer: "https://id", subject: ann } ]
  - name: gone
    disabled: true
    credentials: [ jwt: { issuer: "https://id", subject: bob } ]
routes:
  - match: /*
    upstream: http://up
    policies: [ introspect: `+i.settings(`, groups_claim: roles, http: { max_body: 2KiB }, attempts: { client: 0 }, headers: { X-Who: consumer, X-Sub: subject, X-Groups: groups, X-Tenant: claims.tenant }`)+` ]
`, nil)
	defer r.Close()
	do := func(token string) *policytest.Answer {
		return r.Do(policytest.Request{Target: "/", Header: []exchange.Field{{Name: "Authorization", Value: "Bearer " + token}, {Name: "X-Who", Value: "admin"}}})
	}
	for range 3 {
		if a := do("good"); a.Status != 200 {
			t.Fatalf("%v: %v", a, a.Problem)
		}
		h := &r.Received()[0].Header
		for name, want := range map[string]string{"X-Who": "mobile", "X-Sub": "ann", "X-Groups": "partners,admin", "X-Tenant": "acme", "Authorization": ""} {
			if h.Get(name) != want {
				t.Errorf("%s is %q, want %q", name, h.Get(name), want)
			}
		}
	}
	if n := i.asked.Load(); n != 1 {
		t.Errorf("the issuer was asked %d times about one token", n)
	}
	for _, token := range []string{
		"inactive", "expired", "expired text", "early", "early in words", "early by a fraction", "early for ever", "issued in words",
		"issuer in a list", "issuer is null", "audience and a number", "other audience", "no audience", "other issuer", "nobody", "bound", "bound to a key", "bound otherwise", "gone",
	} {
		if a := do(token); a.Status != 401 || a.Problem.Code != "credential_invalid" {
			t.Errorf("%s: %d, %v", token, a.Status, a.Problem)
		}
	}
	if a := do("expires by a fraction"); a.Status != 200 {
		t.Errorf("times may have fractions: %v", a.Problem)
	}
	r.Received()
	before := i.asked.Load()
	if a := do("inactive"); a.Status != 401 || i.asked.Load() != before {
		t.Errorf("a token that is known to be wrong: %d, asked again", a.Status)
	}
	for _, token := range []string{"not said", "said in words", "twice", "no json", "large", "broken", "redirect"} {
		if a := do(token); a.Status != 503 || a.Problem.Code != "identity_unavailable" {
			t.Errorf("%s: %d, %v", token, a.Status, a.Problem)
		}
	}
	if got := r.Received(); len(got) != 0 {
		t.Errorf("the service was asked: %v", got)
	}
	i.Close()
	if a := do("new"); a.Status != 503 {
		t.Errorf("with the issuer gone: %d", a.Status)
	}
	if a := do("good"); a.Status != 200 {
		t.Errorf("a token that is remembered, with the issuer gone: %d", a.Status)
	}
}

// plain is a gateway with one such policy and no consumers.
func plain(t *testing.T, i *issuer, more string) *policytest.Rig {
	t.Helper()
	r := policytest.NewRig(t, all.Catalog(), "routes: [ { match: /*, upstream: http://up, policies: [ introspect: "+i.settings(", attempts: { client: 0 }"+more)+" ] } ]\n", nil)
	t.Cleanup(r.Close)
	return r
}

func bearer(token string) policytest.Request {
	return policytest.Request{Target: "/", Header: []exchange.Field{{Name: "Authorization", Value: "Bearer " + token}}}
}

// TestFlood has tokens that are made up: they do not make the gateway forget
// those that are good.
func TestFlood(t *testing.T) {
	i := newIssuer(t)
	r := plain(t, i, ", cache: 16, remember_wrong: 10m")
	for range 2 {
		if a := r.Do(bearer("good")); a.Status != 200 {
			t.Fatalf("%v: %v", a, a.Problem)
		}
		for n := range 500 {
			if a := r.Do(bearer(fmt.Sprintf("inactive %d", n))); a.Status != 401 {
				t.Fatalf("%v: %v", a, a.Problem)
			}
		}
	}
	if n := i.good.Load(); n != 1 {
		t.Errorf("the issuer was asked %d times about the good token", n)
	}
}

// TestHangs has an issuer that takes the question and says nothing.
func TestHangs(t *testing.T) {
	i := newIssuer(t)
	r := plain(t, i, ", http: { timeout: 20ms }")
	if a := r.Do(bearer("hangs")); a.Status != 503 || a.Problem.Code != "identity_unavailable" {
		t.Errorf("%v: %v", a, a.Problem)
	}
	if got := r.Received(); len(got) != 0 {
		t.Errorf("the service was asked: %v", got)
	}
}
