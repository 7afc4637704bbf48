"""By hand: where the label table comes from, what is written, and every refusal; the command in process."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
import typer
from typer.testing import CliRunner

from medcontrast.commands.export import export
from medcontrast.errors import InputError, ManifestError, OutputError, VolumeError
from medcontrast.export import FORMATS, export_mask, read_label_table, require_exportable, slicer
from medcontrast.labels import LabelTable
from medcontrast.volume import read_grid, read_volume, write_label
from medcontrast.volume.grid import Grid

TABLE = LabelTable.from_json({"labels": {"0": "background", "1": "left atrium", "2": "scar"}})
GRID = Grid((4, 5, 6), np.diag([1.0, 2.0, 3.0, 1.0]))


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """A mask with the record that goes with it."""
    array = np.zeros(GRID.shape, np.uint8)
    array[1, 2, 3] = 2
    path = tmp_path / "scan_seg.nii.gz"
    write_label(path, array, GRID)
    path.with_name("scan_seg.json").write_text(json.dumps({"labels": TABLE.to_json(), "seconds": 1.5}))
    return path


def test_the_record_beside_the_mask_names_its_labels(mask: Path) -> None:
    assert export_mask(mask) == (mask.with_name("scan_seg.seg.nrrd"),)
    segmentation = slicerio.read_segmentation(str(mask.with_name("scan_seg.seg.nrrd")))
    assert [segment["name"] for segment in segmentation["segments"]] == ["left atrium", "scar"]
    assert segmentation["voxels"][1, 2, 3] == 2


def test_a_manifest_leads_over_the_record(mask: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"labels": {"0": "background", "1": "one", "2": "two"}, "labeled": []}))
    assert [label.name for label in read_label_table(mask, manifest).labels] == ["one", "two"]
    assert [label.name for label in read_label_table(mask).labels] == ["left atrium", "scar"]


def test_nifti_gets_a_colour_table(mask: Path, tmp_path: Path) -> None:
    before = mask.read_bytes()
    assert export_mask(mask, format="nii.gz") == (tmp_path / "scan_seg.ctbl",)  # the mask itself is one already
    assert mask.read_bytes() == before
    written = export_mask(mask, output_path=tmp_path / "flat.nii.gz", format="nii.gz")
    assert written == (tmp_path / "flat.nii.gz", tmp_path / "flat.ctbl")
    assert "2 scar" in (tmp_path / "flat.ctbl").read_text()
    again = export_mask(
        export_mask(mask)[0], labels_path=tmp_path / "scan_seg.json", output_path=tmp_path / "b.nii.gz", format="nii.gz"
    )[0]
    volume, first = read_volume(again, "label"), read_volume(mask, "label")
    np.testing.assert_array_equal(volume.array, first.array)
    assert volume.grid.same_as(first.grid, 1e-3)


def test_the_reference_lends_its_grid(mask: Path, tmp_path: Path) -> None:
    nudged = GRID.affine.copy()
    nudged[0, 3] += 0.009  # less than a hundredth of a voxel
    scan = nib.Nifti1Image(np.zeros(GRID.shape, np.int16), nudged)
    scan.to_filename(tmp_path / "scan.nii")
    (path,) = export_mask(mask, tmp_path / "scan.nii")
    assert read_volume(path, "label").grid.affine[0, 3] == pytest.approx(0.009, abs=1e-6)


def test_a_mask_stored_in_another_order_is_put_on_its_scan(mask: Path, tmp_path: Path) -> None:
    before = read_volume(mask, "label")
    image = nib.load(mask, mmap=False)
    turns = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("PIR"))
    nib.save(image, tmp_path / "scan.nii")
    nib.save(image.as_reoriented(turns), mask)
    with pytest.raises(
        InputError, match=r"stores its axes in another order than .*scan\.nii; name another output with -o"
    ):
        export_mask(mask, tmp_path / "scan.nii", format="nii.gz", overwrite=True)
    (path,) = export_mask(mask, tmp_path / "scan.nii", overwrite=True)
    after = read_volume(path, "label")
    assert after.grid.same_as(before.grid, 1e-3)
    np.testing.assert_array_equal(after.array, before.array)


@pytest.mark.parametrize("format", ["seg.nrrd", "nii.gz"])
def test_ignored_voxels_are_no_structure_to_export(mask: Path, tmp_path: Path, format: str) -> None:
    image = nib.load(mask, mmap=False)
    array = np.asarray(image.dataobj).copy()
    array[0, 0, 0] = 255
    nib.save(nib.Nifti1Image(array, image.affine), mask)
    table = {**TABLE.to_json(), "ignore_label": 255}
    mask.with_name("scan_seg.json").write_text(json.dumps({"labels": table}))
    with pytest.raises(
        VolumeError, match=r"holds the ignored value 255, of which nothing is known and which no program"
    ):
        export_mask(mask, format=format, overwrite=True)


def swap_in_slicer(export: Path) -> None:
    """Saved again with its two segments in another order, and their values with them."""
    image = sitk.ReadImage(str(export))
    values = sitk.GetArrayFromImage(image)
    swapped = sitk.GetImageFromArray(np.select([values == 1, values == 2], [2, 1]).astype(np.uint8))
    swapped.CopyInformation(image)
    for key in image.GetMetaDataKeys():
        if key.startswith("Segment"):
            other = key.translate(str.maketrans("01", "10")) if key.startswith(("Segment0", "Segment1")) else key
            swapped.SetMetaData(other, image.GetMetaData(key))
    for number in (0, 1):
        swapped.SetMetaData(f"Segment{number}_LabelValue", str(number + 1))
    sitk.WriteImage(swapped, str(export), True)


@pytest.mark.parametrize("format", FORMATS)
def test_segments_in_another_order_keep_their_names(mask: Path, tmp_path: Path, format: str) -> None:
    edited = export_mask(mask)[0].rename(tmp_path / "edited.seg.nrrd")
    swap_in_slicer(edited)
    segmentation = slicerio.read_segmentation(str(edited))
    assert [segment["name"] for segment in segmentation["segments"]] == ["scar", "left atrium"]
    assert segmentation["voxels"][1, 2, 3] == 1
    told: list[str] = []
    record = mask.with_name("scan_seg.json")
    written = export_mask(edited, None, record, tmp_path / f"again.{format}", format, tell=told.append)
    np.testing.assert_array_equal(read_volume(written[0], "label").array, read_volume(mask, "label").array)
    assert told == [
        f"{edited}: its segments have other values than in the label table, and are read by name: scar 1 as 2."
    ]


def test_names_that_contradict_the_table_become_no_export(mask: Path, tmp_path: Path) -> None:
    edited = export_mask(mask)[0].rename(tmp_path / "edited.seg.nrrd")
    other = tmp_path / "other.json"
    array = read_volume(mask, "label").array.copy()
    array[0] = 1
    write_label(mask, array, GRID, overwrite=True)
    export_mask(mask, output_path=edited, overwrite=True)
    other.write_text(json.dumps({"labels": {"1": "scar", "2": "tissue"}}))
    with pytest.raises(VolumeError, match=r"contradicts the label table .* as the table knows no left atrium; in 3D"):
        export_mask(edited, labels_path=other, output_path=tmp_path / "x.seg.nrrd")
    assert not (tmp_path / "x.seg.nrrd").exists()


def unplaced(folder: Path) -> Path:
    """A scan with sform and qform codes 0, and its mask with a record: codes 0 too."""
    scan = nib.Nifti1Image(np.zeros(GRID.shape, np.int16), None)
    scan.header.set_zooms((1, 2, 3))
    scan.to_filename(folder / "scan.nii")
    array = np.zeros(GRID.shape, np.uint8)
    array[1, 2, 3] = 2
    write_label(folder / "scan_seg.nii.gz", array, read_grid(folder / "scan.nii"))
    (folder / "scan_seg.json").write_text(json.dumps({"labels": TABLE.to_json()}))
    return folder / "scan.nii"


def test_a_grid_without_a_place_becomes_no_seg_nrrd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = unplaced(tmp_path)
    mask = tmp_path / "scan_seg.nii.gz"
    sentence = (
        r"does not say where it lies or which side is left \(the codes of its sform and qform are both 0\), and 3D "
        r"Slicer would show a \.seg\.nrrd of it mirrored and moved; set one of them in its header first, or "
    )
    for reference, at_fault in ((None, mask), (scan, scan)):
        with pytest.raises(VolumeError, match=f"^{at_fault}: {sentence}use the NIfTI mask as it is: it lies where the"):
            export_mask(mask, reference)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "scan_seg.seg.nrrd").exists()
    with pytest.raises(
        VolumeError, match=f"^{scan}: {sentence}leave --export out: a NIfTI mask lies where the scan lies"
    ):
        require_exportable(scan, "seg.nrrd")
    require_exportable(scan, "nii.gz")
    assert export_mask(mask, format="nii.gz", tell=lambda warning: None) == (tmp_path / "scan_seg.ctbl",)
    # why: ITK and nibabel place such a scan differently, but scan and mask alike
    in_itk = [sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint((1, 2, 3)) for path in (scan, mask)]
    x, y, z, _ = read_grid(mask).affine @ [1, 2, 3, 1]
    assert in_itk[0] == in_itk[1] != (-x, -y, z)


def test_warnings_of_the_grid_are_told(tmp_path: Path, mask: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheared = GRID.affine.copy()
    sheared[1, 2] = 1.5
    scan = nib.Nifti1Image(np.zeros(GRID.shape, np.int16), None)
    scan.set_sform(sheared, 1)
    scan.set_qform(sheared, 1, strip_shears=True)
    scan.to_filename(tmp_path / "scan.nii")
    array = read_volume(mask, "label").array
    write_label(mask, array, read_grid(tmp_path / "scan.nii"), overwrite=True)
    export_mask(mask)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"Warning: {mask}: its qform and sform place it differently")
    assert captured.err.endswith("built on ITK use the qform, and show a .seg.nrrd of it off the scan.\n")
    told: list[str] = []
    export_mask(mask, tmp_path / "scan.nii", overwrite=True, tell=told.append)
    assert [text.split(":")[0] for text in told] == [str(tmp_path / "scan.nii")]
    assert capsys.readouterr().err == ""


def test_refusals(mask: Path, tmp_path: Path) -> None:
    def refused(error: type[InputError], sentence: str, *args: object, **options: object) -> None:
        with pytest.raises(error, match=sentence):
            export_mask(*args, **options)  # type: ignore[arg-type]

    nib.Nifti1Image(np.zeros(GRID.shape, np.int16), np.diag([1.0, 2.0, 3.5, 1.0])).to_filename(tmp_path / "other.nii")
    refused(
        VolumeError,
        r"scan_seg\.nii\.gz: does not lie on the grid of .*other\.nii: its corners lie up to 2\.5 mm off: 4 x 5 "
        r"x 6 voxels of 1 x 2 x 3 mm, .*, not 4 x 5 x 6 voxels of 1 x 2 x 3\.5 mm, .*\. Give the scan "
        r"the mask was made from, or leave --reference out; of a mask that 3D Slicer cropped, make the "
        r"scan its reference geometry there \(Segment Editor, Specify geometry\) and save it again",
        mask,
        tmp_path / "other.nii",
    )
    refused(VolumeError, r"no\.nii: there is no such file", tmp_path / "no.nii")
    refused(VolumeError, r"no\.nii: there is no such file", mask, tmp_path / "no.nii")
    refused(InputError, r"^'stl' is not a known format; choose seg\.nrrd or nii\.gz\.$", mask, format="stl")
    refused(
        InputError,
        r"out\.nrrd: the format seg\.nrrd needs an output that ends in \.seg\.nrrd\.$",
        mask,
        output_path=tmp_path / "out.nrrd",
    )
    refused(ManifestError, r"no\.json: cannot be read \(No such file", mask, labels_path=tmp_path / "no.json")
    (tmp_path / "bad.json").write_text("{")
    refused(ManifestError, r"bad\.json: not valid JSON", mask, labels_path=tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("[1]")
    refused(ManifestError, r'bad\.json: expected "labels" as', mask, labels_path=tmp_path / "bad.json")
    (tmp_path / "one.json").write_text(json.dumps({"labels": {"0": "background", "1": "one"}}))
    for format in FORMATS:
        sentence = r"scan_seg\.nii\.gz: the mask holds the value 2, but the label table knows 0, 1 only"
        refused(VolumeError, sentence, mask, labels_path=tmp_path / "one.json", format=format)
    assert not (tmp_path / "scan_seg.seg.nrrd").exists()
    export_mask(mask)
    refused(OutputError, r"scan_seg\.seg\.nrrd: exists already; add --overwrite", mask)
    export_mask(mask, overwrite=True)
    (tmp_path / "scan_seg.json").unlink()
    refused(
        InputError,
        r"scan_seg\.nii\.gz: the names of its labels are not known: there is no record scan_seg\.json beside it\. "
        r"Name a manifest, dataset\.json or record that has them with --labels\.$",
        mask,
    )


@pytest.mark.parametrize("format", FORMATS)
def test_values_are_looked_at_once(mask: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    looked: list[int] = []
    count = slicer.voxels_by_value
    monkeypatch.setattr(slicer, "voxels_by_value", lambda label_map: looked.append(label_map.size) or count(label_map))
    export_mask(mask, output_path=tmp_path / f"out.{format}", format=format)
    assert len(looked) == 1


def test_the_command_prints_what_it_wrote(mask: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(export)
    result = CliRunner().invoke(app, [str(mask), "--output", str(tmp_path / "out.seg.nrrd")])
    assert result.exit_code == 0, result.output
    assert result.output.replace("\n", "") == f"Wrote {tmp_path / 'out.seg.nrrd'}"
    again = CliRunner().invoke(app, [str(mask), "-o", str(tmp_path / "out.seg.nrrd")])
    assert isinstance(again.exception, OutputError)
    assert again.exception.exit_code == 2
    assert CliRunner().invoke(app, [str(mask), "-o", str(tmp_path / "out.seg.nrrd"), "--overwrite"]).exit_code == 0


@pytest.mark.parametrize("format", FORMATS)
def test_the_scan_is_never_written_over(mask: Path, tmp_path: Path, format: str) -> None:
    scan = tmp_path / f"scan.{format}"
    write_label(tmp_path / "scan.nii.gz", np.full(GRID.shape, 7, np.uint8), GRID)
    if format == "seg.nrrd":
        scan.write_bytes(export_mask(mask)[0].read_bytes())
    before = scan.read_bytes()
    with pytest.raises(
        InputError, match=rf"scan\.{format}: is the scan, and would be written over; name another output"
    ):
        export_mask(mask, scan, output_path=scan, format=format, overwrite=True)
    assert scan.read_bytes() == before


def test_a_segmentation_named_after_its_scan_does_not_take_the_scans_name(mask: Path, tmp_path: Path) -> None:
    segmentation = export_mask(mask)[0].rename(tmp_path / "scan.seg.nrrd")
    written = export_mask(segmentation, labels_path=tmp_path / "scan_seg.json", format="nii.gz", overwrite=True)
    assert written == (tmp_path / "scan_seg.nii.gz", tmp_path / "scan_seg.ctbl")


def test_an_export_that_was_edited_is_not_written_over(mask: Path) -> None:
    (export,) = export_mask(mask)
    assert export_mask(mask, overwrite=True) == (export,)  # nobody has touched it
    sitk.WriteImage(sitk.ReadImage(str(export)), str(export), True)
    before = export.read_bytes()
    with pytest.raises(OutputError, match=r"scan_seg\.seg\.nrrd: was saved by 3D Slicer or another program since"):
        export_mask(mask, overwrite=True)
    assert export.read_bytes() == before


@pytest.mark.parametrize("format", FORMATS)
def test_a_table_that_numbers_structures_otherwise_than_the_record(mask: Path, tmp_path: Path, format: str) -> None:
    record = mask.with_name("scan_seg.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "mask": mask.name}))
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"labels": {"1": "scar", "2": "left atrium"}}))
    told: list[str] = []
    written = export_mask(
        mask, labels_path=other, output_path=tmp_path / f"b.{format}", format=format, tell=told.append
    )
    assert read_volume(written[0], "label").array[1, 2, 3] == 1
    assert told == [
        f"{mask}: its segments have other values than in the label table, and are read by name: scar 2 as 1."
    ]
