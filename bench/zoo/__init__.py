"""Published formats: one module a family, which ends in its `FAMILY` object.

A new family is a module of this folder and its name below. Nothing else is edited. A module is
imported only when a card or a command names its family.
"""

FAMILIES = (
    "adm",  # openai/guided-diffusion
    "edm",  # NVlabs/edm
    "dit",  # facebookresearch/DiT
    "ldm",  # CompVis/latent-diffusion
)
