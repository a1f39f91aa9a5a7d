package upstreamauth

import (
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/policy"
)

// FuzzAnswer: whatever an issuer says, a token that comes of it can be sent, and
// is used for a time that is one.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		`{"access_token":"a","token_type":"bearer","expires_in":60}`,
		`{"access_token":"a b","token_type":"Bearer"}`,
		`{"access_token":"a","token_type":"N_A","expires_in":1e300,"issued_token_type":"x"}`,
		`{"error":"invalid_grant"}`, `{"error":"a\nb"}`, `[]`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		e := &endpoint{lifetime: time.Minute, scheme: "Bearer "}
		if g, err := e.read([]byte(body)); err == nil {
			token := strings.TrimPrefix(g.value, "Bearer ")
			if token == "" || strings.ContainsAny(token, " ,\"\r\n\x00") || policy.CheckValue(token[:min(len(token), 8<<10)]) != nil {
				t.Errorf("%q gives the token %q", body, token)
			}
			if g.life <= 0 || g.life > longestLife {
				t.Errorf("%q gives a life of %v", body, g.life)
			}
		}
		if code := declined(&fetch.Answer{Status: 400, Body: []byte(body)}); strings.ContainsAny(code, "\r\n\x00\x1b") || len(code) > 64 {
			t.Errorf("%q gives the code %q", body, code)
		}
	})
}
