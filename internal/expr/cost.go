package expr

import (
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
)

// sizes tells the estimator how large the parts of a request can be. Usual
// limits stand in for the listener's own: an expression that could cost too
// much within them is counted while it runs, and stopped.
type sizes struct{}

// EstimateSize bounds what the variables hold.
func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	path := node.Path()
	if len(path) == 0 {
		return nil
	}
	switch node.Type().Kind() {
	case types.StringKind, types.DynKind:
		return &cost.SizeEstimate{Max: 8 << 10}
	case types.MapKind, types.ListKind:
		return &cost.SizeEstimate{Max: 100}
	}
	return nil
}

// EstimateCallCost leaves calls to the library's own estimates.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}
