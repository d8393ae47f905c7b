"""safetensors files: 8 bytes of header length, a JSON header, the values."""

import json
import struct

import torch

KINDS = {"F32": torch.float32, "I64": torch.int64, "U8": torch.uint8, "BOOL": torch.bool}
NAMES = {kind: name for name, kind in KINDS.items()}


def read(path):
    """The tensors of a file by name, and its metadata."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(length)), bytearray(file.read())
    metadata, tensors = header.pop("__metadata__", {}), {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        flat = torch.frombuffer(data[begin:end] or bytearray(8), dtype=KINDS[entry["dtype"]])
        tensors[name] = (flat if end > begin else flat[:0]).reshape(entry["shape"])
    return tensors, metadata


def write(path, tensors, metadata=None):
    header, data = {"__metadata__": metadata or {}}, bytearray()
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous()
        raw = values.numpy().tobytes()
        shape, offsets = list(values.shape), [len(data), len(data) + len(raw)]
        header[name] = {"dtype": NAMES[values.dtype], "shape": shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
