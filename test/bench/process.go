//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of times in /proc/<pid>/stat: USER_HZ, which is 100 on every
// Linux that Go runs on. Their sum is exact to that unit.
const tick = time.Second / 100

// process is a started program and its descendants, which share its process
// group.
type process struct {
	cmd  *exec.Cmd
	log  string        // file with what it printed
	done chan struct{} // closed when it ended
}

// startProcess starts a program on the given processors. What it prints goes to
// a file in dir. It must be called on the thread that lives as long as the
// program.
func startProcess(dir, name string, cpus []int, args ...string) (*process, error) {
	p := &process{log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer out.Close()
	p.cmd = exec.Command("taskset", append([]string{"-c", cpuList(cpus)}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in its log
		close(p.done)
	}()
	return p, nil
}

// stop ends the whole group and waits until it is gone.
func (p *process) stop() {
	group := -p.cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(3 * time.Second):
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	<-p.done
}

// printed returns the end of what the program printed, for an error message.
func (p *process) printed() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-2000):]))
}

// members returns the processes of the group.
func (p *process) members() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(procFile(pid, "stat"))
		if err != nil {
			continue // it ended since the folder was read
		}
		if st, err := parseStat(text); err == nil && st.group == p.cmd.Process.Pid {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("%s ended: %s", filepath.Base(p.log), p.printed())
	}
	return pids, nil
}

// usage is what a process group has used.
type usage struct {
	cpu         time.Duration // user and system, since it started
	rss         int64         // resident bytes; pages that several processes share count in each
	peak        int64         // highest rss since resetPeak, in bytes
	descriptors int
}

func (p *process) usage() (usage, error) {
	var u usage
	pids, err := p.members()
	if err != nil {
		return u, err
	}
	for _, pid := range pids {
		text, err := os.ReadFile(procFile(pid, "stat"))
		if err != nil {
			return u, err
		}
		st, err := parseStat(text)
		if err != nil {
			return u, err
		}
		u.cpu += st.cpu
		if text, err = os.ReadFile(procFile(pid, "status")); err != nil {
			return u, err
		}
		rss, peak, err := parseStatus(text)
		if err != nil {
			return u, err
		}
		u.rss, u.peak = u.rss+rss, u.peak+peak
		fds, err := os.ReadDir(procFile(pid, "fd"))
		if err != nil {
			return u, err
		}
		u.descriptors += len(fds)
	}
	return u, nil
}

// resetPeak lets the highest resident size start anew (proc(5), clear_refs).
func (p *process) resetPeak() error {
	pids, err := p.members()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := os.WriteFile(procFile(pid, "clear_refs"), []byte("5"), 0); err != nil {
			return fmt.Errorf("resetting the peak of resident memory: %w", err)
		}
	}
	return nil
}

func procFile(pid int, name string) string {
	return "/proc/" + strconv.Itoa(pid) + "/" + name
}

// stat is what is used of /proc/<pid>/stat.
type stat struct {
	group int
	cpu   time.Duration
}

// parseStat reads /proc/<pid>/stat (proc(5)). The name of the program is in
// parentheses and may hold anything, so fields are counted from its end.
func parseStat(text []byte) (stat, error) {
	end := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[end+1:]))
	if end < 0 || len(fields) < 13 {
		return stat{}, fmt.Errorf("reading a process's stat: %q has too few fields", text)
	}
	var n [3]int64
	for i, at := range [...]int{2, 11, 12} { // pgrp, utime, stime
		v, err := strconv.ParseInt(fields[at], 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("reading a process's stat: %w", err)
		}
		n[i] = v
	}
	return stat{group: int(n[0]), cpu: time.Duration(n[1]+n[2]) * tick}, nil
}

// parseStatus reads the resident size and its peak, in bytes, from
// /proc/<pid>/status. A process that is just ending has neither.
func parseStatus(text []byte) (rss, peak int64, err error) {
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "VmRSS" && name != "VmHWM" {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("reading %s of a process: %w", name, err)
		}
		if name == "VmRSS" {
			rss = kib << 10
		} else {
			peak = kib << 10
		}
	}
	return rss, peak, nil
}

// processors says who runs where.
type processors struct{ proxy, load []int }

// split gives the first n processors to the proxy and the others to the load
// and the upstream; when none is left, those share all of them.
func split(cpus []int, n int) (processors, error) {
	if len(cpus) < 2 {
		return processors{}, errors.New("two processors are needed: one for the proxy, one for the load and the upstream")
	}
	if n > len(cpus) {
		return processors{}, fmt.Errorf("-cores %d: there are only %d processors", n, len(cpus))
	}
	if n == len(cpus) {
		return processors{cpus, cpus}, nil
	}
	return processors{cpus[:n], cpus[n:]}, nil
}

// allowed lists the processors that this process may use.
func allowed() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("asking for the processors: %w", err)
	}
	var cpus []int
	for i := 0; len(cpus) < set.Count(); i++ {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// pin keeps every thread of this process, and so the load, on the processors.
func pin(cpus []int) error {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return fmt.Errorf("reading a thread's number: %w", err)
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("keeping the load on processors %s: %w", cpuList(cpus), err)
		}
	}
	runtime.GOMAXPROCS(len(cpus))
	return nil
}

func cpuList(cpus []int) string {
	var text []string
	for _, cpu := range cpus {
		text = append(text, strconv.Itoa(cpu))
	}
	return strings.Join(text, ",")
}

// raiseDescriptors raises the limit of open files as far as is permitted, for
// this process and its children, and returns it.
func raiseDescriptors() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("asking for the limit of descriptors: %w", err)
	}
	if limit.Max < 65536 && syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 65536, Max: 65536}) == nil {
		return 65536, nil
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit.Max, Max: limit.Max}); err != nil {
		return 0, fmt.Errorf("raising the limit of descriptors: %w", err)
	}
	return limit.Max, nil
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
