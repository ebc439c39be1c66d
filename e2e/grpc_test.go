package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "google.golang.org/grpc/interop/grpc_testing"

	"adit/internal/testca"
)

// testService is a gRPC service with all kinds of calls.
type testService struct {
	pb.UnimplementedTestServiceServer
	cancelled chan struct{}
}

func (testService) UnaryCall(ctx context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	grpc.SetHeader(ctx, metadata.Pairs("x-header", strings.Join(md.Get("x-question"), " "), "x-forwarded-for", strings.Join(md.Get("x-forwarded-for"), " ")))
	grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "tail", "x-bytes-bin", "\x00\xff"))
	if s := in.GetResponseStatus(); s != nil {
		return nil, status.Error(codes.Code(s.Code), s.Message)
	}
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: bytes.Repeat([]byte("r"), int(in.ResponseSize))}}, nil
}

func (testService) StreamingOutputCall(in *pb.StreamingOutputCallRequest, out grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	for _, p := range in.ResponseParameters {
		if err := out.Send(&pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: make([]byte, p.Size)}}); err != nil {
			return err
		}
	}
	return nil
}

func (testService) StreamingInputCall(in grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	total := 0
	for {
		m, err := in.Recv()
		if err == io.EOF {
			return in.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: int32(total)})
		} else if err != nil {
			return err
		}
		total += len(m.Payload.GetBody())
	}
}

func (s testService) FullDuplexCall(both grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		m, err := both.Recv()
		if err == io.EOF {
			return nil
		} else if err != nil {
			if status.Code(err) == codes.Canceled {
				s.cancelled <- struct{}{}
			}
			return err
		}
		if err := both.Send(&pb.StreamingOutputCallResponse{Payload: m.Payload}); err != nil {
			return err
		}
	}
}

// startGRPC serves testService on loopback, with TLS if creds are not nil.
func startGRPC(t *testing.T, creds credentials.TransportCredentials) (addr string, cancelled chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var opts []grpc.ServerOption
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	srv := grpc.NewServer(opts...)
	cancelled = make(chan struct{}, 10)
	pb.RegisterTestServiceServer(srv, testService{cancelled: cancelled})
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	t.Cleanup(func() {
		srv.Stop()
		wg.Wait()
	})
	return l.Addr().String(), cancelled
}

// dialGRPC returns a gRPC client of the name.
func (s *tlsServer) dialGRPC(t *testing.T, name string, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+name+"."+domain, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", s.tlsAddr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A gRPC client and server, with the tunnel between them: over HTTP/2 that the
// server ends, and over TLS that it passes on.
func TestGRPC(t *testing.T) {
	t.Parallel()
	s := startTLS(t)
	own := testca.New(t)
	plain, cancelled := startGRPC(t, nil)
	cert := own.Issue(t, testca.Server("passed."+domain, "localhost"))
	secure, passedCancelled := startGRPC(t, credentials.NewServerTLSFromCert(&cert))
	s.agent(t, "http", "h2c://"+plain, "--id", "ended")
	s.agent(t, "tls", secure, "--id", "passed")
	// The same upstream, with TLS that the agent ends and the server ends.
	_, port, _ := net.SplitHostPort(secure)
	_, tlsPort, _ := net.SplitHostPort(s.tlsAddr)
	c := aditCommand([]string{binary, "http", "h2://localhost:" + port, "--id", "again", "--server", "wss://localhost:" + tlsPort,
		"--ca-file", s.caFile, "--secret-file", s.secret})
	c.Env = append(c.Env, "SSL_CERT_FILE="+own.File(t))
	start(t, "agent", c).waitLog(t, "an address", 20*time.Second, func(log string) bool { return strings.Contains(log, "->") })

	for _, tt := range []struct {
		name      string
		config    *tls.Config
		cancelled chan struct{}
		forwarded string // what upstreams are told of the visitor
	}{
		{"ended", &tls.Config{RootCAs: s.ca.Pool}, cancelled, "127.0.0.1"},
		{"passed", &tls.Config{RootCAs: own.Pool}, passedCancelled, ""},
		{"again", &tls.Config{RootCAs: s.ca.Pool}, passedCancelled, "127.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := s.dialGRPC(t, tt.name, tt.config)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			testGRPC(ctx, t, pb.NewTestServiceClient(conn), tt.cancelled, tt.forwarded)
		})
	}
}

