"""The verbs that work on pictures and models: call, print, and say what to type next."""

from collections.abc import Sequence
from pathlib import Path

from mobilenets import recipe as recipes
from mobilenets.cli.terminal import TerminalProgress, say, show, show_json, show_table
from mobilenets.errors import InputError, MobilenetsError, UnknownName
from mobilenets.evaluation import Evaluation
from mobilenets.evaluation import evaluate as evaluate_folder
from mobilenets.files import read_json, write_text
from mobilenets.folder import Folder, Split, scan
from mobilenets.prediction import expand, to_csv
from mobilenets.prediction import predict as predict_pictures
from mobilenets.recipe import Recipe
from mobilenets.runtime import check_engine, open_session, read_model
from mobilenets.spec import Padding
from mobilenets.text import command_line, count, file_name, printable

_SPLITS: dict[str, Split | None] = {"train": "train", "val": "val", "test": "test", "all": None}


def train(
    folder: Path,
    *,
    model: str | None,
    init: Path | None,
    resolution: int | None,
    recipe: str | None,
    settings: Sequence[str],
    seed: int,
    strict: bool,
    device: str | None,
    output: Path | None,
    resume: Path | None,
    print_recipe: bool,
    typed: Sequence[str],
) -> None:
    """`mobilenets train`."""
    chosen = _recipe(recipe or ("finetune" if init else "scratch"), settings)
    if print_recipe:
        show_json(chosen.to_json())
        return
    if resume is not None and (
        settings or any(v is not None for v in (model, init, resolution, recipe, output))
    ):
        raise InputError(
            "--resume goes on with the choices that are stored with the run; leave the other options out.",
            remedy=f"That is: {command_line(['train', str(folder), '--resume', str(resume)])}",
        )
    progress = TerminalProgress()
    from mobilenets.training import check_choices, stored_plan
    from mobilenets.training import train as run_training

    if resume is not None:
        seed = stored_plan(resume).seed
    check_choices(model=model, init=init, resolution=resolution, out=output, device=device)
    scanned = scan(folder, seed=seed, strict=strict, progress=progress)
    show_problems(scanned)
    run = run_training(
        scanned,
        model=model,
        init=init,
        recipe=chosen,
        resolution=resolution,
        seed=seed,
        out=output,
        resume=resume,
        device=device,
        command=command_line(typed),
        progress=progress,
    )
    show_scores(run.evaluation, "test")
    path = printable(str(run.path))
    say(f"\nWritten to {path}: model.safetensors, report.html, {', '.join(_named(run.files))}")
    say(f"Look at    {path}/report.html")
    say(f"Next       {command_line(['predict', str(run.path), 'PICTURE'])}")
    say(f"           {command_line(['export', str(run.path), '--to', 'onnx'])}")


def _named(files: Sequence[Path]) -> list[str]:
    return [file.name for file in files if file.name != "report.html"]


def _recipe(name: str, settings: Sequence[str]) -> Recipe:
    file = Path(name)
    if name not in recipes.PRESETS and (file.suffix == ".json" or file.is_file()):
        try:
            chosen = recipes.from_json(read_json(file))
        except MobilenetsError as error:
            raise error.in_file(file) from error
    else:
        chosen = recipes.preset(name)
    changes = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set takes KEY=VALUE, such as rate=0.001: got '{printable(setting)}'.")
        changes[key.strip()] = value.strip()
    return recipes.with_settings(chosen, changes)


def show_problems(folder: Folder) -> None:
    """What the scan found: counts by kind, and the first files of each."""
    for kind, used, names in _problem_groups(folder):
        listed = ", ".join(printable(name) for name in names[:3]) + (" …" if len(names) > 3 else "")
        verb = "used" if used else "left out"
        say(f"{verb}: {len(names):,} × {kind}: {listed}")


def _problem_groups(folder: Folder) -> list[tuple[str, bool, list[str]]]:
    groups: dict[tuple[str, bool], list[str]] = {}
    for problem in folder.problems:
        groups.setdefault((problem.kind, problem.used), []).append(problem.name)
    return sorted(((kind, used, names) for (kind, used), names in groups.items()), key=lambda g: g[1])


