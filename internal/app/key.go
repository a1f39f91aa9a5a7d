package app

import (
	"gatehouse.dev/gatehouse/internal/consumer"
	"gatehouse.dev/gatehouse/internal/password"
)

// NewKey returns a new API key and its hash for the configuration.
func NewKey() (key, hash string) {
	key = consumer.NewKey()
	return key, consumer.HashKey(key)
}

// HashKey returns the hash of a key for the configuration.
func HashKey(key string) string { return consumer.HashKey(key) }

// IsKey tells whether a text has the form of a key that NewKey made, with the
// right checksum.
func IsKey(text string) bool { return consumer.IsKey(text) }

// HashPassword returns the hash of a password for the configuration.
func HashPassword(text string) (string, error) { return password.New(text) }
