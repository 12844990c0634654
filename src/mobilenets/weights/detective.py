"""Which preprocessing a foreign model was made for, found out on labelled pictures.

A file of weights rarely says how its pictures were scaled, in which order their channels came, how they
were cropped or how the network was padded. `detect` runs the model under the usual conventions and
compares how well it does, aspect by aspect: scaling and colour order first, since a wrong one ruins the
most, then padding and epsilon, then crop and kernel. Conventions that are clearly worse drop out early.

Two conventions see the same pictures, so they are compared picture by picture. One is clearly better if
it is right on more of the pictures on which they differ (exact sign test, p < 0.05), or gives the right
labels more probability without being right less often (mean difference in log-probability over its
standard error above 3). What is not clearly worse than the best ties with it: then the checkpoint's own
convention is kept, else the commonest one chosen, and the tie is told.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import FolderError, InputError, PictureError
from mobilenets.evaluation import Score, match_labels, proportion
from mobilenets.folder import Folder, Picture
from mobilenets.network import MobileNet, from_checkpoint
from mobilenets.pictures import load
from mobilenets.preprocessing import Preprocessing, affine, prepare
from mobilenets.progress import SILENT, Progress
from mobilenets.spec import Padding
from mobilenets.threads import in_threads
from mobilenets.weights.conventions import Candidates, Convention, crops, paddings, scalings, stem

_BATCH = 25
"""Pictures between two looks at which conventions are still in the race."""
_SIGN_LEVEL = 0.05
_CLEAR_ERRORS = 3.0
"""Standard errors by which a mean difference in log-probability must differ from 0."""
_DROP_ERRORS = 5.0
"""The same for dropping out of the race before all pictures were seen."""
_LEAST_LOG = -10.0
"""A log-probability below counts as this much, so that one picture cannot decide alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """How the model did under one convention."""

    name: str
    """What is special about it, such as `[-1, 1], RGB`."""
    convention: Convention
    accuracy: Score
    log_probability: float
    """Mean natural logarithm of the right label's probability; one picture counts −10 at least."""
    tied: bool
    """Whether it is not clearly worse than the best row; the best row ties with itself."""


@dataclass(frozen=True, slots=True)
class Aspect:
    """One question and its rows, the best first."""

    name: str
    rows: tuple[Row, ...]
    chosen: Row
    """The tied row that is kept: the checkpoint's own, else the commonest."""

    @property
    def tied(self) -> tuple[Row, ...]:
        """The rows among which the pictures do not decide, the best first."""
        return tuple(row for row in self.rows if row.tied)

    @property
    def decided(self) -> bool:
        """Whether one row is clearly better than all others."""
        return len(self.tied) == 1


@dataclass(frozen=True)
class Detection:
    """What `detect` found out."""

    aspects: tuple[Aspect, ...]
    """Scaling and colour order; padding and epsilon; crop and kernel. Each follows the choice before."""
    pictures: int
    """How many pictures were looked at."""
    chance: float
    """The accuracy of always naming the commonest class among them."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, aspect by aspect, the best first."""
        return tuple(row for aspect in self.aspects for row in aspect.rows)

    @property
    def best(self) -> Convention:
        """The convention that the model behaves as if it wants."""
        return self.aspects[-1].chosen.convention

    @property
    def accuracy(self) -> Score:
        """The model's accuracy under it."""
        return self.aspects[-1].chosen.accuracy

    @property
    def better_than_chance(self) -> bool:
        """Whether the model recognises anything under it: else the labels or the file are wrong."""
        return self.accuracy.low > self.chance

    @property
    def decided(self) -> bool:
        """Whether scaling and colour order are beyond doubt; `aspects` tells about the others."""
        return self.better_than_chance and self.aspects[0].decided

    @property
    def findings(self) -> tuple[str, ...]:
        """What it comes to, in sentences."""
        if not self.better_than_chance:
            return (
                f"Under no convention does the model do better than chance ({self.chance:.0%}): "
                "its labels may be in another order, or the file is damaged. Nothing was found out.",
            )
        lines = [f"The model is right on {self.accuracy} when it is fed as follows."]
        for aspect in self.aspects:
            line = f"{aspect.name[0].upper()}{aspect.name[1:]}: {aspect.chosen.name}"
            others = [row.name for row in aspect.tied if row is not aspect.chosen]
            if others:
                line += f"; these pictures do not tell it from: {'; '.join(others)}"
            lines.append(f"{line}.")
        if self.best.order == "BGR":
            lines.append("It wants BGR: the first convolution's weights are turned, so that it takes RGB.")
        return tuple(lines)

    def with_preprocessing(self, checkpoint: Checkpoint) -> Checkpoint:
        """`checkpoint` with the best convention in its manifest, taking RGB in any case.

        A network that wants BGR gets its first convolution's weights reversed, which is the same. Where
        nothing was found out, nothing changes but the provenance, which says so.
        """
        best, manifest, tensors = self.best, checkpoint.manifest, dict(checkpoint.tensors)
        provenance = {**manifest.provenance, "detected": self.to_json()}
        if not self.better_than_chance:
            return dataclasses.replace(
                checkpoint, manifest=dataclasses.replace(manifest, provenance=provenance)
            )
        if best.order == "BGR":
            name = f"{stem(checkpoint).path}.conv.weight"
            tensors[name] = np.ascontiguousarray(tensors[name][:, ::-1])
        return dataclasses.replace(
            checkpoint,
            manifest=dataclasses.replace(
                manifest,
                spec=dataclasses.replace(manifest.spec, padding=best.padding, norm_epsilon=best.epsilon),
                preprocessing=best.preprocessing,
                provenance=provenance,
            ),
            tensors=tensors,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "pictures": self.pictures,
            "decided": self.decided,
            "chance": self.chance,
            "order": self.best.order,
            "padding": self.best.padding,
            "norm_epsilon": self.best.epsilon,
            "preprocessing": self.best.preprocessing.to_json(),
            "aspects": [
                {
                    "aspect": aspect.name,
                    "decided": aspect.decided,
                    "chosen": aspect.chosen.name,
                    "rows": [
                        {
                            "name": row.name,
                            "accuracy": row.accuracy.to_json(),
                            "log_probability": row.log_probability,
                            "tied": row.tied,
                        }
                        for row in aspect.rows
                    ],
                }
                for aspect in self.aspects
            ],
        }


