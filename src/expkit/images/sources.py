"""Where pictures come from: a path, a URL, or the name of one that ships. All arrive as eight-bit colour, upright, on paper."""

from __future__ import annotations

import http.client
import os
import re
import sys
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

MOST_PIXELS, MOST_BYTES = 100_000_000, 50_000_000
PATIENCE, LONGEST = 10.0, 60.0  # seconds of silence, and of a whole transfer
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MOVING = ("PNG", "GIF", "WEBP", "AVIF")
SIDEWAYS = (5, 6, 7, 8)  # EXIF's orientations that swap width and height
LIGHT = 204  # of 255: where a drawing on transparent ground has nothing darker than this, white paper would swallow it


def open_rgb(name: str) -> Image.Image:
    """A picture as RGB: turned by EXIF, of an animation the first frame, what is transparent laid on paper."""
    return on_paper(decode_image(name))


def decode_image(name: str) -> Image.Image:
    """A picture with levels of 8 bits, turned by EXIF, of an animation the first frame; what is transparent in it is so still."""
    with open_header(name) as image:
        return eight_bit(ImageOps.exif_transpose(image))


def transparency_note(name: str) -> str:
    """What a header says of a picture that is transparent in part: how much of it, and on what it is laid. "" where it is not."""
    with open_header(name) as image:
        if not image.has_transparency_data:
            return ""
    drawn = decode_image(name).convert("RGBA")
    share = float((255 - np.asarray(drawn.getchannel("A"), dtype=np.float64)).mean() / 255)
    return (
        f"image {name}: what is transparent in it, {share:.0%} of the picture, is laid on {paper_colour(drawn)}"
        if share
        else ""
    )


def image_size(name: str) -> tuple[int, int]:
    """(width, height) as the picture is seen; nothing is decoded."""
    with open_header(name) as image:
        return image.size[::-1] if image.getexif().get(0x0112) in SIDEWAYS else image.size


def is_shipped(name: str) -> bool:
    """Whether this is one of our own pictures rather than a file of that name."""
    return not os.path.isfile(os.path.expanduser(name)) and name in shipped_names()


def shipped_names() -> list[str]:
    return sorted(path.stem for path in ASSETS.glob("*.png"))


@contextmanager
def open_header(name: str) -> Iterator[Image.Image]:
    """A picture of which only the head has been read; whatever goes wrong with the rest inside the `with` is a UserError."""
    try:
        with open_content(str(name)) as file:
            yield check_header(name, file)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes decoders raise anything
        reason = (
            "it is no picture, or is damaged"
            if isinstance(error, UnidentifiedImageError)
            else str(error) or type(error).__name__
        )
        raise unreadable_error(name, reason) from None


def unreadable_error(name: str, reason: str) -> UserError:
    return UserError(
        f"The picture {name} cannot be read: {reason}. Expected a PNG, JPEG, WebP, GIF, BMP or TIFF file."
    )


def check_header(name: str, file: BinaryIO) -> Image.Image:
    """A picture's head. Its size is checked here, before anything is decoded."""
    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # the limit is ours, below
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    if reason := not_an_image_because(file.read(1024)):
        raise unreadable_error(name, reason)
    file.seek(0)
    image = Image.open(file, formats=[known for known in FORMATS if known in Image.OPEN])
    frames = getattr(image, "n_frames", 1)
    if image.width * image.height > MOST_PIXELS:
        raise UserError(
            f"The picture {name} is {image.width} × {image.height} pixels, more than 100 megapixels: make it smaller."
        )
    if frames > 1 and image.format in MOVING:
        say_once(f"The picture {name} moves: the first of its {frames} frames is used.")
    return image


