//! The one table from error kinds to errno, and the one place where a failed operation is logged.
//!
//! What a program asks for and does not find is not worth a line. What the store refused or failed at is, with the store's own
//! words, since the program sees but a number; a failing store must not fill the disk with lines, so they are limited.

use std::collections::HashSet;
use std::time::Duration;

use fuser::Errno;
use parking_lot::Mutex;
use sluicefs_core::{Error, ErrorKind};
use tokio::time::Instant;

/// The errno of each kind.
pub(crate) fn errno(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::NotADirectory => Errno::ENOTDIR,
        ErrorKind::IsADirectory => Errno::EISDIR,
        ErrorKind::NameTooLong => Errno::ENAMETOOLONG,
        ErrorKind::InvalidName => Errno::EINVAL,
        ErrorKind::AccessDenied => Errno::EACCES,
        ErrorKind::Stale => Errno::ESTALE,
        ErrorKind::BadHandle => Errno::EBADF,
        ErrorKind::NoAttribute => Errno::ENODATA,
        ErrorKind::Exists => Errno::EEXIST,
        ErrorKind::NotEmpty => Errno::ENOTEMPTY,
        ErrorKind::NotPermitted => Errno::EPERM,
        ErrorKind::ReadOnly => Errno::EROFS,
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::TooLarge => Errno::EFBIG,
        ErrorKind::Invalid => Errno::EINVAL,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        // Archived: no errno says "ask for it and come back tomorrow"; the log says so once for each object.
        _ => Errno::EIO,
    }
}

/// The errno of a failed lookup: there is no file of a name that no key can have.
pub(crate) fn lookup_errno(kind: ErrorKind) -> Errno {
    if kind == ErrorKind::InvalidName { Errno::ENOENT } else { errno(kind) }
}

/// Logs failed operations, each once, not too many.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    window: Option<Window>,
    archived: HashSet<String>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    left_out: u64,
}

/// What to do with one error.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Log it, after saying how many were left out before it.
    Log {
        left_out: u64,
    },
    LeaveOut,
}

impl ErrorLog {
    /// Logs `error`, as far as it is worth a line, and gives its errno.
    pub(crate) fn errno(&self, error: &Error) -> Errno {
        self.log(error);
        errno(error.kind())
    }

    /// The same for a failed lookup.
    pub(crate) fn lookup_errno(&self, error: &Error) -> Errno {
        self.log(error);
        lookup_errno(error.kind())
    }

    fn log(&self, error: &Error) {
        if !is_worth_a_line(error.kind()) {
            tracing::trace!(%error, "request failed");
            return;
        }
        let verdict = self.0.lock().judge(error, Instant::now());
        if let Verdict::Log { left_out } = verdict {
            if left_out > 0 {
                tracing::warn!(left_out, "more requests failed, whose errors were left out of the log");
            }
            tracing::warn!("{error}");
        }
    }
}

fn is_worth_a_line(kind: ErrorKind) -> bool {
    use ErrorKind::{AccessDenied, Archived, Io, NoSpace, Stale, TooLarge};
    matches!(kind, AccessDenied | Stale | Archived | Io | NoSpace | TooLarge)
}

impl State {
    fn judge(&mut self, error: &Error, now: Instant) -> Verdict {
        if error.kind() == ErrorKind::Archived && !self.first_of(&archived_name(error)) {
            return Verdict::LeaveOut;
        }
        let window = self.window.get_or_insert(Window { began: now, lines: 0, left_out: 0 });
        if now.duration_since(window.began) >= WINDOW {
            let left_out = window.left_out;
            *window = Window { began: now, lines: 1, left_out: 0 };
            return Verdict::Log { left_out };
        }
        if window.lines == MAX_LINES {
            window.left_out += 1;
            return Verdict::LeaveOut;
        }
        window.lines += 1;
        Verdict::Log { left_out: 0 }
    }

    fn first_of(&mut self, name: &str) -> bool {
        // Forgetting all of them costs a repeated line each; remembering all of them would cost memory without limit.
        if self.archived.len() >= MAX_ARCHIVED {
            self.archived.clear();
        }
        self.archived.insert(name.to_owned())
    }
}

/// The object that the store would not give out; the rest of its words differs from one request to the next.
fn archived_name(error: &Error) -> String {
    let key = error.store_error().and_then(|error| error.key());
    key.map_or_else(|| error.to_string(), str::to_owned)
}

