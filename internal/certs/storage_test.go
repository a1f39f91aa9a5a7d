package certs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestFolder(t *testing.T) {
	ctx, root := t.Context(), filepath.Join(t.TempDir(), "state")
	f := newFolder(root)
	if err := f.usable(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load of nothing: %v", err)
	}
	if _, err := f.Stat(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat of nothing: %v", err)
	}
	if _, err := f.List(ctx, "a", true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list of nothing: %v", err)
	}
	if err := f.Delete(ctx, "a/b"); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
	for _, key := range []string{"a/b", "a/c/d", "a/b"} {
		if err := f.Store(ctx, key, []byte("value of "+key)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := f.Load(ctx, "a/c/d"); string(got) != "value of a/c/d" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if e, err := f.Stat(ctx, "a/b"); err != nil || !e.Value || e.Size != int64(len("value of a/b")) || e.Modified.IsZero() {
		t.Errorf("%+v %v", e, err)
	}
	if e, err := f.Stat(ctx, "a"); err != nil || e.Value {
		t.Errorf("%+v %v", e, err)
	}
	for deep, want := range map[bool][]string{false: {"a/b", "a/c"}, true: {"a/b", "a/c", "a/c/d"}} {
		if got, err := f.List(ctx, "a", deep); !slices.Equal(got, want) || err != nil {
			t.Errorf("%q %v, want %q", got, err, want)
		}
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err == nil && st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v", path, st.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Delete(ctx, "a/c"); err != nil {
		t.Fatal(err)
	}
	if got, _ := f.List(ctx, "a", true); !slices.Equal(got, []string{"a/b"}) {
		t.Errorf("after a deletion: %q", got)
	}
	outside := filepath.Join(filepath.Dir(root), "x")
	for _, key := range []string{"../x", "/x", "a/../../x", ""} {
		if err := f.Store(ctx, key, nil); err == nil {
			t.Errorf("%q was stored", key)
		}
		if _, err := f.Load(ctx, key); err == nil {
			t.Errorf("%q was loaded", key)
		}
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("a key led out of the folder")
	}
}

func TestFolderThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := newFolder(filepath.Join(file, "state")).usable(); err == nil {
		t.Error("a folder below a file")
	}
}

// Two stores of one folder, as in two processes, exclude each other.
func TestLocks(t *testing.T) {
	ctx, root := t.Context(), t.TempDir()
	a, b := newFolder(root), newFolder(root)
	if err := a.Lock(ctx, "x/y"); err != nil {
		t.Fatal(err)
	}
	if err := b.Lock(ctx, "z"); err != nil {
		t.Errorf("another name: %v", err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Lock(short, "x/y"); !errors.Is(err, context.Canceled) {
		t.Errorf("what is locked: %v", err)
	}
	got := make(chan error)
	go func() { got <- b.Lock(ctx, "x/y") }()
	if err := a.Unlock(ctx, "x/y"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a free lock is not to be had")
	}
	if err := a.Unlock(ctx, "x/y"); err == nil {
		t.Error("somebody else's lock was unlocked")
	}
	for _, name := range []string{"x/y", "z"} {
		if err := b.Unlock(ctx, name); err != nil {
			t.Error(err)
		}
	}
}
