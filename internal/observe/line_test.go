package observe

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// fixed is a clock that shows a sample's start as a known time.
func fixed(x *exchange.Exchange) *lineClock {
	at := time.Date(2026, 3, 9, 8, 7, 6, 5_000_000, time.UTC)
	return &lineClock{offset: at.UnixNano() - x.Times.Start}
}

func TestLines(t *testing.T) {
	refused := exchange.Get()
	refused.Client = &exchange.Client{Listener: "public"}
	refused.SetRequestID("x")
	refused.Times.Start = exchange.Now()
	refused.Times.End = refused.Times.Start + 1_500_000
	refused.Response.Status = 400
	refused.Problem = &exchange.Problem{Status: 400, Code: "malformed_request", Side: exchange.SideClient}

	nasty := sample()
	nasty.Request.RawPath = "/a\"b\\c\x1b[31m\u009b\xff\r\n?q"
	nasty.Request.Header.SetKnown(exchange.UserAgent, "x\" 200 1\x00")
	nasty.Request.Header.SetKnown(exchange.Referer, "https://user:pass@host/")
	nasty.Who.Consumer = ""

	for _, c := range []struct {
		name     string
		x        *exchange.Exchange
		json     string
		combined string
	}{
		{
			"well", sample(),
			`{"time":"2026-03-09T08:07:06.005Z","request_id":"4f1d2c3b4a59687706152433425160ff","client":"203.0.113.7","listener":"public","method":"GET","host":"shop.example.com","path":"/products/%41","proto":"HTTP/1.1","status":200,"route":"products","consumer":"mobile-app","upstream":"products","endpoint":"10.0.0.11:8080","attempts":1,"upstream_duration":0.007000,"bytes_in":17,"bytes_out":488,"duration":0.012345,"user_agent":"Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0","referer":"https://shop.example.com/cart"}`,
			`203.0.113.7 - mobile-app [09/Mar/2026:08:07:06 +0000] "GET /products/%41 HTTP/1.1" 200 488 "https://shop.example.com/cart" "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0"`,
		},
		{
			"failed", failing(502, exchange.SideUpstream),
			`{"time":"2026-03-09T08:07:06.005Z","request_id":"4f1d2c3b4a59687706152433425160ff","client":"203.0.113.7","listener":"public","method":"GET","host":"shop.example.com","path":"/products/%41","proto":"HTTP/1.1","status":502,"code":"upstream_reset","side":"upstream","cause":"read: connection reset\u001b[31m","route":"products","consumer":"mobile-app","upstream":"products","endpoint":"10.0.0.11:8080","attempts":1,"upstream_duration":0.007000,"bytes_in":17,"bytes_out":488,"duration":0.012345,"user_agent":"Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0","referer":"https://shop.example.com/cart"}`,
			`203.0.113.7 - mobile-app [09/Mar/2026:08:07:06 +0000] "GET /products/%41 HTTP/1.1" 502 488 "https://shop.example.com/cart" "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0"`,
		},
		{
			"refused before it could be read, on a unix socket", refused,
			`{"time":"2026-03-09T08:07:06.005Z","request_id":"x","listener":"public","status":400,"code":"malformed_request","side":"client","bytes_in":0,"bytes_out":0,"duration":0.001500}`,
			`- - - [09/Mar/2026:08:07:06 +0000] "-" 400 - "-" "-"`,
		},
		{
			"nasty", nasty,
			`{"time":"2026-03-09T08:07:06.005Z","request_id":"4f1d2c3b4a59687706152433425160ff","client":"203.0.113.7","listener":"public","method":"GET","host":"shop.example.com","path":"/a\"b\\c\u001b[31m\u009b\ufffd\r\n","proto":"HTTP/1.1","status":200,"route":"products","upstream":"products","endpoint":"10.0.0.11:8080","attempts":1,"upstream_duration":0.007000,"bytes_in":17,"bytes_out":488,"duration":0.012345,"user_agent":"x\" 200 1\u0000"}`,
			`203.0.113.7 - - [09/Mar/2026:08:07:06 +0000] "GET /a\x22b\x5cc\x1b[31m\xc2\x9b\xff\x0d\x0a HTTP/1.1" 200 488 "-" "x\x22 200 1\x00"`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(appendJSON(nil, c.x, fixed(c.x))); got != c.json+"\n" {
				t.Errorf("json:\n%s\nwant:\n%s", got, c.json)
			}
			if got := string(appendCombined(nil, c.x, fixed(c.x))); got != c.combined+"\n" {
				t.Errorf("combined:\n%s\nwant:\n%s", got, c.combined)
			}
		})
	}
}

