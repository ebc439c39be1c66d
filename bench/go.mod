module adit/bench

go 1.26.0

require (
	adit v0.0.0
	go.uber.org/goleak v1.3.0
	go.yaml.in/yaml/v3 v3.0.6
	golang.org/x/sys v0.49.0
)

require github.com/hashicorp/yamux v0.1.2 // indirect

replace adit => ../
