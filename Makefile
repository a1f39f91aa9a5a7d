# Gatehouse. "make help" lists the targets.
.PHONY: help build test check fuzz generate clean

FUZZTIME ?= 30s

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

build: ## build the packages
	CGO_ENABLED=0 go build ./...

test: ## run the tests with the race detector
	go vet ./...
	CGO_ENABLED=1 go test -race ./...

check: ## format, vet and test
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these files"; exit 1; }
	$(MAKE) test

clean: ## remove what was built
	rm -rf bin dist bench-results
