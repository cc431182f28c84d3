//! A mount that is killed at random moments while programs write, rename and delete, again and again.
//!
//! Afterwards the bucket is compared with what the programs were told: what succeeded is there, and what was cut short happened as a whole or
//! not at all. Each operation is a program of its own: a file that this process had open would be closed by every child that it starts, which
//! makes what was written to it so far durable.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::memory::pattern;

use crate::sandbox::{Foreground, Listen, Sandbox, has_ended};
use crate::status::status_of;

/// So often the mount is killed, unless `SLUICEFS_KILLS` says another number.
const KILLS: u32 = 25;
/// The mount lives at most so long, in milliseconds: a few operations.
const MAX_LIFE_MS: u64 = 500;
/// Directories that files are in, and renamed between.
const DIRECTORIES: [&str; 4] = ["red", "green", "blue", "black"];

/// The bytes of a file.
#[derive(Clone, PartialEq, Default)]
struct Body(Arc<Vec<u8>>);

impl Body {
    fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes))
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.0.iter().take(4).collect::<Vec<_>>();
        write!(f, "{} bytes, {first:?}...", self.len())
    }
}

/// The files by their keys.
type Files = BTreeMap<String, Body>;

#[derive(Debug, Clone)]
enum Operation {
    /// Cut to nothing and written (`tee`).
    Write {
        key: String,
        body: Body,
    },
    /// Created exclusively if it is new (`cp`), which claims the name by an empty object.
    Copy {
        key: String,
        body: Body,
    },
    /// A piece in the middle of a file that is there.
    Change {
        key: String,
        at: usize,
        piece: Body,
    },
    Rename {
        from: String,
        to: String,
    },
    RenameDirectory {
        from: String,
        to: String,
    },
    Remove {
        key: String,
    },
}

impl Operation {
    fn random(random: &mut StdRng, files: &Files) -> Self {
        let existing =
            |random: &mut StdRng| files.keys().nth(random.random_range(0..files.len().max(1))).cloned();
        let any = |random: &mut StdRng| match random.random_range(0..3) {
            0 => format!("file-{}", random.random_range(0..4)),
            _ => format!("{}/file-{}", DIRECTORIES[random.random_range(0..2)], random.random_range(0..6)),
        };
        let (key, existing) = (any(random), existing(random));
        match (random.random_range(0..12), existing) {
            (0..3, Some(from)) => Self::Rename { from, to: key },
            (3, Some(key)) => Self::Remove { key },
            (4, Some(key)) if files[&key].len() > 1 => {
                let at = random.random_range(0..files[&key].len() - 1);
                Self::Change { piece: body(random, files[&key].len() - at), at, key }
            }
            (5..7, _) => {
                let (from, to) = (random.random_range(0..4), random.random_range(0..3));
                let to = DIRECTORIES[(from + 1 + to) % 4];
                Self::RenameDirectory { from: DIRECTORIES[from].to_owned(), to: to.to_owned() }
            }
            (7, _) => Self::Copy { key, body: body(random, 300_000) },
            (8, _) => Self::Write { key, body: body(random, 24 << 20) },
            _ => Self::Write { key, body: body(random, 300_000) },
        }
    }

    /// Whether it can be done to these files as they are.
    fn is_possible(&self, files: &Files) -> bool {
        match self {
            Self::Rename { from, to } => from != to,
            Self::RenameDirectory { from, to } => {
                below(files, from).next().is_some() && below(files, to).next().is_none()
            }
            _ => true,
        }
    }

