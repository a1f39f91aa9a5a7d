package wire

import "sync"

// Sizes of the pooled buffers in bytes. A message's head may grow beyond the
// first; bodies that are not spliced move through the second.
const (
	BufferSize      = 16 << 10
	LargeBufferSize = 64 << 10
)

// Buffer is pooled memory. It is borrowed only while bytes are there.
type Buffer struct {
	B []byte
}

var (
	buffers = sync.Pool{New: func() any { return &Buffer{make([]byte, BufferSize)} }}
	large   = sync.Pool{New: func() any { return &Buffer{make([]byte, LargeBufferSize)} }}
)

// GetBuffer borrows a buffer of BufferSize.
func GetBuffer() *Buffer { return buffers.Get().(*Buffer) }

// GetLarge borrows a buffer of LargeBufferSize.
func GetLarge() *Buffer { return large.Get().(*Buffer) }

// Put gives the buffer back. One that was replaced by memory of another size
// is left to the collector.
func (b *Buffer) Put() {
	switch len(b.B) {
	case BufferSize:
		buffers.Put(b)
	case LargeBufferSize:
		large.Put(b)
	}
}
