# make run    build and start the demo: a gateway and two sample upstreams in one process
# make test   everything that has to hold: format, lints, every test
# Both install what is missing (Debian's apt; as root, or through sudo).

CARGO ?= cargo

.PHONY: run test build fmt lint unit loom guard bench tools-build tools-test clean

run: build
	exec target/release/tollgate demo

test: tools-test fmt lint unit loom guard

build: tools-build
	$(CARGO) build --release --locked

fmt:
	$(CARGO) fmt --check

lint:
	$(CARGO) clippy --locked --all-targets -- -D warnings

# The black-box tests mostly wait for gateways, so more of them than processors run at a time.
unit:
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-6} $(CARGO) test --locked

# Every order of steps that threads can take on a counter's atomics.
loom:
	$(CARGO) test --locked --lib --features loom loom_tests

# What each stage of a request may take, in instructions: the same on every machine, however busy it is.
guard:
	@python3 scripts/instructions.py

bench:
	$(CARGO) bench --locked

tools-build:
	@sh scripts/install-tools.sh build

tools-test:
	@sh scripts/install-tools.sh test

clean:
	$(CARGO) clean