    /// The program that does it, in the directory of the mount.
    fn program(&self, beside: &Path) -> Command {
        let arguments: Vec<String> = match self {
            Self::Write { key, body } => {
                fs::write(beside, &*body.0).unwrap();
                // A shell's redirection would do as `dd`: open the file, copy the descriptor, and close the first one, which makes it empty.
                ["tee", key].map(str::to_owned).into()
            }
            Self::Copy { key, body } => {
                fs::write(beside, &*body.0).unwrap();
                ["cp".to_owned(), beside.display().to_string(), key.clone()].into()
            }
            Self::Change { key, at, piece } => {
                fs::write(beside, &*piece.0).unwrap();
                let input = format!("if={}", beside.display());
                let flags = ["bs=1M", "conv=notrunc", "oflag=seek_bytes"].map(str::to_owned);
                [vec!["dd".to_owned(), input, format!("of={key}"), format!("seek={at}")], flags.into()]
                    .concat()
            }
            Self::Rename { from, to } => ["mv", "-fT", from, to].map(str::to_owned).into(),
            // The next files are written there again.
            Self::RenameDirectory { from, to } => {
                let script = r#"mv -fT "$0" "$1" && mkdir "$0""#;
                ["sh", "-c", script, from, to].map(str::to_owned).into()
            }
            Self::Remove { key } => ["rm", "-f", key].map(str::to_owned).into(),
        };
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]).stdout(Stdio::null());
        match self {
            Self::Write { .. } => command.stdin(File::open(beside).unwrap()),
            _ => command.stdin(Stdio::null()),
        };
        command
    }

    /// The files when it is done.
    fn apply(&self, files: &Files) -> Files {
        let mut after = files.clone();
        match self {
            Self::Write { key, body } | Self::Copy { key, body } => {
                _ = after.insert(key.clone(), body.clone())
            }
            Self::Change { key, at, piece } => {
                let mut body = files[key].0.to_vec();
                body[*at..*at + piece.len()].copy_from_slice(&piece.0);
                after.insert(key.clone(), Body::new(body));
            }
            Self::Rename { from, to } => {
                let body = after.remove(from).unwrap();
                after.insert(to.clone(), body);
            }
            Self::RenameDirectory { from, to } => {
                for (name, body) in below(files, from) {
                    after.remove(&format!("{from}/{name}"));
                    after.insert(format!("{to}/{name}"), body.clone());
                }
            }
            Self::Remove { key } => _ = after.remove(key),
        }
        after
    }

    /// Whether `found` may be there when it was cut short: the old state or the new one, and what is documented to lie between.
    fn may_leave(&self, found: &Files, before: &Files) -> bool {
        let after = self.apply(before);
        if *found == *before || *found == after {
            return true;
        }
        match self {
            Self::Copy { key, .. } if !before.contains_key(key) => {
                let mut claimed = before.clone();
                claimed.insert(key.clone(), Body::default());
                *found == claimed
            }
            Self::Rename { to, .. } => {
                let mut both = before.clone();
                both.insert(to.clone(), after[to].clone());
                *found == both
            }
            Self::RenameDirectory { from, to } => {
                let is_part =
                    |key: &String| key.starts_with(&format!("{from}/")) || key.starts_with(&format!("{to}/"));
                let rest = |files: &Files| -> Files {
                    files
                        .iter()
                        .filter(|(key, _)| !is_part(key))
                        .map(|(k, b)| (k.clone(), b.clone()))
                        .collect()
                };
                let is_whole = |(name, body): (&str, &Body)| {
                    let places = [found.get(&format!("{from}/{name}")), found.get(&format!("{to}/{name}"))];
                    let there: Vec<&Body> = places.into_iter().flatten().collect();
                    !there.is_empty() && there.iter().all(|there| *there == body)
                };
                rest(found) == rest(before)
                    && below(before, from).all(is_whole)
                    && below(found, to).all(|(name, _)| before.contains_key(&format!("{from}/{name}")))
            }
            _ => false,
        }
    }
}

/// The files in the directory `directory`, by their names in it.
fn below<'a>(files: &'a Files, directory: &str) -> impl Iterator<Item = (&'a str, &'a Body)> {
    let prefix = format!("{directory}/");
    files.iter().filter_map(move |(key, body)| Some((key.strip_prefix(prefix.as_str())?, body)))
}

fn body(random: &mut StdRng, max: usize) -> Body {
    let len = random.random_range(1..=max);
    Body::new(pattern(random.random(), ByteRange::new(0, len as u64)).to_vec())
}

/// What the bucket holds, directories aside.
fn stored(sandbox: &Sandbox) -> Files {
    let keys = sandbox.bucket.keys().into_iter().filter(|key| !key.as_str().ends_with('/'));
    let stored = keys.map(|key| {
        let content = sandbox.bucket.object(key.as_str()).unwrap().content;
        let body = content.slice(ByteRange::new(0, content.len())).to_vec();
        (key.as_str().to_owned(), Body::new(body))
    });
    stored.collect()
}

/// When closing a file returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// When the store has it.
    AtStore,
    /// When the disk has it.
    OnDisk,
}

