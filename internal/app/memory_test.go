package app

import (
	"io/fs"
	"testing"
)

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 1200, 4 << 20: 600, 24 << 20: 100, 4 << 30: 100} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d bytes live: %d %%, want %d", live, got, want)
		}
	}
}

func TestContainerMemory(t *testing.T) {
	const v2, v1 = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"
	for _, c := range []struct {
		files map[string]string
		want  int64
	}{
		{nil, 0},
		{map[string]string{v2: "max\n"}, 0},
		{map[string]string{v2: "268435456\n"}, 256 << 20},
		{map[string]string{v1: "9223372036854771712\n"}, 0},
		{map[string]string{v1: "1048576\n"}, 1 << 20},
		{map[string]string{v2: "-1\n"}, 0},
	} {
		got := containerMemory(func(name string) ([]byte, error) {
			text, ok := c.files[name]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return []byte(text), nil
		})
		if got != c.want {
			t.Errorf("%q: %d, want %d", c.files, got, c.want)
		}
	}
}
