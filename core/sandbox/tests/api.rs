//! # The API suite
//!
//! Job: what clients may rely on, request by request. Runs against the sandbox's API server or, with
//! `MESH_API_SUITE_KUBECONFIG` naming a kubeconfig of an administrator, against a real kube-apiserver, which decides
//! who is right. Each test has a namespace of its own and does not wait for its end.
//! May touch: the subject. Must not touch: the inside of the sandbox.
//! Callers: cargo test.

mod api {
    mod admission;
    mod apply;
    mod auth;
    mod custom;
    mod garbage;
    mod objects;
    mod patch;
    mod pods;
    mod services;
    mod subject;
    mod tables;
    mod watch;
}
