//! The journal of one living process: lines appended, and rewritten when most of them are of the past.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::directory::JournalDirectory;
use super::record::{Entry, Record, rewritten};
use crate::bucket::{BucketIdentity, Timestamp, UploadId};
use crate::key::ObjectKey;

/// A journal that is longer is rewritten, unless half of it is about uploads under way.
const COMPACT_BYTES: usize = 64 << 10;

/// So many uploads that may or may not exist are remembered: the newest. A store that is out of order for days makes one each time that somebody
/// writes.
const MAX_GIVEN_UP: usize = 1000;

/// The uploads in parts that this process has under way in one bucket, on disk.
///
/// Dropping it removes the file if no upload is left in it.
#[derive(Debug)]
pub struct UploadJournal {
    directory: JournalDirectory,
    identity: BucketIdentity,
    name: String,
    now: fn() -> Timestamp,
    /// Nobody waits for the disk with this, but to append a line.
    state: Mutex<State>,
    /// Held alone by who rewrites it, and by those who note something that must be on disk before they go on.
    rewriting: RwLock<()>,
}

#[derive(Debug)]
struct State {
    file: Arc<File>,
    bytes: usize,
    compact_above_bytes: usize,
    /// What was appended while it is being rewritten.
    since: Option<String>,
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

impl UploadJournal {
    /// A new journal about the bucket `identity`; `now` is the wall clock. Blocks for as long as the file system takes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(
        directory: JournalDirectory,
        identity: BucketIdentity,
        now: fn() -> Timestamp,
    ) -> io::Result<Self> {
        let text = Record::bucket(&identity).line();
        let (name, file) = directory.make(&text)?;
        directory.sync()?;
        let state = State {
            file: Arc::new(file),
            bytes: text.len(),
            compact_above_bytes: COMPACT_BYTES,
            since: None,
            next: 0,
            entries: BTreeMap::new(),
        };
        let (state, rewriting) = (Mutex::new(state), RwLock::default());
        Ok(Self { directory, identity, name, now, state, rewriting })
    }

    /// Notes that an upload of `key` is about to be created: its number here. It is on disk when this returns, and so survives the machine.
    /// Blocks.
    pub(super) fn begin(&self, key: &ObjectKey) -> io::Result<u64> {
        if !self.state.lock().is_short() {
            self.compact()?;
        }
        let _stays = self.rewriting.read();
        let (entry, file) = {
            let mut state = self.state.lock();
            let (entry, at) = (state.next, (self.now)().secs);
            state.append(&Record::Begin { entry, key: key.as_str().to_owned(), at })?;
            state.next += 1;
            state.entries.insert(entry, Entry::begun(key.clone(), at));
            (entry, Arc::clone(&state.file))
        };
        file.sync_data()?;
        Ok(entry)
    }

    /// Notes how the store calls an upload. The death of the process does not undo this, and a machine that loses it knows the key.
    pub(super) fn created(&self, entry: u64, upload: &UploadId) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(known) = state.entries.get_mut(&entry) {
            known.upload = Some(upload.clone());
        }
        state.append(&Record::Created { entry, upload: upload.as_str().to_owned() })
    }

    /// Notes that the store refused to create an upload.
    pub(super) fn refused(&self, entry: u64) -> io::Result<()> {
        self.state.lock().end(entry)
    }

    /// Notes that creating an upload failed, and nobody knows whether the store did it.
    pub(super) fn gave_up(&self, entry: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let at = (self.now)().secs;
        if let Some(known) = state.entries.get_mut(&entry) {
            known.gave_up_at = Some(at);
        }
        state.append(&Record::GaveUp { entry, at })?;
        let given_up = state.entries.iter().filter(|(_, entry)| entry.gave_up_at.is_some());
        let mut given_up: Vec<u64> = given_up.map(|(entry, _)| *entry).collect();
        given_up.truncate(given_up.len().saturating_sub(MAX_GIVEN_UP));
        given_up.into_iter().try_for_each(|oldest| state.end(oldest))
    }

    /// Notes that an upload is no more.
    pub(super) fn ended(&self, key: &ObjectKey, upload: &UploadId) -> io::Result<()> {
        let mut state = self.state.lock();
        let is_it = |entry: &Entry| entry.key == *key && entry.upload.as_ref() == Some(upload);
        match state.entries.iter().find(|(_, entry)| is_it(entry)).map(|(number, _)| *number) {
            Some(entry) => state.end(entry),
            None => Ok(()),
        }
    }

    /// Rewrites a journal that is long. Others append to it meanwhile.
    fn compact(&self) -> io::Result<()> {
        let _alone = self.rewriting.write();
        if self.state.lock().is_short() {
            return Ok(());
        }
        let locked = self.directory.lock()?;
        let text = {
            let mut state = self.state.lock();
            state.since = Some(String::new());
            rewritten(&self.identity, &state.entries)
        };
        let made = self.directory.make_beside(&self.name, &text);
        let replaced = {
            let mut state = self.state.lock();
            let since = state.since.take().unwrap_or_default();
            let file = made?;
            (&file).write_all(since.as_bytes())?;
            self.directory.put(&self.name, &locked)?;
            state.bytes = text.len() + since.len();
            state.compact_above_bytes = COMPACT_BYTES.max(2 * state.bytes);
            std::mem::replace(&mut state.file, Arc::new(file))
        };
        drop((replaced, locked));
        self.directory.sync()
    }
}

