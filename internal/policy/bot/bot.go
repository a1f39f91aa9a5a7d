// Package bot is the policy that refuses clients which do not even pretend
// well: those without a User-Agent, scanners that name themselves, and programs
// that call themselves a browser and do not behave like one. It owns cheap
// signs only, and grants nothing: no User-Agent is a reason to let a request
// pass another policy.
package bot

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "bot".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "bot", Stage: policy.Edge,
		New: func() policy.Config {
			return &Config{RequireUserAgent: true, LongestUserAgent: 512, Scanners: true, Browsers: true}
		},
		Doc: "Refuses clients by their User-Agent and by fields that do not go together.",
	}
}

// Config says which signs count.
type Config struct {
	// Refuse requests without a User-Agent, or with several.
	RequireUserAgent bool `yaml:"require_user_agent"`
	// Longest User-Agent in bytes.
	LongestUserAgent int `yaml:"longest_user_agent" min:"1" max:"8192"`
	// Refuse well-known scanners of vulnerabilities that name themselves.
	Scanners bool `yaml:"scanners"`
	// Refuse what calls itself a browser and lacks the fields that every browser sends.
	Browsers bool `yaml:"browsers"`
	// Words that no User-Agent may contain, compared without case.
	Deny policy.StringList `yaml:"deny" example:"curl"`
	// Regular expression (RE2) that no User-Agent may match anywhere.
	DenyRegex string `yaml:"deny_regex" example:"(?i)^(java|python)/"`
	// Only log what would be refused.
	DryRun bool `yaml:"dry_run"`
}

// scanners name themselves so where nobody changed their settings.
func scanners() []string {
	return []string{
		"sqlmap", "nikto", "nuclei", "masscan", "zgrab", "wpscan", "dirbuster", "gobuster", "feroxbuster", "acunetix",
		"nessus", "openvas", "netsparker", "fuzz faster", "havij", "arachni", "jorgee", "zmeu", "w3af", "whatweb",
	}
}

// Compile checks the words and compiles the expression.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	g := &guard{require: c.RequireUserAgent, longest: c.LongestUserAgent, browsers: c.Browsers}
	if c.DryRun {
		g.tell = policy.NewTeller(env)
	}
	var faults []error
	for i, w := range c.Deny {
		if strings.TrimSpace(w) == "" {
			faults = append(faults, &policy.Fault{Field: fmt.Sprintf("deny[%d]", i), Text: "an empty word is in every User-Agent", Hint: "remove it"})
		}
		g.words = append(g.words, strings.ToLower(w))
	}
	if c.Scanners {
		g.words = append(g.words, scanners()...)
	}
	if c.DenyRegex != "" {
		re, err := regexp.Compile(c.DenyRegex)
		if err != nil {
			faults = append(faults, &policy.Fault{Field: "deny_regex", Text: fmt.Sprintf("%q is not a regular expression: %v", c.DenyRegex, err), Hint: "the syntax is RE2"})
		} else if re.MatchString("") {
			faults = append(faults, &policy.Fault{Field: "deny_regex", Text: fmt.Sprintf("%q matches everything", c.DenyRegex)})
		}
		g.regex = re
	}
	return g, errors.Join(faults...)
}

var refused = exchange.Problem{
	Status: 403, Code: "bot_refused", Side: exchange.SideClient,
	Detail: "Requests of this program are not taken.",
}

var _ policy.OnRequest = (*guard)(nil)

type guard struct {
	require  bool
	longest  int
	words    []string // lower case
	regex    *regexp.Regexp
	browsers bool
	tell     *policy.Teller // of a dry run
}

func (g *guard) Request(x *exchange.Exchange) policy.Verdict {
	sign := g.sign(&x.Request.Header)
	if sign == nil {
		return policy.Next
	}
	if g.tell != nil {
		g.tell.Spared(policy.DryRun, "a request of a bot was let through by dry_run", "request_id", x.RequestID(), "reason", sign)
		return policy.Next
	}
	x.Fail(refused.With(sign))
	return policy.Stop
}

var (
	errMissing = errors.New("no user-agent")
	errSeveral = errors.New("several user-agents")
	errLong    = errors.New("the user-agent is too long")
	errDenied  = errors.New("the user-agent is denied")
	errOdd     = errors.New("a browser that does not send what browsers send")
)

// sign returns what speaks against a client, nil when nothing does. Every line
// is looked at: a service may read any of them.
func (g *guard) sign(h *exchange.Header) error {
	agent := h.Known(exchange.UserAgent)
	switch {
	case agent == "" && g.require:
		return errMissing
	case g.require && h.Count(exchange.UserAgent) > 1:
		return errSeveral
	case !h.Has(exchange.UserAgent):
		return nil
	}
	for line := range h.Values("User-Agent") {
		if sign := g.line(line); sign != nil {
			return sign
		}
	}
	// Every browser since a decade sends these two with every request that it
	// makes for a page.
	if g.browsers && strings.HasPrefix(agent, "Mozilla/5.0 (") && strings.Contains(agent, "AppleWebKit/") &&
		(!h.Has(exchange.Accept) || !h.Has(exchange.AcceptEncoding)) {
		return errOdd
	}
	return nil
}

func (g *guard) line(agent string) error {
	switch {
	case len(agent) > g.longest:
		return errLong
	case g.regex != nil && g.regex.MatchString(agent):
		return errDenied
	}
	for _, w := range g.words {
		if contains(agent, w) {
			return errDenied
		}
	}
	return nil
}

// contains looks for a word in lower case without making a copy of s in it.
func contains(s, word string) bool {
	for i := 0; i+len(word) <= len(s); i++ {
		if exchange.EqualFold(s[i:i+len(word)], word) {
			return true
		}
	}
	return false
}
