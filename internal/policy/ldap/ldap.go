// Package ldap is the policy that knows people by user name and password in a
// directory (LDAP, RFC 4511). It owns how somebody is found there; the directory
// decides whether the password is right.
package ldap

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	ldap "github.com/go-ldap/ldap/v3"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "ldap".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "ldap", Stage: policy.Identify,
		New: func() policy.Config {
			return &Config{
				Realm: "gatehouse", Attempts: identify.DefaultAttempts(), Connection: fetch.Default(),
				UserFilter: "(uid={username})", Remember: policy.Duration(time.Minute), Cache: 10_000, Connections: 8,
			}
		},
		Doc: "Identifies people by user name and password in a directory (LDAP).",
	}
}

// Config says where people are found.
type Config struct {
	// URL of the directory: ldaps://host, or ldap://host, which is secured by start_tls.
	URL string `yaml:"url" required:"true" example:"ldaps://ldap.example.com"`
	// Whether a connection by ldap:// is secured before anything is said. Off is for directories on this machine, and where connection.plain says so.
	StartTLS bool `yaml:"start_tls"`
	// Entry that the gateway looks people up as. Default: nobody in particular.
	BindDN string `yaml:"bind_dn" example:"cn=gatehouse,dc=example,dc=com"`
	// The password of that entry.
	BindPassword policy.Secret `yaml:"bind_password"`
	// Entry below which people are.
	BaseDN string `yaml:"base_dn" required:"true" example:"ou=people,dc=example,dc=com"`
	// How somebody is found: {username} stands for the name that was given. It has to find exactly one entry.
	UserFilter string `yaml:"user_filter"`
	// Attribute of the entry that names the person to services and in logs, however the name was typed. Default: the first attribute that user_filter compares with {username}.
	SubjectAttribute string `yaml:"subject_attribute" example:"uid"`
	// Attribute of the entry that names the consumer, for people that no consumer has as a credential. An entry without it belongs to no consumer; with a name that is not known the request is refused.
	ConsumerAttribute string `yaml:"consumer_attribute" example:"businessCategory"`
	// Whether only people who belong to a consumer may come in. By default whoever the directory knows may.
	ConsumersOnly bool `yaml:"consumers_only"`
	// Attribute of the entry that lists groups, which are added to those of the consumer; of names with parts the first part counts.
	GroupAttribute string `yaml:"group_attribute" example:"memberOf"`
	// Attributes of the entry that become claims.
	Attributes policy.StringList `yaml:"attributes" example:"mail"`
	// How long a password that was right is taken without asking again. 0 asks every time.
	Remember policy.Duration `yaml:"remember" max:"1h"`
	// Most people whose passwords are remembered.
	Cache int `yaml:"cache" min:"1" max:"1000000"`
	// Most connections to the directory at once; requests beyond them wait.
	Connections int `yaml:"connections" min:"1" max:"256"`
	// How the directory is reached. "timeout" is for all that is asked for one password, and "max_body" for all that is answered.
	Connection fetch.Settings `yaml:"connection"`

	// Whether the service sees user name and password. By default they are taken out of the request.
	Forward bool `yaml:"forward"`
	// What the password is good for, which browsers show when they ask for it.
	Realm string `yaml:"realm"`
	// Whether requests without a password go on, as nobody. A wrong one is refused all the same.
	Optional bool `yaml:"optional"`
	// Consumer that requests without a password belong to. A wrong one is refused all the same.
	Anonymous string `yaml:"anonymous" example:"guest"`
	// Fields that tell the service who asks, by name: "consumer", "subject", "method", "credential", "groups", "scopes", "labels.NAME" or "claims.NAME". Fields of these names that a client sends are removed.
	Headers map[string]string `yaml:"headers"`
	// Limits on guessing.
	Attempts identify.Attempts `yaml:"attempts"`
}

const placeholder = "{username}"

// compared finds the attributes that a filter compares with the name.
var compared = regexp.MustCompile(`\(\s*([A-Za-z][A-Za-z0-9-]*)\s*=\{username\}\)`)

