"""Kinds: whole (the command by exact sentence and exit code, in process), geometry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import typer
from typer.testing import CliRunner

from medcontrast.checkpoint import save_weights
from medcontrast.commands.infer import infer
from medcontrast.errors import MedcontrastError
from medcontrast.inference.predict import Prediction, Predictor
from medcontrast.labels import LabelTable
from medcontrast.networks.build import build_network
from medcontrast.settings import recipe_from_tree

LABELS = {"labels": {"0": "background", "1": "left atrium", "4": "wall"}}
Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in an empty folder, as the root command line does."""
    app = typer.Typer()
    app.command()(infer)
    monkeypatch.chdir(tmp_path)

    def invoke(*words: str) -> SimpleNamespace:
        result = CliRunner().invoke(app, list(words))
        error = result.exception
        if isinstance(error, MedcontrastError):
            return SimpleNamespace(code=error.exit_code, out=result.stdout, err=result.stderr + str(error.args[0]))
        if error is not None and not isinstance(error, SystemExit):
            raise error
        return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)

    return invoke


def write_run(folder: str, channels: tuple[str, ...] = ("image",), phase: float = 0.0) -> None:
    tree = {
        "about": {"command": "-", "needs": "-", "gives": "-", "cost": "-"},
        "data": {"manifest": "m.json", "patch": [16, 16, 16]},
        "network": {"name": "vnet", "filters": 2, "norm": "group"},
        "method": {"name": "supervised"},
        "train": {"steps": 5},
    }
    network = build_network("vnet", in_channels=len(channels), classes=3, filters=2, norm="group")
    tensors = {
        name: torch.sin(torch.arange(tensor.numel()) * 0.7 + phase).reshape(tensor.shape)
        for name, tensor in network.state_dict().items()
    }
    header: dict[str, Any] = {
        "recipe": recipe_from_tree(tree, where="test").model_dump(mode="json"),
        "labels": LabelTable.from_json(LABELS).to_json(),
        "channels": list(channels),
        "network": "student",
        "step": 5,
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_weights(Path(folder) / "last.safetensors", tensors, header)


def write_scan(path: str, seed: int = 0, constant: bool = False) -> np.ndarray:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).normal(size=(18, 16, 13)).astype(np.float32)
    image = nib.Nifti1Image(array * (not constant), np.diag([-1.0, 1.5, 2.0, 1.0]))
    image.set_sform(image.affine, 1)
    nib.save(image, path)
    return array


def test_many_files_end_to_end(run: Run) -> None:
    write_run("runs/a")
    write_scan("in/one.nii.gz")
    write_scan("in/two.nii", seed=1)
    result = run("in", "--ckpt", "runs/a", "-o", "out")
    assert result.code == 0 and result.err == ""
    lines = result.out.splitlines()
    assert len(lines) == 2
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "one_seg.json",
        "one_seg.nii.gz",
        "two_seg.json",
        "two_seg.nii.gz",
    ]
    for number, name in enumerate(("one", "two"), start=1):
        mask = nib.load(f"out/{name}_seg.nii.gz")
        values = np.asanyarray(mask.dataobj)
        assert set(np.unique(values)) <= {0, 1, 4} and values.any()
        assert np.allclose(mask.affine, np.diag([-1.0, 1.5, 2.0, 1.0]))
        record = json.loads(Path(f"out/{name}_seg.json").read_text())
        ml = [record["volumes"][label]["volume_ml"] for label in ("left atrium", "wall")]
        assert ml == [pytest.approx((values == value).sum() * 0.003) for value in (1, 4)]
        expected = f"[{number}/2] out/{name}_seg.nii.gz  left atrium {ml[0]:.3g} ml, wall {ml[1]:.3g} ml  "
        assert lines[number - 1].startswith(expected) and lines[number - 1].endswith(" s")
        assert record["inputs"][0].startswith(f"in/{name}.nii")
        assert record["checkpoints"][0]["checkpoint"] == "a/last.safetensors"


