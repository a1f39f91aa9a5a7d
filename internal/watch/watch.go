// Package watch owns noticing that files may have changed, however they are put
// there: written in place, renamed over others, or behind a symbolic link that
// is swapped. It refuses to read them: what a change is, and whether it is good,
// is for those who asked.
package watch

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long the files must be quiet before they are read: editors
	// and config maps write in several steps, and a certificate and its key are
	// written one after the other.
	settle = 100 * time.Millisecond
	// patience is how long that may take: a folder may never be quiet.
	patience = time.Second
	// recheck is how often the files are compared in any case: network file
	// systems do not tell of changes made elsewhere.
	recheck = 5 * time.Second
)

// Watcher calls a function when files may have changed. It watches folders, not
// files, because files are replaced by renaming and by swapping symbolic links.
type Watcher struct {
	changed func()
	failed  func(error)
	notify  *fsnotify.Watcher // nil where the system has none
	stop    chan struct{}
	done    chan struct{}

	mu       sync.Mutex
	files    []string
	reported string
}

// New returns a Watcher of no file. It calls changed from a goroutine of its
// own, once when files have been quiet for a moment, and at intervals; and
// failed for what goes wrong, once for each text. Close ends it.
func New(changed func(), failed func(error)) *Watcher {
	w := &Watcher{changed: changed, failed: failed, stop: make(chan struct{}), done: make(chan struct{})}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.report(err)
		go w.run(nil, nil) // comparing alone still works
		return w
	}
	w.notify = notify
	go w.run(notify.Events, notify.Errors)
	return w
}

// Follow says which files are watched from now on. A folder among them stands
// for the files in it.
func (w *Watcher) Follow(files []string) {
	w.mu.Lock()
	w.files = slices.Clone(files)
	w.mu.Unlock()
	w.subscribe()
}

// subscribe watches the folders that matter now: a swapped link may lead into
// another one.
func (w *Watcher) subscribe() {
	if w.notify == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	wanted := make(map[string]bool)
	for _, f := range w.files {
		for _, dir := range folders(f) {
			wanted[dir] = true
		}
	}
	for _, dir := range w.notify.WatchList() {
		if !wanted[dir] {
			// It may have gone with its folder.
			_ = w.notify.Remove(dir)
		}
	}
	for dir := range wanted {
		if err := w.notify.Add(dir); err != nil {
			w.report(err)
		}
	}
}

// report tells of an error once.
func (w *Watcher) report(err error) {
	if text := err.Error(); text != w.reported {
		w.reported = text
		w.failed(err)
	}
}

func (w *Watcher) run(events <-chan fsnotify.Event, errs <-chan error) {
	defer close(w.done)
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	var quiet <-chan time.Time
	var begun time.Time
	await := func() {
		if quiet == nil {
			begun = time.Now()
		}
		if time.Since(begun) < patience {
			quiet = time.After(settle)
		}
	}
	for {
		select {
		case <-w.stop:
			return
		case <-events:
			await()
			continue
		case err := <-errs: // what happened meanwhile is not told
			w.mu.Lock()
			w.report(err)
			w.mu.Unlock()
			await()
			continue
		case <-quiet:
			quiet = nil
		case <-tick.C:
		}
		w.subscribe()
		w.changed()
	}
}

// Close ends watching. When it returns nothing is called any more.
func (w *Watcher) Close() {
	close(w.stop)
	<-w.done
	if w.notify != nil {
		// Nothing is left that could fail.
		_ = w.notify.Close()
	}
}

// folders returns the folders in which a change can alter what a path means:
// its own, itself if it is one, and that of every symbolic link on the way to
// the file.
func folders(path string) (list []string) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		list = append(list, path)
	}
	for range 8 {
		list = append(list, filepath.Dir(path))
		target, err := os.Readlink(path)
		if err != nil {
			// The folder itself may be a link, as in a mounted config map.
			if end, err := filepath.EvalSymlinks(path); err == nil && filepath.Dir(end) != filepath.Dir(path) {
				list = append(list, filepath.Dir(end))
			}
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return list
}
