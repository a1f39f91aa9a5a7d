package policytest

import (
	"strings"
	"testing"
	"testing/synctest"

	"gatehouse.dev/gatehouse/internal/policy"
)

const files = `
-- gatehouse.yaml --
routes:
  - match: /*
    upstream: http://up
-- bad.yaml --
routes: 5
`

// What a script says is so is looked at: each of these says what is not, and
// is told where.
func TestScriptsThatFail(t *testing.T) {
	for _, c := range []struct{ commands, want string }{
		{"dance", "no such command"},
		{"request GET", "a method and a target are wanted"},
		{"request GET / at once", `"at" is not understood`},
		{"request GET /\n  no field", "neither a field nor a line of a body"},
		{"answer 200", "there was no answer"},
		{"request GET /\nanswer 201", "has another status"},
		{"request GET /\nagain 2\nanswer 200\n  X-A: .*", "answer 1 of 3: X-A: .*: it does not hold"},
		{"request GET /\nanswer 200\n  ! Content-Type", "it does not hold"},
		{"request GET /\nanswer 200\n  Content-Type: text", "it does not hold"},
		{"request GET /\nanswer 200\n  | nobody", "it does not hold"},
		{"request GET /\nanswer 200\n  ! | GET", "it does not hold"},
		{"request GET /\nanswer 200\n  Content-Type: (", "missing closing"},
		{"request GET /\nanswers 200 2", "there are 1"},
		{"request GET /\ncut", "an answer is whole"},
		{"received GET /", "no upstream was asked"},
		{"request GET /\nreceived POST /", "it received"},
		{"request GET /\nreceived nothing", "there are 1"},
		{"logged\n  .*", "there is none for"},
		{"sleep", "a time is wanted"},
		{"upstream 200 sometimes", `"sometimes" is not understood`},
		{"client nobody", "not an ip:port"},
		{"client 10.0.0.1 nowhere", "no such listener"},
		{"apply nothing.yaml", "no such file"},
		{"apply bad.yaml", "routes"},
		{"faults gatehouse.yaml\n  .*", "there is none for"},
		{"faults bad.yaml\n  x", "line 1 is another"},
		{"faults bad.yaml", "there is one more"},
		{"again 1", "there was no request"},
		{"again many", "invalid syntax"},
	} {
		synctest.Test(t, func(t *testing.T) {
			err := runCommands(t, c.commands+files)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q: %v, want %q", c.commands, err, c.want)
			}
		})
	}
}

func TestScriptsThatPass(t *testing.T) {
	for _, commands := range []string{
		"request GET /\ntogether 4\nanswers 200 5",
		"request GET /?a=b\nanswer 200\n  | GET (?P<target>/\\?a=b)$\nrequest GET ${target}\nreceived GET ${target}\nanswer 200\n  | ${target}",
		"upstream 200\n  X-A: 1\n  | one\n  | two\nrequest POST /\n  Host: shop.test\n  | body\nanswer 200\n  X-A: 1\n  | onetwo\nreceived POST /\n  Host: shop.test\n  | ^body$",
		"upstream http://up 503 after 2s\nrequest GET / leave 1s\nanswer 499\ncut\nrequest GET / leave 3s\nanswer 503",
		"upstream 200 cut\n  | half\nrequest GET /\ncut",
		"request GET /\nrequest GET /\nreceived 2\nreceived nothing",
		"sleep 24h\nrequest PUT http://other.test/x chunked\n  | a\n  |  b\nreceived PUT /x\n  Host: other.test\n  | ^a$\n  | ^ b$",
		"apply gatehouse.yaml",
	} {
		synctest.Test(t, func(t *testing.T) {
			if err := runCommands(t, commands+files); err != nil {
				t.Errorf("%s\n%v", commands, err)
			}
		})
	}
}

func runCommands(t *testing.T, text string) error {
	commands, files := parseScript(text)
	s := &script{t: t, files: files, vars: make(map[string]string), rig: newRig(t, policy.NewCatalog(), nil)}
	defer s.rig.Close()
	if err := s.rig.Apply(files[0].text); err.Fatal() {
		t.Fatal(err)
	}
	for _, c := range commands {
		if err := s.run(c); err != nil {
			return err
		}
	}
	return nil
}
