package config_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestFaults reads testdata/faults.txt: sections of a name after "=== ", a
// configuration, a line "--- faults", and the faults that it has. Backslash escapes
// \xNN and \t stand for bytes that an editor would not keep.
func TestFaults(t *testing.T) {
	t.Setenv("EMPTY", "")
	t.Setenv("NUMBER", "7")
	t.Setenv("WORD", "word")
	data, err := os.ReadFile("testdata/faults.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	n := 0
	for _, section := range strings.Split(string(data), "=== ")[1:] {
		name, rest, _ := strings.Cut(section, "\n")
		in, want, _ := strings.Cut(rest, "\n--- faults\n")
		raw := strings.NewReplacer(`\x00`, "\x00", `\xff`, "\xff", `\xfe`, "\xfe", `\x1b`, "\x1b", `\t`, "\t").Replace(in)
		_, faults := config.Parse("f.yaml", []byte(raw), catalog())
		got := faults.Error()
		out.WriteString("=== " + name + "\n" + in + "\n--- faults\n" + got + "\n\n")
		n++
		if want = strings.TrimSpace(want); got != want && !*update {
			t.Errorf("%s:\n%s\nfaults:\n%s\nwant:\n%s", name, in, got, want)
		}
		for _, f := range faults {
			if f.Line < 1 || f.Col < 1 || f.File != "f.yaml" || f.Text == "" {
				t.Errorf("%s: fault without a place: %+v", name, f)
			}
		}
	}
	if n < 60 {
		t.Errorf("%d cases, want at least 60", n)
	}
	if *update {
		if err := os.WriteFile("testdata/faults.txt", []byte(strings.TrimRight(out.String(), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFaultsConcealPasswords(t *testing.T) {
	c := new(config.Config)
	for text, want := range map[string]string{
		`"http://me:pass@a.example" is wrong`:           `"http://…@a.example" is wrong`,
		`"me:pass@a.example:80" is wrong`:               `"…@a.example:80" is wrong`,
		`"https://me:p@ss/w?o#rd@a.example/x" and more`: `"https://…@a.example/x" and more`,
		`write http://a.example, not http://me:x@b`:     `write http://a.example, not http://…@b`,
		`"ops@example.com" is an address`:               `"ops@example.com" is an address`,
		`nothing`:                                       `nothing`,
		`a @ b: c`:                                      `a @ b: c`,
	} {
		f := c.Fault("", text, text)
		if f.Text != want || f.Hint != want {
			t.Errorf("%s becomes %q, %q", text, f.Text, f.Hint)
		}
	}
}
