package watch

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Files are compared when they have been quiet, now and then when they never
// are, and at intervals where nobody tells of changes.
func TestWhenFilesAreCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var looks []time.Duration
		var told []string
		begin := time.Now()
		w := &Watcher{
			changed: func() {
				mu.Lock()
				defer mu.Unlock()
				looks = append(looks, time.Since(begin))
			},
			failed: func(err error) { told = append(told, err.Error()) },
			stop:   make(chan struct{}), done: make(chan struct{}),
		}
		events, errs := make(chan fsnotify.Event), make(chan error)
		go w.run(events, errs)
		// seen returns when there was a look since the last call.
		seen := func() []time.Duration {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			got := looks
			looks, begin = nil, time.Now()
			return got
		}
		for range 3 { // a certificate, its key, and a link
			events <- fsnotify.Event{}
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if got := seen(); !slices.Equal(got, []time.Duration{100*time.Millisecond + settle}) {
			t.Errorf("a burst: looked at %v", got)
		}
		for range 30 {
			events <- fsnotify.Event{}
			time.Sleep(50 * time.Millisecond)
		}
		if got := seen(); len(got) != 1 || got[0] > patience+settle {
			t.Errorf("a folder that is never quiet: looked at %v", got)
		}
		time.Sleep(time.Second)
		seen()
		time.Sleep(2 * recheck)
		if got := seen(); len(got) != 2 {
			t.Errorf("in silence: looked at %v", got)
		}
		errs <- errors.New("lost events")
		errs <- errors.New("lost events")
		time.Sleep(time.Second)
		if got := seen(); len(got) != 1 {
			t.Errorf("after events were lost: looked at %v", got)
		}
		close(w.stop)
		<-w.done
		if !slices.Equal(told, []string{"lost events"}) {
			t.Errorf("told %q", told)
		}
	})
}

func TestFolders(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	for _, d := range []string{"v1", "etc", "loop"} {
		if err := os.Mkdir(in(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(in("v1", "a.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{in("data"): "v1", in("etc", "a.crt"): "../data/a.crt", in("loop", "x"): "y", in("loop", "y"): "x"} {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string][]string{
		in("v1", "a.crt"):   {in("v1")},
		in("etc", "a.crt"):  {in("etc"), in("data"), in("v1")},
		in("data", "a.crt"): {in("data"), in("v1")},
		in("none", "a.crt"): {in("none")},
		in("v1"):            {in("v1"), dir},
		in("data"):          {in("data"), dir, dir},
		in("loop", "x"):     slices.Repeat([]string{in("loop")}, 8),
	} {
		if got := folders(path); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