/// Mounts over what the last one left, and waits until what that had under way is removed, and what it had acknowledged is sent.
fn mount(sandbox: &Sandbox, closing: Closing) -> Foreground {
    let had_uploads = sandbox.uploads() > 0;
    let cache = sandbox.path("cache");
    let write_back = ["--write-back=async", "--cache", cache.to_str().unwrap()];
    // Little memory, so that large files are sent while they are written.
    let mut options = vec!["-f", "--memory-target=128", "--write-part-size=5242880"];
    options.extend(write_back.iter().filter(|_| closing == Closing::OnDisk));
    let mut mount = Foreground::start(sandbox.mount(&options), Listen::Stderr);
    mount.wait_for(" mounted");
    if had_uploads {
        mount.wait_for("cleaned up");
    }
    if closing == Closing::OnDisk {
        wait_until_sent(sandbox);
    }
    assert_eq!(sandbox.uploads(), 0, "uploads of the mount before are left");
    mount
}

/// Waits until nothing is in the queue.
fn wait_until_sent(sandbox: &Sandbox) {
    let queues = (0..2000).map(|_| status_of(sandbox)["queue"].clone());
    assert!(queues.into_iter().any(|queue| queue["count"] == 0), "{}", status_of(sandbox));
}

/// Does random operations until one fails, which must not be before the mount `is_killed`: the files as they were then, and that operation.
fn work(
    sandbox: &Sandbox,
    mut random: StdRng,
    mut files: Files,
    is_killed: &AtomicBool,
) -> (Files, Operation) {
    loop {
        let operation = Operation::random(&mut random, &files);
        if !operation.is_possible(&files) {
            continue;
        }
        let mut program = operation.program(&sandbox.path("beside"));
        let done = program.current_dir(sandbox.target()).stderr(Stdio::piped()).output();
        match done {
            Ok(done) if done.status.success() => files = operation.apply(&files),
            failed => {
                assert!(
                    is_killed.load(Ordering::SeqCst),
                    "{operation:?} failed while the mount lived: {failed:?}"
                );
                return (files, operation);
            }
        }
    }
}

#[test]
fn nothing_that_was_acknowledged_is_lost_and_nothing_is_half_there() {
    kill_again_and_again(Closing::AtStore);
}

#[test]
fn nothing_that_was_acknowledged_on_disk_is_lost_and_nothing_is_half_there() {
    kill_again_and_again(Closing::OnDisk);
}

fn kill_again_and_again(closing: Closing) {
    let number =
        |name: &str| std::env::var_os(name).map(|text| text.to_str().unwrap().parse::<u64>().unwrap());
    let seed = number("SLUICEFS_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let kills = number("SLUICEFS_KILLS").unwrap_or(u64::from(KILLS));
    eprintln!("SLUICEFS_SEED={seed} SLUICEFS_KILLS={kills}");
    let mut random = StdRng::seed_from_u64(seed);
    let sandbox = Sandbox::new();
    let mut files = stored(&sandbox);
    let mut living = mount(&sandbox, closing);
    for directory in DIRECTORIES {
        fs::create_dir(sandbox.target().join(directory)).unwrap();
    }
    for kill in 0..kills {
        let is_killed = AtomicBool::new(false);
        let life = Duration::from_millis(random.random_range(0..MAX_LIFE_MS));
        let script = StdRng::seed_from_u64(random.random());
        let (before, cut) = std::thread::scope(|scope| {
            let worker = scope.spawn(|| work(&sandbox, script, files, &is_killed));
            assert!(!has_ended(living.pid(), life), "the mount ended by itself");
            is_killed.store(true, Ordering::SeqCst);
            living.signal(Signal::KILL);
            living.wait();
            worker.join().unwrap()
        });
        // A request that was under way ends at the store without us; it has by the time that the next mount answers.
        living = mount(&sandbox, closing);
        let found = stored(&sandbox);
        assert!(
            cut.may_leave(&found, &before),
            "kill {kill} of seed {seed}, {cut:?}:\nbefore {:#?}\nfound {:#?}",
            &before,
            &found
        );
        files = found;
        if let Operation::RenameDirectory { from, to } = &cut
            && below(&files, from).next().is_some()
        {
            let again = cut.program(&sandbox.path("beside")).current_dir(sandbox.target()).output().unwrap();
            assert!(
                again.status.success(),
                "kill {kill} of seed {seed}: {from} to {to} again: {again:?}\n{:#?}",
                &files
            );
            files = stored(&sandbox);
            assert_eq!(files, cut.apply(&before), "kill {kill} of seed {seed}");
        }
        for directory in DIRECTORIES {
            drop(fs::create_dir(sandbox.target().join(directory)));
        }
    }
    living.signal(Signal::TERM);
    assert_eq!(living.wait().code(), Some(0));
    assert_eq!(stored(&sandbox), files);
}
