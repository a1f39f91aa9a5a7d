package config_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
)

func TestFormat(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"indentation", "routes:\n- match: /a\n  respond:\n        status: 200\n        headers:\n            a: b\n", "routes:\n  - match: /a\n    respond:\n      status: 200\n      headers:\n        a: b\n"},
		{"wide lists", "routes:\n    -   match: /a\n        respond: {}\n    -   match: /b\n        respond: {}\n", "routes:\n  - match: /a\n    respond: {}\n  - match: /b\n    respond: {}\n"},
		{"a dash alone", "routes:\n  -\n    match: /a\n    respond: {}\n  - # two\n      match: /b\n", "routes:\n  -\n    match: /a\n    respond: {}\n  - # two\n    match: /b\n"},
		{"lists in lists", "a:\n-   - b\n    - c\n-   - d\n", "a:\n  - - b\n    - c\n  - - d\n"},
		{"blank lines", "\n\na: 1\n\n\n\nb:\n\n  - 1\n\n\n", "a: 1\n\nb:\n\n  - 1\n"},
		{"ends of lines", "a: 1  \r\nb: \"x\"\t\r\n", "a: 1\nb: \"x\"\n"},
		{"no newline at the end", "a: 1", "a: 1\n"},
		{"byte order mark", "\ufeffa: 1\n", "a: 1\n"},
		{"comments", "# top\n\na:     # of a\n# of b\n    b: 1   # one\n    # after b\n# of c\nc: 2\n# end\n", "# top\n\na:     # of a\n  # of b\n  b: 1   # one\n  # after b\n# of c\nc: 2\n# end\n"},
		{"entries commented out", "routes:\n- match: /a\n# - match: /b\n#   respond: {}\n", "routes:\n  - match: /a\n  # - match: /b\n#   respond: {}\n"},
		{"comments between lists", "routes:\n    - a: 1\n      # more of a\n    # the next\n    - b: 1\n    # the last\n", "routes:\n  - a: 1\n    # more of a\n  # the next\n  - b: 1\n  # the last\n"},
		{"text", "a:\n    b: |\n        one\n          two\n\n        # three\n    c: >-\n      x\n", "a:\n  b: |\n    one\n      two\n\n    # three\n  c: >-\n    x\n"},
		{"text that keeps its end", "a: |+\n  x\n\n\nb: 1\n", "a: |+\n  x\n\n\nb: 1\n"},
		{"text with its own indentation", "a:\n    b: |2\n         x\n        y\n", "a:\n  b: |2\n       x\n      y\n"},
		{"text in a list", "a:\n-   |\n    x\n-   b: |\n        y\n", "a:\n  - |\n    x\n  - b: |\n      y\n"},
		{"quotes over lines", "a:\n      b: \"x\n        y\n\n        z\"\n      c: 'it''s\n       #1'\n", "a:\n  b: \"x\n    y\n\n    z\"\n  c: 'it''s\n   #1'\n"},
		{"words over lines", "a:\n      b: x\n        y\n      c: 1\n", "a:\n  b: x\n    y\n  c: 1\n"},
		{"words that look like more", "a: x\n   -   y\n\n\n   \"z\n   k:v\nb:\n    - it\n      [is\nc: 1\n", "a: x\n  -   y\n\n\n  \"z\n  k:v\nb:\n  - it\n    [is\nc: 1\n"},
		{"brackets over lines", "a:\n      b: [\n        1, # one\n        \"]\",\n\n\n        {x: y}\n      ]\n      c: 1\n", "a:\n  b: [\n    1, # one\n    \"]\",\n\n    {x: y}\n  ]\n  c: 1\n"},
		{"JSON", "{\n  \"a\": [\n    1\n  ]\n}\n", "{\n  \"a\": [\n    1\n  ]\n}\n"},
		{"a document marker", "---\na:\n    b: 1\n...\n", "---\na:\n  b: 1\n...\n"},
		{"anchors", "a: &x\n    b: 1\nc: *x\nd: &y |\n   z\n", "a: &x\n  b: 1\nc: *x\nd: &y |\n  z\n"},
		{"quotes that are none", "a: it's\nb: x \"y\nc: a#b\nd: x{y\n", "a: it's\nb: x \"y\nc: a#b\nd: x{y\n"},
		{"quoted keys", "\"a\":\n   'b: c': 1\n   \"d\" : [\n   ]\n", "\"a\":\n  'b: c': 1\n  \"d\" : [\n  ]\n"},
		{"value on the next line", "a:\n      b\nc:\n    \"d\"\n", "a:\n  b\nc:\n  \"d\"\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, faults := config.Format([]byte(c.in))
			if len(faults) > 0 || string(got) != c.want {
				t.Fatalf("faults %v, got:\n%s\nwant:\n%s", faults, got, c.want)
			}
			again, faults := config.Format(got)
			if len(faults) > 0 || string(again) != c.want {
				t.Errorf("formatted again, faults %v:\n%s", faults, again)
			}
		})
	}
}

