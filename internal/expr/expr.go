// Package expr owns the expressions of the configuration language: CEL over one
// environment (request, route, client, claims, consumer), compiled with a type
// check and with bounded cost. It refuses I/O, patterns that a client could
// choose, and expressions that could become expensive; no type of the CEL
// library leaves it.
//
// The variables are views of an exchange: nothing is built or copied for an
// evaluation that does not look at it. What is absent is an error, as CEL has
// it, and never an empty text: two absent values are not equal.
package expr

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Limits of one expression.
const (
	mostBytes = 8 << 10 // of its source
	mostNodes = 500
	mostDepth = 50
	mostCost  = 200_000 // of one evaluation, in CEL's units: a step is about one, ten bytes looked at another
)

// Result is what an expression has to yield.
type Result uint8

// The results.
const (
	Bool Result = iota // a condition
	Text               // a key: a string, or a number or truth value that is written as one
)

// Var is one of the environment's variables; several are a sum.
type Var uint8

// The variables.
const (
	Request Var = 1 << iota
	Route
	Client
	Claims
	Consumer
)

var varNames = [...]string{"request", "route", "client", "claims", "consumer"}

func (v Var) String() string {
	var names []string
	for i, name := range varNames {
		if v&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// Program is a compiled expression. It is used by many goroutines at once.
type Program struct {
	source  string
	uses    Var
	program cel.Program
}

// String returns the source.
func (p *Program) String() string { return p.source }

// Uses returns the variables that the expression looks at.
func (p *Program) Uses() Var { return p.uses }

// Compile checks an expression and prepares it. The error is a sentence about
// the first thing wrong with it, with its place.
func Compile(source string, want Result) (*Program, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("expressions cannot be compiled: %w", err)
	}
	switch {
	case strings.TrimSpace(source) == "":
		return nil, errors.New("the expression is empty")
	case len(source) > mostBytes:
		return nil, fmt.Errorf("the expression is longer than %d bytes", mostBytes)
	}
	tree, issues := env.Compile(source)
	if issues.Err() != nil {
		return nil, firstOf(issues)
	}
	out := tree.OutputType()
	switch want {
	case Bool:
		if !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
			return nil, fmt.Errorf("the expression yields %s where a truth value is wanted", out)
		}
	case Text:
		switch out.Kind() {
		case types.StringKind, types.IntKind, types.UintKind, types.BoolKind, types.DynKind:
		default:
			return nil, fmt.Errorf("the expression yields %s where a text is wanted", out)
		}
	}
	p := &Program{source: source}
	if err := p.look(tree.NativeRep()); err != nil {
		return nil, err
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize), cel.OptimizeRegex(readRanges())}
	// What is cheap whatever a client sends is not counted while it runs:
	// counting costs as much again as evaluating.
	if worst, err := env.EstimateCost(tree, sizes{}); err != nil || worst.Max > mostCost {
		options = append(options, cel.CostLimit(mostCost))
	}
	if p.program, err = env.Program(tree, options...); err != nil {
		return nil, fmt.Errorf("the expression cannot be used: %w", err)
	}
	return p, nil
}

// firstOf makes a sentence of the first thing wrong.
func firstOf(issues *cel.Issues) error {
	list := issues.Errors()
	if len(list) == 0 {
		return issues.Err()
	}
	e := list[0]
	text, _, _ := strings.Cut(e.Message, " (in container")
	text = strings.TrimPrefix(text, "Syntax error: ")
	return fmt.Errorf("%s, at line %d column %d of the expression", text, e.Location.Line(), e.Location.Column()+1)
}

// look notes which variables an expression uses and refuses patterns, ranges and
// insertions that are not written out. Patterns and ranges would be read anew
// for each request, and could come from the request; what is inserted at many
// places could make a text as large as the product of two.
func (p *Program) look(tree *ast.AST) error {
	var found error
	ast.PostOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.IdentKind:
			for i, name := range varNames {
				if e.AsIdent() == name {
					p.uses |= 1 << i
				}
			}
		case ast.CallKind:
			if err := checkCall(e.AsCall()); err != nil {
				found = err
			}
		}
	}))
	return found
}

func checkCall(call ast.CallExpr) error {
	at, what := -1, "what %s looks for has to be written out" // which argument, and what it is
	args := call.Args()
	switch call.FunctionName() {
	case "matches", "inRange":
		at = len(args) - 1
	case "replace":
		at, what = 1, "what %s puts in has to be written out"
	case "join":
		at, what = len(args)-1, "what %s puts in has to be written out"
	}
	if at < 0 || at >= len(args) {
		return nil
	}
	text, literal := types.String(""), false
	if args[at].Kind() == ast.LiteralKind {
		text, literal = args[at].AsLiteral().(types.String)
	}
	if !literal {
		return fmt.Errorf(what, call.FunctionName())
	}
	if call.FunctionName() == "inRange" {
		_, err := parseRange(string(text))
		return err
	}
	return nil
}

// Holds evaluates a condition. With an error it does not hold, and the caller
// fails closed.
func (p *Program) Holds(x *exchange.Exchange) (bool, error) {
	v, _, err := p.program.Eval((*view)(x))
	if err != nil {
		return false, err
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, fmt.Errorf("the expression yielded %s where a truth value is wanted", v.Type().TypeName())
	}
	return bool(b), nil
}

// Text evaluates to a text.
func (p *Program) Text(x *exchange.Exchange) (string, error) {
	v, _, err := p.program.Eval((*view)(x))
	if err != nil {
		return "", err
	}
	switch v := v.(type) {
	case types.String:
		return string(v), nil
	case types.Int:
		return strconv.FormatInt(int64(v), 10), nil
	case types.Uint:
		return strconv.FormatUint(uint64(v), 10), nil
	case types.Bool:
		return strconv.FormatBool(bool(v)), nil
	case types.Double:
		return strconv.FormatFloat(float64(v), 'g', -1, 64), nil
	}
	return "", fmt.Errorf("the expression yielded %s where a text is wanted", v.Type().TypeName())
}

// environment is made once: it is the same for all expressions, and making it
// takes milliseconds.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	return cel.NewCustomEnv(
		cel.StdLib(),
		cel.CustomTypeProvider(&provider{registry}),
		cel.CustomTypeAdapter(registry),
		cel.ParserExpressionSizeLimit(mostBytes),
		cel.ExpressionNodeLimit(mostNodes),
		cel.ParserRecursionLimit(mostDepth),
		cel.RegexProgramSizeLimit(1000),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		ext.Strings(ext.StringsVersion(5)), // the version says what they cost, too
		cel.Variable("request", requestType),
		cel.Variable("route", routeType),
		cel.Variable("client", clientType),
		cel.Variable("consumer", consumerType),
		cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.Function("inRange", cel.MemberOverload("string_in_range",
			[]*cel.Type{cel.StringType, cel.StringType}, cel.BoolType,
			cel.BinaryBinding(inRange))),
	)
})
