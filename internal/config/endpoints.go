package config

import (
	"reflect"

	"gatehouse.dev/gatehouse/internal/policy"
)

// ParseEndpoints reads a list of endpoints that stands alone, in the form it
// has below an upstream, but without variables of the environment: whoever
// writes it could send their values to an endpoint of his. An empty text, or [],
// is an empty list. The error is Faults.
func ParseEndpoints(name string, data []byte) ([]*Endpoint, error) {
	p := &part{name: name, data: data}
	root, f := p.document()
	if f != nil {
		return nil, Faults{*f}
	}
	if root == nil {
		return nil, nil
	}
	d := &decoder{foreign: true, cat: policy.NewCatalog(), part: p, layouts: make(map[reflect.Type]*layout), places: make(map[string]Fault)}
	var list []*Endpoint
	d.list(root, reflect.ValueOf(&list).Elem(), &Field{})
	for i, e := range list {
		if e == nil || e.URL == "" {
			continue
		}
		if f := checkURL(e.URL); f != nil {
			n := root.Content[i]
			d.push(step{index: i})
			d.fault(n, f.Text, f.Hint)
			d.pop()
		}
	}
	if len(d.faults) > 0 {
		d.faults.Sort()
		return nil, d.faults.bounded()
	}
	return list, nil
}
