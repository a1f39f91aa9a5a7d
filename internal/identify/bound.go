package identify

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Bound says what tokens have to be bound to. What a token is bound to is
// checked in any case: a bound token is never taken as if it were not.
type Bound struct {
	// A token has to be bound in one of these ways: "certificate", to the client's certificate (RFC 8705), or "dpop", to a key of which it shows a proof (RFC 9449). Default: it need not be.
	To policy.StringList `yaml:"to" enum:"certificate,dpop"`
	// How old a proof may be, and how far the client's clock may be ahead.
	Window policy.Duration `yaml:"window" min:"1s" max:"10m"`
	// Whether a proof has to hold a nonce that the gateway gave out, so that none can be made beforehand.
	Nonce bool `yaml:"nonce"`
	// Secrets that nonces are made of, each of 32 bytes or more, the same at all gateways that a client may come to: then each of them takes what another one gave out. The first secret makes nonces, the others are taken still, or already. Default: one that this gateway makes up when it starts.
	NonceSecrets []policy.Secret `yaml:"nonce_secrets"`
	// Origin that proofs name, where clients see another one than the gateway. Default: that of the request.
	Origin string `yaml:"origin" example:"https://api.example.com"`
	// Most proofs that this gateway remembers within the window; further ones are refused.
	Proofs int `yaml:"proofs" min:"1" max:"10000000"`
	// Where proofs are remembered: redis is what "redis" of the configuration names, so that none is taken twice by several gateways; local is this gateway's memory; auto is redis where there is one.
	Store string `yaml:"store" enum:"auto,local,redis"`
	// What to do while redis does not answer: closed answers 503, local goes by what this gateway remembers, and another one may take the same proof.
	OnFailure string `yaml:"on_failure" enum:"closed,local"`
	// How long to wait for redis.
	Timeout policy.Duration `yaml:"timeout" min:"1ms" max:"10s"`
}

// DefaultBound takes proofs for a minute.
func DefaultBound() Bound {
	s := DefaultSharing()
	return Bound{Window: policy.Duration(time.Minute), Proofs: 100_000, Store: s.Store, OnFailure: s.OnFailure, Timeout: s.Timeout}
}

// Confirmation is what a token is bound to (RFC 7800).
type Confirmation struct {
	certificate string // base64url of the SHA-256 of a certificate
	key         string // thumbprint of a key
}

// ReadConfirmation reads "cnf" of a token. A token that is bound to something
// unknown cannot be taken.
func ReadConfirmation(claims map[string]any) (c Confirmation, err error) {
	v, there := claims["cnf"]
	if !there {
		return c, nil
	}
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		return c, errors.New(`the token's "cnf" is no object`)
	}
	for name, v := range m {
		s, _ := v.(string)
		switch {
		case name == "x5t#S256" && s != "":
			c.certificate = s
		case name == "jkt" && s != "":
			c.key = s
		default:
			return c, fmt.Errorf("the token is bound by %q, which is not supported", name)
		}
	}
	return c, nil
}

// Binding checks what tokens are bound to.
type Binding struct {
	settings  Bound
	authority bool // tokens stand in Authorization, with their scheme
	used      *Uses
	nonces    *nonces
}

// Compile checks the settings; what it returns beside a fault can tell its
// challenge. authority says that tokens stand in the field
// Authorization; elsewhere they have no scheme and none can be bound to a key.
func (b Bound) Compile(env *policy.Env, authority bool) (*Binding, error) {
	out := &Binding{settings: b, authority: authority}
	if !authority && slices.Contains(b.To, "dpop") {
		return out, &policy.Fault{Field: "to", Text: "a token with a proof stands in the field Authorization", Hint: "remove dpop, or the other place"}
	}
	if b.Origin != "" {
		u, err := url.Parse(b.Origin)
		if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return out, &policy.Fault{Field: "origin", Text: fmt.Sprintf("%q is no origin", b.Origin), Hint: "write https://host"}
		}
		out.settings.Origin = strings.ToLower(b.Origin)
	}
	shared, err := Sharing{b.Store, b.OnFailure, b.Timeout}.Compile(env)
	if err != nil {
		return out, err
	}
	out.used = NewUses(env, "proofs", b.Proofs, shared)
	nonces, f := b.compileNonces(env)
	if f != nil {
		return out, f
	}
	out.nonces = nonces
	return out, nil
}

