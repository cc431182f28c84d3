//! Programs that people run every day, on a real mount over a real server.
//!
//! `cargo xtask test` installs what they need. A Debian package that is missing fails the test; what comes from PyPI is looked for where the
//! environment says, and without that a test prints that it is skipped.

use std::path::PathBuf;
use std::process::Command;

use sluicefs_core::FsConfig;
use sluicefs_s3_client::testing::MemoryBucket;
use tempfile::TempDir;

use crate::server::Served;

/// The interpreter with what `xtask` installed for these tests; a folder of wheels lies beside its environment.
const PYTHON: &str = "SLUICEFS_TEST_PYTHON";

/// A mount that programs run in, and a directory outside it, `$OUT`, that is also their home.
struct Place {
    store: MemoryBucket,
    served: Served,
    out: TempDir,
}

impl Place {
    fn new() -> Self {
        let store = MemoryBucket::new("models");
        let served = Served::writable(store.clone(), FsConfig::default());
        Self { store, served, out: TempDir::with_prefix("sluicefs-programs-").unwrap() }
    }

    /// Runs a script of bash in the mount.
    fn run(&self, script: &str) -> String {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(self.served.mount.path());
        command.env("OUT", self.out.path()).env("HOME", self.out.path());
        let done = command.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{script}\n{out}{err}");
        out.into_owned()
    }

    fn has(&self, key: &str) -> bool {
        self.store.object(key).is_some()
    }
}

/// Folders of small files, in `$OUT/tree`.
const TREE: &str = "mkdir -p $OUT/tree/{a,b}/sub; for d in $OUT/tree/{a,b,a/sub,b/sub}; do for n in 1 2 3 4 5; do seq $n 500 > $d/$n; done; done; ";

#[test]
fn git_clones_commits_packs_and_finds_no_fault() {
    let place = Place::new();
    place.run(&format!(
        "{TREE}
         git config --global user.name n; git config --global user.email e; git config --global safe.directory '*'
         git init -q $OUT/tree; git -C $OUT/tree add -A; git -C $OUT/tree commit -qm first
         git clone -q file://$OUT/tree clone; cd clone; git fsck --strict --no-progress
         echo more > new; git mv a/1 b/moved; git add -A; git commit -qm second
         git checkout -q -b branch HEAD~; test -e a/1; git checkout -q -; test ! -e a/1
         git gc -q; git fsck --strict --no-progress
         test -z \"$(git status --porcelain)\"; test $(git log --oneline | wc -l) = 2"
    ));
    assert!(place.has("clone/.git/HEAD") && !place.has("clone/.git/index.lock"));
}

#[test]
fn tar_unpacks_what_it_packed() {
    let place = Place::new();
    place.run(&format!(
        "{TREE} tar cf $OUT/t.tar -C $OUT tree; tar xf $OUT/t.tar; diff -r tree $OUT/tree
         tar czf t.tgz tree; mkdir again; tar xzf t.tgz -C again; diff -r again/tree $OUT/tree"
    ));
}

#[test]
fn rsync_transfers_nothing_the_second_time() {
    let place = Place::new();
    let second = place.run(&format!(
        "{TREE} rsync -a $OUT/tree .; diff -r tree $OUT/tree; rsync -a --itemize-changes $OUT/tree ."
    ));
    assert_eq!(second, "");
    let third =
        place.run("seq 9 > $OUT/tree/a/1; rsync -a --itemize-changes $OUT/tree .; diff -r tree $OUT/tree");
    assert_eq!(third.lines().count(), 1, "{third}");
}

#[test]
fn sqlite_keeps_its_integrity() {
    let place = Place::new();
    let said = place.run(
        "sqlite3 f.db 'create table t (n integer primary key, text); create index i on t (text);'
         for round in 1 2 3; do
           sqlite3 f.db \"with recursive c (x) as (select 1 union all select x + 1 from c where x < 500)
             insert into t (text) select 'row ' || x || ' of $round' from c; delete from t where n % 7 = 0;\"
         done
         sqlite3 f.db 'vacuum; pragma integrity_check; select count(*) from t;'",
    );
    assert_eq!(said.lines().next(), Some("ok"), "{said}");
    assert!(place.has("f.db") && !place.has("f.db-journal"));
}

#[test]
fn vim_edits_and_leaves_nothing_behind() {
    let place = Place::new();
    place.run("printf 'one\\ntwo\\n' > f; vim -es -u NONE -c '%s/two/three/' -c 'wq' f; test \"$(cat f)\" = $'one\\nthree'");
    assert_eq!(place.run("ls -A"), "f\n");
}

