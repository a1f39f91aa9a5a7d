package identify

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy"
)

// The certificate of RFC 8705, appendix A, figure 6, and its thumbprint of
// figure 5.
const (
	boundCertificate = `-----BEGIN CERTIFICATE-----
MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAx
ODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UEAwwEbXRsczBZMBMGByqG
SM49AgEGCCqGSM49AwEHA0IABNcnyxwqV6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ
/Au08/coZwxS7LfA4vOLS9WuneIXhbGGWvsDSb0tH6IxLm8wCgYIKoZIzj0EAwID
SQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOV
bUlJSGQgjwD5vaUaKlLR50Q2DmFfQj1L+SY=
-----END CERTIFICATE-----
`
	boundThumbprint = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"
)

// TestCertificateVectors binds a token to the certificate of RFC 8705.
func TestCertificateVectors(t *testing.T) {
	block, _ := pem.Decode([]byte(boundCertificate))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	// The claims of section 3.1, figure 2, speak of another certificate.
	const other = `{"iss":"https://server.example.com","sub":"ty.webb@example.com","exp":1493726400,"nbf":1493722800,"cnf":{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}}`
	for _, c := range []struct {
		name, claims string
		tls          *exchange.TLS
		want         string // part of the error, "" for none
	}{
		{"its certificate", `{"cnf":{"x5t#S256":"` + boundThumbprint + `"}}`, &exchange.TLS{Peer: exchange.NewCertificate([]*x509.Certificate{cert})}, ""},
		{"another certificate", other, &exchange.TLS{Peer: exchange.NewCertificate([]*x509.Certificate{cert})}, "another certificate"},
		{"no certificate", other, &exchange.TLS{}, "showed none"},
		{"no TLS", other, nil, "showed none"},
	} {
		x := client("192.0.2.1:1")
		x.Client.TLS = c.tls
		cnf, err := confirmation(c.claims)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		b := &Binding{settings: Bound{To: []string{"certificate"}}, authority: true}
		if err := b.Check(x, "Bearer", "token", &cnf); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// What the examples of RFC 9449 have in common: the head of every proof, the
// thumbprint of its key (section 6.1), and the token (section 7.1).
const (
	proofHead  = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19."
	proofThumb = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	proofToken = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
	proofAth   = "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"

	// Section 4.1: for the endpoint that gives out tokens.
	tokenProof = proofHead + "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
	// Section 7.1: for a protected resource.
	resourceProof = proofHead + "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)

// TestProofKey reads the key of the proofs, and what they say.
func TestProofKey(t *testing.T) {
	for proof, want := range map[string]map[string]string{
		tokenProof:    {"jti": "-BwC3ESc6acc2lTc", "htm": "POST", "htu": "https://server.example.com/token", "ath": ""},
		resourceProof: {"jti": "e1j3V_bKic8-LAEB", "htm": "GET", "htu": "https://resource.example.org/protectedresource", "ath": proofAth},
	} {
		token, err := jose.Parse(proof)
		if err != nil {
			t.Fatal(err)
		}
		jwk, _ := token.Header["jwk"].(map[string]any)
		key, err := jose.ParseJWK(jwk)
		if err != nil || key.Thumb != proofThumb {
			t.Fatalf("the key is %v, %v", key, err)
		}
		if _, err := token.Verify([]*jose.Key{key}); err != nil {
			t.Error(err)
		}
		for name, text := range want {
			if token.Text(name) != text {
				t.Errorf("%s is %q", name, token.Text(name))
			}
		}
	}
}

// TestProofVectors sends the request of RFC 9449, section 7.1, and others with
// its proof, at the time of the proof.
func TestProofVectors(t *testing.T) {
	const made = 1562262618
	for _, c := range []struct {
		name         string
		after        int64 // seconds
		method, path string
		scheme       string
		token, thumb string
		proofs       []string
		want         string // part of the error, "" for none
	}{
		{"the example", 0, "GET", "/protectedresource", "DPoP", proofToken, proofThumb, []string{resourceProof}, ""},
		{"at the end of the window", 60, "GET", "/protectedresource", "dpop", proofToken, proofThumb, []string{resourceProof}, ""},
		{"too late", 61, "GET", "/protectedresource", "DPoP", proofToken, proofThumb, []string{resourceProof}, "too old"},
		{"too early", -61, "GET", "/protectedresource", "DPoP", proofToken, proofThumb, []string{resourceProof}, "from the future"},
		{"another method", 0, "POST", "/protectedresource", "DPoP", proofToken, proofThumb, []string{resourceProof}, "another method"},
		{"another path", 0, "GET", "/protected", "DPoP", proofToken, proofThumb, []string{resourceProof}, "the proof is for"},
		{"another token", 0, "GET", "/protectedresource", "DPoP", proofToken + "x", proofThumb, []string{resourceProof}, "another token"},
		{"another key", 0, "GET", "/protectedresource", "DPoP", proofToken, proofAth, []string{resourceProof}, "another key"},
		{"as a bearer token", 0, "GET", "/protectedresource", "Bearer", proofToken, proofThumb, []string{resourceProof}, "without a proof"},
		{"no proof", 0, "GET", "/protectedresource", "DPoP", proofToken, proofThumb, nil, "there is no proof"},
		{"two proofs", 0, "GET", "/protectedresource", "DPoP", proofToken, proofThumb, []string{resourceProof, resourceProof}, "more than one"},
		{"the proof for the token", 0, "POST", "/token", "DPoP", proofToken, proofThumb, []string{tokenProof}, "the proof is for"},
		{"another signature", 0, "GET", "/protectedresource", "DPoP", proofToken, proofThumb, []string{resourceProof[:len(resourceProof)-2] + "AA"}, "proof: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(time.Unix(made+c.after, 0)))
				x := client("192.0.2.1:1")
				r := &x.Request
				r.Method, r.Scheme, r.Authority, r.RawPath, r.Path = c.method, "https", "resource.example.org", c.path, c.path
				r.Header.Add("Authorization", c.scheme+" "+c.token)
				for _, p := range c.proofs {
					r.Header.Add("DPoP", p)
				}
				b := &Binding{settings: DefaultBound(), authority: true, used: &Uses{local: NewReplay(10)}}
				b.settings.To = []string{"dpop"}
				token, scheme, err := b.Find(&Place{}, r, 8192)
				if err != nil || token != c.token {
					t.Fatalf("the token is %q, %v", token, err)
				}
				cnf, err := confirmation(`{"cnf":{"jkt":"` + c.thumb + `"}}`)
				if err != nil {
					t.Fatal(err)
				}
				err = b.Check(x, scheme, token, &cnf)
				if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Fatalf("%v, want %q", err, c.want)
				}
				if err == nil {
					if err := b.Check(x, scheme, token, &cnf); !errors.Is(err, ErrReplayed) {
						t.Errorf("a second time: %v", err)
					}
				}
			})
		})
	}
}

