package all

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy"
)

// The list is grouped by stage, and says every name once.
func TestOrder(t *testing.T) {
	seen := make(map[string]bool)
	last := policy.Edge
	for _, k := range Catalog().Kinds() {
		if seen[k.Name] {
			t.Errorf("%s stands twice", k.Name)
		}
		seen[k.Name] = true
		if k.Stage < last {
			t.Errorf("%s is of stage %v and stands after one of stage %v", k.Name, k.Stage, last)
		}
		last = k.Stage
	}
}

// Whoever changes the catalog of one caller does not change that of another.
func TestFresh(t *testing.T) {
	a, b := Catalog().Kinds(), Catalog().Kinds()
	if &a[0] == &b[0] {
		t.Error("two catalogs share a list")
	}
}
