//go:build linux

package main

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// machineFacts gathers what a reader of the figures needs to know. What cannot
// be found out is said to be unknown.
func machineFacts(b *bench, processors int) machine {
	m := machine{CPU: "unknown", Processors: processors, Kernel: "unknown", Versions: map[string]string{"go": runtime.Version()}}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.CPU = cpuModel(string(text))
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	m.Versions["wrk"] = firstLine(findProgram("wrk"), "-v")
	m.Versions["h2load"] = firstLine(findProgram("h2load"), "--version")
	for _, name := range b.opts.proxies {
		p := productNamed(name)
		m.Versions[name] = firstLine(b.program(p), p.version...)
	}
	return m
}

// cpuModel finds the name of the first processor.
func cpuModel(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// firstLine returns the first line that a program prints. Some end with an
// error when they are only asked for their version, so that is not looked at.
func firstLine(program string, args ...string) string {
	out, _ := exec.Command(program, args...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	line, _, _ = strings.Cut(line, " - ")
	line = strings.TrimPrefix(line, "nginx version: ")
	line = strings.TrimPrefix(line, "HAProxy version ")
	if line == "" {
		return "unknown"
	}
	return line
}
