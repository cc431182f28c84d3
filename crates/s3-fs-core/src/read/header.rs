//! Learns where the tensors of an object lie, once its header is in memory.
//!
//! The header comes from blocks that readers fetched anyway: they read it too. It is parsed beside the reads, one header at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use sluicefs_s3_client::ByteRange;

use super::ReadData;
use super::loader::{self, Broken, Part};
use super::object::OpenObject;
use super::stats::Counters;
use crate::cache::{BLOCK_BYTES, Urgency};

/// After so many reads without the whole header nobody reads it.
const MAX_TRIES: u32 = 64;

/// The ending of names of files that should have a header.
const EXTENSION: &str = ".safetensors";

/// What is known of the header of one object.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// There is nothing more to learn.
    is_done: AtomicBool,
    sought: Mutex<Sought>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sought {
    range: Option<ByteRange>,
    tries: u32,
}

impl OpenObject {
    /// After a read of `range`: has the whole header come?
    pub(super) fn look_for_header(self: &Arc<Self>, range: ByteRange) {
        if self.header.is_done.load(Ordering::Relaxed) {
            return;
        }
        let mut sought = self.header.sought.lock();
        if sought.range.is_none() && range.start == 0 {
            let Some(head) = self.find_header() else { return };
            sought.range = Some(head);
            drop(sought);
            if head.end > range.end {
                let rest = ByteRange::new(range.end.next_multiple_of(BLOCK_BYTES).min(head.end), head.end);
                self.fetch_ahead([Part { range: rest, at: 0 }], Urgency::Ahead);
            }
            sought = self.header.sought.lock();
        }
        let Some(head) = sought.range else { return };
        sought.tries += 1;
        let is_last = sought.tries >= MAX_TRIES;
        drop(sought);
        let data = self.peek(head);
        if (data.is_some() || is_last)
            && !self.header.is_done.swap(true, Ordering::AcqRel)
            && let Some(data) = data
        {
            let object = Arc::downgrade(self);
            let (parsing, size) = (Arc::clone(&self.engine.parsing), self.version().size());
            let parse = move || learn(&object, parse(&parsing, data, size));
            self.fetches.lock().spawn_blocking_on(parse, &self.engine.runtime);
        }
    }

    /// Fetches the header of an object that nobody has opened, as far as its first blocks tell that there is one, and learns from it.
    pub(super) async fn read_header(self: &Arc<Self>) {
        let Some(head) = self.find_header() else { return };
        self.fetch_now(head).await;
        let Some(data) = self.peek(head) else { return };
        // A reader may have come meanwhile, and have it parsed.
        if self.header.is_done.swap(true, Ordering::AcqRel) {
            return;
        }
        let object = Arc::downgrade(self);
        let (parsing, size) = (Arc::clone(&self.engine.parsing), self.version().size());
        let parse = self.engine.runtime.spawn_blocking(move || learn(&object, parse(&parsing, data, size)));
        if let Err(error) = parse.await {
            tracing::error!(key = %self.version().key(), %error, "parsing a header ended abnormally");
        }
    }

    /// Where the first block says that the header is.
    fn find_header(&self) -> Option<ByteRange> {
        let size = self.version().size();
        let first = self.peek(ByteRange::new(0, BLOCK_BYTES.min(size)))?;
        let found = loader::find(first.slices().next().unwrap_or_default(), size);
        match found {
            Some(Ok(range)) => return Some(range),
            Some(Err(broken)) => self.ignore(&broken),
            None => {}
        }
        self.header.is_done.store(true, Ordering::Release);
        None
    }

    fn ignore(&self, broken: &Broken) {
        // Any other file may begin like that.
        if !self.version().key().as_str().ends_with(EXTENSION) {
            return;
        }
        Counters::add(&self.engine.counters.headers_ignored, 1);
        tracing::debug!(key = %self.version().key(), %broken, "it is read like any other file");
    }
}

/// One header after the other, so that little memory goes into this.
fn parse(parsing: &Mutex<()>, data: ReadData, size: u64) -> Result<Vec<ByteRange>, Broken> {
    let _turn = parsing.lock();
    let head = data.slices().collect::<Vec<_>>().concat();
    drop(data);
    loader::parse(&head, size)
}

fn learn(object: &Weak<OpenObject>, tensors: Result<Vec<ByteRange>, Broken>) {
    let Some(object) = object.upgrade() else { return };
    match tensors {
        Ok(tensors) => {
            Counters::add(&object.engine.counters.headers_parsed, 1);
            object.ahead.lock().learn(&tensors, object.version().size());
        }
        Err(broken) => object.ignore(&broken),
    }
}
