// Package docs_test runs what README and guides say: every configuration is
// checked, every command is run, and its output compared with what stands
// below it.
//
// A block of commands has a comment above it that says how it is run:
//
//	<!-- run: file -->        in a folder with the document's last
//	                          configuration as gatehouse.yaml
//	<!-- run: shop -->        while the demo's shop is served
//	<!-- run: no, because --> not, and why
//
// A block without a language right below it is the output. In it, … stands for
// any text within a line, and a line with nothing else for any lines.
package docs_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"gatehouse.dev/gatehouse/examples"
	"gatehouse.dev/gatehouse/internal/demo"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
	"gatehouse.dev/gatehouse/test/live"
)

var binary string // set once, before any test

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gatehouse")
	if err == nil {
		defer os.RemoveAll(dir)
		binary, err = live.Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const root = "../.."

// documents are those whose blocks are run.
func documents(t *testing.T) []string {
	t.Helper()
	guides, err := filepath.Glob(filepath.Join(root, "docs/guides/*.md"))
	if err != nil || len(guides) == 0 {
		t.Fatal("no guides", err)
	}
	return append(guides, filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md"))
}

// block is one fenced block of a document.
type block struct {
	line     int
	language string
	run      string // what the comment above it says
	text     string
	output   string // what should come of it
	compared bool   // there is such an output
}

var marker = regexp.MustCompile(`^<!-- run: (.*) -->$`)

func blocks(t *testing.T, file string) (out []block) {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var open *block
	how, adjacent := "", false // since the last block there were only empty lines
	for i, line := range strings.Split(string(src), "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case open == nil && isFence:
			open = &block{line: i + 1, language: fence, run: how}
			how = ""
		case open != nil && isFence:
			if open.language == "" && adjacent && out[len(out)-1].language == "sh" {
				last := &out[len(out)-1]
				last.output, last.compared = open.text, true
			} else {
				out = append(out, *open)
			}
			open, adjacent = nil, true
		case open != nil:
			open.text += line + "\n"
		case marker.MatchString(line):
			how, adjacent = marker.FindStringSubmatch(line)[1], false
		case line != "":
			how, adjacent = "", false
		}
	}
	return out
}

func TestDocuments(t *testing.T) {
	for _, file := range documents(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var served *shop
			for _, b := range blocks(t, file) {
				where := fmt.Sprintf("%s:%d", filepath.Base(file), b.line)
				switch how, reason, _ := strings.Cut(b.run, ","); {
				case b.language == "yaml":
					if _, defaults := policytest.Secrets(b.text); defaults != nil {
						t.Errorf("%s: secrets have defaults: %v", where, defaults)
					}
					check(t, where, dir, b.text)
				case b.language != "sh":
				case how == "file":
					compare(t, where, b, shell(t, where, dir, b.text))
				case how == "shop":
					if served == nil {
						served = serveShop(t)
					}
					compare(t, where, b, served.public.Replace(shell(t, where, dir, served.private.Replace(b.text))))
				case how != "no" || len(reason) < 10:
					t.Errorf("%s: nothing says how these commands are run", where)
				}
			}
		})
	}
}

// named are the files of certificates and keys that a configuration names.
var named = regexp.MustCompile(`\b(cert|key|ca|ocsp)_file: ([a-z-]+\.[a-z]+)`)

type pair struct{ cert, key, ocsp []byte }

// identity is what stands in those files.
var identity = sync.OnceValue(func() pair {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	cert, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	if leaf, err = x509.ParseCertificate(cert); err != nil {
		panic(err)
	}
	response, err := ocsp.CreateResponse(leaf, leaf, ocsp.Response{SerialNumber: leaf.SerialNumber, ThisUpdate: time.Now()}, key)
	if err != nil {
		panic(err)
	}
	// The certificate is its own issuer, which a stapled response wants to see.
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	return pair{bytes.Repeat(block, 2), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), response}
})

// check looks at a configuration and leaves it as gatehouse.yaml. One that is
// only a part gets a route, so that it is a whole.
func check(t *testing.T, where, dir, text string) {
	t.Helper()
	if !strings.Contains("\n"+text, "\nroutes:") {
		text += "routes: [{ match: /*, respond: { status: 200 } }]\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "gatehouse.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		data := identity().cert
		switch m[1] {
		case "key":
			data = identity().key
		case "ocsp":
			data = identity().ocsp
		}
		if err := os.WriteFile(filepath.Join(dir, m[2]), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(binary, "check", "-c", "gatehouse.yaml")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), secrets(dir)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", where, err, out)
	}
}

