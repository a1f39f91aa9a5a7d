package ldap_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// at is a gateway that asks a directory.
func at(t *testing.T, url, settings string) *policytest.Rig {
	t.Helper()
	r := policytest.NewRig(t, all.Catalog(), fmt.Sprintf(`
routes:
  - match: /*
    upstream: http://up
    policies: [ ldap: { url: %q, base_dn: "ou=people,dc=example,dc=com", attempts: { client: 0 }, headers: { X-User: subject } %s } ]
`, url, settings), nil)
	t.Cleanup(r.Close)
	return r
}

func signIn(r *policytest.Rig, user, pass string) *policytest.Answer {
	return r.Do(policytest.Request{Target: "/", Header: []exchange.Field{{Name: "Authorization", Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+pass))}}})
}

const asGate = `, bind_dn: "cn=gate,dc=example,dc=com", bind_password: gatepw`

// TestTooMany has a directory that tells one entry of two.
func TestTooMany(t *testing.T) {
	r := at(t, directoryWith(t, "ldap", "sizelimit 1"), asGate)
	for user, status := range map[string]int{"ann": 200, "twin": 401} {
		if a := signIn(r, user, "password"); a.Status != status {
			t.Errorf("%s: %d, %v", user, a.Status, a.Problem)
		}
	}
}

// tlv is an element of BER (X.690, section 8.1).
func tlv(tag byte, parts ...[]byte) []byte {
	var body []byte
	for _, p := range parts {
		body = append(body, p...)
	}
	if len(body) > 127 {
		return append([]byte{tag, 0x83, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
	}
	return append([]byte{tag, byte(len(body))}, body...)
}

// message answers a question with an operation, and done is one that ends with a
// result (RFC 4511, sections 4.1.1 and 4.1.9).
func message(id byte, op []byte) []byte { return tlv(0x30, []byte{2, 1, id}, op) }

func done(id, tag, result byte) []byte {
	return message(id, tlv(tag, []byte{10, 1, result}, tlv(4), tlv(4)))
}

// The operations that are asked here.
const (
	bind   = 0x60
	search = 0x63
	extend = 0x77
)

// odd is a directory that answers as it is told: what each operation gets.
func odd(t *testing.T, answer func(id, op byte) []byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 4096)
				for {
					// A question comes in one piece, with its length in one byte or two.
					n, err := c.Read(b)
					if err != nil || n < 6 {
						return
					}
					q := b[2:n]
					if b[1]&0x80 != 0 {
						q = b[2+int(b[1]&0x7f) : n]
					}
					if out := answer(q[2], q[3]); out != nil {
						if _, err := c.Write(out); err != nil {
							return
						}
						continue
					}
					_, _ = io.Copy(io.Discard, c) // until the other end gives up
					return
				}
			}()
		}
	}()
	return "ldap://" + l.Addr().String()
}

// entry is one that was found (RFC 4511, section 4.5.2).
func entry(id byte, dn string, value []byte) []byte {
	return message(id, tlv(0x64, tlv(4, []byte(dn)), tlv(0x30, tlv(0x30, tlv(4, []byte("uid")), tlv(0x31, tlv(4, value))))))
}

// TestOdd has directories that answer what none should, too much, or nothing.
// All of it is a refusal.
func TestOdd(t *testing.T) {
	found := func(dn string) func(id, op byte) []byte {
		return func(id, op byte) []byte {
			if op == search {
				return append(entry(id, dn, []byte("ann")), done(id, 0x65, 0)...)
			}
			return done(id, 0x61, 0) // every password is right
		}
	}
	for _, c := range []struct {
		name, settings string
		answer         func(id, op byte) []byte
		status         int
	}{
		{"a good one", "", found("uid=ann"), 200},
		{"an entry without a name", "", found(""), 401},
		{"nothing found", "", func(id, op byte) []byte {
			return done(id, map[byte]byte{search: 0x65, bind: 0x61}[op], 0)
		}, 401},
		{"the word that others know", "", func(id, op byte) []byte {
			if op == search {
				return done(id, 0x65, 10) // a referral
			}
			return done(id, 0x61, 0)
		}, 503},
		{"a reference beside the entry", "", func(id, op byte) []byte {
			if op == search {
				return append(message(id, tlv(0x73, tlv(4, []byte("ldap://127.0.0.1:1/")))), found("uid=ann")(id, op)...)
			}
			return done(id, 0x61, 0)
		}, 200},
		{"a referral instead of a judgement", "", func(id, op byte) []byte {
			if op == search {
				return found("uid=ann")(id, op)
			}
			return done(id, 0x61, 10)
		}, 503},
		{"silence", ", connection: { timeout: 50ms }", func(byte, byte) []byte { return nil }, 503},
		{"silence after the entry", ", connection: { timeout: 50ms }", func(id, op byte) []byte {
			if op == bind {
				return nil
			}
			return found("uid=ann")(id, op)
		}, 503},
		{"silence in the handshake", ", start_tls: true, connection: { timeout: 50ms }", func(id, op byte) []byte {
			if op == extend {
				return done(id, 0x78, 0)
			}
			return nil
		}, 503},
		{"no TLS", ", start_tls: true", func(id, op byte) []byte {
			if op == extend {
				return done(id, 0x78, 2)
			}
			return found("uid=ann")(id, op)
		}, 503},
		{"a large entry", ", connection: { max_body: 64KiB }", func(id, op byte) []byte {
			if op == search {
				return append(entry(id, "uid=ann", make([]byte, 100<<10)), done(id, 0x65, 0)...)
			}
			return done(id, 0x61, 0)
		}, 503},
		{"entries without end", ", connection: { timeout: 20s, max_body: 64KiB }", func(id, op byte) []byte {
			var out []byte
			for range 4000 {
				out = append(out, entry(id, "uid=ann", []byte("ann"))...)
			}
			return out
		}, 503},
		{"what is no answer", ", connection: { timeout: 50ms }", func(byte, byte) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }, 503},
	} {
		r := at(t, odd(t, c.answer), c.settings)
		a := signIn(r, "ann", "password")
		if got := r.Received(); a.Status != c.status || (len(got) == 1) != (c.status == 200) {
			t.Errorf("%s: %d, %v", c.name, a.Status, a.Problem)
		}
	}
}
