// Package rego owns rules written in Rego and evaluated in this process. It
// refuses builtins that reach for the network, the environment or other schemas,
// and those whose result or time is many times as large as what they are given,
// and that do not end with their time; no type of OPA's library leaves it.
package rego

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/rego"
)

// Limits of a module and what it yields.
const (
	MostBytes  = 1 << 20   // of its source
	mostAnswer = 256 << 10 // of what the rule yields, as JSON
	mostFaults = 5         // that are told at once
)

// Program is a compiled rule. It is used by many goroutines at once.
type Program struct{ query opa.PreparedEvalQuery }

// refused tells the builtins that no module may use.
func refused(name string) bool {
	switch name {
	case "http.send", "net.lookup_ip_addr", "opa.runtime", "net.cidr_expand", "numbers.range", "numbers.range_step", "bits.lsh",
		"json.match_schema", "json.verify_schema", "rego.parse_module",
		"graph.reachable_paths", "strings.render_template":
		return true
	}
	return strings.HasPrefix(name, "graphql.") || strings.HasPrefix(name, "providers.aws.")
}

// Compile reads a module and prepares one of its rules, which the query names:
// data.package.rule. name stands for the module in faults, which have lines and
// columns.
func Compile(name, module, query string) (*Program, error) {
	if len(module) > MostBytes {
		return nil, fmt.Errorf("%s: the module is larger than %d bytes", name, MostBytes)
	}
	able := ast.CapabilitiesForThisVersion()
	able.AllowNet = []string{} // none; nil would be all
	able.Builtins = slices.DeleteFunc(able.Builtins, func(b *ast.Builtin) bool { return refused(b.Name) })
	parsed, err := ast.ParseModuleWithOpts(name, module, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: able})
	if err != nil {
		return nil, sentence(err)
	}
	if parsed == nil {
		return nil, fmt.Errorf("%s: the module is empty", name)
	}
	compiler := ast.NewCompiler().WithCapabilities(able)
	if compiler.Compile(map[string]*ast.Module{name: parsed}); compiler.Failed() {
		return nil, sentence(compiler.Errors)
	}
	ref, err := ast.ParseRef(query)
	if err != nil || !ref.HasPrefix(ast.DefaultRootRef) || !ref.IsGround() {
		return nil, fmt.Errorf("%q names no rule: write data.package.rule", query)
	}
	if len(compiler.GetRulesExact(ref)) == 0 {
		return nil, fmt.Errorf("%q names no rule of the module", query)
	}
	// A builtin that fails must not read as a condition that does not hold:
	// below a "not" that would allow.
	prepared, err := opa.New(opa.Query(query), opa.Compiler(compiler), opa.StrictBuiltinErrors(true)).PrepareForEval(context.Background())
	if err != nil {
		return nil, sentence(err)
	}
	return &Program{prepared}, nil
}

// sentence makes faults with their places of what the library says.
func sentence(err error) error {
	var list ast.Errors
	if !errors.As(err, &list) {
		return err
	}
	var faults []error
	for _, e := range list[:min(len(list), mostFaults)] {
		text, _, _ := strings.Cut(e.Message, "\n")
		if e.Location != nil {
			text = fmt.Sprintf("%s:%d:%d: %s", e.Location.File, e.Location.Row, e.Location.Col, text)
		}
		faults = append(faults, errors.New(text))
	}
	return errors.Join(faults...)
}

// Answer evaluates the rule as OPA's data API does: {"input": …} becomes
// {"result": …}, or {} where the rule is undefined. It ends with the context.
func (p *Program) Answer(ctx context.Context, question []byte) ([]byte, error) {
	var outer struct {
		Input json.RawMessage `json:"input"`
	}
	if err := json.Unmarshal(question, &outer); err != nil {
		return nil, fmt.Errorf("the input is no JSON: %w", err)
	}
	var options []opa.EvalOption
	if outer.Input != nil {
		input, err := ast.ValueFromReader(bytes.NewReader(outer.Input))
		if err != nil {
			return nil, fmt.Errorf("the input cannot be read: %w", err)
		}
		options = append(options, opa.EvalParsedInput(input))
	}
	set, err := p.query.Eval(ctx, options...)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("the rule failed: %w", err)
	case len(set) == 0:
		return []byte("{}"), nil
	case len(set) != 1 || len(set[0].Expressions) != 1:
		return nil, errors.New("the rule yields more than one value")
	}
	text, err := json.Marshal(map[string]any{"result": set[0].Expressions[0].Value})
	if err == nil && len(text) > mostAnswer {
		err = errors.New("the rule yields too much")
	}
	return text, err
}
