#!/usr/bin/env python3
"""Measures how long a model takes to load from a mount, cold and warm, side by side with other mounts, a download and the local disk.

One JSON line per program, case and run, and a table of medians at the end. Each run has a mount of its own. Cases:
  cold    one process loads all shards; nothing is cached anywhere
  four    four processes load all shards at once; "fetched" says how often each byte was fetched
  warm    loads again from the mount's --cache, on a new mount; the kernel's caches were dropped
  hot     the same once more on that mount, and then on a new mount whose files the kernel still has in memory
  killed  as warm, after the mount that had filled the cache was killed
  fill    the first load with a --cache, to compare with cold
  warm-up 10,000 files of 1 kB, and one object of 8 GiB, brought to the disk by "sluicefs warm" and by s5cmd
The driver (peers.py) gives the other programs' command lines and the S3 emulator.
"""
import argparse, json, os, shutil, signal, statistics, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor

from mounts import KEYS, Mount, drop_caches

HERE = os.path.dirname(os.path.abspath(__file__))
LOAD = [sys.executable, os.path.join(HERE, "load.py")]
# The emulator makes them up as it sends them.
MANY, LARGE = "ls10k/", "huge/0"
CASES = ["cold", "four", "warm", "warm-up"]
DISK_CACHES = {"sluicefs", "rclone-full", "mountpoint-cache", "s3fs-cache", "geesefs-cache"}


def load(directory, processes=1):
    """Loads the model in so many processes at once; returns the seconds of the slowest."""
    def one(_):
        out = subprocess.run([*LOAD, "load", directory], capture_output=True, text=True)
        if out.returncode:
            raise RuntimeError(f"loading from {directory}: {out.stderr.strip()[-300:]}")
        return json.loads(out.stdout)["secs"]
    began = time.monotonic()
    with ThreadPoolExecutor(processes) as pool:
        slowest = max(pool.map(one, range(processes)))
    return slowest if processes == 1 else time.monotonic() - began


class Loaded(Mount):
    """A mount that a model is loaded from."""

    def __init__(self, peers, template, server, args, cache):
        self.peers, self.server = peers, server
        super().__init__(template, server.url, args, cache)

    def load(self, processes=1):
        """Loads the model once, and says what it cost."""
        self.peers.get(self.server.url + "/_reset")
        before = self.peers.cpu(self.daemon.pid)
        secs = load(self.path + "/model", processes)
        stats = json.loads(self.peers.get(self.server.url + "/_stats"))
        return {"secs": round(secs, 3), "cpu_s": round(self.peers.cpu(self.daemon.pid) - before, 2),
                "rss_mb": self.peers.peak_rss(self.daemon.pid), "bytes_out": stats["bytes_out"], "requests": stats["total"]}


def on_mount(peers, template, server, args, cache, processes=1):
    """One load on a mount of its own, nothing in the kernel's caches."""
    drop_caches()
    mount = Loaded(peers, template, server, args, cache)
    try:
        return mount.load(processes)
    finally:
        mount.close()


def cached(peers, template, server, args):
    """The cases of a program that keeps what was read on disk."""
    cache = tempfile.mkdtemp(prefix="models-cache-", dir=args.workdir)
    try:
        yield "fill", on_mount(peers, template, server, args, cache)
        drop_caches()
        mount = Loaded(peers, template, server, args, cache)
        try:
            yield "warm", mount.load()
            yield "hot", mount.load()
        finally:
            mount.close()
        # The next mount finds the files of the cache in the kernel's memory.
        mount = Loaded(peers, template, server, args, cache)
        try:
            yield "hot after remount", mount.load()
        finally:
            mount.kill()
        yield "killed", on_mount(peers, template, server, args, cache)
        shutil.rmtree(cache), os.mkdir(cache)
        drop_caches()
        mount = Loaded(peers, template, server, args, cache)
        try:
            mount.load()
        finally:
            mount.kill()
        yield "killed after filling", on_mount(peers, template, server, args, cache)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def local(args, model):
    """The same files on the local disk."""
    drop_caches()
    yield "warm", {"secs": round(load(model), 3)}
    yield "hot", {"secs": round(load(model), 3)}


def copy(args, server, source, into):
    """Copies by a program that does nothing else; returns the seconds."""
    began = time.monotonic()
    subprocess.run([args.bin + "/s5cmd", "--endpoint-url", server.url, "cp", source, into], check=True,
                   env={**os.environ, **KEYS}, stdout=subprocess.DEVNULL)
    return {"secs": round(time.monotonic() - began, 3)}


def in_new_directory(parent, work):
    """What `work` returns for a directory that is there for it alone."""
    directory = tempfile.mkdtemp(prefix="models-", dir=parent)
    try:
        drop_caches()
        return work(directory)
    finally:
        shutil.rmtree(directory)


def warm_up(args, server, source, cache):
    """Brings objects into a disk cache; returns the seconds."""
    began = time.monotonic()
    subprocess.run([args.program, "warm", "s3://bench/" + source, "--cache", cache, "--endpoint-url", server.url, "--force-path-style",
                    "--region", "us-east-1"], check=True, env={**os.environ, **KEYS}, stdout=subprocess.DEVNULL)
    return {"secs": round(time.monotonic() - began, 3)}


