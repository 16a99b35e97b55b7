"""Images as annotators get them: PNG, encoded anew, so that no metadata is left; hostile files are refused."""

import hashlib
import io
import os
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from pixeval.scoring.cache import default_folder

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 36_000_000
MOST_AHEAD = 5000
"""Images encoded before anybody asks: minutes of one core, and some GB of disk."""
TURNED = (5, 6, 7, 8)
"""Values of EXIF's orientation that swap width and height."""
ORIENTATION = 0x0112


class UnusableImage(Exception):
    """A file that cannot be shown as an image; the message is for the lead, since it names the file."""


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of an image file as it is shown; only its header is read.

    Raises:
        UnusableImage: missing, larger than 64 MiB or 36 megapixels, or no PNG, JPEG, WebP, BMP or TIFF.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnusableImage(f"{path.name} is larger than {MAX_BYTES // 2**20} MiB")
        with warnings.catch_warnings():
            # The limit here is lower than Pillow's, which only warns.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                # Without this question Pillow would decode a whole PNG to look for it at its end.
                if "exif" in image.info and image.getexif().get(ORIENTATION) in TURNED:
                    width, height = height, width
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnusableImage(f"{path.name} is not an image that can be shown ({error})") from error
    if not 0 < width * height <= MAX_PIXELS:
        raise UnusableImage(f"{path.name} has {width}x{height} pixels; the limit is {MAX_PIXELS // 10**6} million")
    return width, height


def encode(path: Path) -> bytes:
    """The pixels of an image file as PNG without metadata.

    Raises:
        UnusableImage: as :func:`image_size`, or the file is damaged.
    """
    # With these comes torch, which takes seconds to load; a server that has all images encoded needs none of it.
    from pixeval.images import UnreadableImage, decode_image, to_uint8

    image_size(path)
    try:
        pixels = to_uint8(decode_image(path.read_bytes(), path.name)[None])[0]
    except UnreadableImage as error:
        raise UnusableImage(str(error)) from error
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


class ImageCache:
    """Encoded images in a folder, by the opaque key of the image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Encoding takes a core for a tenth of a second; one at a time leaves the other cores to the votes.
        self._encoding = threading.Lock()

    @classmethod
    def of(cls, secret: str) -> "ImageCache":
        """The cache of the database with that secret, in pixeval's cache folder."""
        return cls(default_folder() / "label-images" / hashlib.sha256(secret.encode()).hexdigest()[:16])

    def encode_ahead(self, sources: Sequence[tuple[str, Path]]) -> None:
        """Encode images, given as key and source, in a thread that ends with the program, before they are asked for.

        At most :data:`MOST_AHEAD`; what cannot be encoded is left for whoever asks for it.
        """

        def work() -> None:
            for key, source in sources[:MOST_AHEAD]:
                with suppress(UnusableImage, OSError):
                    self.png(key, source)

        threading.Thread(target=work, name="encode-ahead", daemon=True).start()

    def png(self, key: str, source: Path) -> bytes:
        """The image ``source``, whose key is ``key``.

        Raises:
            UnusableImage: as :func:`encode`.
        """
        kept = self.folder / f"{key}.png"
        try:
            return kept.read_bytes()
        except OSError:
            pass
        with self._encoding:
            data = encode(source)
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = kept.with_name(f"{key}.{os.getpid()}.partial")
            partial.write_bytes(data)
            os.replace(partial, kept)
        return data
