# Gatehouse. "make help" lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: help demo build needs test check lint bench soak fuzz generate vuln clean

# Tools are pinned in tools/go.mod, so that what they need never raises what
# the gateway needs. The first use of one compiles it.
TOOL := go tool -modfile=tools/go.mod

# How long each fuzz target runs: a time, or a number of inputs as in 1000x; and
# below which folders they are looked for. The tests fuzz the parsers of what
# comes over the wire and of the configuration; compiling all of them for
# fuzzing takes longer than that.
FUZZTIME ?= 30s
FUZZIN ?= internal
BRIEFLY := internal/h1 internal/h2 internal/router internal/config internal/exchange internal/proxyproto internal/jose

# The race detector needs cgo, and cgo needs a C compiler. Without one the
# tests run all the same, only not under it.
RACE = $(shell command -v gcc >/dev/null 2>&1 && echo -race)
TESTFLAGS ?=

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: build ## run a small shop behind the gateway, and print what to try
	@exec bin/gatehouse demo

build: ## build bin/gatehouse, one static binary
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/gatehouse ./cmd/gatehouse

test: needs ## run every test, under the race detector where gcc is there, and fuzz briefly
	CGO_ENABLED=$(if $(RACE),1,0) go test $(RACE) $(TESTFLAGS) ./...
	@$(MAKE) --no-print-directory fuzz FUZZTIME=3000x FUZZIN='$(BRIEFLY)'

needs: ## install what the tests need beside Go
	@tools/needs.sh

check: lint test ## all that a change must pass: format, lint, and the tests, which also look for stale generated files and for imports across rooms

lint: ## look at format and common mistakes
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run: gofmt -w on these files' >&2; exit 1; }
	$(TOOL) golangci-lint run ./...

bench: ## measure against nginx and HAProxy in one interleaved run
	go run ./test/bench $(BENCHFLAGS)

soak: ## reload many times under load while streams stay open
	go run ./test/bench -soak $(BENCHFLAGS)

fuzz: ## fuzz every parser, each for FUZZTIME
	@grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' $(FUZZIN) \
	| sed -E 's,^(.*)/[^/]*:[0-9]+:func (.*),\1 \2,' | sort -u \
	| while read -r dir name; do \
		echo "fuzz ./$$dir $$name"; \
		CGO_ENABLED=0 go test "./$$dir" -run '^$$' -fuzz "^$$name$$" -fuzztime '$(FUZZTIME)'; \
	done

generate: ## write the generated files anew: schema, reference, Config blocks
	go generate ./...

vuln: ## look for known vulnerabilities (needs the network)
	$(TOOL) govulncheck ./...

clean: ## remove what was built
	rm -rf bin dist bench-results
