package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/internal/app"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/schema"
)

func runCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Serve a configuration",
		Long: "Serves a configuration, a file or a folder of *.yaml files.\n\n" +
			"It reloads when the files change and on SIGHUP; with a fault nothing changes. SIGTERM and SIGINT drain:\n" +
			"requests in flight finish, and the exit code is 1 when some had to be cut.",
		Example: "  gatehouse run -c gatehouse.yaml\n  gatehouse run -c conf.d",
		Args:    cobra.NoArgs,
	}
	path := configFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return served(app.Run(app.Source{Path: *path}, version(), cmd.ErrOrStderr(), nil))
	}
	return c
}

// configFlag is the flag that names the configuration. It must be given.
func configFlag(c *cobra.Command) *string {
	path := c.Flags().StringP("config", "c", "", "the configuration: a `file`, or a folder of *.yaml files")
	c.PreRunE = func(*cobra.Command, []string) error {
		if *path == "" {
			return usageError{errors.New("the configuration is missing: give it with -c FILE")}
		}
		return nil
	}
	return path
}

// served turns the end of serving into an error of the command: that requests
// were cut is in the log already.
func served(err error) error {
	if errors.Is(err, app.ErrCut) {
		return errNo
	}
	return err
}

func proxyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "proxy [--listen ADDRESS] URL",
		Short:   "Serve one upstream, without a file",
		Long:    "Passes every request on to one service. It is the gateway with a configuration of one route.",
		Example: "  gatehouse proxy http://127.0.0.1:9001\n  gatehouse proxy --listen 127.0.0.1:8000 http://127.0.0.1:9001",
		Args:    cobra.ExactArgs(1),
	}
	listen := c.Flags().String("listen", ":8080", "`address` to listen on")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if u, err := url.Parse(args[0]); err != nil || u.Scheme == "" {
			return usageError{fmt.Errorf("%q is not a URL such as http://127.0.0.1:9001", args[0])}
		}
		data, err := json.Marshal(map[string]any{
			"listeners": []any{map[string]any{"address": *listen}},
			"routes":    []any{map[string]any{"name": "proxy", "match": "/*", "upstream": args[0]}},
		})
		if err != nil {
			return err
		}
		source := app.Source{Name: "proxy", Data: data}
		if faults := app.Check(source); faults.Fatal() {
			return usageError{proxyFaults(faults)}
		}
		err = app.Run(source, version(), cmd.ErrOrStderr(), nil)
		var faults config.Faults
		if errors.As(err, &faults) {
			return proxyFaults(faults) // an address that cannot be listened on is no wrong use
		}
		return served(err)
	}
	return c
}

// proxyFaults says of the arguments what the configuration made of them was
// found to have.
func proxyFaults(faults config.Faults) error {
	err := make([]error, len(faults))
	for i, f := range faults {
		arg := map[string]string{"listeners[0].address": "--listen: ", "routes[0].upstream": "URL: "}[f.Path]
		text := arg + f.Text
		if f.Hint != "" {
			text += " (" + f.Hint + ")"
		}
		err[i] = errors.New(text)
	}
	return errors.Join(err...)
}

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Serve a sample shop, and say what to try",
		Long: "Runs three small services, products, payments and inventory, behind the gateway, on ports 8080 (the shop),\n" +
			"9901 (the gateway about itself) and 9001 to 9005 (the services), and says what to try.",
		Example: "  gatehouse demo",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return served(app.Demo(version(), cmd.OutOrStdout(), cmd.ErrOrStderr()))
		},
	}
}

func checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "check -c FILE",
		Short:   "Say what is wrong with a configuration",
		Long:    "Names every fault and warning of a configuration with file, line and column. The exit code is 1 when there is a fault.",
		Example: "  gatehouse check -c gatehouse.yaml\n  gatehouse check --json -c conf.d",
		Args:    cobra.NoArgs,
	}
	path := configFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		faults := app.Check(app.Source{Path: *path})
		if faults.Fatal() {
			return faults
		}
		if asJSON(cmd) {
			return printJSON(cmd.OutOrStdout(), faultsOf(faults))
		}
		if len(faults) > 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), faults.Error())
		}
		return nil
	}
	return c
}

