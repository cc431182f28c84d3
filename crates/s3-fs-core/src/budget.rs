//! All memory that read buffers take, as one number that is never exceeded.
//!
//! Bytes are promised before they are fetched: a [`Reservation`] is taken for the blocks of a GET, each block's
//! [`Buffer`] is cut from it when bytes arrive, and dropping the buffer gives the promise back. Full-sized buffers are
//! kept for the next block, since the first touch of fresh memory costs more than everything else done to a byte.
//! What to give up for a promise is not decided here: that is the cache's business.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// The largest buffer, and the one size that is kept for reuse.
pub(crate) const BUFFER_BYTES: usize = 128 << 10;

/// The grain of accounting: a page.
const UNIT_BYTES: usize = 4096;

/// Full-sized buffers begin at a multiple of this, so that a disk can take them without the kernel's copy.
const ALIGNMENT: usize = UNIT_BYTES;

/// What the allocator and the cache's tables add to a buffer: with its header and its alignment, a buffer of 128 KiB touches one page more.
const OVERHEAD_BYTES: usize = 512;

/// The memory of one file system's read path. Shared by everything that holds a buffer.
pub(crate) struct Budget {
    /// What is not promised to anybody, in units. Waiters are served in the order they came.
    free_units: Semaphore,
    limit_units: usize,
    waiting: AtomicUsize,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    /// Buffers of [`BUFFER_BYTES`], empty, their pages already touched.
    idle: Vec<Vec<u8>>,
    /// All buffers there are, idle ones included.
    units: usize,
    peak_units: usize,
}

impl Budget {
    /// A budget of `limit_bytes`, none of it in use.
    pub(crate) fn new(limit_bytes: u64) -> Arc<Self> {
        let limit_units = usize::try_from(limit_bytes / UNIT_BYTES as u64).unwrap_or(Semaphore::MAX_PERMITS);
        let limit_units = limit_units.min(u32::MAX as usize);
        Arc::new(Self {
            free_units: Semaphore::new(limit_units),
            limit_units,
            waiting: AtomicUsize::new(0),
            pool: Mutex::default(),
        })
    }

    /// What buffers of `len` bytes cost, in units.
    pub(crate) fn cost_units(len: usize) -> u32 {
        let bytes = capacity(len) + OVERHEAD_BYTES;
        bytes.div_ceil(UNIT_BYTES) as u32
    }

    /// The same in bytes.
    pub(crate) fn cost_bytes(len: usize) -> u64 {
        Self::bytes_of(Self::cost_units(len))
    }

    /// How many bytes `units` are.
    pub(crate) fn bytes_of(units: u32) -> u64 {
        u64::from(units) * UNIT_BYTES as u64
    }

    /// Promises `units`, if that leaves `spare_units` for others and nobody waits.
    pub(crate) fn try_reserve(self: &Arc<Self>, units: u32, spare_units: u32) -> Option<Reservation> {
        if self.free_units.available_permits() < units as usize + spare_units as usize {
            return None;
        }
        // A waiter holds back what is released until it has enough, so this cannot overtake one.
        self.free_units.try_acquire_many(units).ok()?.forget();
        Some(Reservation { budget: Arc::clone(self), units })
    }

    /// Waits until `units` are free and promises them. Cancel-safe: dropping the future leaves the queue.
    ///
    /// The caller holds no buffer meanwhile, or two of them could wait for each other.
    pub(crate) async fn reserve(self: &Arc<Self>, units: u32) -> Reservation {
        let units = units.min(self.limit_units as u32);
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _leave = Leave(&self.waiting);
        let permits = self.free_units.acquire_many(units).await;
        permits.expect("the semaphore is never closed").forget();
        Reservation { budget: Arc::clone(self), units }
    }

    /// Whether somebody waits for memory: then what can be given up should be.
    pub(crate) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// The limit, in units.
    pub(crate) fn limit_units(&self) -> u32 {
        self.limit_units as u32
    }

    /// How many full-sized buffers lie idle.
    #[cfg(test)]
    fn idle_buffers(&self) -> usize {
        self.pool.lock().idle.len()
    }

    /// All buffers there are, in bytes.
    pub(crate) fn in_use_bytes(&self) -> u64 {
        (self.pool.lock().units * UNIT_BYTES) as u64
    }

    /// The most [`Budget::in_use_bytes`] ever was.
    pub(crate) fn peak_bytes(&self) -> u64 {
        (self.pool.lock().peak_units * UNIT_BYTES) as u64
    }

    /// What is promised or used, in bytes.
    #[cfg(test)]
    pub(crate) fn promised_bytes(&self) -> u64 {
        ((self.limit_units - self.free_units.available_permits()) * UNIT_BYTES) as u64
    }

