#!/usr/bin/env python3
"""Forty things that people do with everyday programs, done in a directory: everyday.py DIRECTORY [NAME...]

Prints a line for each, "pass NAME" or "FAIL NAME: reason", and exits with 1 if one failed. Each is a bash script that runs in an empty
directory of its own on the file system under test ($PWD), with a folder outside it ($OUT): a tree of small files ($OUT/tree, with a git
history), 20 MB of noise ($OUT/noise), and room for what a script needs.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile

LIMIT_SECS = 90

CASES = [
    # One file.
    ("cp a large file", "cp $OUT/noise f; cmp f $OUT/noise"),
    ("dd with fsync", "dd if=$OUT/noise of=f bs=128k conv=fsync status=none; cmp f $OUT/noise"),
    ("dd in odd blocks", "dd if=$OUT/noise of=f bs=99991 status=none; cmp f $OUT/noise"),
    ("append by the shell", "for n in 1 2 3; do echo $n >> f; done; test \"$(tr -d '\\n' < f)\" = 123"),
    ("replace by something shorter", "cp $OUT/noise f; cp /etc/hostname f; cmp f /etc/hostname"),
    ("replace through a temporary file", "echo old > f; echo new > f.part; mv -f f.part f; test \"$(cat f)\" = new; test ! -e f.part"),
    ("change bytes in the middle", "cp $OUT/noise f; cp $OUT/noise $OUT/f; for g in f $OUT/f; do printf HELLO | dd of=$g bs=1 seek=7654321 conv=notrunc status=none; done; cmp f $OUT/f"),
    ("edit in place", "cp $OUT/tree/a/1 f; sed -i 1s/^/first/ f; head -c 5 f | grep -q first"),
    ("cut and grow", "cp $OUT/noise f; truncate -s 1000 f; truncate -s 3000 f; test $(wc -c < f) = 3000; cmp -n 1000 f $OUT/noise; tail -c 2000 f | tr -d '\\0' | wc -c | grep -qx 0"),
    ("preallocate", "fallocate -l 123456 f; test $(stat -c %s f) = 123456"),
    ("read while it is written", "python3 -c 'f = open(\"f\", \"wb\"); f.write(b\"a\" * 70000); f.flush(); assert len(open(\"f\", \"rb\").read()) == 70000'"),
    ("read after it was removed", "cp $OUT/noise f; exec 3< f; rm f; cmp - $OUT/noise <&3"),
    ("read through a mapping", "cp $OUT/noise f; python3 -c 'import mmap; f = open(\"f\", \"rb\"); assert mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:] == open(\"'$OUT'/noise\", \"rb\").read()'"),
    ("write through a mapping", "head -c 9000 $OUT/noise > f; python3 -c 'import mmap; f = open(\"f\", \"r+b\"); m = mmap.mmap(f.fileno(), 0); m[4000:4004] = b\"MMAP\"; m.flush(); m.close(); f.close()'; test \"$(dd if=f bs=1 skip=4000 count=4 status=none)\" = MMAP"),
    ("compress and decompress", "gzip -c $OUT/noise > f.gz; gzip -t f.gz; zcat f.gz | cmp - $OUT/noise"),
    # Names and directories.
    ("move a file", "mkdir d; echo x > f; mv f d/g; test ! -e f; grep -q x d/g"),
    ("move a directory", "mkdir -p d/e; echo 1 > d/1; echo 2 > d/e/2; mv d n; test ! -e d; cat n/1 n/e/2 | wc -l | grep -qx 2"),
    ("make nested directories", "mkdir -p a/b/c; rmdir a/b/c; test -d a/b; test -z \"$(ls a/b)\""),
    ("strange names", "for n in 'two words' '50%' 'a+b=c&d' '#hash?' 'back\\slash' $'tab\\there' '...' '-n' '*' 'ÄÖ\U00010348'; do printf '%s\\n' \"$n\" > \"./$n\"; test \"$(cat \"./$n\")\" = \"$n\"; done; test $(ls -A | wc -l) = 10"),
    ("five hundred files", "mkdir d; for n in $(seq 500); do echo $n > d/$n; done; test $(ls d | wc -l) = 500; cat d/* | sort -n | cmp - <(seq 500)"),
    ("find, du and wc", "cp -r $OUT/tree/. .; test $(find . -type f | wc -l) = $(find $OUT/tree -type f | wc -l); du -s . ; find . -type f -print0 | xargs -0 cat | wc -c"),
    ("a symbolic link", "cp $OUT/noise f; ln -s f l; test \"$(readlink l)\" = f; cmp l $OUT/noise"),
    ("a hard link", "echo x > f; ln f g; cmp f g; test $(stat -c %h f) = 2"),
    # Attributes.
    ("make executable and run", "printf '#!/bin/sh\\necho ran\\n' > f; chmod +x f; test \"$(./f)\" = ran"),
    ("set a time", "echo x > f; touch -d '1999-12-31 23:59:58 UTC' f; test $(stat -c %Y f) = 946684798"),
    ("an extended attribute", "echo x > f; setfattr -n user.colour -v blue f; test \"$(getfattr --only-values -n user.colour f)\" = blue"),
    ("lock a file", "flock -n f -c 'flock -n f true && exit 1 || exit 0'"),
    # Trees.
    ("cp -r", "cp -r $OUT/tree t; diff -r t $OUT/tree"),
    ("cp -a", "cp -a $OUT/tree t; diff -r t $OUT/tree; test $(stat -c %Y t/a/1) = $(stat -c %Y $OUT/tree/a/1)"),
    ("rm -r", "cp -r $OUT/tree t; rm -r t; test ! -e t"),
    ("tar into an archive", "tar cf t.tar -C $OUT tree; tar tf t.tar | wc -l | grep -qx $(find $OUT/tree | wc -l)"),
    ("tar out of an archive", "tar cf $OUT/t.tar -C $OUT tree; tar xf $OUT/t.tar; diff -r tree $OUT/tree"),
    ("zip", "(cd $OUT && zip -qr - tree) > t.zip; python3 -m zipfile -t t.zip; python3 -m zipfile -e t.zip x; diff -r x/tree $OUT/tree"),
    ("rsync", "rsync -a $OUT/tree .; diff -r tree $OUT/tree; test -z \"$(rsync -ai $OUT/tree .)\""),
    ("rsync in place", "rsync -r --inplace --no-whole-file $OUT/noise .; cp $OUT/noise $OUT/noise.new; printf ZZ | dd of=$OUT/noise.new bs=1 seek=5000000 conv=notrunc status=none; cp $OUT/noise f; rsync --inplace --no-whole-file --ignore-times $OUT/noise.new f; cmp f $OUT/noise.new"),
    # Programs that ask for much.
    ("git", "git clone -q file://$OUT/tree c; cd c; git fsck --no-progress; echo more > new; git add new; git -c user.name=n -c user.email=e commit -qm more; test -z \"$(git status --porcelain)\"; git log --oneline | wc -l | grep -qx 2"),
    ("sqlite", "sqlite3 f.db 'create table t (n); insert into t values (20); insert into t values (22);'; sqlite3 f.db 'update t set n = n + 0; select sum(n) from t; pragma integrity_check;' | tr '\\n' ' ' | grep -qx '42 ok '"),
    ("sqlite with a write-ahead log", "sqlite3 f.db 'pragma journal_mode = wal; create table t (n); insert into t values (42);'; test \"$(sqlite3 f.db 'select n from t')\" = 42"),
    ("a Python environment", "python3 -m venv --without-pip v; v/bin/python -c 'import sys; assert sys.prefix != sys.base_prefix'"),
    ("eight writers at once", "for n in 1 2 3 4 5 6 7 8; do cp $OUT/noise $n & done; wait; for n in 1 2 3 4 5 6 7 8; do cmp $n $OUT/noise; done"),
]


def prepare(out):
    """What the scripts copy from: the same for every run."""
    dice = random.Random(1)
    for folder in "abc":
        for sub in ("", "/sub"):
            path = f"{out}/tree/{folder}{sub}"
            os.makedirs(path)
            for n in range(1, 13):
                with open(f"{path}/{n}", "w", encoding="ascii") as file:
                    file.write("".join(f"{dice.getrandbits(64):x}\n" for _ in range(dice.randrange(1, 200))))
    with open(f"{out}/noise", "wb") as file:
        file.write(dice.randbytes(20_000_000))
    for args in (["init", "-q"], ["add", "-A"], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", f"{out}/tree", *args], check=True)


def failure(script, place, out):
    """Why the script fails in `place`; None if it does not."""
    os.mkdir(place)
    command = ["timeout", "--kill-after=10", str(LIMIT_SECS), "bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        command, cwd=place, env={**os.environ, "OUT": out}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )
    if done.returncode == 0:
        return None
    if done.returncode in (124, 137):
        return f"not done within {LIMIT_SECS} seconds"
    said = done.stdout.decode(errors="replace").strip().splitlines()
    return said[-1][:150] if said else f"exit code {done.returncode}"


def main():
    directory, names = sys.argv[1], sys.argv[2:]
    cases = [case for case in CASES if not names or case[0] in names]
    failed = 0
    # Where it is does not matter, but it must not lie on the file system under test.
    with tempfile.TemporaryDirectory(prefix="everyday-") as out:
        prepare(out)
        for number, (name, script) in enumerate(cases):
            place = f"{directory}/everyday-{number}"
            reason = failure(script, place, out)
            print(f"pass {name}" if reason is None else f"FAIL {name}: {reason}", flush=True)
            failed += reason is not None
            shutil.rmtree(place, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
