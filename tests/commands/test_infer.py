"""Tests of `medcontrast infer`: whole, by exact sentence and exit code, in process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from infer_runs import LABELS, Run, write_run, write_scan


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


def test_folders_of_cases_and_masks_beside_scans(run: Run) -> None:
    write_run("runs/a")
    for path in ("c0/image.nii.gz", "c1/image.nii.gz", "in/a.nii.gz", "in/a_mask.nii.gz"):
        write_scan(path)
    for case in ("c0", "c1"):
        answer = run(case, "--ckpt", "runs/a", "-o", "out", "--overwrite")
        assert answer.out.splitlines()[0] == f"{case}/image.nii.gz will be {case}_seg.nii.gz."
    answer = run("in", "--ckpt", "runs/a", "-o", "out")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[0] == (
        "in: not taken, as their names say masks of the scans beside them: a_mask.nii.gz; name the files themselves to "
        "have them segmented."
    )
    assert sorted(path.name for path in Path("out").glob("*.nii.gz")) == [
        f"{name}_seg.nii.gz" for name in ("a", "c0", "c1")
    ]


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
        "m.json: the split 'labeled' is empty; it has test; choose one of these."
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
    assert single.err == (
        "in/ann: the checkpoint takes 2 channels (t2, adc), _0000 to _0001 or by name, but this case has "
        "ann_0000.nii.gz."
    )


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
