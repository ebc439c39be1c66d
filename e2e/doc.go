// Package e2e tests the whole program, as a process, with the programs that
// people put behind a tunnel: nginx, OpenSSH, Redis, PostgreSQL, browsers' and
// webhook senders' HTTP.
//
// A test whose program is missing is skipped; with ADIT_E2E=require it fails.
// ADIT_E2E_LONG=1 runs the sizes and times at which leaks show, about three
// minutes in all. -short leaves these tests out.
package e2e