func TestLinesHoldNoSecret(t *testing.T) {
	x := sample()
	for _, line := range []string{string(appendJSON(nil, x, fixed(x))), string(appendCombined(nil, x, fixed(x)))} {
		if strings.Contains(line, "s3cret") {
			t.Errorf("a secret is in %s", line)
		}
	}
}

func TestLinesAreBounded(t *testing.T) {
	x := sample()
	long := strings.Repeat("\x80", 1<<16)
	x.Request.RawPath, x.Request.Method, x.Request.Host = long, long, long
	x.Request.Header.SetKnown(exchange.UserAgent, long)
	x.Request.Header.SetKnown(exchange.Referer, long)
	x.SetRequestID(long)
	for _, line := range [][]byte{appendJSON(nil, x, fixed(x)), appendCombined(nil, x, fixed(x))} {
		if len(line) > 64<<10 {
			t.Errorf("a line has %d bytes", len(line))
		}
	}
	if got := cut("aé", 2); got != "a" {
		t.Errorf("a character is cut in two: %q", got)
	}
}

func TestReferer(t *testing.T) {
	for value, want := range map[string]string{
		"":                              "",
		"https://a.example/b?c=d":       "https://a.example/b",
		"https://a.example#x":           "https://a.example",
		"https://u:p@a.example/b":       "",
		"u:p@a.example":                 "",
		"//u@a/":                        "",
		"https://a.example/@user":       "https://a.example/@user",
		"https://a.example?x=https://@": "https://a.example",
	} {
		x := exchange.Get()
		x.Request.Header.AddKnown(exchange.Referer, value)
		if got := referer(x); got != want {
			t.Errorf("of %q %q is logged, want %q", value, got, want)
		}
	}
}

func TestSeconds(t *testing.T) {
	for ns, want := range map[int64]string{
		0: "0.000000", 999: "0.000000", 1000: "0.000001", 1_234_567_890: "1.234567",
		int64(36 * time.Hour): "129600.000000", 10_000_000: "0.010000",
	} {
		if got := string(appendSeconds(nil, ns)); got != want {
			t.Errorf("%d ns are written %q, want %q", ns, got, want)
		}
	}
}

var combined = regexp.MustCompile(`^\S+ - \S+ \[[^]]+\] "[^"]*" -?[0-9]+ (-|[0-9]+) "[^"]*" "[^"]*"\n$`)

func FuzzLines(f *testing.F) {
	f.Add("/a?b", "curl\x1b\"\\", "https://a/b?c", "h\u2028", "\xc2\x85")
	f.Fuzz(func(t *testing.T, path, agent, from, host, cause string) {
		x := failing(502, exchange.SideUpstream)
		x.Request.RawPath, x.Request.Host, x.Who.Consumer = path, host, "a b"
		x.Request.Header.SetKnown(exchange.UserAgent, agent)
		x.Request.Header.SetKnown(exchange.Referer, from)
		x.Problem = x.Problem.With(textError(cause))
		line := appendJSON(nil, x, fixed(x))
		clean(t, line)
		if bytes.Count(line, []byte("\n")) != 1 || !json.Valid(line) {
			t.Fatalf("%q is not one line of JSON", line)
		}
		line = appendCombined(nil, x, fixed(x))
		clean(t, line)
		if !combined.Match(line) {
			t.Fatalf("%q is not one line of the combined format", line)
		}
	})
}

type textError string

func (e textError) Error() string { return string(e) }

// plain and simple agree on every byte in every place.
func TestPlain(t *testing.T) {
	for n := range 20 {
		for at := range n {
			for c := range 256 {
				b := []byte(strings.Repeat("~", n))
				b[at] = byte(c)
				want := c >= ' ' && c < 0x7f && c != '"' && c != '\\'
				if plain(string(b)) != want || simple(string(b)) != want {
					t.Fatalf("%q is found plain: %v", b, !want)
				}
			}
		}
	}
}

func BenchmarkLine(b *testing.B) {
	x := sample()
	clock := fixed(x)
	buf := make([]byte, 0, 4096)
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = appendJSON(buf[:0], x, clock)
		}
	})
	b.Run("combined", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = appendCombined(buf[:0], x, clock)
		}
	})
}
