package policy_test

import (
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/policy"
)

func TestCheckField(t *testing.T) {
	for _, name := range []string{"X-A", "server", "Cache-Control", "x_y", "Authorization", "!#$%&'*+.^`|~", strings.Repeat("a", 256)} {
		if f := policy.CheckField(name); f != nil {
			t.Errorf("%q: %v", name, f)
		}
	}
	for name, want := range map[string]string{
		"":                       "is not a field name",
		"a b":                    "is not a field name",
		"a:":                     "is not a field name",
		"a\r\nb":                 "is not a field name",
		"ä":                      "is not a field name",
		strings.Repeat("a", 257): "at most 256",
		"HOST":                   "rewrite.host",
		"connection":             "by the gateway alone",
		"Content-Length":         "by the gateway alone",
		"transfer-encoding":      "by the gateway alone",
		"TE":                     "by the gateway alone",
		"Trailer":                "by the gateway alone",
		"Upgrade":                "by the gateway alone",
		"Keep-Alive":             "by the gateway alone",
		"Proxy-Connection":       "by the gateway alone",
		"Expect":                 "by the gateway alone",
		"HTTP2-Settings":         "by the gateway alone",
	} {
		if f := policy.CheckField(name); f == nil || !strings.Contains(f.Error(), want) {
			t.Errorf("%q: %v, want %q", name, f, want)
		}
	}
}

func TestCheckValue(t *testing.T) {
	for _, value := range []string{"", "a", "a b", "a\tb", "größer", strings.Repeat("a", 8<<10)} {
		if f := policy.CheckValue(value); f != nil {
			t.Errorf("%q: %v", value, f)
		}
	}
	for value, want := range map[string]string{
		"a\nb":                       `'\n'`,
		"a\rb":                       `'\r'`,
		"a\x00":                      `'\x00'`,
		"\x7f":                       `'\x7f'`,
		" a":                         "white space",
		"a\t":                        "white space",
		strings.Repeat("a", 8<<10+1): "at most 8192",
	} {
		if f := policy.CheckValue(value); f == nil || !strings.Contains(f.Error(), want) {
			t.Errorf("%q: %v, want %q", value, f, want)
		}
	}
}
