//! Everything one mount needs, as the command line and the machine say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluicefs_cache_dir::{CacheDirError, StageDir, own_directory};
use sluicefs_core::FsConfig;
use sluicefs_fuse::{Access, MountConfig, Passthrough, Xattrs};

use crate::args::{AttributesArg, MountArgs};
use crate::compat::Personality;
use crate::failure::Failure;
use crate::preset::Chosen;
use crate::settings::{Surroundings, absolute, fs_config, stored_config};
use crate::store::Source;
use crate::{memory, open_files, state};

use super::warm_up::WarmUp;

/// Everything one mount needs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) source: Source,
    pub(super) target: PathBuf,
    pub(super) fs: FsConfig,
    pub(super) cache: Option<Cache>,
    pub(super) session: MountConfig,
    pub(super) state: state::Choice,
    /// What its settings are, and who chose them.
    pub(super) chosen: Chosen,
    /// What it brings into its cache by itself.
    pub(super) warm_up: Option<Arc<WarmUp>>,
}

/// A directory for what memory cannot hold, and for what was read.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    pub(super) dir: PathBuf,
    /// The most that written bytes take there; `None` for a mount that changes nothing.
    pub(super) stage_bytes: Option<u64>,
}

impl Plan {
    /// The mount that is asked for.
    ///
    /// # Errors
    /// If the options do not fit together, or a file that they name cannot be read.
    pub(super) fn new(given: &MountArgs, personality: Personality) -> Result<Self, Failure> {
        let memory_target_bytes = memory::default_target_bytes();
        let chosen = Chosen::new(given, personality.default_ttl(), memory_target_bytes)?;
        let args = &chosen.args;
        let source = Source::new(&args.bucket, &args.store, stored_config(&args.writing)?)?
            .below(args.prefix.as_deref())?;
        let around = Surroundings {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            memory_target_bytes,
            open_files: open_files::raise(),
            metadata_ttl: personality.default_ttl(),
            shares_of_memory: chosen.shares_of_memory,
        };
        let mut session = MountConfig::new(source.to_string());
        session.access = match (args.files.allow_other, args.files.allow_root) {
            (true, _) => Access::Everyone,
            (false, true) => Access::OwnerAndRoot,
            (false, false) => Access::Owner,
        };
        session.read_only = args.files.read_only;
        let keeps_attributes = !matches!(args.files.attributes, None | Some(AttributesArg::None));
        if args.files.xattr || keeps_attributes {
            session.xattrs = Xattrs::Readable;
        }
        session.read_ahead_kb = args.reading.read_ahead_kb;
        if args.reading.no_passthrough {
            session.passthrough = Passthrough::Off;
        }
        let fs = fs_config(args, source.prefix(), around)?;
        let warm_up = WarmUp::new(args, source.prefix())?;
        if warm_up.is_some() && fs.read.disk.is_none() {
            return Err(Failure::usage(
                "--warm fills the cache, and --max-cache-size 0 keeps nothing there: give it room",
            ));
        }
        Ok(Self {
            fs,
            target: absolute(&args.dir)?,
            cache: Cache::new(args)?,
            source,
            session,
            warm_up: warm_up.map(Arc::new),
            state: state::Choice::new(args.process.state_dir.as_deref())?,
            chosen,
        })
    }
}

impl Cache {
    fn new(args: &MountArgs) -> Result<Option<Self>, Failure> {
        let stage_bytes = (!args.files.read_only).then(|| args.reading.stage_size.unwrap_or(u64::MAX));
        let cache = |dir: &PathBuf| Ok(Self { dir: absolute(dir)?, stage_bytes });
        args.reading.cache.as_ref().map(cache).transpose()
    }

    /// Makes the directory, which must lie in neither of these, where it would keep itself; and opens the stage in it.
    pub(super) fn open(
        &self,
        target: &Path,
        source: Option<&Path>,
    ) -> Result<Option<Arc<StageDir>>, Failure> {
        own_directory(&self.dir).map_err(cache_failure)?;
        let canonical = |path: &Path| path.canonicalize().ok();
        let dir = canonical(&self.dir);
        for other in [Some(target), source].into_iter().flatten() {
            if let (Some(dir), Some(other)) = (&dir, canonical(other))
                && dir.starts_with(&other)
            {
                let message = format!(
                    "--cache {} lies in {}; choose a directory outside of it",
                    dir.display(),
                    other.display()
                );
                return Err(Failure::usage(message));
            }
        }
        let open = |bytes| StageDir::open(&self.dir, bytes).map_err(cache_failure);
        self.stage_bytes.map(open).transpose()
    }
}

fn cache_failure(error: CacheDirError) -> Failure {
    match error {
        CacheDirError::Io { .. } => Failure::failed(format!("--cache: {error}")),
        refused => Failure::usage(format!("--cache: {refused}")),
    }
}
