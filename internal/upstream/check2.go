package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h2"
	"gatehouse.dev/gatehouse/internal/wire"
)

// This file asks over HTTP/2 whether an endpoint is well: for a status, or by
// the health checking protocol of gRPC (grpc.health.v1), whose one question
// and answer are written here.

// once owns a connection that carries one question.
type once struct{ e *endpoint }

func (once) Free(*h2.Client)  {}
func (once) Gone(*h2.Client)  {}
func (o once) Panicked(v any) { o.e.panicked(v) }

// errPlace says that an endpoint takes no request on a new connection.
var errPlace = errors.New("the endpoint takes no request")

// get2 asks for a status over a connection of HTTP/2.
func (h *checking) get2(ctx context.Context, e *endpoint, nc net.Conn) (status int, err error) {
	err = h.over(ctx, e, nc, func(r *exchange.Request) { r.Method, r.Path = "GET", h.path }, func(r *exchange.Response) error {
		status = r.Status
		return nil
	})
	return status, err
}

// serving asks by the protocol of gRPC, and returns what was answered.
func (h *checking) serving(ctx context.Context, e *endpoint, nc net.Conn) (said string, err error) {
	question := healthQuestion(h.service)
	err = h.over(ctx, e, nc, func(r *exchange.Request) {
		r.Method, r.Path = "POST", "/grpc.health.v1.Health/Check"
		r.Header.Add("Content-Type", "application/grpc")
		r.Header.AddKnown(exchange.TE, "trailers")
		r.Header.Add("Grpc-Timeout", strconv.FormatInt(max(h.timeout.Milliseconds(), 1), 10)+"m")
		r.Body, r.Length = exchange.Bytes(question), int64(len(question))
	}, func(r *exchange.Response) (err error) {
		said, err = healthAnswer(r)
		return err
	})
	return said, err
}

// over asks one question over a new connection.
func (h *checking) over(ctx context.Context, e *endpoint, nc net.Conn, fill func(*exchange.Request), heard func(*exchange.Response) error) error {
	scheme := "http"
	if e.scheme.secure() {
		scheme = "https"
	}
	k := h2.NewClient(wire.New(nc, e.u.sweeper), scheme, (*h2.ResponseLimits)(&e.u.limits), once{e})
	defer k.Cut()
	if !k.Take() {
		return errPlace
	}
	x := exchange.Get()
	x.Client, x.Down = &exchange.Client{}, silent{}
	r := &x.Request
	r.Scheme, r.Authority = scheme, e.host
	if h.host != "" {
		r.Authority = h.host
	}
	r.Header.Add("User-Agent", "gatehouse-health")
	fill(r)
	stop := context.AfterFunc(ctx, func() { x.Cancel(ctx.Err()) })
	err := k.RoundTrip(x, r.Authority)
	if err == nil {
		err = heard(&x.Response)
		_ = x.Response.Body.Close() // whatever is left of it is not wanted
	}
	if stop() { // else it may be cancelled yet, and must not be used again
		exchange.Put(x)
	}
	return err
}

// healthQuestion is a HealthCheckRequest with its field 1, the service, as a
// message of gRPC: a byte that says that it is not compressed, and its length.
func healthQuestion(service string) []byte {
	var m []byte
	if service != "" {
		m = binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(service)))
		m = append(m, service...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
}

// maxHealthAnswer bounds the answer of a check, in bytes.
const maxHealthAnswer = 4 << 10

var errHealthAnswer = errors.New("the answer is not a HealthCheckResponse")

// healthAnswer reads the whole answer. The error says why it is not SERVING.
func healthAnswer(r *exchange.Response) (said string, err error) {
	if r.Status != 200 {
		return "", fmt.Errorf("status %d", r.Status)
	}
	var all []byte
	for {
		p, err := r.Body.Next()
		if all = append(all, p...); len(all) > maxHealthAnswer {
			return "", errHealthAnswer
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", fmt.Errorf("answer: %w", err)
		}
	}
	status := r.Trailer.Get("Grpc-Status")
	if status == "" {
		status = r.Header.Get("Grpc-Status") // an answer of nothing but trailers
	}
	if status != "0" {
		return "", fmt.Errorf("gRPC status %.20q", status)
	}
	n, err := healthStatus(all)
	if err != nil {
		return "", err
	}
	names := [...]string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}
	said = "status " + strconv.FormatUint(n, 10)
	if n < uint64(len(names)) {
		said = names[n]
	}
	if said != "SERVING" {
		return "", errors.New(said)
	}
	return said, nil
}

// healthStatus returns field 1 of a HealthCheckResponse, a varint. Other fields
// are passed over; of several the last one counts.
func healthStatus(p []byte) (status uint64, err error) {
	if len(p) < 5 || p[0] != 0 || uint64(binary.BigEndian.Uint32(p[1:])) != uint64(len(p)-5) {
		return 0, errHealthAnswer
	}
	for p = p[5:]; len(p) > 0; {
		key, n := binary.Uvarint(p)
		if n <= 0 || key>>3 == 0 {
			return 0, errHealthAnswer
		}
		p = p[n:]
		value, n := binary.Uvarint(p)
		switch key & 7 {
		case 0:
			if n <= 0 {
				return 0, errHealthAnswer
			}
			if key>>3 == 1 {
				status = value
			}
		case 1:
			n = 8
		case 2:
			if n <= 0 || value > uint64(len(p)-n) {
				return 0, errHealthAnswer
			}
			n += int(value)
		case 5:
			n = 4
		default:
			return 0, errHealthAnswer
		}
		if n > len(p) {
			return 0, errHealthAnswer
		}
		p = p[n:]
	}
	return status, nil
}
