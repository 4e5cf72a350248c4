//! # Changes in folders
//!
//! Job: wait until something in a folder has changed. What it was does not matter: everything is looked at.
//! May touch: inotify, a thread that waits for it. Callers: `install`.

use super::InstallError;
use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use std::{io, os::fd::OwnedFd, path::Path, thread};
use tokio::sync::mpsc;

/// A watch on folders.
pub(crate) struct Watch(mpsc::Receiver<()>);

impl Watch {
    /// Of these folders.
    pub(crate) fn new(folders: &[&Path]) -> Result<Self, InstallError> {
        let events =
            inotify::init(CreateFlags::CLOEXEC).map_err(|e| InstallError::System(e.into()))?;
        for folder in folders {
            inotify::add_watch(&events, *folder, CHANGES).map_err(|e| InstallError::Watch {
                folder: folder.to_path_buf(),
                source: e.into(),
            })?;
        }
        let (changed, changes) = mpsc::channel(1);
        // It waits in the kernel for as long as the process lives.
        let waiting = move || wait(&events, &changed);
        thread::Builder::new().name("watch".into()).spawn(waiting).map_err(InstallError::System)?;
        Ok(Self(changes))
    }

    /// Waits for a change; several at once count as one.
    pub(crate) async fn changed(&mut self) -> Result<(), InstallError> {
        let lost = || InstallError::System(io::Error::other("inotify has ended"));
        self.0.recv().await.ok_or_else(lost)
    }
}

fn wait(events: &OwnedFd, changed: &mpsc::Sender<()>) {
    let mut buffer = [0_u8; 4096];
    loop {
        match rustix::io::read(events, &mut buffer) {
            Err(Errno::INTR) => {}
            Ok(read) if read > 0 => {
                // A message that waits already stands for this change too.
                if let Err(mpsc::error::TrySendError::Closed(())) = changed.try_send(()) {
                    return;
                }
            }
            Ok(_) | Err(_) => return,
        }
    }
}

/// Another program writes, moves or removes a file, or a mounted token is renewed.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::CREATE);
