"""Image sources: read a picture from a path, a URL or the name of a shipped picture.

All are returned upright, with 8-bit levels; `open_rgb` also puts transparent ones on a background.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from expkit import __version__
from expkit.errors import UserError, suggest
from expkit.storage.files import path_of
from expkit.storage.inputs import ASSETS

LOGGER = logging.getLogger("expkit")
MOST_PIXELS, MOST_BYTES = 100_000_000, 50_000_000
PATIENCE, MAX_SECONDS = 10.0, 60.0  # seconds: the socket timeout, and the limit of a whole download
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MOVING = ("PNG", "GIF", "WEBP", "AVIF")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
LIGHT = 204  # of 255: a transparent drawing with no darker pixel would be invisible on white


def open_rgb(name: str) -> Image.Image:
    """A picture as RGB: EXIF orientation applied, first frame, transparency put on a background."""
    return on_paper(decode_image(name))


def decode_image(name: str) -> Image.Image:
    """A picture with 8-bit levels: EXIF orientation applied, first frame, transparency kept."""
    with open_header(name) as image:
        return eight_bit(ImageOps.exif_transpose(image))


def transparency_note(name: str) -> str:
    """A note for headers: how much of a picture is transparent, and on what it is put; or ""."""
    with open_header(name) as image:
        if not image.has_transparency_data:
            return ""
    rgba = decode_image(name).convert("RGBA")
    share = float((255 - np.asarray(rgba.getchannel("A"), dtype=np.float64)).mean() / 255)
    if not share:
        return ""
    return (
        f"image {name}: what is transparent in it, {share:.0%} of the picture, "
        f"is laid on {paper_colour(rgba)}"
    )


def image_size(name: str) -> tuple[int, int]:
    """(width, height) of the upright picture, without decoding it."""
    with open_header(name) as image:
        width, height = image.size
        is_sideways = image.getexif().get(0x0112) in SIDEWAYS
        return (height, width) if is_sideways else (width, height)


def is_shipped(name: str) -> bool:
    """Whether the name is that of a shipped picture and no file has it."""
    return not os.path.isfile(os.path.expanduser(name)) and name in shipped_names()


def shipped_names() -> list[str]:
    """The names of the shipped pictures."""
    return sorted(path.stem for path in ASSETS.glob("*.png"))


@contextmanager
def open_header(name: str) -> Iterator[Image.Image]:
    """A picture whose header has been read. Errors inside the `with` block become UserErrors."""
    try:
        with open_content(str(name)) as file:
            yield check_header(name, file)
    except UserError:
        raise
    except Exception as error:  # decoders raise exceptions of any type on damaged files
        if isinstance(error, UnidentifiedImageError):
            reason = "it is no picture, or is damaged"
        else:
            reason = str(error) or type(error).__name__
        raise unreadable_picture_error(name, reason) from None


def unreadable_picture_error(name: str, reason: str) -> UserError:
    """The error for a picture that cannot be read."""
    expected = "Expected a PNG, JPEG, WebP, GIF, BMP or TIFF file."
    return UserError(f"The picture {name} cannot be read: {reason}. {expected}")


def check_header(name: str, file: BinaryIO) -> Image.Image:
    """An opened picture whose size has been checked; nothing is decoded."""
    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # Pillow's limit is replaced by MOST_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    if reason := not_an_image_because(file.read(1024)):
        raise unreadable_picture_error(name, reason)
    file.seek(0)
    formats = [file_format for file_format in FORMATS if file_format in Image.OPEN]
    image = Image.open(file, formats=formats)
    frames = getattr(image, "n_frames", 1)
    if image.width * image.height > MOST_PIXELS:
        size = f"{image.width} × {image.height} pixels, more than 100 megapixels"
        raise UserError(f"The picture {name} is {size}: make it smaller.")
    if frames > 1 and image.format in MOVING:
        log_once(f"The picture {name} moves: the first of its {frames} frames is used.")
    return image


@cache
def log_once(text: str) -> None:
    """Log a text, once per process."""
    LOGGER.info(text)


def not_an_image_because(first: bytes) -> str:
    """The reason why a file with these first bytes is not a picture; "" if it may be one."""
    start = first.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not first:
        return "it is empty (0 bytes)"
    if start.startswith(b"<") and b"<svg" in start:
        return "it is a drawing in SVG; export it as a PNG"
    if start.startswith(b"<"):
        return (
            "it is a web page; give the address of the picture itself, "
            "as the browser's “open image in new tab” shows it"
        )
    return ""


def open_content(name: str) -> BinaryIO:
    """A picture's content as a binary file: a local file, a shipped picture, or a download."""
    path = path_of(name)
    scheme = (re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", name) or ["", ""])[1].lower()
    if os.path.isfile(path):
        return open(path, "rb")
    if name in shipped_names():
        return (ASSETS / f"{name}.png").open("rb")
    if scheme in ("http", "https"):
        return BytesIO(fetch_url(name))
    if scheme and scheme != "file":
        raise UserError(
            f"The picture {name[:80]} is at {scheme}:, which is not known here. "
            "Give a file's path, or an http or https address."
        )
    if os.path.isdir(path):
        advice = "Give one file in it; several are a list: image=[A,B]."
        raise UserError(f"The picture {name!r} is a folder. {advice}")
    names = ", ".join(shipped_names())
    raise UserError(
        f"There is no picture {name!r}.{suggest(name, shipped_names())} "
        "Give a file's path, an http or https address, "
        f"or one of the pictures that ship with expkit: {names}."
    )


class WebOnly(urllib.request.HTTPRedirectHandler):
    """A redirect handler that follows redirects to http and https only."""

    def redirect_request(self, request, answer, code, message, headers, url):
        if not url.lower().startswith(("http://", "https://")):
            raise UserError(
                f"The picture {request.full_url} leads on to {url}, "
                "which is neither http nor https: download it, give its path."
            )
        return super().redirect_request(request, answer, code, message, headers, url)


@lru_cache(maxsize=8)
def fetch_url(url: str) -> bytes:
    """The body of a URL's response; the last eight are cached."""
    quoted_url = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    headers = {"User-Agent": f"expkit/{__version__}", "Accept": "image/*"}
    try:
        request = urllib.request.Request(quoted_url, headers=headers)
        with urllib.request.build_opener(WebOnly).open(request, timeout=PATIENCE) as response:
            return b"".join(read_response(response, url))
    except urllib.error.HTTPError as error:
        reason = f"the server answers {error.code} {error.reason}".strip()
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, TimeoutError):
            reason = f"nothing was heard for {PATIENCE:g} seconds"
        else:
            reason = re.sub(r"^\[Errno -?\d+\] ", "", str(cause)) or type(cause).__name__
    raise UserError(
        f"The picture {url} cannot be fetched: {reason}. "
        "Try the address in a browser, or download it and give its path."
    )


