package h2

import "strings"

// defaultUrgency is that of a stream whose client says nothing (RFC 9218,
// section 4.1). 0 is the most urgent, 7 the least.
const defaultUrgency = 3

// parsePriority reads a Priority field or the value of a PRIORITY_UPDATE (RFC
// 9218, section 4): a dictionary of which u and i are of interest. What is not
// understood leaves what was there.
func parsePriority(v string, urgency uint8, incremental bool) (uint8, bool) {
	for member := range strings.SplitSeq(v, ",") {
		member = strings.Trim(member, " \t")
		if i := strings.IndexByte(member, ';'); i >= 0 {
			member = member[:i]
		}
		switch {
		case len(member) == 3 && member[:2] == "u=" && '0' <= member[2] && member[2] <= '7':
			urgency = member[2] - '0'
		case member == "i", member == "i=?1":
			incremental = true
		case member == "i=?0":
			incremental = false
		}
	}
	return urgency, incremental
}
