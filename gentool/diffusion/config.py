"""How to walk a chain back: the settings of every Gaussian backend. Imports no torch."""

from dataclasses import dataclass

from gentool.settings import setting


@dataclass
class Denoising:
    """What `gentool.diffusion.samplers.sample` reads; a backend adds its own."""

    steps: int = setting(1000, "denoising steps", low=1)
    sampler: str = setting("ancestral", "sampler", choices=("ancestral", "ddim", "dpm++"))
    spacing: str = setting(
        "trailing",
        "which steps of the chain are taken: the last of each stretch, the first, or closer ones "
        "the less noise there is",
        choices=("trailing", "leading", "quadratic"),
    )
    eta: float = setting(
        0.0,
        "noise of the ddim and dpm++ samplers: 0 = none, 1 = as much as the chain's, more to mend "
        "what few steps get wrong",
        low=0.0,
        idle=("sampler", "ancestral"),
        of="sampler",
    )
    noise_scale: float = setting(1.0, "factor on the noise added while sampling", low=0.0)