def detect(
    checkpoint: Checkpoint, folder: Folder, *, pictures: int = 200, progress: Progress = SILENT
) -> Detection:
    """Find the preprocessing, padding and epsilon under which `checkpoint` does best on `folder`.

    At most `pictures` are looked at, from all splits, spread evenly over the classes; not all of the
    model's classes need be there. Raises `LabelsError` where a class is unknown to the model,
    `FolderError` where no picture can be decoded, `InputError` for fewer than one picture.
    """
    if pictures < 1:
        raise InputError(f"the number of pictures is {pictures}; it must be 1 or more.")
    position = match_labels(checkpoint.manifest.labels, folder)
    sample = _sample(folder.pictures, pictures)
    truth = np.array([position[picture.label] for picture in sample], dtype=np.int64)
    trial = _Trial(checkpoint, sample, truth, progress)
    best = Convention(
        checkpoint.manifest.preprocessing, checkpoint.spec.padding, checkpoint.spec.norm_epsilon
    )
    aspects = []
    for name, candidates in (
        ("scaling and colour order", scalings),
        ("padding and epsilon", paddings),
        ("crop and kernel", crops),
    ):
        aspects.append(trial.decide(name, candidates(best, checkpoint)))
        best = aspects[-1].chosen.convention
    seen = max(row.accuracy.n for row in aspects[0].rows)
    return Detection(tuple(aspects), seen, float(np.bincount(truth).max()) / len(truth))


# --- the race -------------------------------------------------------------------------------


