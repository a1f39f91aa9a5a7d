package exchange

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// read reads a body to its end.
func read(t *testing.T, b Body) string {
	t.Helper()
	var out strings.Builder
	for {
		p, err := b.Next()
		out.Write(p)
		if err != nil {
			return out.String()
		}
	}
}

func TestRender(t *testing.T) {
	p := &Problem{
		Status: 429, Code: "rate_limited", Detail: `Too <many> "requests".`, Side: SideClient, Retry: 1500 * time.Millisecond,
		Cause:  errors.New("bucket of 10.0.0.1 is empty"),
		Fields: []Field{{Name: "Allow", Value: "GET", Known: Allow}}, Close: true,
	}
	for _, c := range []struct{ accept, kind string }{
		{"", typeProblem},
		{"*/*", typeProblem},
		{"application/json", typeProblem},
		{"application/*;q=0.5, text/html", typeProblem},
		{"image/png", typeProblem},
		{"text/html,application/xhtml+xml,*/*;q=0.8", typeHTML},
		{"TEXT/HTML ;q=0.1, application/json", typeHTML},
		{"image/png, text/html", typeHTML},
		{"text/plain", typeText},
		{"text/*", typeText},
		{",,;, text/plain", typeText},
	} {
		x := Get()
		if c.accept != "" {
			x.Request.Header.Add("accept", c.accept)
		}
		x.Response.Header.Add("X-Before", "1")
		x.Response.Status = 200
		x.SetRequestID(`id<&">`)
		x.Fail(p)
		x.Render()
		r := &x.Response
		body := read(t, r.Body)
		if r.Status != 429 || !r.Close || !r.Local || r.Length != int64(len(body)) {
			t.Errorf("%q: status %d, close %v, local %v, length %d of %d", c.accept, r.Status, r.Close, r.Local, r.Length, len(body))
		}
		want := "Retry-After: 2\nAllow: GET\nCache-Control: no-store\nContent-Type: " + c.kind
		if got := lines(&r.Header); got != want {
			t.Errorf("%q:\n%s\nwant\n%s", c.accept, got, want)
		}
		if strings.Contains(body, "10.0.0.1") || !strings.Contains(body, "rate_limited") || !strings.Contains(body, "Too Many Requests") {
			t.Errorf("%q: %s", c.accept, body)
		}
		switch c.kind {
		case typeProblem:
			var m map[string]any
			if err := json.Unmarshal([]byte(body), &m); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			for key, want := range map[string]any{
				"type": "about:blank", "title": "Too Many Requests", "status": 429.0, "code": "rate_limited",
				"detail": p.Detail, "request_id": `id<&">`,
			} {
				if m[key] != want {
					t.Errorf("%s is %v, want %v", key, m[key], want)
				}
			}
		case typeHTML:
			if strings.Contains(body, "<many>") || !strings.Contains(body, "Too &lt;many&gt; &quot;requests&quot;.") || !strings.Contains(body, `id&lt;&amp;&quot;&gt;`) {
				t.Errorf("the page is not escaped: %s", body)
			}
		}
		Put(x)
	}
}

func TestProblemErrors(t *testing.T) {
	cause := errors.New("connection refused")
	plain := &Problem{Code: "c", Detail: "D."}
	p := plain.With(cause)
	if plain.Cause != nil || !errors.Is(p, cause) || p.Error() != "c: D.: connection refused" || plain.Error() != "c: D." {
		t.Errorf("%v, %v", plain, p)
	}
	for side, want := range map[Side]string{SideClient: "client", SideGateway: "gateway", SideUpstream: "upstream"} {
		if side.String() != want {
			t.Errorf("side %d is %v", side, side)
		}
	}
}

func TestFail(t *testing.T) {
	x := Get()
	defer Put(x)
	first, second, gone := &Problem{Status: 502}, &Problem{Status: 500}, &Problem{Status: StatusClientGone}
	x.Fail(first)
	if x.Fail(second); x.Problem != first {
		t.Error("a later problem took the place of the first one")
	}
	if x.Fail(gone); x.Problem != gone {
		t.Error("a client that is gone does not count")
	}
}

func TestStatusText(t *testing.T) {
	for status, want := range map[int]string{
		200: "OK", 404: "Not Found", 499: "Client Closed Request", 199: "Informational", 299: "Success", 399: "Redirection", 498: "Client Error", 599: "Server Error",
	} {
		if got := StatusText(status); got != want {
			t.Errorf("%d is %q, want %q", status, got, want)
		}
	}
}

// What AppendJSONString writes is JSON of the same text, has no byte that a
// terminal or a line-based reader could trip over, and is valid UTF-8.
func FuzzJSONString(f *testing.F) {
	for _, s := range []string{"", "plain", `a"b\c`, "a\nb\rc\td\x00\x1b[31m\x7f", "ä€𝄞", "\xff\xc3", "\u0085\u2028\u2029", "\xed\xa0\x80", "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := AppendJSONString([]byte("x"), s)
		if out[0] != 'x' {
			t.Fatal("what stood before is gone")
		}
		out = out[1:]
		var back string
		if err := json.Unmarshal(out, &back); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); utf8.ValidString(s) && back != want {
			t.Errorf("%q comes back as %q", s, back)
		}
		if !utf8.Valid(out) {
			t.Errorf("%q is not UTF-8", out)
		}
		for _, r := range string(out) {
			if unicode.IsControl(r) || r == 0x2028 || r == 0x2029 {
				t.Errorf("%q holds %U", out, r)
			}
		}
	})
}

// A run of invalid bytes has one mark each, as encoding/json has it.
func TestJSONInvalid(t *testing.T) {
	if got := string(AppendJSONString(nil, "a\xff\xfeb")); got != `"a\ufffd\ufffdb"` {
		t.Errorf("%s", got)
	}
}

func TestRenderAllocations(t *testing.T) {
	x := Get()
	defer Put(x)
	x.SetRequestID("id")
	x.Fail(&Problem{Status: 404, Code: "c", Detail: "D."})
	x.Render()
	if n := testing.AllocsPerRun(100, x.Render); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
