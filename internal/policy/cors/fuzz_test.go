package cors

import (
	"net/url"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/policy"
)

// FuzzOrigin looks for an origin that is allowed and is not below the one that
// was meant.
func FuzzOrigin(f *testing.F) {
	c := &Config{Origins: policy.StringList{"https://*.example.com", "https://app.example.org:*"}}
	p, err := c.Compile(nil)
	if err != nil {
		f.Fatal(err)
	}
	a := p.(*answerer)
	f.Add("https://a.example.com")
	f.Add("https://app.example.org:81")
	f.Add("https://evil.com/.example.com")
	f.Add("https://a.example.com:443")
	f.Fuzz(func(t *testing.T, origin string) {
		if !a.allows(origin) {
			return
		}
		u, err := url.Parse(origin)
		if err != nil {
			t.Fatalf("%q is allowed and no URL", origin)
		}
		if host := u.Hostname(); u.Scheme != "https" || u.Path != "" || u.User != nil || host != "app.example.org" && !strings.HasSuffix(host, ".example.com") {
			t.Fatalf("%q is allowed", origin)
		}
	})
}
