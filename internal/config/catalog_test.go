package config_test

import (
	"gatehouse.dev/gatehouse/internal/policy"
)

// The kinds of policies that the tests of this package know: one of each shape
// that settings can have.

type stamp struct {
	Header string `yaml:"header"`
}

func (*stamp) Compile(*policy.Env) (policy.Policy, error) { return nil, nil }

type limiter struct {
	Limit policy.Rate     `yaml:"limit" required:"true" min:"1/d"`
	Burst int             `yaml:"burst" min:"0" max:"1000"`
	By    string          `yaml:"by" enum:"client,consumer"`
	Wait  policy.Duration `yaml:"wait" max:"1m"`
	Share policy.Percent  `yaml:"share"`
	Body  policy.Size     `yaml:"body" max:"1MiB"`
	Dry   bool            `yaml:"dry"`
}

func (*limiter) Compile(*policy.Env) (policy.Policy, error) { return nil, nil }

type signer struct {
	Key    policy.Secret     `yaml:"key" required:"true"`
	Fields policy.StringList `yaml:"fields" enum:"date,host,path"`
	Extra  map[string]string `yaml:"extra"`
	Rules  []rule            `yaml:"rules"`
	Scale  float64           `yaml:"scale" min:"0" max:"2"`
}

type rule struct {
	Name string         `yaml:"name" required:"true"`
	Keys map[string]int `yaml:"keys" min:"1" max:"9"`
}

func (*signer) Compile(*policy.Env) (policy.Policy, error) { return nil, nil }

func catalog() *policy.Catalog {
	return policy.NewCatalog(
		&policy.Kind{Name: "request_id", New: func() policy.Config { return &stamp{Header: "X-Request-Id"} }},
		&policy.Kind{Name: "rate_limit", New: func() policy.Config { return &limiter{By: "client"} }},
		&policy.Kind{Name: "sign", New: func() policy.Config { return &signer{Scale: 1} }},
	)
}
