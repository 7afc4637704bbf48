"""Tests of proposed recipes: by hand, property, geometry, whole."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from medcontrast.data.manifest import Manifest, load_manifest
from medcontrast.data.propose import PATCH_VOXELS, Proposal, propose_recipe
from medcontrast.data.recipe_page import recipe_page, relative_path, write_recipe
from medcontrast.data.survey import MeasuredScan
from medcontrast.errors import InputError
from medcontrast.labels import LabelTable
from medcontrast.settings import Recipe, load_recipe, recipe_from_tree

TABLE = LabelTable.from_json({"labels": {"0": "background", "1": "liver"}})


def scan(**changes: Any) -> MeasuredScan:
    """An MR scan of 100 x 80 x 60 voxels of 1 x 1 x 1.5 mm whose structure spans 40 x 40 x 30 mm."""
    values: dict[str, Any] = {
        "case": "a",
        "shape": np.array([100.0, 80.0, 60.0]),
        "spacing_mm": np.array([1.0, 1.0, 1.5]),
        "extent_mm": np.array([40.0, 40.0, 30.0]),
        "mean": np.array([300.0]),
        "std": np.array([90.0]),
        "low": np.array([0.0]),
        "high": np.array([900.0]),
        "whole_numbers": True,
        "structure": np.zeros((1, 0), np.float32),
        "body": np.zeros((1, 0), np.float32),
    }
    return MeasuredScan(**{**values, **changes})


def manifest(tiny: SimpleNamespace, tmp_path: Path, **splits: Any) -> Manifest:
    return load_manifest(tiny.write_data(tmp_path, **splits))


@pytest.fixture
def plain(tmp_path: Path, tiny: SimpleNamespace) -> Manifest:
    return replace(manifest(tiny, tmp_path, validation=1), labels=TABLE, channels=("T1",))


def propose(plain: Manifest, *scans: MeasuredScan, like: Recipe | None = None) -> Proposal:
    return propose_recipe(plain, scans, manifest_path="m.json", command="medcontrast train r.yaml", like=like)


# --- spacing and patch


def test_a_common_spacing_is_named_and_others_are_resampled_to_the_median(plain: Manifest) -> None:
    """Left open, a scan of other voxels would go into the network as it is, and come out as nonsense."""
    rounding = scan(spacing_mm=np.array([0.9999999, 1.0, 1.5]))
    proposal = propose(plain, scan(), rounding)
    assert proposal.recipe.data.spacing_mm == (1.0, 1.0, 1.5)
    assert proposal.reasons["data.spacing_mm"] == "that of all 2 scans looked at, which are left as they are"
    assert propose(plain, scan(spacing_mm=np.array([0.46875, 0.46875, 3.0]))).recipe.data.spacing_mm == (
        0.46875,
        0.46875,
        3.0,
    )
    near = scan(spacing_mm=np.array([1.04, 1.0, 1.5]))
    proposal = propose(plain, scan(), near, near, scan(), scan(spacing_mm=np.array([1.02, 1.0, 1.5])), near)
    assert proposal.recipe.data.spacing_mm == (1.04, 1.0, 1.5)  # not the median, which one scan alone has
    assert proposal.reasons["data.spacing_mm"] == (
        "that of 3 of 6 scans looked at, which are left as they are; the others differ by up to 3.8% and are resampled"
    )
    far = scan(spacing_mm=np.array([1.06, 1.0, 1.4]))
    proposal = propose(plain, scan(), far, far)
    assert proposal.recipe.data.spacing_mm == (1.06, 1.0, 1.4)
    assert proposal.reasons["data.spacing_mm"] == "median of 3 scans, which differ from it by up to 7%"


def test_thick_slices_stay_thick_and_are_halved_later(plain: Manifest) -> None:
    thick = scan(spacing_mm=np.array([0.8, 0.8, 5.0]), shape=np.array([256.0, 256.0, 24.0]))
    other = scan(spacing_mm=np.array([0.8, 0.8, 6.0]), shape=np.array([256.0, 256.0, 24.0]))
    proposal = propose(plain, thick, thick, other)
    recipe = proposal.recipe
    assert recipe.data.spacing_mm == (0.8, 0.8, 5.0)
    assert "the thick slices stay thick" in proposal.reasons["data.spacing_mm"]
    assert recipe.network.name == "dynunet"
    assert recipe.network.strides == ((2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert recipe.network.patch_divisor == (8, 8, 2)
    assert recipe.data.patch[2] >= 20


@pytest.mark.parametrize(
    ("shape", "name", "patch"),
    [
        ((100, 80, 68), "vnet", (96, 80, 64)),
        ((100, 80, 60), "dynunet", (96, 80, 56)),
        ((35, 51, 36), "dynunet", (32, 48, 32)),
        ((20, 22, 13), "dynunet", (20, 20, 12)),
        ((9, 9, 6), "dynunet", (8, 8, 8)),
    ],
)
def test_patches_fit_scan_and_network(plain: Manifest, shape: Any, name: str, patch: Any) -> None:
    recipe = propose(plain, scan(shape=np.array(shape, float), extent_mm=None)).recipe
    assert (recipe.network.name, recipe.data.patch) == (name, patch)


@pytest.mark.parametrize(
    ("planes", "side", "without_cells"),
    [(5, 8, 8), (10, 8, 10), (11, 12, 10), (18, 16, 18), (20, 20, 20), (22, 20, 22)],
)
def test_patches_of_thick_slices_hold_whole_cells(plain: Manifest, planes: int, side: int, without_cells: int) -> None:
    """Four scans of 100 x 110 x 10 voxels of 1.5 x 1.5 x 10 mm were refused: cells of 4 do not divide 10."""
    thick = scan(shape=np.array([100.0, 110.0, planes]), spacing_mm=np.array([1.5, 1.5, 10.0]), extent_mm=None)
    proposal = propose(plain, thick)
    assert (proposal.recipe.method.name, proposal.recipe.data.patch) == ("fba_net", (96, 112, side))
    assert proposal.reasons["data.patch"].endswith("multiples of 8x8x4")
    alone = propose(replace(plain, unlabeled=()), thick).recipe
    assert (alone.method.name, alone.data.patch) == ("supervised", (96, 112, without_cells))


@pytest.mark.parametrize("region", [0, 3, 4, 6, 64])
def test_a_patch_holds_whole_cells_of_the_method_of_like(plain: Manifest, region: int) -> None:
    method = {"name": "fba_net", "contrast": {"region": region}}
    like = like_recipe(method=method, data={"manifest": "other.json", "patch": [192, 192, 192]})
    patch = propose(plain, scan(), like=like).recipe.data.patch
    assert all(side % 8 == 0 and side % (region or 1) == 0 for side in patch)


def test_there_is_a_recipe_for_scans_of_every_shape(plain: Manifest) -> None:
    """What a proposal breaks of a recipe's own rules would be an InputError, without a file."""
    sides, spacings = (3, 8, 17, 25, 70, 513, 2000), ((1, 1, 1), (0.5, 0.5, 2), (6, 1, 6), (1.5, 1.5, 10), (1, 3, 9))
    vnet = like_recipe(network={"name": "vnet", "filters": 4}, augment={})
    for spacing in spacings:
        for shape in itertools.product(sides, (9, 18, 100), (2, 10, 22)):
            one = scan(shape=np.array(shape, float), spacing_mm=np.array(spacing, float), extent_mm=None)
            for like in (None, vnet):
                recipe = propose(plain, one, like=like).recipe
                assert np.prod(recipe.data.patch) <= PATCH_VOXELS


