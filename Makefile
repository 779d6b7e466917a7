# The commands of the project. Each target is a script, so that it can be read, linted and run by itself.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test servers check clients demo bench soak fuzz sidecar

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## install what is missing, build, start Redis if there is none, run respool on 127.0.0.1:6380
	@scripts/run

test: ## install what is missing; format, lints, unit, property and end-to-end tests, the demo
	@scripts/test

servers: ## the end-to-end tests on every server: Redis 6.2 to 8.2, Valkey 8.1 and 9.1; some ten minutes
	@scripts/servers

check: ## what CI runs: all of test, then the other servers whole
	@scripts/test --without-servers
	@scripts/servers --wheels

clients: ## every real client library, directly and through respool, compared (--tls: with TLS on both sides); some minutes
	@scripts/clients

demo: ## a leaky script against a healthy service, direct and through respool; under a minute
	@scripts/demo

bench: ## CPU time for each command, beside Redis directly; about a minute
	@scripts/bench

soak: ## the canary tests, ten minutes each
	@scripts/soak

fuzz: ## fuzz what parses and what decides, a minute each; needs a nightly toolchain and cargo-fuzz
	@scripts/fuzz

sidecar: ## respool as platforms run a sidecar: log closed and blocked, frozen, broken reloads, half-open probes, SIGTERM; an hour
	@scripts/sidecar
