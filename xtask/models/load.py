#!/usr/bin/env python3
"""Makes a model of safetensors shards, and loads one as inference servers do: every tensor of every shard, in the order of the names.

  load.py make DIR SHARDS LAYERS   64 MiB for each layer of each shard; prints the number of bytes
  load.py load DIR                 prints the seconds, as JSON; fails if a tensor is not the one that was made
"""
import json, os, sys, time

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

MIB = 1 << 20
# The writer puts wide types first, whatever the names: in the order of names a file is read in three places in turn.
PARTS = {"attention": ("F16", np.float16, 24 * MIB), "mlp": ("I8", np.int8, 32 * MIB), "norm": ("F32", np.float32, 8 * MIB)}


def mark(name):
    """What the first and the last 8 bytes of a tensor are."""
    h = 0xCBF29CE484222325
    for c in name.encode():
        h = (h ^ c) * 0x100000001B3 & (1 << 64) - 1
    return h.to_bytes(8, "little")


def make(directory, shards, layers):
    noise = np.random.default_rng(7).integers(0, 256, 96 * MIB, dtype=np.uint8)
    os.makedirs(directory, exist_ok=True)
    total, weights = 0, {}
    for k in range(1, shards + 1):
        file, tensors = f"model-{k:05d}-of-{shards:05d}.safetensors", {}
        for layer in range((k - 1) * layers, k * layers):
            for part, (_, dtype, size) in PARTS.items():
                name = f"model.layers.{layer}.{part}.weight"
                at = layer * 7919 * 8 % (len(noise) - size)
                data = noise[at:at + size].copy()
                data[:8] = data[-8:] = np.frombuffer(mark(name), dtype=np.uint8)
                tensors[name], weights[name] = data.view(dtype), file
        save_file(tensors, os.path.join(directory, file))
        total += os.path.getsize(os.path.join(directory, file))
    with open(os.path.join(directory, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": weights}, f)
    print(total)


def load(directory):
    began, count = time.monotonic(), 0
    with open(os.path.join(directory, "model.safetensors.index.json")) as f:
        weights = json.load(f)["weight_map"]
    for file in sorted(set(weights.values())):
        with safe_open(os.path.join(directory, file), framework="numpy") as f:
            for name in f.keys():
                data = f.get_tensor(name).view(np.uint8)
                if bytes(data[:8]) != mark(name) or bytes(data[-8:]) != mark(name):
                    sys.exit(f"{name} of {file} has wrong bytes")
                count += 1
    if count != len(weights):
        sys.exit(f"{count} tensors instead of {len(weights)}")
    print(json.dumps({"secs": time.monotonic() - began}))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        load(sys.argv[2])
