"""What the phantom shows: an atrium with veins and appendage among neighbours of like intensity, drawn as distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medcontrast.transforms.rotation import rotation

Array = NDArray[np.float32]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Anatomy:
    """The region before a scanner has seen it.

    Attributes:
        signal: (x, y, z) float32; blood is about 0.8.
        atrium: (x, y, z) bool, the cavity with appendage and the first centimetre of the veins.
    """

    signal: Array
    atrium: NDArray[np.bool_]


class Scene:
    """Points of the grid in mm, bent by a smooth random field, and signed distances to shapes in them (inside < 0)."""

    def __init__(self, random: np.random.Generator, shape: tuple[int, int, int], spacing: Vector) -> None:
        axes = [
            (np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(s) for n, s in zip(shape, spacing, strict=True)
        ]
        straight = np.stack(np.meshgrid(*axes, indexing="ij"))
        bend = np.stack([smooth_noise(random, shape, cells=4) for _ in range(3)])
        fine = np.stack([smooth_noise(random, shape, cells=9) for _ in range(3)])
        self.points: Array = straight + np.float32(random.uniform(3.0, 7.0)) * bend + np.float32(1.3) * fine
        self.edge = np.float32(np.mean(spacing))

    def ellipsoid(self, center: Vector, radii: Vector, turn: Vector) -> Array:
        """Approximate distance in mm to an ellipsoid whose axes are the columns of `turn`."""
        local = np.stack([_along(self._from(center), axis) for axis in turn.T])
        r = radii.astype(np.float32)[:, None, None, None]
        inner = np.sqrt(((local / r) ** 2).sum(0)) + np.float32(1e-6)
        gradient = np.sqrt(((local / r**2) ** 2).sum(0)) + np.float32(1e-6)
        distance: Array = inner * (inner - 1) / gradient
        return distance

    def tube(self, start: Vector, end: Vector, radius_start: float, radius_end: float) -> Array:
        """Distance in mm to a tapered tube with round ends."""
        local, along = self._from(start), (end - start).astype(np.float32)
        share = np.clip(_along(local, end - start) / np.float32(((end - start) ** 2).sum()), 0, 1)
        off = local - along[:, None, None, None] * share
        distance: Array = np.sqrt((off**2).sum(0)) - (radius_start + (radius_end - radius_start) * share).astype(
            np.float32
        )
        return distance

    def cover(self, distance: Array) -> Array:
        """Share of each voxel that lies inside, so that edges have partial volume."""
        share: Array = np.clip(0.5 - distance / self.edge, 0, 1)
        return share

    def _from(self, center: Vector) -> Array:
        moved: Array = self.points - center.astype(np.float32)[:, None, None, None]
        return moved


def _along(points: Array, direction: Vector) -> Array:
    """Dot products, written out: a BLAS would start threads, and its last bits differ between machines."""
    x, y, z = direction.astype(np.float32)
    dots: Array = points[0] * x + points[1] * y + points[2] * z
    return dots


def smooth_noise(random: np.random.Generator, shape: tuple[int, int, int], *, cells: int) -> Array:
    """Noise of unit deviation that changes over 1 / `cells` of the volume: random weights on a grid of bells."""
    noise: Array = random.standard_normal((cells, cells, cells), dtype=np.float32)
    centers = (np.arange(cells) + 0.5) / cells
    for axis, side in enumerate(shape):
        places = (np.arange(side) + 0.5) / side
        bells = np.exp(-0.5 * ((places[:, None] - centers) * cells / 0.6) ** 2)
        bells = (bells / bells.sum(1, keepdims=True)).astype(np.float32)
        noise = np.moveaxis(np.einsum("sc,c...->s...", bells, np.moveaxis(noise, axis, 0)), 0, axis)
    return noise / np.float32(noise.std() + 1e-6)


@dataclass(frozen=True)
class _Pose:
    """Where the heart lies: places are in mm from the atrium's middle, x right, y front, z up."""

    random: np.random.Generator
    center: Vector
    turn: Vector
    size: float

    def at(self, x: float, y: float, z: float, *, jitter: float = 3.0) -> Vector:
        place = np.array([x, y, z]) * self.size + self.random.normal(0.0, jitter, 3)
        return self.center + self.turn @ place

    def radii(self, x: float, y: float, z: float) -> Vector:
        return np.array([x, y, z]) * self.size * self.random.uniform(0.85, 1.15, 3)

    def mm(self, radius: float) -> float:
        return float(radius * self.size * self.random.uniform(0.8, 1.2))