def test_large_scans_give_a_patch_around_the_structure(plain: Manifest) -> None:
    """The side with the most room beside the structure gives way first."""
    large = scan(shape=np.array([512.0, 512.0, 300.0]), extent_mm=np.array([250.0, 100.0, 150.0]))
    recipe = propose(plain, large).recipe
    assert np.prod(recipe.data.patch) <= PATCH_VOXELS
    assert recipe.data.patch[0] > recipe.data.patch[2] > recipe.data.patch[1]
    assert recipe.data.foreground_crop == 0.5
    assert recipe.train.labeled_rows == 2


# --- intensities


def test_mr_is_zscored(plain: Manifest) -> None:
    assert propose(plain, scan()).recipe.data.intensity.kind == "zscore"


@pytest.mark.parametrize(("channel", "high"), [("CT", 90.0), ("image", 1500.0)])
def test_ct_is_clipped_at_percentiles_of_the_structures(plain: Manifest, channel: str, high: float) -> None:
    """By hand: the values 0 to 1000 have percentiles 5 and 995."""
    values = np.arange(1001, dtype=np.float32)[None]
    ct = scan(low=np.array([-1024.0]), high=np.array([high]), structure=values)
    intensity = propose(
        replace(plain, channels=(channel,)), ct, replace(ct, structure=values[:, :0])
    ).recipe.data.intensity
    assert (intensity.kind, intensity.low, intensity.high) == ("clip", 5.0, 995.0)
    assert intensity.mean == 500.0
    assert intensity.std == pytest.approx(np.clip(values, 5, 995).std(), abs=0.01)


