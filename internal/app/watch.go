package app

import (
	"context"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"gatehouse.dev/gatehouse/internal/config"
)

const (
	// settle is how long the files must be quiet before they are read: editors
	// and config maps write in several steps.
	settle = 100 * time.Millisecond
	// recheck is how often the files are compared in any case: network file
	// systems do not tell of changes made elsewhere.
	recheck = 5 * time.Second
)

// watch calls changed whenever the content of the configuration is another
// one than that with the fingerprint seen, until ctx ends. It watches folders,
// not files, because files are replaced by renaming and by swapping symbolic
// links.
func watch(ctx context.Context, path string, seen digest, changed func(), failed func(error)) {
	var events chan fsnotify.Event
	var errs chan error
	w, err := fsnotify.NewWatcher()
	if err != nil {
		failed(err) // the recheck alone still works
	} else {
		defer w.Close()
		events, errs = w.Events, w.Errors
	}
	recheck := time.NewTicker(recheck)
	defer recheck.Stop()
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			quiet.Reset(settle)
			continue
		case err := <-errs:
			failed(err)
			continue
		case <-quiet.C:
		case <-recheck.C:
		}
		if w != nil {
			for _, dir := range folders(path) {
				// A folder that cannot be watched is rechecked.
				_ = w.Add(dir)
			}
		}
		if now := fingerprint(path); now != seen {
			seen = now
			changed()
		}
	}
}

// folders returns the folders in which a change can alter what path means: its
// own, itself if it is one, and that of every symbolic link on the way.
func folders(path string) []string {
	var out []string
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		out = append(out, path)
	}
	for range 8 {
		out = append(out, filepath.Dir(path))
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return out
}

// digest stands for what the files at a path hold.
type digest [sha256.Size]byte

// fingerprint digests the names and contents of the files at path. What cannot
// be read counts as it is: loading will say what is wrong with it.
func fingerprint(path string) (sum digest) {
	h := sha256.New()
	files, fault := config.Files(path)
	if fault != nil {
		io.WriteString(h, fault.Error())
	}
	for _, name := range files {
		io.WriteString(h, name+"\x00")
		f, err := os.Open(name)
		if err != nil {
			io.WriteString(h, err.Error())
			continue
		}
		if _, err := io.Copy(h, f); err != nil {
			io.WriteString(h, err.Error())
		}
		f.Close()
	}
	h.Sum(sum[:0])
	return sum
}
