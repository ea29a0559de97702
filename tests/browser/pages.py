"""Look at the report, the page of runs side by side, and MLflow's own pages in a real browser: `make pages`.

    python tests/browser/pages.py [runs=FOLDER] [out=docs/pictures]

Two runs (DPO with beta 0.1 and 0.2) and a sweep are made with tiny models in a temporary folder (minutes on 2 cores);
or those below `runs` are shown. A picture of each page goes to `out`. What is wrong with a page is printed, and the
exit status is 1.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from browser.webdriver import Browser, browser, free_port, wait_for_port  # noqa: E402
from support import tiny  # noqa: E402

WIDE, NARROW = 1200, 400
PARENT, STAGE, RUN = "mlflow.parentRunId", "slamray.stage", "slamray.run"
STAGE_OF_ALL = "recipe"  # the run of a whole recipe
SWEEP = [
    "recipe=rate_and_batch_laptop", "profile=laptop", "pretrain.budget=tokens:8192", "sweep.seeds=[0]", "sweep.keep=0",
    "sweep.space.learning_rates=[1.0e-3, 8.0e-3]", "sweep.space.tokens_per_step=[512, 1024]",
    "sweep.metrics=[perplexity, topic_cloze]", "sweep.objective=[perplexity]",
]  # fmt: skip
OTHER = ("pretrain.", "dpo.", "preferences.", "tracking.", "profile=")  # words of the runs that are none of the sweep


def main(words: Sequence[str]) -> int:
    given = dict(word.partition("=")[::2] for word in words)
    out = Path(given.get("out", ROOT / "docs" / "pictures"))
    if "runs" in given:
        return look(Path(given["runs"]).resolve(), out)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        return look(Path(folder) / "runs", out)


def make(folder: Path) -> None:
    """Two runs and a sweep, with tiny models."""
    words = tiny.words(
        tiny.make_encoder(folder / "hubert"), tiny.make_lm(folder / "lm"), tiny.make_vocoder(folder / "v")
    )
    here = [f"root={folder / 'runs'}", "tracking.enabled=true"]
    for beta in (0.1, 0.2):
        job("slam", [*words, *here, "dpo.budget=steps:20", f"dpo.beta={beta}"])
    job("sweep", [*SWEEP, *(word for word in words if not word.startswith(OTHER)), *here])


def job(name: str, words: Sequence[str]) -> None:
    sys.stderr.write(f"jobs/{name}.py {' '.join(words[-2:])}\n")
    command = [sys.executable, f"jobs/{name}.py", *words]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


def look(root: Path, out: Path) -> int:
    """Open every page, and take its picture; 1 where something is wrong with one."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")
    (experiment,) = (one for one in client.search_experiments() if one.name == "slamray")
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"], max_results=5000)
    reports = {run.info.run_id: root / "report" / run.data.tags.get(RUN, "") / "report.html" for run in found}
    recipes = [run for run in found if reports[run.info.run_id].is_file() and run.data.tags[STAGE] == STAGE_OF_ALL]
    trials = [run for run in found if "seed" in run.data.params and "perplexity" in run.data.metrics]
    trials = [run for run in trials if run.data.tags[PARENT] == trials[-1].data.tags[PARENT]]  # of the last sweep
    side_by_side = root / "side_by_side.html"
    job("compare", [f"root={root}", f"out={side_by_side}"])
    flaws: list[str] = []
    with browser() as window, mlflow_server(root) as address:
        for name, page in (("report", reports[recipes[-1].info.run_id]), ("side_by_side", side_by_side)):
            for width in (WIDE, NARROW):
                flaws += look_at_page(window, page, width, out / f"{name}_{width}.png")
        runs = f"{address}/#/experiments/{experiment.experiment_id}/runs"
        flaws += look_at_mlflow(window, runs, recipes[-1].info.run_name, out / "mlflow_runs.png")
        compared = [run.info.run_id for run in recipes[-2:]]
        last = f"{runs}/{recipes[-1].info.run_id}"
        flaws += look_at_mlflow(window, last, "Description", out / "mlflow_run.png")
        flaws += look_at_mlflow(
            window,
            comparison(address, experiment.experiment_id, compared),
            "Comparing 2 Runs",
            out / "mlflow_comparison.png",
        )
        if trials:
            ids = [run.info.run_id for run in trials]
            flaws += look_at_mlflow(
                window,
                comparison(address, experiment.experiment_id, ids),
                "Parallel Coordinates",
                out / "mlflow_sweep.png",
            )
    print("\n".join([*flaws, f"{len(flaws)} flaws; pictures in {out}"]))
    return 1 if flaws else 0


