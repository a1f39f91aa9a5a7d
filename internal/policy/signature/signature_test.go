package signature_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "signature", Settings: "{ optional: true }"})
}

const secret = "0123456789abcdef0123456789abcdef"

const config = `
consumers:
  - name: mobile
    credentials: [ signature: { key_id: k1, algorithm: hmac-sha256, secret: ` + secret + ` } ]
  - name: gone
    disabled: true
    credentials: [ signature: { key_id: k2, algorithm: hmac-sha256, secret: ` + secret + ` } ]
routes:
  - match: /*
    policies: [ signature: { attempts: { client: 0, credential: 0 }, headers: { X-Who: consumer } } ]
    upstream: http://up
  - match: /nonce/*
    policies: [ signature: { nonce: true, tag: shop, attempts: { client: 0 } } ]
    upstream: http://up
  - match: /guess/*
    policies: [ signature: { attempts: { credential: 2/h } } ]
    upstream: http://up
`

// message is a request that is being signed. Tests change its parts.
type message struct {
	method, path, query, host string
	body                      string
	components                string
	params                    string
	digest                    string
	key                       string
	extra                     []exchange.Field
}

func digest(body string) string {
	sum := sha256.Sum256([]byte(body))
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

func params(age int) string {
	return fmt.Sprintf(`;created=%d;keyid="k1"`, time.Now().Unix()-int64(age))
}

func get() message {
	return message{method: "GET", path: "/a", query: "x=1", host: "gateway.test", components: `"@method" "@authority" "@path" "@query"`, params: params(0), key: secret}
}

func post(body string) message {
	m := get()
	m.method, m.body, m.digest = "POST", body, digest(body)
	m.components += ` "content-digest"`
	return m
}

// request signs the message.
func (m *message) request() policytest.Request {
	var b strings.Builder
	for c := range strings.FieldsSeq(m.components) {
		value := map[string]string{
			`"@method"`: m.method, `"@authority"`: m.host, `"@path"`: m.path, `"@query"`: "?" + m.query,
			`"@target-uri"`: "http://" + m.host + m.path + "?" + m.query, `"content-digest"`: m.digest,
			`"content-digest";key="sha-256"`: strings.TrimPrefix(m.digest, "sha-256="), `"content-digest";bs`: ":" + base64.StdEncoding.EncodeToString([]byte(m.digest)) + ":",
			`"@request-target"`: m.path + "?" + m.query, `"@query-param";name="x"`: "1", `"@scheme"`: "http",
		}[c]
		b.WriteString(c + ": " + value + "\n")
	}
	input := "(" + m.components + ")" + m.params
	b.WriteString(`"@signature-params": ` + input)
	mac := hmac.New(sha256.New, []byte(m.key))
	mac.Write([]byte(b.String()))
	q := policytest.Request{Method: m.method, Target: m.path + "?" + m.query, Body: m.body}
	q.Header = append(q.Header,
		exchange.Field{Name: "Host", Value: m.host},
		exchange.Field{Name: "Signature-Input", Value: "sig1=" + input},
		exchange.Field{Name: "Signature", Value: "sig1=:" + base64.StdEncoding.EncodeToString(mac.Sum(nil)) + ":"})
	if m.digest != "" {
		q.Header = append(q.Header, exchange.Field{Name: "Content-Digest", Value: m.digest})
	}
	q.Header = append(q.Header, m.extra...)
	return q
}

// set changes a field of a request after it was signed.
func set(q policytest.Request, name, value string) policytest.Request {
	for i := range q.Header {
		if q.Header[i].Name == name {
			q.Header[i].Value = value
			return q
		}
	}
	q.Header = append(q.Header, exchange.Field{Name: name, Value: value})
	return q
}

func value(q policytest.Request, name string) string {
	for _, f := range q.Header {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// signed is a request, and how it is answered.
type signed struct {
	name   string
	q      policytest.Request
	status int
}

// with signs a message after changes to it.
func with(m message, changes ...func(*message)) policytest.Request {
	for _, c := range changes {
		c(&m)
	}
	return m.request()
}

// after changes a request that was signed.
func after(q policytest.Request, change func(policytest.Request) policytest.Request) policytest.Request {
	return change(q)
}

func TestSignatures(t *testing.T) {
	for _, c := range []signed{
		{"a request", with(get()), 200},
		{"by its target", with(get(), func(m *message) { m.components, m.query = `"@method" "@target-uri"`, "by=target" }), 200},
		{"that names its algorithm", with(get(), func(m *message) { m.params += `;alg="hmac-sha256"` }), 200},
		{"in a moment", with(get(), func(m *message) { m.params = params(-10) }), 200},
		{"none", policytest.Request{Target: "/a"}, 401},
		{"another key", with(get(), func(m *message) { m.key = strings.ToUpper(secret) }), 401},
		{"an unknown key", with(get(), func(m *message) { m.params = strings.Replace(m.params, "k1", "k9", 1) }), 401},
		{"a disabled consumer", with(get(), func(m *message) { m.params = strings.Replace(m.params, "k1", "k2", 1) }), 401},
		{"another algorithm", with(get(), func(m *message) { m.params += `;alg="ed25519"` }), 401},
		{"an algorithm that is no text", with(get(), func(m *message) { m.params += `;alg=hmac-sha256` }), 401},
		{"too old", with(get(), func(m *message) { m.params = params(301) }), 401},
		{"from the future", with(get(), func(m *message) { m.params = params(-60) }), 401},
		{"expired", with(get(), func(m *message) { m.params += fmt.Sprintf(";expires=%d", time.Now().Unix()) }), 401},
		{"without its time", with(get(), func(m *message) { m.params = `;keyid="k1"` }), 401},
		{"without the method", with(get(), func(m *message) { m.components = `"@authority" "@path" "@query"` }), 401},
		{"without the query", with(get(), func(m *message) { m.components = `"@method" "@authority" "@path"` }), 401},
		{"of nothing", with(get(), func(m *message) { m.components = `` }), 401},
		{"a component twice", with(get(), func(m *message) { m.components += ` "@path"` }), 401},
		{"by its request target", with(get(), func(m *message) { m.components = `"@method" "@authority" "@request-target"` }), 200},
		{"by the parameters of its query", with(get(), func(m *message) { m.components = `"@method" "@authority" "@path" "@query-param";name="x"` }), 401},
		{"by its request target without the host", with(get(), func(m *message) { m.components = `"@method" "@request-target"` }), 401},
		{"the fields of another request", after(with(get(), func(m *message) { m.params += `;nonce="a"` }), func(q policytest.Request) policytest.Request {
			return set(q, "Signature-Input", strings.Replace(value(q, "Signature-Input"), `"a"`, `"b"`, 1))
		}), 401},
		{"another method", after(with(get(), func(m *message) { m.query = "a=1" }), func(q policytest.Request) policytest.Request { q.Method = "DELETE"; return q }), 401},
		{"another path", after(with(get(), func(m *message) { m.query = "a=2" }), func(q policytest.Request) policytest.Request { q.Target = "/b?a=2"; return q }), 401},
		{"another query", after(with(get(), func(m *message) { m.query = "a=3" }), func(q policytest.Request) policytest.Request { q.Target = "/a?a=4"; return q }), 401},
		{"another host", after(with(get(), func(m *message) { m.query = "a=5" }), func(q policytest.Request) policytest.Request { return set(q, "Host", "other.test") }), 401},
		{"a second signature field", after(with(get(), func(m *message) { m.query = "a=8" }), func(q policytest.Request) policytest.Request {
			q.Header = append(q.Header, exchange.Field{Name: "signature", Value: value(q, "Signature")})
			return q
		}), 401},
		{"a second input", after(with(get(), func(m *message) { m.query = "a=9" }), func(q policytest.Request) policytest.Request {
			return set(q, "Signature-Input", value(q, "Signature-Input")+`, sig2=("@method");created=1;keyid="k1"`)
		}), 401},
		{"an input without its signature", after(with(get(), func(m *message) { m.query = "a=10" }), func(q policytest.Request) policytest.Request {
			return set(q, "Signature", strings.Replace(value(q, "Signature"), "sig1", "sig2", 1))
		}), 401},
		{"a signature without its input", after(with(get()), func(q policytest.Request) policytest.Request { return set(q, "Signature-Input", "") }), 401},
		{"what is no dictionary", set(with(get()), "Signature", "sig1=AAAA"), 401},
		{"a signature cut short", after(with(get(), func(m *message) { m.query = "a=11" }), func(q policytest.Request) policytest.Request { return set(q, "Signature", "sig1=:AAAA:") }), 401},
		{"an endless one", set(with(get()), "Signature", "sig1=:"+strings.Repeat("A", 1<<14)+":"), 401},
		{"with a nonce and a tag", with(get(), func(m *message) { m.path, m.params = "/nonce/1", m.params+`;nonce="1";tag="shop"` }), 200},
		{"without the nonce", with(get(), func(m *message) { m.path, m.params = "/nonce/1", m.params+`;tag="shop"` }), 401},
		{"for another purpose", with(get(), func(m *message) { m.path, m.params = "/nonce/1", m.params+`;nonce="2";tag="bank"` }), 401},
	} {
		t.Run(c.name, c.test)
	}
}

// TestBodies has bodies that are signed by their digests.
func TestBodies(t *testing.T) {
	for _, c := range []signed{
		{"with a body", with(post("hello")), 200},
		{"with a digest of no body", with(get(), func(m *message) { m.digest, m.components = digest(""), m.components+` "content-digest"` }), 200},
		{"with a digest of a body that is not there", with(get(), func(m *message) { m.digest, m.components = digest("x"), m.components+` "content-digest"` }), 401},
		{"with no digest at all", with(get(), func(m *message) { m.components += ` "content-digest"` }), 401},
		{"with one member of the digest", with(post("hello"), func(m *message) { m.components = get().components + ` "content-digest";key="sha-256"` }), 401},
		{"with the digest in bytes", with(post("hello"), func(m *message) { m.components = get().components + ` "content-digest";bs` }), 401},
		{"chunked", after(with(post("hello")), func(q policytest.Request) policytest.Request { q.Chunked = true; return q }), 200},
		{"chunked, with another body", after(with(post("hello")), func(q policytest.Request) policytest.Request { q.Body, q.Chunked = "hullo", true; return q }), 401},
		{"without the body", with(post("hello"), func(m *message) { m.components = get().components }), 401},
		{"with a weak digest only", with(post("hello"), func(m *message) { m.digest = "md5=:XUFAKrxLKna5cZ2REBfFkg==:" }), 401},
		{"with a digest of another body", with(post("hello"), func(m *message) { m.digest = digest("hullo") }), 401},
		{"with one right digest and a wrong one", with(post("hello"), func(m *message) { m.digest = digest("hello") + ", sha-512=:AAAA:" }), 401},
		{"another body", after(with(post("hello1")), func(q policytest.Request) policytest.Request { q.Body = "hello2"; return q }), 401},
		{"another body and digest", after(with(post("hello3")), func(q policytest.Request) policytest.Request {
			q.Body = "hello4"
			return set(q, "Content-Digest", digest("hello4"))
		}), 401},
		{"a body where there was none", after(with(get(), func(m *message) { m.query = "a=6" }), func(q policytest.Request) policytest.Request { q.Body = "x"; return q }), 401},
		{"a chunked one", after(with(get(), func(m *message) { m.query = "a=7" }), func(q policytest.Request) policytest.Request { q.Body, q.Chunked = "x", true; return q }), 401},
		{"no body where there was one", after(with(post("hello5")), func(q policytest.Request) policytest.Request { q.Body = ""; return q }), 401},
	} {
		t.Run(c.name, c.test)
	}
}

// test sends the request. What is good is good once.
func (c *signed) test(t *testing.T) {
	r := policytest.NewRig(t, all.Catalog(), config, nil)
	defer r.Close()
	a := r.Do(c.q)
	got := r.Received()
	if a.Status != c.status || (len(got) == 1) != (c.status == 200) {
		t.Fatalf("answer %d: %v", a.Status, a.Problem)
	}
	if c.status == 200 {
		if h := &got[0].Header; h.Get("Signature") != "" || h.Get("Signature-Input") != "" {
			t.Error("the signature goes on to the service")
		}
		if a := r.Do(c.q); a.Status != 401 {
			t.Errorf("sent again it is answered %d", a.Status)
		}
	} else if !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Signature ") {
		t.Errorf("the challenge is %q", a.Header.Get("WWW-Authenticate"))
	}
}

func TestGuessing(t *testing.T) {
	r := policytest.NewRig(t, all.Catalog(), config, nil)
	defer r.Close()
	m := get()
	m.path, m.key = "/guess/1", strings.ToUpper(secret)
	for _, want := range []int{401, 401, 429} {
		if a := r.Do(m.request()); a.Status != want {
			t.Errorf("answer %d, want %d", a.Status, want)
		}
	}
}

// TestLockOut: whoever guesses at a key locks out others, and not the client that
// has shown it before.
func TestLockOut(t *testing.T) {
	r := policytest.NewRig(t, all.Catalog(), config, nil)
	defer r.Close()
	m, n := get(), 0
	m.path = "/guess/1"
	send := func(address, key string) int {
		n++
		m.key, m.query = key, fmt.Sprint("n=", n)
		q := m.request()
		q.Client = r.Client(address+":1", r.Config.Listeners[0])
		return r.Do(q).Status
	}
	const owner, other, stranger = "192.0.2.1", "192.0.2.2", "192.0.2.3"
	wrong := strings.ToUpper(secret)
	for i, c := range []struct {
		address, key string
		status       int
	}{
		{owner, secret, 200},
		{stranger, wrong, 401},
		{stranger, wrong, 401},
		{stranger, secret, 429},
		{other, secret, 429},
		{owner, secret, 200},
		{owner, wrong, 401},
		{owner, wrong, 401},
		{owner, secret, 429},
	} {
		if got := send(c.address, c.key); got != c.status {
			t.Errorf("%d, %s: answer %d, want %d", i, c.address, got, c.status)
		}
	}
}

// TestLarge has a body above the cap.
func TestLarge(t *testing.T) {
	r := policytest.NewRig(t, all.Catalog(), strings.Replace(config, "signature: { attempts", "signature: { body: 1KiB, attempts", 1), nil)
	defer r.Close()
	m := post(strings.Repeat("a", 2000))
	for _, chunked := range []bool{false, true} {
		q := m.request()
		q.Chunked = chunked
		if a := r.Do(q); a.Status != 413 || len(r.Received()) != 0 {
			t.Errorf("chunked %v: answer %d", chunked, a.Status)
		}
	}
}
