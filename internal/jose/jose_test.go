package jose_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/jose"
)

// The examples of RFC 7515, appendix A, and RFC 8037, appendix A.
var vectors = []struct{ name, alg, jwk, token string }{
	{
		"HS256", "HS256",
		`{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}`,
		"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
	},
	{
		"RS256", "RS256",
		`{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}`,
		"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
	},
	{
		"ES256", "ES256",
		`{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`,
		"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
	},
	{
		"ES512", "ES512",
		`{"kty":"EC","crv":"P-521","x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk","y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}`,
		"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
	},
	{
		"EdDSA", "EdDSA",
		`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
	},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			k, err := jose.ParseKey(v.jwk)
			if err != nil {
				t.Fatal(err)
			}
			i := strings.LastIndexByte(v.token, '.')
			sig, err := base64.RawURLEncoding.DecodeString(v.token[i+1:])
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Verify(v.alg, []byte(v.token[:i]), sig); err != nil {
				t.Errorf("the example is not verified: %v", err)
			}
			if err := k.Verify(v.alg, []byte(v.token[:i-1]), sig); err == nil {
				t.Error("another text has the same signature")
			}
			for _, alg := range []string{"HS256", "RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA", "none", ""} {
				if alg != v.alg && k.Verify(alg, []byte(v.token[:i]), sig) == nil {
					t.Errorf("it is verified as %s", alg)
				}
			}
		})
	}
}

// TestThumbprints has the examples of RFC 7638, section 3.1, and RFC 8037,
// appendix A.3.
func TestThumbprints(t *testing.T) {
	for jwk, want := range map[string]string{
		`{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
		vectors[4].jwk: "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
	} {
		k, err := jose.ParseKey(jwk)
		if err != nil {
			t.Fatal(err)
		}
		if k.Thumb != want {
			t.Errorf("thumbprint %s, want %s", k.Thumb, want)
		}
	}
}

func signers(t testing.TB) map[string]*jose.Signer {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]any{"EdDSA": ed, "HS256": make([]byte, 32), "HS384": make([]byte, 48), "HS512": make([]byte, 64)}
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"} {
		keys[alg] = r
	}
	for alg, c := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		if keys[alg], err = ecdsa.GenerateKey(c, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	out := make(map[string]*jose.Signer)
	for alg, key := range keys {
		if out[alg], err = jose.NewSigner(key, alg, ""); err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
	}
	return out
}

// TestRoundTrip signs with every algorithm and verifies with every key: only
// its own does.
func TestRoundTrip(t *testing.T) {
	all := signers(t)
	for alg, s := range all {
		text, err := s.Sign(map[string]any{"typ": "JWT"}, map[string]any{"sub": "a", "n": 1 << 60})
		if err != nil {
			t.Fatal(err)
		}
		token, err := jose.Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		if token.Alg != alg || token.Typ != "jwt" || token.Text("sub") != "a" || token.Claims["n"] != int64(1<<60) {
			t.Errorf("%s: read as %+v", alg, token)
		}
		for other, o := range all {
			if _, err := token.Verify([]*jose.Key{o.Key()}); (err == nil) != (alg == other) {
				t.Errorf("a token of %s with a key of %s: %v", alg, other, err)
			}
		}
	}
}

