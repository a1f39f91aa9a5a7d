package demo

import (
	"net/http"
	"strings"
)

type product struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Category string `json:"category"`
	Cents    int    `json:"cents"`
}

var catalogue = []product{
	{"1", "Oak table", "furniture", 24900},
	{"2", "Desk lamp", "light", 3950},
	{"3", "Bookshelf", "furniture", 11900},
	{"4", "Candle", "light", 450},
	{"5", "Wool blanket", "home", 5900},
}

// products serves the catalogue: a list, a search, and one product.
func products(instance string) http.Handler {
	type list struct {
		Instance string    `json:"instance"`
		Products []product `json:"products"`
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products", func(w http.ResponseWriter, r *http.Request) {
		category := r.URL.Query().Get("category")
		reply(w, http.StatusOK, list{instance, choose(func(p product) bool {
			return category == "" || p.Category == category
		})})
	})
	mux.HandleFunc("GET /products/search", func(w http.ResponseWriter, r *http.Request) {
		q := strings.ToLower(r.URL.Query().Get("q"))
		reply(w, http.StatusOK, list{instance, choose(func(p product) bool {
			return strings.Contains(strings.ToLower(p.Name), q)
		})})
	})
	mux.HandleFunc("GET /products/{id}", func(w http.ResponseWriter, r *http.Request) {
		found := choose(func(p product) bool { return p.ID == r.PathValue("id") })
		if len(found) == 0 {
			refuse(w, http.StatusNotFound, "there is no such product")
			return
		}
		reply(w, http.StatusOK, struct {
			Instance string `json:"instance"`
			product
		}{instance, found[0]})
	})
	return mux
}

func choose(wanted func(product) bool) []product {
	out := []product{}
	for _, p := range catalogue {
		if wanted(p) {
			out = append(out, p)
		}
	}
	return out
}
