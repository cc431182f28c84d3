//! Tells the kernel that attributes it holds are no longer true.
//!
//! The core finds that out in the middle of a read. Writing the notice there could make a thread that serves requests wait for a lock
//! whose holder waits for that very thread, so a thread of its own writes them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;
use sluicefs_core::{FileSystem, InodeNo};

/// How many notices may wait. One that finds no room is left out: the attributes' time to live ends soon.
const MAX_WAITING: usize = 1024;

/// Sends the core's notices to the kernel until it is dropped.
#[derive(Debug)]
pub(crate) struct Notices {
    queue: Arc<Mutex<Option<SyncSender<InodeNo>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Notices {
    pub(crate) fn start(fs: &FileSystem, notifier: Notifier) -> io::Result<Self> {
        let (send, receive) = sync_channel(MAX_WAITING);
        let queue = Arc::new(Mutex::new(Some(send)));
        let thread =
            Builder::new().name("sluicefs-notify".to_owned()).spawn(move || run(&receive, &notifier))?;
        let listener = Arc::clone(&queue);
        fs.set_change_listener(Box::new(move |ino| {
            let sent = listener.lock().as_ref().map(|queue| queue.try_send(ino));
            if let Some(Err(error)) = sent {
                tracing::debug!(ino = ino.0, %error, "the kernel is not told of changed attributes");
            }
        }));
        Ok(Self { queue, thread: Some(thread) })
    }
}

fn run(queue: &Receiver<InodeNo>, notifier: &Notifier) {
    for ino in queue {
        // A negative offset means the attributes alone (fuse_reverse_inval_inode).
        if let Err(error) = notifier.inval_inode(INodeNo(ino.0), -1, 0) {
            tracing::debug!(ino = ino.0, %error, "the kernel did not take the notice of changed attributes");
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.queue.lock().take();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that notifies the kernel panicked");
        }
    }
}
