"""`cvrbench config`, `ls`, `show` and `diff`: configurations and runs, looked at."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cvrbench.cli.console import (
    confirmed,
    heading,
    out,
    plain_table,
    print_json,
    size_words,
    warn,
    write,
)
from cvrbench.cli.options import RESULTS, AsJson, Overrides, ResultsDir, Run, Yes
from cvrbench.errors import ConfigError, StoreError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvrbench.report.masks import Masks
    from cvrbench.report.tables import Grid
    from cvrbench.runs.record import RunRecord

MASKS, SHARING = "masks", "sharing"
PAGE = 80
"""Longer lines of prose are hard to read."""


def _complete(incomplete: str) -> list[str]:
    return [word for word in (MASKS, SHARING) if word.startswith(incomplete)]


def show(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[masks|sharing] RUN",
            help="RUN: a run's folder, or a part of its name. Before it `masks` (what each task "
            "keeps of the trunk), `sharing` (what gates mix, whether gradients agree), or nothing: "
            "all at a glance. These two words alone are no run; a folder of such a name is ./masks",
            autocompletion=_complete,
            show_default=False,
        ),
    ],
    results_dir: ResultsDir = RESULTS,
    plot: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw the masks there, as PNG and SVG")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one run: scores, size, time and what it ran on; or what its tasks share.

    Examples:
        cvrbench show RUN

        cvrbench show masks RUN --plot figures

        cvrbench show sharing RUN
    """
    from cvrbench.runs.store import ResultStore, read_record

    what, run = _parse(words)
    if plot is not None and what != MASKS:
        raise ConfigError(f"--plot draws masks: cvrbench show masks {run} --plot {plot}")
    folder = ResultStore(results_dir).folder(run)
    record = read_record(folder)
    if what == MASKS:
        _show_masks(record, folder, plot, as_json=as_json)
    elif what == SHARING:
        _show_sharing(record, as_json=as_json)
    elif as_json:
        print_json(asdict(record))
    else:
        _show_run(record, results_dir)


def _parse(words: list[str]) -> tuple[str | None, str]:
    """Return what is to be shown, None for all at a glance, and the run.

    Raises:
        ConfigError: No run is named, or something that cannot be shown.
    """
    if len(words) == 1:
        if words[0] in (MASKS, SHARING):
            raise ConfigError(
                f"of which run? cvrbench show {words[0]} RUN; `cvrbench ls` lists runs, and a "
                f"folder called {words[0]!r} is ./{words[0]}"
            )
        return None, words[0]
    if len(words) > 2 or words[0] not in (MASKS, SHARING):
        raise ConfigError(
            f"cvrbench show {shlex.join(words)}: write `show RUN`, `show masks RUN` or "
            "`show sharing RUN`"
        )
    return words[0], words[1]


def _show_run(record: "RunRecord", results_dir: Path) -> None:
    from cvrbench.report.tables import GridTable, run_grid

    heading(record.run_id)
    out.print(GridTable(run_grid(record)))
    learnt = record.counts.get("train", {}).items()  # without hidden ones: protocol.label_share
    seen = ", ".join(f"{n.upper()} {c['positives']:,} of {c['rows']:,}" for n, c in learnt)
    facts = {
        "parameters": f"{record.parameters:,} ({record.embedding_parameters:,} of them embeddings)",
        "multiply-adds": f"{record.multiply_adds:,} per example",
        "seconds": ", ".join(f"{part} {value:.1f}" for part, value in record.seconds.items()),
        "examples/s": f"{record.examples_per_second:,.0f}",
        "best weights": f"step {record.best_step:,}, epoch {record.best_epoch}",
        "test scored": f"{record.test_scored} times" if record.test_scored != 1 else "once",
        "learnt from": f"positives of rows: {seen}" if seen else "not recorded",
        **_shared(record, results_dir),
    }
    for key, value in record.environment.items():
        is_group = isinstance(value, dict)
        facts[key] = ", ".join(f"{k} {v}" for k, v in value.items()) if is_group else str(value)
    table = plain_table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in facts.items():
        table.add_row(key, value)
    out.print(table)


def _shared(record: "RunRecord", results_dir: Path) -> dict[str, str]:
    """Return in a line each what the run's tasks share, and the commands that show more."""
    from cvrbench.report.diagnostics import cosine_summary, gates_summary
    from cvrbench.report.masks import read_masks, summary

    found, facts, more = record.diagnostics, {}, []
    if (masks := read_masks(record)) is not None:
        facts["masks"] = summary(masks)
        more.append(MASKS)
    if gates := found.get("gates"):
        facts["gates"] = gates_summary(gates)
    if cosines := found.get("gradient_cosine"):
        facts["gradient cosine"] = cosine_summary(cosines)
    if gates or cosines:
        more.append(SHARING)
    if more:
        run = shlex.quote(record.run_id)
        if results_dir != RESULTS:
            run += f" --results-dir {shlex.quote(str(results_dir))}"
        facts["more"] = "\n".join(f"cvrbench show {what} {run}" for what in more)
    return facts


