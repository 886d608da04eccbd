# Everything a user or a developer does, by name. `make help` lists it.
SHELL := /bin/bash
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: help demo build test test-all soak image-test bench install format lint build-packages packages lint-packages clean

help:  ## Show this list.
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: build  ## Build, start the server on the embedded model, ask it something, keep serving.
	@deploy/demo

build: build-packages  ## Build the server and the client: build/release/bin/thresherd and thresher.
	@cmake --preset release --log-level=WARNING >/dev/null
	@cmake --build --preset release -j $(JOBS) --target thresherd thresher

test: packages  ## Build and run all tests: release, sanitizers, fuzzers (see tests/run).
	@tests/run

test-all: packages  ## `make test`, and what is too long for it.
	@THRESHER_TEST_LONG=1 tests/run
	@$(MAKE) --no-print-directory image-test

soak: build  ## Broken and hostile clients for SOAK_MINUTES (default 10), while others are served.
	@tests/soak/run

image-test:  ## Build deploy/Dockerfile with buildah, run the unit tests in it, try the image (root; long).
	@deploy/image-test || [ $$? = 77 ]

bench: build-packages  ## Measure; writes build/bench/results.json and results.md.
	@bench/run

install: build  ## Install under PREFIX (default /usr/local), honours DESTDIR.
	@DESTDIR="$(DESTDIR)" cmake --install build/release --prefix "$(PREFIX)"

format: lint-packages  ## Format every C++ file in place.
	@git ls-files -co --exclude-standard '*.cc' '*.h' | xargs clang-format -i

lint: lint-packages  ## Check the format, and run clang-tidy on everything.
	@git ls-files -co --exclude-standard '*.cc' '*.h' | xargs clang-format --dry-run -Werror
	@cmake --preset release --log-level=WARNING
	@cmake --build --preset release -j $(JOBS) --target thresher_grpc
	@run-clang-tidy -quiet -p build/release -j $(JOBS) "$(CURDIR)/(backend|server|client|tests|bench)/.*\.cc$$"

lint-packages:
	@deploy/install-packages build test lint

build-packages:
	@deploy/install-packages build

packages:  # Installs the Debian packages that are missing; silent when none is.
	@deploy/install-packages build test

clean:  ## Remove all that was built.
	@rm -rf build
