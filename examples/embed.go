// Package examples holds the example configurations, for "gatehouse demo" and
// for tests. It has no logic.
package examples

import _ "embed"

// Shop is the configuration of the demo.
//
//go:embed shop/gatehouse.yaml
var Shop []byte

// Minimal is the shortest useful configuration.
//
//go:embed minimal/gatehouse.yaml
var Minimal []byte
