// Package script_test runs the real binary by the scripts in this folder, one
// topic a file. They read like a manual. Beside the commands of testscript
// there are:
//
//	service NAME             starts a service; its address is in $NAME
//	serve ARGS...            starts the gateway and waits until it serves; the
//	                         addresses of its listeners are in $NAME, or in
//	                         $listener without a name, the admin address in $admin
//	code N PROGRAM ARGS...   runs a program that exits with that code
//	await PATTERN            waits for a line of the gateway's log
//	signal HUP|TERM|INT      sends the gateway a signal
//	exits CODE               waits for the gateway's end
//	http [-H FIELD] [-d BODY] [-until PATTERN] METHOD URL
//	                         asks, and prints the answer; asks again until the
//	                         answer matches
//	holds FILE TEXT          waits until a file holds a text
//	raw ADDRESS TEXT         sends bytes as they are, and prints what comes
//	begin URL, release NAME, finish   a request that the service holds back
//	open URL, say TEXT, hangup        a connection upgraded to an echo
//
// In a URL, "unix:NAME" for a host means the socket of that name in the
// script's folder.
package script_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

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

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: ".",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+env.Getenv("PATH"))
			s := &script{services: make(map[string]*service)}
			env.Values[key{}] = s
			env.Defer(s.end)
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "shop-ports" {
				return false, fmt.Errorf("there is no condition %q", name)
			}
			return free("8080", "9001", "9002", "9003", "9004", "9005", "9901"), nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"service": with((*script).service),
			"serve":   with((*script).serve),
			"await":   with((*script).await),
			"signal":  with((*script).signal),
			"exits":   with((*script).exits),
			"http":    with((*script).http),
			"holds":   with((*script).holds),
			"raw":     with((*script).raw),
			"begin":   with((*script).begin),
			"release": with((*script).release),
			"finish":  with((*script).finish),
			"open":    with((*script).open),
			"say":     with((*script).say),
			"hangup":  with((*script).hangup),
			"code":    with((*script).code),
		},
	})
}

// free reports whether nothing listens on these ports.
func free(ports ...string) bool {
	for _, port := range ports {
		ln, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return false
		}
		ln.Close()
	}
	return true
}

type key struct{}

// script is what one script has running.
type script struct {
	gateway  *live.Gateway
	services map[string]*service
	begun    chan answer
	upgraded net.Conn
	echoes   *bufio.Reader
}

type answer struct {
	text string
	err  error
}

// with makes a command of a method. No command can be negated: what is expected
// is said of what it prints.
func with(f func(*script, *testscript.TestScript, []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("this command cannot be negated")
		}
		ts.Check(f(ts.Value(key{}).(*script), ts, args))
	}
}

func (s *script) end() {
	if s.gateway != nil {
		s.gateway.Kill()
	}
	if s.upgraded != nil {
		s.upgraded.Close()
	}
	for _, one := range s.services {
		one.close()
	}
}

func usage(args []string, want int, text string) error {
	if len(args) != want {
		return errors.New("usage: " + text)
	}
	return nil
}

func (s *script) service(ts *testscript.TestScript, args []string) error {
	if err := usage(args, 1, "service NAME"); err != nil {
		return err
	}
	one, err := newService(args[0])
	if err != nil {
		return err
	}
	s.services[args[0]] = one
	ts.Setenv(args[0], one.address())
	return nil
}

func (s *script) serve(ts *testscript.TestScript, args []string) error {
	if s.gateway != nil {
		return errors.New("the gateway is already running")
	}
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	for len(args) > 0 && strings.Contains(args[0], "=") {
		env, args = append(env, args[0]), args[1:]
	}
	g, err := live.Start(binary, ts.MkAbs("."), env, args...)
	if err != nil {
		return err
	}
	s.gateway = g
	if err := g.Serving(); err != nil {
		return err
	}
	s.export(ts)
	return nil
}

// export puts the listeners' addresses into the environment.
func (s *script) export(ts *testscript.TestScript) {
	for name, address := range s.gateway.Addresses() {
		if strings.Contains(name, ":") {
			name = "listener" // it is called by the address of its configuration
		}
		ts.Setenv(name, address)
	}
}

func (s *script) await(ts *testscript.TestScript, args []string) error {
	if err := usage(args, 1, "await PATTERN"); err != nil {
		return err
	}
	if err := s.gateway.Await(args[0]); err != nil {
		return err
	}
	s.export(ts)
	return nil
}

func (s *script) signal(_ *testscript.TestScript, args []string) error {
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT}
	if len(args) != 1 || signals[args[0]] == 0 {
		return errors.New("usage: signal HUP|TERM|INT")
	}
	return s.gateway.Signal(signals[args[0]])
}

func (s *script) exits(ts *testscript.TestScript, args []string) error {
	if err := usage(args, 1, "exits CODE"); err != nil {
		return err
	}
	code, err := s.gateway.Wait()
	if err != nil {
		return err
	}
	fmt.Fprint(ts.Stdout(), s.gateway.Output())
	fmt.Fprint(ts.Stderr(), s.gateway.Log())
	if strconv.Itoa(code) != args[0] {
		return fmt.Errorf("the gateway exited with %d\n%s", code, s.gateway.Log())
	}
	s.gateway = nil
	return nil
}

func (s *script) code(ts *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: code N PROGRAM ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got, err = exit.ExitCode(), nil
	}
	if err == nil && strconv.Itoa(got) != args[0] {
		err = fmt.Errorf("it exited with %d", got)
	}
	return err
}

