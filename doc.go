// Package adit is a tunnel: a public server, and agents that dial out to it
// from behind a firewall and through which it reaches their services.
//
// The program is cmd/adit. The packages below are arranged along the way that
// a visitor's bytes take, ingress → route → tunnel → session over a carrier →
// agent → upstream, and import only in that direction; docs/architecture.md
// explains the tree.
package adit