func TestPublish(t *testing.T) {
	all := signers(t)
	data, err := jose.Publish(all["RS256"], all["ES384"], all["EdDSA"])
	if err != nil {
		t.Fatal(err)
	}
	set, err := jose.ParseSet(data)
	if err != nil || len(set.Keys()) != 3 {
		t.Fatalf("%d keys, %v", len(set.Keys()), err)
	}
	for _, alg := range []string{"RS256", "ES384", "EdDSA"} {
		text, err := all[alg].Sign(nil, map[string]any{})
		if err != nil {
			t.Fatal(err)
		}
		token, err := jose.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := token.Verify(set.Find(token.Kid, token.Alg)); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	if _, err := jose.Publish(all["HS256"]); err == nil {
		t.Error("a secret was published")
	}
}

func TestParseRefuses(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	good, body := b64([]byte(`{"alg":"HS256"}`)), b64([]byte(`{}`))
	for _, text := range []string{
		"", ".", "..", "...", good, good + "." + body, good + "." + body + ".", good + "." + body + ".AAAA.AAAA",
		good + "=." + body + ".AAAA", good + "." + body + ".AAA=", good + "." + body + ".AB", good + "." + body + ".AA\nAA",
		good + "." + body + ".A+/A", " " + good + "." + body + ".AAAA",
		b64([]byte(`{"alg":"none"}`)) + "." + body + ".AAAA", b64([]byte(`{"alg":"NoNe"}`)) + "." + body + ".AAAA",
		b64([]byte(`{}`)) + "." + body + ".AAAA", b64([]byte(`{"alg":["HS256"]}`)) + "." + body + ".AAAA",
		b64([]byte(`{"alg":"HS256","alg":"none"}`)) + "." + body + ".AAAA",
		b64([]byte(`{"alg":"HS256","crit":["exp"]}`)) + "." + body + ".AAAA", b64([]byte(`{"alg":"HS256","b64":false}`)) + "." + body + ".AAAA",
		b64([]byte(`{"alg":"HS256","kid":1}`)) + "." + body + ".AAAA",
		b64([]byte(`{"alg":"HS256","kid":"`+strings.Repeat("k", 300)+`"}`)) + "." + body + ".AAAA",
		good + "." + b64([]byte(`{"sub":"a","sub":"b"}`)) + ".AAAA", good + "." + b64([]byte(`{"a":{"b":1,"b":2}}`)) + ".AAAA",
		good + "." + b64([]byte(`[]`)) + ".AAAA", good + "." + b64([]byte(`"a"`)) + ".AAAA", good + "." + b64([]byte(`{} {}`)) + ".AAAA",
		good + "." + b64([]byte(`{"a":"\ud800"}`)) + ".AAAA", good + "." + b64([]byte(`{"a":"\udc00\ud800"}`)) + ".AAAA", good + "." + b64([]byte(`{"\ud800x":1}`)) + ".AAAA",
		good + "." + b64([]byte(`{"a":"\\\uDFFF"}`)) + ".AAAA", good + "." + b64([]byte(`{"a":"\ud83d\u0041"}`)) + ".AAAA",
		good + "." + b64([]byte("{\"a\":\"\xff\"}")) + ".AAAA", good + "." + b64([]byte(`{"a":1e999}`)) + ".AAAA", good + "." + b64([]byte(`{"a":`)) + ".AAAA",
		good + "." + b64([]byte(strings.Repeat(`{"a":`, 40)+"1"+strings.Repeat("}", 40))) + ".AAAA",
		good + "." + b64([]byte(`{"a":"`+strings.Repeat("a", jose.Longest)+`"}`)) + ".AAAA",
	} {
		if token, err := jose.Parse(text); err == nil {
			t.Errorf("%.80q was taken as %+v", text, token)
		}
	}
}

// TestEscapes has characters beyond the first plane, which two escapes stand for.
func TestEscapes(t *testing.T) {
	for text, want := range map[string]string{
		`"\ud83d\ude00"`: "\U0001F600", `"\uD83D\uDE00x"`: "\U0001F600x", `"\\ud83d"`: `\ud83d`, `"\\\ud83d\ude00"`: "\\\U0001F600", `"\ud7ff\ue000\ufffd"`: "\ud7ff\ue000\ufffd",
	} {
		if m, err := jose.Object([]byte(`{"a":` + text + `}`)); err != nil || m["a"] != want {
			t.Errorf("%s is %q, %v", text, m["a"], err)
		}
	}
}

func TestKeysRefused(t *testing.T) {
	for _, jwk := range []string{
		`{}`, `{"kty":"oct","k":"c2hvcnQ"}`, `{"kty":"RSA","n":"AQAB","e":"AQAB"}`, `{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}`,
		`{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}`, `{"kty":"OKP","crv":"X25519","x":"AAAA"}`, `{"kty":"OKP","crv":"Ed25519","x":"AAAA"}`,
		strings.Replace(vectors[2].jwk, `"kty"`, `"alg":"RS256","kty"`, 1), strings.Replace(vectors[2].jwk, `"kty"`, `"use":"enc","kty"`, 1),
		strings.Replace(vectors[2].jwk, `"kty"`, `"key_ops":["sign"],"kty"`, 1),
		// A point that is not on the curve.
		`{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a1"}`,
		"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "none",
	} {
		if _, err := jose.ParseKey(jwk); err == nil {
			t.Errorf("%s was taken", jwk)
		}
	}
	for _, set := range []string{`{}`, `{"keys":[]}`, `{"keys":[1]}`, `[]`, `{"keys":[` + vectors[0].jwk + `]}`, `{"keys":[` + strings.Repeat(vectors[2].jwk+",", 100) + vectors[2].jwk + `]}`} {
		if _, err := jose.ParseSet([]byte(set)); err == nil {
			t.Errorf("%.80s was taken", set)
		}
	}
}

// issuer is an issuer that rotates its keys and sometimes does not answer.
type issuer struct {
	data  atomic.Pointer[[]byte]
	asked atomic.Int64
}

func (i *issuer) publish(t *testing.T, signers ...*jose.Signer) {
	data, err := jose.Publish(signers...)
	if err != nil {
		t.Fatal(err)
	}
	i.data.Store(&data)
}

func (i *issuer) load(context.Context) (*jose.Set, error) {
	i.asked.Add(1)
	data := i.data.Load()
	if data == nil {
		return nil, errors.New("the issuer is down")
	}
	return jose.ParseSet(*data)
}

func TestSource(t *testing.T) {
	all := signers(t)
	one, two := all["RS256"], all["ES256"]
	synctest.Test(t, func(t *testing.T) {
		i := new(issuer)
		timing := jose.Timing{Refresh: 10 * time.Minute, Cooldown: 30 * time.Second, Patience: 3 * time.Second}
		s := jose.NewSource(slog.New(slog.NewTextHandler(io.Discard, nil)), timing, i.load)
		defer s.Retire()
		synctest.Wait()
		if _, err := s.Find("a", "RS256"); !errors.Is(err, jose.ErrUnavailable) {
			t.Errorf("before any key: %v", err)
		}
		i.publish(t, one)
		time.Sleep(5 * time.Second) // the back-off of the first failures
		keys, err := s.Find(one.Key().ID, "RS256")
		if err != nil || len(keys) != 1 {
			t.Fatalf("after the issuer came: %d keys, %v", len(keys), err)
		}
		first := keys[0]

		// A kid that is not known has the set loaded at once, but only so often.
		i.publish(t, one, two)
		time.Sleep(time.Minute)
		before := i.asked.Load()
		if keys, err := s.Find(two.Key().ID, "ES256"); err != nil || len(keys) != 1 {
			t.Errorf("a new key: %d, %v", len(keys), err)
		}
		for n := range 1000 {
			if keys, _ := s.Find("flood-"+string(rune('a'+n%26)), "ES256"); keys != nil {
				t.Error("a key that is not there")
			}
		}
		if n := i.asked.Load() - before; n != 1 {
			t.Errorf("the issuer was asked %d times", n)
		}
		if keys, _ := s.Find(one.Key().ID, "RS256"); len(keys) != 1 || keys[0] != first {
			t.Error("a key that stayed is another object")
		}

		// While the issuer is down the keys stay; a key that it withdraws goes.
		i.data.Store(nil)
		time.Sleep(24 * time.Hour)
		if keys, err := s.Find(one.Key().ID, "RS256"); err != nil || len(keys) != 1 || first.Gone() {
			t.Errorf("while the issuer is down: %d keys, %v", len(keys), err)
		}
		i.publish(t, two)
		time.Sleep(11 * time.Minute)
		if !first.Gone() {
			t.Error("a key that was withdrawn is still good")
		}
	})
}

// TestHangingIssuer has an issuer that takes the question and says nothing: a
// request waits for as long as it may, and no longer, and so does the end.
func TestHangingIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		load := func(ctx context.Context) (*jose.Set, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		s := jose.NewSource(slog.New(slog.DiscardHandler), jose.Timing{Refresh: time.Hour, Cooldown: time.Minute, Patience: 3 * time.Second}, load)
		for range 2 {
			begun := time.Now()
			if _, err := s.Find("", "RS256"); !errors.Is(err, jose.ErrUnavailable) || time.Since(begun) != 3*time.Second {
				t.Errorf("after %v: %v", time.Since(begun), err)
			}
		}
		ended := make(chan error)
		go func() {
			_, err := s.Find("a", "RS256")
			ended <- err
		}()
		synctest.Wait()
		begun := time.Now()
		s.Retire()
		if err := <-ended; !errors.Is(err, jose.ErrUnavailable) || time.Since(begun) != 0 {
			t.Errorf("at the end, after %v: %v", time.Since(begun), err)
		}
	})
}