impl State {
    fn is_short(&self) -> bool {
        self.bytes <= self.compact_above_bytes
    }

    fn end(&mut self, entry: u64) -> io::Result<()> {
        self.entries.remove(&entry);
        self.append(&Record::End { entry })
    }

    fn append(&mut self, record: &Record) -> io::Result<()> {
        let line = record.line();
        (&*self.file).write_all(line.as_bytes())?;
        if let Some(since) = &mut self.since {
            since.push_str(&line);
        }
        self.bytes += line.len();
        Ok(())
    }
}

impl Drop for UploadJournal {
    fn drop(&mut self) {
        if self.state.get_mut().entries.is_empty()
            && let Err(error) = self.directory.remove(&self.name)
        {
            tracing::warn!(name = self.name, %error, "an empty journal of uploads is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{Mode, OFlags, open};

    use super::super::record::replay;
    use super::*;

    fn key(key: &str) -> ObjectKey {
        ObjectKey::new(key).unwrap()
    }

    fn journal(at: &tempfile::TempDir) -> UploadJournal {
        let directory = open(at.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let identity = BucketIdentity { endpoint: "e".into(), name: "b".into() };
        UploadJournal::create(JournalDirectory::new(directory), identity, Timestamp::default).unwrap()
    }

    fn files(at: &tempfile::TempDir) -> Vec<std::path::PathBuf> {
        fs::read_dir(at.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_journal_stays_short_however_many_uploads_it_saw() {
        let at = tempfile::tempdir().unwrap();
        let journal = journal(&at);
        let (long, upload) = (key(&"k".repeat(1000)), UploadId::new("u"));
        let kept = journal.begin(&key("kept")).unwrap();
        journal.created(kept, &UploadId::new("kept")).unwrap();
        for _ in 0..500 {
            let entry = journal.begin(&long).unwrap();
            journal.created(entry, &upload).unwrap();
            journal.ended(&long, &upload).unwrap();
        }
        let [file] = &files(&at)[..] else { panic!("one file: {:?}", files(&at)) };
        let text = fs::read(file).unwrap();
        assert!(text.len() < 2 * COMPACT_BYTES, "{}", text.len());
        let said = replay(&text);
        assert_eq!(said.entries.into_keys().collect::<Vec<_>>(), [kept]);
        assert!(said.bucket.is_some());
    }

    #[test]
    fn what_is_noted_while_it_is_rewritten_is_in_it() {
        const UPLOADS: usize = 200;
        let at = tempfile::tempdir().unwrap();
        let journal = journal(&at);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let journal = &journal;
                scope.spawn(move || {
                    for number in 0..UPLOADS {
                        let key = key(&format!("{thread}/{number}/{}", "k".repeat(900)));
                        let upload = UploadId::new(format!("{thread}/{number}"));
                        let entry = journal.begin(&key).unwrap();
                        journal.created(entry, &upload).unwrap();
                        if number % 4 > 0 {
                            journal.ended(&key, &upload).unwrap();
                        }
                    }
                });
            }
        });
        let said = replay(&fs::read(&files(&at)[0]).unwrap());
        assert_eq!(said.entries, journal.state.lock().entries);
        assert_eq!(said.entries.len(), UPLOADS);
    }

    #[test]
    fn what_was_refused_is_forgotten_and_what_was_given_up_is_kept_up_to_a_number() {
        let at = tempfile::tempdir().unwrap();
        let journal = journal(&at);
        let refused = journal.begin(&key("refused")).unwrap();
        journal.refused(refused).unwrap();
        for number in 0..=MAX_GIVEN_UP {
            let entry = journal.begin(&key(&number.to_string())).unwrap();
            journal.gave_up(entry).unwrap();
        }
        let entries = replay(&fs::read(&files(&at)[0]).unwrap()).entries;
        assert_eq!(entries.len(), MAX_GIVEN_UP);
        assert!(entries.values().all(|entry| entry.gave_up_at == Some(0)));
        assert_eq!(entries.values().next().unwrap().key, key("1"));
    }

    #[test]
    fn a_journal_with_nothing_in_it_goes_with_its_process() {
        let at = tempfile::tempdir().unwrap();
        let journal = journal(&at);
        let entry = journal.begin(&key("a")).unwrap();
        journal.created(entry, &UploadId::new("one")).unwrap();
        journal.ended(&key("a"), &UploadId::new("one")).unwrap();
        drop(journal);
        assert!(files(&at).is_empty());
        let journal = self::journal(&at);
        journal.begin(&key("a")).unwrap();
        drop(journal);
        assert_eq!(files(&at).len(), 1);
    }
}
