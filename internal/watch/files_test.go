package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whatever way a file changes, it is told; the test waits for it, for as long as
// it may take where nothing is told of changes.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(name, text string) {
		t.Helper()
		must(os.MkdirAll(filepath.Dir(in(name)), 0o700))
		must(os.WriteFile(in(name), []byte(text), 0o600))
	}
	put("v1/a", "one")
	put("v2/a", "two")
	must(os.Symlink("v1", in("data")))
	must(os.Symlink("data/a", in("a")))
	var files []string
	for i := range 500 { // in one folder, and in as many
		for _, name := range []string{fmt.Sprintf("many/%d", i), fmt.Sprintf("folders/%d/a", i)} {
			put(name, "one")
			files = append(files, in(name))
		}
	}
	files = append(files, in("a"), in("v1/a"), in("conf"), in("none/yet"))
	put("conf/x", "one")

	changed := make(chan struct{}, 1)
	w := New(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}, func(error) {}) // that a folder is not there is told, and no error of the test
	defer w.Close()
	w.Follow(files)
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"written in place", func() { put("many/499", "two") }},
		{"written in another folder", func() { put("folders/250/a", "two") }},
		{"renamed over it", func() { put("next", "two"); must(os.Rename(in("next"), in("v1/a"))) }},
		{"a link is swapped", func() { must(os.Symlink("v2", in("next"))); must(os.Rename(in("next"), in("data"))) }},
		{"behind the new link", func() { put("v2/a", "three") }},
		{"in a folder that was named", func() { put("conf/y", "one") }},
		{"removed", func() { must(os.Remove(in("many/0"))) }},
		{"one that was not there", func() { put("none/yet", "one") }},
	} {
		select { // what is left of the last one
		case <-changed:
		default:
		}
		c.do()
		<-changed
		t.Log(c.name)
	}
}
