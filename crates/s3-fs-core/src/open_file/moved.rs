//! What happens before the first byte of a version that an open file moved on to.
//!
//! The kernel asked for that byte while it believed the attributes of an older version. If the file grew, it is enough that it doubts
//! them: it asks again as soon as somebody reads beyond the end that it knows. If the file shrank, it must not fill the pages behind the
//! end with zeros. It cuts a file at a short reply, unless it took in attributes between its request and the reply, and no order of what
//! we send excludes that for a request that was on its way already.
//!
//! So the kernel first doubts its attributes; from then on it takes in only what is told after that, which is the truth. The first
//! request for the end is refused: it may be one of those that were on the way. The kernel holds a lock on the page until it is answered,
//! so the next request for the end comes after it. A refusal does no harm: it is read-ahead that comes first, and the kernel asks again
//! for what a program really waits for.

use std::sync::atomic::{AtomicBool, Ordering};

use sluicefs_s3_client::ByteRange;
use tokio::sync::OnceCell;

use crate::attr::InodeNo;
use crate::kernel::{Destination, Kernel};

/// A version that an open file moved on to, and what the kernel heard of it.
#[derive(Debug)]
pub(super) struct Moved {
    /// The length of this version.
    size: u64,
    /// The length that was opened, which the kernel may believe.
    earlier: u64,
    told: OnceCell<()>,
    end_was_refused: AtomicBool,
}

impl Moved {
    /// To a version of `size` bytes, after one of `earlier` bytes was opened.
    pub(super) fn new(size: u64, earlier: u64) -> Self {
        Self { size, earlier, told: OnceCell::new(), end_was_refused: AtomicBool::new(false) }
    }

    /// The length that was opened.
    pub(super) fn earlier(&self) -> u64 {
        self.earlier
    }

    /// Waits until the kernel doubts what it believes of `ino`; whether it may then have the bytes of `range`, fewer at the end.
    pub(super) async fn admits(
        &self,
        kernel: &dyn Kernel,
        ino: InodeNo,
        range: ByteRange,
        destination: Destination,
    ) -> bool {
        let tell = || async { if kernel.doubt_attributes(ino).await { Ok(()) } else { Err(()) } };
        let is_told = self.told.get_or_try_init(tell).await.is_ok();
        if self.size == self.earlier {
            // Only the time is another: that does not spoil any byte.
            return true;
        }
        is_told && (destination == Destination::Reader || self.keeps_zeros_out(kernel, range))
    }

    /// Whether the kernel fills none of the pages of `range` with zeros.
    fn keeps_zeros_out(&self, kernel: &dyn Kernel, range: ByteRange) -> bool {
        if self.earlier < self.size || range.end <= self.size {
            return true;
        }
        // An empty reply would make the kernel end the file at the beginning of the request.
        let is_end = range.start <= self.size;
        is_end && kernel.ends_files_at_short_replies() && self.end_was_refused.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    struct Fake {
        hears: bool,
        cuts: bool,
        told: AtomicU32,
    }

    impl Kernel for Fake {
        fn doubt_attributes(&self, _ino: InodeNo) -> BoxFuture<'static, bool> {
            self.told.fetch_add(1, Ordering::Relaxed);
            let hears = self.hears;
            async move { hears }.boxed()
        }

        fn doubt_names(&self, names: Vec<(InodeNo, Box<str>)>) -> BoxFuture<'static, usize> {
            async move { names.len() }.boxed()
        }

        fn ends_files_at_short_replies(&self) -> bool {
            self.cuts
        }
    }

    fn kernel() -> Fake {
        Fake { hears: true, cuts: true, told: AtomicU32::new(0) }
    }

    fn admits(moved: &Moved, kernel: &Fake, destination: Destination, range: std::ops::Range<u64>) -> bool {
        let range = ByteRange::new(range.start, range.end);
        let admits = moved.admits(kernel, InodeNo(7), range, destination).now_or_never();
        admits.expect("the fake is ready at once")
    }

    #[test]
    fn a_version_that_is_no_shorter_is_read_once_the_kernel_doubts_what_it_knows() {
        for earlier in [100, 50] {
            let (moved, kernel) = (Moved::new(100, earlier), kernel());
            for range in [0..64, 64..256, 256..300] {
                assert!(admits(&moved, &kernel, Destination::Pages, range));
            }
            assert_eq!(kernel.told.load(Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn the_first_request_for_the_end_of_a_shorter_version_is_refused_and_all_behind_it() {
        let (moved, kernel) = (Moved::new(100, 1000), kernel());
        for (range, expected) in [
            (0..64, true),
            (101..200, false),
            (64..128, false),
            (64..128, true),
            (0..100, true),
            (100..128, true),
            (101..200, false),
        ] {
            assert_eq!(admits(&moved, &kernel, Destination::Pages, range.clone()), expected, "{range:?}");
        }
    }

    #[test]
    fn who_reads_into_memory_of_their_own_gets_what_there_is() {
        let (moved, kernel) = (Moved::new(100, 1000), kernel());
        for range in [64..128, 200..300] {
            assert!(admits(&moved, &kernel, Destination::Reader, range));
        }
        assert!(!admits(&moved, &kernel, Destination::Pages, 64..128), "that was no request for pages");
    }

    #[test]
    fn a_kernel_that_cannot_be_told_gets_nothing_of_another_length() {
        let deaf = Fake { hears: false, ..kernel() };
        for (believed, expected) in [(100, true), (50, false), (200, false)] {
            let moved = Moved::new(100, believed);
            assert_eq!(admits(&moved, &deaf, Destination::Pages, 0..10), expected, "{believed:?}");
        }
    }

    #[test]
    fn a_kernel_that_does_not_cut_files_gets_no_end_of_a_shorter_version() {
        let kernel = Fake { cuts: false, ..kernel() };
        let moved = Moved::new(100, 1000);
        assert!(admits(&moved, &kernel, Destination::Pages, 0..100));
        for _ in 0..3 {
            assert!(!admits(&moved, &kernel, Destination::Pages, 64..128));
        }
        assert!(admits(&moved, &kernel, Destination::Reader, 64..128));
    }
}
