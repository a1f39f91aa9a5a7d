package decision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// service answers as it is told, and remembers what it was asked.
type service struct {
	answer func(ctx context.Context) (*Verdict, error)
	fields []map[string]string
	bodies []string
}

type asked struct {
	s   *service
	key string
}

func (s *service) Reaches(*exchange.Exchange) string { return "asks a test" }

func (s *service) Ask(x *exchange.Exchange, fields map[string]string, body []byte) (Question, error) {
	if x.Request.Path == "/unspeakable" {
		return nil, errors.New("no words")
	}
	s.fields, s.bodies = append(s.fields, fields), append(s.bodies, string(body))
	return &asked{s, fmt.Sprint(x.Request.Path, fields)}, nil
}

func (a *asked) Key() ([]byte, error) { return []byte(a.key), nil }

func (a *asked) Answer(ctx context.Context) (*Verdict, error) { return a.s.answer(ctx) }

func says(v Verdict) func(context.Context) (*Verdict, error) {
	return func(context.Context) (*Verdict, error) {
		return &Verdict{v.Allow, slices.Clone(v.Request), slices.Clone(v.Remove), slices.Clone(v.Answer), v.Status, v.Body}, nil
	}
}

func fails(err error) func(context.Context) (*Verdict, error) {
	return func(context.Context) (*Verdict, error) { return nil, err }
}

func newStep(t *testing.T, s *service, terms Terms, spared *[]string) *Step {
	t.Helper()
	terms.Timeout = max(terms.Timeout, time.Second)
	terms.Refused, terms.Unavailable = exchange.Problem{Status: 403, Code: "test_denied"}, exchange.Problem{Status: 503, Code: "test_unavailable"}
	step, err := New(&policy.Env{
		Name: "test", Log: slog.New(slog.DiscardHandler), Slots: new(policy.Slots),
		Keep:   func(_ string, create func() any) any { return create() },
		Spared: func(reason string) { *spared = append(*spared, reason) },
	}, terms, s)
	if err != nil {
		t.Fatal(err)
	}
	return step
}

func newExchange(t *testing.T, fields ...string) *exchange.Exchange {
	t.Helper()
	x := exchange.Get()
	t.Cleanup(func() { exchange.Put(x) })
	x.Client = &exchange.Client{Addr: netip.MustParseAddrPort("192.0.2.1:80"), IP: "192.0.2.1"}
	x.Request.Method, x.Request.Path = "GET", "/"
	for i := 0; i < len(fields); i += 2 {
		x.Request.Header.Add(fields[i], fields[i+1])
	}
	return x
}