def cases_of(program, peers, templates, server, args, model):
    """What is run of one program: pairs of a case and its figures."""
    if program == "local":
        if "warm" in args.case:
            yield from local(args, model)
    elif program == "s5cmd":
        if "cold" in args.case:
            yield "cold", in_new_directory("/dev/shm", lambda into: copy(args, server, "s3://bench/model/*", into + "/"))
        if "warm-up" in args.case:
            yield "warm-up many", in_new_directory(args.workdir, lambda into: copy(args, server, f"s3://bench/{MANY}*", into + "/"))
            yield "warm-up large", in_new_directory(args.workdir, lambda into: copy(args, server, f"s3://bench/{LARGE}", into + "/"))
    else:
        template, nowhere = templates[program], tempfile.mkdtemp(prefix="models-cache-", dir=args.workdir)
        try:
            for case, processes in ("cold", 1), ("four", 4):
                if case in args.case:
                    plain = template.replace(f"--cache {{cache}} {args.cache_flags}", "")
                    yield case, on_mount(peers, plain, server, args, nowhere, processes)
        finally:
            shutil.rmtree(nowhere, ignore_errors=True)
        if "warm" in args.case and program in DISK_CACHES:
            yield from cached(peers, template, server, args)
        if "warm-up" in args.case and program == "sluicefs":
            yield "warm-up many", in_new_directory(args.workdir, lambda cache: warm_up(args, server, MANY, cache))
            yield "warm-up large", in_new_directory(args.workdir, lambda cache: warm_up(args, server, LARGE, cache))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--driver", required=True, help="the folder with peers.py")
    p.add_argument("--bin", required=True, help="the folder with the other programs")
    p.add_argument("--program", required=True, help="our program")
    p.add_argument("--flags", default="", help="more flags for our mount")
    p.add_argument("--cache-flags", default="")
    p.add_argument("--peer", action="append", default=[])
    p.add_argument("--net", action="append", default=[])
    p.add_argument("--case", action="append", default=[], choices=CASES)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--shards", type=int, default=4)
    p.add_argument("--layers", type=int, default=16, help="of 64 MiB each, in each shard")
    p.add_argument("--nice", type=int, default=0)
    p.add_argument("--workdir", default=tempfile.gettempdir())
    args = p.parse_args()
    args.case = args.case or CASES
    sys.path.insert(0, args.driver)
    import peers
    # By way of the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    peers.OBJECTS.append(f"{LARGE}={8 << 30}")
    os.nice(args.nice)
    results = {}
    home = tempfile.mkdtemp(prefix="models-", dir=args.workdir)
    ours = f"{args.program} mount --foreground --endpoint-url {{endpoint}} --force-path-style --region us-east-1" \
           f" --cache {{cache}} {args.cache_flags} {args.flags} {{bucket}} {{mnt}}"
    templates = {"sluicefs": ours, **peers.PEERS}
    templates["mountpoint-cache"] = templates["mountpoint"].replace("--no-log", "--no-log --cache {cache}")
    templates["s3fs-cache"] = templates["s3fs"].replace("tmpdir={cache}", "tmpdir={cache},use_cache={cache}")
    templates["geesefs-cache"] = templates["geesefs"].replace("{bucket} {mnt}", "--cache {cache} {bucket} {mnt}")
    try:
        size = int(subprocess.run([*LOAD, "make", home + "/model", str(args.shards), str(args.layers)],
                                  check=True, capture_output=True, text=True).stdout)
        for net in args.net or ["raw"]:
            server = peers.Server(args.bin + "/s3sim", net, 9913)
            try:
                peers.get(server.url + "/_config?discard=false")
                peers.get(server.url + "/_config?first-byte-latency-ms=0&per-connection-mbps=0")
                copy(args, server, home + "/model/", "s3://bench/model/")
                peers.get(server.url + "/_config?" + restore(peers.NETS[net]))
                programs = ["sluicefs", *args.peer, "s5cmd", "local"]
                for run in range(args.runs):
                    for turn in range(len(programs)):
                        program = programs[(run + turn) % len(programs)]
                        measure(results, (net, program, run), size, cases_of(program, peers, templates, server, args, home + "/model"))
            finally:
                server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(table(results))


def restore(flags):
    """The settings of a net, as the emulator takes them while it runs."""
    return "&".join(f"{name.lstrip('-')}={value}" for name, value in zip(flags[::2], flags[1::2]))


def measure(results, about, size, cases):
    """Runs the cases of one program, prints each, and adds it to the results."""
    net, program, run = about
    while True:
        try:
            case, figures = next(cases)
        except StopIteration:
            return
        except (RuntimeError, subprocess.SubprocessError) as error:
            print(json.dumps({"net": net, "program": program, "run": run, "error": str(error)}), flush=True)
            return
        if "bytes_out" in figures:
            figures["fetched"] = round(figures.pop("bytes_out") / size, 3)
        print(json.dumps({"net": net, "case": case, "program": program, "run": run, **figures}), flush=True)
        results.setdefault((net, case), {}).setdefault(program, []).append(figures)


def table(results):
    """Medians in Markdown; the ratio says how many times our seconds a program takes."""
    lines = ["| net | case | program | seconds | least to most | ratio | CPU s | peak MB | fetched |", "|---" * 9 + "|"]
    for (net, case), programs in results.items():
        def median(program, key):
            values = [figures[key] for figures in programs.get(program, []) if key in figures]
            return statistics.median(values) if values else None
        ours = median("sluicefs", "secs")
        for program, runs in programs.items():
            secs = [figures["secs"] for figures in runs]
            ratio = f"{statistics.median(secs) / ours:.2f}" if ours and program != "sluicefs" else ""
            rest = " | ".join("" if median(program, key) is None else f"{median(program, key):g}" for key in ("cpu_s", "rss_mb", "fetched"))
            lines.append(f"| {net} | {case} | {program} | {statistics.median(secs):.2f} | {min(secs):.2f} to {max(secs):.2f} | {ratio} | {rest} |")
    return "\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