// Find returns the token of a request and the scheme that it came with.
func (b *Binding) Find(p *Place, r *exchange.Request, most int) (text, scheme string, err error) {
	if !b.authority {
		text, err = p.Find(r, most)
		return text, "Bearer", err
	}
	if !r.Header.Has(exchange.Authorization) {
		return "", "", nil
	}
	if r.Header.Count(exchange.Authorization) > 1 {
		return "", "", ErrTwice
	}
	scheme, text, _ = strings.Cut(r.Header.Known(exchange.Authorization), " ")
	text = strings.TrimLeft(text, " ")
	if !exchange.EqualFold(scheme, "Bearer") && !exchange.EqualFold(scheme, "DPoP") || text == "" {
		return "", "", nil
	}
	if len(text) > most {
		return "", "", ErrLong
	}
	return text, scheme, nil
}

// Check makes sure that a token comes with what it is bound to. The error is
// a *exchange.Problem where the client has to try again with a nonce.
func (b *Binding) Check(x *exchange.Exchange, scheme, token string, c *Confirmation) error {
	if b.settings.To != nil &&
		!(c.certificate != "" && slices.Contains(b.settings.To, "certificate")) &&
		!(c.key != "" && slices.Contains(b.settings.To, "dpop")) {
		return errors.New("the token is not bound to what it has to be")
	}
	if c.certificate != "" {
		if err := checkCertificate(x, c.certificate); err != nil {
			return err
		}
	}
	proof := b.authority && !exchange.EqualFold(scheme, "Bearer")
	switch {
	case c.key == "" && proof:
		return errors.New("the token came with a proof, and is not bound to a key") // RFC 9449, section 7.1
	case c.key != "" && !proof:
		return errors.New("the token is bound to a key, and came without a proof")
	case c.key != "":
		return b.checkProof(x, token, c.key)
	}
	return nil
}

func checkCertificate(x *exchange.Exchange, want string) error {
	if x.Client.TLS == nil || x.Client.TLS.Peer == nil {
		return errors.New("the token is bound to a certificate, and the client showed none")
	}
	sum, err := hex.DecodeString(x.Client.TLS.Peer.Thumbprint())
	have := base64.RawURLEncoding.EncodeToString(sum)
	if err != nil || subtle.ConstantTimeCompare([]byte(have), []byte(want)) != 1 {
		return errors.New("the token is bound to another certificate than the client's")
	}
	return nil
}

// checkProof checks a DPoP proof (RFC 9449, section 4.3).
func (b *Binding) checkProof(x *exchange.Exchange, token, thumbprint string) error {
	proof := ""
	lines := 0
	for v := range x.Request.Header.Values("DPoP") {
		proof = v
		lines++
	}
	switch {
	case lines > 1:
		return errors.New("there is more than one proof")
	case proof == "":
		return errors.New("the token is bound to a key, and there is no proof")
	}
	t, err := jose.Parse(proof)
	if err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	jwk, ok := t.Header["jwk"].(map[string]any)
	if !ok || t.Typ != "dpop+jwt" {
		return errors.New("this is not a proof")
	}
	key, err := jose.ParseJWK(jwk)
	switch {
	case err != nil:
		return fmt.Errorf("proof: %w", err)
	case key == nil || key.Secret():
		return errors.New("the proof's key is not a public key for signatures")
	case subtle.ConstantTimeCompare([]byte(key.Thumb), []byte(thumbprint)) != 1:
		return errors.New("the proof is made with another key than the token is bound to")
	}
	if _, err := t.Verify([]*jose.Key{key}); err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	return b.proofClaims(x, t, token, key)
}

func (b *Binding) proofClaims(x *exchange.Exchange, t *jose.Token, token string, key *jose.Key) error {
	now, window := time.Now().Unix(), int64(b.settings.Window.D()/time.Second)
	iat, err := Moment(t.Claims, "iat")
	ath := sha256.Sum256([]byte(token))
	id := t.Text("jti")
	switch {
	case t.Text("htm") != x.Request.Method:
		return errors.New("the proof is for another method")
	case !b.sameTarget(x, t.Text("htu")):
		return fmt.Errorf("the proof is for %q", t.Claims["htu"])
	case err != nil || iat < now-window || iat > now+window:
		return errors.New("the proof is too old, or from the future")
	case id == "" || len(id) > 256:
		return errors.New("the proof has no id")
	case subtle.ConstantTimeCompare([]byte(t.Text("ath")), []byte(base64.RawURLEncoding.EncodeToString(ath[:]))) != 1:
		return errors.New("the proof is for another token")
	}
	if b.settings.Nonce && !b.nonces.fresh(t.Text("nonce"), now) {
		return b.askNonce(now)
	}
	// A proof from the future is good for twice the window, and to the end of
	// the last second.
	switch err := b.used.Use(2*b.settings.Window.D()+time.Second, key.Thumb, id); {
	case errors.Is(err, ErrReplayed):
		return fmt.Errorf("proof: %w", err)
	case err != nil:
		return unavailable(fmt.Errorf("proofs: %w", err))
	}
	return nil
}

