//! # Tests of supervised tasks
//!
//! Job: real panics. Callers: the test runner.

use super::*;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

// proves: PROC-2
#[tokio::test]
async fn a_panic_stays_in_its_task_and_is_counted_under_its_name() {
    watch_panics();
    let registry = Registry::new();
    register_panics(&registry, "test_task_panics_total").unwrap();
    let other = spawn("steady", async {
        tokio::task::yield_now().await;
        7
    });
    let broken = spawn("fragile", async {
        tokio::task::yield_now().await;
        panic!("on purpose");
    });
    let ended: Result<(), _> = broken.await;
    assert!(ended.unwrap_err().is_panic());
    assert_eq!(other.await.unwrap(), 7);
    assert_eq!((panics("fragile"), panics("steady")), (1, 0));
    let shown = String::from_utf8(crate::metrics::encode(&registry)).unwrap();
    assert!(shown.contains(r#"test_task_panics_total{task="fragile"} 1"#), "{shown}");
    // A second look adds nothing.
    let again = String::from_utf8(crate::metrics::encode(&registry)).unwrap();
    assert_eq!(again, shown);
}

// proves: PROC-2
#[tokio::test]
async fn a_task_without_a_name_counts_under_its_thread() {
    watch_panics();
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let work = move || runtime().block_on(async { tokio::spawn(async { panic!("bare") }).await });
    let thread = std::thread::Builder::new().name("puller-3".to_owned()).spawn(work).unwrap();
    let ended: Result<(), _> = thread.join().unwrap();
    assert!(ended.is_err());
    assert_eq!(panics("puller"), 1);
}

// proves: PROC-3
#[tokio::test(start_paused = true)]
async fn what_must_live_starts_again_with_backoff() {
    watch_panics();
    let starts = Arc::new(AtomicU32::new(0));
    let counted = starts.clone();
    let begin = Instant::now();
    let ended = keep("phoenix", move || {
        let n = counted.fetch_add(1, Ordering::SeqCst);
        assert!(n != 0, "while it is made");
        async move {
            tokio::task::yield_now().await;
            assert!(n >= 9, "while it runs");
            "well"
        }
    });
    assert_eq!(ended.await, "well");
    assert_eq!((starts.load(Ordering::SeqCst), panics("phoenix")), (10, 9));
    // 100 ms, doubled to 10 s: 0.1 + 0.2 + ... + 6.4 + 10 + 10.
    assert_eq!(begin.elapsed(), Duration::from_millis(12_700 + 20_000));
}