def comparison(address: str, experiment: str, run_ids: Sequence[str]) -> str:
    runs, experiments = (quote(json.dumps(list(ids))) for ids in (run_ids, [experiment]))
    return f"{address}/#/compare-runs?runs={runs}&experiments={experiments}"


def look_at_page(window: Browser, page: Path, width: int, picture: Path) -> list[str]:
    """One of our own pages; what is wrong with it."""
    window.open(page.as_uri(), width)
    name = f"{picture.name}: "
    sounds = "return [...document.querySelectorAll('audio')].map(a => a.readyState ? a.duration : 0)"
    ready = "const a = [...document.querySelectorAll('audio')]; return a.every(one => one.readyState > 0)"
    window.wait(ready, f"{name}sounds", 30)
    flaws = [f"{name}a sound of {seconds} s" for seconds in window.run(sounds) if not 0.2 < (seconds or 0) < 120]
    wide = window.run("return document.documentElement.scrollWidth")
    flaws += [f"{name}{wide} pixels wide in a window of {width}"] if wide > width else []
    flaws += [f"{name}{message}" for message in window.messages()]
    flaws += [f"{name}{what}" for what in window.run((HERE / "flaws.js").read_text())]
    flaws += [f"{name}{what}" for what in unreached(window)]
    window.run("document.activeElement.blur(); scrollTo(0, 0)")
    window.picture(picture, width)
    shrink(picture)
    return flaws


def unreached(window: Browser) -> list[str]:
    """Links, players and regions that the tabulator key does not reach."""
    count = window.run(
        "const all = [...document.querySelectorAll('a[href], audio, summary, [tabindex=\"0\"]')]"
        ".filter(e => e.checkVisibility()); all.forEach((e, i) => e.dataset.place = i);"
        "document.body.setAttribute('tabindex', '-1'); document.body.focus(); return all.length"
    )
    seen: set[str] = set()
    for _ in range(12 * count + 20):  # a player has several controls
        window.press("\ue004")
        place = window.run("return document.activeElement.dataset.place ?? ''")
        seen |= {place} - {""}
        if len(seen) == count:
            return []
    return [f"{count - len(seen)} of {count} things cannot be reached by keyboard"]


def look_at_mlflow(window: Browser, url: str, text: str, picture: Path) -> list[str]:
    """One of MLflow's pages, when the text is there; it is asked for nothing but to show what was logged."""
    window.open("about:blank", WIDE)
    window.open(url, WIDE + 240)
    window.wait(f"return document.body.innerText.includes({json.dumps(text)})", f"{picture.name}: {text!r}")
    window.run("return new Promise(done => setTimeout(() => done(true), 4000))")  # charts are drawn after their data
    window.picture(picture, WIDE + 240, 1000)
    shrink(picture)
    return []


def shrink(picture: Path) -> None:
    """Of 256 colours, a third of the bytes."""
    from PIL import Image

    with Image.open(picture) as image:
        few: Any = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


@contextmanager
def mlflow_server(root: Path) -> Iterator[str]:
    """MLflow's pages of the runs below a root, on loopback."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{root}/mlflow.db"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = subprocess.DEVNULL
    running = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)  # with processes of its own
    try:
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(60)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
