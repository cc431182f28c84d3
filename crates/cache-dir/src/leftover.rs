//! What a dead mount kept, in the hands of the next.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::file::StageFile;
use crate::owned::{CacheDirError, failed};
use crate::place::{KEPT, MAX_RECORD_BYTES, Place, RECORD};

/// A file that a mount kept which has died since. It stays kept until it is [let go](StageFile::let_go).
#[derive(Debug)]
pub struct Leftover {
    /// What the mount said of it.
    pub record: Vec<u8>,
    /// Its bytes.
    pub file: StageFile,
}

/// What mounts that died had kept.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// The files.
    pub files: Vec<Leftover>,
    /// Stages in which something could not be looked at, and why: what else is in them is among the files.
    pub failed: Vec<(PathBuf, CacheDirError)>,
    /// Stages that somebody holds: their mounts live, or are dying.
    pub held: Vec<PathBuf>,
}

impl Leftovers {
    /// Adds the files in `place` whose record, at its path, is `mine`. They hold its lock.
    pub(crate) fn take(&mut self, place: Place, mine: impl Fn(&Path, &[u8]) -> bool) {
        let place = Arc::new(place);
        let records = match records(&place.path) {
            // Its own mount was just ending, and kept nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.fail(&place.path, failed("list", &place.path)(error)),
            Ok(records) => records,
        };
        for path in records {
            match read(&path) {
                Ok(record) if !mine(&path, &record) => {}
                Ok(record) => match StageFile::of_dead(Arc::clone(&place), path.with_extension(KEPT)) {
                    Ok(file) => self.files.push(Leftover { record, file }),
                    Err(error) => self.fail(&place.path, failed("open what is kept for", &path)(error)),
                },
                Err(error) => self.fail(&place.path, failed("read", &path)(error)),
            }
        }
    }

    pub(crate) fn fail(&mut self, stage: &Path, error: CacheDirError) {
        self.failed.push((stage.to_owned(), error));
    }
}

/// The paths of all records in the stage `path`.
fn records(path: &Path) -> io::Result<Vec<PathBuf>> {
    let paths: Vec<_> = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|found| found == RECORD)).collect())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut record = Vec::new();
    File::open(path)?.take(MAX_RECORD_BYTES as u64).read_to_end(&mut record)?;
    Ok(record)
}
