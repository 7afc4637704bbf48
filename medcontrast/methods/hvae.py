"""The generator's method: one step of the conditional hierarchical VAE on images and their parents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from medcontrast import schedules
from medcontrast.batch import Batch, StepInfo
from medcontrast.errors import InputError
from medcontrast.losses.elbo import FreeEnergy, discretised_log_likelihood, free_energy, gaussian_kl
from medcontrast.methods.base import TeacherMethod
from medcontrast.networks.hvae import HVAE, Reconstruction
from medcontrast.networks.hvae_blocks import Latent
from medcontrast.networks.latent_discriminator import LatentDiscriminator, reversed_gradient
from medcontrast.settings.generator import GeneratorMethodSettings, HVAESettings


class HVAEGenerator(TeacherMethod):
    """Free energy of images under their own parents; the averaged weights make the counterfactuals.

    Paper: De Sousa Ribeiro 2023, section 4; Roschewitz 2025, section 3.
    Deviation: latents are drawn from the global generator, which the loop seeds for every micro-batch and process: two
        processes draw others than one. beta may move and latent channels may have free bits, and a discriminator may
        keep the latents from telling the categories among the parents (Lample 2017, Fader Networks); off by default, as
        in the public recipes.
    """

    student: HVAE

    def __init__(self, settings: HVAESettings, make_network: Callable[[], HVAE]) -> None:
        super().__init__(make_network, settings.ema_decay)
        self.settings = settings
        self.categories = [parent for parent in self.student.parents.parents if parent.values is not None]
        self.discriminator: LatentDiscriminator | None = None
        if settings.independence:
            widths = [parent.width for parent in self.categories]
            self.discriminator = LatentDiscriminator(self.student.latent_width, widths)

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        """`loss`, and its parts in nats per pixel and channel; with independence what the discriminator loses too.

        Raises:
            InputError: A batch without attributes.
        """
        found = reconstructed(self.student, batch, self.settings)
        energy = energy_of(found, self.settings, beta=self._beta(info.step))
        terms = {"negative_log_likelihood": energy.negative_log_likelihood, "kl": energy.kl}
        if self.discriminator is None:
            return {"loss": energy.loss, **terms}
        told = self._discriminator_loss(found.latents, batch["attributes"])
        return {"loss": energy.loss + told, **terms, "discriminator": told}

    def _discriminator_loss(self, latents: list[Latent], numbers: Tensor) -> Tensor:
        """Cross-entropy of the categories found in the latents, which take its gradient reversed.

        Every value that occurs among the process's rows weighs the same, however rare.
        """
        assert self.discriminator is not None
        values = [reversed_gradient(latent.value, self.settings.independence) for latent in latents]
        terms = []
        for parent, logits in zip(self.categories, self.discriminator(values), strict=True):
            target = numbers[:, self.student.parents.columns(parent.name)].argmax(dim=1)
            weights = 1.0 / target.bincount(minlength=parent.width).clamp_min(1).float()
            terms.append(functional.cross_entropy(logits.float(), target, weight=weights))
        return torch.stack(terms).sum()

    def _beta(self, step: int) -> float:
        last, first, steps = self.settings.beta, self.settings.beta_first, self.settings.beta_warm_up_steps
        if first is None:
            return last * schedules.warm_up(step, steps)
        return schedules.geometric_pace(min(step, steps), start=first, growth=(last / first) ** (1 / steps))


def reconstructed(network: HVAE, batch: Batch, settings: GeneratorMethodSettings) -> Reconstruction:
    """One pass of a batch's images under their own parents.

    Raises:
        InputError: A batch without attributes.
    """
    if "attributes" not in batch:
        raise InputError(f"method {settings.name} needs the attributes of every image, but the batch has none.")
    found: Reconstruction = network(batch["image"], batch["attributes"])
    return found


def energy_of(found: Reconstruction, settings: GeneratorMethodSettings, *, beta: float) -> FreeEnergy:
    """The free energy of one pass."""
    likelihood = discretised_log_likelihood(found.target, found.mean, found.scale, form=settings.likelihood)
    kl = [gaussian_kl(each.mean, each.scale, each.prior_mean, each.prior_scale) for each in found.latents]
    return free_energy(likelihood, kl, beta=beta, free_nats=settings.free_nats)