def _show_masks(record: "RunRecord", folder: Path, plot: Path | None, *, as_json: bool) -> None:
    from cvrbench.report.masks import layers_grid, read_masks, round_facts, rounds_grid

    masks = read_masks(record)
    if masks is None:
        raise StoreError(
            f"{record.run_id} is a run of {record.model}, and its record tells of no masks; runs "
            "of ncs have masks: cvrbench run model=ncs"
        )
    if as_json:
        rounds = zip(round_facts(record), masks.rounds, strict=True)
        print_json(
            {
                "run_id": record.run_id,
                "model": record.model,
                "tasks": list(masks.tasks),
                "own_weights": masks.own_weights,
                "layers": record.diagnostics["layers"],
                "dead_units": record.diagnostics.get("dead_units", {}),
                "rounds": [{**facts, "chosen": list(one.chosen)} for facts, one in rounds],
            }
        )
    else:
        last = [rounds_grid(masks)] if masks.rounds else []
        _print([layers_grid(masks, record.run_id), *last])
    if plot is not None:
        _draw_masks(record, masks, folder, plot)


def _draw_masks(record: "RunRecord", masks: "Masks", folder: Path, plot: Path) -> None:
    from cvrbench.report.figures.masks import draw_masks
    from cvrbench.report.masks import field_rows, read_keep

    keep = read_keep(folder)
    fields = field_rows(record, keep["trunk_0"].shape[1]) if keep else None
    start = plot / folder.resolve().name
    for path in draw_masks(masks, keep, fields, title=record.run_id, start=start):
        warn(f"wrote {path}")
    if not keep:
        warn("no picture of the masks themselves: they are none of a trunk")
    elif fields is None:
        warn(
            f"no names of input fields, and no picture of them: the prepared {record.dataset} of "
            f"this run is not in {record.config.get('data_dir')}"
        )


def _print(grids: "Sequence[Grid]") -> None:
    """Print grids with their captions below them and as wide as a page, not as the table."""
    from cvrbench.report.tables import GridTable

    for grid in grids:
        out.print(GridTable(replace(grid, caption="")))
        if grid.caption:
            out.print(grid.caption, style="dim italic", width=min(out.width, PAGE))
            out.print()


def _show_sharing(record: "RunRecord", *, as_json: bool) -> None:
    from cvrbench.report.diagnostics import cosine_grid, gate_grids

    gates = record.diagnostics.get("gates") or []
    cosines = record.diagnostics.get("gradient_cosine") or {}
    own = record.diagnostics.get("self_cosine") or {}
    if not gates and not cosines:
        raise StoreError(
            f"{record.run_id}: its record tells of no gates and no gradients; it is a run of "
            f"{record.model}, or of an earlier cvrbench"
        )
    if as_json:
        plain = {"run_id": record.run_id, "model": record.model}
        print_json({**plain, "gates": gates, "gradient_cosine": cosines, "self_cosine": own})
        return
    _print([*gate_grids(gates), *([cosine_grid(cosines, own)] if cosines else [])])


def diff(
    first: Run, second: Run, results_dir: ResultsDir = RESULTS, as_json: AsJson = False
) -> None:
    """Compare two runs: configuration, data, versions, cost, and metrics on the same test rows.

    Examples:
        cvrbench diff kuairand-mmoe-s0 kuairand-ncs-s0

        cvrbench diff results/runs/RUN elsewhere/runs/RUN
    """
    from cvrbench.report.pairs import making_grids, number_grids, pair, pair_json
    from cvrbench.report.tables import GridTable, words_table
    from cvrbench.runs.store import ResultStore

    store = ResultStore(results_dir)
    found = pair(store.folder(first), store.folder(second))
    if as_json:
        print_json(pair_json(found))
        return
    for side, name in zip(("first ", "second"), found.names, strict=True):
        out.print(Text.assemble(f"{side}  ", (name, "bold")), soft_wrap=True)
    for grid in making_grids(found):
        out.print()
        out.print(words_table(grid) if grid.rows else f"{grid.title}: {grid.caption}")
    for grid in number_grids(found):
        out.print()
        out.print(GridTable(grid))


def options() -> str:
    """Return every group and its options, for the end of a help text; nothing without a conf."""
    from cvrbench.config.folder import find_conf

    try:
        found = find_conf().groups
    except (ConfigError, OSError):
        return ""
    return "\n\n".join(f"{group}=  {', '.join(names)}" for group, names in found.items())


