#!/usr/bin/env python3
"""Draws docs/images/adversarial.png, the README's picture: test digits, and what PGD-20 makes of them against
a network trained on clean images and against an adversarially trained one.

    scripts/picture.py [OUT.png]

Needs target/release/saddle (cargo build --release), numpy and matplotlib. Takes about half a minute.
"""
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
SADDLE = ROOT / "target" / "release" / "saddle"
NETWORKS = [("standard", "trained on\nclean images"), ("pgd-at", "trained\nadversarially (PGD-AT)")]
TEST, EPS, SHOWN = 360, "0.1", 5
GOOD, BAD = "#1a7f37", "#cf222e"


def saddle(*arguments):
    subprocess.run([str(a) for a in (SADDLE, *arguments)], check=True, stdout=subprocess.DEVNULL)


def tensors(path):
    """The tensors of a safetensors file as numpy arrays."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    kinds = {"F32": "<f4", "I64": "<i8", "U8": "u1"}
    found = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(data[begin:end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return found


def predictions(run, images, labels, folder):
    """The classes that a run's network predicts: FGSM with eps = 0 changes nothing and reports them."""
    np.savez(folder / "images.npz", x=images, y=labels)
    out = folder / "predictions.safetensors"
    data = folder / "images.npz"
    saddle("attack", "--weights", run, "--data", data, "--attack", "fgsm", "--eps", 0, "--out", out)
    return tensors(out)["pred"]


def attacked(run, images, labels, folder):
    """The PGD-20 image of each test image, whether or not the network withstands it."""
    np.savez(folder / "batch.npz", x=images, y=labels)
    out = folder / "step.safetensors"
    settings = [("eps", EPS), ("step_size", "0.025"), ("attack_steps", "20")]
    weights = run / "checkpoints" / "best.safetensors"
    saddle(
        *("check-step", "--method", "pgd-at", "--model", "resnet-mini"),
        *("--weights", weights, "--batch", folder / "batch.npz", "--out", out),
        *(word for key, value in settings for word in ("--set", f"{key}={value}")),
    )
    return tensors(out)["x_adv"]


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "images" / "adversarial.png")
    rows = np.loadtxt(gzip.open(ROOT / "src" / "data" / "digits.csv.gz", "rt"), delimiter=",")[-TEST:]
    images, labels = (rows[:, :64] / 16).astype("f4").reshape(-1, 1, 8, 8), rows[:, 64].astype("i8")
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for method, _ in NETWORKS:
            run = folder / method
            options = ["--device", "host", "--seed", 0, "--quiet", "--out", run]
            saddle("train", "digits", "--method", method, *options)
            adversarial = attacked(run, images, labels, folder)
            accuracy = json.loads((run / "summary.json").read_text())
            clean, after = (predictions(run, x, labels, folder) for x in (images, adversarial))
            results.append((adversarial, clean, after, accuracy))
    (_, clean, fooled, _), (_, clean_robust, robust, _) = results
    telling = (clean == labels) & (clean_robust == labels) & (fooled != labels) & (robust == labels)
    shown = []
    for index in np.flatnonzero(telling):
        if labels[index] not in labels[shown] and len(shown) < SHOWN:
            shown.append(index)

    plt.rcParams["font.size"] = 10
    figure, axes = plt.subplots(3, SHOWN, figsize=(8.2, 4.6), facecolor="white")
    titles = ["clean image", *(f"attacked network,\n{words}" for _, words in NETWORKS)]
    for line, title in zip(axes, titles):
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", labelpad=10)
    for column, index in zip(axes.T, shown):
        label = labels[index]
        cells = [(images[index], f"{label}", "black")]
        for x, _, predicted, _ in results:
            colour = GOOD if predicted[index] == label else BAD
            cells.append((x[index], f"predicts {predicted[index]}", colour))
        for axis, (image, caption, colour) in zip(column, cells):
            axis.imshow(image[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_xlabel(caption, color=colour, fontweight="bold")
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set(color=colour, linewidth=2)
    rates = " against ".join(f"{accuracy['pgd20_acc']:.1f} %" for *_, accuracy in results)
    caption = f"Robust accuracy under PGD-20, Linf eps {EPS}, 360 test digits: {rates}"
    figure.text(0.5, 0.012, caption, ha="center")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110, metadata={"Software": None})
    print(out, [int(i) for i in shown])


if __name__ == "__main__":
    main()