// What is no decision refuses; a request passes only where the settings say so,
// and by fail_open only while the service does not answer: what makes it answer
// oddly may be the request.
func TestNoDecision(t *testing.T) {
	silent, odd := fails(Silent(errors.New("gone"))), fails(errors.New("odd"))
	late := func(ctx context.Context) (*Verdict, error) {
		<-ctx.Done()
		return nil, Silent(ctx.Err())
	}
	for name, c := range map[string]struct {
		answer     func(context.Context) (*Verdict, error)
		open, dry  bool
		body       bool
		path       string
		status     int // 0: it passes
		code, tell string
	}{
		"silent":                 {answer: silent, status: 503, code: "test_unavailable"},
		"odd":                    {answer: odd, status: 503, code: "test_unavailable"},
		"late":                   {answer: late, status: 503, code: "test_unavailable"},
		"denied":                 {answer: says(Verdict{}), status: 403, code: "test_denied"},
		"unspeakable":            {path: "/unspeakable", status: 503, code: "test_unavailable"},
		"body not held":          {body: true, answer: says(Verdict{Allow: true}), status: 503, code: "test_unavailable"},
		"silent, open":           {answer: silent, open: true, tell: "fail_open"},
		"late, open":             {answer: late, open: true, tell: "fail_open"},
		"odd, open":              {answer: odd, open: true, status: 503, code: "test_unavailable"},
		"denied, open":           {answer: says(Verdict{}), open: true, status: 403, code: "test_denied"},
		"unspeakable, open":      {path: "/unspeakable", open: true, status: 503, code: "test_unavailable"},
		"body not held, open":    {body: true, answer: says(Verdict{Allow: true}), open: true, status: 503, code: "test_unavailable"},
		"silent, dry run":        {answer: silent, dry: true, tell: "dry_run"},
		"odd, dry run":           {answer: odd, dry: true, tell: "dry_run"},
		"denied, dry run":        {answer: says(Verdict{}), dry: true, tell: "dry_run"},
		"silent, open, dry run":  {answer: silent, open: true, dry: true, tell: "fail_open"},
		"allowed, open, dry run": {answer: says(Verdict{Allow: true}), open: true, dry: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var spared []string
				terms := Terms{FailOpen: c.open, DryRun: c.dry, Sets: policy.StringList{"X-User"}}
				if c.body {
					terms.Body = 10
				}
				s := newStep(t, &service{answer: c.answer}, terms, &spared)
				x := newExchange(t, "X-User", "eve")
				if x.Request.Body = exchange.Body(nil); c.path != "" {
					x.Request.Path = c.path
				}
				verdict := s.Request(x)
				if c.status == 0 && (verdict != policy.Next || x.Problem != nil) ||
					c.status != 0 && (verdict != policy.Stop || x.Problem == nil || x.Problem.Status != c.status || x.Problem.Code != c.code) {
					t.Errorf("%v, %v", verdict, x.Problem)
				}
				if strings.Join(spared, " ") != c.tell {
					t.Errorf("spared by %q, want %q", spared, c.tell)
				}
				if x.Request.Header.Get("X-User") != "" {
					t.Error("what only the service may say goes on from the client")
				}
			})
		})
	}
}

// A client that leaves, or a deadline of the route, ends the asking.
func TestNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var spared []string
		start := time.Now()
		s := newStep(t, &service{answer: func(ctx context.Context) (*Verdict, error) {
			<-ctx.Done()
			return nil, Silent(ctx.Err())
		}}, Terms{Timeout: time.Minute, FailOpen: true}, &spared)
		x := newExchange(t)
		go func() {
			time.Sleep(time.Second)
			x.Cancel(exchange.ErrClientGone)
		}()
		if v := s.Request(x); v != policy.Stop || x.Problem.Status != exchange.StatusClientGone || time.Since(start) != time.Second || spared != nil {
			t.Errorf("%v, %v after %v", v, x.Problem, time.Since(start))
		}
	})
}

// A service changes what it may, and nothing else.
func TestRestrictions(t *testing.T) {
	var spared []string
	field := func(name, value string) exchange.Field { return exchange.Field{Name: name, Value: value} }
	v := Verdict{
		Allow: true,
		Request: []exchange.Field{
			field("x-user", "ada"), field("X-Other", "x"), field("X-Forwarded-For", "1.2.3.4"), field("X-User", "a\r\nb: c"), field("Content-Length", "0"),
			field("Authorization", "Bearer new"),
		},
		Remove: []string{"X-Secret", "Host", "X-Forwarded-For", "Transfer-Encoding", "no name"},
		Answer: []exchange.Field{field("X-Decision", "yes"), field("Set-Cookie", "a=b"), field("X-Decision", "a\x00")},
	}
	srv := &service{answer: says(v)}
	s := newStep(t, srv, Terms{Sets: policy.StringList{"X-User", "authorization"}, Answers: policy.StringList{"X-Decision"}, Headers: policy.StringList{"X-Secret", "Cookie"}}, &spared)
	x := newExchange(t, "X-USER", "eve", "X-Secret", "1", "x-secret", "2", "Cookie", "a=1", "cookie", "b=2", "X-Forwarded-For", "192.0.2.1", "Authorization", "mine")
	if s.Request(x) != policy.Next {
		t.Fatal(x.Problem)
	}
	if got := srv.fields[0]; len(got) != 2 || got["x-secret"] != "1, 2" || got["cookie"] != "a=1; b=2" {
		t.Errorf("the service was shown %v", got)
	}
	var sent []string
	for name, value := range x.Request.Header.All() {
		sent = append(sent, strings.ToLower(name)+"="+value)
	}
	slices.Sort(sent)
	if got := strings.Join(sent, " "); got != "authorization=Bearer new cookie=a=1 cookie=b=2 x-forwarded-for=192.0.2.1 x-user=ada" {
		t.Errorf("what goes on: %s", got)
	}
	if x.Request.Header.Known(exchange.Authorization) != "Bearer new" {
		t.Error("a well-known field is not known")
	}
	s.Response(x)
	if n := x.Response.Header.Len(); n != 1 || x.Response.Header.Get("X-Decision") != "yes" {
		t.Errorf("the client gets %d fields", n)
	}
	for status, want := range map[int]int{0: 403, 101: 403, 200: 403, 204: 403, 304: 403, 600: 403, 302: 302, 401: 401, 503: 503} {
		for _, body := range []string{"", "no"} {
			srv.answer = says(Verdict{Status: status, Body: body, Answer: []exchange.Field{field("X-Why", "because"), field("Connection", "close"), field("X-Odd", "a\nb")}})
			x := newExchange(t)
			if s.Request(x) != policy.Stop {
				t.Fatal("it passes")
			}
			if body == "" {
				x.Render()
			}
			if x.Response.Status != want || x.Response.Header.Get("X-Why") != "because" || x.Response.Header.Get("Connection")+x.Response.Header.Get("X-Odd") != "" {
				t.Errorf("status %d with body %q: %d", status, body, x.Response.Status)
			}
		}
	}
}

