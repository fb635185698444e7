# Commands for developers and CI. `just` without arguments lists the recipes.

# What the recipes below run: the release build, unless BEARERD names another binary.
binary := env("BEARERD", "target/release/bearerd")

default:
    @just --list

# Run all checks that must pass before a commit.
check: format lint docs test

format:
    cargo fmt --all --check

lint:
    cargo clippy --workspace --all-targets --features hot_path --locked -- -D warnings
    cargo clippy --test load --locked -- -D warnings

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --locked --document-private-items

test:
    cargo test --workspace --locked

# Change the code that differs from a commit, one place at a time, and expect a test to fail (needs cargo-mutants).
mutants since *arguments:
    mkdir -p target
    git diff {{since}} -- src/config src/proxy src/token > target/mutants.diff
    cargo mutants --in-diff target/mutants.diff --output target {{arguments}}

# Check licences, advisories, bans and sources, or the named ones (needs cargo-deny; advisories need github.com).
deny *checks:
    cargo deny --log-level error check {{checks}}

# Run the end-to-end tests with a real OAuth server, a real SDK and curl (installs what it needs).
e2e: build
    tests/e2e/run {{binary}}

# Validate the container, packages and manifests, or the named steps (`deploy/validate --list`; installs what it needs).
artefacts *steps: build
    deploy/validate --bearerd {{binary}} {{steps}}

# Run the load tests: slow callers, thousands of connections, SIGTERM, SIGHUP, restarts and upgrades (needs slowhttptest and haproxy).
load *cases="slow idle memory cold drain restart upgrade hangups": build
    cargo test --locked --quiet --test load -- {{binary}} {{cases}}

# Run the soak test: combined load for the given number of minutes.
soak minutes="10": build
    cargo test --locked --quiet --test load -- {{binary}} soak={{minutes}}

# Build the release; `--version` and the metrics name the commit. With cargo-auditable, the binary lists its crates.
build:
    test {{binary}} != target/release/bearerd || \
        BEARERD_COMMIT="${BEARERD_COMMIT:-$(git rev-parse --short=12 HEAD 2>/dev/null || true)}" \
        cargo $(command -v cargo-auditable >/dev/null && echo auditable) build --release --locked

# Make the build that ships, guided by a profile of the benchmark's load (as root on Debian, installs what it needs).
profiled:
    BEARERD_COMMIT="${BEARERD_COMMIT:-$(git rev-parse --short=12 HEAD 2>/dev/null || true)}" benches/profiled

# Make a release in target/dist (archive, Debian package, list of components, checksums): of the profiled build, or of a binary.
dist *binary:
    deploy/dist {{binary}}

# Build the container image.
image tag="bearerd":
    docker build --tag {{tag}} --build-arg BEARERD_COMMIT="$(git rev-parse --short=12 HEAD)" \
        --build-arg VERSION="$(cargo pkgid --locked | sed 's/.*[#@]//')" --build-arg CREATED="$(git log -1 --format=%cI)" .

# Compare with nginx, HAProxy and Envoy in one run: an overview, or the given cases (prints what it needs).
bench *arguments: build
    benches/compare --binary {{binary}} {{arguments}}

# Build the program whose instructions `just instructions` counts.
hot-path:
    cargo rustc --release --locked --features hot_path --bin hot_path -- -C strip=debuginfo

# Count the instructions of a request and compare them with benches/instructions.json (needs valgrind).
instructions *arguments: hot-path
    benches/instructions {{arguments}}

# Run the demo on loopback, in the build that is made in the shortest time.
demo *arguments:
    cargo run --locked --no-default-features -- demo {{arguments}}

# Fuzz a target of fuzz/fuzz_targets for the given number of seconds (needs cargo-fuzz; no nightly).
fuzz target seconds="60":
    cargo fuzz run --sanitizer none --release {{target}} -- -max_total_time={{seconds}} -timeout=10
