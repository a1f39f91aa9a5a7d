package policytest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Scripts runs every testdata/*.txtar of the package under test, each in a
// whole gateway and in virtual time. A script has commands, then files. A
// command is a line; lines below it that are indented belong to it. Lines that
// begin with # are comments.
//
//	client ADDRESS [LISTENER]     who sends the requests that follow
//	request METHOD TARGET [leave 1s] [chunked] [cut]
//	    Name: value               a header field
//	    | text                    a line of the body
//	again N                       the last request N more times, one by one
//	together N                    the last request N times at once
//	answer STATUS                 all answers to the last request that no check
//	    CHECKS                    has seen have this status, and pass these checks
//	answers STATUS N              so many of them have it
//	cut                           the last answer broke off, or there was none
//	received [METHOD TARGET]      what an upstream got of the last request
//	    CHECKS
//	received nothing              no upstream was asked since the last check
//	received N                    so many requests came to upstreams
//	logged                        the lines of the access log since the last
//	    REGEXP                    check, one by one
//	upstream [NAME] STATUS [after 1s] [chunked] [cut]
//	    Name: value               what the upstream answers from now on
//	    | text                    a piece of the body
//	upstream [NAME] echo          it answers with what it received
//	upstream [NAME] reset         it breaks the connection
//	sleep 1s                      time passes
//	apply FILE                    a change of the configuration
//	faults FILE                   this configuration has exactly these faults
//	    REGEXP
//
// The checks of a message are:
//
//	Name: REGEXP                  some line of the field has a value like this
//	! Name                        there is no such field
//	! Name: REGEXP                there is none with a value like this
//	| REGEXP                      the body has it somewhere
//	! | REGEXP                    the body does not
//
// A regular expression must match the whole of a value; in bodies ^ and $ mean
// lines. A named group keeps what it matched, and ${name} stands for that from
// then on. A first file gatehouse.yaml is the configuration to begin with.
func Scripts(t *testing.T, cat *policy.Catalog, services func(name string) any) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { runScript(t, file, string(text), cat, services) })
		})
	}
}

func runScript(t *testing.T, file, text string, cat *policy.Catalog, services func(name string) any) {
	commands, files := parseScript(text)
	if len(files) == 0 {
		t.Fatalf("%s has no configuration", file)
	}
	s := &script{t: t, files: files, vars: make(map[string]string)}
	s.rig = newRig(t, cat, services)
	defer s.rig.Close()
	if files[0].name == "gatehouse.yaml" {
		if faults := s.rig.Apply(files[0].text); faults.Fatal() {
			t.Fatalf("the configuration has faults:\n%v", faults)
		}
	}
	for _, c := range commands {
		if err := s.run(c); err != nil {
			t.Fatalf("%s:%d: %s: %v", file, c.line, strings.Join(c.words, " "), err)
		}
	}
}

// command is a line of a script, and those that belong to it.
type command struct {
	line  int
	words []string
	below []string
}

type scriptFile struct{ name, text string }

// parseScript splits a script into commands and files.
func parseScript(text string) (commands []command, files []scriptFile) {
	for i, line := range strings.Split(text, "\n") {
		name, ok := strings.CutPrefix(line, "-- ")
		if name, end := strings.CutSuffix(name, " --"); ok && end {
			files = append(files, scriptFile{name: strings.TrimSpace(name)})
			continue
		}
		trimmed := strings.TrimSpace(line)
		switch {
		case len(files) > 0:
			files[len(files)-1].text += line + "\n"
		case trimmed == "" || trimmed[0] == '#':
		case (line[0] == ' ' || line[0] == '\t') && len(commands) > 0:
			c := &commands[len(commands)-1]
			c.below = append(c.below, trimmed)
		default:
			commands = append(commands, command{line: i + 1, words: strings.Fields(line)})
		}
	}
	return commands, files
}

// script is one that runs.
type script struct {
	t       *testing.T
	rig     *Rig
	files   []scriptFile
	vars    map[string]string
	client  *exchange.Client
	last    *Request
	answers []*Answer // that no check has looked at
	seen    *Answer   // the last one that a check has looked at
}

func (s *script) run(c command) error {
	args := make([]string, len(c.words)-1)
	for i := range args {
		args[i] = s.expand(c.words[i+1], false)
	}
	switch c.words[0] {
	case "client":
		return s.from(args)
	case "request":
		return s.request(args, c.below)
	case "again", "together":
		return s.repeat(c.words[0] == "together", args)
	case "answer":
		return s.answer(args, c.below)
	case "answers":
		return s.count(args)
	case "cut":
		return s.cut()
	case "received":
		return s.received(args, c.below)
	case "logged":
		return s.lines(s.rig.Logged(), c.below)
	case "upstream":
		return s.upstream(args, c.below)
	case "sleep":
		d, err := duration(args)
		time.Sleep(d)
		synctest.Wait()
		return err
	case "apply", "faults":
		return s.apply(c.words[0] == "faults", args, c.below)
	}
	return fmt.Errorf("there is no such command")
}

func duration(args []string) (time.Duration, error) {
	if len(args) != 1 {
		return 0, fmt.Errorf("a time is wanted")
	}
	return time.ParseDuration(args[0])
}

func (s *script) from(args []string) error {
	if len(args) == 0 || len(args) > 2 || s.rig.Config == nil {
		return fmt.Errorf("an address is wanted, and a configuration")
	}
	address := args[0]
	if a, err := netip.ParseAddr(address); err == nil {
		address = netip.AddrPortFrom(a, 40000).String()
	} else if _, err := netip.ParseAddrPort(address); err != nil {
		return err
	}
	for _, l := range s.rig.Config.Listeners {
		if len(args) == 1 || l.Name == args[1] {
			s.client = s.rig.Client(address, l)
			return nil
		}
	}
	return fmt.Errorf("there is no such listener")
}

func (s *script) request(args, below []string) error {
	if s.rig.Config == nil {
		return fmt.Errorf("there is no configuration")
	}
	if len(args) < 2 {
		return fmt.Errorf("a method and a target are wanted")
	}
	q := &Request{Method: args[0], Target: args[1], Client: s.client}
	for rest := args[2:]; len(rest) > 0; {
		switch {
		case rest[0] == "chunked":
			q.Chunked, rest = true, rest[1:]
		case rest[0] == "cut":
			q.Cut, rest = true, rest[1:]
		case rest[0] == "leave" && len(rest) > 1:
			d, err := time.ParseDuration(rest[1])
			if err != nil {
				return err
			}
			q.Leave, rest = d, rest[2:]
		default:
			return fmt.Errorf("%q is not understood", rest[0])
		}
	}
	fields, body, err := s.message(below)
	if err != nil {
		return err
	}
	q.Header, q.Body = fields, strings.Join(body, "\n")
	s.last = q
	s.answers = []*Answer{s.rig.Do(*q)}
	return nil
}

// message reads the fields and the body of a message that is sent.
func (s *script) message(below []string) (fields []exchange.Field, body []string, err error) {
	for _, line := range below {
		line = s.expand(line, false)
		if text, ok := strings.CutPrefix(line, "|"); ok {
			body = append(body, strings.TrimPrefix(text, " "))
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, nil, fmt.Errorf("%q is neither a field nor a line of a body", line)
		}
		fields = append(fields, exchange.Field{Name: name, Value: strings.TrimSpace(value), Known: exchange.LookupKnown(name)})
	}
	return fields, body, nil
}

func (s *script) repeat(together bool, args []string) error {
	n, err := number(args)
	if err != nil {
		return err
	}
	if s.last == nil {
		return fmt.Errorf("there was no request")
	}
	if !together {
		for range n {
			s.answers = append(s.answers, s.rig.Do(*s.last))
		}
		return nil
	}
	var all sync.WaitGroup
	got := make([]*Answer, n)
	for i := range got {
		all.Go(func() { got[i] = s.rig.Do(*s.last) })
	}
	all.Wait()
	s.answers = append(s.answers, got...)
	return nil
}

func number(args []string) (int, error) {
	if len(args) != 1 {
		return 0, fmt.Errorf("a number is wanted")
	}
	n, err := strconv.Atoi(args[0])
	if err == nil && (n < 0 || n > 10_000) {
		err = fmt.Errorf("a number from 0 to 10000 is wanted")
	}
	return n, err
}

// fresh returns the answers that were not looked at, or the last one that was.
func (s *script) fresh() ([]*Answer, error) {
	list := s.answers
	if len(list) == 0 && s.seen != nil {
		list = []*Answer{s.seen}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("there was no answer")
	}
	s.answers, s.seen = nil, list[len(list)-1]
	return list, nil
}

func (s *script) answer(args, below []string) error {
	status, err := number(args)
	if err != nil {
		return err
	}
	list, err := s.fresh()
	if err != nil {
		return err
	}
	for i, a := range list {
		if a.Status != status {
			return fmt.Errorf("answer %d of %d has another status:\n%v", i+1, len(list), a)
		}
		if err := s.checks(&a.Header, a.Body, below); err != nil {
			return fmt.Errorf("answer %d of %d: %w\n%v", i+1, len(list), err, a)
		}
	}
	return nil
}

func (s *script) count(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("a status and a number are wanted")
	}
	status, err := number(args[:1])
	if err != nil {
		return err
	}
	want, err := number(args[1:])
	if err != nil {
		return err
	}
	have := 0
	rest := s.answers[:0:0]
	for _, a := range s.answers {
		if a.Status == status {
			have++
		} else {
			rest = append(rest, a)
		}
	}
	if have != want {
		return fmt.Errorf("there are %d", have)
	}
	s.answers = rest
	return nil
}

func (s *script) cut() error {
	list, err := s.fresh()
	if err != nil {
		return err
	}
	for _, a := range list {
		if !a.Aborted {
			return fmt.Errorf("an answer is whole:\n%v", a)
		}
	}
	return nil
}

func (s *script) received(args, below []string) error {
	all := s.rig.Received()
	if len(args) == 1 {
		want := 0
		if args[0] != "nothing" {
			n, err := number(args)
			if err != nil {
				return err
			}
			want = n
		}
		if len(all) != want {
			return fmt.Errorf("there are %d: %v", len(all), all)
		}
		return nil
	}
	if len(all) == 0 {
		return fmt.Errorf("no upstream was asked")
	}
	q := all[len(all)-1]
	if len(args) == 2 && (q.Method != args[0] || q.Target != args[1]) {
		return fmt.Errorf("it received\n%v", q)
	}
	h := q.Header
	h.Add("Host", q.Host)
	h.Add("Upstream", q.Upstream)
	if err := s.checks(&h, q.Body, below); err != nil {
		return fmt.Errorf("%w; it received\n%v", err, q)
	}
	return nil
}

func (s *script) upstream(args, below []string) error {
	var b Behaviour
	name := ""
	if len(args) > 0 && args[0] != "echo" && args[0] != "reset" {
		if _, err := strconv.Atoi(args[0]); err != nil {
			name, args = args[0], args[1:]
		}
	}
	for rest := args; len(rest) > 0; {
		word := rest[0]
		rest = rest[1:]
		switch n, err := strconv.Atoi(word); {
		case err == nil:
			b.Status = n
		case word == "echo":
			b.Status = 0
		case word == "reset":
			b.Problem = &broken
		case word == "chunked":
			b.Chunked = true
		case word == "cut":
			b.Cut = true
		case word == "after" && len(rest) > 0:
			d, err := time.ParseDuration(rest[0])
			if err != nil {
				return err
			}
			b.After, rest = d, rest[1:]
		default:
			return fmt.Errorf("%q is not understood", word)
		}
	}
	fields, body, err := s.message(below)
	if err != nil {
		return err
	}
	b.Header, b.Pieces = fields, body
	s.rig.Behave(name, b)
	return nil
}

func (s *script) apply(faulty bool, args, below []string) error {
	if len(args) != 1 {
		return fmt.Errorf("a file is wanted")
	}
	for _, f := range s.files {
		if f.name != args[0] {
			continue
		}
		faults := s.rig.Apply(f.text)
		if !faulty {
			if faults.Fatal() {
				return faults
			}
			s.client = nil
			return nil
		}
		faults.Sort()
		lines := make([]string, len(faults))
		for i, f := range faults {
			lines[i] = f.Error()
		}
		return s.lines(lines, below)
	}
	return fmt.Errorf("there is no such file")
}

// lines checks that lines match regular expressions one by one.
func (s *script) lines(lines, below []string) error {
	for i, line := range lines {
		if i >= len(below) {
			return fmt.Errorf("there is one more: %s", line)
		}
		ok, err := s.match(below[i], line, true)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("line %d is another: %s", i+1, line)
		}
	}
	if len(below) > len(lines) {
		return fmt.Errorf("there is none for %s", below[len(lines)])
	}
	return nil
}

// checks looks at a message.
func (s *script) checks(h *exchange.Header, body string, below []string) error {
	for _, check := range below {
		line, not := strings.CutPrefix(check, "! ")
		var ok bool
		var err error
		if expr, inBody := strings.CutPrefix(line, "|"); inBody {
			ok, err = s.match(strings.TrimPrefix(expr, " "), body, false)
		} else if name, expr, valued := strings.Cut(line, ":"); valued {
			ok, err = s.field(h, name, strings.TrimSpace(expr))
		} else if not {
			_, ok = h.Lookup(line)
		} else {
			err = fmt.Errorf("it is no check")
		}
		if err == nil && ok == not {
			err = fmt.Errorf("it does not hold")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", check, err)
		}
	}
	return nil
}

func (s *script) field(h *exchange.Header, name, expr string) (bool, error) {
	for v := range h.Values(name) {
		if ok, err := s.match(expr, v, true); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// match matches the whole of a text, or finds something in it, and keeps the
// named groups.
func (s *script) match(expr, text string, whole bool) (bool, error) {
	expr = s.expand(expr, true)
	if whole {
		expr = `\A(?:` + expr + `)\z`
	}
	re, err := regexp.Compile("(?m)" + expr)
	if err != nil {
		return false, err
	}
	m := re.FindStringSubmatch(text)
	for i, name := range re.SubexpNames() {
		if name != "" && m != nil {
			s.vars[name] = m[i]
		}
	}
	return m != nil, nil
}

// expand puts what groups have kept in place of ${name}.
func (s *script) expand(text string, quoted bool) string {
	return variable.ReplaceAllStringFunc(text, func(ref string) string {
		value, ok := s.vars[ref[2:len(ref)-1]]
		switch {
		case !ok:
			return ref
		case quoted:
			return regexp.QuoteMeta(value)
		}
		return value
	})
}

var variable = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*\}`)