/// The lines of one window.
const MAX_LINES: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);
/// How many archived objects are remembered as reported.
const MAX_ARCHIVED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_errno() {
        for (kind, expected) in [
            (ErrorKind::NotFound, Errno::ENOENT),
            (ErrorKind::NotADirectory, Errno::ENOTDIR),
            (ErrorKind::IsADirectory, Errno::EISDIR),
            (ErrorKind::NameTooLong, Errno::ENAMETOOLONG),
            (ErrorKind::InvalidName, Errno::EINVAL),
            (ErrorKind::AccessDenied, Errno::EACCES),
            (ErrorKind::Stale, Errno::ESTALE),
            (ErrorKind::BadHandle, Errno::EBADF),
            (ErrorKind::NoAttribute, Errno::ENODATA),
            (ErrorKind::Exists, Errno::EEXIST),
            (ErrorKind::NotEmpty, Errno::ENOTEMPTY),
            (ErrorKind::NotPermitted, Errno::EPERM),
            (ErrorKind::ReadOnly, Errno::EROFS),
            (ErrorKind::NoSpace, Errno::ENOSPC),
            (ErrorKind::TooLarge, Errno::EFBIG),
            (ErrorKind::Invalid, Errno::EINVAL),
            (ErrorKind::Unsupported, Errno::EOPNOTSUPP),
            (ErrorKind::Archived, Errno::EIO),
            (ErrorKind::Io, Errno::EIO),
        ] {
            assert_eq!(errno(kind), expected, "{kind:?}");
        }
        assert_eq!(lookup_errno(ErrorKind::InvalidName), Errno::ENOENT);
        assert_eq!(lookup_errno(ErrorKind::AccessDenied), Errno::EACCES);
    }

    fn judge(state: &mut State, kind: ErrorKind, name: &str, now: Instant) -> Verdict {
        state.judge(&Error::new(kind, "read").with_name(name), now)
    }

    #[test]
    fn a_failing_store_fills_only_so_many_lines_and_the_rest_is_counted() {
        let (mut state, now) = (State::default(), Instant::now());
        for n in 0..MAX_LINES {
            assert_eq!(judge(&mut state, ErrorKind::Io, "k", now), Verdict::Log { left_out: 0 }, "{n}");
        }
        for _ in 0..7 {
            assert_eq!(judge(&mut state, ErrorKind::Io, "k", now + WINDOW / 2), Verdict::LeaveOut);
        }
        assert_eq!(judge(&mut state, ErrorKind::Io, "k", now + WINDOW), Verdict::Log { left_out: 7 });
        assert_eq!(judge(&mut state, ErrorKind::Io, "k", now + WINDOW), Verdict::Log { left_out: 0 });
    }

    #[test]
    fn an_archived_object_is_reported_once() {
        let (mut state, now) = (State::default(), Instant::now());
        assert_eq!(judge(&mut state, ErrorKind::Archived, "a", now), Verdict::Log { left_out: 0 });
        assert_eq!(judge(&mut state, ErrorKind::Archived, "a", now + 2 * WINDOW), Verdict::LeaveOut);
        assert_eq!(judge(&mut state, ErrorKind::Archived, "b", now), Verdict::Log { left_out: 0 });
    }

    #[test]
    fn archived_objects_are_told_apart_by_key_whatever_the_request() {
        let archived = |key: &str, request: &str| {
            let store = sluicefs_s3_client::Error::new(sluicefs_s3_client::ErrorKind::Archived, "get");
            Error::from_store("read", store.with_key(key).with_request_id(request))
        };
        assert_eq!(archived_name(&archived("a", "1")), archived_name(&archived("a", "2")));
        assert_ne!(archived_name(&archived("a", "1")), archived_name(&archived("b", "1")));
    }

    #[test]
    fn what_programs_ask_for_in_vain_is_not_logged() {
        for kind in
            [ErrorKind::NotFound, ErrorKind::NoAttribute, ErrorKind::NameTooLong, ErrorKind::IsADirectory]
        {
            assert!(!is_worth_a_line(kind), "{kind:?}");
        }
        assert!(is_worth_a_line(ErrorKind::Io) && is_worth_a_line(ErrorKind::AccessDenied));
    }
}