def test_one_scan_unlike_ct_decides_nothing(plain: Manifest) -> None:
    """Its intercept was lost, say: the window is that of the others, and the reason says how many those are."""
    ct = scan(low=np.array([-1024.0]), high=np.array([1500.0]), structure=np.full((1, 10), 40.0, np.float32))
    odd = replace(ct, low=np.array([0.0]), structure=np.full((1, 10), 1064.0, np.float32))
    found = propose(plain, ct, ct, odd)
    assert (found.recipe.data.intensity.kind, found.recipe.data.intensity.low) == ("clip", 40.0)
    assert "values of 2 of 3 scans look like Hounsfield units" in found.reasons["data.intensity.kind"]
    assert propose(plain, ct, odd, odd).recipe.data.intensity.kind == "zscore"


def test_ct_without_labels_takes_what_is_not_air(plain: Manifest) -> None:
    ct = scan(low=np.array([-1024.0]), high=np.array([1500.0]), body=np.full((1, 10), 40.0, np.float32))
    intensity = propose(plain, ct).recipe.data.intensity
    assert (intensity.kind, intensity.low, intensity.high, intensity.std) == ("clip", 40.0, 41.0, 0.01)


@pytest.mark.parametrize(
    ("low", "high", "whole", "kind"),
    [
        (-1003.4, 1530.2, False, "clip"),  # resampled
        (-3024.0, 1500.0, True, "clip"),  # padded by the scanner
        (-32768.0, 3071.0, True, "clip"),
        (-1024.0, 30000.0, True, "clip"),  # metal
        (-600.0, 700.0, True, "clip"),  # cut above air
        (-600.0, 700.0, False, "zscore"),
        (-1000.0, 80.0, False, "zscore"),
        (-4096.0, 4095.0, True, "zscore"),  # phase
    ],
)
def test_hounsfield_units_by_their_range(plain: Manifest, low: float, high: float, whole: bool, kind: str) -> None:
    body = np.arange(99, dtype=np.float32)[None]
    found = propose(plain, scan(low=np.array([low]), high=np.array([high]), whole_numbers=whole, body=body))
    assert found.recipe.data.intensity.kind == kind


@pytest.mark.parametrize("name", ["T1 contrast", "vector", "SCTx", "MRI"])
def test_ct_is_a_word_of_its_own(plain: Manifest, name: str) -> None:
    assert propose(replace(plain, channels=(name,)), scan()).recipe.data.intensity.kind == "zscore"


def test_standardized_scans_are_left_alone(plain: Manifest) -> None:
    exact = scan(mean=np.array([0.01]), std=np.array([0.99]), low=np.array([-3.0]), whole_numbers=False)
    cropped = scan(mean=np.array([1.5]), std=np.array([1.6]), low=np.array([-0.8]), whole_numbers=False)
    assert propose(plain, exact, exact).reasons["data.intensity.kind"] == "every scan has mean 0 and SD 1 already"
    proposal = propose(plain, exact, cropped)
    assert proposal.recipe.data.intensity.kind == "as_stored"
    assert proposal.reasons["data.intensity.kind"].startswith("values look z-scored before a crop")
    assert propose(plain, exact, scan()).recipe.data.intensity.kind == "zscore"