// secrets is the environment that the configuration in a folder asks for.
func secrets(dir string) (env []string) {
	text, _ := os.ReadFile(filepath.Join(dir, "gatehouse.yaml")) // there may be none yet
	names, _ := policytest.Secrets(string(text))
	for _, name := range names {
		env = append(env, name+"="+policytest.Secret)
	}
	return env
}

// shell runs commands and returns what they print.
func shell(t *testing.T, where, dir, text string) string {
	t.Helper()
	home := t.TempDir()
	// A terminal does not show curl's progress among the output.
	if err := os.WriteFile(filepath.Join(home, ".curlrc"), []byte("silent\nshow-error\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), live.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", text)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), secrets(dir)...)
	cmd.Env = append(cmd.Env, "CURL_HOME="+home, "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("%s: %v\n%s\n%s", where, err, text, &out)
	}
	return strings.ReplaceAll(out.String(), "\r", "")
}

func compare(t *testing.T, where string, b block, got string) {
	t.Helper()
	if !b.compared {
		return
	}
	var expr strings.Builder
	expr.WriteString(`\A`)
	for _, line := range strings.Split(strings.TrimRight(b.output, "\n"), "\n") {
		if line == "…" {
			expr.WriteString(`(?:.*\n)*`)
			continue
		}
		for i, part := range strings.Split(line, "…") {
			if i > 0 {
				expr.WriteString(`.*`)
			}
			expr.WriteString(regexp.QuoteMeta(part))
		}
		expr.WriteString(`\n`)
	}
	expr.WriteString(`\n*\z`)
	if !strings.HasSuffix(got, "\n") {
		got += "\n"
	}
	if !regexp.MustCompile(expr.String()).MatchString(got) {
		t.Errorf("%s: the document says\n%s\nand the commands print\n%s", where, b.output, got)
	}
}

// shop is the demo on free ports.
type shop struct {
	private *strings.Replacer // from the demo's addresses to the real ones
	public  *strings.Replacer // and back
}

func serveShop(t *testing.T) *shop {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	text := string(examples.Shop)
	swap := func(from, to string) {
		if !strings.Contains(text, from) {
			t.Fatalf("examples/shop/gatehouse.yaml does not name %q", from)
		}
		text = strings.ReplaceAll(text, from, to)
	}
	var private, public []string
	moved := func(from, to string) {
		private, public = append(private, from, to), append(public, to, from)
	}
	err := demo.Start(ctx, func(_, address string) (net.Listener, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			swap(address, ln.Addr().String())
			moved(address, ln.Addr().String())
		}
		return ln, err
	})
	if err != nil {
		t.Fatal(err)
	}
	swap(`":8080"`, `"127.0.0.1:0"`)
	text += "\nadmin: { address: \"127.0.0.1:0\" }\n"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "shop.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := live.Start(binary, dir, nil, "run", "-c", "shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Kill)
	if err := g.Serving(); err != nil {
		t.Fatal(err)
	}
	at := g.Addresses()
	if at["public"] == "" || at["admin"] == "" {
		t.Fatalf("the gateway listens on %v", at)
	}
	moved("localhost:8080", at["public"])
	moved("127.0.0.1:9901", at["admin"])
	return &shop{private: strings.NewReplacer(private...), public: strings.NewReplacer(public...)}
}

// TestBanner runs what the demo tells its user to try.
func TestBanner(t *testing.T) {
	served := serveShop(t)
	var b bytes.Buffer
	if err := demo.Banner(&b); err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(b.String()) {
		if !strings.HasPrefix(line, "  curl ") {
			continue
		}
		n++
		line = strings.Replace(served.private.Replace(line), "mib=1024", "mib=16", 1)
		line = strings.Replace(line, "count=5", "count=1", 1)
		if strings.Contains(line, "how=cut") {
			line = strings.TrimSpace(line) + " || test $? = 18 # curl says that bytes are missing\n"
		}
		shell(t, strings.TrimSpace(line), t.TempDir(), line)
	}
	if n < 10 {
		t.Errorf("the banner has only %d commands", n)
	}
}

var command = regexp.MustCompile("`gatehouse ([a-z]+)")

// TestCommands asks every command that the README names for its help.
func TestCommands(t *testing.T) {
	src, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := command.FindAllStringSubmatch(string(src), -1)
	if len(found) < 8 {
		t.Fatalf("the README names only %d commands", len(found))
	}
	for _, m := range found {
		if out, err := exec.Command(binary, m[1], "--help").CombinedOutput(); err != nil {
			t.Errorf("gatehouse %s --help: %v\n%s", m[1], err, out)
		}
	}
}

// TestExamples checks the configurations that people start from.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "examples/*/gatehouse.yaml"))
	if err != nil || len(files) < 2 {
		t.Fatal("no examples", err)
	}
	for _, file := range files {
		out, err := exec.Command(binary, "check", "-c", file).CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("warning")) {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}
