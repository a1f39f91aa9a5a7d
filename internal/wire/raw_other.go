//go:build !linux

package wire

import (
	"errors"
	"net"
)

// raw does not exist here, newRaw never makes one: net.Conn does all the work.
type raw struct{ waited bool }

var errNoRaw = errors.New("raw access to sockets is for linux only")

func newRaw(*Conn, net.Conn) *raw                         { return nil }
func (r *raw) read([]byte) (int, error)                   { return 0, errNoRaw }
func (r *raw) readBuffer() (*Buffer, int, error)          { return nil, 0, errNoRaw }
func (r *raw) readEach(func(*Buffer, int) bool) error     { return errNoRaw }
func (r *raw) waitReadable() error                        { return errNoRaw }
func (r *raw) readable() bool                             { return true }
func (r *raw) give(_, _, _ []byte)                        {}
func (r *raw) moves() bool                                { return false }
func (r *raw) flush() error                               { return errNoRaw }
func (r *raw) writeRead(w, _ []byte) ([]byte, int, error) { return w, 0, errNoRaw }
func (r *raw) shutdown()                                  {}
func (r *raw) quiet(bool) (bool, error)                   { return true, nil }

// poller has nothing to poll with: clients that went away are noticed when
// something is written to them.
type poller struct{}

func (p *poller) add(*Conn)  {}
func (p *poller) poll(int64) {}

func spliceRaw(_, _ *Conn, _ int64) (int64, error) { return 0, errNoRaw }
