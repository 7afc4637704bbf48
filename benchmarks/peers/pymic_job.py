"""Trains and predicts with PyMIC as released; run in PyMIC's own environment by run_peer.py, on a folder it prepared.

PyMIC's own agents, networks, losses, transforms and sliding window do the work. Written here: the configuration, the
device (PyMIC names a CUDA device whatever the configuration says), and checks of the installed version.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from pymic_stubs import install_stubs

TEACHERS = ("MeanTeacher", "UAMT")
_INTENSITY = {
    # the views of recipes/hippocampus_*.yaml in the transforms that PyMIC has
    "gammacorrection": {"gamma_min": 0.7, "gamma_max": 1.3},
    "contrastadjust": {"factor_min": 0.75, "factor_max": 1.25},
    "brightnessadditive": {"sigma_min": -0.25, "sigma_max": 0.25},
    "gaussianblur": {"sigma_min": 0.0, "sigma_max": 1.0},
    "gaussiannoise": {"std_min": 0.0, "std_max": 0.15},
}
_AXES = ("width", "height", "depth")
_VIEWS = ["RandomRescale", "RandomRotate", "Pad", "RandomCrop", "RandomFlip"]
_CHANGES = ["GaussianBlur", "GammaCorrection", "ContrastAdjust", "BrightnessAdditive", "GaussianNoise"]


def interval(steps: int) -> int:
    """Steps between two of PyMIC's validations, at which alone its rate and its ramp-ups move: 50 in all.

    Raises:
        ValueError: The steps are no multiple of it, so PyMIC would train longer than asked.
    """
    found = max(1, steps // 50)
    if steps % found:
        raise ValueError(f"--steps {steps}: PyMIC trains in intervals of {found} steps; choose a multiple of it.")
    return found


def make_configuration(job: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """PyMIC's configuration, before its own `synchronize_config`.

    Args:
        job: The content of job.json.
        folder: Where the cases and lists lie and the run goes.
    """
    training, network = _training(job, folder), _network(job)
    if job["method"] == "URPC":
        network["multiscale_pred"] = True
        training["deep_supervise"] = True
    return {
        "dataset": _dataset(job, folder),
        "network": network,
        "training": training,
        "semi_supervised_learning": {
            "method_name": job["method"],
            "regularize_w": 0.1,
            "ema_decay": 0.99,
            "rampup_start": 0,
            "rampup_end": max(1, round(0.3 * job["steps"])),
        },
        "testing": {
            "gpus": [0],
            "ckpt_mode": 0,  # the last checkpoint
            "output_dir": str(folder / "predictions"),
            "sliding_window_enable": True,
            "tta_mode": 0,  # it mirrors two fixed axes or none, the recipes the one that they train with
        },
    }


def _network(job: dict[str, Any]) -> dict[str, Any]:
    found = {"net_type": "UNet", "dimension": 3, "in_chns": job["channels"], "class_num": job["classes"]}
    if job["method"] == "CPS":
        found["net_type"] = ["UNet", "UNet"]
    return found | {"feature_chns": [16, 32, 64, 128, 256]}


def _training(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "gpus": [0],  # read, but the device is set by `_agent_class`
        "deterministic": True,
        "random_seed": job["seed"],
        "loss_type": ["DiceLoss", "CrossEntropyLoss"],
        "loss_weight": [1.0, 1.0],
        "optimizer": "Adam",
        "learning_rate": 0.002,
        "momentum": 0.9,
        "weight_decay": 1e-5,
        "lr_scheduler": "PolynomialLR",
        "lr_power": 0.9,
        "iter_max": job["steps"],
        "iter_valid": interval(job["steps"]),
        "iter_save": job["steps"],
        "ckpt_dir": str(folder / "checkpoints"),
        "ckpt_prefix": "peer",
    }


def _dataset(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tensor_type": "float",
        "task_type": "seg",
        "train_dir": str(folder),
        "train_csv": str(folder / "labeled.csv"),
        "train_csv_unlab": str(folder / "unlabeled.csv"),
        "valid_csv": str(folder / "watched.csv"),
        "test_csv": str(folder / "test.csv"),
        "modal_num": job["channels"],
        "num_worker": 0,
        "patch_size": list(job["patch"])[::-1],  # depth, height, width
        "train_batch_size": job["labeled_rows"],
        "train_batch_size_unlab": job["unlabeled_rows"],
        "train_transform": ["NormalizeWithMeanStd", *_VIEWS, *_CHANGES, "LabelToProbability"],
        "train_transform_unlab": ["NormalizeWithMeanStd", *_VIEWS, *_CHANGES],
        "valid_transform": ["NormalizeWithMeanStd", "Pad", "CenterCrop", "LabelToProbability"],
        "test_transform": ["NormalizeWithMeanStd", "Pad"],
        "randomrescale_lower_bound": [0.85, 0.85, 0.85],
        "randomrescale_upper_bound": [1.15, 1.15, 1.15],
    }
    # a volume's axes are read the other way round
    found |= {f"randomflip_flip_{name}": axis in job["mirror_axes"] for axis, name in enumerate(_AXES)}
    found |= {f"randomrotate_angle_range_{name[0]}": [-15, 15] for name in _AXES}
    for name, limits in _INTENSITY.items():
        found |= {f"{name}_{key}": value for key, value in limits.items()}
        found |= {f"{name}_probability": 0.5, f"{name}_probability_per_channel": 1.0}
    return found


def _agent_class(base: type) -> type:
    """PyMIC's agent on the device that is there."""
    import torch

    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")

    class Agent(base):
        unlogged: str | None = None

        @property
        def device(self) -> torch.device:
            return device

        @device.setter
        def device(self, _: torch.device) -> None:
            """PyMIC sets cuda:0 without asking."""

        def write_scalars(self, *values: Any) -> None:
            """Its curves; where a figure that it asks for is not there, training goes on without them."""
            try:
                super().write_scalars(*values)
            except KeyError as missing:
                self.unlogged = str(missing)

    return Agent


