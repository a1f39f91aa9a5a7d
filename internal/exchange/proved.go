package exchange

import (
	"crypto/sha256"
	"crypto/subtle"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"unsafe"
)

// Proved remembers the secret that a connection brought and that was right,
// with its digest: mostly its next request brings the same one, and to compute
// the digest is the greater part of looking at it. Whose secret it is, and
// whether it still counts, is asked each time. It is kept no longer than the
// connection. A nil Proved remembers nothing.
type Proved struct{ last atomic.Pointer[proved] }

type proved struct {
	secret string
	sum    [sha256.Size]byte
}

// SHA256 returns the digest of a secret that the client has sent, and whether it is
// the one that is remembered.
func (p *Proved) SHA256(secret string) (sum [sha256.Size]byte, known bool) {
	if p != nil {
		if last := p.last.Load(); last != nil && subtle.ConstantTimeCompare(view(last.secret), view(secret)) == 1 {
			return last.sum, true
		}
	}
	return sha256.Sum256(view(secret)), false
}

// seldom is how seldom a secret takes the place of another: a connection on
// which a proxy sends the requests of many is not to remember each.
const seldom = 16

// Right says that a secret was right that was not remembered.
func (p *Proved) Right(secret string, sum [sha256.Size]byte) {
	if p != nil && (p.last.Load() == nil || rand.Uint32N(seldom) == 0) {
		p.last.Store(&proved{strings.Clone(secret), sum})
	}
}

// view is a text as bytes that are only read.
func view(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
