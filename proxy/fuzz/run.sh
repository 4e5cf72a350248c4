#!/usr/bin/env bash
# Fuzzers, one after the other: run.sh [SECONDS] [TARGET...]; without targets all of README's table, 60 s each.
# Fails if one finds something, and says how to see it again. What they learn stays under the target folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CARGO_INCREMENTAL=0 RUSTC_BOOTSTRAP=1
# As `cargo fuzz run` sets it: libraries in C are linked without the sanitizer.
export ASAN_OPTIONS=detect_odr_violation=0
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz

# The rows of README's table: a target and the folder of its seeds.
rows() { sed -n 's/^| \([a-z_]*\) | .\([a-z]*\/[a-z_/]*\). |.*/\1 \2/p' proxy/fuzz/README.md; }

build() {
    command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz --target-dir "$target/install"
    # The versions that the product has.
    [ proxy/fuzz/Cargo.lock -nt Cargo.lock ] || cp Cargo.lock proxy/fuzz/Cargo.lock
    cargo fuzz build --fuzz-dir proxy/fuzz --target-dir "$target"
}

# One target: a line of figures, or what was found.
fuzz() {
    local name=$1 seeds=$2 seconds=$3 corpus=$target/corpus/$1 found=$target/found/$1 log=$target/$1.log binary
    binary=$target/$(rustc -vV | sed -n 's/^host: //p')/release/$name
    mkdir -p "$corpus" "$found"
    if "$binary" "$corpus" "$seeds" -max_total_time="$seconds" -timeout=10 -print_final_stats=1 \
        -artifact_prefix="$found/" >"$log" 2>&1 </dev/null; then
        awk -v name="$name" '
            / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1) }
            /^stat::number_of_executed_units/ { runs = $2 }
            /^stat::average_exec_per_sec/ { rate = $2 }
            END { printf "%-18s %9d runs, %7d a second, cov %d\n", name, runs, rate, cov }' "$log"
        return
    fi
    local input
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
    tail -25 "$log" >&2
    if [ -z "$input" ]; then
        echo "$name: the fuzzer itself failed; all it said is in $log" >&2
    else
        echo "$name: a finding in $input; to see it again run: $binary $input; mended, it becomes a file in $seeds" >&2
    fi
    return 1
}

main() {
    local seconds=${1:-60} name seeds failed=()
    local wanted=" ${*:2} " known
    [[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "'$seconds' is no number of seconds; usage: run.sh [SECONDS] [TARGET...]" >&2; exit 2; }
    known=" $(rows | cut -d ' ' -f 1 | tr '\n' ' ')"
    for name in $wanted; do
        [[ $known == *" $name "* ]] || { echo "unknown target '$name'; known:$known" >&2; exit 2; }
    done
    build
    while read -r name seeds; do
        [[ -z ${wanted// /} || $wanted == *" $name "* ]] || continue
        fuzz "$name" "$seeds" "$seconds" || failed+=("$name")
    done < <(rows)
    [ ${#failed[@]} -eq 0 ] || { echo "findings: ${failed[*]}" >&2; exit 1; }
}

main "$@"