def read_response(answer: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    """The chunks of a response; raises UserError above MOST_BYTES or MAX_SECONDS seconds."""
    start_time = time.monotonic()
    count = 0
    while chunk := answer.read1(1 << 16):
        count += len(chunk)
        if count > MOST_BYTES:
            limit = f"{MOST_BYTES // 1_000_000} MB"
            raise UserError(f"The picture {url} has more than {limit}: give a smaller one.")
        if time.monotonic() - start_time > MAX_SECONDS:
            raise UserError(
                f"The picture {url} takes more than {MAX_SECONDS:g} seconds to arrive: "
                "download it and give its path."
            )
        yield chunk


def eight_bit(image: Image.Image) -> Image.Image:
    """An image with 16-bit, 32-bit or float levels scaled to 8 bits; Pillow would clip them at 255.

    Other images are returned unchanged.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    transparent = image.info.get("transparency")
    array = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0)
    tops = (1, 255, 65535) if image.mode == "F" else (65535, 2**32 - 1)
    top = next((top for top in tops if array.max() <= top), array.max())
    levels = Image.fromarray((array * (255 / top)).round().astype(np.uint8))
    if isinstance(transparent, int):  # the transparent level of a 16-bit PNG
        alpha = np.where(array == transparent, 0, 255).astype(np.uint8)
        levels.putalpha(Image.fromarray(alpha))
    return levels


def on_paper(image: Image.Image) -> Image.Image:
    """An image as RGB; transparent pixels get the colour that `paper_colour` chooses."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    background = Image.new("RGBA", rgba.size, paper_colour(rgba))
    return Image.alpha_composite(background, rgba).convert("RGB")


def paper_colour(drawn: Image.Image) -> str:
    """The background of an RGBA image: black if its visible pixels are all light, else white."""
    grey = np.asarray(drawn.convert("L"))
    visible = np.asarray(drawn.getchannel("A")) >= 128
    return "black" if visible.any() and grey[visible].min() >= LIGHT else "white"