def draw_anatomy(random: np.random.Generator, shape: tuple[int, int, int], spacing: Vector) -> Anatomy:
    """Draws one person: shapes, positions and tissue contrast.

    Args:
        random: Every draw comes from it.
        shape: Voxels along x (right), y (front), z (up).
        spacing: mm.
    """
    scene = Scene(random, shape, spacing)
    fit = float(np.mean(np.array(shape) * spacing) / 131.0)  # small grids show a small heart, not a part of one
    pose = _Pose(
        random,
        center=random.uniform(-1, 1, 3) * (11.0, 11.0, 9.0) * fit,
        turn=rotation(np.deg2rad(random.uniform(-1, 1, 3) * (16.0, 14.0, 22.0))),
        size=fit * float(random.uniform(0.78, 1.2)),
    )
    tissue = _draw_tissue(random)
    atrium, lumen = _draw_atrium(scene, pose)
    signal = _draw_chest(scene, pose, tissue)
    _draw_heart(scene, pose, tissue, signal, keep_off=lumen)
    _draw_wall(scene, pose, tissue, signal, lumen)
    flow = 1 + np.float32(random.uniform(0.02, 0.09)) * smooth_noise(random, shape, cells=6)
    _paint(signal, scene.cover(lumen), tissue["blood"] * flow)
    return Anatomy(signal, atrium < 0)


def _draw_tissue(random: np.random.Generator) -> dict[str, float]:
    """Signal by tissue. The inversion time differs from scan to scan, so muscle is nulled well or badly."""
    blood = random.uniform(0.6, 0.95)
    return {
        "blood": blood,
        "right_blood": blood * random.uniform(0.85, 1.15),
        "aorta": blood * random.uniform(0.88, 1.15),
        "muscle": random.uniform(0.1, 0.45),
        "fat": random.uniform(0.3, 0.8),
        "lung": random.uniform(0.03, 0.16),
        "bone": random.uniform(0.25, 0.6),
        "wall": random.uniform(0.3, 0.6),
        "scar": random.uniform(0.85, 1.35),
        "chest": random.uniform(0.3, 0.9),
    }


def _draw_atrium(scene: Scene, pose: _Pose) -> tuple[Array, Array]:
    """Distances to what the label holds, and to the lumen, whose veins run on into the lungs."""
    random = pose.random
    body = scene.ellipsoid(pose.at(0, 0, 0, jitter=0), pose.radii(29, 20, 25), pose.turn)
    bulge = scene.ellipsoid(pose.at(0, 4, -6, jitter=6), pose.radii(20, 17, 17), pose.turn)
    body = _join(body, bulge, 6.0)
    trunk = _draw_appendage(scene, pose)
    veins = np.full_like(body, np.inf)
    for side in (1.0, -1.0):
        count = (
            int(random.choice([1, 2, 3], p=[0.2, 0.6, 0.2])) if side < 0 else int(random.choice([2, 3], p=[0.8, 0.2]))
        )
        heights = {1: [3.0], 2: [13.0, -9.0], 3: [15.0, 2.0, -11.0]}[count]
        for height in heights:
            veins = np.minimum(veins, _draw_vein(scene, pose, side, height, wide=count == 1))
    cut = random.uniform(8.0, 12.0)  # where a reader stops following a vein
    atrium = _join(_join(body, trunk, 3.0), np.maximum(veins, body - np.float32(cut)), 4.0)
    atrium = np.where(_largest(atrium < 0), atrium, np.maximum(atrium, np.float32(0.01)))
    lumen = np.minimum(atrium, veins)
    return atrium, lumen


def _draw_vein(scene: Scene, pose: _Pose, side: float, height: float, *, wide: bool) -> Array:
    start = pose.at(side * 17, -6, height * 0.8, jitter=2)
    middle = pose.at(side * 38, -18, height * 1.3, jitter=4)
    end = pose.at(side * 68, -28, height * 2.6, jitter=8)
    first, second = pose.mm(9.0 if wide else 7.0), pose.mm(7.0 if wide else 5.0)
    near, far = scene.tube(start, middle, first, second), scene.tube(middle, end, second, pose.mm(2.5))
    return _join(near, far, 3.0)


def _draw_appendage(scene: Scene, pose: _Pose) -> Array:
    root, elbow, tip = pose.at(-20, 9, 5), pose.at(-33, 21, 9, jitter=4), pose.at(-32, 36, 6, jitter=6)
    trunk = _join(scene.tube(root, elbow, pose.mm(9), pose.mm(7)), scene.tube(elbow, tip, pose.mm(7), pose.mm(4)), 3.0)
    for _ in range(int(pose.random.integers(0, 3))):
        lobe = scene.tube(elbow, elbow + pose.random.normal(0, 9, 3), pose.mm(5), pose.mm(3))
        trunk = _join(trunk, lobe, 2.0)
    return trunk


