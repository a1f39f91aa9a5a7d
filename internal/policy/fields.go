package policy

import (
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// The longest field name and value that settings may hold, in bytes. Many
// services take no field line over 8 KiB.
const (
	maxFieldName  = 256
	maxFieldValue = 8 << 10
)

// reserved are the fields that no policy sets or removes: the ones that speak
// of a connection (RFC 9110, section 7.6.1) and those that say where a message
// ends (RFC 9112, section 6) are written by the protocols alone.
const reserved = 1<<exchange.Connection | 1<<exchange.ContentLength | 1<<exchange.Expect |
	1<<exchange.HTTP2Settings | 1<<exchange.KeepAlive | 1<<exchange.ProxyConnection | 1<<exchange.TE |
	1<<exchange.Trailer | 1<<exchange.TransferEncoding | 1<<exchange.Upgrade

// CheckField returns what is wrong with the name of a header field that
// settings want to write or remove, nil when nothing is. Field is left empty.
func CheckField(name string) *Fault {
	switch k := exchange.LookupKnown(name); {
	case !IsToken(name):
		return &Fault{Text: fmt.Sprintf("%q is not a field name", name), Hint: "use letters, digits and hyphens"}
	case len(name) > maxFieldName:
		return &Fault{Text: fmt.Sprintf("a field name has at most %d characters", maxFieldName)}
	case k == exchange.Host:
		return &Fault{Text: fmt.Sprintf("%q is no ordinary field: it says whom the request is for", name), Hint: "use rewrite.host of the route"}
	case k != exchange.Other && reserved&k.Bit() != 0:
		return &Fault{Text: fmt.Sprintf("%q is set by the gateway alone: it belongs to the connection", name), Hint: "remove it"}
	}
	return nil
}

// CheckValue returns what is wrong with the value of a header field, nil when
// nothing is (RFC 9110, section 5.5).
func CheckValue(value string) *Fault {
	switch bad := strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); {
	case len(value) > maxFieldValue:
		return &Fault{Text: fmt.Sprintf("a field value has at most %d bytes", maxFieldValue)}
	case bad >= 0:
		return &Fault{Text: fmt.Sprintf("%q is not a field value: it holds the control character %q", value, value[bad])}
	case strings.Trim(value, " \t") != value:
		return &Fault{Text: fmt.Sprintf("%q is not a field value: it begins or ends with white space", value), Hint: "remove it"}
	}
	return nil
}

// TakeOff returns a field of the answer that is meant for policies, and takes it
// off the answer. Any number of policies may ask for the same one.
func TakeOff(x *exchange.Exchange, name string) (value string, ok bool) {
	r := &x.Response
	if value, ok = r.Header.Lookup(name); ok {
		r.Header.Del(name)
		r.Taken.Add(name, value)
		return value, true
	}
	return r.Taken.Lookup(name)
}

// IsToken reports whether s is a token (RFC 9110, section 5.6.2).
func IsToken(s string) bool {
	return exchange.IsToken(s)
}
