package jose_test

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/jose"
)

// The keys of RFC 7520, section 3, by their sections there.
var exampleKeys = map[string]string{
	"3.1": `{"kty":"EC","kid":"bilbo.baggins@hobbiton.example","use":"sig","crv":"P-521","x":"AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt","y":"AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1"}`,
	"3.2": `{"kty":"EC","kid":"bilbo.baggins@hobbiton.example","use":"sig","crv":"P-521","x":"AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt","y":"AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1","d":"AAhRON2r9cqXX1hg-RoI6R1tX5p2rUAYdmpHZoC1XNM56KtscrX6zbKipQrCW9CGZH3T4ubpnoTKLDYJ_fF3_rJt"}`,
	"3.3": `{"kty":"RSA","kid":"bilbo.baggins@hobbiton.example","use":"sig","n":"n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw","e":"AQAB"}`,
	"3.4": `{"kty":"RSA","kid":"bilbo.baggins@hobbiton.example","use":"sig","n":"n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw","e":"AQAB","d":"bWUC9B-EFRIo8kpGfh0ZuyGPvMNKvYWNtB_ikiH9k20eT-O1q_I78eiZkpXxXQ0UTEs2LsNRS-8uJbvQ-A1irkwMSMkK1J3XTGgdrhCku9gRldY7sNA_AKZGh-Q661_42rINLRCe8W-nZ34ui_qOfkLnK9QWDDqpaIsA-bMwWWSDFu2MUBYwkHTMEzLYGqOe04noqeq1hExBTHBOBdkMXiuFhUq1BU6l-DqEiWxqg82sXt2h-LMnT3046AOYJoRioz75tSUQfGCshWTBnP5uDjd18kKhyv07lhfSJdrPdM5Plyl21hsFf4L_mHCuoFau7gdsPfHPxxjVOcOpBrQzwQ","p":"3Slxg_DwTXJcb6095RoXygQCAZ5RnAvZlno1yhHtnUex_fp7AZ_9nRaO7HX_-SFfGQeutao2TDjDAWU4Vupk8rw9JR0AzZ0N2fvuIAmr_WCsmGpeNqQnev1T7IyEsnh8UMt-n5CafhkikzhEsrmndH6LxOrvRJlsPp6Zv8bUq0k","q":"uKE2dh-cTf6ERF4k4e_jy78GfPYUIaUyoSSJuBzp3Cubk3OCqs6grT8bR_cu0Dm1MZwWmtdqDyI95HrUeq3MP15vMMON8lHTeZu2lmKvwqW7anV5UzhM1iZ7z4yMkuUwFWoBvyY898EXvRD-hdqRxHlSqAZ192zB3pVFJ0s7pFc","dp":"B8PVvXkvJrj2L-GYQ7v3y9r6Kw5g9SahXBwsWUzp19TVlgI-YV85q1NIb1rxQtD-IsXXR3-TanevuRPRt5OBOdiMGQp8pbt26gljYfKU_E9xn-RULHz0-ed9E9gXLKD4VGngpz-PfQ_q29pk5xWHoJp009Qf1HvChixRX59ehik","dq":"CLDmDGduhylc9o7r84rEUVn7pzQ6PF83Y-iBZx5NT-TpnOZKF1pErAMVeKzFEl41DlHHqqBLSM0W1sOFbwTxYWZDm6sI6og5iTbwQGIC3gnJKbi_7k_vJgGHwHxgPaX2PnvP-zyEkDERuf-ry4c_Z11Cq9AqC2yeL6kdKT1cYF8","qi":"3PiqvXQN0zwMeE-sBvZgi289XP9XCQF3VWqPzMKnIgQp7_Tugo6-NZBKCQsMf3HaEGBjTVJs_jcK8-TRXvaKe-7ZMaQj8VfBdYkssbu0NKDDhjJ-GtiseaDVWt7dcH0cfwxgFUHpQh7FoCrjFJ6h6ZEpMF6xmujs4qMpPz8aaI4"}`,
	"3.5": `{"kty":"oct","kid":"018c0ae5-4d9b-471b-bfd6-eef314bc7037","use":"sig","alg":"HS256","k":"hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg"}`,
	"3.6": `{"kty":"oct","kid":"1e571774-2e08-40da-8308-e8d68773842d","use":"enc","alg":"A256GCM","k":"AAPapAv4LbFbiVawEjagUBluYqN5rhna-8nuldDvOx8"}`,
}

