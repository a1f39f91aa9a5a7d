package password

import (
	"errors"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// TestLikeIsComputed makes sure that a dummy of bcrypt is one that can be read:
// what cannot be would be refused without the work that takes the time.
func TestLikeIsComputed(t *testing.T) {
	h, err := Parse("$2b$04$.vGA1O9wmRjrwAVXD98HNOgsNpDczlqm3Jq7KnEd1rVAGv3Fykk1a")
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := bcrypt.CompareHashAndPassword(h.Like().bcrypt, []byte("x")); !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			t.Fatalf("the dummy is not compared: %v", err)
		}
	}
}
