package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/internal/app"
)

func explainCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "explain -c FILE [-X METHOD] [-H 'Name: value'] URL",
		Short: "Say what would become of a request, and why",
		Long: "Says which route takes a request and which others come close, what each policy does with it, and where it goes.\n" +
			"Nothing is sent. Policies of which others would hear, such as a limit that is counted in Redis, are not run: it is\n" +
			"said what they would do, and that the result depends on them. Credentials are checked, and the reason that clients\n" +
			"are not told is shown. The exit code is 1 when the gateway refuses the request.",
		Example: "  gatehouse explain -c gatehouse.yaml http://shop.example.com/products/7\n" +
			"  gatehouse explain -c gatehouse.yaml -X POST -H 'X-API-Key: gh_…' --client 10.0.0.7 https://shop.example.com/orders",
		Args: cobra.ExactArgs(1),
	}
	path := configFlag(c)
	method := c.Flags().StringP("method", "X", "GET", "`method` of the request")
	fields := c.Flags().StringArrayP("header", "H", nil, "a `field` of the request, as 'Name: value'; as often as there are fields")
	client := c.Flags().String("client", "127.0.0.1", "`address` that the request comes from")
	listener := c.Flags().String("listener", "", "`name` of the listener that takes it; default: the one that fits the URL")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		addr, err := netip.ParseAddr(*client)
		if err != nil {
			return usageError{fmt.Errorf("--client: %q is not an address", *client)}
		}
		e, faults, err := app.Explain(app.Source{Path: *path}, app.Question{
			Method: *method, URL: args[0], Fields: *fields, Client: addr, Listener: *listener,
		})
		switch {
		case err != nil:
			return usageError{err}
		case e == nil:
			return faults
		case asJSON(cmd):
			err = printJSON(cmd.OutOrStdout(), e)
		default:
			if len(faults) > 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), faults.Error())
			}
			err = tellExplanation(cmd.OutOrStdout(), e)
		}
		if err == nil && e.Result.Kind == "problem" {
			return errNo
		}
		return err
	}
	return c
}

// tellExplanation writes an explanation for people. What came with the request
// is shown as it can be printed.
func tellExplanation(out io.Writer, e *app.Explanation) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(&b, "%s %s\n  from %s on listener %s", printable(e.Request.Method), printable(e.Request.URL), e.Request.Client, e.Request.Listener)
	if len(e.Request.Others) > 0 {
		fmt.Fprintf(&b, " (others: %s)", strings.Join(e.Request.Others, ", "))
	}
	b.WriteString("\n")
	if len(e.Routes)+e.Omitted > 0 {
		b.WriteString("\nRoutes\n")
	}
	for _, r := range e.Routes {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", r.Outcome, r.Name, r.Place, printable(r.Reason))
	}
	w.Flush()
	if e.Omitted > 0 {
		fmt.Fprintf(&b, "  %s not come close\n", count(e.Omitted, "other route does", "other routes do"))
	}
	if len(e.Steps) > 0 {
		b.WriteString("\nPolicies\n")
	}
	for _, s := range e.Steps {
		text := map[string]string{"unknown": "would decide: ", "skipped": "skipped: ", "later": "has to do with the answer", "not_reached": "not reached"}[s.Verdict]
		if text == "" && s.Text == "" {
			text = "goes on"
		}
		// What a step is set to is of use where nothing else tells what it did.
		if s.Verdict == "next" && s.Text == "" && s.Changes == nil && len(s.Settings) > 0 {
			text += " (" + brief(s.Settings) + ")"
		}
		text += s.Text
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", s.Stage, s.Policy, s.From, s.Place, printable(text))
		for _, change := range s.Changes {
			fmt.Fprintf(w, "  \t\t\t\t  %s\n", printable(change))
		}
	}
	w.Flush()
	b.WriteString("\nResult\n")
	tellResult(&b, e)
	_, err := io.WriteString(out, b.String())
	return err
}

func tellResult(b *strings.Builder, e *app.Explanation) {
	r := &e.Result
	by := ""
	if r.By != "" {
		by = " by " + r.By
	}
	switch r.Kind {
	case "upstream":
		for i, u := range r.Upstreams {
			b.WriteString([]string{"  goes to ", "  or to "}[min(i, 1)] + u.Name)
			if u.Weight > 0 {
				fmt.Fprintf(b, " (weight %d)", u.Weight)
			}
			where := u.Endpoints
			if u.Discovered {
				where = append(where, "what discovery finds")
			}
			if len(where) > 0 && (len(where) > 1 || where[0] != u.Name) {
				fmt.Fprintf(b, " at %s", strings.Join(where, ", "))
			}
			if u.Failover != "" {
				fmt.Fprintf(b, ", else to %s", u.Failover)
			}
			b.WriteString("\n")
		}
		fmt.Fprintf(b, "  as %s, host %s\n", printable(e.Request.Method+" "+r.Path), printable(r.Host))
		if r.Mirror != "" {
			fmt.Fprintf(b, "  with a copy to %s\n", r.Mirror)
		}
	case "answer":
		fmt.Fprintf(b, "  answer %d%s", r.Status, by)
		if r.Location != "" {
			b.WriteString(", to " + printable(r.Location))
		}
		b.WriteString("\n")
	default:
		fmt.Fprintf(b, "  answer %d %s%s", r.Status, r.Code, by)
		if r.Cause != "" {
			b.WriteString(": " + printable(r.Cause))
		}
		b.WriteString("\n")
	}
	switch len(e.Depends) {
	case 0:
	case 1:
		fmt.Fprintf(b, "  if %s lets it go on\n", e.Depends[0])
	default:
		fmt.Fprintf(b, "  if %s let it go on\n", strings.Join(e.Depends, " and "))
	}
}

// longestSettings is how much of a policy's settings a line has room for.
const longestSettings = 60

// brief writes settings on a part of a line.
func brief(settings map[string]any) string {
	parts := make([]string, 0, len(settings))
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value, err := json.Marshal(settings[name])
		if err != nil {
			continue // it came from JSON
		}
		parts = append(parts, name+": "+strings.ReplaceAll(string(value), `"`, ""))
	}
	text := []rune(strings.Join(parts, ", "))
	if len(text) > longestSettings {
		return string(text[:longestSettings-1]) + "…"
	}
	return string(text)
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// printable replaces what a terminal would act on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
}