// examplePayload is what all examples of RFC 7520, section 4, sign: a sentence,
// and no claims.
const examplePayload = "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4"

// The examples of RFC 7520, sections 4.1 to 4.4: a head, and the signature of
// the payload behind it.
var examples = []struct{ section, alg, key, head, sig string }{
	{
		"4.1", "RS256", "3.3", "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9",
		"MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg",
	},
	{
		"4.2", "PS384", "3.3", "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9",
		"cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw",
	},
	{
		"4.3", "ES512", "3.1", "eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9",
		"AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_sDDyYjnAMDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2",
	},
	{
		"4.4", "HS256", "3.5", "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9",
		"s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0",
	},
}

// The examples of RFC 7520, sections 4.5 to 4.8: detached from their payload, or
// not compact.
var otherForms = []struct{ section, form, text string }{
	{"4.5", "compact", `eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9..s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0`},
	{"4.5", "general", `{"signatures":[{"protected":"eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9","signature":"s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0"}]}`},
	{"4.5", "flattened", `{"protected":"eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9","signature":"s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0"}`},
	{"4.6", "general", `{"payload":"` + examplePayload + `","signatures":[{"protected":"eyJhbGciOiJIUzI1NiJ9","header":{"kid":"018c0ae5-4d9b-471b-bfd6-eef314bc7037"},"signature":"bWUSVaxorn7bEF1djytBd0kHv70Ly5pvbomzMWSOr20"}]}`},
	{"4.6", "flattened", `{"payload":"` + examplePayload + `","protected":"eyJhbGciOiJIUzI1NiJ9","header":{"kid":"018c0ae5-4d9b-471b-bfd6-eef314bc7037"},"signature":"bWUSVaxorn7bEF1djytBd0kHv70Ly5pvbomzMWSOr20"}`},
	{"4.7", "general", `{"payload":"` + examplePayload + `","signatures":[{"header":{"alg":"HS256","kid":"018c0ae5-4d9b-471b-bfd6-eef314bc7037"},"signature":"xuLifqLGiblpv9zBpuZczWhNj1gARaLV3UxvxhJxZuk"}]}`},
	{"4.7", "flattened", `{"payload":"` + examplePayload + `","header":{"alg":"HS256","kid":"018c0ae5-4d9b-471b-bfd6-eef314bc7037"},"signature":"xuLifqLGiblpv9zBpuZczWhNj1gARaLV3UxvxhJxZuk"}`},
	{"4.8", "general", `{"payload":"` + examplePayload + `","signatures":[{"protected":"eyJhbGciOiJSUzI1NiJ9","header":{"kid":"bilbo.baggins@hobbiton.example"},"signature":"MIsjqtVlOpa71KE-Mss8_Nq2YH4FGhiocsqrgi5NvyG53uoimic1tcMdSg-qptrzZc7CG6Svw2Y13TDIqHzTUrL_lR2ZFcryNFiHkSw129EghGpwkpxaTn_THJTCglNbADko1MZBCdwzJxwqZc-1RlpO2HibUYyXSwO97BSe0_evZKdjvvKSgsIqjytKSeAMbhMBdMma622_BG5t4sdbuCHtFjp9iJmkio47AIwqkZV1aIZsv33uPUqBBCXbYoQJwt7mxPftHmNlGoOSMxR_3thmXTCm4US-xiNOyhbm8afKK64jU6_TPtQHiJeQJxz9G3Tx-083B745_AfYOnlC9w"},{"header":{"alg":"ES512","kid":"bilbo.baggins@hobbiton.example"},"signature":"ARcVLnaJJaUWG8fG-8t5BREVAuTY8n8YHjwDO1muhcdCoFZFFjfISu0Cdkn9Ybdlmi54ho0x924DUz8sK7ZXkhc7AFM8ObLfTvNCrqcI3Jkl2U5IX3utNhODH6v7xgy1Qahsn0fyb4zSAkje8bAWz4vIfj5pCMYxxm4fgV3q7ZYhm5eD"},{"protected":"eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9","signature":"s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0"}]}`},
}