// sameTarget compares the target of a proof with that of the request, without
// query and fragment, after the normal forms of both (RFC 9449, section 4.3).
func (b *Binding) sameTarget(x *exchange.Exchange, text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.User != nil || u.Opaque != "" {
		return false
	}
	origin := b.settings.Origin
	if origin == "" {
		origin = strings.ToLower(Origin(x))
	}
	if have := strings.ToLower(u.Scheme + "://" + u.Host); withoutPort(have) != withoutPort(origin) {
		return false
	}
	path := normalPath(u.ResolveReference(u).EscapedPath()) // without dot segments
	if path == "" {
		path = "/"
	}
	return path == x.Request.Path || path == normalPath(x.Request.RawPath)
}

// normalPath writes characters as they are that mean the same encoded or not,
// and the digits of other encodings in upper case (RFC 3986, section 6.2.2).
func normalPath(path string) string {
	if strings.IndexByte(path, '%') < 0 {
		return path
	}
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		out = append(out, path[i])
		if path[i] != '%' || i+2 >= len(path) {
			continue
		}
		n, err := strconv.ParseUint(path[i+1:i+3], 16, 8)
		switch c := byte(n); {
		case err != nil:
			continue
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			out[len(out)-1] = c
		default:
			out = append(out, strings.ToUpper(path[i+1:i+3])...)
		}
		i += 2
	}
	return string(out)
}

// Origin is the scheme and authority that the client asked, as far as it is
// known: trusted proxies say it, else the connection does.
func Origin(x *exchange.Exchange) string {
	h := &x.Request.Header
	scheme, host := h.Known(exchange.XForwardedProto), h.Known(exchange.XForwardedHost)
	if scheme == "" {
		scheme = x.Request.Scheme
	}
	if host == "" {
		host = x.Request.Authority
	}
	return scheme + "://" + host
}

// withoutPort takes the usual port off an origin.
func withoutPort(origin string) string {
	if strings.HasPrefix(origin, "https://") {
		return strings.TrimSuffix(origin, ":443")
	}
	return strings.TrimSuffix(origin, ":80")
}

// askNonce tells the client which nonce to use (RFC 9449, section 9).
func (b *Binding) askNonce(now int64) error {
	return &exchange.Problem{
		Status: 401, Code: "credential_nonce", Side: exchange.SideClient,
		Detail: "The proof has to hold the nonce of this answer.", Cause: errors.New("the proof has no nonce, or an old one"),
		Fields: append(challenge(`DPoP error="use_dpop_nonce", algs="`+dpopAlgorithms+`"`), exchange.Field{Name: "DPoP-Nonce", Value: b.nonces.current(now)}),
	}
}

// Remove takes the proof, and the token with its scheme, out of the request.
func (b *Binding) Remove(r *exchange.Request) {
	if !b.authority {
		return
	}
	r.Header.Del("DPoP")
	removeScheme(&r.Header, "Authorization", "DPoP")
}

const dpopAlgorithms = "ES256 ES384 ES512 PS256 PS384 PS512 RS256 RS384 RS512 EdDSA Ed25519"

// Challenge is that of RFC 6750, section 3, and of RFC 9449, section 7.1, where
// a proof has to be shown.
func (b *Binding) Challenge(realm string, wrong bool) string {
	rest := ` realm="` + realm + `"`
	if wrong {
		rest += `, error="invalid_token"`
	}
	if slices.Contains(b.settings.To, "dpop") {
		s := "DPoP" + rest + `, algs="` + dpopAlgorithms + `"`
		if len(b.settings.To) > 1 {
			s += ", Bearer" + rest
		}
		return s
	}
	return "Bearer" + rest
}