func TestRemembered(t *testing.T) {
	var spared []string
	srv := &service{}
	n := 0
	verdict := Verdict{Allow: true}
	srv.answer = func(ctx context.Context) (*Verdict, error) {
		n++
		return says(verdict)(ctx)
	}
	s := newStep(t, srv, Terms{Headers: policy.StringList{"X-Token"}, CacheTTL: time.Minute, CacheEntries: 100}, &spared)
	ask := func(path, token string, want int) {
		t.Helper()
		n = 0
		for range 2 {
			x := newExchange(t, "X-Token", token, "X-Not-Shown", fmt.Sprint(n))
			x.Request.Path = path
			s.Request(x)
		}
		if n != want {
			t.Errorf("%s %s: asked %d times, want %d", path, token, n, want)
		}
	}
	ask("/a", "1", 1)
	ask("/a", "2", 1)
	ask("/b", "1", 1)
	ask("/a", "1", 0)
	verdict = Verdict{Status: 403, Body: strings.Repeat("x", largestKept+1)}
	ask("/large", "1", 2)
	verdict = Verdict{Status: 403, Body: strings.Repeat("x", largestKept)}
	ask("/fits", "1", 1)
	srv.answer = func(context.Context) (*Verdict, error) { n++; return nil, errors.New("odd") }
	ask("/fails", "1", 2)
}

func TestTerms(t *testing.T) {
	for want, terms := range map[string]Terms{
		`sets[0]: "X-Forwarded-Client-Cert" is asserted`: {Sets: policy.StringList{"X-Forwarded-Client-Cert"}},
		`sets[0]: "Client-Cert" is asserted`:             {Sets: policy.StringList{"Client-Cert"}},
		`sets[1]: "forwarded" is asserted`:               {Sets: policy.StringList{"X-User", "forwarded"}},
		`answers[0]: "X-Real-IP" is asserted`:            {Answers: policy.StringList{"X-Real-IP"}},
		`headers[0]: "a b" is not a field name`:          {Headers: policy.StringList{"a b"}},
		`sets[0]: "Content-Length" is set by`:            {Sets: policy.StringList{"Content-Length"}},
		`cache_ttl: a decision made from all`:            {CacheTTL: time.Second},
	} {
		_, err := New(&policy.Env{Name: "test", Log: slog.New(slog.DiscardHandler), Slots: new(policy.Slots)}, terms, nil)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := New(&policy.Env{Name: "test", Log: slog.New(slog.DiscardHandler), Slots: new(policy.Slots)}, Terms{Headers: policy.StringList{"X-Forwarded-For"}}, nil); err != nil {
		t.Errorf("a field that the gateway asserts is not shown: %v", err)
	}
}
