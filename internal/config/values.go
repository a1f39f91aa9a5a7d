package config

import "gatehouse.dev/gatehouse/internal/policy"

// The values that settings are made of belong to the contract with policies,
// which use them as well.
type (
	// Duration is a length of time, written as 300ms, 5s, 1m or 24h.
	Duration = policy.Duration
	// Size is a number of bytes, written as 512, 64KiB, 10MiB or 1GiB.
	Size = policy.Size
	// Rate is a number of things in a time, written as 100/s, 6000/m, 10000/d or 1KiB/s.
	Rate = policy.Rate
	// Percent is a share, written as 20% and kept as 0.2.
	Percent = policy.Percent
	// StringList is a list of strings; a single string stands for a list of one.
	StringList = policy.StringList
	// Secret is a value that is never shown.
	Secret = policy.Secret
)
