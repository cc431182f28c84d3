//! What a dead mount kept, in the hands of the next.

use std::fs::{self, File};
use std::io::{self, Read};
use std::sync::Arc;

use crate::file::StageFile;
use crate::place::{Place, RECORD};

/// A record is far shorter.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// A file that a mount kept which has died since. It stays kept until it is [let go](StageFile::let_go).
#[derive(Debug)]
pub struct Leftover {
    /// What the mount said of it.
    pub record: Vec<u8>,
    /// Its bytes.
    pub file: StageFile,
}

/// The files in `place` whose record is `mine`. They hold its lock.
pub(crate) fn take(place: Place, mine: impl Fn(&[u8]) -> bool) -> io::Result<Vec<Leftover>> {
    let (place, mut taken) = (Arc::new(place), Vec::new());
    let entries = match fs::read_dir(&place.path) {
        // Its own mount was just ending, and kept nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(taken),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != RECORD) {
            continue;
        }
        let mut record = Vec::new();
        File::open(&path)?.take(MAX_RECORD_BYTES).read_to_end(&mut record)?;
        if mine(&record) {
            let file = StageFile::of_dead(Arc::clone(&place), path.with_extension(crate::place::KEPT))?;
            taken.push(Leftover { record, file });
        }
    }
    Ok(taken)
}
