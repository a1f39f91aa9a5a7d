package policytest

import "regexp"

var secret = regexp.MustCompile(`\$\{([A-Z_]*(?:SECRET|KEY|TOKEN|PASSWORD|KEY_ID))(:-|\})`)

// Secrets returns the variables that a configuration asks for its secrets, and
// which of them have a default: whoever copied that from a document would have
// a secret that everybody knows.
func Secrets(text string) (names, defaults []string) {
	for _, m := range secret.FindAllStringSubmatch(text, -1) {
		if names = append(names, m[1]); m[2] == ":-" {
			defaults = append(defaults, m[1])
		}
	}
	return names, defaults
}

// Secret is a value for any of them: it is long enough, and base64, for whoever
// wants that.
const Secret = "c2VjcmV0IG9mIHRoZSBuYW1lIHNlcnZlciBhYmNkZWZn"
