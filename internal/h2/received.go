package h2

import (
	"errors"
	"fmt"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// This file is what the frames of the other end do (RFC 9113, section 6).

// settings takes SETTINGS (RFC 9113, section 6.5).
func (l *link) settings(f *http2.SettingsFrame) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.IsAck() {
		if !l.settled {
			return protocolError("the first frame is not SETTINGS")
		}
		return nil
	}
	if l.settled {
		if err := l.guard.chatter(1 + f.NumSettings()); err != nil {
			return err
		}
	} else if f.NumSettings() > 64 {
		return calm("too many settings")
	}
	l.settled = true
	if err := f.ForeachSetting(l.set); err != nil {
		return err
	}
	l.role.settings()
	return l.answer(appendSettingsAck(l.gather()))
}

func (l *link) set(s http2.Setting) error {
	switch s.ID {
	case http2.SettingInitialWindowSize:
		if s.Val > 1<<31-1 {
			return &connError{http2.ErrCodeFlowControl, "initial window is too large"}
		}
		change := int(s.Val) - l.peerWindow
		l.peerWindow = int(s.Val)
		for _, st := range l.streams {
			if st.sendWindow += change; st.sendWindow > 1<<31-1 {
				return &connError{http2.ErrCodeFlowControl, "window is too large"}
			}
			st.writing.Broadcast()
		}
	case http2.SettingMaxFrameSize:
		if s.Val < 16<<10 || s.Val > 1<<24-1 {
			return protocolError("maximum frame size is out of range")
		}
		l.peerFrame = min(int(s.Val), maxFrame)
	case http2.SettingMaxConcurrentStreams:
		l.peerStreams = s.Val
	case http2.SettingEnablePush:
		if s.Val > 1 {
			return protocolError("ENABLE_PUSH is neither 0 nor 1")
		}
	case http2.SettingEnableConnectProtocol:
		if s.Val > 1 {
			return protocolError("ENABLE_CONNECT_PROTOCOL is neither 0 nor 1")
		}
		l.peerConnect = s.Val == 1
	}
	// The size of the header table does not concern an encoder without one.
	return nil
}

func (l *link) windowUpdate(f *http2.WindowUpdateFrame) error {
	if err := l.guard.give(); err != nil {
		return err
	}
	if f.StreamID == 0 {
		if l.sendWindow += int(f.Increment); l.sendWindow > 1<<31-1 {
			return &connError{http2.ErrCodeFlowControl, "window is too large"}
		}
		l.call()
		return nil
	}
	s := l.streams[f.StreamID]
	switch {
	case s == nil && l.role.opened(f.StreamID):
		return nil // its window does not matter any more
	case s == nil:
		return l.stray(f.StreamID, f.Type)
	}
	if s.sendWindow += int(f.Increment); s.sendWindow > 1<<31-1 {
		return l.blame(s, http2.ErrCodeFlowControl, "window is too large")
	}
	s.writing.Broadcast()
	return nil
}

func (l *link) rstStream(f *http2.RSTStreamFrame) error {
	s := l.streams[f.StreamID]
	if s == nil {
		return errors.Join(l.stray(f.StreamID, f.Type), l.guard.chatter(1))
	}
	s.end(resetError{code: f.ErrCode, remote: true})
	return l.guard.reset()
}

// stray answers a frame on a stream that is not open (RFC 9113, section 5.1).
func (l *link) stray(id uint32, t http2.FrameType) error {
	if !l.role.opened(id) {
		return protocolError(fmt.Sprintf("%v on an idle stream", t))
	}
	ours, known := l.closed.find(id)
	if t == http2.FrameRSTStream || ours || t == http2.FrameData && !known {
		return l.guard.chatter(1) // it may have been on its way
	}
	if t == http2.FrameHeaders && !known {
		return protocolError("HEADERS on a stream that is over")
	}
	return &connError{http2.ErrCodeStreamClosed, fmt.Sprintf("%v on a closed stream", t)}
}

