// Package securityheaders is the policy that tells browsers to be careful with
// an answer. It owns defaults that break no page and refuses values that a
// browser would ignore.
package securityheaders

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "security_headers".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "security_headers", Stage: policy.Edge,
		New: func() policy.Config {
			return &Config{
				HSTS:        HSTS{MaxAge: policy.Duration(365 * 24 * time.Hour)},
				ContentType: "nosniff", Frames: "DENY", Referrer: "strict-origin-when-cross-origin",
				Remove: policy.StringList{"Server", "X-Powered-By"},
			}
		},
		Doc: "Tells browsers to be careful with answers.",
	}
}

// Config says what answers carry. An empty text leaves a field out.
type Config struct {
	// Strict-Transport-Security, on answers over TLS.
	HSTS HSTS `yaml:"hsts"`
	// X-Content-Type-Options.
	ContentType string `yaml:"content_type_options" enum:"nosniff,"`
	// X-Frame-Options: who may show the page in a frame.
	Frames string `yaml:"frame_options" enum:"DENY,SAMEORIGIN,"`
	// Referrer-Policy: what other sites are told of the page a visitor came from.
	Referrer string `yaml:"referrer_policy" enum:"no-referrer,no-referrer-when-downgrade,origin,origin-when-cross-origin,same-origin,strict-origin,strict-origin-when-cross-origin,"`
	// Content-Security-Policy: what the page may load and who may frame it.
	CSP string `yaml:"content_security_policy" example:"default-src 'self'; frame-ancestors 'none'"`
	// Only report what Content-Security-Policy would stop.
	CSPReportOnly bool `yaml:"content_security_policy_report_only"`
	// Permissions-Policy: which features of the browser the page may use.
	Permissions string `yaml:"permissions_policy" example:"camera=(), geolocation=()"`
	// Cross-Origin-Opener-Policy.
	Opener string `yaml:"cross_origin_opener_policy" enum:"same-origin,same-origin-allow-popups,noopener-allow-popups,unsafe-none,"`
	// Cross-Origin-Resource-Policy.
	Resource string `yaml:"cross_origin_resource_policy" enum:"same-origin,same-site,cross-origin,"`
	// Cross-Origin-Embedder-Policy.
	Embedder string `yaml:"cross_origin_embedder_policy" enum:"require-corp,credentialless,unsafe-none,"`
	// Replace what the service says itself. Otherwise its own word stands, but for HSTS.
	Override bool `yaml:"override"`
	// Fields that tell strangers what the service runs on.
	Remove policy.StringList `yaml:"remove"`
}

// HSTS is Strict-Transport-Security (RFC 6797).
type HSTS struct {
	// How long browsers insist on TLS. 0 leaves the field out.
	MaxAge policy.Duration `yaml:"max_age" max:"87600h"`
	// Hosts below this one as well. They have to speak TLS, all of them.
	Subdomains bool `yaml:"subdomains"`
	// Ask to be built into browsers. That is not undone soon.
	Preload bool `yaml:"preload"`
}

// Compile renders the fields.
func (c *Config) Compile(*policy.Env) (policy.Policy, error) {
	m := &marker{override: c.Override}
	var faults []error
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: field, Text: text, Hint: hint})
	}
	add := func(key, name, value string) {
		if value == "" {
			return
		}
		if f := policy.CheckValue(value); f != nil {
			fault(key, f.Text, f.Hint)
			return
		}
		m.fields = append(m.fields, exchange.Field{Name: name, Value: value, Known: exchange.LookupKnown(name)})
	}
	if age := c.HSTS.MaxAge.D(); age%time.Second != 0 {
		fault("hsts.max_age", fmt.Sprintf("%s is not a whole number of seconds", c.HSTS.MaxAge), "")
	} else if age > 0 {
		m.hsts = "max-age=" + strconv.FormatInt(int64(age/time.Second), 10)
		if c.HSTS.Subdomains {
			m.hsts += "; includeSubDomains"
		}
		if c.HSTS.Preload {
			m.hsts += "; preload"
		}
		if c.HSTS.Preload && (!c.HSTS.Subdomains || age < 365*24*time.Hour) {
			fault("hsts.preload", "browsers take no host into their lists without subdomains and a year", "set subdomains, and max_age: 8760h or more")
		}
	} else if c.HSTS.Preload || c.HSTS.Subdomains {
		fault("hsts.max_age", "HSTS without a time is none", "set max_age: 8760h, or remove the rest")
	}
	add("content_type_options", "X-Content-Type-Options", c.ContentType)
	add("frame_options", "X-Frame-Options", c.Frames)
	add("referrer_policy", "Referrer-Policy", c.Referrer)
	name := "Content-Security-Policy"
	if c.CSPReportOnly {
		name += "-Report-Only"
		if c.CSP == "" {
			fault("content_security_policy_report_only", "there is no content_security_policy to report on", "write one")
		}
	}
	if f := checkCSP(c.CSP); f != nil {
		fault("content_security_policy", f.Text, f.Hint)
	}
	add("content_security_policy", name, c.CSP)
	add("permissions_policy", "Permissions-Policy", c.Permissions)
	add("cross_origin_opener_policy", "Cross-Origin-Opener-Policy", c.Opener)
	add("cross_origin_resource_policy", "Cross-Origin-Resource-Policy", c.Resource)
	add("cross_origin_embedder_policy", "Cross-Origin-Embedder-Policy", c.Embedder)
	for i, name := range c.Remove {
		if f := policy.CheckField(name); f != nil {
			fault(fmt.Sprintf("remove[%d]", i), f.Text, f.Hint)
		}
		m.remove = append(m.remove, name)
	}
	return m, errors.Join(faults...)
}

// checkCSP refuses keywords without their quotes: a browser takes them for
// host names, and the page breaks or stays open.
func checkCSP(s string) *policy.Fault {
	for directive := range strings.SplitSeq(s, ";") {
		words := strings.Fields(directive)
		for i, w := range words {
			switch bare := strings.Trim(w, "'"); {
			case i == 0:
				continue
			case w == bare && (bare == "self" || bare == "none" || bare == "unsafe-inline" || bare == "unsafe-eval" || bare == "strict-dynamic"):
				return &policy.Fault{Text: fmt.Sprintf("%q stands without its quotes in %q", w, strings.TrimSpace(directive)), Hint: "write '" + w + "'"}
			case w == "'none'" && len(words) > 2:
				return &policy.Fault{Text: fmt.Sprintf("'none' stands beside other sources in %q", strings.TrimSpace(directive)), Hint: "write it alone"}
			}
		}
	}
	return nil
}

var _ policy.OnResponse = (*marker)(nil)

// marker writes the fields.
type marker struct {
	fields   []exchange.Field
	remove   []string
	hsts     string
	override bool
}

func (m *marker) Response(x *exchange.Exchange) {
	h := &x.Response.Header
	for _, name := range m.remove {
		h.Del(name)
	}
	for _, f := range m.fields {
		if m.override {
			h.Set(f.Name, f.Value)
		} else if _, ok := h.Lookup(f.Name); !ok {
			h.Append(f)
		}
	}
	// RFC 6797, section 7.2: never over a plain connection, where anybody
	// could have written it.
	if x.Request.Scheme != "https" {
		h.DelKnown(exchange.StrictTransportSecurity)
	} else if m.hsts != "" {
		h.SetKnown(exchange.StrictTransportSecurity, m.hsts)
	}
}
