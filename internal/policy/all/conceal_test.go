package all_test

import (
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// What policies read or write as a credential goes to the service, where the
// settings say so, and never to a mirror.
func TestMirrorsGetNoCredentials(t *testing.T) {
	const text = `
consumers:
  - name: mobile
    credentials:
      - api_key: { hash: "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" }
policies: [ request_id: {} ]
routes:
  - match: /field
    policies: [ api_key: { header: X-Token, forward: true } ]
    upstream: http://up
    mirror: { upstream: http://mirror }
  - match: /scheme
    policies: [ api_key: { header: X-Token, scheme: Key, forward: true } ]
    split: [ { upstream: http://up } ]
    mirror: { upstream: http://mirror }
  - match: /query
    policies: [ api_key: { query: token, forward: true } ]
    upstream: http://up
    mirror: { upstream: http://mirror }
  - match: /any
    policies: [ any_of: { policies: [ basic: {}, api_key: { query: token, forward: true }, signature: { forward: true } ] } ]
    upstream: http://up
    mirror: { upstream: http://mirror }
  - match: /own
    policies: [ upstream_auth: { header: { name: X-Own, value: foo } } ]
    upstream: http://up
    mirror: { upstream: http://mirror }
  - match: /open
    upstream: http://up
    mirror: { upstream: http://mirror }
`
	for _, test := range []struct {
		target, field, value string
		left                 string // of the target, in the copy
		open                 bool   // no policy says that it is a credential
	}{
		{target: "/field?a=1", field: "X-Token", value: "foo", left: "/field?a=1"},
		{target: "/scheme", field: "X-Token", value: "Key foo", left: "/scheme"},
		{target: "/query?a=1&token=foo&b=2", left: "/query?a=1&b=2"},
		{target: "/query?t%6fken=foo", left: "/query"},
		{target: "/any?token=foo&b=2", left: "/any?b=2"},
		{target: "/own", left: "/own"},
		{target: "/open?token=foo", field: "X-Token", value: "foo", left: "/open?token=foo", open: true},
	} {
		r := policytest.NewRig(t, all.Catalog(), text, nil)
		q := policytest.Request{Target: test.target, Header: []exchange.Field{{Name: "X-Plain", Value: "kept"}}}
		if test.field != "" {
			q.Header = append(q.Header, exchange.Field{Name: test.field, Value: test.value})
		}
		if a := r.Do(q); a.Status != 200 {
			t.Fatalf("%s: status %d, %v", test.target, a.Status, a.Problem)
		}
		got := r.Received()
		if len(got) != 2 || got[0].Upstream != "http://mirror" || got[1].Upstream != "http://up" {
			t.Fatalf("%s: received %v", test.target, got)
		}
		if !strings.Contains(got[1].String(), "foo") {
			t.Errorf("%s: the service lacks the credential:\n%s", test.target, got[1])
		}
		if strings.Contains(got[0].String(), "foo") != test.open || got[0].Target != test.left || got[0].Header.Get("X-Plain") != "kept" {
			t.Errorf("%s: the mirror got\n%s", test.target, got[0])
		}
		r.Close()
	}
}
