package upstreamauth

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
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

// How long a token lives is for the issuer to say, and for nobody to believe
// whatever it says.
func TestLifeInAnswers(t *testing.T) {
	e := &endpoint{lifetime: time.Minute}
	for text, want := range map[string]time.Duration{
		``: time.Minute, `,"expires_in":1`: time.Second, `,"expires_in":3600`: time.Hour, `,"expires_in":60.9`: time.Minute,
		`,"expires_in":1e3`: 1000 * time.Second, `,"expires_in":99999999999999999999`: longestLife, `,"expires_in":9223372036854775807`: longestLife, `,"expires_in":1e300`: longestLife,
		`,"expires_in":0`: 0, `,"expires_in":-1`: 0, `,"expires_in":0.5`: 0, `,"expires_in":-1e300`: 0, `,"expires_in":"3600"`: 0, `,"expires_in":null`: 0, `,"expires_in":[1]`: 0, `,"expires_in":true`: 0,
	} {
		g, err := e.read([]byte(`{"access_token":"a","token_type":"bearer"` + text + `}`))
		if (err == nil) != (want > 0) || err == nil && g.life != want {
			t.Errorf("%s: %v, %v", text, g, err)
		}
	}
}

// What is not a token, letter by letter, is not sent.
func TestTokensInAnswers(t *testing.T) {
	e := &endpoint{lifetime: time.Minute, scheme: "Bearer "}
	for token, ok := range map[string]bool{
		`abc.DEF-_~+/09==`: true, strings.Repeat("a", longest): true,
		``: false, `=`: false, ` a`: false, `a `: false, `a b`: false, `a,b`: false, `a=b`: false, `a\r\nX-Admin: 1`: false, `a\u0000`: false, `a\u00e9`: false, `a\t`: false,
		strings.Repeat("a", longest+1): false,
	} {
		g, err := e.read([]byte(`{"access_token":"` + token + `","token_type":"Bearer"}`))
		if (err == nil) != ok || ok && g.value != "Bearer "+token {
			t.Errorf("%.40q: %v", token, err)
		}
	}
	for kind, ok := range map[string]bool{`"Bearer"`: true, `"bearer"`: true, `"N_A"`: true, `"DPoP"`: false, `"mac"`: false, `""`: false, `null`: false, `1`: false} {
		if _, err := e.read([]byte(`{"access_token":"a","token_type":` + kind + `}`)); (err == nil) != ok {
			t.Errorf("type %s: %v", kind, err)
		}
	}
}

// Neither the log nor an explanation shows what a URL's query may hold, the
// gateway's secret, or what an issuer says beside its code.
func TestSecretsAreNotShown(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"s3cret is wrong"}`))
	}))
	defer s.Close()
	var log strings.Builder
	c := new(ClientCredentials)
	c.Defaults()
	c.TokenURL, c.ClientID, c.ClientSecret = s.URL+"/token?key=s3cret", "gatehouse", policy.NewSecret("s3cret")
	p, err := c.compile(&policy.Env{
		Log:  slog.New(slog.NewTextHandler(&log, nil)),
		Keep: func(_ string, create func() any) any { return create() },
	})
	if err != nil {
		t.Fatal(err)
	}
	x := exchange.Get()
	defer exchange.Put(x)
	if p.(policy.OnRequest).Request(x) != policy.Stop || x.Problem.Status != 503 {
		t.Fatalf("%v", x.Problem)
	}
	told := p.(policy.Reaches).Reaches(x) + log.String() + x.Problem.Error()
	if strings.Contains(told, "s3cret") || !strings.Contains(told, s.URL+"/token") || !strings.Contains(log.String(), "invalid_client") {
		t.Error(told)
	}
}
