package certs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/certmagic"
)

// Storage keeps accounts, keys and certificates of ACME. Keys have parts
// divided by slashes. Gateways that share a Storage share the certificates, and
// obtain each only once. Any goroutine may use it.
type Storage interface {
	// Load returns a value. The error is fs.ErrNotExist where there is none, of
	// List and Stat too.
	Load(ctx context.Context, key string) ([]byte, error)
	// Store writes a value, whole or not at all.
	Store(ctx context.Context, key string, value []byte) error
	// Delete removes a key and all below it; that there is none is no error.
	Delete(ctx context.Context, key string) error
	// List returns the keys below a key; with deep those below them as well.
	List(ctx context.Context, key string, deep bool) ([]string, error)
	// Stat describes a key.
	Stat(ctx context.Context, key string) (Entry, error)
	// Lock waits until nobody else has the lock of a name. What a process held
	// that has died must become free.
	Lock(ctx context.Context, name string) error
	// Unlock gives it back.
	Unlock(ctx context.Context, name string) error
}

// Entry describes a key of a Storage.
type Entry struct {
	Modified time.Time
	Size     int64
	Value    bool // it has a value, and is not only the beginning of other keys
}

// library is a Storage as the ACME library wants it.
type library struct{ Storage }

func (l library) Exists(ctx context.Context, key string) bool {
	_, err := l.Storage.Stat(ctx, key)
	return err == nil
}

func (l library) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	e, err := l.Storage.Stat(ctx, key)
	return certmagic.KeyInfo{Key: key, Modified: e.Modified, Size: e.Size, IsTerminal: e.Value}, err
}

// again is how long to wait before a lock is tried once more.
const again = 250 * time.Millisecond

// folder is a Storage in files that nobody else may read. Its locks are those
// of the system, which frees what a dead process held.
type folder struct {
	root string

	mu   sync.Mutex
	held map[string]*os.File
}

func newFolder(root string) *folder { return &folder{root: root, held: make(map[string]*os.File)} }

// usable makes sure that the folder is there and can be written to.
func (f *folder) usable() error {
	if err := os.MkdirAll(f.root, 0o700); err != nil {
		return fmt.Errorf("make the folder %q: %w", f.root, plainError(err))
	}
	probe, err := os.CreateTemp(f.root, ".probe-*")
	if err != nil {
		return fmt.Errorf("write to the folder %q: %w", f.root, plainError(err))
	}
	probe.Close()
	return os.Remove(probe.Name())
}

func (f *folder) path(key string) (string, error) {
	if !filepath.IsLocal(filepath.FromSlash(key)) {
		return "", fmt.Errorf("%q is not a key of the storage", key)
	}
	return filepath.Join(f.root, filepath.FromSlash(key)), nil
}

func (f *folder) Load(_ context.Context, key string) ([]byte, error) {
	name, err := f.path(key)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(name)
}

func (f *folder) Store(_ context.Context, key string, value []byte) error {
	name, err := f.path(key)
	if err != nil {
		return err
	}
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = temp.Write(value)
	if err == nil {
		err = temp.Sync()
	}
	if e := temp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return syncFolder(dir)
}

// syncFolder makes a renaming last through a loss of power.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (f *folder) Delete(_ context.Context, key string) error {
	name, err := f.path(key)
	if err != nil {
		return err
	}
	return os.RemoveAll(name)
}

func (f *folder) List(ctx context.Context, key string, deep bool) (keys []string, err error) {
	root, err := f.path(key)
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case name == root || strings.HasPrefix(d.Name(), "."):
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		keys = append(keys, path.Join(key, filepath.ToSlash(rel)))
		if d.IsDir() && !deep {
			return fs.SkipDir
		}
		return nil
	})
	return keys, err
}

func (f *folder) Stat(_ context.Context, key string) (Entry, error) {
	name, err := f.path(key)
	if err != nil {
		return Entry{}, err
	}
	st, err := os.Stat(name)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Modified: st.ModTime(), Size: st.Size(), Value: !st.IsDir()}, nil
}

// Lock asks again and again: the system wakes nobody who could also give up.
func (f *folder) Lock(ctx context.Context, name string) error {
	path := filepath.Join(f.root, "locks", certmagic.StorageKeys.Safe(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	for {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		switch err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil:
			f.mu.Lock()
			f.held[name] = file
			f.mu.Unlock()
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			file.Close()
			return fmt.Errorf("lock %q: %w", path, err)
		}
		file.Close()
		wait := time.NewTimer(again)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
}

// Unlock leaves the file: to remove it could take the lock from somebody who
// has just opened it.
func (f *folder) Unlock(_ context.Context, name string) error {
	f.mu.Lock()
	file := f.held[name]
	delete(f.held, name)
	f.mu.Unlock()
	if file == nil {
		return fmt.Errorf("the lock %q is not held", name)
	}
	return file.Close()
}
