//! Taking the store as it is now: everything that is known of it is asked for anew.

use super::FileSystem;
use crate::pins::MAX_PINS;

/// What a refresh did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Objects whose version was pinned and is no more.
    pub released: usize,
    /// Names that were known, absent ones included, and are asked for again.
    pub names: usize,
    /// Of those, how many the kernel did not let itself be told of; it may show their old attributes until their time is over.
    pub untold: usize,
}

/// How many objects have a pinned version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinStats {
    /// So many have.
    pub objects: usize,
    /// At most so many can.
    pub limit: usize,
}

impl FileSystem {
    /// Believes nothing any more that the store told: names, attributes and versions that are asked for from now on are those that it has now.
    ///
    /// A file that is open stays of the version that it was opened in, of which bytes that are nowhere else are stale.
    pub async fn refresh(&self) -> Refreshed {
        // First the versions: what is asked for after that and before the tree doubts it, is asked for once more, and not the other way round.
        let released = self.pins.as_ref().map_or(0, |pins| pins.release());
        let names = self.tree.refresh_all();
        let count = names.len();
        let told = match self.kernel.get() {
            Some(kernel) if count > 0 => kernel.doubt_names(names).await,
            _ => count,
        };
        Refreshed { released, names: count, untold: count - told }
    }

    /// How many objects have a pinned version; `None` unless versions are pinned.
    pub fn pin_stats(&self) -> Option<PinStats> {
        self.pins.as_ref().map(|pins| PinStats { objects: pins.len(), limit: MAX_PINS })
    }
}
