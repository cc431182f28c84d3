#!/usr/bin/env python3
"""Damages the disk caches of S3 mounts, and says what their readers got: right bytes, wrong bytes, or errors.

One row per program. The damage:
  flips, cuts, swaps  so many random bytes of cache files changed, files cut short, and files' contents exchanged, between two reads
  killed              kill -9 at random moments of filling, then a new mount
  two                 two mounts fill one directory, which is limited to 64 MiB where the program has a limit
  64 MiB disk         the cache lies on a full disk of 64 MiB
A number counts files out of all that were read; "-" says that the program did not get that far.
"""
import argparse, os, random, shutil, signal, subprocess, sys, tempfile, threading, time

from mounts import KEYS, Mount, drop_caches

MIB = 1 << 20
FILES = {f"small/{i:02d}": MIB for i in range(48)} | {"large": 96 * MIB}


class Read(Mount):
    """A mount whose files are read and compared."""

    def read(self, data):
        """Reads all files past the kernel's caches; returns the numbers of right, wrong and refused ones."""
        drop_caches()
        count = [0, 0, 0]
        for name, expected in data.items():
            try:
                with open(f"{self.path}/{name}", "rb", buffering=0) as f:
                    found = b"".join(iter(lambda: f.read(MIB), b""))
                count[0 if found == expected else 1] += 1
            except OSError:
                count[2] += 1
        return count


def cache_files(cache):
    found = (os.path.join(folder, name) for folder, _, names in os.walk(cache) for name in names)
    return [path for path in found if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path)]


def size_of(cache):
    """What the files of the cache take, in MiB."""
    return sum(os.stat(path).st_blocks * 512 for path in cache_files(cache)) // MIB


def flip(cache, chance):
    path = chance.choice(cache_files(cache))
    with open(path, "r+b") as f:
        at = chance.randrange(os.path.getsize(path))
        f.seek(at)
        old = f.read(1)
        f.seek(at)
        f.write(bytes([old[0] ^ 1 << chance.randrange(8)]))


def cut(cache, chance):
    path = chance.choice(cache_files(cache))
    os.truncate(path, chance.randrange(os.path.getsize(path)))


def swap(cache, chance):
    files = cache_files(cache)
    if len(files) > 1:
        one, other = chance.sample(files, 2)
        os.rename(one, one + "~")
        os.rename(other, one)
        os.rename(one + "~", other)


def damaged(damage, template, url, args, cache, data, chance):
    """Damages the cache between reads, in a living mount and before the next."""
    total, rounds = [0, 0, 0], max(1, args.damages // args.at_once)
    mount = Read(template, url, args, cache)
    try:
        mount.read(data)
        for n in range(rounds):
            if n % 4 == 3:
                mount.close()
            for _ in range(args.at_once):
                if cache_files(cache):
                    damage(cache, chance)
            if n % 4 == 3:
                mount = Read(template, url, args, cache)
            total = [a + b for a, b in zip(total, mount.read(data))]
    finally:
        mount.close()
    return total


def killed(template, url, args, cache, data, chance):
    total = [0, 0, 0]
    for _ in range(args.kills):
        mount = Read(template, url, args, cache)
        reader = threading.Thread(target=mount.read, args=(data,))
        reader.start()
        time.sleep(chance.uniform(0.02, 0.6))
        mount.kill()
        reader.join()
        mount = Read(template, url, args, cache)
        try:
            total = [a + b for a, b in zip(total, mount.read(data))]
        finally:
            mount.close()
    return total


def two(template, url, args, cache, data, _):
    first = Read(template, url, args, cache)
    try:
        second = Read(template, url, args, cache)
        try:
            counts = []
            readers = [threading.Thread(target=lambda m=mount: counts.append(m.read(data))) for mount in (first, second)]
            [reader.start() for reader in readers]
            [reader.join() for reader in readers]
            return [sum(column) for column in zip(*counts)] + [size_of(cache)]
        finally:
            second.close()
    finally:
        first.close()


def small_disk(template, url, args, cache, data, _):
    image = cache + ".img"
    with open(image, "wb") as f:
        f.truncate(64 * MIB)
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, cache], check=True)
        try:
            os.makedirs(cache + "/c", mode=0o700)
            mount = Read(template, url, args, cache + "/c")
            try:
                return [a + b for a, b in zip(mount.read(data), mount.read(data))]
            finally:
                mount.close()
        finally:
            subprocess.run(["umount", cache], check=True)
    finally:
        os.remove(image)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--driver", required=True, help="the folder with peers.py")
    p.add_argument("--bin", required=True, help="the folder with the other programs")
    p.add_argument("--program", required=True, help="our program")
    p.add_argument("--peer", action="append", default=[])
    p.add_argument("--damages", type=int, default=200, help="of each kind")
    p.add_argument("--at-once", type=int, default=5)
    p.add_argument("--kills", type=int, default=10)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--workdir", default=tempfile.gettempdir())
    args = p.parse_args()
    sys.path.insert(0, args.driver)
    import peers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    templates = {
        "sluicefs": f"{args.program} mount --foreground --endpoint-url {{endpoint}} --force-path-style --region us-east-1"
                    " --cache {cache} --max-cache-size 64 {bucket} {mnt}",
        "mountpoint": peers.PEERS["mountpoint"].replace("--no-log", "--no-log --cache {cache} --max-cache-size 64"),
        "rclone": peers.PEERS["rclone-full"].replace("--cache-dir", "--vfs-cache-max-size 64M --cache-dir"),
        "geesefs": peers.PEERS["geesefs"].replace("{bucket} {mnt}", "--cache {cache} {bucket} {mnt}"),
        "s3fs": peers.PEERS["s3fs"].replace("tmpdir={cache}", "tmpdir={cache},use_cache={cache}"),
    }
    cases = {"flips": lambda *a: damaged(flip, *a), "cuts": lambda *a: damaged(cut, *a), "swaps": lambda *a: damaged(swap, *a),
             "killed": killed, "two": two, "64 MiB disk": small_disk}
    home = tempfile.mkdtemp(prefix="caches-", dir=args.workdir)
    server = peers.Server(args.bin + "/s3sim", "raw", 9914)
    try:
        peers.get(server.url + "/_config?discard=false")
        chance = random.Random(args.seed)
        data = {name: chance.randbytes(size) for name, size in FILES.items()}
        for name, content in data.items():
            os.makedirs(os.path.dirname(f"{home}/data/{name}"), exist_ok=True)
            with open(f"{home}/data/{name}", "wb") as f:
                f.write(content)
        subprocess.run([args.bin + "/s5cmd", "--endpoint-url", server.url, "cp", home + "/data/", "s3://bench/"], check=True, stdout=subprocess.DEVNULL,
                       env={**os.environ, **KEYS})
        print("| program | " + " | ".join(cases) + " |\n|---" + "|---" * len(cases) + "|")
        for program in ["sluicefs", *args.peer]:
            cells = []
            for case in cases.values():
                cache = tempfile.mkdtemp(dir=home)
                try:
                    right, wrong, refused, *mib = case(templates[program], server.url, args, cache, data, chance)
                    cells.append(f"{right} right, {wrong} wrong, {refused} refused" + "".join(f", {n} MiB on disk" for n in mib))
                except RuntimeError as error:
                    cells.append(f"- ({error})")
                finally:
                    shutil.rmtree(cache, ignore_errors=True)
            print(f"| {program} | " + " | ".join(cells) + " |", flush=True)
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
