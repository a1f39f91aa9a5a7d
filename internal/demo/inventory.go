package demo

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"net/http"
	"strconv"
	"time"
)

// inventory knows what is in stock, and has the endpoints on which streams,
// slowness and failure can be tried.
func inventory(instance string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stock/{id}", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		reply(w, http.StatusOK, map[string]any{"instance": instance, "product": id, "in_stock": inStock(id)})
	})
	mux.HandleFunc("GET /stock/ticker", ticker)
	mux.HandleFunc("GET /stock/live", websocketEcho)
	mux.HandleFunc("GET /stock/export", export)
	mux.HandleFunc("GET /stock/slow", slow)
	mux.HandleFunc("GET /stock/fail", fail)
	return mux
}

// inStock makes up a number that stays the same for a product.
func inStock(id string) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	return int(h.Sum32() % 100)
}

// number reads a query parameter: from least to most, or otherwise.
func number(r *http.Request, name string, least, most, otherwise int) int {
	n, err := strconv.Atoi(r.URL.Query().Get(name))
	if err != nil || n < least || n > most {
		return otherwise
	}
	return n
}

// length reads a duration of at most a minute.
func length(r *http.Request, name string, otherwise time.Duration) time.Duration {
	d, err := time.ParseDuration(r.URL.Query().Get(name))
	if err != nil || d <= 0 || d > time.Minute {
		return otherwise
	}
	return d
}

// ticker sends server-sent events: ?count= of them (0: without end), one
// ?every= so often.
func ticker(w http.ResponseWriter, r *http.Request) {
	count := number(r, "count", 0, 1_000_000, 0)
	every := time.NewTicker(length(r, "every", time.Second))
	defer every.Stop()
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	for n := 1; count == 0 || n <= count; n++ {
		p := catalogue[n%len(catalogue)]
		fmt.Fprintf(w, "id: %d\nevent: stock\ndata: {\"product\":%q,\"in_stock\":%d}\n\n", n, p.ID, inStock(p.ID))
		if out.Flush() != nil || n == count {
			return
		}
		select {
		case <-every.C:
		case <-r.Context().Done():
			return
		}
	}
}

// export sends a table of ?mib= mebibytes, 1 to 4096.
func export(w http.ResponseWriter, r *http.Request) {
	const line = "product;shelf;in stock;last seen\n"
	size := int64(number(r, "mib", 1, 4096, 1)) << 20
	w.Header().Set("Content-Type", "text/csv")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	piece := bytes.Repeat([]byte(line), 2048)
	for size > 0 {
		n, err := w.Write(piece[:min(size, int64(len(piece)))])
		if err != nil {
			return
		}
		size -= int64(n)
	}
}

// slow answers after ?for= has passed, 2 seconds when it does not say.
func slow(w http.ResponseWriter, r *http.Request) {
	wait := length(r, "for", 2*time.Second)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		reply(w, http.StatusOK, map[string]string{"waited": wait.String()})
	case <-r.Context().Done():
	}
}

// fail answers with ?status=, or with ?how=cut breaks the answer off.
func fail(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("how") == "cut" {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("this is not all"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	refuse(w, number(r, "status", 400, 599, http.StatusInternalServerError), "it fails because you asked it to")
}