def train(configuration: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Trains with PyMIC's agent of the method; returns facts and the check of its teacher."""
    from pymic.net_run.semi_sup import SSLMethodDict
    from pymic.transform.intensity import ContrastAdjust
    from pymic.transform.trans_dict import TransformDict

    method = configuration["semi_supervised_learning"]["method_name"]
    agent = _agent_class(SSLMethodDict[method])(copy.deepcopy(configuration), "train")
    # PyMIC has this transform and leaves it out of its list
    agent.set_transform_dict({**TransformDict, "ContrastAdjust": ContrastAdjust})
    Path(configuration["training"]["ckpt_dir"]).mkdir(parents=True)
    started, started_cpu = time.monotonic(), time.process_time()
    agent.run()
    facts: dict[str, Any] = {
        "train_seconds": round(time.monotonic() - started),
        "train_cpu_seconds": round(time.process_time() - started_cpu),
        "trained_parameters": sum(each.numel() for each in agent.net.parameters()),
        "checks": {"missing_in_log": agent.unlogged},
    }
    if configuration["dataset"]["randomflip_flip_depth"]:
        facts["checks"]["flips_along_depth_in_64"] = _flips_along_depth()
    if method in TEACHERS:
        largest = [max(float(each.abs().max()) for each in net.parameters()) for net in (agent.net, agent.net_ema)]
        facts["checks"] |= {"largest_student_parameter": largest[0], "largest_teacher_parameter": largest[1]}
    return facts


def notes_of(checks: dict[str, Any]) -> list[str]:
    """What the checks say, for the record and the table's notes."""
    notes = []
    if checks.get("largest_teacher_parameter") == 0.0:
        notes.append(
            "run as released: every parameter of its teacher is 0 after training (the update drops its own result), "
            "so unlabeled rows are drawn to the uniform distribution"
        )
    if checks.get("missing_in_log"):
        notes.append(f"as released it stops when it logs {checks['missing_in_log']}; here it trains on without its log")
    if checks.get("flips_along_depth_in_64") == 0:
        notes.append("its flip never acts along the last axis")
    return notes


def _flips_along_depth() -> int:
    import numpy as np
    from pymic import TaskType
    from pymic.transform.flip import RandomFlip

    axes = {"randomflip_flip_depth": True, "randomflip_flip_height": False, "randomflip_flip_width": False}
    flip = RandomFlip({"task": TaskType.SEGMENTATION, **axes})
    volume = np.arange(2.0).reshape(1, 2, 1, 1)
    return sum(int(flip({"image": volume})["image"][0, 0, 0, 0] == 1.0) for _ in range(64))


def predict(configuration: dict[str, dict[str, Any]]) -> None:
    """Writes a mask for each case of test.csv with PyMIC's sliding window, inverse transforms and writer."""
    import torch
    from pymic.net_run.agent_seg import SegmentationAgent
    from pymic.net_run.infer_func import Inferer

    configuration = copy.deepcopy(configuration)
    agent = _agent_class(SegmentationAgent)(configuration, "test")
    agent.create_dataset()
    agent.create_network()
    saved = torch.load(agent.get_checkpoint_name(), map_location=agent.device, weights_only=False)
    agent.net.load_state_dict(saved["model_state_dict"])
    agent.net.to(agent.device).eval()
    inferer = Inferer({**configuration["testing"], "class_num": configuration["network"]["class_num"]})
    with torch.no_grad():
        for data in agent.test_loader:
            image = agent.convert_tensor_type(data["image"]).to(agent.device)
            data["predict"] = inferer.run(agent.net, image).cpu().numpy()
            for transform in reversed(agent.test_transforms):
                if transform.inverse:
                    data = transform.inverse_transform_for_prediction(data)
            agent.save_outputs(data)


def main() -> None:
    """Does the job of the folder given; leaves predictions/ and facts.json."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    stubbed = install_stubs()
    from pymic.util.parse_config import synchronize_config

    configuration = synchronize_config(make_configuration(job, folder))
    facts = train(configuration)
    predict(configuration)
    notes = notes_of(facts["checks"])
    packages = ("torch", "monai", "numpy", "scipy")
    asked = make_configuration(job, Path())  # a record says nothing of where a job lay
    facts |= {
        "peer": {"name": "PyMIC", "version": metadata.version("pymic"), "stand_ins": stubbed},
        "settings": {key: asked[key] for key in ("network", "training", "semi_supervised_learning", "dataset")},
        "step": job["steps"],
        "notes": notes,
        "versions": {package: metadata.version(package) for package in packages},
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print("\n".join([f"checks of the installed version: {facts['checks']}", *notes]))


if __name__ == "__main__":
    main()