// TestSlowIssuer has an issuer that takes longer to answer than the cool-down
// lasts, and tokens with unknown keys come all the time: it has its rest all the
// same.
func TestSlowIssuer(t *testing.T) {
	one := signers(t)["ES256"]
	synctest.Test(t, func(t *testing.T) {
		i := new(issuer)
		i.publish(t, one)
		const cooldown = time.Second
		var ended time.Time
		rests := []time.Duration{}
		load := func(ctx context.Context) (*jose.Set, error) {
			if !ended.IsZero() {
				rests = append(rests, time.Since(ended))
			}
			time.Sleep(3 * time.Second)
			ended = time.Now()
			return i.load(ctx)
		}
		timing := jose.Timing{Refresh: time.Hour, Cooldown: cooldown, Patience: time.Second}
		s := jose.NewSource(slog.New(slog.DiscardHandler), timing, load)
		for range 300 {
			go func() {
				if keys, _ := s.Find("unknown", "ES256"); keys != nil {
					t.Error("a key that is not there")
				}
			}()
			time.Sleep(100 * time.Millisecond)
		}
		s.Retire()
		if len(rests) < 5 {
			t.Errorf("it was asked %d times", len(rests))
		}
		for _, r := range rests {
			if r < cooldown {
				t.Errorf("it was asked again after %v", r)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.token)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token, err := jose.Parse(text)
		if err != nil {
			return
		}
		// What was taken has one spelling only: written again it is the same.
		if _, err := json.Marshal(token.Claims); err != nil {
			t.Errorf("claims that cannot be written: %v", err)
		}
		for part := range strings.SplitSeq(text, ".") {
			b, err := base64.RawURLEncoding.DecodeString(part)
			if err != nil || base64.RawURLEncoding.EncodeToString(b) != part {
				t.Errorf("%q has another spelling", part)
			}
		}
	})
}

// FuzzObject has the law that what is taken is JSON to others too, and says the
// same to them.
func FuzzObject(f *testing.F) {
	for _, text := range []string{
		`{}`, `{"a":1,"b":[true,null,{"c":"\u00e9\ud83d\ude00"}],"d":-1.5e3}`, `{"a":1,}`, `{"a" 1}`, `{,}`, `{"a":[1 2]}`, `{"a":1]`, `{"a":"\\ud800"}`, `{"a":"\ud800"}`, `{"a":1}}`, `{"a":01}`, "{\"a\":\"\t\"}",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := jose.Object([]byte(text))
		if err != nil {
			return
		}
		var other map[string]any
		if err := json.Unmarshal([]byte(text), &other); err != nil {
			t.Fatalf("%q is no JSON: %v", text, err)
		}
		mine, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var again map[string]any
		if err := json.Unmarshal(mine, &again); err != nil || !reflect.DeepEqual(other, again) {
			t.Errorf("%q is read as %s, %v", text, mine, err)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.jwk)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := jose.ParseKey(text); err == nil && !k.Secret() && k.Thumb == "" {
			t.Error("a public key without a thumbprint")
		}
		if _, err := jose.ParseSet([]byte(text)); err == nil && !strings.Contains(text, "keys") {
			t.Error("a set without keys")
		}
	})
}
