"""Mounts of one program or another for as long as something is measured, and the kernel's caches emptied between."""
import os, shlex, shutil, signal, subprocess, tempfile, time

KEYS = {"AWS_ACCESS_KEY_ID": "sim", "AWS_SECRET_ACCESS_KEY": "simsecret", "AWSACCESSKEYID": "sim", "AWSSECRETACCESSKEY": "simsecret",
        "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


def drop_caches():
    """Empties the kernel's caches; every program then begins with the same nothing."""
    subprocess.run(["sync", "--file-system", tempfile.gettempdir()], check=True)
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


class Mount:
    """One mount in the foreground, by the command line of a program. The cache directory is the caller's, and outlives it."""

    def __init__(self, template, url, args, cache):
        self.home = tempfile.mkdtemp(prefix="mounts-", dir=args.workdir)
        self.path = self.home + "/mnt"
        os.mkdir(self.path)
        command = template.format(mnt=self.path, cache=cache, bucket="bench", endpoint=url, bin=args.bin)
        self.log = open(self.home + "/log", "w+")
        self.daemon = subprocess.Popen(shlex.split(command), env={**os.environ, **KEYS}, stdout=self.log, stderr=self.log, start_new_session=True)
        end = time.monotonic() + 20
        while not os.path.ismount(self.path):
            if self.daemon.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                said = self.log.read()[-300:].replace("|", " ").replace("\n", " ")
                self.close()
                raise RuntimeError(f"does not mount: {said}")
            time.sleep(0.02)

    def kill(self):
        """Kills the program, as a crash would."""
        os.killpg(self.daemon.pid, signal.SIGKILL)
        self.daemon.wait()
        self.close()

    def close(self):
        # The mount of a killed program is one too, though the system does not show it as one.
        for _ in range(40):
            if subprocess.run(["umount", self.path], stderr=subprocess.DEVNULL).returncode == 0 or self.daemon.poll() is not None:
                break
            time.sleep(0.25)
        subprocess.run(["umount", "-l", self.path], stderr=subprocess.DEVNULL)
        try:
            self.daemon.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.daemon.pid, signal.SIGKILL)
            self.daemon.wait()
        self.log.close()
        shutil.rmtree(self.home, ignore_errors=True)