def show_scores(evaluation: Evaluation, split: str) -> None:
    """The last lines that matter: score with interval, and the classes that are worst."""
    show(f"\naccuracy on {split}           {evaluation.accuracy}")
    show(f"balanced accuracy           {evaluation.balanced_accuracy}")
    if len(evaluation.labels) > 10:
        show(f"right label among best 5    {evaluation.top(5)}")


def evaluate(model: str, folder: Path, *, split: str | None, engine: str | None, as_json: bool) -> None:
    """`mobilenets evaluate`."""
    if split is not None and split not in _SPLITS:
        raise UnknownName("split", split, _SPLITS)
    check_engine(engine)
    source, progress = read_model(model), TerminalProgress()
    scanned = scan(folder, purpose="evaluate", progress=progress)
    show_problems(scanned)
    chosen = split or ("test" if scanned.split("test") else "all")
    result = evaluate_folder(source, scanned, split=_SPLITS[chosen], engine=engine, progress=progress)
    which = f"of the split '{chosen}'" if scanned.given_splits else "of the folder, which has no split"
    say(f"{count(len(result.truth), 'picture')} {which} · engine: {result.engine}")
    if result.seen:
        say(
            f"Careful: the model was trained on {result.seen:,} of these pictures, "
            "so this score is better than on new ones."
        )
    if as_json:
        show_json({"model": model, "split": chosen, **result.to_json()})
        return
    show_scores(result, chosen)
    show("")
    rows = sorted((row for row in result.per_class if row.n), key=lambda row: row.recall.value)
    show_table(
        [
            ("class", "left"),
            ("recall", "right"),
            ("95 % interval", "right"),
            ("precision", "right"),
            ("pictures", "right"),
        ],
        [
            (
                r.label,
                f"{r.recall.value:.1%}",
                f"{r.recall.low:.1%} – {r.recall.high:.1%}",
                f"{r.precision:.1%}",
                r.n,
            )
            for r in rows[:30]
        ],
    )
    if len(rows) > 30:
        show(f"… and {len(rows) - 30} classes with a better recall (all of them with --json)")
    _show_confusions(result)


def _show_confusions(result: Evaluation) -> None:
    counts = result.confusion.copy()
    for i in range(len(counts)):
        counts[i, i] = 0
    order = counts.ravel().argsort(kind="stable")[::-1][:5]
    pairs = [(divmod(int(i), len(counts)), int(counts.ravel()[i])) for i in order if counts.ravel()[i]]
    if pairs:
        show("\nmost frequent mistakes")
    for (truth, predicted), n in pairs:
        show(f"  {n:4d} × {printable(result.labels[truth])} taken for {printable(result.labels[predicted])}")


def predict(
    model: str,
    pictures: Sequence[Path],
    *,
    top: int,
    engine: str | None,
    csv_file: Path | None,
    as_json: bool,
) -> None:
    """`mobilenets predict`."""
    if csv_file is not None and csv_file.exists() and csv_file.suffix.lower() != ".csv":
        raise InputError("exists already and is no .csv file; it would be lost.", file=csv_file)
    check_engine(engine)
    source, progress = read_model(model), TerminalProgress()
    paths = list(expand(pictures))
    session = open_session(source, engine=engine, progress=progress)
    results = predict_pictures(session, paths, top=top, progress=progress)
    say(f"{count(len(results), 'picture')} · engine: {session.engine}")
    if csv_file is not None:
        write_text(csv_file, to_csv(results))
    if as_json:
        show_json([result.to_json() for result in results])
    else:
        show_table(
            [("picture", "left"), ("label", "left"), ("probability", "right"), ("then", "left")],
            [
                (
                    result.path,
                    result.label or f"unreadable: {result.error}",
                    "" if result.probability is None else f"{result.probability:.1%}",
                    ", ".join(
                        f"{label} {p:.1%}"
                        for label, p in zip(result.labels[1:], result.probabilities[1:], strict=True)
                    ),
                )
                for result in results
            ],
        )
    unreadable = [result for result in results if result.error is not None]
    if unreadable and len(unreadable) == len(results):
        raise InputError(
            f"none of the pictures could be read: {unreadable[0].error}", file=unreadable[0].path
        )
    if csv_file is not None:
        say(f"Written: {printable(str(csv_file))}")


