// Package h2 owns HTTP/2 (RFC 9113): connections in both directions, flow
// control with back pressure, the rules for fields, and the budgets that keep
// the other end from making us work for nothing. Frames are read by the Framer
// and the HPACK decoder of golang.org/x/net/http2; everything else is here. It
// knows no configuration, no policy and no route. A message that breaks the
// rules is reset and never passed on, so nothing that HTTP/1 would misread
// gets through a downgrade.
//
// One goroutine reads a connection and never waits for anything else, so that
// a stream that stalls cannot stop the others. Each running exchange has a
// goroutine of its own. What they write is gathered and goes out together.
package h2

import (
	"errors"
	"fmt"

	"golang.org/x/net/http2"
)

// Sizes in bytes.
const (
	frameHead     = 9        // of every frame: RFC 9113, section 4.1
	maxFrame      = 16 << 10 // largest frame that is taken, and sent
	defaultWindow = 65535    // of connections and streams at first: section 6.9.2

	// streamWindow is how much a stream may send at first, mostWindow what it
	// grows to when its reader keeps up. With the buffer that is being read, a
	// stream that stalls holds no more than 128 KiB.
	streamWindow = 64 << 10
	mostWindow   = 112 << 10

	// connWindow is not meant to limit: it is given back as bytes come, so
	// that streams which are not read cannot stop the others.
	connWindow = 1 << 20

	// gatherMost is how much is gathered for the other end before streams
	// wait; controlSpare is kept free for what answers its frames.
	gatherMost   = 64 << 10
	controlSpare = 8 << 10
)

// preface is what a client's connection begins with (RFC 9113, section 3.4).
const preface = http2.ClientPreface

// Malformed is the error of a message that breaks the rules of RFC 9113,
// section 8. It says what is wrong.
type Malformed string

func (m Malformed) Error() string { return "malformed message: " + string(m) }

// textOf returns what is wrong without the words that introduce it.
func textOf(err error) string {
	var m Malformed
	if errors.As(err, &m) {
		return string(m)
	}
	return err.Error()
}

// resetError is the end of one stream by RST_STREAM.
type resetError struct {
	code   http2.ErrCode
	remote bool   // the other end sent it
	text   string // what the other end did wrong, when it did not
}

func (e resetError) Error() string {
	if e.remote {
		return "stream was reset by the other end: " + e.code.String()
	}
	return "stream was reset: " + e.code.String() + ": " + e.text
}

// connError ends a connection with GOAWAY.
type connError struct {
	code http2.ErrCode
	text string
}

func (e *connError) Error() string { return fmt.Sprintf("%s: %s", e.code, e.text) }

func protocolError(text string) error { return &connError{http2.ErrCodeProtocol, text} }

// calm is the error of an other end that has used up a budget.
func calm(text string) error { return &connError{http2.ErrCodeEnhanceYourCalm, text} }

// The ends of a connection that are nobody's fault.
var (
	errDone   = errors.New("connection has nothing more to do")
	errUnread = errors.New("the other end does not read what answers its frames")
)