@dataclass(eq=False)
class _Runner:
    """A convention in the race: what it has scored so far, picture by picture."""

    name: str
    convention: Convention
    hits: list[NDArray[np.bool_]] = dataclasses.field(default_factory=list)
    logs: list[NDArray[np.float64]] = dataclasses.field(default_factory=list)

    def take(self, log_probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> None:
        """Add a batch: N×classes and N."""
        self.hits.append(log_probabilities.argmax(axis=1) == truth)
        own = log_probabilities[np.arange(len(truth)), truth]
        self.logs.append(np.maximum(own, _LEAST_LOG))

    @property
    def rank(self) -> tuple[int, float]:
        """Comparable among runners that saw the same pictures: pictures right, then log-probability."""
        return int(sum(h.sum() for h in self.hits)), float(np.concatenate(self.logs).mean())


class _Trial:
    """The pictures, and the networks that were built to run them."""

    def __init__(
        self, checkpoint: Checkpoint, sample: list[Picture], truth: NDArray[np.int64], progress: Progress
    ):
        self._checkpoint, self._sample, self._truth, self._progress = checkpoint, sample, truth, progress
        self._networks: dict[tuple[Padding, float], MobileNet] = {}

    def decide(self, aspect: str, candidates: Candidates) -> Aspect:
        """Run the candidates, drop those that fall behind, rank all."""
        everyone = [_Runner(name, convention) for name, convention in candidates]
        running = everyone
        chunks = [range(i, min(i + _BATCH, len(self._sample))) for i in range(0, len(self._sample), _BATCH)]
        for chunk in self._progress.track(chunks, len(self._sample), f"trying {aspect}", size=len):
            self._run(chunk, running)
            if not running[0].logs:
                continue
            leader = max(running, key=lambda runner: runner.rank)
            running = [r for r in running if not _clearly_better(leader, r, early=True)]
        if not running[0].logs:
            raise FolderError("has no picture that can be decoded.", file=self._sample[0].path.parent)
        best = max(running, key=lambda runner: runner.rank)
        tied = [r for r in running if not _clearly_better(best, r, early=False)]
        ranked = sorted(everyone, key=lambda r: (r in running, r.rank), reverse=True)
        rows = {id(r): _row(r, r in tied) for r in ranked}
        return Aspect(aspect, tuple(rows.values()), rows[id(tied[0])])

    def _run(self, chunk: range, running: list[_Runner]) -> None:
        """Show the pictures of `chunk` to everybody still running; each is decoded once."""
        geometries = {_geometry(runner.convention.preprocessing) for runner in running}

        def prepared(index: int) -> dict[Preprocessing, NDArray[np.uint8]] | None:
            try:
                image = load(self._sample[index].path, exif=self._checkpoint.manifest.preprocessing.exif)
            except PictureError:  # it was there at the scan, which names what cannot be read
                return None
            side = self._checkpoint.spec.resolution
            return {geometry: prepare(image, geometry, side) for geometry in geometries}

        shown = {i: views for i, views in zip(chunk, in_threads(prepared, chunk), strict=True) if views}
        if not shown:
            return
        for geometry in geometries:
            pixels = np.stack([views[geometry] for views in shown.values()])
            for runner in running:
                if _geometry(runner.convention.preprocessing) == geometry:
                    found = self._log_probabilities(runner.convention, pixels)
                    runner.take(found, self._truth[list(shown)])

    def _log_probabilities(self, convention: Convention, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        factor, offset = (torch.from_numpy(v) for v in affine(convention.preprocessing))
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(torch.float32) * factor + offset
            if convention.order == "BGR":
                batch = batch.flip(-1)
            logits = self._network(convention)(batch.permute(0, 3, 1, 2))
            result: NDArray[np.float64] = torch.log_softmax(logits.double(), dim=1).numpy()
        return np.nan_to_num(result, nan=-math.inf, neginf=-math.inf)

    def _network(self, convention: Convention) -> MobileNet:
        key = convention.padding, convention.epsilon
        if key not in self._networks:
            manifest = self._checkpoint.manifest
            spec = dataclasses.replace(manifest.spec, padding=key[0], norm_epsilon=key[1])
            changed = dataclasses.replace(self._checkpoint, manifest=dataclasses.replace(manifest, spec=spec))
            network = from_checkpoint(changed)
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._networks[key] = network
        return self._networks[key]


def _geometry(preprocessing: Preprocessing) -> Preprocessing:
    """What decides the pixels: all but the scaling."""
    zeros, ones = (0.0,) * preprocessing.channels, (1.0,) * preprocessing.channels
    return dataclasses.replace(preprocessing, scale=1.0, mean=zeros, std=ones)


def _row(runner: _Runner, tied: bool) -> Row:
    hits = np.concatenate(runner.hits)
    return Row(
        runner.name,
        runner.convention,
        proportion(int(hits.sum()), len(hits)),
        float(np.concatenate(runner.logs).mean()),
        tied,
    )


def _clearly_better(a: _Runner, b: _Runner, *, early: bool) -> bool:
    """Whether `a` beats `b` beyond doubt on the pictures that both have seen."""
    if a is b or not a.hits:
        return False
    hits_a, hits_b = np.concatenate(a.hits), np.concatenate(b.hits)
    won, lost = int((hits_a & ~hits_b).sum()), int((hits_b & ~hits_a).sum())
    difference = np.concatenate(a.logs) - np.concatenate(b.logs)
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    mean = float(difference.mean())
    if early:
        return won > lost and sign_test(won, lost) < _SIGN_LEVEL / 50 and mean > _DROP_ERRORS * error
    return (won > lost and sign_test(won, lost) < _SIGN_LEVEL) or (
        won >= lost and mean > _CLEAR_ERRORS * error
    )


def sign_test(won: int, lost: int) -> float:
    """The two-sided exact p-value of `won` against `lost` under a fair coin; 1 where there are none."""
    n, k = won + lost, min(won, lost)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / float(2**n))


def _sample(pictures: Sequence[Picture], limit: int) -> list[Picture]:
    """At most `limit` pictures, taken from the classes in turn; the same ones every time."""
    by_class: dict[int, list[Picture]] = {}
    for picture in sorted(pictures, key=lambda p: p.sha256):
        by_class.setdefault(picture.label, []).append(picture)
    turns = [picture for entry in _in_turn(list(by_class.values())) for picture in entry]
    return turns[:limit]


def _in_turn(classes: list[list[Picture]]) -> Iterator[list[Picture]]:
    for turn in range(max(len(pictures) for pictures in classes)):
        yield [pictures[turn] for pictures in classes if turn < len(pictures)]