def _draw_chest(scene: Scene, pose: _Pose, tissue: dict[str, float]) -> Array:
    """Soft tissue, lungs with their vessels, spine, gullet."""
    random, shape = pose.random, scene.points.shape[1:]
    grain = smooth_noise(random, (shape[0], shape[1], shape[2]), cells=12)
    signal: Array = np.float32(0.5 * tissue["fat"] + 0.5 * tissue["muscle"]) * (1 + np.float32(0.25) * grain)
    for side in (1, -1):
        lung = scene.ellipsoid(pose.at(side * 84, -12, 0, jitter=5), pose.radii(46, 62, 80), pose.turn)
        vessels = np.clip(smooth_noise(random, (shape[0], shape[1], shape[2]), cells=16) - 1.6, 0, 1)
        _paint(signal, scene.cover(lung), tissue["lung"] + np.float32(0.5) * vessels)
    wall = 62 * pose.size + random.normal(0, 4)
    _paint(
        signal,
        scene.cover(np.float32(wall) - scene.points[1]),
        np.float32(tissue["chest"]) * (1 + np.float32(0.4) * grain),
    )
    spine = scene.tube(pose.at(8, -66, -90), pose.at(4, -62, 90), pose.mm(17), pose.mm(15))
    discs = np.float32(0.25) * np.cos(scene.points[2] * np.float32(2 * np.pi / random.uniform(24, 32)))
    _paint(signal, scene.cover(spine), np.float32(tissue["bone"]) * (1 + discs))
    gullet = scene.tube(pose.at(-6, -31, -90), pose.at(0, -30, 90), pose.mm(6), pose.mm(6))
    _paint(signal, scene.cover(gullet), tissue["muscle"])
    _paint(signal, scene.cover(gullet + 4), tissue["fat"])
    return signal


def _draw_heart(scene: Scene, pose: _Pose, tissue: dict[str, float], signal: Array, *, keep_off: Array) -> None:
    """Chambers and vessels that look like the atrium and are not; a thin wall lies between."""
    gap = np.float32(pose.random.uniform(0.5, 2.5)) - keep_off
    left_at, left_radii = pose.at(-38, 36, -30, jitter=4), pose.radii(33, 30, 40)
    ventricle = scene.ellipsoid(left_at, left_radii, pose.turn)
    right = scene.ellipsoid(pose.at(2, 52, -26, jitter=4), pose.radii(32, 21, 34), pose.turn)
    right_atrium = scene.ellipsoid(pose.at(42, 23, -8, jitter=4), pose.radii(22, 23, 29), pose.turn)
    upper = scene.tube(pose.at(37, 12, 8), pose.at(38, 12, 85), pose.mm(9), pose.mm(9))
    lower = scene.tube(pose.at(37, 4, -25), pose.at(34, -2, -85), pose.mm(11), pose.mm(11))
    trunk = scene.tube(pose.at(-16, 44, 8), pose.at(-14, 20, 42), pose.mm(12), pose.mm(11))
    branch = np.minimum(
        scene.tube(pose.at(-14, 14, 42), pose.at(50, -4, 36), pose.mm(10), pose.mm(7)),
        scene.tube(pose.at(-14, 14, 42), pose.at(-60, -16, 44), pose.mm(10), pose.mm(7)),
    )
    ascending = scene.tube(pose.at(6, 30, 0), pose.at(14, 36, 80), pose.mm(14), pose.mm(15))
    descending = scene.tube(pose.at(-22, -42, -90), pose.at(-20, -44, 90), pose.mm(11), pose.mm(11))
    venous = np.minimum.reduce([right, right_atrium, upper, lower, trunk, branch])
    arterial = np.minimum(ascending, descending)
    _paint(signal, scene.cover(np.maximum(ventricle, gap)), tissue["muscle"])
    for chamber in (venous, arterial):  # every chamber has a wall of muscle
        _paint(signal, scene.cover(np.maximum(chamber - 2, gap)), tissue["muscle"] * 1.2)
    _paint(signal, scene.cover(np.maximum(venous, gap)), tissue["right_blood"])
    _paint(signal, scene.cover(np.maximum(arterial, gap)), tissue["aorta"])
    thickness = pose.mm(9.0)
    _paint(signal, scene.cover(np.maximum(ventricle + np.float32(thickness), gap)), tissue["blood"])


def _draw_wall(scene: Scene, pose: _Pose, tissue: dict[str, float], signal: Array, lumen: Array) -> None:
    """The atrial wall, with enhanced patches of random extent: none in some cases, most of it in others."""
    shape = lumen.shape
    patches = smooth_noise(pose.random, (shape[0], shape[1], shape[2]), cells=6) + np.float32(
        pose.random.uniform(-1.5, 0.8)
    )
    bright = np.clip(patches * 2, 0, 1)
    value = np.float32(tissue["wall"]) + np.float32(tissue["scar"] - tissue["wall"]) * bright
    _paint(signal, scene.cover(lumen - np.float32(pose.random.uniform(1.5, 3.0))), value)


def _paint(signal: Array, share: Array, value: Array | float) -> None:
    signal += share * (np.asarray(value, dtype=np.float32) - signal)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    parts, _ = ndimage.label(mask)
    kept: NDArray[np.bool_] = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    return kept


def _join(first: Array, second: Array, blend: float) -> Array:
    """Union of two shapes with a fillet of about `blend` mm."""
    share = np.clip(np.float32(0.5) + (second - first) / np.float32(2 * blend), 0, 1)
    joined: Array = second + (first - second) * share - np.float32(blend) * share * (1 - share)
    return joined
