package consumer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"math/big"
	"strings"
)

// The form of a key: a prefix that says what it is, 32 random characters, and
// 6 that are a checksum of what stands before them. Programs that look for
// leaked keys find it by gh_[0-9A-Za-z]{38}, and the checksum tells a key from
// text that looks like one.
const (
	keyPrefix = "gh_"
	keyRandom = 32 // characters: 190 bits
	keySum    = 6
)

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// NewKey returns a new API key. It is shown once and kept nowhere.
func NewKey() string {
	b := make([]byte, 0, len(keyPrefix)+keyRandom+keySum)
	b = append(b, keyPrefix...)
	var random [64]byte
	for len(b) < len(keyPrefix)+keyRandom {
		rand.Read(random[:])
		for _, r := range random {
			// Numbers beyond a multiple of 62 are left out, so that every
			// character is as likely as the next.
			if r < 4*62 && len(b) < len(keyPrefix)+keyRandom {
				b = append(b, digits[r%62])
			}
		}
	}
	return string(b) + checksum(string(b))
}

// IsKey tells whether s has the form of a key and its checksum is right.
func IsKey(s string) bool {
	if len(s) != len(keyPrefix)+keyRandom+keySum || !strings.HasPrefix(s, keyPrefix) {
		return false
	}
	for i := len(keyPrefix); i < len(s); i++ {
		if strings.IndexByte(digits, s[i]) < 0 {
			return false
		}
	}
	body := s[:len(s)-keySum]
	return checksum(body) == s[len(body):]
}

func checksum(s string) string {
	text := big.NewInt(int64(crc32.ChecksumIEEE([]byte(s)))).Text(62)
	// package big has the small letters before the capital ones.
	text = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return r
	}, text)
	return strings.Repeat("0", keySum-len(text)) + text
}

// HashKey returns the hash of a key as the configuration keeps it.
func HashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "sha256:" + hex.EncodeToString(sum[:])
}