# --- method and views


def test_the_method_follows_the_splits(tmp_path: Path, tiny: SimpleNamespace) -> None:
    both = propose(manifest(tiny, tmp_path / "a", validation=1), scan()).recipe
    assert (both.method.name, both.train.unlabeled_rows, both.train.validate_every) == ("fba_net", 2, 300)
    alone = propose(manifest(tiny, tmp_path / "b", unlabeled=0), scan()).recipe
    assert (alone.method.name, alone.train.unlabeled_rows, alone.train.validate_every) == ("supervised", 0, None)
    assert alone.inference.network == "student"
    assert both.augment.spatial.beyond_patch == alone.augment.spatial.beyond_patch == "scan"


@pytest.mark.parametrize(("labeled", "said"), [(15, False), (16, True)])
def test_with_many_labels_the_reason_names_what_does_as_well(
    labeled: int, said: bool, tmp_path: Path, tiny: SimpleNamespace
) -> None:
    reason = propose(manifest(tiny, tmp_path, labeled=labeled, validation=1), scan()).reasons["method.name"]
    assert ("supervised may do as well" in reason) is said


def named(plain: Manifest, *labels: str) -> Manifest:
    table = {"0": "background", **{str(value): name for value, name in enumerate(labels, 1)}}
    return replace(plain, labels=LabelTable.from_json({"labels": table}))


def test_what_names_a_side_is_not_mirrored(plain: Manifest) -> None:
    def flips(*labels: str) -> tuple[int, ...]:
        return propose(named(plain, *labels), scan()).recipe.augment.spatial.flip_axes

    assert flips("left lung", "right lung") == flips("kidney_left", "kidney_right") == ()
    assert flips("Left atrium") == flips("myocardium", "ventricle_right") == ()  # its mirrored version is background
    assert flips("hippocampus_L", "hippocampus_R") == flips("lh", "rh") == flips("linke Niere", "rechte Niere") == ()
    assert flips("hippocampus") == flips("bright spots", "copyright") == flips("hippocampus L") == (0,)


def like_recipe(**changes: Any) -> Recipe:
    tree = {
        "about": dict.fromkeys(("command", "needs", "gives", "cost"), "x"),
        "seed": 5,
        "data": {"manifest": "other.json", "patch": [32, 32, 32]},
        "augment": {"spatial": {"rotate90_axes": [0, 2]}},
        "network": {"name": "segresnet", "filters": 8},
        "method": {"name": "mean_teacher"},
        "train": {"steps": 77, "unlabeled_rows": 3, "validate_every": 10, "init_from": "runs/x"},
        **changes,
    }
    return recipe_from_tree(tree, where="test")


def test_like_keeps_what_does_not_depend_on_the_data(plain: Manifest) -> None:
    recipe = propose(plain, scan(), like=like_recipe()).recipe
    assert (recipe.seed, recipe.network.name, recipe.method.name, recipe.train.steps) == (
        5,
        "segresnet",
        "mean_teacher",
        77,
    )
    assert recipe.data.patch == (96, 80, 56) and recipe.data.manifest == "m.json"
    assert recipe.augment.spatial.rotate90_axes == ()  # no longer square across them
    assert recipe.train.init_from is None and recipe.train.validate_every == 10
    square = scan(shape=np.array([80.0, 80.0, 40.0]))
    assert propose(plain, square, like=like_recipe()).recipe.augment.spatial.rotate90_axes == (2,)


