# What developers and CI run. `just` alone lists it.

default:
    @just --list

# Everything that must pass before a commit.
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

# Licences, advisories, bans and sources, or those named (needs cargo-deny; advisories need github.com).
deny *checks:
    cargo deny --log-level error check {{checks}}

# A real OAuth server, a real SDK and curl; installs what it needs.
e2e: build
    tests/e2e/run target/release/bearerd

# Slow callers, thousands of connections, SIGTERM and SIGHUP under load: figures and bounds (needs slowhttptest).
load *cases="slow idle memory drain hangups": build
    cargo test --locked --quiet --test load -- target/release/bearerd {{cases}}

# Everything at once for so many minutes, and what must hold then.
soak minutes="10": build
    cargo test --locked --quiet --test load -- target/release/bearerd soak={{minutes}}

build:
    cargo build --release --locked

# The fastest build: laid out by what a run under load has shown (needs llvm-profdata; says where it is to be had).
profiled:
    benches/profiled

# Beside nginx, HAProxy and Envoy, in one run: an overview, or what the arguments ask for (says what it needs).
bench *arguments: build
    benches/compare {{arguments}}

# What `just instructions` counts.
hot-path:
    cargo rustc --release --locked --features hot_path --bin hot_path -- -C strip=debuginfo

# Counts the instructions of a request and compares them with benches/instructions.json (needs valgrind).
instructions *arguments: hot-path
    benches/instructions {{arguments}}

# The whole thing on loopback.
demo *arguments:
    cargo run --release --locked -- demo {{arguments}}

# Looks for input that breaks a target of fuzz/fuzz_targets, for so many seconds (needs cargo-fuzz; no nightly).
fuzz target seconds="60":
    cargo fuzz run --sanitizer none --release {{target}} -- -max_total_time={{seconds}} -timeout=10
