# Shortcuts for what CONTRIBUTING.md describes; `just` lists them.

default:
    @just --list

# Everything that a change must pass.
test:
    tests/run.sh

# Format, lints and the tests that do not search by chance: under two minutes on a warm target.
quick:
    tests/run.sh --quick

# The long searches of tests/long.sh: all of them, or the stages that are named.
long *stages:
    tests/long.sh {{stages}}

# The example, on http://127.0.0.1:8000.
example name="rouille":
    cargo run --locked --release --all-features --example {{name}}

# The ratios of this crate to raw calls.
bench *arguments:
    cargo run --locked --release -p cloakroom-bench -- {{arguments}}

# The documentation as docs.rs shows it.
docs:
    cargo doc --locked --no-deps --all-features --open

# Licences, advisories and sources of the dependencies; needs cargo-deny.
deny:
    cargo deny check

# Spelling; needs typos.
spell:
    typos
