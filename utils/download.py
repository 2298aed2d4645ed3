"""Files from the network, whole or not at all: locked, resumed, checked, moved into place.

While a file comes it is ``<file>.part``; ``<file>.part.json`` says of what, so that bytes of two versions
are never joined. An archive is extracted into a folder beside the target, which is then renamed.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import shutil
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO
from urllib.parse import urlsplit

import filelock
import pooch
import requests
import urllib3
from tqdm import tqdm

from utils.errors import WeightsError

log = logging.getLogger(__name__)
TIMEOUT_SECONDS = (10, 30)  # to connect; without a byte
PAUSES_SECONDS = (1, 2, 4)  # before each new try after a cut
NOTE_AFTER_SECONDS = 5  # of waiting for another process
CHUNK_BYTES = 1 << 16
MAX_MEMBERS, MAX_EXTRACTED_BYTES = 10_000, 4 << 30  # of an archive; ResNet50_pretrained: 0.1 GB


class _CutError(requests.ConnectionError):
    """The connection broke while the file came: worth another try."""


def fetch(target: Path, urls: Sequence[str], sha256: str = "") -> Path:
    """``target``; where it does not exist it comes from the first of ``urls`` that has it.

    A ``.tar`` or ``.tar.gz`` becomes the folder ``target``, or, where ``target`` has an ending, the file of
    that name in it; an archive that already lies beside it is taken without a request.
    Any number of processes may ask at once: one downloads, the others wait.

    Args:
        sha256: hexadecimal, of what ``urls`` give (of the archive, not of what is in it); "" = not known.

    Raises WeightsError, one line: no address gave the file, another checksum, an archive that is damaged or
    reaches outside its folder, a folder that cannot be written. What came of a cut download stays for the
    next call.
    """
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(target):
            if not target.exists():
                _install(target, urls, sha256)
    except OSError as error:  # those of the network are caught below
        where = error.filename or target
        raise WeightsError(f"{where} cannot be written: {error.strerror}; what has come is kept") from error
    return target


@contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))  # freed by the system if we die
    try:
        lock.acquire(timeout=NOTE_AFTER_SECONDS)
    except filelock.Timeout:
        log.info("waiting for another process that downloads %s (lock: %s)", target, lock.lock_file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _install(target: Path, urls: Sequence[str], sha256: str) -> None:
    reason = "no address is known"
    for url in urls:
        name = PurePosixPath(urlsplit(url).path).name
        packed = name.endswith((".tar", ".tar.gz", ".tgz"))
        file = target.with_name(name) if packed else target
        by_hand = packed and file.exists()
        try:
            if by_hand:
                _check(file, str(file), sha256)
            else:
                _download(url, file, sha256)
        except requests.RequestException as error:
            reason = f"{url}: {_reason(error)}"
            log.warning("download failed: %s", reason)
            continue
        if packed:
            _extract(file, target, keep=by_hand)
        return
    also = f" (extracted, or the archive itself into {target.parent})" if urls and packed else ""
    raise WeightsError(f"{target} does not exist: put there {' or '.join(urls)}{also}; download: {reason}")


def _reason(error: BaseException) -> str:
    """The root of the matter in a few words; requests wraps it in several exceptions."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


# ---- one file --------------------------------------------------------------------------------------


def _download(url: str, file: Path, sha256: str) -> None:
    part = file.with_name(f"{file.name}.part")
    cut: Exception | None = None
    for pause in (0, *PAUSES_SECONDS):
        if cut:
            log.warning("%s: %s; going on in %d s", url, _reason(cut), pause)
            time.sleep(pause)
        try:
            _transfer(url, part)
            break
        except (requests.ConnectionError, requests.Timeout) as error:
            if not cut and not isinstance(error, _CutError):
                raise  # there is no network, or no server: no use in trying again
            cut = error
    else:
        raise cut
    try:
        _check(part, url, sha256)
    except WeightsError:
        part.unlink()
        raise
    os.replace(part, file)
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _transfer(url: str, part: Path) -> None:
    """Bring ``part`` to its full size by one request, or none; requests.RequestException where that fails."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise requests.RequestException("neither http nor https")
    note = _read_note(part)
    have = part.stat().st_size if note.get("url") == url and part.exists() else 0
    if have and have == note["size"]:
        return
    # identity: the bytes as they lie on the server; compressed on the way they could not be continued
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        start, came_of = _described(url, response)
        if have and (response.status_code == 416 or (start and (start, came_of) != (have, note))):
            part.unlink()
            raise _CutError("the file on the server has changed, starting anew")
        if response.status_code not in (200, 206) or start not in (0, have):
            raise requests.RequestException(f"{response.status_code} {response.reason}")
        if not came_of["size"] or response.headers.get("Content-Type", "").startswith("text/html"):
            raise requests.RequestException("not a file: the answer is empty, of unknown size, or a web page")
        if not start:
            part.unlink(missing_ok=True)
            _note(part).write_text(json.dumps(came_of), encoding="utf-8")
        size, text = came_of["size"], f"{came_of['size'] / 1e6:.1f} MB"
        log.info("downloading %s (%s) to %s, from byte %d", url, text, part.parent, start)
        shown = {"desc": part.stem, "unit": "B", "unit_scale": True, "disable": not sys.stderr.isatty()}
        with open(part, "ab") as out, tqdm(total=size, initial=start, leave=False, **shown) as bar:
            for chunk in _body(response):
                out.write(chunk)
                bar.update(len(chunk))
            out.flush()
            os.fsync(out.fileno())
    if part.stat().st_size != size:
        raise _CutError(f"{part.stat().st_size} bytes came, expected {size}")


def _read_note(part: Path) -> dict:
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
        return note if isinstance(note, dict) and "size" in note else {}
    except (OSError, ValueError):  # none, or one that a crash cut: the part is not continued
        return {}


def _described(url: str, response: requests.Response) -> tuple[int, dict]:
    """The first byte that the answer holds, and which version of which file it is part of."""
    if url.startswith("https:") and any(r.url.startswith("http:") for r in (*response.history, response)):
        raise requests.RequestException("sent on from https to http")
    headers = response.headers
    start, size = 0, headers.get("Content-Length", "")
    if response.status_code == 206:
        given = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        start, size = given.groups() if given else (0, "")
    about = {"url": url, "etag": headers.get("ETag"), "modified": headers.get("Last-Modified")}
    return int(start), {**about, "size": int(size) if size.isdecimal() else None}


def _body(response: requests.Response) -> Iterator[bytes]:
    try:
        # Not iter_content: a server that calls a .tar.gz "gzip-encoded" would have it unpacked on the way.
        yield from response.raw.stream(CHUNK_BYTES, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _CutError(str(error)) from error


def _check(file: Path, source: str, sha256: str) -> None:
    got = pooch.file_hash(str(file))
    log.info("%s: %d bytes, sha256 %s", source, file.stat().st_size, got)
    if sha256 and got != sha256.lower():
        raise WeightsError(f"{source} has sha256 {got}, expected {sha256}: not used")


# ---- archives --------------------------------------------------------------------------------------

_DAMAGE = (
    *(tarfile.TarError, ValueError),
    *(gzip.BadGzipFile, zlib.error, EOFError),
    *(FileExistsError, NotADirectoryError),  # a name given twice, or both to a file and a folder
)


def _extract(archive: Path, target: Path, keep: bool) -> None:
    """Make ``target`` of the one folder that ``archive`` holds, or of all that it holds.

    A ``target`` with an ending is a file: the one of that name in the archive, whose texts (names of classes)
    come along. Then ``archive`` is removed, unless ``keep``. Links, devices, anything outside, damage:
    WeightsError.
    """
    temporary = target.with_name(f".{target.name}.extracting")  # ours alone: the lock is held
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        with _unzipped(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as tar:
            _extract_members(tar, temporary)
            while unzipped.read(CHUNK_BYTES):  # to the end: only there gzip's checksum is compared
                pass
        inside = [path for path in temporary.iterdir() if not path.name.startswith(".")]
        if not any(path.is_file() for path in temporary.rglob("*")):
            raise tarfile.TarError("it holds no files")
        if target.suffix:
            _take_file(temporary, target)
        else:
            os.replace(inside[0] if len(inside) == 1 and inside[0].is_dir() else temporary, target)
    except _DAMAGE as error:
        if not keep:
            archive.unlink()
        raise WeightsError(f"{archive} is not a sound archive: {error}{'; remove it' * keep}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not keep:
        archive.unlink()


def _unzipped(archive: Path) -> IO[bytes]:
    """What 2020 called ``.tar`` may be zipped: the first bytes tell."""
    with open(archive, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(archive) if zipped else open(archive, "rb")


def _take_file(folder: Path, target: Path) -> None:
    found = sorted(folder.rglob(target.name))
    if not found:
        raise tarfile.TarError(f"it holds no {target.name}")
    for text in folder.rglob("*.txt"):
        if not (target.parent / text.name).exists():
            os.replace(text, target.parent / text.name)
    os.replace(found[0], target)


def _extract_members(tar: tarfile.TarFile, folder: Path) -> None:
    # By hand: tarfile's own filters are missing in early patch releases of 3.10 and 3.11.
    total = 0
    for count, member in enumerate(tar, 1):
        total += member.size
        if count > MAX_MEMBERS or total > MAX_EXTRACTED_BYTES:
            raise tarfile.TarError(f"more than {MAX_MEMBERS} files or {MAX_EXTRACTED_BYTES} bytes")
        inside = PureWindowsPath(member.name)  # it knows both kinds of separators, and drives
        if inside.drive or inside.root or ".." in inside.parts:
            raise tarfile.TarError(f"{member.name!r} lies outside its folder")
        path = folder.joinpath(*inside.parts)
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
        elif member.isreg() and not member.issparse():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, open(path, "xb") as out:
                shutil.copyfileobj(source, out)
                out.flush()
                os.fsync(out.fileno())
        else:
            raise tarfile.TarError(f"{member.name!r} is a link or a device")
