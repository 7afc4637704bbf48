"""Kinds: geometry (a marked region comes out where it was), by hand, property. From files to a prediction."""

from __future__ import annotations

import itertools
import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from medcontrast.errors import InputError, NonFiniteOutputError, VolumeError
from medcontrast.inference.device import resolve_device
from medcontrast.inference.outputs import Outputs, write_prediction
from medcontrast.inference.predict import Predictor, predict_case
from medcontrast.inference.windows import SLAB_PLANES
from medcontrast.settings.train import InferenceSettings

SHAPE = (30, 37, 21)


def expected(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.select([array == 100, array == 50], [7, 3]).astype(np.uint16)


def centre_mm(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]


@pytest.mark.parametrize("mirrored", [False, True])
def test_without_resampling_every_voxel_comes_back(tmp_path: Path, tools: SimpleNamespace, mirrored: bool) -> None:
    array, affine = tools.marked(SHAPE), tools.oblique_affine(mirrored)
    path = tools.write_nifti(tmp_path / "a.nii.gz", array, affine)
    prediction = tools.threshold_predictor().predict_scan([path])
    assert np.array_equal(prediction.label_map, expected(array))
    mask = tmp_path / "a_seg.nii.gz"
    write_prediction(prediction, Outputs(mask, tmp_path / "a_seg.json"), overwrite=False)
    written, scan = nib.load(mask), nib.load(path)
    assert np.array_equal(np.asanyarray(written.dataobj), expected(array))
    assert written.get_data_dtype() == np.uint8
    assert np.allclose(written.affine, affine, atol=1e-4)
    for name in ("sform_code", "qform_code", "quatern_b", "quatern_c", "quatern_d", "srow_x", "srow_y", "srow_z"):
        assert np.array_equal(written.header[name], scan.header[name])
    assert np.array_equal(written.header["pixdim"][:4], scan.header["pixdim"][:4])


@pytest.mark.parametrize("mirrored", [False, True])
def test_after_resampling_the_region_is_where_it_was(tmp_path: Path, tools: SimpleNamespace, mirrored: bool) -> None:
    array, affine = tools.marked(SHAPE), tools.oblique_affine(mirrored)
    path = tools.write_nifti(tmp_path / "a.nii.gz", array, affine)
    predictor = tools.threshold_predictor(spacing_mm=[0.9, 1.0, 1.2])
    found = predictor.predict_scan([path]).label_map
    wanted = expected(array)
    assert found.shape == SHAPE
    for value in (3, 7):
        both = np.logical_and(found == value, wanted == value).sum()
        assert 2 * both / ((found == value).sum() + (wanted == value).sum()) > 0.8
    # halves of the edge voxels go to the neighbour class, evenly on both sides
    whole, true = found > 0, wanted > 0
    assert 2 * (whole & true).sum() / (whole.sum() + true.sum()) > 0.93
    assert np.linalg.norm(centre_mm(found == 7, affine) - centre_mm(wanted == 7, affine)) < 0.35


def test_nrrd_and_metaimage_scans(tmp_path: Path, tools: SimpleNamespace) -> None:
    array = tools.marked(SHAPE)
    image = sitk.GetImageFromArray(array.transpose())
    image.SetSpacing((1.5, 0.7, 2.0))
    image.SetOrigin((10, -20, 30))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    for name in ("a.nrrd", "a.mha"):
        sitk.WriteImage(image, tmp_path / name)
        prediction = tools.threshold_predictor().predict_scan([tmp_path / name])
        assert np.array_equal(prediction.label_map, expected(array))
        write_prediction(prediction, Outputs(tmp_path / "a_seg.nii.gz", tmp_path / "a_seg.json"), overwrite=True)
        back = sitk.ReadImage(str(tmp_path / "a_seg.nii.gz"))  # a reader of its own, in LPS
        index = (4, 3, 5)
        assert np.allclose(
            back.TransformIndexToPhysicalPoint(index), image.TransformIndexToPhysicalPoint(index), atol=1e-3
        )
        assert back.GetPixel(*index) == 7


def write_dicom(folder: Path, array: NDArray[np.float32]) -> None:
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(array.shape[2]):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = series, study, frame
        data.Modality, data.PatientID, data.PatientName = "MR", "1", "A"
        data.Rows, data.Columns = array.shape[1], array.shape[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.PixelSpacing, data.SliceThickness = [0.8, 1.5], 2.5
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [-10, -20, 30 + 2.5 * k]
        data.InstanceNumber = array.shape[2] - k  # against the order of position
        data.PixelData = array[:, :, k].T.astype(np.uint16).tobytes()
        data.save_as(folder / f"{(k * 8) % array.shape[2]:03d}", enforce_file_format=True)


def test_a_dicom_folder(tmp_path: Path, tools: SimpleNamespace) -> None:
    array = tools.marked(SHAPE)
    write_dicom(tmp_path / "series", array)
    prediction = tools.threshold_predictor().predict_scan([tmp_path / "series"])
    assert np.array_equal(prediction.label_map, expected(array))
    assert prediction.record["geometry"]["source"] == "DICOM image position and orientation"
    # column, row and slice steps in RAS
    affine = [[-1.5, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    assert np.allclose(prediction.grid.affine, affine)


def test_the_largest_component_is_taken_on_the_label_map(tmp_path: Path, tools: SimpleNamespace) -> None:
    array = tools.marked(SHAPE)
    array[28, 1, 19] = 100
    path = tools.write_nifti(tmp_path / "a.nii.gz", array, np.eye(4))
    for rule, kept in (("none", True), ("each", False), ("joint", False)):
        predictor = tools.threshold_predictor(InferenceSettings(largest_component=rule))
        found = predictor.predict_scan([path]).label_map
        assert (found[28, 1, 19] == 7) == kept
        assert (found == 3).any() == (rule != "joint" or (expected(array) == 3).sum() > (expected(array) == 7).sum())


@pytest.mark.parametrize("axes", ["RAS", "LPI", "SPL"])
def test_of_two_equal_pieces_the_same_stays_in_every_order_of_axes(
    tmp_path: Path, tools: SimpleNamespace, axes: str
) -> None:
    array = np.zeros(SHAPE, np.float32)
    array[3:5, 4, 5] = array[20:22, 9, 15] = 100
    path = tools.write_nifti(tmp_path / "a.nii.gz", array, np.eye(4))
    image = nib.load(path)
    turns = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(axes))
    )
    nib.save(image.as_reoriented(turns), tmp_path / "turned.nii.gz")
    predictor = tools.threshold_predictor(InferenceSettings(largest_component="each"))
    prediction = predictor.predict_scan([tmp_path / "turned.nii.gz"])
    places = [prediction.grid.affine[:3] @ [*place, 1] for place in np.argwhere(prediction.label_map)]
    assert sorted(tuple(np.rint(place).astype(int)) for place in places) == [(3, 4, 5), (4, 4, 5)]


def test_probabilities_and_entropy_lie_on_the_scans_grid(tmp_path: Path, tools: SimpleNamespace) -> None:
    path = tools.write_nifti(tmp_path / "a.nii.gz", tools.marked(SHAPE), tools.oblique_affine())
    predictor = tools.threshold_predictor(spacing_mm=[1.0, 1.0, 1.5])
    prediction = predictor.predict_scan([path], probabilities=True, entropy=True)
    probabilities, entropy = prediction.probabilities, prediction.entropy
    assert probabilities is not None and entropy is not None
    assert probabilities.shape == (*SHAPE, 3) and entropy.shape == SHAPE
    assert np.allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    assert np.array_equal(np.array([0, 3, 7])[probabilities.argmax(axis=-1)], prediction.label_map)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probabilities > 0, -probabilities * np.log(probabilities), 0)
    assert np.allclose(entropy, terms.sum(axis=-1) / math.log(3), atol=1e-5)
    assert entropy.min() >= 0 and entropy.max() <= 1 and entropy.max() > 0.1
    planned = Outputs(*(tmp_path / name for name in ("m.nii.gz", "m.json", "p.nii.gz", "e.nii.gz")))
    write_prediction(prediction, planned, overwrite=False)
    assert nib.load(tmp_path / "p.nii.gz").shape == (*SHAPE, 3)
    assert np.allclose(np.asanyarray(nib.load(tmp_path / "e.nii.gz").dataobj), entropy)


def test_an_ensemble_averages_probabilities(tmp_path: Path, tools: SimpleNamespace) -> None:
    paths = [tools.write_checkpoint(tmp_path / f"{n}/last.safetensors", phase=float(n)) for n in range(2)]
    scan = tools.write_nifti(tmp_path / "a.nii.gz", tools.marked((20, 17, 18)), np.eye(4))
    alone = [Predictor.load([path]).predict_scan([scan], probabilities=True).probabilities for path in paths]
    both = Predictor.load(paths).predict_scan([scan], probabilities=True)
    assert not np.allclose(alone[0], alone[1], atol=1e-2)
    assert both.probabilities is not None
    assert np.allclose(both.probabilities, (alone[0] + alone[1]) / 2, atol=1e-5)
    assert [entry["checkpoint"] for entry in both.record["checkpoints"]] == ["0/last.safetensors", "1/last.safetensors"]


@pytest.mark.parametrize("axes_trained", [(0, 1, 2), (1,)])
def test_flips_average_the_scans_mirrored_as_in_training(
    tmp_path: Path, tools: SimpleNamespace, axes_trained: tuple[int, ...]
) -> None:
    path = tools.write_checkpoint(tmp_path / "last.safetensors", flip_axes=axes_trained)
    plain, flipped = Predictor.load([path]), Predictor.load([path], overrides={"flips": True})
    assert flipped.settings.flips and not plain.settings.flips
    image = torch.sin(torch.arange(16**3) * 0.1).reshape(1, 16, 16, 16)
    total = torch.zeros(3, 16, 16, 16)
    versions = [axes for count in range(4) for axes in itertools.combinations(axes_trained, count)]
    for version in versions:
        axes = [axis + 1 for axis in version]
        total += plain.predict_probabilities(image.flip(axes)).flip(axes) / len(versions)
    assert torch.allclose(flipped.predict_probabilities(image), total, atol=1e-5)


def test_two_channels_need_two_files_on_one_grid(tmp_path: Path, tools: SimpleNamespace) -> None:
    array = tools.marked(SHAPE)
    half = [tools.write_nifti(tmp_path / f"a_000{n}.nii.gz", array / 2, np.eye(4)) for n in range(2)]
    predictor = tools.threshold_predictor(channels=2)
    assert np.array_equal(predictor.predict_scan(half).label_map, expected(array))
    with pytest.raises(VolumeError, match=r"takes 2 channel\(s\) \(channel 0, channel 1\), one file each.* has 1 file"):
        predictor.predict_scan(half[:1])
    other = tools.write_nifti(tmp_path / "b.nii.gz", array, np.diag([2.0, 1, 1, 1]))
    with pytest.raises(VolumeError, match=r"b\.nii\.gz: its corners lie up to 29 mm off"):
        predictor.predict_scan([half[0], other])


def test_an_unusable_scan_is_refused(tmp_path: Path, tools: SimpleNamespace) -> None:
    array = tools.marked(SHAPE)
    array[3, 4, 5] = np.nan
    path = tools.write_nifti(tmp_path / "a.nii.gz", array, np.eye(4))
    with pytest.raises(VolumeError, match=r"NaN or infinite, the first at index \(3, 4, 5\)"):
        tools.threshold_predictor().predict_scan([path])


def test_the_record_says_what_was_done_and_no_foreign_paths(tmp_path: Path, tools: SimpleNamespace) -> None:
    path = tools.write_checkpoint(tmp_path / "run-1" / "last.safetensors")
    array = tools.marked((20, 17, 18))
    scan = tools.write_nifti(tmp_path / "a.nii.gz", array, np.diag([0.5, 2, 3, 1]))
    prediction = Predictor.load([path], "cpu").predict_scan([scan], names=["scans/a.nii.gz"])
    write_prediction(prediction, Outputs(tmp_path / "a_seg.nii.gz", tmp_path / "a_seg.json"), overwrite=False)
    text = (tmp_path / "a_seg.json").read_text()
    record = json.loads(text)
    assert "somebody" not in text and str(tmp_path) not in text
    assert record["mask"] == "a_seg.nii.gz" and record["inputs"] == ["scans/a.nii.gz"]
    assert record["labels"]["labels"]["7"]["name"] == "left atrium"
    assert record["geometry"]["source"] == "NIfTI sform, code 2"
    assert record["geometry"]["spacing_mm"] == [0.5, 2.0, 3.0]
    counts = {
        name: int(np.isin(prediction.label_map, values).sum())
        for name, values in {"wall": [3], "left atrium": [7], "heart": [3, 7]}.items()
    }
    assert sum(counts.values()) > 0
    assert record["volumes"] == {
        name: {"voxels": count, "volume_ml": pytest.approx(count * 0.003)} for name, count in counts.items()
    }
    assert record["settings"] == {
        "window": None,
        "overlap": 0.5,
        "weighting": "gaussian",
        "window_batch": 4,
        "flips": False,
        "largest_component": "none",
        "device": "cpu",
        "precision": "float32",
    }
    member = record["checkpoints"][0]
    assert member["checkpoint"] == "run-1/last.safetensors" and len(member["sha256"]) == 64
    assert member["recipe"]["network"]["filters"] == 2 and member["recipe"]["data"]["manifest"] == "m.json"
    assert set(record["versions"]) >= {"python", "torch", "monai", "numpy"}
    assert record["medcontrast"] and record["seconds"] >= 0


def test_16_bit_weights_predict_almost_the_same(tmp_path: Path, tools: SimpleNamespace) -> None:
    full = Predictor.load([tools.write_checkpoint(tmp_path / "full.safetensors")])
    half = Predictor.load([tools.write_checkpoint(tmp_path / "half.safetensors", half=True)])
    image = torch.sin(torch.arange(16**3) * 0.1).reshape(1, 16, 16, 16)
    assert all(value.dtype == torch.float32 for value in half.members[0].network.state_dict().values())
    assert torch.allclose(full.predict_probabilities(image), half.predict_probabilities(image), atol=2e-2)


def test_predict_case_gives_the_class_and_leaves_modes_alone(tools: SimpleNamespace) -> None:
    network = torch.nn.Sequential(tools.threshold(), torch.nn.Identity())
    network.train()
    network[0].eval()
    image = torch.from_numpy(tools.marked(SHAPE))[None]
    found = predict_case(network, image, patch=(16, 16, 16), settings=InferenceSettings(), device="cpu")
    assert found.dtype == torch.int16 and found.shape == SHAPE
    assert np.array_equal(np.array([0, 3, 7])[found.numpy()], expected(image[0].numpy()))
    assert network.training and not network[0].training and network[1].training


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("window", [(16, 16, 16), (48, 48, 32)])
@pytest.mark.parametrize("kept", [False, True])
def test_output_that_is_not_finite_in_one_voxel_is_no_mask(
    tmp_path: Path, tools: SimpleNamespace, value: float, window: tuple[int, int, int], kept: bool
) -> None:
    """NaN is not larger than anything, and would be background without a word."""

    class Broken(tools.threshold):  # type: ignore[misc, name-defined]
        def forward(self, image: torch.Tensor) -> Any:
            output = super().forward(image)
            output.logits[:, 1].masked_fill_(image[:, 0] > 150, value)
            return output

    predictor = tools.threshold_predictor(InferenceSettings(window=window))
    predictor = replace(predictor, members=(replace(predictor.members[0], network=Broken()),))
    image = tools.marked(SHAPE)
    path = tools.write_nifti(tmp_path / "a.nii.gz", image, np.eye(4))
    assert predictor.predict_scan([path], probabilities=kept).label_map.any()
    image[-1, -1, -1] = 200
    path = tools.write_nifti(tmp_path / "b.nii.gz", image, np.eye(4))
    with pytest.raises(
        NonFiniteOutputError, match=r"b\.nii\.gz: the network's output is NaN or infinite in some voxels"
    ):
        predictor.predict_scan([path], probabilities=kept)


def test_networks_run_in_evaluation_mode_without_gradient(tools: SimpleNamespace) -> None:
    seen: list[Any] = []

    class Watching(tools.threshold):  # type: ignore[misc, name-defined]
        def forward(self, image: torch.Tensor) -> Any:
            seen.append((self.training, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
            return super().forward(image)

    network = Watching().train()
    for autocast in (nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)):
        predict_case(
            network,
            torch.zeros(1, 8, 8, 8),
            patch=(8, 8, 8),
            settings=InferenceSettings(),
            device="cpu",
            autocast=autocast,
        )
    assert seen == [(False, False, False), (False, False, True)]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gpu", "--device gpu: expected cpu, cuda, cuda:N or mps"),
        ("meta", "--device meta: expected cpu, cuda, cuda:N or mps"),
        ("cuda:99", "--device cuda:99: there is no such device here; take --device cpu"),
    ],
)
def test_devices_that_are_not_there(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        resolve_device(name)
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("spacing", [None, [0.9, 1.0, 1.2]])
def test_a_large_scan_is_kept_in_16_bits_and_comes_out_the_same(
    tmp_path: Path, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, spacing: list[float] | None
) -> None:
    path = tools.write_nifti(tmp_path / "a.nii.gz", tools.marked(SHAPE), tools.oblique_affine(False))
    predictor = tools.threshold_predictor(spacing_mm=spacing)
    kept: list[torch.dtype] = []
    whole = Predictor.predict_probabilities

    def watched(self: Predictor, image: torch.Tensor) -> torch.Tensor:
        found = whole(self, image)
        kept.append(found.dtype)
        return found

    monkeypatch.setattr(Predictor, "predict_probabilities", watched)
    plain = predictor.predict_scan([path]).label_map
    monkeypatch.setattr("medcontrast.inference.predict.FLOAT32_BYTES", 0)
    small = predictor.predict_scan([path]).label_map
    assert kept == ([] if spacing is None else [torch.float32, torch.float16])
    assert (plain != small).mean() < 1e-3


def test_the_class_of_an_ensemble_is_that_of_its_mean_probabilities(tmp_path: Path, tools: SimpleNamespace) -> None:
    paths = [tools.write_checkpoint(tmp_path / f"{name}.safetensors", phase=name) for name in (0.0, 1.0)]
    image = torch.sin(torch.arange(24 * 18 * 20) * 0.1).reshape(1, 24, 18, 20)
    alone = [Predictor.load([path], "cpu") for path in paths]
    both = Predictor.load(paths, "cpu")
    expected = sum(predictor.predict_probabilities(image) for predictor in alone) / 2
    assert torch.allclose(both.predict_probabilities(image), expected, atol=1e-6)
    classes = both.predict_classes(image)
    assert torch.equal(classes, expected.argmax(dim=0).to(torch.int16))
    assert not all(torch.equal(classes, predictor.predict_classes(image)) for predictor in alone)


def test_classes_by_slabs_are_those_of_the_whole(tmp_path: Path, tools: SimpleNamespace) -> None:
    predictor = tools.threshold_predictor()
    image = torch.sin(torch.arange(40 * 18 * 20) * 0.11).reshape(1, 40, 18, 20) * 60 + 60
    whole = predictor.predict_probabilities(image)
    assert torch.equal(predictor.predict_classes(image), whole.argmax(dim=0).to(torch.int16))
    slabs = list(predictor.predict_slabs(image))
    assert len(slabs) >= 3 and all(slab.shape[1] <= SLAB_PLANES for slab in slabs)
    assert torch.equal(torch.cat(slabs, dim=1), whole)


def test_the_window_of_the_settings_replaces_the_patch(tools: SimpleNamespace) -> None:
    seen: set[tuple[int, ...]] = set()
    predictor = tools.threshold_predictor()
    network = predictor.members[0].network
    hook = network.register_forward_pre_hook(lambda _, inputs: seen.add(tuple(inputs[0].shape[2:])))
    for window in (None, (32, 16, 24)):
        settings = predictor.settings.model_copy(update={"window": window})
        predict_case(network, torch.zeros(1, 40, 30, 30), patch=(16, 16, 16), settings=settings, device="cpu")
    hook.remove()
    assert seen == {(16, 16, 16), (32, 16, 24)}
