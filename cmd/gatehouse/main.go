// Command gatehouse is an API gateway. This package reads flags and arguments,
// calls internal/app, and turns what comes back into text and an exit code; it
// decides nothing else.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/internal/config"
)

// The exit codes of every command.
const (
	fine  = 0
	no    = 1 // the answer is no: a fault, or requests that were cut
	wrong = 2 // wrong use
)

// release is the version that a release is linked with.
var release string

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// errNo is "no" after all has been said.
var errNo = errors.New("no")

// usageError is wrong use of a command.
type usageError struct{ error }

func run(args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:   "gatehouse",
		Short: "An API gateway",
		Long: "Gatehouse is an API gateway: the gatekeeper between clients and the services behind it.\n\n" +
			"Exit codes of every command: 0 fine, 1 the answer is no, 2 wrong use.",
		Example:       "  gatehouse run -c gatehouse.yaml\n  gatehouse proxy http://127.0.0.1:9001\n  gatehouse demo",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{errors.New("a command is missing; gatehouse --help lists them")}
		},
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().Bool("json", false, "print the result, or what went wrong, as JSON")
	root.AddCommand(runCommand(), proxyCommand(), demoCommand(), checkCommand(), explainCommand(), fmtCommand(), schemaCommand(), keyCommand(), versionCommand(), completionCommand())
	for _, c := range root.Commands() {
		if args := c.Args; args != nil {
			c.Args = func(cmd *cobra.Command, given []string) error {
				if err := args(cmd, given); err != nil {
					return usageError{err}
				}
				return nil
			}
		}
	}
	cmd, err := root.ExecuteC()
	return report(cmd, err, stdout, stderr)
}

// report says what went wrong, once, and returns the exit code.
func report(cmd *cobra.Command, err error, stdout, stderr io.Writer) int {
	asJSON := false
	if f := cmd.Flag("json"); f != nil {
		asJSON = f.Value.String() == "true"
	}
	var usage usageError
	var faults config.Faults
	switch {
	case err == nil:
		return fine
	case errors.Is(err, errNo):
		return no
	case errors.As(err, &faults) && asJSON:
		if err := printJSON(stdout, faultsOf(faults)); err != nil {
			fmt.Fprintln(stderr, "gatehouse:", err)
		}
		return no
	case errors.As(err, &faults):
		fmt.Fprintln(stderr, faults.Error())
		return no
	}
	if asJSON {
		if err := printJSON(stdout, map[string]string{"error": err.Error()}); err != nil {
			fmt.Fprintln(stderr, "gatehouse:", err)
		}
	}
	fmt.Fprintln(stderr, "gatehouse:", err)
	// Cobra makes plain errors of commands and flags that it does not know.
	if errors.As(err, &usage) || cmd == cmd.Root() {
		fmt.Fprintf(stderr, "usage: %s\n", cmd.UseLine())
		return wrong
	}
	return no
}

// version tells what this binary is: the version it was linked with, else what
// the toolchain knows of its source.
func version() string {
	if release != "" {
		return release
	}
	v, revision, dirty := "devel", "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if m := info.Main.Version; m != "" && m != "(devel)" {
			return m
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && len(s.Value) >= 12:
				revision = "+" + s.Value[:12]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = ".dirty"
			}
		}
	}
	return v + revision + dirty
}

func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }
