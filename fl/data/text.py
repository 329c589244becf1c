"""Text, each token of which is to be predicted from those before it: `text:PATH` of the user's own, and `shakespeare`.

`text:PATH[,tokens=chars|bytes|FILE.json][,group=file|role][,stride=N]` reads a file, or all files of a folder in order of
their paths. A token is a character, a byte, or what a `tokenizers` JSON file makes one. A sample is `--context` tokens
in a row and, as its targets, the token that follows each of them; samples begin `stride` tokens apart (default: their
length).

Nothing is shuffled before it is split: of every file, or of every role, the last tenth is held out, its first half to
validate and its second to test on. A sample's worth of text is dropped before either, so that no text is in two splits.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compression.spec import SpecError, parse_stage
from fl.common.config import DataOptions
from fl.common.errors import ConfigError, DataError
from fl.common.names import readable
from fl.common.plugin import reason
from fl.common.text_file import CANNOT_READ, read_text

from .dataset import Dataset, Split
from .files import why_unreadable
from .partition import NATURAL, check_partition
from .schema import Schema

CONTEXT = 64
"""Tokens of a sample where neither `--context` nor the model says."""

_SHAKESPEARE = "tinyshakespeare.txt"
_HELD_OUT = 0.1
_MOST_CHARACTERS = 256  # of different ones; a text with more is read as bytes
_GROUPS = ("file", "role")
_SPEAKER = re.compile(r"\s*([^\n:]+):[ \t]*(?:\n|\Z)")


@dataclass(frozen=True)
class _Tokenizer:
    """`size`: how many different tokens there are, numbered from 0. `words`: how to say it. `encode`: text to int64 [L].
    `characters`: those that are tokens, in order; `file_sha256`: of the file that makes others; empty where neither does.
    """

    size: int
    words: str
    encode: Callable[[str], np.ndarray]
    characters: str = ""
    file_sha256: str = ""

    @property
    def encoding(self) -> str:
        """As `Dataset.encoding`."""
        return json.dumps({"characters": self.characters, "SHA-256 of the tokens' file": self.file_sha256})


@dataclass(frozen=True)
class _Text:
    """A specification that has been read. `tokens`: "", "chars", "bytes" or a path; `stride` 0: the length of a sample."""

    name: str
    places: tuple[Path, ...]
    tokens: str
    group: str
    stride: int
    context: int
    natural: bool
    schema: Schema | None

    def load(self) -> Dataset:
        """The data set; DataError for files that will not do."""
        files, remarks = self._read()
        texts = self._grouped(files)
        whole = "".join(texts)
        tokenizer = self._tokenizer(whole)
        streams = [tokenizer.encode(text) for text in texts]
        cuts = [self._cut(torch.from_numpy(stream)) for stream in streams]
        splits = [_joined(some) for some in zip(*cuts, strict=True)]
        for part, split in zip(("train", "validation", "test"), splits, strict=True):
            if not len(split):
                raise DataError(
                    f"--dataset {self.name}: {sum(map(len, streams)):,} tokens in {len(texts)} text(s) leave no {part} "
                    f"sample of --context {self.context} tokens; take a smaller one, or more text"
                )
        short = sum(not len(train) for train, _, _ in cuts)
        if short:
            kind = "roles" if self.natural and self.group == "role" else "files"
            remarks.append(
                f"{short} of {len(texts)} {kind} are left out: shorter than a sample of {self.context} tokens and its target"
            )
        owners = torch.repeat_interleave(torch.tensor([len(train) for train, _, _ in cuts]))
        return Dataset(
            "shakespeare" if self.name.startswith("shakespeare") else "text",
            *(splits[0], splits[2]),
            classes=tokenizer.size,
            groups=owners if self.natural else None,
            validation=splits[1],
            bytes_per_token=len(_bytes(whole)) / sum(map(len, streams)),
            encoding=tokenizer.encoding,
            notes=(f"{len(whole):,} characters, as {tokenizer.words}",),
            left_out=tuple(remarks),
        )

    def _read(self) -> tuple[list[str], list[str]]:
        """The text of every file, and remarks on what was passed over or guessed."""
        place = next((place for place in self.places if place.exists()), None)
        if place is None:
            where = " or ".join(str(place) for place in self.places)
            raise DataError(f"--dataset {self.name}: there is no {where}, and nothing can be downloaded")
        alone = not place.is_dir()
        paths = [place] if alone else sorted(_files(place), key=os.fsencode)
        texts, remarks, passed = [], [], []
        for path in paths:
            try:
                text, remark = read_text(path)
            except CANNOT_READ as error:
                if alone:
                    raise DataError(f"--dataset {self.name}: {path} cannot be read ({why_unreadable(error)})") from None
                passed.append(path)
                continue
            texts.append(text.replace("\r\n", "\n"))
            if remark:
                remarks.append(f"{readable(str(path))}: {remark}")
        if passed:
            remarks.append(
                f"{len(passed)} file(s) that are no text are passed over, such as {readable(str(passed[0]))}"
            )
        if not any(texts):
            raise DataError(f"--dataset {self.name}: there is no text in {place}")
        return texts, remarks

    def _grouped(self, files: list[str]) -> list[str]:
        """The texts that are split each by itself: files, or what each role says in all of them."""
        if not (self.natural and self.group == "role"):
            return [text for text in files if text]
        roles: dict[str, list[str]] = {}
        for text in files:
            for role, said in _speeches(text):
                roles.setdefault(role, []).append(said)
        if len(roles) < 2:
            raise DataError(
                f"--dataset {self.name}: group=role needs at least two roles, each named on a line that ends with a colon "
                f"and follows an empty one, not {len(roles)}"
            )
        return ["\n".join(said) for said in roles.values()]

    def _tokenizer(self, whole: str) -> _Tokenizer:
        if self.tokens not in ("", "chars", "bytes"):
            return _from_file(self.name, Path(self.tokens))
        codes = np.unique(_codes(whole))
        characters = None if self.schema is None else self.schema.encoded["characters"]
        if self.tokens == "bytes" or characters == "" or (not self.tokens and len(codes) > _MOST_CHARACTERS):
            return _Tokenizer(256, "bytes", lambda text: np.frombuffer(_bytes(text), np.uint8).astype(np.int64))
        if characters is not None:
            known = _codes(characters)
            if not np.isin(codes, known).all():
                strange = chr(int(codes[~np.isin(codes, known)][0]))
                raise DataError(
                    f"--dataset {self.name}: the server's text has no character {strange!r}; take tokens=bytes everywhere"
                )
            codes = known
        words = f"{len(codes)} different characters"
        every = codes.tobytes().decode("utf-32-le", "surrogatepass")
        return _Tokenizer(len(codes), words, lambda text: np.searchsorted(codes, _codes(text)), every)

    def _cut(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of one text to train, validate and test on; all to train on where it is too short for the latter two, or with
        a schema, when they are not looked at."""
        if self.schema is not None:
            every = self._samples(tokens)
            return every, every[:1], every[:1]
        held = round(_HELD_OUT * len(tokens))
        train, validation, test = tokens.split([len(tokens) - held, held // 2, held - held // 2])
        later = self._samples(validation[self.context :]), self._samples(test[self.context :])
        if not all(map(len, later)):
            train = tokens
            later = self._samples(tokens[:0]), self._samples(tokens[:0])
        return self._samples(train), *later

    def _samples(self, tokens: Tensor) -> Tensor:
        """Samples, each with the target of its last token, int64 [N, T + 1]: views, as many as there is room for."""
        if len(tokens) <= self.context:
            return tokens.new_empty(0, self.context + 1)
        return tokens.unfold(0, self.context + 1, self.stride or self.context)


def reader(options: DataOptions, schema: Schema | None = None) -> Callable[[], Dataset]:
    """What loads the text that `--dataset` names, in the tokens of the `schema`, if it is given; SpecError if the name
    cannot be read."""
    stage = parse_stage(options.dataset)
    own = stage.name == "text"
    stage.expect(int(own), ("tokens", "group", "stride"), example="text:PATH" if own else "shakespeare")
    group = stage.options.get("group", "file" if own else "role")
    if group not in _GROUPS:
        raise SpecError(f"'{stage}': group must be {' or '.join(_GROUPS)}, not {group}")
    folder = Path(options.data_dir)
    places = (Path(stage.args[0]),) if own else (folder / "shakespeare" / _SHAKESPEARE, folder / _SHAKESPEARE)
    return _Text(
        options.dataset,
        places,
        stage.options.get("tokens", ""),
        group,
        stage.integer("stride", 1, "stride") if "stride" in stage.options else 0,
        options.context or CONTEXT,
        check_partition(options.partition).stage.name == NATURAL,
        schema,
    ).load


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder, of any depth, hidden ones apart."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(name.startswith(".") for name in path.relative_to(folder).parts):
            yield path


def _speeches(text: str) -> Iterator[tuple[str, str]]:
    """Who says what, in order: the paragraphs of a play, each with its speaker; those before the first have none."""
    role = ""
    for paragraph in text.split("\n\n"):
        speaker = _SPEAKER.match(paragraph)
        if speaker:
            role, paragraph = speaker[1], paragraph[speaker.end() :]
        if role:
            yield role, paragraph


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _from_file(name: str, path: Path) -> _Tokenizer:
    if not path.is_file():
        raise DataError(
            f"--dataset {name}: tokens must be chars, bytes or a file of the package tokenizers; there is no {path}"
        )
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError(
            f"--dataset {name}: tokens={path} needs the package tokenizers: pip install tokenizers"
        ) from None
    try:
        made = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises Exception itself
        raise DataError(f"--dataset {name}: {path} is no file of the package tokenizers ({reason(error)})") from None

    def encode(text: str) -> np.ndarray:
        try:
            return np.array(made.encode(text, add_special_tokens=False).ids, dtype=np.int64)
        except Exception as error:
            raise DataError(
                f"--dataset {name}: the tokens of {path} cannot write this text ({reason(error)})"
            ) from None

    size = 1 + max(made.get_vocab().values(), default=0)  # numbers may be left out
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _Tokenizer(size, f"tokens of {path.name}", encode, file_sha256=digest)


def _joined(texts: tuple[Tensor, ...]) -> Split:
    """The samples of all texts, int64 [N, T + 1] each. They stay views where they are of a single one."""
    some = [rows for rows in texts if len(rows)] or [texts[0]]
    rows = some[0] if len(some) == 1 else torch.cat(some)
    return Split(rows[:, :-1], rows[:, 1:])
