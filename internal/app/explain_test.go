package app

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
)

const explained = `
listeners:
  - { name: plain, address: ":8080", redirect_https: true }
  - { name: inside, address: ":9090", trusted_proxies: [ 10.0.0.0/8 ], policies: [ ip: { deny: [ 192.0.2.0/24 ] } ] }
  - { name: public, address: ":8443", tls: { certificates: [ { cert_file: a.pem, key_file: b.pem } ] } }
  - { name: database, address: ":5432", protocol: tcp, upstream: "tcp://127.0.0.1:5433" }
consumers:
  - name: mobile
    groups: [ partners ]
    credentials: [ { api_key: { hash: "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" } } ]
  - name: gone
    disabled: true
    credentials: [ { api_key: { hash: "sha256:fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9" } } ]
groups:
  partners: { policies: [ rate_limit: { limit: 5/s, by: consumer } ] }
upstreams:
  shop: { endpoints: [ "http://127.0.0.1:1", "http://nowhere.invalid:2" ], health: { path: / }, failover: spare }
  spare: { endpoints: [ "URL" ], health: { path: / } }
routes:
  - name: product
    match: GET shop.example.com/products/{id}
    policies: [ api_key: {}, authorize: { groups: [ partners ] }, headers: { request: { set: { X-Shop: one, X-Token: secret-a } } } ]
    rewrite: { strip_prefix: /products, host: inner }
    upstream: shop
  - name: basket
    match: { host: shop.example.com, path: /basket, headers: { X-Beta: { present: true } } }
    split: [ { upstream: shop, weight: 9 }, { upstream: spare, weight: 1 } ]
    mirror: { upstream: spare }
  - name: token
    match: shop.example.com/token/*
    policies:
      - jwt: { issuer: id, audience: shop, jwks_url: "URL", http: { plain: true } }
      - authorize: { groups: [ partners ] }
      - cors: { origins: [ "https://a.example" ] }
    respond: { status: 204 }
  - name: ask
    match: POST shop.example.com/ask
    policies: [ forward_auth: { url: "URL", http: { plain: true } }, fault: { delay: 10m } ]
    upstream: spare
  - name: both
    match: shop.example.com/both
    policies: [ any_of: { policies: [ api_key: {}, all_of: { policies: [ basic: {}, forward_auth: { url: "URL", http: { plain: true } } ] } ] } ]
    upstream: spare
  - { name: own, match: shop.example.com/token/own, policies: [ upstream_auth: { bearer: { token: secret-b } } ], upstream: spare }
  - { name: rest, match: shop.example.com/rest/*, redirect: { to: "/new", status: 308 } }
`

// bearer has a head and claims that name the issuer, and no signature.
const bearer = "Authorization: Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJpZCJ9.YQ"

