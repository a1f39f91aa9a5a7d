// Package gatehouse_test keeps the architecture true: who may import whom, and
// how long a file or function may be.
package gatehouse_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rooms says which packages may import which others of ours. Each rule is a
// line "room < the rooms it may import", with its reason above. "!path" forbids
// a package of the standard library, "*" allows every room.
//
// The rules are the design, not a description of the code: DO NOT EDIT THEM TO
// MAKE A BUILD PASS. A room that seems to need another one usually needs a
// small interface that it declares itself. A rule changes together with
// docs/architecture.md, and with the reason beside it.
const rooms = `
# What everybody shares can know nobody. net/http would bring a second idea of
# what a header and a body are.
exchange < !net/http

# Sockets know nothing of what runs over them.
wire < !net/http

# A protocol turns bytes into exchanges and back. It must be readable, and
# fuzzable, without the rest; net/http is its oracle in tests.
h1 < exchange wire !net/http

# The other protocol that we speak ourselves, by the same rule. The Framer and
# HPACK bring net/http along as a dependency of their package; nothing of it is
# used.
h2 < exchange wire !net/http

# Support for tests of h1 and of whoever speaks it.
h1/* < exchange wire h1

# The contract is what a policy may know of the gateway, so it knows only what
# both share. What a policy needs else is an interface that it declares.
policy < exchange

# A policy stands alone: it can be read, tested and removed alone.
policy/* < policy exchange

# Limits share their arithmetic, and what they count by; rules are expressions.
# These rooms are small libraries that know no policy.
policy/ratelimit < policy exchange limit key
policy/concurrency < policy exchange limit key
policy/spike < policy exchange limit key
policy/quota < policy exchange limit key
policy/idempotency < policy exchange key replay
policy/authorize < policy exchange expr
policy/extauthz < policy exchange decision fetch
policy/opa < policy exchange decision fetch rego

# Ways to prove who asks have much in common, and it must be the same in all:
# the step, the answers, the limits on guessing, and what tokens are made of.
# These rooms know no policy and keep no settings. Gateways agree through replay
# on which of them renews a session of oidc.
policy/allof < policy identify
policy/anyof < policy identify
policy/apikey < policy exchange identify
policy/basic < policy exchange identify password
policy/forwardauth < policy exchange identify fetch
policy/introspect < policy exchange identify jose fetch
policy/jwt < policy exchange identify jose fetch
policy/ldap < policy exchange identify fetch
policy/mtls < policy exchange identify
policy/oidc < policy exchange identify jose fetch replay
policy/signature < policy exchange identify

# What the gateway signs itself: the keys are written down in one way, wherever
# they sign and wherever they are published.
policy/jwks < policy exchange mint
policy/upstreamauth < policy exchange identify jose fetch mint

# The gateway's own keys, as settings. What is signed with them is the business
# of policies.
mint < policy jose

# What ways to prove who asks have in common. It knows none of them.
identify < policy exchange jose !net/http

# Signed tokens and keys, of whoever's.
jose < !net/http

# Requests that the gateway makes itself: the one place that knows which
# addresses they may go to. Its settings are part of those of policies.
fetch < exchange policy

# The ordered list of kinds, and nothing else.
policy/all < policy policy/*

# The suite and the script harness run policies in a whole gateway.
policy/policytest < exchange policy config consumer gateway observe redis redis/redistest router upstream wire

# The language is plain data. It knows the contract, so that policies are
# decoded by their own structs, and no concrete policy.
config < policy

# Expressions are over exchanges and nothing else; the CEL library stays inside.
expr < exchange

# What several gateways share. It knows how limits are counted and nothing of
# requests.
redis < config limit replay

# Rules in Rego know neither requests nor policies: they turn JSON into JSON.
rego < !net/http

# To have somebody else decide is the same whoever decides: what is shown, what
# no decision means, what a decision may change. It knows no protocol.
decision < policy exchange !net/http

# What outlasts a restart, in one file.
durable < limit replay

# What is kept of a request that may come again.
replay < 

# Real servers for tests.
redis/redistest < 

# Who is counted together is one question with one answer, whatever counts.
key < exchange expr policy

# What tells callers apart, where they are spread over upstreams and over
# endpoints: one language, read in one place. It may be an expression.
share < exchange expr

# Arithmetic and bounded memory: what a limit is, whoever uses it.
limit < 

# The match table is compiled from config and asked about exchanges. A "when"
# is an expression.
router < exchange config expr

# A few bytes that say who the client is: a parser, and nothing that reads.
proxyproto < !net/http

# What leaves the gateway. Routes and policies are not its business: it gets
# an exchange and gives an answer.
upstream < exchange wire h1 h2 proxyproto config observe upstream/* share

# Choosing among endpoints is arithmetic: it is tested and measured alone.
upstream/balance < 

# Judging endpoints and requests is arithmetic over time: it is tested alone,
# under virtual time.
upstream/health < 

# Where endpoints are found: clients of other systems' APIs, which know no
# exchange.
upstream/discover < config

# That files may have changed. What is in them it does not know: the
# configuration and certificates ask it, and know nothing of each other.
watch < 

# Certificates and what is known of clients by them. Who listens, and what runs
# over TLS, is not its business. net/http is there for the ACME library alone.
certs < exchange config watch

# What enters the gateway. It hands exchanges to a function and does not know
# what becomes of them.
front < exchange wire h1 h2 proxyproto config certs observe

# Who may call. Credentials are no part of a snapshot, and how they come with
# a request is the policies' business.
consumer < exchange config password

# Hashes of passwords and what they may cost: needed where they are kept and
# where they are compared.
password < !net/http

# Where config becomes a snapshot, and the only place where both halves meet.
# No protocol and no concrete policy. Callers are dealt to the parts of a split.
gateway < exchange config policy router observe share

# Metrics and logs of what the other rooms tell.
observe < exchange config

# Schema and reference are made from the structs of the language.
schema < config policy

# It shows what others know and never reaches into the data half: what it
# needs of the gateway is an interface that it declares.
admin < config observe

# Sample services are ordinary programs on loopback.
demo < 

# Wiring: the only room that knows all.
app < *

# Flags and commands.
cmd/* < app config schema demo observe

# Files, embedded.
examples < 

# Programs that measure and check from outside use the gateway as anybody would.
test/* < app demo examples
`

