package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/internal/app"
)

// longestSecret is the longest key or password in bytes that is read.
const longestSecret = 1024

func keyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "key [--hash | --password | --check]",
		Short: "Make an API key, or the hash of a key or password",
		Long: "Makes an API key and prints it with its hash. The hash is what the configuration gets; the key is shown this\n" +
			"once. Keys begin with gh_ and end with a checksum, so that leaked ones can be found.\n\n" +
			"With --hash, --password or --check a key or password is read from standard input, never from the arguments,\n" +
			"which others can see. --check says whether a text is a key: the exit code is 1 when it is not.",
		Example: "  gatehouse key\n  gatehouse key --hash < key.txt\n  gatehouse key --password\n  gatehouse key --check < suspect.txt",
		Args:    cobra.NoArgs,
	}
	hash := c.Flags().Bool("hash", false, "print the hash of a key")
	password := c.Flags().Bool("password", false, "print the hash of a password")
	check := c.Flags().Bool("check", false, "say whether a text is a key")
	c.MarkFlagsMutuallyExclusive("hash", "password", "check")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if !*hash && !*password && !*check {
			key, sum := app.NewKey()
			return tell(cmd, "key", key, "hash", sum)
		}
		text, err := readSecret(cmd.InOrStdin())
		if err != nil {
			return err
		}
		switch {
		case *hash:
			return tell(cmd, "hash", app.HashKey(text))
		case *password:
			sum, err := app.HashPassword(text)
			if err != nil {
				return err
			}
			return tell(cmd, "password_hash", sum)
		case !app.IsKey(text):
			return errors.New("this is not a key of gatehouse")
		}
		return tell(cmd, "hash", app.HashKey(text))
	}
	return c
}

// tell prints names and values: as JSON, or a line each, or a single value
// alone so that it can be used as it is.
func tell(cmd *cobra.Command, pairs ...string) error {
	if asJSON(cmd) {
		m := make(map[string]string)
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return printJSON(cmd.OutOrStdout(), m)
	}
	if len(pairs) == 2 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), pairs[1])
		return err
	}
	for i := 0; i < len(pairs); i += 2 {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%-5s %s\n", pairs[i], pairs[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// readSecret reads one line.
func readSecret(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, longestSecret+2)).ReadString('\n')
	text := strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return "", err
	case text == "":
		return "", errors.New("nothing came on standard input")
	case len(text) > longestSecret:
		return "", fmt.Errorf("what came on standard input is longer than %d bytes", longestSecret)
	}
	return text, nil
}
