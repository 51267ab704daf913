"""`python -m service doctor`: what this machine runs models on, and whether each model is sound."""

from collections.abc import Callable
from dataclasses import dataclass, field

import onnxruntime
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service import __version__
from service.canary import Canary, sing
from service.errors import KaryonError
from service.inference.choice import MODEL_FILE
from service.inference.golden import GoldenResult
from service.inference.installation import (
    compute_capability,
    cuda_shortcomings,
    driver_cuda_version,
    installed_distributions,
)
from service.inference.machine import Machine, describe_machine
from service.inference.providers import PROVIDER_NAMES, RealProvider, is_available
from service.inference.repository import ModelRepository, embedded_models_dir
from service.inference.session import ModelSession
from service.obstacles import find_obstacles
from service.segmenter import Segmenter
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class ProviderReport:
    """Whether a provider of the installed onnxruntime runs the default model.

    Attributes:
        name: onnxruntime's name of it.
        runs: Whether it was seen to run.
        duration_ms: Milliseconds of the canary image in fp32.
        problem: Why it does not run.
    """

    name: str
    runs: bool
    duration_ms: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class NvidiaReport:
    """What CUDA finds here.

    Attributes:
        driver_cuda: Newest CUDA that the driver runs; None without a driver.
        compute_capability: Of the GPU that is set; None without one.
        missing: What onnxruntime's CUDA provider lacks.
    """

    driver_cuda: str | None
    compute_capability: str | None
    missing: list[str]


@dataclass(frozen=True, slots=True)
class ModelReport:
    """How a model is run with these settings.

    Attributes:
        model: `name:version`.
        digest: SHA-256 of the file that runs.
        file: Name of that file.
        active: Whether it answers to its bare name.
        rewritten: Whether its graph was rewritten for processors (docs/adr/0011).
        passed_over: Why nothing faster was taken.
        golden: Result of the self-test; None where there is no golden tile to compare with.
        canary: Result of the canary image; None where it failed.
    """

    model: str
    digest: str
    file: str
    active: bool
    rewritten: bool
    passed_over: tuple[str, ...]
    golden: GoldenResult | None
    canary: Canary | None


