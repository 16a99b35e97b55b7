"""``python -m trainers.pretrain vae|clip|unet|dit|measure``: train the bundled models from the bundled icons."""

import tyro

from trainers.pretrain.zoo import clip, dit, measure, unet, vae

if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"vae": vae, "clip": clip, "unet": unet, "dit": dit, "measure": measure})
