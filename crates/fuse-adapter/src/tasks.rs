//! Runs the requests of one mount: at once where the answer is in memory, else as a task that ends with the mount.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// The requests under way. Dropping it drops them, and each unanswered reply then says EIO.
///
/// Their number is limited by the kernel: `max_background`, and one for each thread that waits in a call.
#[derive(Debug)]
pub(crate) struct Requests {
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
}

impl Requests {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, tasks: Mutex::default() }
    }

    /// Polls `request` once on this thread, which answers it if nothing must be waited for; else hands it to the runtime.
    ///
    /// A request that panics is dropped, and so answered with EIO; the thread goes on.
    pub(crate) fn serve(&self, request: impl Future<Output = ()> + Send + 'static) {
        let mut request = Box::pin(request);
        let first = catch_unwind(AssertUnwindSafe(|| {
            // Timers and tasks that the request starts find their runtime by this.
            let _context = self.runtime.enter();
            // The task polls again with a waker of its own, so nothing is lost on the first poll's.
            request.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }));
        match first {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => self.spawn(request),
            Err(_) => note_panic(),
        }
    }

    /// Does what a request borrows its bytes for, at once; `None` if it panics, when the reply must be dropped.
    pub(crate) fn at_once<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(work));
        done.inspect_err(|_| note_panic()).ok()
    }

    fn spawn(&self, request: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while let Some(ended) = tasks.try_join_next() {
            if ended.is_err_and(|error| error.is_panic()) {
                note_panic();
            }
        }
        tasks.spawn_on(request, &self.runtime);
    }
}

/// A reply that is dropped unanswered says EIO.
fn note_panic() {
    tracing::error!("a request panicked; it was answered with EIO");
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    fn requests() -> (tokio::runtime::Runtime, Requests) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let requests = Requests::new(runtime.handle().clone());
        (runtime, requests)
    }

    fn answer(from: &Receiver<std::thread::ThreadId>) -> std::thread::ThreadId {
        from.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn what_is_ready_is_answered_on_the_calling_thread() {
        let (_runtime, requests) = requests();
        let (send, receive) = channel();
        requests.serve(async move { send.send(std::thread::current().id()).unwrap() });
        assert_eq!(answer(&receive), std::thread::current().id());
        assert_eq!(requests.tasks.lock().len(), 0);
    }

    #[test]
    fn what_must_wait_goes_on_in_the_runtime() {
        let (_runtime, requests) = requests();
        let (send, receive) = channel();
        let (open, gate) = oneshot::channel();
        requests.serve(async move {
            gate.await.unwrap();
            send.send(std::thread::current().id()).unwrap();
        });
        assert!(receive.try_recv().is_err());
        open.send(()).unwrap();
        assert_ne!(answer(&receive), std::thread::current().id());
    }

    #[test]
    fn a_timer_of_the_first_poll_wakes_the_task() {
        let (_runtime, requests) = requests();
        let (send, receive) = channel();
        requests.serve(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            send.send(std::thread::current().id()).unwrap();
        });
        answer(&receive);
    }

    #[test]
    fn a_panic_leaves_the_thread_alive_and_drops_the_request() {
        let (_runtime, requests) = requests();
        let (send, receive) = channel::<()>();
        requests.serve(async move {
            let _dropped_by_the_panic = send;
            panic!("in a request");
        });
        assert!(receive.recv().is_err());
        assert_eq!(requests.at_once(|| panic!("at once")), None::<()>);
        assert_eq!(requests.at_once(|| 7), Some(7));
    }

    #[test]
    fn requests_under_way_are_dropped_with_the_mount() {
        let (_runtime, requests) = requests();
        let (send, receive) = channel::<()>();
        requests.serve(async move {
            let _dropped_with_the_request = send;
            std::future::pending::<()>().await;
        });
        drop(requests);
        assert!(
            receive
                .recv_timeout(Duration::from_secs(10))
                .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Disconnected)
        );
    }
}
