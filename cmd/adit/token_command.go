package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"adit/agent"
	"adit/internal/backoff"
)

const (
	commandTimeout = 30 * time.Second
	commandMin     = time.Second // between runs of a command that fails, or prints the same token again
	commandMax     = time.Minute
	commandAnew    = time.Second // between runs because of refusals
)

// A commandSource gets its token from a command.
type commandSource struct {
	command string
	environ []string

	mu      sync.Mutex // held while the command runs; guards the fields below
	last    string     // token; empty if there is none that is any good
	renewAt time.Time  // zero if last does not say
	ran     time.Time
	retry   backoff.Backoff
	again   time.Time // not before that, after a failure
}

// token returns the token of the last run, unless it is about to expire or was
// refused.
func (s *commandSource) token() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != "" && (s.renewAt.IsZero() || time.Now().Before(s.renewAt)) {
		return s.last, nil
	}
	old := s.last
	token, err := s.runLocked(context.Background())
	if err != nil && old != "" { // it may be good for a moment yet
		s.last = old
		return old, nil
	}
	return token, err
}

// refused has the next token run the command again.
func (s *commandSource) refused() {
	if !s.mu.TryLock() {
		return // it runs just now
	}
	defer s.mu.Unlock()
	if time.Since(s.ran) > commandAnew {
		s.last = ""
	}
}

// next waits until the token is to be replaced, and runs the command until it
// prints another one.
func (s *commandSource) next(ctx context.Context, last string) (string, error) {
	exp, ok := agent.Expiry(last)
	if !ok {
		<-ctx.Done() // nobody knows when
		return "", ctx.Err()
	}
	wait := max(time.Until(agent.RefreshAt(time.Now(), exp)), commandMin)
	b := backoff.Backoff{Min: commandMin, Max: commandMax}
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return "", ctx.Err()
		}
		s.mu.Lock()
		token, err := s.last, error(nil)
		if token == last || token == "" { // no other agent of this process was faster
			token, err = s.runLocked(ctx)
		}
		s.mu.Unlock()
		switch {
		case err != nil:
			return "", err // is logged; the pause is the agent's
		case token != last:
			return token, nil
		}
		wait = b.Next()
	}
}

// runLocked runs the command. Neither what it prints nor the command itself is
// in the error: there may be secrets in both.
func (s *commandSource) runLocked(ctx context.Context) (string, error) {
	if time.Now().Before(s.again) {
		return "", errors.New("--token-command: it has just failed")
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	c := shellCommand(ctx, s.command)
	c.Env = s.environ
	c.WaitDelay = time.Second // for children that keep the output open
	out := &limitedBuffer{limit: maxTokenText}
	c.Stdout = out
	err := c.Run()
	s.ran = time.Now()
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("it took more than %v", commandTimeout)
	} else if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%v (run it by hand to see why)", exit)
	}
	var token string
	if err == nil {
		token, err = parseToken(out.String())
	}
	if err != nil {
		s.again = s.ran.Add(s.retry.Next())
		return "", fmt.Errorf("--token-command: %w", err)
	}
	s.retry.Reset()
	s.last, s.renewAt = token, time.Time{}
	if exp, ok := agent.Expiry(token); ok {
		s.renewAt = agent.RefreshAt(s.ran, exp)
	}
	return token, nil
}

// A limitedBuffer takes all that is written and keeps its beginning.
type limitedBuffer struct {
	bytes.Buffer
	limit int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := b.limit + 1 - b.Len(); room > 0 { // one more, so that it shows
		b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
