// Tunnelbench measures tunnel programs side by side.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) < 2 {
		printUsage()
		os.Exit(2)
	}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-sig
		live.killAll()
		wanDown()
		os.Exit(130)
	}()
	code := 2
	switch os.Args[1] {
	case "backend":
		code = backendMain(os.Args[2:])
	case "run":
		code = runMain(os.Args[2:])
	case "compare":
		code = compareMain(os.Args[2:])
	case "report":
		code = reportMain(os.Args[2:])
	case "list":
		for _, s := range scenarios {
			fmt.Printf("%-14s %-5s %s\n", s.name, s.kind, strings.Join(s.variants, " "))
		}
		code = 0
	case "gencert":
		code = gencertMain(os.Args[2:])
	case "send":
		code = sendMain(os.Args[2:])
	default:
		printUsage()
	}
	live.killAll()
	os.Exit(code)
}

func printUsage() {
	fmt.Fprint(os.Stderr, `usage:
  tunnelbench run      -scenario A,B -subject X,Y [-out results.jsonl]
  tunnelbench compare  -a X -b Y -scenario S [-variant V] [-min-ratio R]
  tunnelbench report   -in results.jsonl [-yardstick-http N] [-yardstick-tcp N]
  tunnelbench backend  -listen ADDR
  tunnelbench list
  tunnelbench gencert, send   (for the setup steps of subject files)
`)
}