func TestExplain(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	source := Source{Name: "gatehouse.yaml", Data: []byte(strings.ReplaceAll(explained, "URL", server.URL))}
	for _, c := range []struct {
		name, method, url string
		fields            []string
		client, listener  string
		want              []string // parts of the JSON
		without           []string
	}{
		{name: "goes on", url: "http://shop.example.com:9090/products/7", fields: []string{"X-API-Key: foo"}, want: []string{
			`"route":"product"`, `"consumer":"mobile"`, `"groups":["partners"]`, `"-X-API-Key"`, `"+X-Shop: one"`, `"+X-Token"`,
			`"path /products/7 becomes /7"`, `"host shop.example.com:9090 becomes inner"`, `"kind":"upstream"`, `"failover":"spare"`,
			`"from":"group partners"`, `"settings":{"by":"consumer","limit":"5/s"}`, `"X-Token":"(hidden)"`, `"from":"listener inside"`, `"outcome":"won"`,
		}, without: []string{"foo", "secret-a"}},
		{name: "no key", url: "http://shop.example.com:9090/products/7", want: []string{`"verdict":"stop"`, `"verdict":"not_reached"`, `"kind":"problem","by":"api_key","status":401,"code":"credential_missing"`, "there is no credential"}},
		{name: "wrong key", url: "http://shop.example.com:9090/products/7", fields: []string{"X-API-Key: wrong-key"}, want: []string{"no consumer has this credential"}, without: []string{"wrong-key"}},
		{name: "disabled", url: "http://shop.example.com:9090/products/7", fields: []string{"X-API-Key: bar"}, want: []string{"is disabled"}},
		{name: "denied", url: "http://shop.example.com:9090/products/7", client: "192.0.2.7", want: []string{`"by":"ip","status":403`}},
		{name: "believed proxy", url: "http://shop.example.com:9090/products/7", client: "10.0.0.1", fields: []string{"X-Forwarded-For: 192.0.2.7"}, want: []string{`"by":"ip","status":403`}},
		{name: "not believed", url: "http://shop.example.com:9090/products/7", client: "11.0.0.1", fields: []string{"X-Forwarded-For: 192.0.2.7"}, want: []string{`"by":"api_key"`}},
		{name: "another listener", url: "http://shop.example.com/products/7", listener: "public", client: "192.0.2.7", want: []string{`"listener":"public"`, `"tls":true`, `"by":"api_key"`, `"other_listeners":["plain","inside"]`}},
		{name: "https", url: "https://shop.example.com/rest/x", want: []string{`"listener":"public"`, `"kind":"answer","status":308,"location":"/new"`}},
		{name: "to https", url: "http://shop.example.com/rest/x", want: []string{`"by":"redirect_https"`, `"location":"https://shop.example.com:8443/rest/x"`, `"routes":[]`}},
		{name: "no method", method: "DELETE", url: "https://shop.example.com/ask", want: []string{`"code":"method_not_allowed"`, `"outcome":"method"`, "method DELETE is not POST"}},
		{name: "no condition", url: "https://shop.example.com/basket", want: []string{`"code":"no_route"`, `"name":"basket"`, `"outcome":"condition"`}},
		{name: "no host", url: "https://other/basket", want: []string{`"code":"no_route"`, `"name":"basket"`, `"outcome":"host"`}},
		{name: "split", url: "https://shop.example.com/basket", fields: []string{"X-Beta: 1"}, want: []string{`"weight":9`, `"weight":1`, `"mirror":"spare, 100%"`}},
		{name: "near", url: "https://shop.example.com/token/own", want: []string{`"name":"token","place":{"file":"gatehouse.yaml"`, "an exact path comes before patterns"}, without: []string{"secret-b"}},
		{name: "left out", url: "https://shop.example.com/token/x", fields: []string{bearer}, want: []string{
			"verifies the token by the keys of " + server.URL, "if nobody is known it answers 403", `"depends":["jwt","authorize"]`, `"kind":"answer","status":204`,
		}},
		{name: "a token that needs no keys", url: "https://shop.example.com/token/x", fields: []string{"Authorization: Bearer a.b.c"}, want: []string{`"status":401,"code":"credential_invalid"`, `"depends":[]`}},
		{name: "preflight", method: "OPTIONS", url: "https://shop.example.com/token/x", fields: []string{"Origin: https://a.example", "Access-Control-Request-Method: PUT"}, want: []string{`"route":"token"`, `"by":"cors"`}},
		{name: "no preflight", method: "OPTIONS", url: "https://shop.example.com/ask", fields: []string{"Access-Control-Request-Method: POST"}, want: []string{`"code":"method_not_allowed"`, "method OPTIONS is not POST"}},
		{name: "options as any method", method: "OPTIONS", url: "https://shop.example.com/rest/x", fields: []string{"Origin: https://a.example", "Access-Control-Request-Method: PUT"}, want: []string{`"route":"rest"`, `"status":308`}},
		{name: "asks", method: "POST", url: "https://shop.example.com/ask", want: []string{"asks " + server.URL, "delays 100% of requests by 10m0s", `"depends":["forward_auth","fault"]`}},
		{name: "the first of two", url: "https://shop.example.com/both", fields: []string{"X-API-Key: foo"}, want: []string{`"depends":[]`, `"consumer":"mobile"`}},
		{name: "the other of two", url: "https://shop.example.com/both", want: []string{`"depends":["any_of"]`, `"verdict":"unknown"`, "asks " + server.URL, `"kind":"upstream"`}},
		{name: "neither of two", url: "https://shop.example.com/both", fields: []string{"Authorization: Basic !"}, want: []string{`"code":"credential_invalid"`, "base64", `"depends":[]`}},
		{name: "bad path", url: "https://shop.example.com/a%zz", want: []string{`"code":"bad_path"`, "percent sign"}},
		{name: "refused by the protocol", url: "https://shop.example.com/", fields: []string{"a b: c"}, want: []string{`"code":"malformed_request"`, `"steps":[]`}},
		{name: "host field", url: "/basket", fields: []string{"Host: shop.example.com", "X-Beta: 1"}, listener: "inside", want: []string{`"route":"basket"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := Question{Method: c.method, URL: c.url, Fields: c.fields, Client: netip.MustParseAddr("127.0.0.1"), Listener: c.listener}
			if c.method == "" {
				q.Method = "GET"
			}
			if c.client != "" {
				q.Client = netip.MustParseAddr(c.client)
			}
			e, faults, err := Explain(source, q)
			if err != nil || e == nil {
				t.Fatal(err, faults)
			}
			text, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range c.want {
				quoted, _ := json.Marshal(part)
				if !strings.Contains(string(text), part) && !strings.Contains(string(text), strings.Trim(string(quoted), `"`)) {
					t.Errorf("it does not say %s:\n%s", part, text)
				}
			}
			for _, part := range c.without {
				if strings.Contains(string(text), part) {
					t.Errorf("it says %s:\n%s", part, text)
				}
			}
		})
	}
	server.Close() // waits for what is still being asked
	if n := asked.Load(); n > 0 {
		t.Errorf("the server was asked %d times: to look at a configuration asks nobody", n)
	}
}

