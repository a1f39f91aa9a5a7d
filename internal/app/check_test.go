package app

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestCheckNamesAll holds Check to naming the faults of decoding and those of
// compiling in one go, each once.
func TestCheckNamesAll(t *testing.T) {
	const text = `
upstreams:
  empty: { endpoints: [] }
routes:
  - match: { path_regex: "(" }
    upstream: nobody
  - match: /twice
    respond: { status: 999 }
  - match: /twice
    upstream: empty
    policies: [{ headers: { request: { set: { "a b": c } } } }, { header: {} }]
  - match: { path: /a, headers: { A: { regex: "[" } } }
    redirect: { to: "/{nothing}" }
`
	want := []string{
		"upstreams.empty.endpoints", "routes[0].match.path_regex", "routes[0].upstream", "routes[1].respond.status",
		"routes[2].match", "routes[2].policies[0].headers.request.set.a b", "routes[2].policies[1].header",
		"routes[3].match.headers.A.regex", "routes[3].redirect.to",
	}
	faults := Check(Source{Name: "f.yaml", Data: []byte(text)})
	var got []string
	for _, f := range faults {
		got = append(got, strings.NewReplacer(`["`, ".", `"]`, "").Replace(f.Path))
	}
	if !slices.Equal(got, want) {
		t.Errorf("faults:\n%v\nat %q\nwant %q", faults, got, want)
	}
}

// FuzzCheck holds compiling to what decoding leaves of any configuration.
func FuzzCheck(f *testing.F) {
	data, err := os.ReadFile("../config/testdata/faults.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, section := range strings.Split(string(data), "=== ")[1:] {
		_, rest, _ := strings.Cut(section, "\n")
		in, _, _ := strings.Cut(rest, "\n--- faults\n")
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Contains(string(data), "file") {
			return // what is in the files of this machine is none of the test's business
		}
		faults := Check(Source{Name: "f.yaml", Data: data})
		for i, one := range faults {
			if slices.Contains(faults[:i], one) {
				t.Errorf("named twice: %v", one)
			}
		}
	})
}