    fn take(&self, len: usize) -> Vec<u8> {
        let mut pool = self.pool.lock();
        let pooled = is_pooled(len);
        if pooled && let Some(idle) = pool.idle.pop() {
            return idle;
        }
        let units = Self::cost_units(len) as usize;
        // An odd-sized buffer may be promised memory that idle buffers still occupy.
        while !pooled && pool.units + units > self.limit_units && pool.idle.pop().is_some() {
            pool.units -= Self::cost_units(BUFFER_BYTES) as usize;
        }
        pool.units += units;
        pool.peak_units = pool.peak_units.max(pool.units);
        drop(pool);
        if !pooled {
            return Vec::with_capacity(len);
        }
        let mut bytes = Vec::<u8>::with_capacity(BUFFER_BYTES + ALIGNMENT);
        bytes.resize(bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT), 0);
        bytes
    }

    /// Takes back memory whose promise of `units` is given back, or given on, after this.
    fn recycle(&self, mut bytes: Vec<u8>, start: usize, units: u32) {
        if bytes.capacity() >= BUFFER_BYTES {
            bytes.truncate(start);
            self.pool.lock().idle.push(bytes);
        } else {
            drop(bytes);
            self.pool.lock().units -= units as usize;
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("limit_units", &self.limit_units)
            .field("free_units", &self.free_units.available_permits())
            .finish_non_exhaustive()
    }
}

/// Buffers of over half the full size are full-sized: then any of them fits any block but the short last ones.
fn is_pooled(len: usize) -> bool {
    len > BUFFER_BYTES / 2
}

fn capacity(len: usize) -> usize {
    if is_pooled(len) { BUFFER_BYTES } else { len }
}

struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A promise of memory; what was not cut from it is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    units: u32,
}

impl Reservation {
    /// How much is left of it.
    pub(crate) fn units(&self) -> u32 {
        self.units
    }

    /// Takes over what is left of `other`.
    pub(crate) fn merge(&mut self, mut other: Reservation) {
        self.units += std::mem::take(&mut other.units);
    }

    /// Cuts `units` off.
    pub(crate) fn split(&mut self, units: u32) -> Reservation {
        self.units = self.units.checked_sub(units).expect("a reservation covers what is cut from it");
        Reservation { budget: Arc::clone(&self.budget), units }
    }

    /// Cuts off an empty buffer that takes `len` bytes, at most [`BUFFER_BYTES`].
    pub(crate) fn buffer(&mut self, len: usize) -> Buffer {
        debug_assert!(len <= BUFFER_BYTES, "no block is longer");
        let mut part = self.split(Budget::cost_units(len));
        let bytes = self.budget.take(len);
        Buffer {
            start: bytes.len(),
            bytes,
            len,
            budget: Arc::clone(&self.budget),
            units: std::mem::take(&mut part.units),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.units > 0 {
            self.budget.free_units.add_permits(self.units as usize);
        }
    }
}

/// Memory of a known length that is filled once, from its start. Dropping it gives the memory back.
pub(crate) struct Buffer {
    /// What is before `start` only aligns the rest.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    budget: Arc<Budget>,
    units: u32,
}

impl Buffer {
    /// Appends as much of `from` as fits, and returns how much that was.
    pub(crate) fn fill(&mut self, from: &[u8]) -> usize {
        let n = from.len().min(self.len - self.filled());
        self.bytes.extend_from_slice(&from[..n]);
        n
    }

    /// Makes it `len` bytes long, which `read` puts there; empty if that fails.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn read_into<T, E>(
        &mut self,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<T, E>,
    ) -> Result<T, E> {
        self.bytes.resize(self.start + len.min(self.len), 0);
        read(&mut self.bytes[self.start..]).inspect_err(|_| self.bytes.truncate(self.start))
    }

    /// Empties it, and gives back the promise that it was cut from.
    pub(crate) fn into_reservation(mut self) -> Reservation {
        let units = std::mem::take(&mut self.units);
        self.budget.recycle(std::mem::take(&mut self.bytes), self.start, units);
        Reservation { budget: Arc::clone(&self.budget), units }
    }

    /// Puts `from` at `at`, over what is there; a gap before it becomes zeros. It must fit.
    pub(crate) fn write_at(&mut self, at: usize, from: &[u8]) {
        debug_assert!(at + from.len() <= self.len, "the caller cuts at the buffer's end");
        let at = self.start + at;
        if self.bytes.len() < at {
            self.bytes.resize(at, 0);
        }
        let over = from.len().min(self.bytes.len() - at);
        self.bytes[at..at + over].copy_from_slice(&from[..over]);
        self.bytes.extend_from_slice(&from[over..]);
    }

    /// Whether all bytes are there.
    pub(crate) fn is_full(&self) -> bool {
        self.filled() == self.len
    }

    fn filled(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// The bytes so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// What it costs, in units.
    pub(crate) fn units(&self) -> u32 {
        self.units
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.filled(), self.len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.units > 0 {
            self.budget.recycle(std::mem::take(&mut self.bytes), self.start, self.units);
            // Last, so that whoever is promised this memory finds it given back.
            self.budget.free_units.add_permits(self.units as usize);
        }
    }
}

#[cfg(test)]
mod tests;
