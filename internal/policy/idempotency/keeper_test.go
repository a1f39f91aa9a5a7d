package idempotency

import (
	"io"
	"log/slog"
	"testing"

	"gatehouse.dev/gatehouse/internal/durable"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// local returns a keeper that keeps its records in a file of its own, as the
// policy of a route.
func local(t *testing.T) func(at string) *keeper {
	t.Helper()
	s, err := durable.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return func(at string) *keeper {
		c := Kind().New().(*Config)
		c.InFlight = "refuse"
		p, err := c.Compile(&policy.Env{At: at, Slots: new(policy.Slots), Log: slog.New(slog.DiscardHandler), Service: func(string) any { return s }})
		if err != nil {
			t.Fatal(err)
		}
		return p.(*keeper)
	}
}

func post(who exchange.Who) *exchange.Exchange {
	x := exchange.Get()
	x.Client, x.Who = new(exchange.Client), who
	x.Request.Method, x.Request.Path = "POST", "/"
	x.Request.Header.Add("Idempotency-Key", "k")
	return x
}

// TestWhose: a key is that of one caller on one route. Names and subjects are
// never taken for each other.
func TestWhose(t *testing.T) {
	at := local(t)
	for i, c := range []struct {
		at  string
		who exchange.Who
	}{
		{"route a #1", exchange.Who{}},
		{"route b #1", exchange.Who{}},
		{"route a #1", exchange.Who{Consumer: "ann"}},
		{"route a #1", exchange.Who{Consumer: "bob"}},
		{"route a #1", exchange.Who{Consumer: "anonymous"}},
		{"route a #1", exchange.Who{Method: "jwt", Subject: "ann"}},
		{"route a #1", exchange.Who{Method: "mtls", Subject: "ann"}},
	} {
		k := at(c.at)
		if x := post(c.who); k.Request(x) != policy.Next {
			t.Errorf("%d: %+v on %s meets the key of another: %v", i, c.who, c.at, x.Problem)
		}
		if x := post(c.who); k.Request(x) != policy.Stop || x.Problem.Code != "idempotency_in_flight" {
			t.Errorf("%d: %+v on %s does not meet its own key", i, c.who, c.at)
		}
	}
}

// TestTrailer: what comes behind the body is part of the answer.
func TestTrailer(t *testing.T) {
	k := local(t)("route a #1")
	x := post(exchange.Who{})
	k.Request(x)
	x.Times.Sent = exchange.Now()
	x.Response.Status, x.Response.Length = 200, exchange.Unknown
	x.Response.Body = exchange.Bytes([]byte("body"))
	x.Response.Trailer.Add("grpc-status", "7")
	k.Response(x)
	k.Done(x)
	if x.Response.Trailer.Get("grpc-status") != "7" || x.Response.Length != exchange.Unknown {
		t.Errorf("the first answer has %v, %d", x.Response.Trailer, x.Response.Length)
	}
	again := post(exchange.Who{})
	if k.Request(again) != policy.Stop || again.Problem != nil {
		t.Fatalf("%v", again.Problem)
	}
	r := &again.Response
	if p, _ := r.Body.Next(); string(p) != "body" || r.Trailer.Get("grpc-status") != "7" || r.Length != exchange.Unknown {
		t.Errorf("the repetition has %q, %v, %d", p, r.Trailer, r.Length)
	}
	if _, err := r.Body.Next(); err != io.EOF {
		t.Errorf("%v", err)
	}
}

// TestOldAnswers: what was kept before answers had trailers is still read.
func TestOldAnswers(t *testing.T) {
	r := new(exchange.Response)
	r.Reset()
	if !readAnswer([]byte("\x01\x00\xc9\x00\x01\x00\x08Location\x00\x02/7body"), r) || r.Status != 201 || r.Header.Get("Location") != "/7" || r.Length != 4 {
		t.Errorf("%+v", r)
	}
}

// TestPanics: a request that ended by a panic is not thought to be under way,
// and may be sent again only if the service has not seen it.
func TestPanics(t *testing.T) {
	for sent, want := range map[int64]string{0: "", 1: "idempotency_unknown"} {
		k := local(t)("route a #1")
		x := post(exchange.Who{})
		k.Request(x)
		x.Times.Sent = exchange.Now() * sent
		x.Fail(&exchange.Problem{Status: 500, Code: "internal_error"})
		k.Response(x)
		k.Done(x)
		again, got := post(exchange.Who{}), ""
		if k.Request(again); again.Problem != nil {
			got = again.Problem.Code
		}
		if got != want {
			t.Errorf("sent %d: %q", sent, got)
		}
	}
}