// TestExamples verifies the examples of RFC 7520, section 4, with the keys of
// section 3, each with its own key only. None of them is a token: they sign
// text and not claims.
func TestExamples(t *testing.T) {
	keys := make(map[string]*jose.Key)
	for _, section := range []string{"3.1", "3.3", "3.5"} {
		k, err := jose.ParseKey(exampleKeys[section])
		if err != nil {
			t.Fatalf("%s: %v", section, err)
		}
		keys[section] = k
	}
	for _, e := range examples {
		sig, err := base64.RawURLEncoding.DecodeString(e.sig)
		if err != nil {
			t.Fatal(err)
		}
		text := e.head + "." + examplePayload
		for section, k := range keys {
			if err := k.Verify(e.alg, []byte(text), sig); (err == nil) != (section == e.key) {
				t.Errorf("section %s with the key of section %s: %v", e.section, section, err)
			}
		}
		if keys[e.key].Verify(e.alg, []byte(text+"A"), sig) == nil || keys[e.key].Verify(e.alg, []byte(text), sig[1:]) == nil {
			t.Errorf("section %s: what is not the example is verified", e.section)
		}
		if _, err := jose.Parse(text + "." + e.sig); err == nil || !strings.Contains(err.Error(), "claims") {
			t.Errorf("section %s: a sentence was taken for claims: %v", e.section, err)
		}
	}
}

// TestExamplesSigned makes the two examples of RFC 7520, section 4, whose
// signatures are no matter of chance.
func TestExamplesSigned(t *testing.T) {
	var jwk map[string]string
	if err := json.Unmarshal([]byte(exampleKeys["3.4"]), &jwk); err != nil {
		t.Fatal(err)
	}
	number := func(name string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(jwk[name])
		if err != nil {
			t.Fatal(err)
		}
		return new(big.Int).SetBytes(b)
	}
	private := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: number("n"), E: int(number("e").Int64())}, D: number("d"), Primes: []*big.Int{number("p"), number("q")},
	}
	if err := private.Validate(); err != nil {
		t.Fatal(err)
	}
	secret, err := base64.RawURLEncoding.DecodeString("hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg") // section 3.5
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range map[int]any{0: private, 3: secret} {
		e := examples[i]
		s, err := jose.NewSigner(key, e.alg, "")
		if err != nil {
			t.Fatal(err)
		}
		sig, err := s.Raw([]byte(e.head + "." + examplePayload))
		if got := base64.RawURLEncoding.EncodeToString(sig); got != e.sig || err != nil {
			t.Errorf("section %s is signed %s, %v", e.section, got, err)
		}
	}
}

// TestOtherForms has signatures that are right and not in compact form: they
// are read by nobody here, also where they stand for claims.
func TestOtherForms(t *testing.T) {
	forms := append([]struct{ section, form, text string }(nil), otherForms...)
	for _, e := range examples {
		forms = append(forms,
			struct{ section, form, text string }{e.section, "flattened", `{"payload":"` + examplePayload + `","protected":"` + e.head + `","signature":"` + e.sig + `"}`},
			struct{ section, form, text string }{e.section, "general", `{"payload":"` + examplePayload + `","signatures":[{"protected":"` + e.head + `","signature":"` + e.sig + `"}]}`},
			struct{ section, form, text string }{e.section, "detached", e.head + ".." + e.sig})
	}
	for _, f := range forms {
		if token, err := jose.Parse(f.text); err == nil || jose.LooksLike(f.text) && f.text[0] == '{' {
			t.Errorf("section %s, %s: taken as %+v", f.section, f.form, token)
		}
	}
}

