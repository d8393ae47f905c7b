"""The settings of a step and their defaults, under the names that the goldens and `check_step.py` use."""

from types import SimpleNamespace

DEFAULTS = {
    "norm": "linf", "eps": 8 / 255, "step_size": 2 / 255, "attack_steps": 10,
    "beta": 6.0,                # of TRADES, MART, RAAT++ and joint AFA
    "lambda": 1.0,              # of the method's own term: JS, RP, ReBAT's R, DICAR, joint AFA
    "temperature": 0.5,         # T of Consistency-AT and DICAR
    "a": 0.5,                   # RPAT: the clean image's part of x_a
    "rho": 0.1,                 # RAAT: where between X and X' the reduced image X'' is
    "variant": "code",          # code | paper: RPAT, RAAT, RAAT++
    "base": "pgd-at",           # of RPAT: pgd-at | trades | mart | consistency-at
    "trades_passes": 3,         # 3 | 2
    "epoch": 0,                 # counted from 0: the recipe of ReBAT
    "average_start_epoch": 105, # ReBAT's regulariser begins with this epoch
    "wa_mode": "code",          # code: the averaged net uses batch statistics up to average_start_epoch; eval: never
    "late_start_epoch": 100, "late_eps": 10 / 255, "late_steps": 12,  # ReBAT++'s stronger attack
    "contrast": "clean",        # clean | clean+adv: AFA's set
    "tau": 0.1,                 # AFA's temperature
    "joint_attack": "afa",      # afa | kl: which loss makes x' in joint AFA
    "awp_gamma": 0.0,           # 0: no adversarial weight perturbation
}
L2 = {"eps": 128 / 255, "step_size": 15 / 255}


def number(text):
    """`8/255` and `0.5` as numbers."""
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def read(given):
    """The settings with those of a {name: text or value} map; `lambda` is called `lam` here."""
    unknown = set(given) - set(DEFAULTS)
    if unknown:
        raise KeyError(f"no such setting: {', '.join(sorted(unknown))}")
    values = DEFAULTS | (L2 if given.get("norm") == "l2" else {})
    for name, value in given.items():
        kind = type(DEFAULTS[name])
        values[name] = number(value) if kind is float and isinstance(value, str) else kind(value)
    values["lam"] = values.pop("lambda")
    return SimpleNamespace(**values)