def import_file(
    files: Sequence[str],
    output: Path,
    *,
    padding: Padding | None,
    eps: float | None,
    mean: str | None,
    std: str | None,
    labels: str | None,
    resolution: int | None,
    licence: str | None,
    detect: Path | None,
    proof: bool,
) -> None:
    """`mobilenets import`."""
    if output.exists():
        raise InputError("exists already.", file=output, remedy="Choose another name with -o, or remove it.")
    from mobilenets.weights import import_file as read_foreign

    progress = TerminalProgress()
    pictures = None if detect is None else scan(detect, purpose="evaluate", progress=progress)
    imported = read_foreign(
        files,
        padding=padding,
        epsilon=eps,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        labels=labels,
        resolution=resolution,
        licence=licence,
        progress=progress,
    )
    for decision in imported.decisions:
        say(decision)
    if proof:
        from mobilenets.proof import prove

        say(prove(imported))
    checkpoint = imported.checkpoint
    if pictures is not None:
        from mobilenets.cli.detection import show_detection
        from mobilenets.weights.detective import detect as find_preprocessing

        detection = find_preprocessing(checkpoint, pictures, progress=progress)
        say("")
        show_detection(detection)
        checkpoint = detection.with_preprocessing(checkpoint)
    checkpoint.save(output)
    say(f"\nWritten: {printable(str(output))}")
    say(f"Next     {command_line(['train', 'FOLDER', '--init', str(output)])}")


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"{option} is '{printable(text)}'; it takes one number, or one per channel: 0.5,0.5,0.5"
        ) from error


def export(
    model: str,
    to: str,
    *,
    pictures: Path | None,
    opset: int,
    target: str,
    precision: str,
    single_threaded: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """`mobilenets export` and `mobilenets compile`."""
    if to in ("torchvision", "timm", "keras"):
        if precision != "fp32":
            raise InputError(f"weights for {to} are written in fp32 alone; {precision} is for C (--to c).")
        _export_weights(model, to, pictures=pictures, output=output, as_json=as_json)
        return
    from mobilenets.exporting import export as write_bundle

    bundle = write_bundle(
        Path(model),
        to,
        out=output,
        pictures=pictures,
        opset=opset,
        target=target,
        precision=precision,
        single_threaded=single_threaded,
        progress=TerminalProgress(),
    )
    if as_json:
        show_json({"bundle": str(bundle.folder), "certificate": bundle.certificate})
        return
    show(f"Written: {printable(str(bundle.folder))}")
    if (bundle.folder / "selftest.py").exists():
        say(f"Check it on its device   python {printable(str(bundle.folder / 'selftest.py'))}")
    if bundle.certificate["candidate"]["ran"]:
        say(f"Next                     {command_line(['predict', str(bundle.folder), 'PICTURE'])}")
    else:
        say(f"Next                     read {printable(str(bundle.folder / 'README.md'))}")


def _export_weights(
    model: str, to: str, *, pictures: Path | None, output: Path | None, as_json: bool
) -> None:
    """`mobilenets export --to torchvision|timm|keras`: one file of weights for another library."""
    from mobilenets import checkpoint as checkpoints
    from mobilenets.exporting import keras_weights, state_dict

    if pictures is not None:
        raise InputError(f"--pictures is for bundles; weights for {to} are compared on generated pictures.")
    suffix = keras_weights.SUFFIX if to == "keras" else state_dict.TARGETS[to].suffix
    checkpoint = checkpoints.load(model)
    out = Path(f"{file_name(checkpoint.spec.name)}_{to}{suffix}") if output is None else output
    if out.exists():
        raise InputError("exists already.", file=out, remedy="Choose another name with -o, or remove it.")
    written = keras_weights.write(checkpoint, out) if to == "keras" else state_dict.write(checkpoint, to, out)
    if as_json:
        show_json({"file": str(written.path), "load": written.how_to_load, "notes": list(written.notes)})
        return
    for note in written.notes:
        say(note)
    show(f"Written: {printable(str(written.path))}\n")
    show(written.how_to_load)


def explain(output: Path, *, picture: Path | None, model: str | None) -> None:
    """`mobilenets explain`."""
    from mobilenets.explain import explain as write_page

    page = write_page(output, model=model, picture=picture, progress=TerminalProgress())
    say(f"Written: {printable(str(page))}. Open it in a browser; it needs no network.")
