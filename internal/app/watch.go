package app

import (
	"context"
	"crypto/sha256"
	"io"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/watch"
)

const (
	// fileRests is for how long what the files hold must stay the same before
	// it is loaded: whoever writes them may be in the middle of it.
	fileRests = 100 * time.Millisecond
	// mostRests bounds how often that is waited for: a file that is written all
	// the time is loaded as it is.
	mostRests = 5
)

// follower calls a function when the configuration is another one: its files,
// or those that its secrets are in.
type follower struct {
	changed func()
	watch   *watch.Watcher

	mu    sync.Mutex
	paths []string
	seen  digest
}

// follow begins to watch a configuration of which seen was loaded. It ends when
// ctx does.
func follow(ctx context.Context, seen digest, changed func(), failed func(error)) *follower {
	f := &follower{changed: changed, seen: seen}
	f.watch = watch.New(func() { f.look(ctx) }, failed)
	context.AfterFunc(ctx, f.watch.Close)
	return f
}

// files says where the configuration is, and its secrets.
func (f *follower) files(paths []string) {
	f.mu.Lock()
	f.paths = paths
	f.mu.Unlock()
	f.watch.Follow(paths)
}

// look compares what the files hold with what was seen last.
func (f *follower) look(ctx context.Context) {
	f.mu.Lock()
	paths := f.paths
	f.mu.Unlock()
	now := fingerprint(paths...)
	if now == f.seen {
		return
	}
	for range mostRests {
		rest := time.NewTimer(fileRests)
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
			return
		}
		before := now
		if now = fingerprint(paths...); now == before {
			break
		}
	}
	if now != f.seen {
		f.seen = now
		f.changed()
	}
}

// mostLoads bounds how often a configuration is loaded that changes meanwhile.
const mostLoads = 3

// whole loads files until they are the same before and after: of a folder whose
// version is swapped meanwhile, some would be of the old one and some of the
// new.
func whole(look func() digest, load func()) {
	for range mostLoads {
		before := look()
		load()
		if look() == before {
			return
		}
	}
}

// digest stands for what the files at some paths hold.
type digest [sha256.Size]byte

// mostFile is how many bytes of a file count: larger ones are refused.
const mostFile = 64 << 20

// fingerprint digests the names and contents of the files at some paths. What
// cannot be read counts as it is: loading will say what is wrong with it.
func fingerprint(paths ...string) (sum digest) {
	h := sha256.New()
	for _, path := range paths {
		files, fault := config.Files(path)
		if fault != nil {
			io.WriteString(h, fault.Error())
		}
		for _, name := range files {
			io.WriteString(h, name+"\x00")
			if err := digestFile(h, name); err != nil {
				io.WriteString(h, err.Error())
			}
		}
	}
	h.Sum(sum[:0])
	return sum
}

// digestFile leaves out what is no file: a pipe gives what it holds only once.
func digestFile(h io.Writer, name string) error {
	f, err := config.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return err
	}
	_, err = io.Copy(h, io.LimitReader(f, mostFile))
	return err
}