@dataclass(slots=True)
class Report:
    """All of it.

    Attributes:
        version: Of Karyon.
        onnxruntime: Its version.
        distributions: Its installed wheels.
        machine: The machine.
        nvidia: What CUDA finds; None where the installed onnxruntime has no CUDA.
        providers: Each provider of the installed onnxruntime.
        models: Each loaded model.
        problems: Why the service would not start; empty where it would.
        verdict: In a sentence.
    """

    version: str
    onnxruntime: str
    distributions: list[str]
    machine: Machine
    nvidia: NvidiaReport | None = None
    providers: list[ProviderReport] = field(default_factory=list)
    models: list[ModelReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    verdict: str = ""

    @property
    def healthy(self) -> bool:
        """Whether the service would start."""
        return not self.problems


def examine(settings: Settings, open_repository: Callable[[Settings], ModelRepository]) -> Report:
    """Examine the machine and the models, as the service would run them.

    Args:
        settings: The service's.
        open_repository: Loads the models as the service does.

    Returns:
        The report; nothing is raised for what is wrong, it stands in `problems`.
    """
    report = Report(
        version=__version__,
        onnxruntime=onnxruntime.__version__,
        distributions=installed_distributions(),
        machine=describe_machine(),
    )
    if is_available("cuda"):
        report.nvidia = _examine_nvidia(settings.device_id)
    try:
        repository = open_repository(settings)
    except KaryonError as error:
        report.problems.append(str(error))
        report.verdict = "The service does not start with these settings."
        return report
    for session in repository.all():
        active = repository.get(session.contract.name) is session
        report.models.append(_examine_model(session, report.problems, active=active))
    default = repository.get()
    report.providers = [
        _examine_provider(provider, default, settings)
        for provider in PROVIDER_NAMES
        if is_available(provider)
    ]
    how = f"{default.provider} in {default.precision}"
    report.verdict = f"Healthy: {default.contract.name} {default.contract.version} runs on {how}."
    if not report.healthy:
        report.verdict = "A model fails; the service does not start with these settings."
    elif obstacles := find_obstacles(settings, repository):
        report.problems += obstacles
        report.verdict = "The models are sound; the service does not start with these settings."
    return report


def _examine_nvidia(device_id: int) -> NvidiaReport:
    driver, capability = driver_cuda_version(), compute_capability(device_id)
    return NvidiaReport(
        driver_cuda=None if driver is None else f"{driver[0]}.{driver[1]}",
        compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
        missing=cuda_shortcomings(),
    )


def _examine_model(session: ModelSession, problems: list[str], *, active: bool) -> ModelReport:
    contract = session.contract
    canary = None
    try:
        canary = sing(Segmenter(session))
    except Exception as error:  # noqa: BLE001  the doctor names every failure and goes on
        problems.append(f"{contract.name}:{contract.version}: {error}")
    return ModelReport(
        model=f"{contract.name}:{contract.version}",
        digest=session.digest,
        file=session.path.name,
        active=active,
        rewritten=session.rewritten,
        passed_over=session.passed_over,
        golden=session.golden,
        canary=canary,
    )


def _examine_provider(
    provider: RealProvider, default: ModelSession, settings: Settings
) -> ProviderReport:
    """Run the default model's reference file on a provider, in float32."""
    folder = (settings.models_dir or embedded_models_dir()) / default.contract.name
    path = folder / default.contract.version / MODEL_FILE
    name = PROVIDER_NAMES[provider]
    try:
        session = ModelSession.load(path, provider=provider, threads=settings.threads)
        canary = sing(Segmenter(session))
    except KaryonError as error:
        return ProviderReport(name, runs=False, problem=str(error))
    return ProviderReport(name, runs=True, duration_ms=canary.duration_ms)


def print_report(report: Report, console: Console) -> None:
    """Print a report for people."""
    machine = report.machine
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")

    def row(label: str, text: str) -> None:
        table.add_row(label, escape(text))

    row("Karyon", f"{report.version}, Python {machine.python}, {machine.system}")
    row("processor", f"{machine.processor}; {machine.processors} for this process")
    instructions = machine.instructions
    row("instructions", "not known" if instructions is None else ", ".join(instructions) or "none")
    if machine.memory_bytes is not None:
        row("memory", f"{machine.memory_bytes / 1e9:.1f} GB")
    row("onnxruntime", ", ".join(report.distributions) or report.onnxruntime)
    if report.nvidia is not None:
        nvidia = report.nvidia
        row(
            "NVIDIA",
            f"driver for CUDA {nvidia.driver_cuda or '(none)'}, "
            f"compute capability {nvidia.compute_capability or '(no GPU)'}"
            + (f"; missing: {', '.join(nvidia.missing)}" if nvidia.missing else ""),
        )
    for provider in report.providers:
        seen = (
            f"runs, {provider.duration_ms} ms a tile in fp32" if provider.runs else "does not run"
        )
        row(provider.name, seen if provider.problem is None else f"{seen}: {provider.problem}")
    for model in report.models:
        row(model.model, _describe_model(model))
    for problem in report.problems:
        row("PROBLEM", problem)
    console.print(table)
    colour = "green" if report.healthy else "red"
    console.print(f"[bold {colour}]{escape(report.verdict)}[/]")


def _describe_model(model: ModelReport) -> str:
    parts = [f"{model.file} {model.digest[:12]}{', active' if model.active else ''}"]
    if model.canary is not None:
        canary = model.canary
        graph = ", graph rewritten" if model.rewritten else ""
        parts.append(
            f"{canary.provider} in {canary.precision}{graph}, {canary.duration_ms} ms a tile"
        )
    if model.golden is None:
        parts.append("no golden tile")
    else:
        golden = model.golden
        parts.append(
            f"golden tile ({golden.source}): differs by {golden.mean_difference} of 255, "
            f"Dice {golden.dice}"
        )
    parts += [f"not taken: {reason}" for reason in model.passed_over]
    return "\n".join(parts)
