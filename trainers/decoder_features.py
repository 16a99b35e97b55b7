"""Intermediate features of a frozen VAE decoder, for the latent perceptual loss (arXiv 2411.04873)."""

from torch import Tensor, nn

from pixeval.errors import InputError
from trainers.latent_diffusion import LatentDiffusion


def decoder_features(model: LatentDiffusion, latents: Tensor) -> list[Tensor]:
    """Outputs of the decoder's middle block and of every block that upsamples, each N x C_l x H_l x W_l.

    They are caught while the decoder runs, so that whatever a family does to latents before decoding is done here too;
    differentiable with respect to ``latents``.

    Raises:
        InputError: the decoder has no blocks of the kind.
    """
    blocks = feature_blocks(model.vae)
    caught: list[Tensor] = []

    def catch(module: nn.Module, arguments: object, output: Tensor) -> None:
        # Decoders of videos have an axis of frames, of which there is one.
        caught.append(output.squeeze(2) if output.dim() == 5 else output)

    hooks = [block.register_forward_hook(catch) for block in blocks]
    try:
        model.decode(latents)
    finally:
        for hook in hooks:
            hook.remove()
    return caught


def feature_blocks(vae: nn.Module) -> list[nn.Module]:
    """The blocks whose outputs are compared, from the latent's resolution up.

    Raises:
        InputError: there are none.
    """
    decoder = getattr(vae, "decoder", None)
    ups = getattr(decoder, "up_blocks", None)
    if not isinstance(ups, nn.ModuleList) or not len(ups):
        raise InputError(
            f"the decoder of a {type(vae).__name__} has no up_blocks to take features from; "
            "use another pixel.distance than decoder_features"
        )
    middle = getattr(decoder, "mid_block", None)
    return [*([middle] if isinstance(middle, nn.Module) else []), *ups]