// result is what check prints as JSON.
type result struct {
	OK     bool          `json:"ok"`
	Faults config.Faults `json:"faults"`
}

func faultsOf(faults config.Faults) result {
	if faults == nil {
		faults = config.Faults{}
	}
	return result{!faults.Fatal(), faults}
}

func fmtCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "fmt -c FILE",
		Short:   "Print a configuration in its usual layout",
		Long:    "Prints a configuration in its usual layout. Keys keep their order, and comments and quotes stay. With -w it writes the file.",
		Example: "  gatehouse fmt -c gatehouse.yaml\n  gatehouse fmt -w -c conf.d",
		Args:    cobra.NoArgs,
	}
	path := configFlag(c)
	write := c.Flags().BoolP("write", "w", false, "write the files instead of printing them")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		names, fault := config.Files(*path)
		if fault != nil {
			return config.Faults{*fault}
		}
		var all config.Faults
		files := make([]laidOut, 0, len(names))
		for _, name := range names {
			file, faults := layOut(name)
			files, all = append(files, file), append(all, faults...)
		}
		if all != nil {
			return all
		}
		if *write {
			for _, f := range files {
				if !f.Changed {
					continue // whoever watches it has nothing to look at
				}
				if err := replace(f.File, []byte(f.Text)); err != nil {
					return err
				}
			}
		}
		switch {
		case asJSON(cmd):
			return printJSON(cmd.OutOrStdout(), files)
		case *write:
			return nil
		}
		for _, f := range files {
			if _, err := io.WriteString(cmd.OutOrStdout(), f.Text); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

// laidOut is what fmt prints of a file as JSON.
type laidOut struct {
	File    string `json:"file"`
	Changed bool   `json:"changed"`
	Text    string `json:"text"`
}

// layOut lays out one file.
func layOut(name string) (laidOut, config.Faults) {
	before, err := os.ReadFile(name)
	if err != nil {
		return laidOut{}, config.Faults{{File: name, Text: err.Error()}}
	}
	after, faults := config.Format(before)
	for i := range faults {
		faults[i].File = name
	}
	return laidOut{name, string(before) != string(after), string(after)}, faults
}

// replace writes a file whole or not at all: a gateway may be watching it. A
// symbolic link stays one.
func replace(name string, data []byte) error {
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(info.Mode()&fs.ModePerm), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration",
		Long: "Prints the JSON Schema of the configuration language, for editors. With the YAML language server,\n" +
			"this line at the top of a file brings completion and help:\n\n  # yaml-language-server: $schema=gatehouse.schema.json",
		Example: "  gatehouse schema > gatehouse.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(schema.JSON(app.Catalog()))
			return err
		},
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print what this binary is",
		Long:    "Prints the version, the Go release that compiled it, and the platform.",
		Example: "  gatehouse version\n  gatehouse version --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON(cmd) {
				return printJSON(cmd.OutOrStdout(), map[string]string{"version": version(), "go": runtime.Version(), "platform": platform()})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "gatehouse %s %s %s\n", version(), runtime.Version(), platform())
			return err
		},
	}
}

func completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish|powershell",
		Short:     "Print a completion script for a shell",
		Long:      "Prints a script that makes a shell complete commands and flags.",
		Example:   "  source <(gatehouse completion bash)",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !asJSON(cmd) {
				return complete(cmd.OutOrStdout(), cmd.Root(), args[0])
			}
			var script strings.Builder
			if err := complete(&script, cmd.Root(), args[0]); err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), map[string]string{"shell": args[0], "script": script.String()})
		},
	}
}

// complete writes the completion script of a shell.
func complete(out io.Writer, root *cobra.Command, shell string) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(out, true)
	case "zsh":
		return root.GenZshCompletion(out)
	case "fish":
		return root.GenFishCompletion(out, true)
	}
	return root.GenPowerShellCompletionWithDesc(out)
}

func asJSON(cmd *cobra.Command) bool { return cmd.Flag("json").Value.String() == "true" }

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