@cache
def say_once(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def not_an_image_because(first: bytes) -> str:
    """Why a file that begins like this is no picture; "" where it may be one."""
    start = first.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not first:
        return "it is empty (0 bytes)"
    if start.startswith(b"<") and b"<svg" in start:
        return "it is a drawing in SVG; export it as a PNG"
    if start.startswith(b"<"):
        return "it is a web page; give the address of the picture itself, as the browser's “open image in new tab” shows it"
    return ""


def open_content(name: str) -> BinaryIO:
    """A picture's file, or what its URL answers."""
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
            f"The picture {name[:80]} is at {scheme}:, which is not known here. Give a file's path, or an http or https address."
        )
    if os.path.isdir(path):
        raise UserError(
            f"The picture {name!r} is a folder. Give one file in it; several are a list: image=[A,B]."
        )
    known = ", ".join(shipped_names())
    raise UserError(
        f"There is no picture {name!r}.{suggest(name, shipped_names())} "
        f"Give a file's path, an http or https address, or one of the pictures that ship with expkit: {known}."
    )


class WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http and https, nowhere else."""

    def redirect_request(self, request, answer, code, message, headers, url):
        if not url.lower().startswith(("http://", "https://")):
            raise UserError(
                f"The picture {request.full_url} leads on to {url}, which is neither http nor https: download it, give its path."
            )
        return super().redirect_request(request, answer, code, message, headers, url)


@lru_cache(maxsize=8)
def fetch_url(url: str) -> bytes:
    """What a URL answers, asked once a process."""
    quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    try:
        request = urllib.request.Request(
            quoted, headers={"User-Agent": f"expkit/{__version__}", "Accept": "image/*"}
        )
        with urllib.request.build_opener(WebOnly).open(request, timeout=PATIENCE) as answer:
            return b"".join(read_response(answer, url))
    except urllib.error.HTTPError as error:
        reason = f"the server answers {error.code} {error.reason}".strip()
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        cause = getattr(error, "reason", error)
        said = re.sub(r"^\[Errno -?\d+\] ", "", str(cause)) or type(cause).__name__
        reason = f"nothing was heard for {PATIENCE:g} seconds" if isinstance(cause, TimeoutError) else said
    raise UserError(
        f"The picture {url} cannot be fetched: {reason}. Try the address in a browser, or download it and give its path."
    )


def read_response(answer: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    """The answer piece by piece; refuses one that is too long, in bytes or in seconds."""
    began, count = time.monotonic(), 0
    while piece := answer.read1(1 << 16):
        count += len(piece)
        if count > MOST_BYTES:
            raise UserError(
                f"The picture {url} has more than {MOST_BYTES // 1_000_000} MB: give a smaller one."
            )
        if time.monotonic() - began > LONGEST:
            raise UserError(
                f"The picture {url} takes more than {LONGEST:g} seconds to arrive: download it and give its path."
            )
        yield piece


def eight_bit(image: Image.Image) -> Image.Image:
    """Levels of 16 or 32 bits, or numbers, as levels of 8 bits: scaled, where Pillow would cut them off at 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    clear = image.info.get("transparency")
    array = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0)
    tops = (1, 255, 65535) if image.mode == "F" else (65535, 2**32 - 1)
    top = next((top for top in tops if array.max() <= top), array.max())
    levels = Image.fromarray((array * (255 / top)).round().astype(np.uint8))
    if isinstance(clear, int):  # a PNG of 16 bits names the level that is transparent
        levels.putalpha(Image.fromarray(np.where(array == clear, 0, 255).astype(np.uint8)))
    return levels


def on_paper(image: Image.Image) -> Image.Image:
    """RGB. What is transparent is white; or black, where all that is drawn is so light that white would swallow it."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    drawn = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawn.size, paper_colour(drawn)), drawn).convert("RGB")


def paper_colour(drawn: Image.Image) -> str:
    """The colour on which an RGBA picture is laid."""
    grey, visible = np.asarray(drawn.convert("L")), np.asarray(drawn.getchannel("A")) >= 128
    return "black" if visible.any() and grey[visible].min() >= LIGHT else "white"
