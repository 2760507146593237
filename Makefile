# make run       build and start the demo: a gateway and two sample upstreams in one process
# make test      everything that has to hold: format, lints, every test
# make loadtest  every load test, in short; loadtest/README.md says how to run one at its full length
# make install   program, units and configuration: DESTDIR= PREFIX=/usr SYSCONFDIR=/etc PROGRAM=target/release/tollgate
# make uninstall takes them away again, but not what was configured
# make deb       a package of all that, in target/debian
# run, test, loadtest, build and deb install what is missing (Debian's apt; as root, or through sudo).

CARGO ?= cargo

PREFIX ?= /usr
SYSCONFDIR ?= /etc
PROGRAM ?= target/release/tollgate

.PHONY: run test build fmt lint unit loom scripts units systemd-test systemd-recipes bench guard loadtest install uninstall deb
.PHONY: tools-build tools-test tools-loadtest tools-deb clean

run: build
	exec target/release/tollgate demo

test: tools-test fmt lint scripts units unit loom guard systemd-test

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

# What can be said of the units without starting them.
units:
	sh tests/systemd/verify.sh

# The units under a systemd of their own, in a container. Says so and does nothing where the machine can not do that.
systemd-test:
	$(CARGO) build --locked
	bash tests/systemd/run.sh

# Two ways to upgrade a service, compared under load; ARCHITECTURE.md says what came of it. No test: it claims nothing.
systemd-recipes:
	$(CARGO) build --locked
	REQUIRE=1 bash tests/systemd/run.sh recipes

# What each stage of a request may take, in instructions: the same on every machine, however busy it is.
guard:
	@python3 scripts/instructions.py

# What the load tests compute of what they measure.
scripts:
	python3 -B -m unittest discover -q -s loadtest
	python3 -B -m unittest discover -q -s loadtest/throttle
	python3 -B -m unittest discover -q -s loadtest/caching

bench:
	$(CARGO) bench --locked

install:
	sh scripts/install.sh install "$(DESTDIR)" "$(PREFIX)" "$(SYSCONFDIR)" "$(PROGRAM)"

uninstall:
	sh scripts/install.sh uninstall "$(DESTDIR)" "$(PREFIX)" "$(SYSCONFDIR)"

# The package holds what `make install` installs, so that there is one list of files.
deb: build tools-deb
	sh scripts/build-deb.sh

# Seconds for each scenario; at their own length they take nearly seven hours.
LOADTEST_SECONDS ?= 15

loadtest: tools-loadtest
	python3 -B loadtest/run.py all --for $(LOADTEST_SECONDS) --results target/loadtest

tools-build:
	@sh scripts/install-tools.sh build

tools-test:
	@sh scripts/install-tools.sh test

tools-deb:
	@sh scripts/install-tools.sh deb

tools-loadtest:
	@sh scripts/install-tools.sh loadtest

clean:
	$(CARGO) clean
