package app

import (
	"encoding/json"
	"strings"
	"testing"
)

// A password that stands in a URL is refused, and never shown while it is.
func TestPasswordsInURLsAreNotShown(t *testing.T) {
	for name, text := range map[string]string{
		"route":      "routes: [{ match: /*, upstream: http://me:s3cret@10.0.0.1 }]",
		"route tcp":  "routes: [{ match: /*, upstream: tcp://me:s3cret@10.0.0.1:1 }]",
		"twice":      "upstreams: { a: { endpoints: [http://me:s3cret@10.0.0.1, http://me:s3cret@10.0.0.1] } }\nroutes: [{ match: /*, upstream: a }]",
		"path":       "upstreams: { a: { endpoints: [http://me:s3cret@10.0.0.1/path?x] } }\nroutes: [{ match: /*, upstream: a }]",
		"slash":      "upstreams: { a: { endpoints: ['http://me:s3cret/x@10.0.0.1'] } }\nroutes: [{ match: /*, upstream: a }]",
		"no scheme":  "upstreams: { a: { endpoints: ['me:s3cret@10.0.0.1'] } }\nroutes: [{ match: /*, upstream: a }]",
		"scheme":     "upstreams: { a: { endpoints: ['ftp://me:s3cret@10.0.0.1'] } }\nroutes: [{ match: /*, upstream: a }]",
		"split":      "routes: [{ match: /*, split: [{ upstream: tcp://me:s3cret@10.0.0.1:1 }] }]",
		"mirror":     "routes: [{ match: /*, respond: {}, mirror: { upstream: http://me:s3cret@10.0.0.1:1 } }]",
		"listener":   "listeners: [{ address: ':0', protocol: tcp, upstream: http://me:s3cret@10.0.0.1:1 }]\nroutes: []",
		"listener 2": "listeners: [{ address: ':0', protocol: tcp, upstream: tcp://me:s3cret@10.0.0.1:1 }]\nroutes: []",
		"redis":      "redis: { url: 'redis://me:s3cret@10.0.0.1' }\nroutes: []",
		"redis odd":  "redis: { url: 'redis://me:s3cret@10.0.0.1:x' }\nroutes: []",
		"redis node": "redis: { nodes: ['redis://me:s3cret@10.0.0.1:1'] }\nroutes: []",
		"redirect":   "routes: [{ match: /*, redirect: { to: 'ftp://me:s3cret@10.0.0.1' } }]",
		"acme":       "listeners: [{ address: ':0', tls: { acme: { domains: [a.example], directory: 'https://me:s3cret@10.0.0.1' } } }]\nroutes: []",
		"consul":     "upstreams: { a: { discovery: { consul: { service: a, address: 'http://me:s3cret@10.0.0.1' } } } }\nroutes: [{ match: /*, upstream: a }]",
		"kubernetes": "upstreams: { a: { discovery: { kubernetes: { service: a, api: 'https://me:s3cret@10.0.0.1' } } } }\nroutes: [{ match: /*, upstream: a }]",
		"dns":        "upstreams: { a: { discovery: { dns: 'http://me:s3cret@10.0.0.1:1' } } }\nroutes: [{ match: /*, upstream: a }]",
		"jwt":        "policies: [{ jwt: { issuer: a, audience: a, jwks_url: 'http://me:s3cret@10.0.0.1:1' } }]\nroutes: []",
		"jwt issuer": "policies: [{ jwt: { issuer: 'http://me:s3cret@10.0.0.1:1', audience: a } }]\nroutes: []",
		"introspect": "policies: [{ introspect: { url: 'http://me:s3cret@10.0.0.1:1' } }]\nroutes: []",
		"forward":    "policies: [{ forward_auth: { url: 'http://me:s3cret@10.0.0.1:1' } }]\nroutes: []",
		"opa":        "policies: [{ opa: { url: 'http://me:s3cret@10.0.0.1:1' } }]\nroutes: []",
		"ext_authz":  "policies: [{ ext_authz: { url: 'grpc://me:s3cret@10.0.0.1:1' } }]\nroutes: []",
		"ldap":       "policies: [{ ldap: { url: 'ldap://me:s3cret@10.0.0.1:1', base: 'dc=a' } }]\nroutes: []",
		"oidc":       "policies: [{ oidc: { issuer: 'https://me:s3cret@10.0.0.1:1', client_id: a, client_secret: x } }]\nroutes: []",
	} {
		faults := Check(Source{Name: "test.yaml", Data: []byte(text + "\n")})
		shown, err := json.Marshal(faults)
		if err != nil {
			t.Fatal(err)
		}
		if all := faults.Error() + string(shown); strings.Contains(all, "s3cret") || !faults.Fatal() {
			t.Errorf("%s: %s", name, faults.Error())
		}
	}
}
