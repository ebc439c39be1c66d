package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "google.golang.org/grpc/interop/grpc_testing"
)

// A call that has begun when the server or the agent is told to stop goes on,
// both ways, to its end; then that program has nothing left to wait for.
func TestGRPCWhileStopping(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		who    string
		others codes.Code // what calls get that begin later
	}{
		{"server", codes.Unavailable},
		{"agent", codes.DeadlineExceeded}, // they wait for it to come back
	} {
		t.Run(tt.who, func(t *testing.T) {
			t.Parallel()
			const grace = time.Minute // of the server; an agent has one of 5 s
			s := startTLS(t, "--grace", grace.String())
			upstream, _ := startGRPC(t, nil)
			stopping := s.process
			agent := s.agent(t, "http", "h2c://"+upstream, "--id", "calls")
			if tt.who == "agent" {
				stopping = agent
			}
			client := pb.NewTestServiceClient(s.dialGRPC(t, "calls", &tls.Config{RootCAs: s.ca.Pool}))
			ctx, cancel := context.WithTimeout(t.Context(), grace)
			defer cancel()
			call, err := client.FullDuplexCall(ctx)
			if err != nil {
				t.Fatal(err)
			}
			say := func(what string) {
				t.Helper()
				if err := call.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte(what)}}); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if m, err := call.Recv(); err != nil || string(m.Payload.GetBody()) != what {
					t.Fatalf("got %q, %v, want %q", m.GetPayload().GetBody(), err, what)
				}
			}
			say("before")
			syscall.Kill(stopping.pid, syscall.SIGTERM)
			eventually(t, "other calls are not taken", 3*time.Second, func(ctx context.Context) error {
				say("while it stops")
				ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
				if _, err := client.UnaryCall(ctx, &pb.SimpleRequest{}); status.Code(err) != tt.others {
					return fmt.Errorf("got %w, want %v", err, tt.others)
				}
				return nil
			})
			for range 20 {
				say("when it is alone")
			}
			if err := call.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if _, err := call.Recv(); err != io.EOF {
				t.Errorf("end of the call: got %v, want %v", err, io.EOF)
			}
			select {
			case <-stopping.done:
			case <-time.After(grace / 2):
				t.Error("it waits though the last call has ended")
			}
		})
	}
}