func TestFormatRefuses(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"a: [", "2:1: not YAML: the brackets that are open at the end of the file are not closed"},
		{"# nothing\n", "1:1: holds no configuration (the shortest one has routes: with a match and an upstream)"},
		{"a: 1\n---\nb: 2\n", "2:1: a second YAML document begins (put it into a file of its own; -c takes a folder)"},
		{"? a\n:     - b\n      - c\n", `1:1: cannot be laid out: a value in it is written in too unusual a way (write values on one line, in "quotes" or as a block with |)`},
	} {
		if out, faults := config.Format([]byte(c.in)); out != nil || faults.Error() != c.want {
			t.Errorf("%q: %q, faults:\n%v\nwant:\n%s", c.in, out, faults, c.want)
		}
	}
}

// The examples of the project are laid out as Format does it.
func TestExamplesAreFormatted(t *testing.T) {
	var files []string
	for _, pattern := range []string{"../../examples/*.yaml", "../../examples/*/*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if out, faults := config.Format(data); len(faults) > 0 || string(out) != string(data) {
			t.Errorf("%s is not formatted: %v", name, faults)
		}
	}
}

func FuzzFormat(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		out, faults := config.Format(data)
		if len(faults) > 0 {
			return
		}
		again, faults := config.Format(out)
		if len(faults) > 0 {
			t.Fatalf("what was formatted is refused: %v\n%q\n%q", faults, data, out)
		}
		if string(again) != string(out) {
			t.Fatalf("formatting is not stable:\n%q\n%q\n%q", data, out, again)
		}
	})
}

func FuzzParse(f *testing.F) {
	addSeeds(f)
	cat := catalog()
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Contains(string(data), "file:") {
			return // secrets of this machine are none of the test's business
		}
		cfg, faults := config.Parse("f.yaml", data, cat)
		for _, one := range faults {
			if one.File != "f.yaml" || one.Line < 1 || one.Col < 1 || one.Text == "" {
				t.Fatalf("fault without a place: %+v", one)
			}
		}
		if (cfg == nil || cfg.Partial()) != faults.Fatal() {
			t.Fatalf("config %v with faults %v", cfg, faults)
		}
		if faults.Fatal() {
			return
		}
		if out, faults := config.Format(data); !faults.Fatal() {
			again, faults := config.Parse("f.yaml", out, cat)
			if faults.Fatal() || again.Digest() != cfg.Digest() {
				t.Fatalf("formatting changed the meaning: %v\n%q", faults, out)
			}
		}
		if out := cfg.Marshal(); !strings.Contains(string(out), "[secret]") {
			again, faults := config.Parse("f.yaml", out, cat)
			if faults.Fatal() || again.Digest() != cfg.Digest() {
				t.Fatalf("the canonical form is not read as the same: %v\n%s", faults, out)
			}
		}
	})
}

func addSeeds(f *testing.F) {
	data, err := os.ReadFile("testdata/faults.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, section := range strings.Split(string(data), "=== ")[1:] {
		_, rest, _ := strings.Cut(section, "\n")
		in, _, _ := strings.Cut(rest, "\n--- faults\n")
		f.Add([]byte(in))
	}
	f.Add([]byte(strings.ReplaceAll(everything, "${WHO}", "me")))
	f.Add([]byte("a: |+2\n    x\n\n\n# c\n- b"))
}

func BenchmarkParse5000Routes(b *testing.B) {
	data := manyRoutes(5000)
	cat := catalog()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, faults := config.Parse("f.yaml", data, cat); len(faults) > 0 {
			b.Fatal(faults)
		}
	}
}

func BenchmarkDigest5000Routes(b *testing.B) {
	data := manyRoutes(5000)
	cat := catalog()
	for b.Loop() {
		b.StopTimer()
		cfg, faults := config.Parse("f.yaml", data, cat)
		if len(faults) > 0 {
			b.Fatal(faults)
		}
		b.StartTimer()
		cfg.Digest()
	}
}

func manyRoutes(n int) []byte {
	var b strings.Builder
	b.WriteString("upstreams:\n  shop: { endpoints: [\"http://10.0.0.1:80\"] }\nroutes:\n")
	for i := range n {
		b.WriteString("  - name: route-" + string(rune('a'+i%26)) + strings.Repeat("x", i%7) + "-" + strconv.Itoa(i) + "\n    match:\n      host: shop.example.com\n      path: /api/v" + strconv.Itoa(i) + "/{id}\n      methods: [GET, POST]\n    policies:\n      - rate_limit: { limit: 100/m, burst: 20 }\n    upstream: shop\n")
	}
	return []byte(b.String())
}
