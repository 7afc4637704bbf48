"""Settings of a generator of images: the mechanism's network, and how it learns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from medcontrast.settings.base import Settings
from medcontrast.settings.images import Fraction
from medcontrast.settings.network import Width

Blocks = Annotated[int, Field(ge=1, le=32)]
LatentChannels = Annotated[int, Field(ge=0, le=512)]


class HVAENetworkSettings(Settings):
    """The conditional hierarchical VAE of networks/hvae.py; one number a level, the finest first.

    Each level has half the sides of the one before, the last one place. With latent channels at the last level alone it
    is the single-latent form.
    """

    name: Literal["hvae"]
    filters: tuple[Width, ...] = (16, 32, 64, 128)
    latent_channels: tuple[LatentChannels, ...] = (0, 8, 8, 16)
    """Of each block of a level; 0 for none."""
    encoder_blocks: tuple[Blocks, ...] = (1, 1, 1, 1)
    decoder_blocks: tuple[Blocks, ...] = (1, 1, 1, 1)
    bottleneck: int = Field(default=2, ge=1, le=16)
    """A block's inner width is its width divided by this."""
    dropout: Fraction = 0.0
    std: float = Field(default=0.058, gt=0.0)
    """Scale of the likelihood, in images from -1 to 1."""
    std_form: Literal["fixed", "learned", "pixelwise"] = "fixed"
    """fixed and learned copy into a counterfactual what the mean does not explain; pixelwise rescales it."""

    @model_validator(mode="after")
    def _levels(self) -> HVAENetworkSettings:
        lists = (self.filters, self.latent_channels, self.encoder_blocks, self.decoder_blocks)
        if len(self.filters) < 2 or len({len(each) for each in lists}) != 1:
            raise ValueError(
                "filters, latent_channels, encoder_blocks and decoder_blocks need one number for each of at least 2 "
                f"levels, but have {', '.join(str(len(each)) for each in lists)}"
            )
        if not any(self.latent_channels):
            raise ValueError("latent_channels is 0 at every level; a generator needs a latent channel")
        return self

    @property
    def divisor(self) -> int:
        """The image's side must be a multiple of this."""
        return 2 ** (len(self.filters) - 2)

    def plain(self) -> dict[str, Any]:
        """The values that the network takes."""
        return self.model_dump(exclude={"name"})


class HVAESettings(Settings):
    """A causal mechanism of images (De Sousa Ribeiro et al. 2023): what `medcontrast counterfactuals` works with."""

    name: Literal["hvae"]
    parents: dict[str, Literal["category", "number"]] = Field(min_length=1)
    """What images depend on: `domain`, `target`, or an attribute of the manifest, each a category or a number."""
    beta: float = Field(default=1.0, ge=0.0)
    """Weight of the KL."""
    beta_warm_up_steps: int = Field(default=0, ge=0)
    """beta rises in equal steps to its value."""
    free_nats: float = Field(default=0.0, ge=0.0)
    """A latent channel whose KL is below this has no pull; 0 turns it off."""
    likelihood: Literal["gaussian", "logistic"] = "gaussian"
    ema_decay: float = Field(default=0.999, ge=0.0, le=1.0)
    """Of the averaged weights, which make the counterfactuals."""
    balance: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of rows whose domain is drawn uniformly; the others follow the data. 0 shows every image once a round."""

    @model_validator(mode="after")
    def _categories(self) -> HVAESettings:
        for name in ("domain", "target"):
            if self.parents.get(name, "category") != "category":
                raise ValueError(f"parents.{name} is a category, not a number")
        return self

    @property
    def views(self) -> tuple[str, ...]:
        """None: it learns from the images as they are."""
        return ()