def test_a_name_that_is_no_utf8_ends_no_batch(run: Run) -> None:
    """Names from old Windows archives; the file system gives their bytes as they are."""
    write_run("runs/a")
    write_scan("in/b.nii.gz")
    strange = os.fsdecode(b"in/Sch\xe4del.nii.gz")
    try:
        shutil.copy("in/b.nii.gz", strange)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    main = [sys.executable, "-c", "from medcontrast.cli import main; main()"]
    words = ("infer", "in", "--ckpt", "runs/a", "-o", "out", "--device", "cpu")
    done = subprocess.run([*main, *words], capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(list(Path("out").glob("*_seg.nii.gz"))) == 2
    record = json.loads(Path(os.fsdecode(b"out/Sch\xe4del_seg.json")).read_text())
    assert record["inputs"] == [strange]


def test_links_to_files_that_are_not_there_are_not_passed_over(run: Run) -> None:
    """As in a folder of git-annex or DataLad whose content was not fetched."""
    write_run("runs/a")
    write_scan("in/b.nii.gz")
    for name in ("a", "c"):
        Path(f"in/{name}.nii.gz").symlink_to("../objects/nowhere")
    result = run("in", "--ckpt", "runs/a", "-o", "out")
    assert result.code == 2
    assert "in/a.nii.gz: is a link to a file that is not there (and 1 more); fetch it, or take it away." in result.err
    assert not Path("out").exists()


def test_what_was_not_found_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("runs/a")
    write_scan("one.nii.gz")
    monkeypatch.setattr(
        "medcontrast.commands.infer._predict_one", lambda *of: {"a": volume(0), "b": volume(3), "c": volume(500_000)}
    )
    out = run("one.nii.gz", "--ckpt", "runs/a", "-o", "out").out
    assert "one_seg.nii.gz  a not found, b 0.009 ml, c 1500 ml  " in out


def volume(voxels: int) -> dict[str, float]:
    return {"voxels": voxels, "volume_ml": 0.003 * voxels}


def test_two_runs_give_the_same_bytes_and_existing_outputs_are_kept(run: Run) -> None:
    write_run("runs/a")
    write_scan("one.nii.gz")
    words = ("one.nii.gz", "--ckpt", "runs/a/last.safetensors", "-o", ".")
    assert run(*words).code == 0
    first = Path("one_seg.nii.gz").read_bytes()
    again = run(*words)
    assert again.code == 2
    assert again.err == "one_seg.nii.gz: exists already (and 1 more); add --overwrite, or name another output."
    assert run(*words, "--overwrite").code == 0
    assert Path("one_seg.nii.gz").read_bytes() == first


def test_all_the_maps_and_the_slicer_file(run: Run) -> None:
    write_run("runs/a")
    write_run("runs/b", phase=1.0)
    write_scan("one.nii.gz")
    result = run(
        "one.nii.gz",
        "--ckpt",
        "runs/a",
        "--ckpt",
        "runs/b",
        "-o",
        "out",
        "--flips",
        "--probabilities",
        "--uncertainty",
        "--export",
        "seg.nrrd",
        "--device",
        "cpu",
    )
    assert result.code == 0, result.err
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "one_entropy.nii.gz",
        "one_prob.nii.gz",
        "one_seg.json",
        "one_seg.nii.gz",
        "one_seg.seg.nrrd",
    ]
    record = json.loads(Path("out/one_seg.json").read_text())
    assert record["settings"]["flips"] is True and len(record["checkpoints"]) == 2
    assert record["entropy"].startswith("one_entropy.nii.gz: entropy in nats over ln(classes)")
    assert nib.load("out/one_prob.nii.gz").shape == (18, 16, 13, 3)


def test_a_color_table_beside_the_mask(run: Run) -> None:
    write_run("runs/a")
    write_scan("one.nii.gz")
    assert run("one.nii.gz", "--ckpt", "runs/a", "--export", "nii.gz").code == 0
    assert Path("predictions/one_seg.ctbl").exists()
    assert run("one.nii.gz", "--ckpt", "runs/a", "--export", "nii.gz").code == 2