// consumers is what the policy needs of the gateway, under the name
// "consumers".
type consumers interface {
	identify.Names
	// Person identifies the consumer of somebody in a directory, and tells
	// whether there is one.
	Person(name string, who *exchange.Who) (known bool, err error)
}

// Compile checks the settings. It asks nobody.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	guard := identify.KeptGuard(env, c.Attempts)
	m := &method{config: c, guard: guard, place: identify.Place{Header: "Authorization", Scheme: "Basic"}}
	faults := m.place.Compile("header", "query", "cookie")
	faults = append(faults, c.check()...)
	m.consumers, _ = env.Service("consumers").(consumers)
	if m.consumers == nil && (c.ConsumersOnly || c.ConsumerAttribute != "") {
		faults = append(faults, errors.New("there are no consumers to identify"))
	}
	if m.subject = c.SubjectAttribute; m.subject == "" {
		found := compared.FindStringSubmatch(c.UserFilter)
		if found == nil {
			faults = append(faults, &policy.Fault{Field: "subject_attribute", Text: "user_filter does not tell which attribute names people", Hint: "write uid"})
		} else {
			m.subject = found[1]
		}
	}
	var err error
	if m.tls, err = c.Connection.TLS(); err != nil {
		faults = append(faults, identify.Within("connection", err))
	}
	if u, err := url.Parse(c.URL); err == nil {
		if m.tls.ServerName == "" {
			m.tls.ServerName = u.Hostname()
		}
		m.secure = u.Scheme == "ldaps"
		port := u.Port()
		switch {
		case port != "":
		case m.secure:
			port = ldap.DefaultLdapsPort
		default:
			port = ldap.DefaultLdapPort
		}
		m.address = net.JoinHostPort(u.Hostname(), port)
	}
	step, err := identify.New(env, m, guard, identify.Options{Optional: c.Optional, Anonymous: c.Anonymous, Headers: c.Headers})
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	key := identify.Fingerprint(c, c.BindPassword.Fingerprint())
	m.seats = env.Keep("seats "+key, func() any { return make(chan struct{}, c.Connections) }).(chan struct{})
	m.right = env.Keep("right "+key, func() any { return identify.NewTokens[person](c.Cache) }).(*identify.Tokens[person])
	m.key = env.Keep("key", func() any {
		b := make([]byte, 32)
		rand.Read(b)
		return b
	}).([]byte)
	return step, nil
}

func (c *Config) check() (faults []error) {
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: field, Text: text, Hint: hint})
	}
	if f := identify.CheckRealm(c.Realm); f != nil {
		faults = append(faults, f)
	}
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "ldap" && u.Scheme != "ldaps" || u.Path != "" || u.User != nil || u.RawQuery != "":
		fault("url", fmt.Sprintf("%q is no URL of a directory", c.URL), "write ldaps://host")
	case u.Scheme == "ldap" && !c.StartTLS && c.Connection.Check("http://"+u.Host) != nil:
		fault("url", fmt.Sprintf("%q: passwords could be read on their way", c.URL), `use ldaps://, or "start_tls: true"`)
	case u.Scheme == "ldaps" && c.StartTLS:
		fault("start_tls", "a connection by ldaps:// is secured from the beginning", "remove it")
	}
	if strings.Count(c.UserFilter, placeholder) < 1 {
		fault("user_filter", fmt.Sprintf("%q has no %s", c.UserFilter, placeholder), "write (uid="+placeholder+")")
	} else if _, err := ldap.CompileFilter(strings.ReplaceAll(c.UserFilter, placeholder, "x")); err != nil {
		fault("user_filter", fmt.Sprintf("%q is no filter: %v", c.UserFilter, err), "write (uid="+placeholder+")")
	}
	for _, dn := range []struct{ key, text string }{{"bind_dn", c.BindDN}, {"base_dn", c.BaseDN}} {
		if _, err := ldap.ParseDN(dn.text); err != nil {
			fault(dn.key, fmt.Sprintf("%q is no name of an entry: %v", dn.text, err), "")
		}
	}
	if (c.BindDN != "") != c.BindPassword.IsSet() {
		fault("bind_dn", "bind_dn and bind_password belong together", "give both, or none of them")
	}
	return faults
}