func confirmation(claims string) (Confirmation, error) {
	object, err := jose.Object([]byte(claims))
	if err != nil {
		return Confirmation{}, err
	}
	return ReadConfirmation(object)
}

// prover is a client with a key that proofs are made with.
type prover struct {
	*jose.Signer
	jwk map[string]string
}

func newProver(t *testing.T) *prover {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jose.NewSigner(key, "", "")
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := jose.JWK(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &prover{s, jwk}
}

// request asks for a path with a proof that has these claims, beside those of
// a right one.
func (p *prover) request(t *testing.T, path string, claims map[string]any) *exchange.Exchange {
	t.Helper()
	ath := sha256.Sum256([]byte("token"))
	all := map[string]any{"jti": "1", "htm": "GET", "htu": "https://api.example/a", "iat": time.Now().Unix(), "ath": base64.RawURLEncoding.EncodeToString(ath[:])}
	maps.Copy(all, claims)
	proof, err := p.Sign(map[string]any{"typ": "dpop+jwt", "jwk": p.jwk}, all)
	if err != nil {
		t.Fatal(err)
	}
	x := client("192.0.2.1:1")
	r := &x.Request
	r.Method, r.Scheme, r.Authority, r.RawPath, r.Path = "GET", "https", "API.example:443", path, path
	r.Header.Add("DPoP", proof)
	return x
}

// TestProofOnce uses a proof at the beginning of the time that it is good for,
// and then as long as it is.
func TestProofOnce(t *testing.T) {
	p := newProver(t)
	for _, window := range []time.Duration{time.Second, 1500 * time.Millisecond, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			settings := DefaultBound()
			settings.Window = policy.Duration(window)
			b := &Binding{settings: settings, authority: true, used: &Uses{local: NewReplay(10)}}
			x := p.request(t, "/a", map[string]any{"iat": time.Now().Add(window).Unix()})
			cnf := Confirmation{key: p.Key().Thumb}
			if err := b.Check(x, "DPoP", "token", &cnf); err != nil {
				t.Fatal(err)
			}
			for range 4 * window / (100 * time.Millisecond) {
				time.Sleep(100 * time.Millisecond)
				if err := b.Check(x, "DPoP", "token", &cnf); err == nil {
					t.Fatalf("with a window of %v it is taken again at %v", window, time.Now())
				}
			}
		})
	}
}