#[test]
fn files_with_holes_are_copied_and_written_over_in_place() {
    let place = Place::new();
    place.run(
        "truncate -s 3M f; printf head | dd of=f conv=notrunc status=none; printf tail >> f
         cp --sparse=always f g; cmp f g; cp --sparse=never f h; cmp f h; cp --reflink=auto f i; cmp f i
         printf middle | dd of=g bs=1 seek=1000000 conv=notrunc status=none
         test $(stat -c %s g) = $((3 * 1024 * 1024 + 4)); cmp -n 1000000 f g; ! cmp -s f g
         tail -c +1000001 g > $OUT/rest; head -c 6 $OUT/rest | grep -qx middle",
    );
}

/// A cache as the `huggingface_hub` library lays it out: content by its hash, a link to it for each revision, locks, and files renamed into place.
#[test]
fn a_cache_of_models_is_made_of_links_locks_and_renames() {
    let place = Place::new();
    place.run(
        "get () {
           exec 9> .locks/$1.lock; flock 9
           test -e models--o--m/blobs/$1 || {
             seq $2 > models--o--m/blobs/$1.incomplete; mv models--o--m/blobs/$1.incomplete models--o--m/blobs/$1; }
           ln -sfn ../../blobs/$1 models--o--m/snapshots/$3/$4; exec 9>&-
         }
         mkdir -p .locks models--o--m/{blobs,refs,snapshots/r1,snapshots/r2}
         get aaa 100 r1 config.json & get bbb 50000 r1 model.safetensors & get bbb 50000 r2 model.safetensors & wait
         get ccc 200 r2 config.json; printf r2 > models--o--m/refs/main
         cd models--o--m; now=snapshots/$(cat refs/main); test \"$(readlink $now/config.json)\" = ../../blobs/ccc
         test $(wc -l < $now/config.json) = 200; cmp snapshots/r1/model.safetensors $now/model.safetensors
         test -f $now/model.safetensors; rm -r snapshots/r1 blobs/aaa; test $(find . -type l | wc -l) = 2
         test -z \"$(find . -xtype l)\"",
    );
    assert!(place.has("models--o--m/blobs/bbb") && !place.has("models--o--m/blobs/bbb.incomplete"));
}

#[test]
fn pip_installs_into_a_directory() {
    let Some(python) = python() else { return };
    let (program, wheels) = (python.display(), python.ancestors().nth(3).unwrap().join("wheels"));
    let place = Place::new();
    place.run(&format!(
        "{program} -m pip install --quiet --disable-pip-version-check --no-index --no-deps --find-links {} --target site safetensors
         cd $OUT; PYTHONPATH={}/site {program} -c 'import safetensors; assert \"/site/\" in safetensors.__file__'",
        wheels.display(),
        place.served.mount.path().display(),
    ));
}

#[test]
fn tensors_are_saved_and_loaded() {
    let Some(python) = python() else { return };
    let place = Place::new();
    let program = "
import numpy, os
from safetensors.numpy import load_file, save_file
from safetensors import safe_open
dice = numpy.random.default_rng(1)
tensors = {f'layer.{n}': dice.random((256, 1024), dtype=numpy.float32) for n in range(12)}
for name in ('model.safetensors', 'model.safetensors'):
    save_file(tensors, name, metadata={'format': 'pt'})
    loaded = load_file(name)
    assert all((loaded[key] == tensors[key]).all() for key in tensors)
with safe_open('model.safetensors', framework='numpy') as file:
    assert (file.get_slice('layer.7')[3:5] == tensors['layer.7'][3:5]).all()
numpy.save('array.npy', tensors['layer.0'])
numpy.savez_compressed('arrays.npz', **tensors)
assert (numpy.load('array.npy', mmap_mode='r') == tensors['layer.0']).all()
assert (numpy.load('arrays.npz')['layer.5'] == tensors['layer.5']).all()
mapped = numpy.lib.format.open_memmap('mapped.npy', mode='w+', dtype='float32', shape=(512, 512))
mapped[7] = 42
mapped.flush()
assert numpy.load('mapped.npy')[7].sum() == 42 * 512";
    place.run(&format!("{} -c \"{program}\"", python.display()));
    assert!(place.has("model.safetensors"));
}

fn python() -> Option<PathBuf> {
    let python = std::env::var_os(PYTHON).map(PathBuf::from);
    if python.is_none() {
        println!("skipped: {PYTHON} does not name the interpreter; run this by `cargo xtask test`");
    }
    python
}
