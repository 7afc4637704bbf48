"""The generator's method: one step of the conditional hierarchical VAE on images and their parents."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from medcontrast import schedules
from medcontrast.batch import Batch, StepInfo
from medcontrast.errors import InputError
from medcontrast.losses.elbo import FreeEnergy, discretised_log_likelihood, free_energy, gaussian_kl
from medcontrast.methods.base import TeacherMethod
from medcontrast.networks.hvae import HVAE
from medcontrast.settings.generator import GeneratorMethodSettings, HVAESettings


class HVAEGenerator(TeacherMethod):
    """Free energy of images under their own parents; the averaged weights make the counterfactuals.

    Paper: De Sousa Ribeiro 2023, section 4; Roschewitz 2025, section 3.
    Deviation: latents are drawn from the global generator, which the loop seeds for every micro-batch and process: two
        processes draw others than one. beta may move and latent channels may have free bits; off by default, as in
        the public recipes.
    """

    student: HVAE

    def __init__(self, settings: HVAESettings, make_network: Callable[[], HVAE]) -> None:
        super().__init__(make_network, settings.ema_decay)
        self.settings = settings

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        """`loss`, and its parts in nats per pixel and channel.

        Raises:
            InputError: A batch without attributes.
        """
        energy = energy_of(self.student, batch, self.settings, beta=self._beta(info.step))
        return {
            "loss": energy.loss,
            "negative_log_likelihood": energy.negative_log_likelihood,
            "kl": energy.kl,
        }

    def _beta(self, step: int) -> float:
        last, first, steps = self.settings.beta, self.settings.beta_first, self.settings.beta_warm_up_steps
        if first is None:
            return last * schedules.warm_up(step, steps)
        return schedules.geometric_pace(min(step, steps), start=first, growth=(last / first) ** (1 / steps))


def energy_of(network: HVAE, batch: Batch, settings: GeneratorMethodSettings, *, beta: float) -> FreeEnergy:
    """The free energy of a batch's images under their own parents.

    Raises:
        InputError: A batch without attributes.
    """
    if "attributes" not in batch:
        raise InputError(f"method {settings.name} needs the attributes of every image, but the batch has none.")
    found = network(batch["image"], batch["attributes"])
    likelihood = discretised_log_likelihood(found.target, found.mean, found.scale, form=settings.likelihood)
    kl = [gaussian_kl(each.mean, each.scale, each.prior_mean, each.prior_scale) for each in found.latents]
    return free_energy(likelihood, kl, beta=beta, free_nats=settings.free_nats)