def test_equal_names_are_kept_apart_and_said(run: Run) -> None:
    write_run("runs/a")
    arrays = [write_scan(f"{folder}/scan.nii.gz", seed) for seed, folder in enumerate("xy")]
    assert not np.array_equal(*arrays)
    result = run("x/scan.nii.gz", "y/scan.nii.gz", "--ckpt", "runs/a", "-o", "out")
    assert result.code == 0
    assert result.out.splitlines()[:2] == [
        "x/scan.nii.gz will be x_scan_seg.nii.gz.",
        "y/scan.nii.gz will be y_scan_seg.nii.gz.",
    ]
    for folder in "xy":
        record = json.loads(Path(f"out/{folder}_scan_seg.json").read_text())
        assert record["inputs"] == [f"{folder}/scan.nii.gz"]
    assert run("x/scan.nii.gz", "--ckpt", "runs/a", "-o", "alone").code == 0
    one, other = (nib.load(path).get_fdata() for path in ("alone/scan_seg.nii.gz", "out/x_scan_seg.nii.gz"))
    assert np.array_equal(one, other)


def test_a_bad_scan_is_reported_and_the_others_go_on(run: Run) -> None:
    write_run("runs/a")
    write_scan("in/a.nii.gz", constant=True)
    write_scan("in/b.nii.gz")
    Path("in/c.nii.gz").write_bytes(b"nothing")
    result = run("in", "--ckpt", "runs/a", "-o", "out")
    assert result.code == 2
    lines = result.err.splitlines()
    assert lines[0] == ("[1/3] in/a.nii.gz: failed: every voxel has the value 0; there is nothing to see in it.")
    assert lines[1].startswith("[3/3] in/c.nii.gz: failed: ")
    assert lines[-1] == "2 of 3 scans could not be segmented: a, c."
    assert sorted(path.name for path in Path("out").iterdir()) == ["b_seg.json", "b_seg.nii.gz"]


def test_a_scan_on_a_broken_disk_does_not_stop_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("runs/a")
    write_scan("in/a.nii.gz")
    write_scan("in/b.nii.gz")
    whole = Predictor.predict_scan

    def broken(predictor: Predictor, images: Sequence[Path], **named: Any) -> Prediction:
        if images[0].name == "a.nii.gz":
            raise OSError(5, "Input/output error", str(images[0]))
        return whole(predictor, images, **named)

    monkeypatch.setattr(Predictor, "predict_scan", broken)
    result = run("in", "--ckpt", "runs/a", "-o", "out")
    assert result.code == 2
    assert result.err.splitlines() == [
        "[1/2] in/a.nii.gz: failed: Input/output error.",
        "1 of 2 scans could not be segmented: a.",
    ]
    assert sorted(path.name for path in Path("out").iterdir()) == ["b_seg.json", "b_seg.nii.gz"]