@pytest.mark.parametrize(("axes", "kept"), [([0], ()), ([0, 1, 2], (1, 2)), ([1], (1,)), ([], ())])
def test_like_does_not_mirror_what_names_a_side(plain: Manifest, axes: list[int], kept: tuple[int, ...]) -> None:
    """Without an axis, a recipe that averages mirrored versions would be refused."""
    like = like_recipe(augment={"spatial": {"flip_axes": axes}}, inference={"flips": bool(axes)})
    proposal = propose(named(plain, "Lung-L", "Lung-R"), scan(), like=like)
    assert proposal.recipe.augment.spatial.flip_axes == kept
    assert proposal.recipe.inference.flips == bool(kept)
    assert ("augment.spatial.flip_axes" in proposal.reasons) == (0 in axes)
    assert ("inference.flips" in proposal.reasons) == (axes == [0])
    other = propose(named(plain, "anterior", "posterior"), scan(), like=like)
    assert other.recipe.augment.spatial.flip_axes == tuple(axes) and other.recipe.inference.flips == bool(axes)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_like_a_recipe_of_slices_takes_slices(plain: Manifest, axis: int) -> None:
    patch = [48, 48, 48]
    patch[axis] = 1
    spatial = {"spatial": {"rotation_axes": [axis]}}
    network = {"name": "unet2d", "filters": 16, "norm": "group", "axis": axis, "encoder": {"name": "resnet20"}}
    like = like_recipe(network=network, data={"manifest": "m.json", "patch": patch}, augment=spatial)
    found = propose(plain, scan(), like=like).recipe.data.patch
    assert found[axis] == 1 and min(found[:axis] + found[axis + 1 :]) > 30


def test_like_a_method_whose_settings_name_the_patch(plain: Manifest) -> None:
    like = like_recipe(
        method={"name": "fba_legacy", "patch": [32, 32, 32]},
        network={"name": "vnet", "filters": 4, "decoders": 3},
    )
    recipe = propose(plain, scan(), like=like).recipe
    assert recipe.method.name == "fba_legacy" and recipe.method.patch == recipe.data.patch == (96, 80, 64)


def test_like_needs_unlabeled_scans_where_its_method_does(tmp_path: Path, tiny: SimpleNamespace) -> None:
    alone = manifest(tiny, tmp_path, unlabeled=0)
    with pytest.raises(InputError, match=r"--like: method mean_teacher learns from unlabeled scans, but .* has none"):
        propose(alone, scan(), like=like_recipe())


# --- the page


@pytest.mark.parametrize("case", ["plain", "thick", "ct", "like"])
def test_the_page_reads_back_as_the_recipe(plain: Manifest, tmp_path: Path, case: str) -> None:
    thick = scan(spacing_mm=np.array([0.8, 0.8, 5.0]), shape=np.array([256.0, 256.0, 24.0]))
    proposal = {
        "plain": lambda: propose(plain, scan()),
        "thick": lambda: propose(replace(plain, name='a: "b" # c', source="d\ne"), thick),
        "ct": lambda: propose(replace(plain, channels=("CT",)), scan(body=np.arange(99, dtype=np.float32)[None])),
        "like": lambda: propose(plain, scan(), like=like_recipe()),
    }[case]()
    path = tmp_path / "new" / "r.yaml"
    write_recipe(path, proposal.recipe, proposal.reasons, looked_at=1)
    assert load_recipe(path) == proposal.recipe


def test_every_key_and_every_reason_is_on_the_page(plain: Manifest) -> None:
    proposal = propose(plain, scan())
    page = recipe_page(proposal.recipe, proposal.reasons, heading="Looked at 1 scan.")
    assert page.startswith("# Looked at 1 scan.\n\nabout:\n")

    def keys(tree: Any) -> Any:
        return {key: keys(value) for key, value in tree.items()} if isinstance(tree, dict) else None

    assert keys(yaml.safe_load(page)) == keys(proposal.recipe.model_dump(mode="json"))
    flat = " ".join(page.replace("#", " ").split())
    assert all(" ".join(reason.split()) in flat for reason in proposal.reasons.values())
    assert "  kind: zscore  # units differ from scan to scan" in page
    assert max(len(line) for line in page.splitlines() if "needs:" not in line) <= 118


def test_paths_start_at_the_recipe(tmp_path: Path) -> None:
    assert relative_path(tmp_path / "data" / "m.json", tmp_path / "recipes" / "r.yaml") == "../data/m.json"
    assert relative_path(tmp_path / "m.json", tmp_path / "r.yaml") == "m.json"
