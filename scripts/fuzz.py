#!/usr/bin/env python3
"""Damages files of every kind that saddle reads, and checks how the program takes it.

    scripts/fuzz.py [--saddle FILE] [--files N] [--seed S] [--only READER,..] [--keep DIR]

For each reader valid files are made with the program itself; copies get flipped bits, random bytes, cuts,
spliced lengths, hostile text and hostile headers, and the program reads them. It must end with 0, or with 1
and exactly one line `error: ...` of less than 3,000 characters, none of them a control character, and take
less than 500 MB. The first file of each reader is undamaged. A table is printed; the exit status is 1 if
anything else happened, and --keep keeps the files that did it. A damaged setting may ask for a long job:
such a run is stopped and counted apart.
"""
import argparse
import concurrent.futures
import io
import json
import os
import pathlib
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 20
MOST_MEMORY = 500 << 20
ADDRESS_SPACE = 4 << 30
LONGEST_LINE = 3000
EXTREMES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**60, 2**63 - 1, 2**63, 2**64 - 1]
HOSTILE = ["", "\x1b]0;pwn\x07", "a\nb\r\n", "\u202e\u2028", "\0", "x" * 200_000, "\x1b[31m" * 20_000,
           "../../etc", "é" * 3000]
FILE = "--dataset file --data d.npz --batch 16 -q"
RESUME = "train --resume run -q"
PROTOCOL = f"eval -w w.safetensors -a autoattack:fgsm,pgd2 --eps 0.5 {FILE}"
NET = "--model resnet-mini --method standard --epochs 1 --select last --batch 16 -q"


# The formats

def npy(descr, shape, data, header=None):
    header = header or f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    header = (header + " " * (63 - (len(header) + 10) % 64) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) & 0xFFFF) + header + data


def npz(arrays, compressed=True):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, content in arrays.items():
            archive.writestr(name + ".npy", content)
    return out.getvalue()


def safetensors(tensors, metadata=None):
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def jpeg():
    """A grey image of 64x64 pixels: every block is two Huffman codes of one bit."""
    segment = lambda marker, content: bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    table = lambda kind: segment(0xC4, bytes([kind, 1]) + bytes(15) + b"\0")
    return (b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64))
            + segment(0xC0, struct.pack(">BHHB", 8, 64, 64, 1) + b"\x01\x11\0") + table(0x00) + table(0x10)
            + segment(0xDA, b"\x01\x01\0\0\x3f\0") + bytes(16) + b"\xff\xd9")


def python_batch(rng, images):
    """What Python 2 wrote for a batch of CIFAR-10, opcode by opcode."""
    text = lambda s: b"U" + bytes([len(s)]) + s.encode()
    labels = b"](" + b"".join(b"K" + bytes([rng.randrange(10)]) for _ in range(images)) + b"e"
    data = rng.randbytes(3072 * images)
    array = (b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
             + b"K" + bytes([images]) + b"M" + struct.pack("<H", 3072)
             + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
             + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
             + struct.pack("<I", len(data)) + data + b"tb")
    return b"\x80\x02}q\x01(" + text("labels") + labels + text("data") + array + b"u."


# The damage

def damage_bytes(rng, data):
    data = bytearray(data)
    at = rng.randrange(len(data)) if data else 0
    # Headers are short, and most of what can go wrong is in them.
    if rng.random() < 0.5:
        at = min(at, rng.randrange(400))
    kind = rng.randrange(8)
    if kind == 0:
        for _ in range(rng.randint(1, 8)):
            place = rng.randrange(max(len(data), 1)) if rng.random() < 0.5 else at
            if place < len(data):
                data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at:at + rng.randint(1, 64)] = rng.randbytes(rng.randint(1, 64))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        data += rng.choice([b"\0", b"\n", rng.randbytes(100), bytes(data[:1000])])
    elif kind == 4:
        del data[at:at + rng.randint(1, 200)]
    elif kind == 5:
        data[at:at] = data[at:at + rng.randint(1, 200)]
    elif kind == 6:
        width = rng.choice([1, 2, 4, 8])
        value = rng.choice(EXTREMES) & (256**width - 1)
        data[at:at + width] = value.to_bytes(width, rng.choice(["little", "big"]))
    else:
        numbers = list(re.finditer(rb"\d+", bytes(data[:20_000])))
        if numbers:
            found = rng.choice(numbers)
            data[found.start():found.end()] = str(rng.choice([-1, *EXTREMES])).encode()
    return bytes(data)


