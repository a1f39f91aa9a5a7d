package front

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// The beginning of a TLS connection, read without ending it: which name the
// client asks for. The parser is strict, since whatever it reads in another way
// than the service behind would lead a connection astray. With Encrypted Client
// Hello the name is the public one.

var (
	errNotTLS  = errors.New("the connection does not begin with a TLS handshake")
	errHello   = errors.New("the ClientHello is malformed")
	errHelloIn = errors.New("the ClientHello is too long")
)

func badHello(why string) error { return fmt.Errorf("%w: %s", errHello, why) }

const (
	recordHandshake = 22
	recordHead      = 5
	recordMost      = 1 << 14 // RFC 8446, section 5.1
	clientHello     = 1
	helloMost       = 1 << 16 // of a handshake message that is a ClientHello
)

// parseHello reads the ClientHello that p begins with, from as many records as
// it is spread over. name is what the client asks for, in lower case, "" for
// nothing. whole is false while more bytes are needed.
func parseHello(p []byte) (name string, whole bool, err error) {
	var message []byte
	for {
		if len(p) > 0 && p[0] != recordHandshake || len(p) > 1 && p[1] != 3 {
			if message == nil {
				return "", false, errNotTLS
			}
			return "", false, badHello("a record of another kind stands within it")
		}
		if len(p) < recordHead {
			return "", false, nil
		}
		n := int(binary.BigEndian.Uint16(p[3:]))
		if n == 0 || n > recordMost {
			return "", false, badHello("a record is empty or too long")
		}
		part := p[recordHead:]
		complete := len(part) >= n
		if complete {
			part = part[:n]
		}
		if message == nil {
			message = part // not copied where one record holds all, as it usually does
		} else {
			message = append(message[:len(message):len(message)], part...)
		}
		if len(message) > 0 && message[0] != clientHello {
			return "", false, badHello("another handshake message comes first")
		}
		if len(message) >= 4 {
			size := 4 + int(message[1])<<16 + int(message[2])<<8 + int(message[3])
			switch {
			case size > helloMost:
				return "", false, errHelloIn
			case len(message) > size:
				return "", false, badHello("something follows it in its record")
			case len(message) == size:
				if !complete {
					return "", false, badHello("its record is longer than it is")
				}
				name, err = helloName(message[4:])
				return name, err == nil, err
			}
		}
		if !complete {
			return "", false, nil
		}
		p = p[recordHead+n:]
	}
}

// vector takes a part off p that begins with its length, which has so many
// bytes. ok is false when p is too short.
func vector(p []byte, lengthBytes int) (v, rest []byte, ok bool) {
	if len(p) < lengthBytes {
		return nil, nil, false
	}
	n := 0
	for _, b := range p[:lengthBytes] {
		n = n<<8 | int(b)
	}
	p = p[lengthBytes:]
	if len(p) < n {
		return nil, nil, false
	}
	return p[:n], p[n:], true
}

// helloName finds the server name (RFC 8446, section 4.1.2; RFC 6066, section
// 3).
func helloName(p []byte) (name string, err error) {
	if len(p) < 2+32 || p[0] != 3 {
		return "", badHello("its version is not one")
	}
	session, p, ok := vector(p[2+32:], 1)
	if !ok || len(session) > 32 {
		return "", badHello("its session")
	}
	suites, p, ok := vector(p, 2)
	if !ok || len(suites) < 2 || len(suites)%2 != 0 {
		return "", badHello("its cipher suites")
	}
	compression, p, ok := vector(p, 1)
	if !ok || len(compression) == 0 {
		return "", badHello("its compression methods")
	}
	if len(p) == 0 {
		return "", nil // before there were extensions
	}
	extensions, rest, ok := vector(p, 2)
	if !ok || len(rest) > 0 {
		return "", badHello("its extensions")
	}
	var seen [1 << 16 / 64]uint64
	for len(extensions) > 0 {
		if len(extensions) < 4 {
			return "", badHello("an extension is cut short")
		}
		kind := binary.BigEndian.Uint16(extensions)
		var data []byte
		if data, extensions, ok = vector(extensions[2:], 2); !ok {
			return "", badHello("an extension is cut short")
		}
		if bit := uint64(1) << (kind % 64); seen[kind/64]&bit != 0 {
			return "", badHello("an extension stands twice")
		} else {
			seen[kind/64] |= bit
		}
		if kind == 0 {
			if name, err = serverName(data); err != nil {
				return "", err
			}
		}
	}
	return name, nil
}

// serverName reads the extension server_name.
func serverName(data []byte) (string, error) {
	list, rest, ok := vector(data, 2)
	if !ok || len(rest) > 0 || len(list) < 1 || list[0] != 0 {
		return "", badHello("its server name")
	}
	raw, rest, ok := vector(list[1:], 2)
	if !ok || len(rest) > 0 {
		return "", badHello("its server name")
	}
	name := strings.ToLower(string(raw))
	if !hostName(name) {
		return "", badHello("its server name is not a name")
	}
	return name, nil
}

// hostName reports whether a text in lower case is a name that a certificate
// could have, and no address.
func hostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	_, err := netip.ParseAddr(s)
	return err != nil
}
