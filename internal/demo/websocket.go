package demo

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// The opcodes of RFC 6455, section 5.2, that this end acts on.
const (
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA
)

// mostPayload is the largest frame that is echoed.
const mostPayload = 1<<16 - 1

var errFrame = errors.New("the frame is not masked or too large")

// websocketEcho sends back every WebSocket frame that it receives, as a server
// to a client sends them: without the mask.
func websocketEcho(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || key == "" {
		w.Header().Set("Upgrade", "websocket")
		refuse(w, http.StatusUpgradeRequired, "this is a WebSocket")
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	defer c.Close()
	stop := context.AfterFunc(r.Context(), func() { c.Close() }) // the services stop
	defer stop()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\nX-Instance: %s\r\n\r\n", acceptKey(key), w.Header().Get("X-Instance"))
	for rw.Flush() == nil {
		first, payload, err := readFrame(rw.Reader)
		if err != nil {
			return
		}
		switch first & 0xF {
		case opPing:
			first = first&0xF0 | opPong
		case opPong:
			continue
		}
		writeFrame(rw.Writer, first, payload)
		if first&0xF == opClose {
			_ = rw.Flush() // it ends here, with or without the farewell
			return
		}
	}
}

// acceptKey answers a client's key (RFC 6455, section 4.2.2). SHA-1 is what
// the protocol says; nothing here is kept secret by it.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // the protocol says so
	return base64.StdEncoding.EncodeToString(sum[:])
}

// readFrame reads a frame (RFC 6455, section 5.2). Frames of a client are
// masked.
func readFrame(r *bufio.Reader) (first byte, payload []byte, err error) {
	var head [14]byte
	if _, err = io.ReadFull(r, head[:2]); err != nil {
		return 0, nil, err
	}
	size := uint64(head[1] & 0x7F)
	switch size {
	case 126:
		if _, err = io.ReadFull(r, head[2:4]); err != nil {
			return 0, nil, err
		}
		size = uint64(binary.BigEndian.Uint16(head[2:4]))
	case 127:
		if _, err = io.ReadFull(r, head[2:10]); err != nil {
			return 0, nil, err
		}
		size = binary.BigEndian.Uint64(head[2:10])
	}
	if head[1]&0x80 == 0 || size > mostPayload {
		return 0, nil, errFrame
	}
	mask := head[10:14]
	if _, err = io.ReadFull(r, mask); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, size)
	if _, err = io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= mask[i&3]
	}
	return head[0], payload, nil
}

// writeFrame gathers a frame; what goes wrong shows when it is flushed.
func writeFrame(w *bufio.Writer, first byte, payload []byte) {
	head := []byte{first}
	switch n := len(payload); {
	case n < 126:
		head = append(head, byte(n))
	default:
		head = append(head, 126)
		head = binary.BigEndian.AppendUint16(head, uint16(n))
	}
	_, _ = w.Write(head)
	_, _ = w.Write(payload)
}
