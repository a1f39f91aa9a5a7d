package identify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Fingerprint is a hash of settings, to tell those that changed. Secrets do not
// show themselves: their own fingerprints are to be given too.
func Fingerprint(settings ...any) string {
	h := sha256.New()
	e := json.NewEncoder(h)
	for _, s := range settings {
		// Two settings that cannot be told apart must not share anything.
		if err := e.Encode(s); err != nil {
			panic(err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