def hostile_value(rng):
    return rng.choice([None, True, -1, 0.5, 1e308, [], {}, [[]], [2**53] * 4, *EXTREMES, *HOSTILE])


def damage_json(rng, value):
    """`value` with one of its parts replaced, removed, renamed or doubled."""
    inner = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    if not inner or rng.random() < 0.15:
        if isinstance(value, str) and rng.random() < 0.5:
            return value + rng.choice(HOSTILE)
        if isinstance(value, list) and rng.random() < 0.5:
            return value * 2
        return hostile_value(rng)
    key = rng.choice(inner)
    value = dict(value) if isinstance(value, dict) else list(value)
    kind = rng.random()
    if kind < 0.15:
        del value[key]
    elif kind < 0.3 and isinstance(value, dict):
        value[rng.choice([key + "x", *HOSTILE])] = value.pop(key)
    else:
        value[key] = damage_json(rng, value[key])
    return value


def damage_safetensors(rng, data):
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    for _ in range(rng.choice([1, 1, 1, 2])):
        header = damage_json(rng, header)
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode(errors="replace")
    if rng.random() < 0.03:
        text = b'{"a":' + b"[" * rng.choice([100, 100_000]) + b"}"
    return struct.pack("<Q", len(text)) + text + data[8 + size:]


def damage_text(rng, data):
    """A word or a number of a text is replaced by a hostile one."""
    words = list(re.finditer(rb"[A-Za-z_]+|[-\d.]+|'[^']*'|\"[^\"]*\"", data[:20_000]))
    if not words:
        return rng.choice(HOSTILE).encode()
    found = rng.choice(words)
    others = ["-1", "nan", "'", '"', "(", "()", "(2,)", "|O", ">i8", "["]
    value = rng.choice([*HOSTILE, *map(str, EXTREMES), *others])
    return data[:found.start()] + value.encode() + data[found.end():]


def damage_npy(rng, data):
    end = data.index(b"\n") + 1
    header = damage_text(rng, data[10:end]).decode(errors="replace")
    return npy("", "", data[end:], header)


