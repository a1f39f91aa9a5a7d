package upstream

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// frames follows the frames of one direction of a WebSocket (RFC 6455, section
// 5.2), as far as to know how long they are. Nothing is changed, and what is in
// them is nobody's business.
type frames struct {
	maxMessage, maxFrame int64
	masked               bool // it is a client that sends

	mu      sync.Mutex // guards what follows, and writing
	head    [14]byte
	have    int    // bytes of head that came
	left    uint64 // bytes of the payload that are still to come
	message int64  // bytes of the message so far
	ended   bool   // no more may be written
}

// frameError is a reason to end a WebSocket: a status of RFC 6455, section
// 7.4.1.
type frameError struct {
	status uint16
	text   string
}

func (e frameError) Error() string { return "WebSocket: " + e.text }

const (
	statusProtocol = 1002
	statusTooBig   = 1009
)

// pass writes p, or of it what comes before a frame that goes too far.
func (f *frames) pass(dst io.Writer, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return io.ErrClosedPipe
	}
	n, bad := f.scan(p)
	if bad != nil {
		f.ended = true
		p = p[:n]
	}
	if len(p) > 0 {
		if _, err := dst.Write(p); err != nil {
			return err
		}
	}
	return bad
}

// end sends a Close frame where one may stand, and nothing follows it.
func (f *frames) end(dst io.Writer, e frameError) {
	if !f.mu.TryLock() {
		return // somebody writes, and perhaps for a long time
	}
	defer f.mu.Unlock()
	if f.ended || f.have > 0 || f.left > 0 {
		return
	}
	f.ended = true
	frame := []byte{0x88, 2}
	if f.masked {
		frame = []byte{0x88, 0x82, 0, 0, 0, 0} // nobody has to be kept from choosing the bytes
	}
	// It is a courtesy: the connection ends in any case.
	_, _ = dst.Write(binary.BigEndian.AppendUint16(frame, e.status))
}

// scan follows p. With an error n bytes of it come before the frame at fault.
func (f *frames) scan(p []byte) (n int, err error) {
	for at := 0; at < len(p); {
		if f.left > 0 {
			k := min(uint64(len(p)-at), f.left)
			f.left -= k
			at += int(k)
			n = at
			continue
		}
		f.head[f.have] = p[at]
		f.have++
		at++
		if f.have < 2 || f.have < f.size() {
			continue
		}
		if err := f.begin(); err != nil {
			return n, err
		}
		n = at
	}
	return len(p), nil
}

// size is how long a head is that begins with the two bytes which came.
func (f *frames) size() int {
	n := 2
	switch f.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&0x80 != 0 {
		n += 4
	}
	return n
}

// begin takes a whole head.
func (f *frames) begin() error {
	f.have = 0
	if (f.head[1]&0x80 != 0) != f.masked {
		return frameError{statusProtocol, "a frame is masked, or not, against the rule of its direction"}
	}
	size := uint64(f.head[1] & 0x7f)
	switch size {
	case 126:
		size = uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		size = binary.BigEndian.Uint64(f.head[2:])
	}
	if size>>63 != 0 {
		return frameError{statusProtocol, "a frame has a negative length"}
	}
	fin, opcode := f.head[0]&0x80 != 0, f.head[0]&0x0f
	if opcode >= 8 {
		if size > 125 || !fin {
			return frameError{statusProtocol, "a control frame is too long or in parts"}
		}
		f.left = size
		return nil
	}
	if opcode != 0 {
		f.message = 0
	}
	if f.maxFrame > 0 && size > uint64(f.maxFrame) {
		return frameError{statusTooBig, fmt.Sprintf("a frame has %d bytes", size)}
	}
	if f.maxMessage > 0 && size > uint64(f.maxMessage-f.message) {
		return frameError{statusTooBig, fmt.Sprintf("a message has more than %d bytes", f.maxMessage)}
	}
	f.message += int64(size)
	if fin {
		f.message = 0
	}
	f.left = size
	return nil
}
