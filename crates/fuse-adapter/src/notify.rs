//! Tells the kernel that attributes and names it holds are no longer true.
//!
//! The core finds that out in the middle of a read. Writing the notice there could make a thread that serves requests wait for a lock
//! whose holder waits for that very thread, so a thread of its own writes them. The read waits for that, but not for long: the kernel
//! may itself wait for the read, to give up the inode.
//!
//! Names are a matter of their own: the kernel takes such a notice in when nobody looks names up in that directory any more, which may take as
//! long as the store does. They have a thread for as long as that takes, so that no read waits for it.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;
use sluicefs_core::kernel::BoxFuture;
use sluicefs_core::{FileSystem, InodeNo, Kernel};
use tokio::sync::oneshot;

use crate::kernel::{Learnt, ShortReplies};

/// How many notices may wait. One that finds no room is left out, and its read is answered as if the kernel did not listen.
const MAX_WAITING: usize = 1024;

/// A notice takes microseconds, unless the kernel waits for the very read that waits for it.
const TOLD_WITHIN: Duration = Duration::from_millis(500);

/// Sends the core's notices to the kernel until it is dropped.
#[derive(Debug)]
pub(crate) struct Notices {
    queue: Queue,
    thread: Option<JoinHandle<()>>,
    /// No further name is worth a notice.
    is_over: Arc<AtomicBool>,
}

type Queue = Arc<Mutex<Option<SyncSender<Notice>>>>;

/// Attributes of this inode are to be doubted; whether the kernel took it in is sent back.
#[derive(Debug)]
struct Notice {
    ino: InodeNo,
    done: oneshot::Sender<bool>,
}

impl Notices {
    pub(crate) fn start(fs: &FileSystem, notifier: Notifier, learnt: Learnt) -> io::Result<Self> {
        let (send, receive) = sync_channel(MAX_WAITING);
        let queue = Arc::new(Mutex::new(Some(send)));
        let is_over = Arc::new(AtomicBool::new(false));
        let connected = Connected {
            queue: Arc::clone(&queue),
            notifier: notifier.clone(),
            is_over: Arc::clone(&is_over),
            learnt,
        };
        let thread =
            Builder::new().name("sluicefs-notify".to_owned()).spawn(move || run(&receive, &notifier))?;
        fs.set_kernel(Box::new(connected));
        Ok(Self { queue, thread: Some(thread), is_over })
    }
}

/// The kernel at the other end of the connection.
#[derive(Debug)]
struct Connected {
    queue: Queue,
    notifier: Notifier,
    is_over: Arc<AtomicBool>,
    learnt: Learnt,
}

impl Kernel for Connected {
    fn doubt_attributes(&self, ino: InodeNo) -> BoxFuture<'static, bool> {
        let (done, told) = oneshot::channel();
        // Without a queue, or with a full one, the other end of `told` is dropped at once.
        let sent = self.queue.lock().as_ref().map(|queue| queue.try_send(Notice { ino, done }));
        if let Some(Err(error)) = sent {
            tracing::debug!(ino = ino.0, %error, "the kernel is not told of changed attributes");
        }
        Box::pin(async move { matches!(tokio::time::timeout(TOLD_WITHIN, told).await, Ok(Ok(true))) })
    }

    fn doubt_names(&self, names: Vec<(InodeNo, Box<str>)>) -> BoxFuture<'static, usize> {
        let (done, told) = oneshot::channel();
        let (notifier, is_over) = (self.notifier.clone(), Arc::clone(&self.is_over));
        // Nobody waits for the thread: it ends with its names, and with the mount.
        let tell = move || {
            // Who gave up waiting does not need to know.
            let _ = done.send(tell_of(&names, &notifier, &is_over));
        };
        if let Err(error) = Builder::new().name("sluicefs-names".to_owned()).spawn(tell) {
            tracing::warn!(%error, "the kernel is not told of names that are to be asked for again");
        }
        Box::pin(async move { told.await.unwrap_or(0) })
    }

    fn ends_files_at_short_replies(&self) -> bool {
        self.learnt.short_replies() == ShortReplies::EndFiles
    }
}

/// Tells of each name, and returns how many the kernel took in.
fn tell_of(names: &[(InodeNo, Box<str>)], notifier: &Notifier, is_over: &AtomicBool) -> usize {
    let mut told = 0;
    for (parent, name) in names {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        // fuser takes a name that the kernel does not know for told.
        match notifier.inval_entry(INodeNo(parent.0), OsStr::new(&**name)) {
            Ok(()) => told += 1,
            Err(error) => {
                tracing::debug!(parent = parent.0, ?name, %error, "the kernel did not take the notice of a name");
            }
        }
    }
    told
}

fn run(queue: &Receiver<Notice>, notifier: &Notifier) {
    for Notice { ino, done } in queue {
        // A negative offset means the attributes alone (fuse_reverse_inval_inode). fuser takes an inode that the kernel does not know
        // for told.
        let told = notifier.inval_inode(INodeNo(ino.0), -1, 0);
        if let Err(error) = &told {
            tracing::debug!(ino = ino.0, %error, "the kernel did not take the notice of changed attributes");
        }
        // Who gave up waiting does not need to know.
        let _ = done.send(told.is_ok());
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.queue.lock().take();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that notifies the kernel panicked");
        }
    }
}
