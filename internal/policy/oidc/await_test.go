package oidc_test

import "github.com/chromedp/cdproto/runtime"

// awaitPromise has a script's promise waited for.
func awaitPromise(p *runtime.EvaluateParams) { p.AwaitPromise = new(true) }
