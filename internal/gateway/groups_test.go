package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// Policies of a group run for its consumers, in all their phases, and take the
// place of those of the same kind.
func TestGroups(t *testing.T) {
	for who, want := range map[string]string{
		"[]":                          "who? b? c? r? r=200 c=200 b=200 who=200 who! b! c! r!",
		"[group=none]":                "who? b? c? r? r=200 c=200 b=200 who=200 who! b! c! r!",
		"[group=gold]":                "who? b? gold? r? gr? gr=200 r=200 gold=200 b=200 who=200 who! b! gold! gold:5 r! gr!",
		"[group=silver]":              "who? silver? c? r? r=200 c=200 silver=200 who=200 who! silver! c! r!",
		"[group=silver, group=gold]":  "who? silver? gold? r? gr? gr=200 r=200 gold=200 silver=200 who=200 who! silver! gold! gold:5 r! gr!",
		"[group=gold, stop]":          "who? who=202 who!",
		"[group=none, panic-request]": "who? who=500 who!",
	} {
		r, tr := newRig(t, fmt.Sprintf(`
groups:
  gold:
    policies: [ c: { name: gold, at: cache, do: tap-response }, r: { name: gr } ]
  silver:
    policies: [ b: { name: silver, at: authorize } ]
routes:
  - match: /
    respond: { body: hello }
    policies: [ a: { name: who, at: identify, do: %s }, b: { at: admit }, c: {}, r: {} ]
`, strings.ReplaceAll(who, "[]", "[group=x]")))
		r.Do(policytest.Request{Target: "/"})
		if got := tr.take(); got != want {
			t.Errorf("%s: %s\nwant %s", who, got, want)
		}
		r.Errors()
	}
}

func TestGroupFaults(t *testing.T) {
	r, _ := newRig(t, "routes: []\n")
	got := r.Apply(`
groups:
  a.b:
    policies: [ c: {}, a: { at: identify }, c: {} ]
routes: []
`).Error()
	for _, want := range []string{
		`groups["a.b"].policies[1].a: a runs before it is known who asks`,
		`groups["a.b"].policies[2].c: c stands twice in this list, first at groups["a.b"].policies[0]`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}
