package demo

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
)

// mostPayments bounds what an instance remembers: it is a sample, and forgets
// everything rather than grow.
const mostPayments = 10_000

type payment struct {
	ID     string `json:"id"`
	Order  string `json:"order"`
	Cents  int    `json:"cents"`
	Status string `json:"status"`
}

// ledger holds the payments of one instance.
type ledger struct {
	mu    sync.Mutex
	next  int
	byKey map[string]payment
}

// add books a payment, once for each key. It reports whether it did so now.
func (l *ledger) add(key string, p payment) (payment, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.byKey[key]; ok && key != "" {
		return old, false
	}
	if l.byKey == nil || len(l.byKey) >= mostPayments {
		l.byKey = make(map[string]payment)
	}
	l.next++
	p.ID, p.Status = fmt.Sprintf("pay-%d", l.next), "accepted"
	if key != "" {
		l.byKey[key] = p
	}
	return p, true
}

// payments takes payments. The same Idempotency-Key twice books one.
func payments(instance string) http.Handler {
	book := new(ledger)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /payments", func(w http.ResponseWriter, r *http.Request) {
		var p payment
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&p); err != nil {
			refuse(w, http.StatusBadRequest, "the body is not the JSON of a payment")
			return
		}
		if p.Order == "" || p.Cents <= 0 {
			refuse(w, http.StatusUnprocessableEntity, "a payment has an order and a positive number of cents")
			return
		}
		p, booked := book.add(r.Header.Get("Idempotency-Key"), p)
		status := http.StatusCreated
		if !booked {
			status = http.StatusOK
		}
		reply(w, status, struct {
			Instance string `json:"instance"`
			payment
		}{instance, p})
	})
	return mux
}
