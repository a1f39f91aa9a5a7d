package oidc_test

import (
	"context"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"gatehouse.dev/gatehouse/test/live"
)

// TestBrowser signs in, has the session renewed, and signs out with a real
// browser, which decides by itself which cookies it keeps and sends.
func TestBrowser(t *testing.T) {
	h := newHouse(t, "")
	h.expires.Store(2)
	ctx := live.Browser(t)

	// A page is opened, the provider's form filled in, and the page is there.
	err := chromedp.Do(ctx,
		chromedp.Navigate(h.gateway+"/first/page?x=1"),
		chromedp.WaitVisible("#username"),
		chromedp.SendKeys("#username", "test-user@localhost"),
		chromedp.SendKeys("#password", "verysecure"),
		chromedp.Submit("#password"),
		chromedp.WaitVisible("#hello"),
	)
	if err != nil {
		t.Fatalf("signing in: %v", err)
	}
	if at := run(t, ctx, chromedp.Location()); at != h.gateway+"/first/page?x=1" {
		t.Errorf("the browser is at %s", at)
	}
	if title := run(t, ctx, chromedp.Title()); title != "page /first/page?x=1" {
		t.Errorf("the page is %q", title)
	}

	// No script of the page can read the session.
	if cookies := run(t, ctx, chromedp.Evaluate[string]("document.cookie")); cookies != "" {
		t.Errorf("a script reads the cookies %q", cookies)
	}

	// The page is opened again until the session has been renewed twice: the
	// second time with the cookie of the first.
	for h.renewals.Load() < 2 {
		if err := chromedp.Do(ctx, chromedp.Reload()); err != nil {
			t.Fatal(err)
		}
		if text := run(t, ctx, chromedp.Text("#hello")); text != "hello id1" {
			t.Fatalf("while the session is renewed: %q", text)
		}
	}

	// A script of the page may ask for more.
	fetch := `fetch("/data", {headers: {Accept: "application/json"}}).then(r => r.status)`
	if status := run(t, ctx, chromedp.Evaluate[int](fetch, awaitPromise)); status != 200 {
		t.Errorf("a script is answered %d", status)
	}

	// After signing out the browser is back, and has to sign in anew.
	if err := chromedp.Do(ctx, chromedp.Navigate(h.gateway+"/_oidc/logout"), chromedp.WaitVisible("#username")); err != nil {
		t.Fatalf("signing out: %v", err)
	}
	if at := run(t, ctx, chromedp.Location()); !strings.HasPrefix(at, h.issuer+"/login") {
		t.Errorf("after signing out the browser is at %s", at)
	}
}

func run[T any](t *testing.T, ctx context.Context, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
