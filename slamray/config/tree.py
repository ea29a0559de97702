"""All settings of a run as one tree, `Recipe`; slamray/config/load.py resolves it from a command's words."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from slamray.config.assets import AssetsSettings
from slamray.config.base import Settings, absolute, execution
from slamray.config.compute import Compute, TrackingSettings
from slamray.config.corpora import CorpusSettings, PreferencesSettings, RecordedSettings
from slamray.config.evaluation import EvaluateSettings
from slamray.config.joint import JointSettings
from slamray.config.model import ModelSettings, PackSettings
from slamray.config.rates import Prices, Rates
from slamray.config.speech import SpeechSettings
from slamray.config.training import DpoSettings, PretrainSettings


class Recipe(Settings):
    """The settings of a whole run, from text to report."""

    name: str = Field("demo", description="name of the run in MLflow and in the report")
    note: str = execution("", description="what a reader of the plan should know about this recipe")
    corpus: CorpusSettings = CorpusSettings()
    recorded: RecordedSettings = RecordedSettings()
    speech: SpeechSettings = SpeechSettings()
    pack: PackSettings = PackSettings()
    model: ModelSettings = ModelSettings()
    joint: JointSettings = JointSettings()
    pretrain: PretrainSettings = PretrainSettings()
    preferences: PreferencesSettings = PreferencesSettings()
    dpo: DpoSettings = DpoSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    assets: AssetsSettings = AssetsSettings()
    compute: Compute = execution(Compute())
    root: Annotated[str, AfterValidator(absolute)] = execution(
        "runs",
        validate_default=True,
        description="folder of all stages, on a disk that all nodes see (made absolute for them; file:/// may stand "
        "before it), or in an object store: s3://bucket/folder, gs://bucket/folder; never part of a fingerprint",
    )
    tracking: TrackingSettings = execution(TrackingSettings())
    rates: Rates = execution(Rates())
    prices: Prices = execution(Prices())
