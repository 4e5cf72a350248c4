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
    mod charts;
    mod custom;
    mod failures;
    mod fields;
    mod garbage;
    mod kubelet;
    mod objects;
    mod owners;
    mod paging;
    mod patch;
    mod pods;
    mod removal;
    mod schemas;
    mod services;
    mod subject;
    mod tables;
    mod watch;
}
