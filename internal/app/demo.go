package app

import (
	"context"
	"io"

	"gatehouse.dev/gatehouse/examples"
	"gatehouse.dev/gatehouse/internal/demo"
)

// Demo runs the sample services and the gateway in front of them, until
// SIGTERM or SIGINT, and writes to out what to try.
func Demo(version string, out, stderr io.Writer) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if err := demo.Start(ctx, nil); err != nil {
		return err
	}
	source := Source{Name: "examples/shop/gatehouse.yaml", Data: examples.Shop}
	var told error
	err := Run(source, version, stderr, func(*App) { told = demo.Banner(out) })
	if err == nil {
		err = told
	}
	return err
}
