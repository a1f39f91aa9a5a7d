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
		// Structs of texts, numbers and lists of them: nothing fails.
		_ = e.Encode(s)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