func (s *script) http(ts *testscript.TestScript, args []string) error {
	header := make(http.Header)
	body, until := "", ""
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-H":
			name, value, _ := strings.Cut(args[1], ":")
			header.Add(name, strings.TrimSpace(value))
		case "-d":
			body = args[1]
		case "-until":
			until = args[1]
		}
		args = args[2:]
	}
	if err := usage(args, 2, "http [-H FIELD] [-d BODY] [-until PATTERN] METHOD URL"); err != nil {
		return err
	}
	wanted, err := regexp.Compile("(?m)" + until)
	if err != nil {
		return err
	}
	var text string
	err = eventually(func() (bool, error) {
		var err error
		text, err = ask(ts.MkAbs("."), args[0], args[1], header.Clone(), body)
		return wanted.MatchString(text), err
	})
	fmt.Fprint(ts.Stdout(), text)
	return err
}

func (s *script) holds(ts *testscript.TestScript, args []string) error {
	if err := usage(args, 2, "holds FILE TEXT"); err != nil {
		return err
	}
	return eventually(func() (bool, error) {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return bytes.Contains(b, []byte(args[1])), err
	})
}

// eventually asks until the answer is yes, for what nothing else tells of.
func eventually(done func() (bool, error)) error {
	for end := time.Now().Add(live.Patience); ; time.Sleep(5 * time.Millisecond) {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Now().After(end) {
			return errors.New("it did not happen in time")
		}
	}
}

// ask makes one request on a connection of its own and writes the answer as
// text: first line, fields in order of their names, body.
func ask(dir, method, url string, header http.Header, body string) (string, error) {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	if rest, ok := strings.CutPrefix(url, "http://unix:"); ok {
		name, path, _ := strings.Cut(rest, "/")
		url = "http://socket/" + path
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, name))
		}
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: dial},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       live.Patience,
	}
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	if host := header.Get("Host"); host != "" {
		req.Host = host
		header.Del("Host")
	}
	req.Header = header
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s\n", res.Proto, res.Status)
	var lines []string
	for name, values := range res.Header {
		for _, v := range values {
			lines = append(lines, name+": "+v+"\n")
		}
	}
	slices.Sort(lines)
	b.WriteString(strings.Join(lines, "") + "\n")
	_, err = io.Copy(&b, res.Body)
	return b.String(), err
}

func (s *script) raw(ts *testscript.TestScript, args []string) error {
	if err := usage(args, 2, "raw ADDRESS TEXT"); err != nil {
		return err
	}
	text, err := strconv.Unquote(`"` + args[1] + `"`)
	if err != nil {
		return fmt.Errorf("the text is no Go string: %w", err)
	}
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(live.Patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	out, err := io.ReadAll(c) // until the gateway closes
	fmt.Fprint(ts.Stdout(), strings.ReplaceAll(string(out), "\r", ""))
	return err
}

func (s *script) begin(ts *testscript.TestScript, args []string) error {
	if err := usage(args, 1, "begin URL"); err != nil {
		return err
	}
	begun := make(chan answer, 1)
	s.begun = begun
	go func() {
		text, err := ask(ts.MkAbs("."), "GET", args[0], http.Header{}, "")
		begun <- answer{text, err}
	}()
	arrived := make([]<-chan struct{}, 0, len(s.services))
	for _, one := range s.services {
		arrived = append(arrived, one.arrived)
	}
	if len(arrived) != 1 {
		return errors.New("a request can be held only where there is one service")
	}
	select {
	case <-arrived[0]:
		return nil
	case a := <-begun:
		return fmt.Errorf("the request was not held: %q, %w", a.text, a.err)
	case <-time.After(live.Patience):
		return errors.New("the request did not arrive")
	}
}

func (s *script) release(_ *testscript.TestScript, args []string) error {
	if err := usage(args, 1, "release NAME"); err != nil {
		return err
	}
	s.services[args[0]].release <- struct{}{}
	return nil
}

func (s *script) finish(ts *testscript.TestScript, _ []string) error {
	a := <-s.begun
	fmt.Fprint(ts.Stdout(), a.text)
	if a.err != nil {
		fmt.Fprintln(ts.Stdout(), "cut:", a.err)
	}
	return nil
}

func (s *script) open(ts *testscript.TestScript, args []string) error {
	if err := usage(args, 1, "open URL"); err != nil {
		return err
	}
	address, path, _ := strings.Cut(strings.TrimPrefix(args[0], "http://"), "/")
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	s.upgraded, s.echoes = c, bufio.NewReader(c)
	if err := c.SetDeadline(time.Now().Add(2 * live.Patience)); err != nil {
		return err
	}
	fmt.Fprintf(c, "GET /%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", path, address)
	res, err := http.ReadResponse(s.echoes, nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(ts.Stdout(), "%s %s\n", res.Proto, res.Status)
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("the answer is %s", res.Status)
	}
	return nil
}

func (s *script) say(ts *testscript.TestScript, args []string) error {
	if err := usage(args, 1, "say TEXT"); err != nil {
		return err
	}
	if _, err := io.WriteString(s.upgraded, args[0]+"\n"); err != nil {
		return err
	}
	line, err := s.echoes.ReadString('\n')
	fmt.Fprint(ts.Stdout(), line)
	return err
}

func (s *script) hangup(_ *testscript.TestScript, _ []string) error {
	return s.upgraded.Close()
}
