package certs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"gatehouse.dev/gatehouse/internal/config"
)

// DNS sets the TXT records of dns-01. Several with the same name may stand at
// once. Any goroutine may use it.
type DNS interface {
	// Set adds a record, Remove takes it away. The name ends with a dot.
	Set(ctx context.Context, name, value string) error
	Remove(ctx context.Context, name, value string) error
}

// records solves dns-01 (RFC 8555 section 8.4) as the ACME library wants it.
type records struct {
	dns   DNS
	delay time.Duration
}

func (r *records) Present(ctx context.Context, c acme.Challenge) error {
	return r.dns.Set(ctx, dns.Fqdn(c.DNS01TXTRecordName()), c.DNS01KeyAuthorization())
}

func (r *records) CleanUp(ctx context.Context, c acme.Challenge) error {
	return r.dns.Remove(ctx, dns.Fqdn(c.DNS01TXTRecordName()), c.DNS01KeyAuthorization())
}

// Wait lets the other servers of the zone follow.
func (r *records) Wait(ctx context.Context, _ acme.Challenge) error {
	t := time.NewTimer(r.delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// updates sets records by dynamic updates (RFC 2136) signed with a shared key
// (RFC 8945).
type updates struct{ cfg *config.ACMEDNS }

const (
	updateTimeout = 10 * time.Second
	recordTTL     = 60  // seconds: what an authority has seen is soon forgotten
	fudge         = 300 // seconds that clocks may differ (RFC 8945 section 10)
)

func (u *updates) Set(ctx context.Context, name, value string) error {
	return u.send(ctx, name, value, (*dns.Msg).Insert)
}

func (u *updates) Remove(ctx context.Context, name, value string) error {
	return u.send(ctx, name, value, (*dns.Msg).Remove)
}

func (u *updates) send(ctx context.Context, name, value string, put func(*dns.Msg, []dns.RR)) error {
	m := new(dns.Msg)
	m.SetUpdate(dns.Fqdn(u.cfg.Zone))
	put(m, []dns.RR{&dns.TXT{
		Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: recordTTL},
		Txt: []string{value},
	}})
	key := dns.CanonicalName(u.cfg.KeyName)
	m.SetTsig(key, dns.Fqdn(u.cfg.Algorithm), fudge, time.Now().Unix())
	client := &dns.Client{Net: "tcp", Timeout: updateTimeout, TsigSecret: map[string]string{key: u.cfg.Key.Reveal()}}
	got, _, err := client.ExchangeContext(ctx, m, u.cfg.Server)
	switch {
	case err != nil:
		return fmt.Errorf("update of %q at %q: %w", name, u.cfg.Server, err)
	case got.Rcode != dns.RcodeSuccess:
		return fmt.Errorf("update of %q at %q: the name server answers %s", name, u.cfg.Server, dns.RcodeToString[got.Rcode])
	case got.IsTsig() == nil:
		return errors.New("the answer of the name server is not signed") // RFC 8945 section 5.3
	}
	return nil
}
