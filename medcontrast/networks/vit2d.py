"""A vision transformer for small images, whose position embeddings are interpolated to images of other sizes.

Letters: b rows, c channels, d channels of a token, h heads, t tokens, x, y pixels, p, q patches along both.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcontrast.errors import InputError
from medcontrast.networks.encoders2d import Encoder

_EPSILON = 1e-6


class ViT(Encoder):
    """Patches as tokens, a [CLS] token before them, pre-norm blocks of attention and a two-layer perceptron.

    Paper: Dosovitskiy 2021 (ViT), section 3.1; Caron 2021 (DINO), for position embeddings of local crops.
    Deviation: one stage alone, the map of the last tokens; no dropout and no stochastic depth.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        width: int = 192,
        image_size: int = 32,
        patch: int = 4,
        depth: int = 6,
        heads: int = 3,
        pooling: Literal["cls", "mean"] = "cls",
    ) -> None:
        """Builds the encoder.

        Args:
            in_channels: Channels of the image.
            width: d, a multiple of `heads`.
            image_size: Side of the images whose position embeddings are learned; those of other sizes are interpolated.
            patch: Side of a patch in pixels; divides `image_size`.
            depth: Blocks.
            heads: h.
            pooling: What the features are: the [CLS] token, or the mean of the others.

        Raises:
            InputError: Sizes that do not divide one another.
        """
        super().__init__(in_channels=in_channels, stage_channels=(width,), stage_strides=(patch,))
        if image_size % patch:
            raise InputError(f"vit: patch {patch} does not divide image_size {image_size}.")
        if width % heads:
            raise InputError(f"vit: width {width} is no multiple of heads {heads}.")
        self.patch, self.heads, self.pooling, self.grid = patch, heads, pooling, image_size // patch
        self.embed = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_position = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, width, self.grid, self.grid))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, _EPSILON)
        for tensor in (self.cls, self.cls_position, self.positions):
            nn.init.trunc_normal_(tensor, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def untold(self) -> dict[str, object]:
        return {"heads": self.heads, "pooling": self.pooling}

    def forward(self, image: Tensor) -> Tensor:
        """Features of the whole image (b, d)."""
        tokens, _ = self._tokens(image)
        return tokens[:, 0] if self.pooling == "cls" else tokens[:, 1:].mean(1)

    def stages(self, image: Tensor) -> list[Tensor]:
        """One map (b, d, p, q), a place a patch."""
        tokens, sides = self._tokens(image)
        return [tokens[:, 1:].transpose(1, 2).unflatten(2, sides)]

    def check_image(self, image: Tensor) -> None:
        """Refuses an image that is not made of whole patches, beside what every encoder refuses.

        Raises:
            InputError: Wrong number of axes or channels, or sides that are no multiples of the patch.
        """
        super().check_image(image)
        if any(side < self.patch or side % self.patch for side in image.shape[2:]):
            raise InputError(
                f"ViT takes images whose sides are multiples of its patch {self.patch}, but got {tuple(image.shape)}."
            )

    def freeze_patches(self) -> None:
        """Keeps the embedding of patches as it is: a random projection that training leaves alone.

        Paper: Chen 2021 (MoCo v3), section 4.2.
        """
        self.embed.requires_grad_(False)

    def _tokens(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The last tokens (b, 1 + p q, d), [CLS] first, and (p, q)."""
        self.check_image(image)
        patches = self.embed(image)
        p, q = patches.shape[2:]
        patches = (patches + self._positions(p, q)).flatten(2).transpose(1, 2)
        tokens = torch.cat([(self.cls + self.cls_position).expand(len(image), -1, -1), patches], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens), (p, q)

    def _positions(self, p: int, q: int) -> Tensor:
        if (p, q) == (self.grid, self.grid):
            return self.positions
        # in float32: bicubic interpolation of 16-bit numbers is not there on every device
        return functional.interpolate(self.positions.float(), size=(p, q), mode="bicubic", align_corners=False)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, _EPSILON)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, _EPSILON)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, t, d) to (b, t, d)."""
        tokens = tokens + self._attention(self.attention_norm(tokens))
        return tokens + self.mlp(self.mlp_norm(tokens))

    def _attention(self, tokens: Tensor) -> Tensor:
        parts = self.query_key_value(tokens).unflatten(2, (3, self.heads, -1))  # (b, t, 3, h, d / h)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.joined(mixed.transpose(1, 2).flatten(2))
        return joined