func testGRPC(ctx context.Context, t *testing.T, c pb.TestServiceClient, cancelled chan struct{}, forwarded string) {
	var header, trailer metadata.MD
	asked := metadata.AppendToOutgoingContext(ctx, "x-question", "why", "x-forwarded-for", "192.0.2.1")
	const size = 300_000
	resp, err := c.UnaryCall(asked, &pb.SimpleRequest{ResponseSize: size, Payload: &pb.Payload{Body: make([]byte, size)}}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || len(resp.Payload.GetBody()) != size {
		t.Fatalf("unary: got %d bytes, %v, want %d", len(resp.GetPayload().GetBody()), err, size)
	}
	if forwarded == "" {
		forwarded = "192.0.2.1" // nobody has looked at it
	}
	if got := fmt.Sprint(header.Get("x-header"), header.Get("x-forwarded-for"), trailer.Get("x-trailer"), trailer.Get("x-bytes-bin")); got != fmt.Sprintf("[why] [%s] [tail] [\x00\xff]", forwarded) {
		t.Errorf("unary: got the metadata %q", got)
	}

	_, err = c.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: &pb.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "not like this: ä\n"}}, grpc.Trailer(&trailer))
	if st := status.Convert(err); st.Code() != codes.FailedPrecondition || st.Message() != "not like this: ä\n" || trailer.Get("x-trailer") == nil {
		t.Errorf("error: got %v with the trailer %v", err, trailer)
	}

	out, err := c.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{ResponseParameters: []*pb.ResponseParameters{{Size: 1}, {Size: 100_000}, {Size: 0}}})
	for _, want := range []int{1, 100_000, 0} {
		var m *pb.StreamingOutputCallResponse
		if err == nil {
			m, err = out.Recv()
		}
		if err != nil || len(m.Payload.GetBody()) != want {
			t.Fatalf("stream down: got %d bytes, %v, want %d", len(m.GetPayload().GetBody()), err, want)
		}
	}
	if _, err := out.Recv(); err != io.EOF {
		t.Errorf("stream down: got %v, want its end", err)
	}

	in, err := c.StreamingInputCall(ctx)
	for i := 0; err == nil && i < 20; i++ {
		err = in.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: make([]byte, 50_000)}})
	}
	if err != nil {
		t.Fatal(err)
	}
	if sum, err := in.CloseAndRecv(); err != nil || sum.AggregatedPayloadSize != 1_000_000 {
		t.Errorf("stream up: got %v, %v, want a million bytes", sum, err)
	}

	// Each question is answered before the next: nothing waits for more.
	both, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		want := fmt.Sprint("question ", i)
		err := both.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte(want)}})
		var m *pb.StreamingOutputCallResponse
		if err == nil {
			m, err = both.Recv()
		}
		if err != nil || string(m.Payload.GetBody()) != want {
			t.Fatalf("both ways: got %q, %v, want %q", m.GetPayload().GetBody(), err, want)
		}
	}
	both.CloseSend()
	if _, err := both.Recv(); err != io.EOF {
		t.Errorf("both ways: got %v, want its end", err)
	}

	if _, err := c.UnimplementedCall(ctx, &pb.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown call: got %v, want that it is not implemented", err)
	}

	// Who gives up is heard of.
	leaving, leave := context.WithCancel(ctx)
	defer leave()
	both, err = c.FullDuplexCall(leaving)
	if err == nil {
		err = both.Send(&pb.StreamingOutputCallRequest{})
	}
	if err == nil {
		_, err = both.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	leave()
	select {
	case <-cancelled:
	case <-ctx.Done():
		t.Error("the upstream does not hear that the call was given up")
	}
	short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	both, err = c.FullDuplexCall(short)
	if err == nil {
		_, err = both.Recv()
	}
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("deadline: got %v", err)
	}

	// Many calls share what there is.
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for range 300 {
		wg.Go(func() {
			_, err := c.UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: 1000})
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
		})
	}
	wg.Wait()
	if failed != nil {
		t.Errorf("many at once: %v", failed)
	}
}

// An upstream that speaks HTTP/2, and visitors who may not.
func TestHTTP2Upstreams(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	s := startTLS(t)
	addr, _ := startGRPC(t, nil)
	s.agent(t, "http", "h2c://"+addr, "--id", "ended")
	empty := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(empty, make([]byte, 5), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"--http1.1", "--http2"} {
		got := s.curl(t, version, "-D", "-", "-o", os.DevNull, "-H", "content-type: application/grpc", "-H", "te: trailers",
			"--data-binary", "@"+empty, s.url("ended."+domain)+"/grpc.testing.TestService/UnaryCall")
		if got = strings.ToLower(got); !strings.Contains(got, " 200") || !strings.Contains(got, "x-trailer: tail") || !strings.Contains(got, "grpc-status: 0") {
			t.Errorf("%s: got %q, want an answer of gRPC with its trailer", version, got)
		}
	}
}