// thirdParties says which rooms may import a module that is not ours. What is
// not listed may be imported by none.
const thirdParties = `
# The one way to line and column of every fault; foreign nodes stay inside.
go.yaml.in/yaml < config

# One environment for all expressions; no CEL type leaves it.
cel.dev/cel-go < expr

# Rego's types stay behind a rule that turns JSON into JSON.
github.com/open-policy-agent/opa < rego

# Prometheus types stay behind observe's own.
github.com/prometheus < observe

# Commands and flags.
github.com/spf13/cobra < cmd/*

# The client of Redis and Valkey has one room.
github.com/redis/rueidis < redis

# The file of what outlasts a restart.
go.etcd.io/bbolt < durable

# The protocol of outside authorization, and what carries it.
github.com/envoyproxy/go-control-plane < policy/extauthz
google.golang.org/grpc < policy/extauthz
google.golang.org/protobuf < policy/extauthz

# Reading GeoIP files.
github.com/oschwald/maxminddb-golang < policy/ip

# Watching files is part of the process's life, and of the certificates'.
github.com/fsnotify/fsnotify < watch

# ACME: the library, the parts of it that its interface shows, its log, OCSP
# responses, and updates of name servers. Endpoints found by name are good for
# as long as the name server says, which the system's resolver keeps to itself.
github.com/caddyserver/certmagic < certs
github.com/mholt/acmez < certs
go.uber.org/zap < certs
golang.org/x/crypto < certs password
github.com/miekg/dns < certs upstream/discover

# System calls that package syscall does not have.
golang.org/x/sys < wire front test/*

# The protocol of directories.
github.com/go-ldap/ldap < policy/ldap

# Tests that need a real browser start it in one way.
github.com/chromedp/chromedp < test/*

# Protocol pieces: HPACK, frames, HTTP/3. The list of public suffixes tells a
# wildcard over one's own hosts from one over everybody's. The benchmarks attack
# by frames that no client of net/http sends.
golang.org/x/net < front h2 upstream policy/cors test/*
github.com/quic-go < front h2 upstream
`