// What is no question is not explained, and what came with it is not repeated.
func TestExplainWrongUse(t *testing.T) {
	source := Source{Name: "gatehouse.yaml", Data: []byte("listeners: [ { address: \":1\", protocol: tcp, upstream: \"tcp://127.0.0.1:2\" } ]\nroutes: []\n")}
	web := Source{Name: "gatehouse.yaml", Data: []byte("routes: []\n")}
	good := Question{Method: "GET", URL: "http://a/", Client: netip.MustParseAddr("::1")}
	for name, c := range map[string]struct {
		source Source
		change func(*Question)
	}{
		"no listener":      {source, func(*Question) {}},
		"unknown listener": {web, func(q *Question) { q.Listener = "x" }},
		"scheme":           {web, func(q *Question) { q.URL = "ftp://a/" }},
		"space":            {web, func(q *Question) { q.URL = "http://a/b c" }},
		"line":             {web, func(q *Question) { q.URL = "http://a/\r\nX: y" }},
		"method":           {web, func(q *Question) { q.Method = "GET /" }},
		"no method":        {web, func(q *Question) { q.Method = "" }},
		"field":            {web, func(q *Question) { q.Fields = []string{"verysecret"} }},
		"two fields":       {web, func(q *Question) { q.Fields = []string{"A: verysecret\r\nB: c"} }},
	} {
		q := good
		c.change(&q)
		e, _, err := Explain(c.source, q)
		if err == nil || e != nil || strings.Contains(err.Error(), "verysecret") {
			t.Errorf("%s: %v, %v", name, e, err)
		}
	}
	if e, _, err := Explain(web, good); err != nil || e.Result.Code != "no_route" {
		t.Errorf("the good question: %v, %v", e, err)
	}
	if e, faults, err := Explain(Source{Name: "gatehouse.yaml", Data: []byte("routs: []\n")}, good); e != nil || !faults.Fatal() || err != nil {
		t.Errorf("a fault: %v, %v, %v", e, faults, err)
	}
}
