# Every step of CI, runnable at home. The steps themselves stand in .ci/run.

# list the recipes
default:
    @just --list

# what README names: the main job, on the embedded sandbox
demo:
    cargo run --release -- demo

# all tests, no network, no root
test:
    cargo test --workspace

# one step of CI: test demo fmt clippy deny doc tidy helm api e2e bench
ci step:
    .ci/run {{step}}

# all of CI
ci-all:
    .ci/run

# the API suite against a real kube-apiserver (builds it once, with Go)
api:
    .ci/run api

# the images as archives in target/images, with their sizes; needs no container engine
images *args:
    cargo run --quiet -p mesh-images -- {{args}}

# two real clusters on this machine and all suites on them (root; builds Kubernetes once, with Go)
e2e *args:
    cargo run --release --quiet -p mesh-kind-tests -- e2e {{args}}

# figures on two real clusters; wants a quiet machine
e2e-measure:
    cargo run --release --quiet -p mesh-kind-tests -- e2e measure --profile image

# fifty restarts under load on two real clusters
e2e-soak:
    cargo run --release --quiet -p mesh-kind-tests -- e2e soak

# the proxy beside HAProxy and Envoy: table and bench.json (root; installs what it needs)
bench *arguments: bench-build
    {{target}}/image/mesh-bench run {{arguments}}

# two minutes of it: fails where the ratios are far off
bench-smoke:
    .ci/run bench

# ten minutes of half load while endpoints, policies and certificates change; then the fuzzers
soak *arguments: bench-build
    {{target}}/image/mesh-bench soak {{arguments}}
    proxy/fuzz/run.sh

# libFuzzer on each parser that takes bytes from outside, or on those named, so many seconds each (C++ compiler)
fuzz seconds="60" *targets:
    proxy/fuzz/run.sh {{seconds}} {{targets}}

# a minute of random mixtures of seeds through each parser that takes bytes from outside
mutate:
    cargo test -p mesh-wire -p mesh-meshtls -p mesh-pki -p mesh-http -p mesh-proxy --test corpus -- --ignored

target := env("CARGO_TARGET_DIR", "target")

[private]
bench-build:
    cargo build --profile image -p mesh-proxy -p mesh-bench
