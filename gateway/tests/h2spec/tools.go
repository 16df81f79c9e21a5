//go:build tools

// Package h2spec names the conformance suite of HTTP/2 that the gateway is held to.
package h2spec

import _ "github.com/summerwind/h2spec/cmd/h2spec"