// guarded lists the rooms that few may import, whatever their own rule says.
const guarded = `
# A gateway without a demo is still a gateway.
demo < app cmd/* test/*

# Test support must not end up in the binary.
policy/policytest < 
h1/h1test < 
redis/redistest < policy/policytest
`

const module = "gatehouse.dev/gatehouse"

func TestImports(t *testing.T) {
	allowed, modules, few := parseRules(t, rooms), parseRules(t, thirdParties), parseRules(t, guarded)
	used := make(map[string]bool)
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		room := roomOf(filepath.Dir(file))
		rule, name := allowed.find(room)
		if rule == nil {
			t.Errorf("%s: package %q has no rule: a new room comes with its line, and its reason", file, room)
			continue
		}
		used[name] = true
		for _, path := range imports(t, file) {
			switch own, ours := strings.CutPrefix(path, module+"/"); {
			case ours:
				target := roomOf(own)
				if !rule.allows(target) {
					t.Errorf("%s: %q must not import %q: %s", file, room, target, rule.reason)
				}
				if r := few[target]; r != nil && !r.allows(room) {
					t.Errorf("%s: only %q may import %q: %s", file, r.list, target, r.reason)
				}
			case standard(path):
				if rule.forbids(path) {
					t.Errorf("%s: %q must not import %q: %s", file, room, path, rule.reason)
				}
			default:
				if r := modules.prefix(path); r == nil || !r.allows(room) {
					t.Errorf("%s: %q must not import %q: it has no room, or another one", file, room, path)
				}
			}
		}
	}
	for name := range allowed {
		if !used[name] && !strings.HasSuffix(name, "*") {
			t.Errorf("there is a rule for %q and no such package", name)
		}
	}
}

type rule struct {
	list   []string
	reason string
}

func (r *rule) allows(room string) bool {
	return slices.ContainsFunc(r.list, func(p string) bool { return covers(p, room) })
}

func (r *rule) forbids(path string) bool { return slices.Contains(r.list, "!"+path) }

// covers reports whether a name in a rule means the room: "a/*" means every
// room below a.
func covers(pattern, room string) bool {
	if pattern == "*" || pattern == room {
		return true
	}
	below, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasPrefix(room, below)
}

type ruleSet map[string]*rule

// find returns the rule of a room: its own, or the one for rooms like it.
func (s ruleSet) find(room string) (*rule, string) {
	if r := s[room]; r != nil {
		return r, room
	}
	for name, r := range s {
		if covers(name, room) {
			return r, name
		}
	}
	return nil, ""
}

// prefix returns the rule of the module that a package belongs to.
func (s ruleSet) prefix(path string) *rule {
	for name, r := range s {
		if path == name || strings.HasPrefix(path, name+"/") {
			return r
		}
	}
	return nil
}

// parseRules reads rules and insists that each has a reason.
func parseRules(t *testing.T, text string) ruleSet {
	t.Helper()
	out := make(ruleSet)
	var reason []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if comment, ok := strings.CutPrefix(line, "# "); ok {
			reason = append(reason, comment)
			continue
		}
		if line == "" {
			reason = nil
			continue
		}
		name, list, ok := strings.Cut(line, "<")
		name = strings.TrimSpace(name)
		if !ok || out[name] != nil || len(reason) == 0 {
			t.Fatalf("rule %q is malformed, given twice or without a reason", line)
		}
		out[name] = &rule{strings.Fields(list), strings.Join(reason, " ")}
	}
	return out
}

// roomOf names the room of a package folder.
func roomOf(dir string) string {
	return strings.TrimPrefix(filepath.ToSlash(dir), "internal/")
}

// goFiles returns the Go files of this module, for every platform and with
// every build tag.
func goFiles(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata" || d.Name() == "tools" || d.Name() == "node_modules"):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, ".go"):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func imports(t *testing.T, file string) (paths []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// standard reports whether a package is one of the standard library: the first
// element of any other has a dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}
