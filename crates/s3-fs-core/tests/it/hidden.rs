//! What is hidden is named in the log, once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluicefs_core::{DirMode, InodeNo};

use crate::recorder::{Recorder, names, walk};

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// How many lines have `text` in them.
    fn lines_with(&self, text: &str) -> usize {
        String::from_utf8(self.0.lock().clone()).unwrap().lines().filter(|line| line.contains(text)).count()
    }
}

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_hidden_name_is_logged_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // For this thread alone, on which all tasks of the test run.
    let _logged = tracing::subscriber::set_default(subscriber);
    let bucket = Recorder::new(&["a", "a/b", "c//d", "ok", "ok.rclonelink", "line\nbreak//x"]);
    let fs = bucket.mount();
    for _ in 0..3 {
        names(&fs, InodeNo::ROOT, DirMode::Lookup).await.unwrap();
        for dir in ["c", "line\nbreak"] {
            let dir = walk(&fs, dir).await.unwrap().attr.ino;
            names(&fs, dir, DirMode::Lookup).await.unwrap();
        }
        walk(&fs, "a").await.unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    assert_eq!(log.lines_with("hidden: the object memory:b/a has the name of a directory"), 1);
    assert_eq!(log.lines_with("hidden: memory:b/c/"), 1);
    assert_eq!(log.lines_with("hidden: the object memory:b/ok.rclonelink has the name of"), 1);
    assert_eq!(log.lines_with("hidden"), 4, "{}", String::from_utf8_lossy(&log.0.lock()));
}
