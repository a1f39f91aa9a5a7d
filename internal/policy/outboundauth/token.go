package outboundauth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy"
)

func encode(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// endpoint is a token endpoint, and who asks there.
type endpoint struct {
	client     *fetch.Client
	url, basic string
	timeout    time.Duration
}

func newEndpoint(env *policy.Env, at, id string, secret policy.Secret, s fetch.Settings) (*endpoint, error) {
	var faults []error
	if f := s.Check(at); f != nil {
		f.Field = "token_url"
		faults = append(faults, f)
	}
	client, err := fetch.New(s)
	if err != nil {
		faults = append(faults, identify.Within("http", err))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return &endpoint{
		client: env.Keep("client "+identify.Fingerprint(s), func() any { return client }).(*fetch.Client),
		url:    at, basic: "Basic " + encode(url.QueryEscape(id)+":"+url.QueryEscape(secret.Reveal())), timeout: s.Timeout.D(),
	}, nil
}

// ask gets a token (RFC 6749, section 5), and for how many seconds it is good.
func (e *endpoint) ask(form url.Values) (token string, seconds int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), e.timeout)
	defer cancel()
	a, err := e.client.Do(ctx, http.MethodPost, e.url, http.Header{
		"Authorization": {e.basic}, "Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"application/json"},
	}, []byte(form.Encode()))
	if err != nil {
		return "", 0, err
	}
	body, err := jose.Object(a.Body)
	switch {
	case a.Status != http.StatusOK && err == nil:
		return "", 0, fmt.Errorf("the answer has status %d: %q", a.Status, body["error"])
	case a.Status != http.StatusOK:
		return "", 0, fmt.Errorf("the answer has status %d", a.Status)
	case err != nil:
		return "", 0, err
	}
	token, _ = body["access_token"].(string)
	kind, _ := body["token_type"].(string)
	seconds, ok := body["expires_in"].(int64)
	switch {
	case token == "" || policy.CheckValue(token) != nil || !strings.EqualFold(kind, "Bearer"):
		return "", 0, errors.New("the answer has no bearer token")
	case !ok || seconds <= 0:
		seconds = 60 // it does not say, so that it is asked for again soon
	}
	return token, min(seconds, 86400), nil
}

// keeper has the gateway's own token, and gets the next one before it expires:
// from four fifths of its time on, while requests go on with the old one.
type keeper struct {
	at   *endpoint
	form url.Values

	mu     sync.Mutex
	field  string    // "Bearer" and the token
	renew  time.Time // when the next one is due
	ends   time.Time
	busy   chan struct{} // closed when the request that is under way has ended
	err    error         // of the last one
	failed time.Time     // when it failed: it is not tried again at once
}

func (c *ClientCredentials) compile(env *policy.Env) (policy.Policy, error) {
	at, err := newEndpoint(env, c.TokenURL, c.ClientID, c.ClientSecret, c.HTTP)
	if err != nil {
		return nil, err
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(c.Scopes) > 0 {
		form.Set("scope", strings.Join(c.Scopes, " "))
	}
	if c.Audience != "" {
		form.Set("audience", c.Audience)
	}
	return env.Keep("token "+identify.Fingerprint(c, c.ClientSecret.Fingerprint()), func() any {
		return &keeper{at: at, form: form}
	}).(*keeper), nil
}

var _ policy.OnRequest = (*keeper)(nil)

// Request shows the token.
func (k *keeper) Request(x *exchange.Exchange) policy.Verdict {
	field, err := k.token()
	if err != nil {
		x.Fail(unavailable(fmt.Errorf("getting a token: %w", err)))
		return policy.Stop
	}
	x.Request.Header.SetKnown(exchange.Authorization, field)
	return policy.Next
}

func (k *keeper) token() (string, error) {
	for {
		k.mu.Lock()
		now := time.Now()
		good := now.Before(k.ends)
		if due := !good || !now.Before(k.renew); due && k.busy == nil && now.Sub(k.failed) >= time.Second {
			k.busy = make(chan struct{})
			go k.get(k.busy)
		}
		field, busy, err := k.field, k.busy, k.err
		k.mu.Unlock()
		switch {
		case good:
			return field, nil
		case busy == nil:
			return "", err
		}
		<-busy
	}
}

// get asks for a token, for all that wait.
func (k *keeper) get(done chan struct{}) {
	token, seconds, err := k.at.ask(k.form)
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	k.busy = nil
	if k.err = err; err != nil {
		k.failed = now
	} else {
		k.field = "Bearer " + token
		k.ends = now.Add(time.Duration(seconds) * time.Second)
		k.renew = now.Add(time.Duration(seconds) * time.Second * 4 / 5)
	}
	close(done)
}

// exchanger exchanges the token of each client.
type exchanger struct {
	*TokenExchange
	at    *endpoint
	cache *identify.Tokens[string]
}

func (t *TokenExchange) compile(env *policy.Env) (policy.Policy, error) {
	at, err := newEndpoint(env, t.TokenURL, t.ClientID, t.ClientSecret, t.HTTP)
	if err != nil {
		return nil, err
	}
	return &exchanger{t, at, env.Keep("exchanged "+identify.Fingerprint(t, t.ClientSecret.Fingerprint()), func() any {
		return identify.NewTokens[string](t.Cache)
	}).(*identify.Tokens[string])}, nil
}

// Request exchanges the client's bearer token (RFC 8693, section 2.1). One that
// nobody proved is not exchanged.
func (t *exchanger) Request(x *exchange.Exchange) policy.Verdict {
	h := &x.Request.Header
	scheme, subject, _ := strings.Cut(h.Known(exchange.Authorization), " ")
	if x.Who.Method == "" || !exchange.EqualFold(scheme, "Bearer") || h.Count(exchange.Authorization) != 1 {
		x.Fail(&exchange.Problem{
			Status: 403, Code: "token_missing", Side: exchange.SideClient, Detail: "The request has no token to act with.",
			Cause: errors.New("there is no bearer token that a policy proved and left in the request"),
		})
		return policy.Stop
	}
	now := time.Now().Unix()
	field := t.cache.Get(subject, now)
	if field == nil {
		form := url.Values{
			"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {subject},
			"subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		}
		for name, v := range map[string]string{"audience": t.Audience, "resource": t.Resource, "scope": strings.Join(t.Scopes, " ")} {
			if v != "" {
				form.Set(name, v)
			}
		}
		token, seconds, err := t.at.ask(form)
		if err != nil {
			x.Fail(unavailable(fmt.Errorf("exchanging a token: %w", err)))
			return policy.Stop
		}
		text := "Bearer " + token
		field = &text
		t.cache.Put(subject, field, now, now+seconds*4/5)
	}
	h.SetKnown(exchange.Authorization, *field)
	return policy.Next
}
