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
    prior: Literal["conditional", "exogenous"] = "conditional"
    """conditional: the latents' prior is told the parents, as published. exogenous: the parents enter the posteriors
    and the levels finer than every latent alone, so that a latent held under another parent carries less of the old."""
    parents_as: Literal["shift", "factor_and_shift"] = "shift"
    """How the parents enter a block: a bias, as published, or a factor and a bias, then of the image's mean too."""

    @model_validator(mode="after")
    def _levels(self) -> HVAENetworkSettings:
        lists = (self.filters, self.latent_channels, self.encoder_blocks, self.decoder_blocks)
        if len(self.filters) < 2 or len({len(each) for each in lists}) != 1:
            raise ValueError(
                "filters, latent_channels, encoder_blocks and decoder_blocks need one number for each of at least 2 "
                f"levels, but have {', '.join(str(len(each)) for each in lists)}"
            )
        if not self.latent_channels[-1]:
            raise ValueError("latent_channels is 0 at the last level, where nothing would read what the encoder finds")
        if self.prior == "exogenous" and self.latent_channels[0]:
            raise ValueError("prior exogenous needs latent_channels of 0 at the first level, where the parents enter")
        return self

    @property
    def divisor(self) -> int:
        """The image's side must be a multiple of this."""
        return 2 ** (len(self.filters) - 2)

    def plain(self) -> dict[str, Any]:
        """The values that the network takes."""
        return self.model_dump(exclude={"name"})


class GeneratorMethodSettings(Settings):
    """What the methods share that train a generator: its parents, its free energy, its averaged weights."""

    name: str
    parents: dict[str, Literal["category", "number"]] = Field(min_length=1)
    """What images depend on: `domain`, `target`, or an attribute of the manifest, each a category or a number."""
    beta: float = Field(default=1.0, ge=0.0)
    """Weight of the KL."""
    free_nats: float = Field(default=0.0, ge=0.0)
    """A latent channel whose KL is below this has no pull; 0 turns it off."""
    likelihood: Literal["gaussian", "logistic"] = "gaussian"
    ema_decay: float = Field(default=0.999, ge=0.0, le=1.0)
    """Of the averaged weights, which make the counterfactuals."""
    balance: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of rows whose domain is drawn uniformly; the others follow the data. 0 shows every image once a round."""

    @model_validator(mode="after")
    def _categories(self) -> GeneratorMethodSettings:
        for name in ("domain", "target"):
            if self.parents.get(name, "category") != "category":
                raise ValueError(f"parents.{name} is a category, not a number")
        return self

    @property
    def views(self) -> tuple[str, ...]:
        """None: it learns from the images as they are."""
        return ()


class HVAESettings(GeneratorMethodSettings):
    """A causal mechanism of images (De Sousa Ribeiro et al. 2023): what `medcontrast counterfactuals` works with."""

    name: Literal["hvae"]
    beta_warm_up_steps: int = Field(default=0, ge=0)
    """Steps in which beta moves to its value: up in equal parts of it, the first step with one part; or from beta_first
    in equal ratios."""
    beta_first: float | None = Field(default=None, gt=0.0)
    """Where beta starts; far above beta it leaves latents no room for what the parents say anyway."""
    independence: float = Field(default=0.0, ge=0.0)
    """How strongly latents are kept from telling a discriminator the categories among the parents; 0 turns it off.
    The discriminator's reversed gradient counts so many times, beside nats per pixel and channel."""

    @model_validator(mode="after")
    def _beta_moves(self) -> HVAESettings:
        if self.beta_first is not None and not (self.beta_warm_up_steps and self.beta):
            raise ValueError("beta_first needs beta_warm_up_steps and a beta above 0 to move to")
        return self

    @model_validator(mode="after")
    def _independent_of_something(self) -> HVAESettings:
        if self.independence and "category" not in self.parents.values():
            raise ValueError("independence is of categories, but parents names none")
        return self


class HVAEFinetuneSettings(GeneratorMethodSettings):
    """Fine-tuning of a trained generator (Roschewitz et al. 2025, CF+): a predictor must find the new parents.

    In the run's first steps the predictor learns the parents from real images, and the generator does not move. In all
    others it is the other way round.
    """

    name: Literal["hvae_finetune"]
    predictor_steps: int = Field(default=1000, ge=1)
    """First steps of the run, in which the predictor learns."""
    predictor_lr: float = Field(default=0.002, gt=0.0, le=10.0)
    """Its learning rate, which warms up over a tenth of its steps and falls along half a cosine."""
    bound: float | None = None
    """Largest free energy, in nats per pixel and channel; null takes the one that the generator starts with, the mean
    over the batches of the predictor's steps."""
    multiplier_rate: float = Field(default=0.1, gt=0.0)
    """By how much the multiplier of the bound moves in a step where the free energy exceeds it by one nat."""
    damping: float = Field(default=0.0, ge=0.0)
    """Against oscillation around the bound; 0, as published, turns it off."""
