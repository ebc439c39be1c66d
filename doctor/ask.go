package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	onceCalls  = 10                     // at once
	settleTime = 300 * time.Millisecond // for a second copy of a request to arrive
	bodyLimit  = 4 * time.Second        // for one body
)

// do makes a request to the server and reads its answer.
func (x *examination) do(ctx context.Context, method, path string, body []byte, into any) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, x.at(path), bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	x.dress(r)
	resp, err := x.client.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && into != nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(answer, into)
	}
	return resp, answer, err
}

// dress gives a request what all of the agent's have.
func (x *examination) dress(r *http.Request) {
	r.Header.Set("User-Agent", "adit")
	for name, values := range x.opts.Header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	if x.opts.Host != "" {
		r.Host = x.opts.Host
	}
}

// askServer asks the server what it is, and looks at how requests and responses
// get through.
func (x *examination) askServer(ctx context.Context) bool {
	x.begin("http: asking the server what it is")
	began := time.Now()
	resp, answer, err := x.do(ctx, http.MethodGet, Path, nil, &x.info)
	switch {
	case resp == nil:
		x.step("http", began, Failed, "%s", reason(err))
		x.find("http", Failed, fmt.Sprintf("Something at %s takes connections and does not answer requests: %s.", addrOf(x.url), reason(err)),
			"Check the port: it may be another service's. Where it is the right one, look at the server's log, and at what is in front of it.")
		return false
	case resp.StatusCode != http.StatusOK || x.info.Adit == "":
		x.step("http", began, Failed, "GET %s: %s", x.url.Path+Path, resp.Status)
		x.blameAnswer(resp, answer)
		return false
	}
	x.report.Version = plain(x.info.Adit, 40)
	text := fmt.Sprintf("adit %s, which sees us as %s", x.report.Version, plain(x.info.You, 60))
	status := OK
	if skew, known := skewOf(resp.Header.Get("Date")); known && skew.Abs() > maxSkew {
		status = Warning
		text += "; our clock is " + off(skew)
		x.find("clock", Warning, fmt.Sprintf("The clock of this machine is %s, compared with the server's.", off(skew)), "Set the clock, best with NTP (timedatectl set-ntp true): tokens and certificates go by it.")
	}
	if resp.TLS != nil {
		switch own := bindingOf(resp.TLS); {
		case !x.info.Secure:
			text += "; TLS ends in front of it"
		case own != "" && x.info.Binding != "" && own != x.info.Binding:
			status = Warning
			text += "; TLS is opened on the way"
			x.find("tls-resigned", Warning, fmt.Sprintf("TLS is opened on the way: the certificate that arrives here was signed by %s, and is not the one that the server shows.", issuer(x.leaf)),
				"Whoever does that can read all that goes through, credentials too. Ask whoever runs the network for an exception for "+x.host+".")
		}
	}
	x.step("http", began, status, "%s", text)
	x.countRequests(ctx)
	x.sizeBodies(ctx)
	x.watchDrip(ctx)
	return true
}

// blameAnswer says why an answer is not that of an adit server.
func (x *examination) blameAnswer(resp *http.Response, answer []byte) {
	code, name := resp.Header.Get("Adit-Error"), plain(x.host, 100)
	switch {
	case code == "rate-limited" && resp.StatusCode == http.StatusTooManyRequests:
		x.find("rate-limited", Failed, "The server has been asked too often from this address.", "Try again in a minute.")
	case code == "tls-required":
		x.find("tls-required", Failed, "The server takes connections with TLS alone.", "Write wss:// in --server, and its port for TLS.")
	case code != "":
		x.find("no-doctor", Failed, fmt.Sprintf("The server is adit, and does not answer examinations (%d %s).", resp.StatusCode, plain(code, 40)),
			"It may be an older version, or run with --doctor=false. Agents may get through all the same.")
	case resp.StatusCode/100 == 3:
		x.find("not-adit", Failed, fmt.Sprintf("%s sends us elsewhere: to %s.", name, plain(resp.Header.Get("Location"), 100)),
			"If that is a page to log in or to pay, do that first in a browser. Otherwise that is the address to give with --server.")
	case resp.StatusCode/100 == 2 && strings.Contains(strings.ToLower(string(answer[:min(len(answer), 512)])), "<html"):
		x.find("not-adit", Failed, fmt.Sprintf("A web page is at %s, and no adit server.", name),
			"If that is a page to log in or to pay, do that first in a browser. Otherwise check --server.")
	case resp.StatusCode == http.StatusBadGateway, resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusGatewayTimeout:
		x.find("server-down", Failed, fmt.Sprintf("Something in front of the server answers that the server is not there (%d).", resp.StatusCode),
			"Whoever runs the server has to look whether it runs, and whether what is in front of it finds it.")
	default:
		x.find("not-adit", Failed, fmt.Sprintf("What answers at %s is no adit server, or something on the way does not let the request through (%d).", name, resp.StatusCode),
			"Check --server, with its path if it has one.")
	}
}