def write_forms(path: str, sform: np.ndarray, codes: tuple[int, int], qform: np.ndarray | None = None) -> None:
    """A scan with these forms; codes of sform and qform."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).normal(size=(18, 16, 13)).astype(np.float32)
    image = nib.Nifti1Image(array, None)
    image.set_sform(sform, codes[0])
    image.set_qform(sform if qform is None else qform, codes[1], strip_shears=True)
    image.to_filename(path)


def test_what_is_odd_about_a_scans_place_is_said_on_the_terminal(run: Run) -> None:
    write_run("runs/a")
    write_scan("in/fine.nii.gz")
    write_forms("in/nowhere.nii.gz", np.eye(4), (0, 0))
    sheared, moved = np.eye(4), np.eye(4)
    sheared[1, 2], moved[2, 3] = np.tan(np.deg2rad(30)), 12
    write_forms("in/tilted.nii.gz", sheared, (1, 0))
    write_forms("in/two.nii.gz", sheared, (1, 1), moved)
    result = run("in", "--ckpt", "runs/a", "-o", "out")
    assert result.code == 0 and len(result.out.splitlines()) == 4
    said = {
        "nowhere": "does not say where it lies or which side is left (the codes of its sform and qform are both 0);",
        "tilted": "its axes are not at right angles (a tilted gantry, or a sheared header), and a NIfTI file of it",
        "two": "its qform and sform place it differently (its corners lie up to ",
    }
    for line, (name, text) in zip(result.err.splitlines(), said.items(), strict=True):
        assert line.startswith(f"Warning: in/{name}.nii.gz: {text}")
        record = json.loads(Path(f"out/{name}_seg.json").read_text())
        assert record["geometry"]["warnings"] == [line.removeprefix(f"Warning: in/{name}.nii.gz: ")]
    assert json.loads(Path("out/fine_seg.json").read_text())["geometry"]["warnings"] == []


def test_a_scan_without_a_place_gets_a_mask_but_no_seg_nrrd(run: Run) -> None:
    write_run("runs/a")
    write_forms("in/nowhere.nii.gz", np.eye(4), (0, 0))
    write_scan("in/there.nii.gz")
    result = run("in", "--ckpt", "runs/a", "-o", "out", "--export", "seg.nrrd")
    assert result.code == 2
    first, last = result.err.splitlines()
    assert first.startswith("[1/2] in/nowhere.nii.gz: failed: does not say where it lies or which side is left (")
    assert first.endswith("in its header first, or leave --export out: a NIfTI mask lies where the scan lies.")
    assert last == "1 of 2 scans could not be segmented: nowhere."
    made = ["there_seg.json", "there_seg.nii.gz", "there_seg.seg.nrrd"]
    assert sorted(path.name for path in Path("out").iterdir()) == made
    again = run("in/nowhere.nii.gz", "--ckpt", "runs/a", "-o", "out", "--export", "nii.gz")
    assert again.code == 0 and len(again.err.splitlines()) == 1
    record = json.loads(Path("out/nowhere_seg.json").read_text())
    assert record["geometry"]["source"] == "NIfTI pixdim alone, sform and qform codes 0"
    mask, scan = (sitk.ReadImage(path) for path in ("out/nowhere_seg.nii.gz", "in/nowhere.nii.gz"))
    assert (mask.GetOrigin(), mask.GetDirection()) == (scan.GetOrigin(), scan.GetDirection())


def test_a_manifests_split(run: Run) -> None:
    write_run("runs/a")
    write_scan("data/i/one.nii.gz")
    cases = [{"case": "case 1", "image": "i/one.nii.gz", "label": "l/one.nii.gz"}]
    Path("m.json").write_text(json.dumps({**LABELS, "root": "data", "test": cases}))
    result = run("--manifest", "m.json", "--ckpt", "runs/a", "-o", "out")
    assert result.code == 0, result.err
    record = json.loads(Path("out/case_1_seg.json").read_text())
    assert record["inputs"] == ["i/one.nii.gz"]
    assert run("--manifest", "m.json", "--split", "labeled", "--ckpt", "runs/a").err == (
        "m.json: the split 'labeled' is empty; it has test."
    )
    write_run("runs/two", channels=("t2", "adc"))
    assert run("--manifest", "m.json", "--ckpt", "runs/two").err == (
        "m.json: has 1 channel(s) (image), but the checkpoint takes 2 (t2, adc)."
    )
    cases[0]["image"] = ["i/one.nii.gz", "i/one.nii.gz"]
    swapped = {**LABELS, "root": "data", "channels": {"0": "adc", "1": "t2"}, "test": cases}
    Path("swapped.json").write_text(json.dumps(swapped))
    assert run("--manifest", "swapped.json", "--ckpt", "runs/two").err == (
        "swapped.json: its channels are adc, t2, but the checkpoint takes t2, adc, in this order; list each case's "
        "images so, or give the channels these names."
    )


def test_two_channels(run: Run) -> None:
    write_run("runs/two", channels=("t2", "adc"))
    for channel in range(2):
        write_scan(f"in/ann_000{channel}.nii.gz", seed=channel)
    result = run("in", "--ckpt", "runs/two", "-o", "out")
    assert result.code == 0, result.err
    assert result.out.startswith("[1/1] out/ann_seg.nii.gz  left atrium ")
    single = run("in/ann_0000.nii.gz", "--ckpt", "runs/two", "-o", "out2")
    assert single.code == 2 and not Path("out2").exists()
    assert single.err == ("in/ann: the checkpoint takes 2 channels (t2, adc), _0000 to _0001, but this case has 0000.")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ckpt", "runs/a"], "Say what to segment: files or folders, or --manifest FILE with --split."),
        (
            ["one.nii.gz", "--manifest", "m", "--ckpt", "runs/a"],
            "Say what to segment: files or folders, or --manifest FILE with --split.",
        ),
        (
            ["one.nii.gz", "--split", "test", "--ckpt", "runs/a"],
            "--split goes with --manifest: the cases of one of its splits are segmented.",
        ),
        (["one.nii.gz"], "Say with what: --ckpt RUN, a run folder or a checkpoint."),
        (["gone.nii.gz", "one.nii.gz", "--ckpt", "runs/a"], "gone.nii.gz: there is no such file or folder."),
        (["one.nii.gz", "--ckpt", "runs/b"], "runs/b: there is no such checkpoint or run folder."),
        (
            ["one.nii.gz", "--ckpt", "runs"],
            "runs: no checkpoint in this folder; expected last.safetensors, as a run folder has it.",
        ),
        (
            ["one.nii.gz", "--ckpt", "one.nii.gz"],
            "one.nii.gz: not a checkpoint of medcontrast. Give a run folder, its "
            "last.safetensors or best.safetensors, or its last.pt.",
        ),
        (["one.nii.gz", "--ckpt", "runs/a", "--device", "gpu"], "--device gpu: expected cpu, cuda, cuda:N or mps."),
        (["one.nii.gz", "--ckpt", "runs/a", "--export", "obj"], "--export obj: expected seg.nrrd or nii.gz."),
        (
            ["one.nii.gz", "--ckpt", "runs/a", "-o", "one.nii.gz"],
            "-o one.nii.gz: names a folder for masks and records, not a file; masks are called NAME_seg.nii.gz.",
        ),
    ],
)
def test_wrong_input_is_one_sentence_before_anything_is_written(run: Run, words: list[str], sentence: str) -> None:
    write_run("runs/a")
    write_scan("one.nii.gz")
    before = sorted(Path().rglob("*"))
    result = run(*words)
    assert (result.code, result.out, result.err) == (2, "", sentence)
    assert sorted(Path().rglob("*")) == before


def test_the_command_is_light_to_import() -> None:
    code = "import medcontrast.commands.infer, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_trained_run_predicts_the_same_from_each_of_its_files(run: Run, tiny: SimpleNamespace) -> None:
    trained = tiny.make_run(Path.cwd(), tiny.recipe_tree("mean_teacher", steps=1))
    tiny.train(trained)
    masks = []
    for number, checkpoint in enumerate(("run", "run/last.safetensors", "run/last.pt")):
        result = run("data/images/case_00_0.nii", "--ckpt", checkpoint, "-o", f"out{number}", "--probabilities")
        assert result.code == 0, result.err
        masks.append(nib.load(f"out{number}/case_00_0_prob.nii.gz").get_fdata())
        record = json.loads(Path(f"out{number}/case_00_0_seg.json").read_text())
        assert record["checkpoints"][0]["network"] == "teacher" and record["checkpoints"][0]["step"] == 1
    assert np.array_equal(masks[0], masks[1]) and np.array_equal(masks[0], masks[2])
