package signature

import (
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

func unbase64(t testing.TB, text string) []byte {
	t.Helper()
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "="))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// example is the request of RFC 9421, appendix B.2.
func example() *exchange.Exchange {
	x := exchange.Get()
	x.Client = new(exchange.Client)
	r := &x.Request
	r.Method, r.Scheme, r.Authority, r.RawPath, r.Query, r.HasQuery = "POST", "https", "example.com", "/foo", "param=Value&Pet=dog", true
	r.Header.Add("Date", "Tue, 20 Apr 2021 02:07:55 GMT")
	r.Header.Add("Content-Type", "application/json")
	r.Header.Add("Content-Digest", "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:")
	r.Body, r.Length = exchange.Bytes([]byte(`{"hello": "world"}`)), 18
	return x
}

// TestVectors has the signatures over requests of RFC 9421, appendix B.2.
func TestVectors(t *testing.T) {
	pss := &rsa.PublicKey{N: new(big.Int).SetBytes(unbase64(t, "r4tmm3r20Wd_PbqvP1s2-QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct-Lh1GH45x28Rw3Ry53mm-oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHqgDsznjPFmTOtCEcN2Z1FpWgchwuYLPL-Wokqltd11nqqzi-bJ9cvSKADYdUAAN5WUtzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4aOT9v6d-nb4bnNkQVklLQ3fVAvJm-xdDOp9LCNCN48V2pnDOkFV6-U9nV5oyc6XI2w")), E: 65537}
	ed := ed25519.PublicKey(unbase64(t, "JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"))
	secret := unbase64(t, "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
	for _, v := range []struct {
		alg        string
		key        any
		input, sig string
	}{
		{
			"rsa-pss-sha512", pss, `();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd"`,
			"d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckzXaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8ssinQ98Xw9Q==",
		},
		{
			"rsa-pss-sha512", pss, `("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss";tag="header-example"`,
			"LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+H2fjBSpqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe4bXTugEjHSw==",
		},
		{
			"rsa-pss-sha512", pss, `("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss"`,
			"bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKEgM4cUA==",
		},
		{
			"hmac-sha256", secret, `("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"`,
			"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=",
		},
		{
			"ed25519", ed, `("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`,
			"wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==",
		},
	} {
		x := example()
		d, err := dictionary("sig=" + v.input)
		if err != nil {
			t.Fatalf("%s: %v", v.input, err)
		}
		text, err := base(x, d[0].list, d[0].item.params)
		if err != nil {
			t.Fatalf("%s: %v", v.input, err)
		}
		if !strings.HasSuffix(string(text), `"@signature-params": `+v.input) {
			t.Errorf("parameters are written differently:\n%s", text)
		}
		sig := unbase64(t, v.sig)
		if !verify(v.alg, v.key, text, sig) {
			t.Errorf("the example is not verified, base:\n%s", text)
		}
		if verify(v.alg, v.key, append(text, ' '), sig) || verify(v.alg, v.key, text, sig[1:]) {
			t.Errorf("%s: something else is verified", v.input)
		}
		for _, alg := range []string{"hmac-sha256", "ed25519", "rsa-v1_5-sha256", "rsa-pss-sha512", "ecdsa-p256-sha256", ""} {
			if alg != v.alg && verify(alg, v.key, text, sig) {
				t.Errorf("%s: verified as %q", v.input, alg)
			}
		}
		body, _ := exchange.Held(x.Request.Body)
		if err := checkDigest(&x.Request.Header, body); err != nil {
			t.Errorf("digest: %v", err)
		}
		exchange.Put(x)
	}
}

func TestComponents(t *testing.T) {
	x := example()
	defer exchange.Put(x)
	x.Request.Authority, x.Request.Query = "Example.COM:443", "a=b%20c&q=%2B&a2=1&a2=2&=x"
	x.Request.Query += "&odd=~*%7e%2a-._'!()+"
	x.Request.Header.Add("X-List", " a ")
	x.Request.Header.Add("X-List", "b")
	x.Request.Header.Add("X-Dict", `a=1, b=2;x=1;y=2, c=(a b c), d`)
	for component, want := range map[string]string{
		`"@method"`: "POST", `"@authority"`: "example.com", `"@scheme"`: "https", `"@path"`: "/foo",
		`"@query"`: "?" + x.Request.Query, `"@request-target"`: "/foo?" + x.Request.Query,
		`"@target-uri"`:             "https://example.com/foo?" + x.Request.Query,
		`"@query-param";name="odd"`: "%7E*%7E*-._%27%21%28%29%20",
		`"@query-param";name="a"`:   "b%20c", `"@query-param";name="q"`: "%2B", `"x-list"`: "a, b", `"x-list";bs`: ":YQ==:, :Yg==:",
		`"x-dict";key="a"`: "1", `"x-dict";key="b"`: "2;x=1;y=2", `"x-dict";key="c"`: "(a b c)", `"x-dict";key="d"`: "?1",
		`"content-length"`: "18", `"host"`: "Example.COM:443",
	} {
		d, err := dictionary("s=(" + component + ")")
		if err != nil {
			t.Fatalf("%s: %v", component, err)
		}
		text, err := base(x, d[0].list, nil)
		if err != nil || string(text) != component+": "+want+"\n\"@signature-params\": ("+component+")" {
			t.Errorf("%s: %v:\n%s", component, err, text)
		}
	}
	for _, component := range []string{
		`"@status"`, `"@method";req`, `"@query-param"`, `"@query-param";name="a2"`, `"@query-param";name="none"`, `"@nothing"`, `"X-List"`,
		`"x-none"`, `"x-list";sf`, `"x-list";tr`, `"x-dict";key="none"`, `"x-dict";key="a";bs`, `"@method" "@method"`, `token`, `1`, `""`,
	} {
		d, err := dictionary("s=(" + component + ")")
		if err != nil {
			t.Fatalf("%s: %v", component, err)
		}
		if text, err := base(x, d[0].list, nil); err == nil {
			t.Errorf("%s was taken:\n%s", component, text)
		}
	}
}

func TestDictionaryRefuses(t *testing.T) {
	for _, s := range []string{
		"a=", "A=1", "=1", "a=1,", "a=1,,b=2", "a=1 b=2", "a=(", `a=("x"`, `a=("x""y")`, `a="`, `a="\a"`, "a=\"\x7f\"", "a=:A:", "a=:AA=:", "a=:AAA", "a=?2", "a=1.5", "a=-",
		"a=1234567890123456", "a;=1", "a;b;b", "a=1, a=2", "a=1;B=2", strings.Repeat("a", 10) + "=@", "a=(1", "a= 1", strings.Repeat("a=1,", 3) + "é=1",
	} {
		if d, err := dictionary(s); err == nil {
			t.Errorf("%q was taken as %+v", s, d)
		}
	}
	many := make([]string, 0, 100)
	for i := range 100 {
		many = append(many, "a"+strings.Repeat("b", i))
	}
	if _, err := dictionary(strings.Join(many, ",")); err == nil {
		t.Error("a hundred members were taken")
	}
}

// FuzzDictionary has the law that what was read is written in one form, which
// is read as the same again.
func FuzzDictionary(f *testing.F) {
	for _, s := range []string{
		`sig1=("@method" "x";key="a" "@query-param";name="p");created=1618884473;keyid="k";alg="ed25519";nonce="n";tag="t"`,
		`sig1=:AAAA:, sig2=:BBBB:`, `a=?1;b;c=?0, d=tok/en;e=-1`, `a=()`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := dictionary(text)
		if err != nil {
			return
		}
		write := func(d []member) string {
			var b []byte
			for i, m := range d {
				if i > 0 {
					b = append(b, ", "...)
				}
				b = append(append(b, m.name...), '=')
				if m.isList {
					b = appendList(b, m.list, m.item.params)
				} else {
					b = appendItem(b, m.item)
				}
			}
			return string(b)
		}
		once := write(d)
		again, err := dictionary(once)
		if err != nil || write(again) != once {
			t.Errorf("%q is written as %q, and that as %q: %v", text, once, write(again), err)
		}
		x := example()
		defer exchange.Put(x)
		for _, m := range d {
			if b, err := base(x, m.list, m.item.params); err == nil && strings.Count(string(b), "\n") != len(m.list) {
				t.Errorf("a base with other lines than components:\n%s", b)
			}
		}
	})
}
