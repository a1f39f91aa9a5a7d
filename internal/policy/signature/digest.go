package signature

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// checkDigest compares the body with Content-Digest (RFC 9530). Every digest
// that we can compute has to be right, and there has to be one of SHA-2: the
// older algorithms are of no use against anybody who means it (section 5).
func checkDigest(h *exchange.Header, body []byte) error {
	var lines []string
	for v := range h.Values("Content-Digest") {
		lines = append(lines, v)
	}
	d, err := dictionary(strings.Join(lines, ", "))
	if err != nil {
		return fmt.Errorf("Content-Digest: %w", err)
	}
	checked := false
	for _, m := range d {
		want, ok := m.item.value.([]byte)
		if m.isList || !ok {
			return errors.New("Content-Digest holds something else than digests")
		}
		var have []byte
		switch m.name {
		case "sha-256":
			sum := sha256.Sum256(body)
			have = sum[:]
		case "sha-512":
			sum := sha512.Sum512(body)
			have = sum[:]
		default:
			continue
		}
		if subtle.ConstantTimeCompare(have, want) != 1 {
			return fmt.Errorf("the body has another digest of %s", m.name)
		}
		checked = true
	}
	if !checked {
		return errors.New("Content-Digest has neither sha-256 nor sha-512")
	}
	return nil
}
