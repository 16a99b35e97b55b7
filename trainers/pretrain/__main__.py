"""``python -m trainers.pretrain vae|clip|unet|dit|warp|measure``: train the bundled models from the bundled icons."""

from collections.abc import Callable

import tyro

from trainers.pretrain.zoo import clip, dit, measure, unet, vae, warp

if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {
        "vae": vae,
        "clip": clip,
        "unet": unet,
        "dit": dit,
        "warp": warp,
        "measure": measure,
    }
    tyro.extras.subcommand_cli_from_dict(commands)
