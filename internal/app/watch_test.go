package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// looking has a follower look at a folder and a file of a secret while they are
// changed, and counts what it tells. Time is virtual.
func looking(t *testing.T, test func(dir string, write func(name, text string), look func() int)) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	write("conf/a.yaml", "routes: []\n")
	synctest.Test(t, func(t *testing.T) {
		changes := 0
		paths := []string{filepath.Join(dir, "conf"), filepath.Join(dir, "secret")}
		f := &follower{changed: func() { changes++ }, paths: paths, seen: fingerprint(paths...)}
		test(dir, write, func() int {
			changes = 0
			f.look(context.Background())
			return changes
		})
	})
}

func TestWhatIsAChange(t *testing.T) {
	looking(t, func(dir string, write func(name, text string), look func() int) {
		step := func(what string, want int) {
			t.Helper()
			if got := look(); got != want {
				t.Errorf("%s: %d changes, not %d", what, got, want)
			}
		}
		step("nothing", 0)
		write("conf/a.yaml", "routes: []\n")
		step("the same once more", 0)
		write("conf/a.yaml", "routes: [] # as it was\n")
		step("another text", 1)
		step("nothing since", 0)
		write("conf/b.yaml", "admin: off\n")
		step("another file", 1)
		write("conf/.b.yaml.swp", "editors do this")
		write("conf/notes.txt", "x")
		step("what is not read", 0)
		write("secret", "old")
		step("a secret that is there", 1)
		write("secret", "new")
		step("another secret", 1)
		if err := os.Remove(filepath.Join(dir, "conf", "b.yaml")); err != nil {
			t.Fatal(err)
		}
		step("a file that is gone", 1)
		if err := os.RemoveAll(filepath.Join(dir, "conf")); err != nil {
			t.Fatal(err)
		}
		step("a folder that is gone", 1)
		step("and still is", 0)
		if err := os.Mkdir(filepath.Join(dir, "conf"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(filepath.Join(dir, "conf", "a.yaml"), 0o600); err != nil {
			t.Fatal(err)
		}
		step("a pipe that nobody writes to", 1)
	})
}

// What is being written is waited for, whenever the look falls: it is loaded
// when it rests.
func TestHalfWrittenFilesAreNotLoaded(t *testing.T) {
	looking(t, func(_ string, write func(name, text string), look func() int) {
		text := "routes:\n" + strings.Repeat("  - { match: /a, respond: {} }\n", 4)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 4 {
				write("conf/a.yaml", text[:len(text)*(i+1)/4])
				time.Sleep(60 * time.Millisecond)
			}
		}()
		time.Sleep(time.Millisecond)
		begun := time.Now()
		if got := look(); got != 1 {
			t.Errorf("%d changes", got)
		}
		if took := time.Since(begun); took < 180*time.Millisecond {
			t.Errorf("it was taken after %v, when it was half written", took)
		}
		<-done
		if got := look(); got != 0 {
			t.Errorf("%d changes afterwards", got)
		}
	})
}

// A file that never rests is loaded within a second all the same.
func TestRestlessFilesAreLoaded(t *testing.T) {
	looking(t, func(_ string, write func(name, text string), look func() int) {
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := 0; ctx.Err() == nil; i++ {
				write("conf/a.yaml", fmt.Sprintf("routes: [] # %d\n", i))
				time.Sleep(30 * time.Millisecond)
			}
		}()
		time.Sleep(time.Millisecond)
		begun := time.Now()
		if got := look(); got != 1 || time.Since(begun) > time.Second {
			t.Errorf("%d changes after %v", got, time.Since(begun))
		}
		stop()
		<-done
	})
}

// Files that change while they are loaded are loaded again, but not for ever.
func TestLoadsAreWhole(t *testing.T) {
	for _, c := range []struct{ changes, loads int }{{0, 1}, {1, 2}, {2, 3}, {100, mostLoads}} {
		var now digest
		loads := 0
		whole(func() digest { return now }, func() {
			if loads++; loads <= c.changes {
				now[0]++
			}
		})
		if loads != c.loads {
			t.Errorf("%d changes: loaded %d times", c.changes, loads)
		}
	}
}

// The end is not lost among reloads that are asked for faster than they can be
// made.
func TestTheEndComesAmongManyReloads(t *testing.T) {
	seen := make(chan os.Signal, 100)
	signal.Notify(seen, syscall.SIGHUP, syscall.SIGTERM)
	defer signal.Stop(seen)
	send := func(s syscall.Signal) {
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			t.Error(err)
		}
		<-seen
	}
	source := Source{Name: "test.yaml", Data: []byte("listeners: [{ address: 127.0.0.1:0 }]\nadmin: off\nroutes: []\n")}
	ended := make(chan error, 1)
	started := make(chan *App)
	go func() { ended <- Run(source, "1", io.Discard, func(a *App) { started <- a }) }()
	a := <-started
	a.mu.Lock() // a reload that takes long
	for range 10 {
		send(syscall.SIGHUP)
	}
	send(syscall.SIGTERM)
	a.mu.Unlock()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the gateway did not end")
	}
}

// SIGHUP applies a configuration that says the same as before: files that it
// names may hold something else.
func TestReloadThatWasAskedFor(t *testing.T) {
	var log bytes.Buffer
	source := Source{Name: "test.yaml", Data: []byte("listeners: [{ address: 127.0.0.1:0 }]\nadmin: off\nroutes: []\n")}
	a, err := New(source, "1", &log)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close(context.Background())
	for _, c := range []struct {
		asked bool
		want  string
	}{{false, "configuration is unchanged"}, {true, "configuration applied"}} {
		log.Reset()
		if a.Reload(c.asked); !strings.Contains(log.String(), c.want) {
			t.Errorf("asked %v: the log says %q", c.asked, log.String())
		}
	}
}