// countRequests finds out whether requests arrive as often as they are sent.
func (x *examination) countRequests(ctx context.Context) {
	x.begin("requests: counting those that arrive")
	began := time.Now()
	path := oncePath + "?token=" + rand.Text()
	once := func() (calls int, err error) {
		var got counted
		resp, _, err := x.do(ctx, http.MethodPost, path, []byte("x"), &got)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
		return got.Calls, err
	}
	errs := make([]error, onceCalls)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { _, errs[i] = once() })
	}
	wg.Wait()
	wait := time.NewTimer(settleTime)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
	calls, err := once() // of what it counts, itself is one
	failed := 0
	for _, e := range append(errs, err) {
		if e != nil {
			err = e
			failed++
		}
	}
	const sent = onceCalls + 1
	switch {
	case failed > 0:
		x.step("requests", began, Warning, "of %d sent %d failed: %s", sent, failed, reason(err))
		x.find("requests", Warning, fmt.Sprintf("Of %d ordinary requests (POST) %d failed: %s.", sent, failed, reason(err)), "Ask whoever runs the network or what is in front of the server.")
	case calls > sent:
		x.step("requests", began, Warning, "%d were sent and %d arrived", sent, calls)
		x.find("duplicates", Warning, fmt.Sprintf("Something on the way sends requests a second time: of %d sent %d arrived.", sent, calls),
			"adit's own carriers are not harmed, since they count what arrives. Other programs behind that may be.")
	default:
		x.step("requests", began, OK, "%d sent, each arrived once", sent)
	}
}

// sizeBodies finds out how long the body of a request may be.
func (x *examination) sizeBodies(ctx context.Context) {
	x.begin("body: requests of growing length")
	sizes := []int{64 << 10, 256 << 10, 1 << 20}
	if x.opts.Thorough {
		sizes = append(sizes, maxBody)
	}
	began := time.Now()
	for _, n := range sizes {
		body := make([]byte, n)
		rand.Read(body)
		at := time.Now()
		limited, cancel := context.WithTimeout(ctx, bodyLimit)
		var got taken
		resp, _, err := x.do(limited, http.MethodPost, bodyPath, body, &got)
		slow := limited.Err() != nil
		cancel()
		if err == nil && resp.StatusCode == http.StatusOK && got.Received == int64(n) {
			x.report.Largest = n
			if time.Since(at) > time.Second {
				break // the next one would take too long
			}
			continue
		}
		if slow {
			break // that says nothing of sizes
		}
		why := reason(err)
		if err == nil {
			why = resp.Status
		}
		x.step("body", began, Warning, "%s gets through; %s does not: %s", size(x.report.Largest), size(n), why)
		x.find("body-size", OK, fmt.Sprintf("Requests with more than %s do not get through (%s).", size(x.report.Largest), why),
			"A carrier in requests is slower by that; WebSocket is not affected. In front of the server it may be a setting such as nginx's client_max_body_size.")
		return
	}
	x.step("body", began, OK, "requests of %s get through", size(x.report.Largest))
}

// watchDrip finds out whether a response comes while the server writes it.
func (x *examination) watchDrip(ctx context.Context) {
	x.begin("buffering: a slow response")
	began := time.Now()
	first, last, err := x.drip(ctx)
	switch {
	case err != nil:
		x.step("buffering", began, Warning, "a response that takes its time: %s", reason(err))
		x.find("responses", Warning, fmt.Sprintf("A response that takes its time does not get through: %s.", reason(err)), "Ask whoever runs the network or what is in front of the server.")
	case last-first < dripPause:
		x.buffered = true
		x.step("buffering", began, Warning, "a response of %s came in one piece, at its end", short(last))
	default:
		x.step("buffering", began, OK, "responses come as they are written")
	}
}

// drip returns when the first and the last byte of a slow response came, from
// its request on.
func (x *examination) drip(ctx context.Context) (first, last time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, x.at(dripPath), nil)
	if err != nil {
		return 0, 0, err
	}
	x.dress(r)
	began := time.Now()
	resp, err := x.client.Do(r)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, 0, errors.New(resp.Status)
	}
	var b [1]byte
	n := 0
	for {
		_, err := io.ReadFull(resp.Body, b[:])
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, 0, err
		}
		if n++; n == 1 {
			first = time.Since(began)
		}
		if n > dripChunks {
			return 0, 0, errors.New("it is longer than the server sent it")
		}
		last = time.Since(began)
	}
	if n < dripChunks {
		return 0, 0, io.ErrUnexpectedEOF
	}
	return first, last, nil
}