// TestProofTarget has targets that mean the one of the request, and others that
// do not (RFC 9449, section 4.3, and RFC 3986, section 6.2).
func TestProofTarget(t *testing.T) {
	p := newProver(t)
	for _, c := range []struct {
		path, htu string
		want      bool
	}{
		{"/a", "https://api.example/a", true},
		{"/a", "HTTPS://API.EXAMPLE:443/a?x=y#z", true},
		{"/a", "https://api.example/%61", true},
		{"/a~b", "https://api.example/a%7Eb", true},
		{"/caf%C3%A9", "https://api.example/caf%c3%a9", true},
		{"/caf%C3%A9", "https://api.example/café", true},
		{"/a", "https://api.example/b/../a", true},
		{"/a", "https://api.example/./a", true},
		{"/", "https://api.example", true},
		{"/a%2Fb", "https://api.example/a%2fb", true},
		{"/a/b", "https://api.example/a%2Fb", false},
		{"/a;b", "https://api.example/a%3Bb", false},
		{"/a", "https://api.example/a/", false},
		{"/a", "https://api.example/A", false},
		{"/a", "https://api.example//a", false},
		{"/a", "https://api.example:444/a", false},
		{"/a", "http://api.example/a", false},
		{"/a", "http://api.example:443/a", false},
		{"/a", "//api.example/a", false},
		{"/a", "/a", false},
		{"/a", "https:/a", false},
		{"/a", "https:api.example/a", false},
		{"/a", "https://evil@api.example/a", false},
		{"/a", "https://api.example.evil/a", false},
		{"/a", "https://api.example/a%zz", false},
		{"/a", " https://api.example/a", false},
		{"/a", "", false},
	} {
		b := &Binding{settings: DefaultBound(), authority: true, used: &Uses{local: NewReplay(10)}}
		err := b.Check(p.request(t, c.path, map[string]any{"htu": c.htu}), "DPoP", "token", &Confirmation{key: p.Key().Thumb})
		if (err == nil) != c.want {
			t.Errorf("%s for %s: %v", c.htu, c.path, err)
		}
	}
}

// TestProofTimes has times of several kinds (RFC 7519, section 2).
func TestProofTimes(t *testing.T) {
	p := newProver(t)
	now := time.Now().Unix()
	for _, c := range []struct {
		iat  any
		want bool
	}{{now, true}, {float64(now) + 0.5, true}, {fmt.Sprint(now), false}, {nil, false}, {-now, false}, {1e300, false}, {[]any{now}, false}, {true, false}} {
		b := &Binding{settings: DefaultBound(), authority: true, used: &Uses{local: NewReplay(10)}}
		if err := b.Check(p.request(t, "/a", map[string]any{"iat": c.iat}), "DPoP", "token", &Confirmation{key: p.Key().Thumb}); (err == nil) != c.want {
			t.Errorf("%v: %v", c.iat, err)
		}
	}
}