def damage_npz(rng, data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        arrays = {name[:-4]: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(arrays))
    kind = rng.random()
    if kind < 0.1:
        arrays[rng.choice(HOSTILE) or "e"] = arrays.pop(name)
    elif kind < 0.15:
        # A bomb: more than a thousand times its size.
        count = rng.choice([40_000_000, 100_000_000])
        arrays[name] = npy("|u1", f"({count // 64}, 8, 8, 1)", bytes(count))
    else:
        arrays[name] = rng.choice([damage_npy, damage_bytes])(rng, arrays[name])
    return npz(arrays, rng.random() < 0.5)


def damage_records(rng, data):
    return json.dumps(damage_json(rng, json.loads(data))).encode()


def damage_pickle(rng, data):
    opcodes = [b"h\x01", b"q\x05", b"(", b"t", b"R", b"b", b"N" * 1000, b"cos\nsystem\n", b"]", b".", b"\x80\x05",
               b"c\x1b]0;pwn\x07\nx\n", b"U\xff", b"T\xff\xff\xff\xff", b"X\xff\xff\xff\x7f", b"J\xff\xff\xff\x7f"]
    encode = b"c_codecs\nencode\nX\x03\0\0\0a\xc3\xa9U\x06latin1\x86R"
    at = rng.randrange(min(len(data), 300))
    if rng.random() < 0.1:
        # One string of 250 kB, converted 800 times.
        string = b"X\x90\xd0\x03\0" + "é".encode() * 125_000 + b"q\x00"
        return b"\x80\x02" + string + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 800
    if rng.random() < 0.1:
        return pickle.dumps({"labels": [1], "data": bytes(3072)}, protocol=rng.randrange(6))
    return data[:at] + rng.choice([*opcodes, encode]) * rng.choice([1, 1, 50]) + data[at + rng.choice([0, 1, 5]):]


# The readers

class Reader:
    def __init__(self, name, folder, files, command, *damages):
        self.name, self.folder, self.files, self.command = name, folder, files, command
        self.damages = [damage_bytes, *damages]


def readers():
    table, zipped, records = damage_safetensors, damage_npz, damage_records
    of_w = "eval -w w.safetensors --attack fgsm"
    of_c = "eval -w c.safetensors --dataset cifar10 --attack fgsm -q --data"
    crafted = "attack -w w.safetensors --attack fgsm --out o -q --data"
    step = "check-step --method pgd-at --model resnet-mini --weights w.safetensors --out o --batch x.safetensors"
    tiny = ["wnids.txt", "val/val_annotations.txt", "words.txt", "train/n1/images/a.JPEG", "val/images/v.JPEG",
            ".saddle-tiny-imagenet.bin"]
    return [
        Reader("weights, eval", "w", ["w.safetensors"], f"{of_w} {FILE}", table, table),
        Reader("weights, train --init", "w", ["w.safetensors"],
               f"train {FILE} {NET} --init w.safetensors --out r", table, table),
        Reader("state checkpoint", "run", ["run/checkpoints/state.safetensors"], RESUME, table, table),
        Reader("run.json, resume", "run", ["run/run.json"], RESUME, records, damage_text),
        Reader("run.json, eval", "run", ["run/run.json"], "eval -w run --attack fgsm -q", records, damage_text),
        Reader("metrics.jsonl, log.csv", "run", ["run/metrics.jsonl", "run/log.csv"], RESUME, damage_text),
        Reader("recipe", "recipe", ["r.toml"], f"train ./r.toml {FILE} --out r", damage_text, damage_text),
        Reader("data, npz", "w", ["d.npz"], f"{of_w} {FILE}", zipped, zipped),
        Reader("data, safetensors", "w", ["x.safetensors"],
               f"{of_w} --dataset file --data x.safetensors -q", table, table),
        Reader("attack, npz", "w", ["x.npz"], f"{crafted} x.npz", zipped, zipped),
        Reader("attack, safetensors", "w", ["x.safetensors"], f"{crafted} x.safetensors", table, table),
        Reader("check-step", "w", ["x.safetensors"], step, table, table),
        Reader("CIFAR binary", "cifar", ["bin/data_batch_1.bin", "bin/test_batch.bin", "bin/batches.meta.txt"],
               f"{of_c} bin"),
        Reader("CIFAR pickle", "cifar", ["py/data_batch_1", "py/test_batch"], f"{of_c} py", damage_pickle,
               damage_pickle),
        Reader("CIFAR-C", "cifar", ["c/labels.npy", "c/fog.npy"],
               "corruptions -w c.safetensors --data c --severity 1 -q", damage_npy, damage_npy),
        Reader("Tiny-ImageNet", "tiny", [f"t/{name}" for name in tiny],
               "eval -w t.safetensors --dataset tiny-imagenet --data t --attack fgsm -q", damage_text),
        Reader("AutoAttack state", "state", ["s/progress.json"], f"{PROTOCOL} --state s", records, records),
        Reader("AutoAttack images", "state", ["s/images-000000.safetensors"], f"{PROTOCOL} --state s", table,
               table),
        Reader("shards", "shards", ["1.json", "2.json"], "eval --merge 1.json 2.json", records, records),
    ]


class Folders:
    """Valid files for every reader."""

    def __init__(self, saddle, root):
        self.saddle, self.root, self.rng = saddle, root, random.Random(1)
        for make in [self.w, self.run, self.recipe, self.cifar, self.tiny, self.state, self.shards]:
            self.here = root / make.__name__
            self.here.mkdir()
            make()

    def call(self, line):
        done = subprocess.run([self.saddle, *line.split()], cwd=self.here, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"saddle {line}\n{done.stderr}")

    def put(self, name, content):
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def net(self, name, data, epochs=1):
        self.call(f"train {data} {NET} --out made".replace("--epochs 1", f"--epochs {epochs}"))
        shutil.move(self.here / "made/checkpoints/last.safetensors", self.here / name)
        shutil.rmtree(self.here / "made")

    def data(self):
        # Brightness tells the class, so that a network soon has images to lose.
        labels = bytes(i % 3 for i in range(24))
        pixels = b"".join(bytes(100 * label + self.rng.randrange(50) for _ in range(64)) for label in labels)
        self.put("d.npz", npz({"x": npy("|u1", "(24, 8, 8, 1)", pixels), "y": npy("|u1", "(24,)", labels)}))

    def w(self):
        self.data()
        self.net("w.safetensors", FILE, 30)
        floats = struct.pack("<512f", *(self.rng.random() for _ in range(512)))
        labels = struct.pack("<8q", *(i % 3 for i in range(8)))
        self.put("x.safetensors", safetensors({"x": ("F32", [8, 1, 8, 8], floats), "y": ("I64", [8], labels)}))
        self.put("x.npz", npz({"x": npy("<f4", "(8, 1, 8, 8)", floats), "y": npy("<i8", "(8,)", labels)}))

    def run(self):
        self.data()
        line = f"train {FILE} {NET} --out run".replace("--epochs 1", "--epochs 400").split()
        child = subprocess.Popen([self.saddle, *line], cwd=self.here, stderr=subprocess.DEVNULL)
        state = self.here / "run/checkpoints/state.safetensors"
        while child.poll() is None and not state.exists():
            signal.sigtimedwait([], 0.005)
        child.send_signal(signal.SIGINT)
        child.wait()
        # Two more epochs, so that a resumed run has something to do.
        path = self.here / "run/run.json"
        record = json.loads(path.read_text())
        done = json.loads((self.here / "run/metrics.jsonl").read_text().splitlines()[-1])["epoch"]
        record["config"]["epochs"] = done + 2
        path.write_text(json.dumps(record, indent=2))

    def recipe(self):
        self.data()
        self.put("r.toml", 'about = "a recipe"\nmodel = "resnet-mini"\nmethod = "standard"\nepochs = 1\n'
                           'select = "last"\nbatch = 16\nlr = 0.1\neps = "8/255"\n'
                           'milestones = [1, 2]\n')

    def cifar(self):
        record = lambda: bytes([self.rng.randrange(10)]) + self.rng.randbytes(3072)
        for name in ["data_batch_1.bin", "test_batch.bin"]:
            self.put(f"bin/{name}", b"".join(record() for _ in range(4)))
        self.put("bin/batches.meta.txt", "".join(f"class {i}\n" for i in range(10)))
        for name in ["data_batch_1", "test_batch"]:
            self.put(f"py/{name}", python_batch(self.rng, 4))
        names = ("gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow "
                 "frost fog brightness contrast elastic_transform pixelate jpeg_compression").split()
        for name in names:
            self.put(f"c/{name}.npy", npy("|u1", "(5, 32, 32, 3)", self.rng.randbytes(5 * 3072)))
        self.put("c/labels.npy", npy("|u1", "(5,)", bytes(range(5))))
        self.net("c.safetensors", "--dataset cifar10 --data bin")

    def tiny(self):
        self.put("t/wnids.txt", "n1\nn2\n")
        self.put("t/words.txt", "n1\tcat, feline\nn2\tdog\n")
        for name in ["train/n1/images/a", "train/n1/images/b", "train/n2/images/c", "val/images/v"]:
            self.put(f"t/{name}.JPEG", jpeg())
        self.put("t/val/val_annotations.txt", "v.JPEG\tn2\t0\t0\t9\t9\n")
        self.net("t.safetensors", "--dataset tiny-imagenet --data t")

    def state(self):
        self.data()
        shutil.copy(self.root / "w/w.safetensors", self.here)
        self.call(f"{PROTOCOL} --state s")

    def shards(self):
        self.data()
        shutil.copy(self.root / "w/w.safetensors", self.here)
        for number in [1, 2]:
            self.call(f"{PROTOCOL} --shard {number}/2 --out {number}.json")


# The check

class Result:
    def __init__(self):
        self.files = self.clean = self.accepted = self.stopped = self.memory = 0
        self.bad = []


def verdict(status, errors):
    """`clean`, `accepted`, or what is wrong."""
    lines = errors.decode(errors="replace").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for line in lines for c in line):
        return "control characters"
    if any(len(line) >= LONGEST_LINE for line in lines):
        return "a line too long"
    if status == 0:
        return "accepted"
    if status != 1:
        return f"exit status {status}"
    return "clean" if len(lines) == 1 and lines[0].startswith("error: ") else "not one line"