// TestUnencoded has the example of RFC 7797, section 4.2, whose payload stands
// in it as it is, and others that say so.
func TestUnencoded(t *testing.T) {
	const head, sig = "eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2UsImNyaXQiOlsiYjY0Il19", "A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY"
	key, err := jose.ParseKey(vectors[0].jwk)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Verify("HS256", []byte(head+".$.02"), raw); err != nil {
		t.Errorf("the signature of the example: %v", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	for _, text := range []string{
		head + ".." + sig, head + ".$.02." + sig, head + ".e30." + sig, head + ".{}." + sig,
		b64([]byte(`{"alg":"HS256","b64":false}`)) + ".e30." + sig,
		b64([]byte(`{"alg":"HS256","b64":true,"crit":["b64"]}`)) + ".e30." + sig,
		b64([]byte(`{"alg":"HS256","crit":["b64"]}`)) + ".e30." + sig,
		b64([]byte(`{"alg":"HS256","crit":[]}`)) + ".e30." + sig,
		b64([]byte(`{"alg":"HS256","crit":null}`)) + ".e30." + sig,
	} {
		if token, err := jose.Parse(text); err == nil {
			t.Errorf("%s: taken as %+v", text, token)
		}
	}
}

// TestKeysOfNobody has keys of RFC 7520 that verify nothing: one is for
// encryption, and who gives out a private key shares it with everybody.
func TestKeysOfNobody(t *testing.T) {
	for _, section := range []string{"3.2", "3.4", "3.6"} {
		if _, err := jose.ParseKey(exampleKeys[section]); err == nil {
			t.Errorf("the key of section %s was taken", section)
		}
		if _, err := jose.ParseSet([]byte(`{"keys":[` + exampleKeys[section] + `]}`)); err == nil {
			t.Errorf("the key of section %s was taken from a set", section)
		}
		set, err := jose.ParseSet([]byte(`{"keys":[` + exampleKeys[section] + "," + exampleKeys["3.3"] + `]}`))
		if err != nil || len(set.Keys()) != 1 {
			t.Errorf("beside the key of section %s there is another: %v", section, err)
		}
	}
	// The private key of RFC 8037, appendix A.1.
	if _, err := jose.ParseKey(strings.Replace(vectors[4].jwk, `"x"`, `"d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x"`, 1)); err == nil {
		t.Error("a private Ed25519 key was taken")
	}
}

// TestMembersOfKeys has members of a wrong type: what is not understood is not
// passed over as if it did not stand there. Null is how some write nothing.
func TestMembersOfKeys(t *testing.T) {
	for _, member := range []string{
		`"use":["enc"]`, `"use":1`, `"use":false`, `"key_ops":"verify"`, `"key_ops":{}`, `"key_ops":[]`, `"key_ops":[1]`,
		`"alg":["ES256"]`, `"alg":{}`, `"kid":1`, `"kid":[]`, `"x":1`, `"d":1`, `"d":""`,
	} {
		jwk := vectors[2].jwk
		if strings.HasPrefix(member, `"x"`) {
			jwk = strings.Replace(jwk, `"x"`, `"z"`, 1)
		}
		jwk = "{" + member + "," + jwk[1:]
		if _, err := jose.ParseKey(jwk); err == nil {
			t.Errorf("%s was taken", jwk)
		}
	}
	for _, member := range []string{`"use":"sig"`, `"key_ops":["verify"]`, `"key_ops":["sign","verify"]`, `"alg":"ES256"`, `"kid":""`, `"use":null`, `"key_ops":null`, `"alg":null`, `"kid":null`, `"d":null`, `"x5c":["AA"]`, `"more":1`} {
		if _, err := jose.ParseKey("{" + member + "," + vectors[2].jwk[1:]); err != nil {
			t.Errorf("%s: %v", member, err)
		}
	}
}
