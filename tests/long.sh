#!/usr/bin/env bash
# The long share of the tests that search for what run.sh would hardly find. Run by hand, all of it
# or the stages that are named; works from any directory. The figures are printed at the end.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=line-tables-only
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"

# A line for each stage: its name, what the lines with figures contain, what it runs. The seeds are
# printed; CLOAKROOM_SEED repeats a run.
stages=(
    "kills|kills, |env CLOAKROOM_KILLS=640 cargo test --locked --all-features --test processes crash:: -- --nocapture"
    "kills-http|kills$|env CLOAKROOM_KILLS=300 cargo test --locked --all-features --test processes crash_http:: -- --nocapture"
    "cuts|cuts in|env CLOAKROOM_CUTS=4000 cargo test --locked --release -p cloakroom-power-loss --test cuts -- --nocapture"
    "faults|failures,|env CLOAKROOM_FAULTS=100 cargo test --locked --release -p cloakroom-power-loss --test faults -- --nocapture"
    "histories|each has an order|env CLOAKROOM_HISTORIES=10000 cargo test --locked --release --all-features --test linearizability -- --nocapture --test-threads=1"
    "chains|chains,|env CLOAKROOM_CHAINS=10000 cargo test --locked --release --all-features --test sessions replaced_ids:: -- --nocapture"
    "schedules|schedules in|env CLOAKROOM_SCHEDULES=100000 cargo test --locked --release -p cloakroom-shuttle -- --nocapture --test-threads=2"
    "mutated|inputs$|env CLOAKROOM_FUZZ=1000000 cargo test --locked --release --all-features --test mutated_input -- --nocapture"
    "soak|requests in|env CLOAKROOM_SECONDS=600 cargo test --locked --release --all-features --test processes soak:: -- --nocapture"
    "flood|users in|env CLOAKROOM_FLOOD=1000000 cargo test --locked --release --all-features --test sessions flood -- --nocapture"
    "sqlite-versions|: passed$|tests/sqlite_versions.sh"
    "beside|, SQLite |tests/beside/run.sh"
    "busy|test result|env CLOAKROOM_BUSY_MILLISECONDS=5000 cargo test --locked --all-features --test stores store_errors::while_"
)

names() {
    printf '%s\n' "${stages[@]}" | cut -d '|' -f 1
}

for chosen in "$@"; do
    if ! names | grep -qx -- "$chosen"; then
        echo "long.sh: no stage $chosen; the stages are:" $(names) >&2
        exit 2
    fi
done

output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT
summary=()
failed=0
for stage in "${stages[@]}"; do
    IFS='|' read -r name figures command <<<"$stage"
    if (($#)) && [[ " $* " != *" $name "* ]]; then
        continue
    fi
    printf '\n== %s: %s\n' "$name" "$command"
    start=$SECONDS
    mark=""
    # The words of a command are words: there is nothing in them to be quoted.
    $command 2>&1 | tee "$output/$name" || mark="  FAILED"
    [[ -z $mark ]] || failed=1
    summary+=("$(printf '%-12s %6d s%s' "$name" $((SECONDS - start)) "$mark")")
    while IFS= read -r line; do
        summary+=("    $line")
    done < <(grep -E -- "$figures" "$output/$name")
done
printf '\n'
printf '%s\n' "${summary[@]}"
exit "$failed"