def limits():
    os.setpgrp()
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def try_one(saddle, folders, reader, number, seed, keep):
    rng = random.Random(f"{seed} {reader.name} {number}")
    with tempfile.TemporaryDirectory(prefix="saddle-fuzz-") as root:
        here = pathlib.Path(root) / "f"
        shutil.copytree(folders / reader.folder, here)
        file = here / rng.choice(reader.files)
        if number > 0:
            data, damage = file.read_bytes(), rng.choice(reader.damages)
            try:
                file.write_bytes(damage(rng, data))
            except (ValueError, LookupError, TypeError, struct.error):
                file.write_bytes(damage_bytes(rng, data))
        environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
        with open(here / ".errors", "w+b") as errors:
            child = subprocess.Popen(
                [saddle, *reader.command.split()], cwd=here, preexec_fn=limits, env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
            late = threading.Timer(SECONDS, lambda: os.killpg(child.pid, signal.SIGKILL))
            late.start()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            stopped = late.finished.is_set()
            late.cancel()
            errors.seek(0)
            text = errors.read()
        memory = usage.ru_maxrss * 1024
        found = "stopped" if stopped else verdict(child.returncode, text)
        if number == 0 and found != "accepted":
            sys.exit(f"{reader.name}: the undamaged files are not read: {text.decode(errors='replace')}")
        if memory > MOST_MEMORY:
            found = f"{memory >> 20} MB"
        if keep and found not in ("clean", "accepted"):
            place = keep / f"{reader.name.replace(' ', '-').replace(',', '')}-{number}"
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(here, place)
        return found, memory, text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saddle", default=ROOT / "target/release/saddle", type=pathlib.Path)
    parser.add_argument("--files", default=320, type=int, help="damaged files of each reader [default: 320]")
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--only", default="", help="only the readers whose names contain one of these words")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for the files that the program took badly")
    parser.add_argument("--jobs", default=os.cpu_count(), type=int)
    options = parser.parse_args()
    saddle = options.saddle.resolve()
    words = [word for word in options.only.split(",") if word]
    chosen = [reader for reader in readers() if not words or any(word in reader.name for word in words)]
    bad = 0
    with tempfile.TemporaryDirectory(prefix="saddle-fuzz-") as root:
        Folders(saddle, pathlib.Path(root))
        print("| reader | files | clean | accepted | stopped | bad | most memory |\n|---|---|---|---|---|---|---|")
        for reader in chosen:
            result = Result()
            with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
                one = lambda n: try_one(saddle, pathlib.Path(root), reader, n, options.seed, options.keep)
                for number, (found, memory, text) in enumerate(pool.map(one, range(options.files))):
                    result.files += 1
                    result.memory = max(result.memory, memory)
                    if found in ("clean", "accepted", "stopped"):
                        setattr(result, found, getattr(result, found) + 1)
                    else:
                        result.bad.append((number, found, text[:300]))
            bad += len(result.bad)
            print(f"| {reader.name} | {result.files} | {result.clean} | {result.accepted} | {result.stopped} | "
                  f"{len(result.bad)} | {result.memory >> 20} MB |", flush=True)
            for number, found, text in result.bad[:10]:
                print(f"  {reader.name} {number}: {found}: {text!r}", file=sys.stderr)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
