package app

import (
	"encoding/json"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/durable"
	"gatehouse.dev/gatehouse/internal/redis"
)

// stores are where policies keep what several gateways share, or what outlasts
// a restart. Either may be nil.
type stores struct {
	redis *sharedStore
	data  *dataFile
}

// openStores opens what the configuration names, and keeps what is open with
// the same settings. where is what an error is about.
func (a *App) openStores(cfg *config.Config) (s stores, where string, err error) {
	if s.redis, err = a.openRedis(cfg.Redis); err != nil {
		return s, "redis", err
	}
	if s.data, err = a.openData(cfg.DataFolder); err != nil {
		s.redis.release(a.stores.redis)
		return s, "data_folder", err
	}
	return s, "", nil
}

// release closes what next does not go on with.
func (s stores) release(next stores) {
	s.redis.release(next.redis)
	s.data.release(next.data)
}

// linger is how long a server is still asked after a reload that leaves it, by
// the requests that began before.
const linger = time.Minute

// retire is release once next is what requests are served with.
func (a *App) retire(s, next stores) {
	s.data.release(next.data)
	if s.redis == nil || s.redis == next.redis {
		return
	}
	a.late.Go(func() {
		t := time.NewTimer(linger)
		defer t.Stop()
		select {
		case <-t.C:
		case <-a.life.Done():
		}
		s.redis.store.Close()
	})
}

// answers returns who tells whether Redis answers, nil without Redis.
func (s stores) answers() func() bool {
	if s.redis == nil {
		return nil
	}
	return s.redis.store.Ready
}

// connectWithin is how long a start or a reload waits for Redis.
const connectWithin = time.Second

// sharedStore is a Redis store together with the settings it was opened with. A
// reload that leaves the settings alone keeps it, and its connections.
type sharedStore struct {
	settings string
	store    *redis.Store
}

// openRedis returns the present store when its settings stay, a new one
// otherwise, and nil without settings. A server that answers is found to do so
// before the first request needs it; one that does not holds nothing up for long.
func (a *App) openRedis(cfg *config.Redis) (*sharedStore, error) {
	if cfg == nil {
		return nil, nil
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	settings := string(text) + cfg.Password.Fingerprint()
	if cfg.Sentinel != nil {
		settings += cfg.Sentinel.Password.Fingerprint()
	}
	if a.stores.redis != nil && a.stores.redis.settings == settings {
		return a.stores.redis, nil
	}
	store, err := redis.New(cfg, a.log.Logger)
	if err != nil {
		return nil, err
	}
	store.Tried(connectWithin)
	return &sharedStore{settings, store}, nil
}

// dataFile is the store of what outlasts a restart, with its folder.
type dataFile struct {
	folder string
	store  *durable.Store
}

// openData returns the present file when the folder stays.
func (a *App) openData(folder string) (*dataFile, error) {
	if folder == "" {
		return nil, nil
	}
	if a.stores.data != nil && a.stores.data.folder == folder {
		return a.stores.data, nil
	}
	store, err := durable.Open(folder, a.log.Logger)
	if err != nil {
		return nil, err
	}
	return &dataFile{folder, store}, nil
}

// release closes the file unless next goes on with it.
func (d *dataFile) release(next *dataFile) {
	if d != nil && d != next {
		d.store.Close()
	}
}

// release closes the store unless next goes on with it.
func (s *sharedStore) release(next *sharedStore) {
	if s != nil && s != next {
		s.store.Close()
	}
}