def config(
    overrides: Overrides = None,
    where: Annotated[
        bool, typer.Option("--where", help="Print only the folders of yaml files")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the composed configuration and where each value comes from."""
    from cvrbench.config.compose import compose, origins
    from cvrbench.config.folder import find_conf
    from cvrbench.config.validate import config_to_dict

    if where:
        write("\n".join(map(str, find_conf().folders)))
        return
    if as_json:
        print_json(config_to_dict(compose(overrides or []).config))
        return
    table = plain_table("key", "value", "from")
    for key, value, origin in origins(overrides or []):
        table.add_row(key, value, origin)
    out.print(table)
    write(f"yaml files: {find_conf()}")


def list_runs(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[GROUP] [KEY=VALUE[,VALUE]]...",
            help="Which runs: model=ncs,mmoe seed=0. Or a group, whose options are listed: models",
            show_default=False,
        ),
    ] = None,
    results_dir: ResultsDir = RESULTS,
    as_json: AsJson = False,
) -> None:
    """List runs with their test AUCs, or the options of a group: models, datasets, objectives.

    Examples:
        cvrbench ls dataset=kuairand model=ncs,mmoe

        cvrbench ls models
    """
    from cvrbench.report.comparison import Filters
    from cvrbench.runs.store import ResultStore

    names = [word for word in words or [] if "=" not in word]
    if names:
        _list_options(names, as_json=as_json)
        return
    filters, survey = Filters.parse(words or []), ResultStore(results_dir).survey()
    rows = []
    for record in filters.records(survey.records):
        aucs = {k: v for k, v in record.metrics.get("test", {}).items() if k in _aucs(record)}
        said = " ".join(f"{k.rpartition('_')[0]} {v:.4f}" for k, v in aucs.items() if v)
        rows.append((record.run_id, "finished", said, str(record.environment.get("finished", ""))))
    rows += [(one.folder.name, "unfinished", "", "") for one in filters.begun(survey.begun)]
    if not words:
        rows += [(o.folder.name, f"unreadable: {o.why}", "", "") for o in survey.unreadable]
    table = plain_table("run", "test AUC", "finished")
    for run_id, state, said, when in rows:
        table.add_row(run_id, said, when[:10] or state)
        if as_json:
            state, _, why = state.partition(": ")
            known = {"run_id": run_id, "state": state, "finished": when or None}
            print_json({**known, "why": why} if why else known)
    if not as_json:
        out.print(table if rows else f"no runs in {results_dir}")


def _aucs(record: "RunRecord") -> set[str]:
    spaces = record.counts.get("test", {})
    return {f"{space}_{kind}" for space in spaces for kind in ("auc", "xauc")}


def _list_options(names: list[str], *, as_json: bool) -> None:
    """Print the options of a group with the sentence of each yaml, and names from elsewhere."""
    from cvrbench.config.folder import find_conf, sentence
    from cvrbench.config.spelling import OTHER_WORDS

    conf = find_conf()
    for name in names:
        group = next((g for g in conf.groups if name in (g, f"{g}s")), None)
        if group is None:
            near = did_you_mean(name, [f"{g}s" for g in conf.groups])
            raise ConfigError(f"{name!r} is no group of options, and no filter KEY=VALUE.{near}")
        table = plain_table(f"{group}=", "")
        for file in conf.files(group):
            table.add_row(file.stem, sentence(file))
            if as_json:
                print_json({"group": group, "option": file.stem, "about": sentence(file)})
        for word, meant in OTHER_WORDS.items():
            if meant.startswith(f"{group}="):
                table.add_row(word, f"here {meant}")
                if as_json:
                    print_json({"group": group, "option": word, "about": f"here {meant}"})
        if not as_json:
            out.print(table)


def remove_runs(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="As `cvrbench ls` has them")],
    results_dir: ResultsDir = RESULTS,
    yes: Yes = False,
) -> None:
    """Remove runs with all that they left; prepared data stay (cvrbench data rm)."""
    from cvrbench.runs.store import ResultStore
    from cvrbench.system.files import size_of

    store = ResultStore(results_dir)
    folders = list(dict.fromkeys(store.folder(run) for run in runs))
    for folder in folders:
        if folder.absolute().parent != store.runs.absolute():
            raise ConfigError(f"{folder} is not in {store.runs}; name its --results-dir")
        out.print(f"{folder}  {size_words(size_of(folder))}", soft_wrap=True)
    if confirmed(f"Remove {'it' if len(folders) == 1 else 'them'}?", yes=yes):
        for folder in folders:
            store.remove(folder.name)
