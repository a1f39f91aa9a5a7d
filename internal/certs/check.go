package certs

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// Check reads the certificates of all listeners as Prepare does, but begins
// nothing and writes nothing. It warns of certificates that are not valid now:
// they are served all the same.
func Check(cfg *config.Config) (faults config.Faults) {
	c := &Change{
		s:     &Store{o: Options{Log: slog.New(slog.DiscardHandler)}},
		pairs: make(map[config.Certificate]*pair), pools: make(map[string]*pool),
	}
	for i, l := range cfg.Listeners {
		if l == nil || l.TLS == nil {
			continue // nil is what could not be read: that is told already
		}
		at := fmt.Sprintf("listeners[%d].tls", i)
		for j, files := range l.TLS.Certificates {
			at := fmt.Sprintf("%s.certificates[%d]", at, j)
			if files == nil || files.CertFile == "" || files.KeyFile == "" {
				continue // told already
			}
			p, err := c.pair(*files)
			if err != nil {
				faults = append(faults, cfg.Fault(at+"."+err.key, err.Error(), ""))
				continue
			}
			if leaf := p.cert.Leaf; !valid(leaf, time.Now()) {
				f := cfg.Fault(at+".cert_file", notNow(files.CertFile, leaf).Error(), "clients will refuse it")
				f.Warning = true
				faults = append(faults, f)
			}
		}
		if file := l.TLS.ClientAuth.CAFile; file != "" {
			if _, err := c.pool(file); err != nil {
				faults = append(faults, cfg.Fault(at+".client_auth.ca_file", err.Error(), ""))
			}
		}
		if a := l.TLS.ACME; a != nil {
			if err := checkACME(a); err != nil {
				faults = append(faults, acmeFault(cfg, at, err))
			}
		}
	}
	return faults
}

// checkACME looks at what an authority needs of this machine.
func checkACME(a *config.ACME) error {
	if _, err := authorityRoots(a); err != nil {
		return err
	}
	info, err := os.Stat(a.Storage)
	switch {
	case a.Storage == "" || os.IsNotExist(err):
		return nil // it will be made
	case err != nil:
		return &fieldError{"storage", fmt.Errorf("folder %q: %w", a.Storage, plainError(err))}
	case !info.IsDir():
		return &fieldError{"storage", fmt.Errorf("%q is no folder", a.Storage)}
	}
	return nil
}
