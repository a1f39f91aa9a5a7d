package idempotency

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"gatehouse.dev/gatehouse/internal/durable"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
	"gatehouse.dev/gatehouse/internal/redis/redistest"
	"gatehouse.dev/gatehouse/internal/replay"
)

// What a client saw of one request.
type outcome int

const (
	answered outcome = iota // with the number of the execution
	refused                 // it was not carried out by this request
	crashed                 // nobody knows: the gateway ended in the middle
)

type call struct {
	key int
	id  int // of the execution, should this request be the one that is carried out
}

type result struct {
	outcome outcome
	id      int
}

// model: a key is carried out at most once, and everybody who gets an answer
// gets that of this one time. A crash may have happened before or after the
// service did its work.
func model() porcupine.Model {
	const nothing, burned = 0, -1
	m := porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := make(map[int][]porcupine.Operation)
			for _, op := range history {
				byKey[op.Input.(call).key] = append(byKey[op.Input.(call).key], op)
			}
			var parts [][]porcupine.Operation
			for _, p := range byKey {
				parts = append(parts, p)
			}
			return parts
		},
		Init: func() []any { return []any{nothing} },
		Step: func(state, input, output any) []any {
			have, in, out := state.(int), input.(call), output.(result)
			switch out.outcome {
			case answered:
				if have == nothing && out.id == in.id || have != nothing && have == out.id {
					return []any{out.id}
				}
				return nil
			case crashed:
				if have == nothing {
					return []any{nothing, burned}
				}
			}
			return []any{have}
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v -> %v", input, output) },
	}
	return m.ToModel()
}

// TestModel has clients repeat requests at once while gateways crash, and
// checks that the history is one of a thing done at most once.
func TestModel(t *testing.T) {
	t.Run("durable", func(t *testing.T) {
		s, err := durable.Open(t.TempDir(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		testModel(t, s)
	})
	t.Run("redis", func(t *testing.T) {
		testModel(t, policytest.Shared(t, redistest.Start(t)))
	})
}

func testModel(t *testing.T, store replay.Store) {
	c := Kind().New().(*Config)
	c.Lease, c.Wait = policy.Duration(50*time.Millisecond), policy.Duration(200*time.Millisecond)
	p, err := c.Compile(&policy.Env{Slots: new(policy.Slots), Log: slog.New(slog.DiscardHandler), Service: func(string) any { return store }})
	if err != nil {
		t.Fatal(err)
	}
	k := p.(*keeper)
	var mu sync.Mutex
	executed := make(map[int]int)
	var history []porcupine.Operation
	start := time.Now()
	var all sync.WaitGroup
	for client := range 6 {
		all.Go(func() {
			for i := range 25 {
				in := call{key: i / 3, id: 1 + client*1000 + i}
				began := int64(time.Since(start))
				out := send(k, in, func() {
					mu.Lock()
					executed[in.key]++
					mu.Unlock()
				})
				ended := int64(time.Since(start))
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: client, Input: in, Call: began, Output: out, Return: ended})
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for key, n := range executed {
		if n > 1 {
			t.Errorf("key %d was carried out %d times", key, n)
		}
	}
	if result := porcupine.CheckOperationsTimeout(model(), history, 30*time.Second); result != porcupine.Ok {
		t.Errorf("the history is not that of a thing done once: %v", result)
	}
}

// send plays the gateway for one request, and sometimes crashes.
func send(k *keeper, in call, execute func()) result {
	x := exchange.Get() // never put back: after a crash nobody would
	x.Client = new(exchange.Client)
	x.Request.Method, x.Request.Path = "POST", "/"
	x.Request.Header.Add("Idempotency-Key", strconv.Itoa(in.key))
	crash := rand.IntN(6)
	if k.Request(x) == policy.Stop {
		if x.Problem != nil {
			return result{outcome: refused}
		}
		return result{answered, read(x)}
	}
	if crash == 0 {
		return result{outcome: crashed} // before the service is asked
	}
	x.Times.Sent = exchange.Now()
	time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
	execute()
	if crash == 1 {
		return result{outcome: crashed} // after it has done its work
	}
	if crash == 2 {
		x.Fail(&exchange.Problem{Status: 504, Code: "upstream_timeout"})
		k.Done(x)
		return result{outcome: crashed}
	}
	x.Response.Status = 201
	x.Response.Body, x.Response.Length = exchange.Bytes([]byte(strconv.Itoa(in.id))), exchange.Unknown
	k.Response(x)
	k.Done(x)
	return result{answered, read(x)}
}

func read(x *exchange.Exchange) int {
	p, _ := x.Response.Body.Next()
	n, _ := strconv.Atoi(string(p))
	return n
}

func FuzzAnswer(f *testing.F) {
	r := new(exchange.Response)
	r.Reset()
	r.Status = 201
	r.Header.Add("Location", "/7")
	f.Add(appendAnswer(nil, r, []byte("body")))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := new(exchange.Response)
		r.Reset()
		if !readAnswer(b, r) {
			return
		}
		body, _ := exchange.Held(r.Body)
		again := new(exchange.Response)
		again.Reset()
		if !readAnswer(appendAnswer(nil, r, body), again) || again.Status != r.Status {
			t.Errorf("%q is not read as it was written", b)
		}
	})
}

func FuzzKey(f *testing.F) {
	f.Add(`"8e03978e-40d5-43dd-bc93-6894a57f9324"`)
	f.Fuzz(func(t *testing.T, s string) {
		if key, ok := parseKey(s); ok && (key == "" || len(key) > 255) {
			t.Errorf("%q is taken as %q", s, key)
		}
	})
}
