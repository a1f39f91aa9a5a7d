package wire

import (
	"io"
	"time"
)

// WriteError marks an error of Splice's destination; one that is not marked is
// the source's.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return "write: " + e.Err.Error() }

// Unwrap returns the destination's error.
func (e *WriteError) Unwrap() error { return e.Err }

// Splice moves n bytes from src to dst, or all until src ends when n is
// negative, and returns how many reached dst. Between two plain sockets the
// bytes stay inside the kernel. Every step begins the timeouts of both
// connections anew, and SetPace holds for src. An end of src before n bytes is io.ErrUnexpectedEOF; an
// error of dst is a *WriteError.
func Splice(dst, src *Conn, n int64) (int64, error) {
	if dst.raw != nil && src.raw != nil && dst.over == nil && src.over == nil {
		return spliceRaw(dst, src, n)
	}
	var done int64
	for n < 0 || done < n {
		k, err := copyOnce(dst, src, n-done)
		done += k
		switch {
		case err == io.EOF && n < 0:
			return done, nil
		case err == io.EOF:
			return done, io.ErrUnexpectedEOF
		case err != nil:
			return done, err
		}
	}
	return done, nil
}

// copyOnce moves what one read brings, most bytes where most is not negative.
func copyOnce(dst, src *Conn, most int64) (int64, error) {
	if src.raw != nil || src.over != nil { // and so can tell without a buffer
		if err := src.WaitReadable(); err != nil {
			return 0, err
		}
	}
	b := GetLarge()
	defer b.Put()
	p := b.B
	if most >= 0 && most < int64(len(p)) {
		p = p[:most]
	}
	k, err := src.Read(p)
	if err != nil {
		return 0, err
	}
	src.came(int64(k))
	since := src.sweeper.now.Load()
	dst.progress() // its time passed while it had nothing to do
	began := time.Now()
	defer func() { src.holdup += time.Since(began) }()
	if _, err := dst.Write(p[:k]); err != nil {
		return 0, &WriteError{err}
	}
	dst.progress()
	src.held(since)
	return int64(k), nil
}