// fault resets a stream for something that the other end did wrong.
func (l *link) fault(id uint32, code http2.ErrCode, text string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.streams[id]; s != nil {
		return l.blame(s, code, text)
	}
	if !l.role.opened(id) {
		return &connError{code, text}
	}
	return l.guard.chatter(1)
}

// blame is fault with the lock held. Resets that a client provokes cost as
// much as its own.
func (l *link) blame(s *stream, code http2.ErrCode, text string) error {
	s.resetAs(code, resetError{code: code, text: text})
	return l.guard.reset()
}

// data takes DATA (RFC 9113, section 6.1).
func (l *link) data(f *http2.DataFrame) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int(f.Length)
	if l.recvWindow -= n; l.recvWindow < 0 {
		return &connError{http2.ErrCodeFlowControl, "more than the connection's window"}
	}
	if l.owed += n; l.owed >= connWindow/2 {
		if err := l.answer(appendWindowUpdate(l.gather(), 0, l.owed)); err != nil {
			return err
		}
		l.recvWindow += l.owed
		l.owed = 0
	}
	s := l.streams[f.StreamID]
	if s == nil {
		return l.stray(f.StreamID, f.Type)
	}
	p := f.Data()
	if len(p) == 0 && !f.StreamEnded() {
		if err := l.guard.chatter(1); err != nil {
			return err
		}
	}
	if s.ended {
		return l.blame(s, http2.ErrCodeStreamClosed, "DATA after the end")
	}
	if s.window -= n; s.window < 0 {
		return l.blame(s, http2.ErrCodeFlowControl, "more than the stream's window")
	}
	if err := l.role.mayHave(s, len(p)); err != nil {
		return l.blame(s, http2.ErrCodeProtocol, err.Error())
	}
	s.got += int64(len(p))
	if s.length >= 0 && (s.got > s.length || f.StreamEnded() && s.got < s.length) {
		return l.blame(s, http2.ErrCodeProtocol, "body is not as long as its Content-Length")
	}
	s.receive(p)
	s.owed += n - len(p) // padding is taken at once
	if f.StreamEnded() {
		s.endRemote()
	}
	return nil
}

// headers begins a header block.
func (l *link) headers(f *http2.HeadersFrame) error {
	kind, h, bytes, fields, err := l.head(f)
	if err != nil {
		return err
	}
	if l.dec == nil {
		l.dec = hpack.NewDecoder(4096, l.block.field)
	}
	l.block.begin(kind, h, bytes, fields)
	l.dec.SetEmitEnabled(kind != ignored)
	// One string may be too long without the connection's end, within reason.
	l.dec.SetMaxStringLength(2 * max(bytes, 4<<10))
	l.inside.id, l.inside.ended = f.StreamID, f.StreamEnded()
	l.inside.frames, l.inside.bytes = 0, 2*max(bytes, 4<<10)+maxFrame
	return l.fragment(f.HeaderBlockFragment(), f.HeadersEnded())
}

// head asks the role what a header block is.
func (l *link) head(f *http2.HeadersFrame) (kind section, h *exchange.Header, bytes, fields int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.role.head(f.StreamID, f.StreamEnded())
}

// mostFragments is how many frames a header block may come in.
const mostFragments = 32

// fragment takes a part of a header block.
func (l *link) fragment(p []byte, last bool) error {
	in := &l.inside
	in.frames++
	if in.bytes -= len(p); in.frames > mostFragments || in.bytes < 0 {
		return calm("header block is too long")
	}
	if _, err := l.dec.Write(p); err != nil {
		if errors.Is(err, hpack.ErrStringLength) {
			return calm("field is too long")
		}
		return &connError{http2.ErrCodeCompression, err.Error()}
	}
	if l.block.done() {
		l.dec.SetEmitEnabled(false) // what follows is decoded for the table only
	}
	if !last {
		return nil
	}
	if err := l.dec.Close(); err != nil {
		return &connError{http2.ErrCodeCompression, err.Error()}
	}
	id := in.id
	in.id = 0
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.role.take(id, in.ended)
}
