"""The packages that this one needs, with their ranges, as its own metadata states them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from genprm_trl.doctor.finding import Finding, Status
from genprm_trl.doctor.probing import ProbeResult

DISTRIBUTION = "genprm-trl"
LIBRARIES, EXTRAS = "libraries", "extras"
# What each extra is for. Those of developers are not a user's to miss.
PURPOSES = {
    "vllm": "generation with vLLM in this process",
    "eval": "genprm lm-eval",
    "serve": "genprm serve",
    "fusion": "code on a SandboxFusion server",
    "peft": "LoRA",
    "deepspeed": "ZeRO",
    "ray": "making data on several machines",
}
_IMPORTED_AS = {"pyyaml": "yaml", "scikit-learn": "sklearn"}


@dataclass(frozen=True, slots=True)
class Needed:
    """A package that this one needs.

    Attributes:
        requirement: Name and range.
        extra: The extra that it belongs to; None if everything needs it.
    """

    requirement: Requirement
    extra: str | None

    @property
    def module(self) -> str:
        """What it is imported as."""
        name = canonicalize_name(self.requirement.name)
        return _IMPORTED_AS.get(name, name.replace("-", "_"))

    @property
    def version(self) -> str | None:
        """The version that is installed; None if none is."""
        try:
            return metadata.version(self.requirement.name)
        except metadata.PackageNotFoundError:
            return None

    @property
    def supported(self) -> str:
        """The range, its lower end first."""
        return ",".join(sorted(map(str, self.requirement.specifier), reverse=True))

    @property
    def how_to_install(self) -> str:
        """The command that brings it."""
        if self.extra is not None:
            return f"pip install '{DISTRIBUTION}[{self.extra}]'"
        return f"pip install '{self.requirement.name}{self.supported}'"


def needed_packages(lines: list[str] | None = None) -> list[Needed]:
    """What this package needs, in the order of its metadata: for everything first, then by extra.

    Args:
        lines: Requirements as metadata lists them; those of this distribution by default.

    Raises:
        importlib.metadata.PackageNotFoundError: It is not installed as a distribution.
    """
    if lines is None:
        lines = metadata.requires(DISTRIBUTION) or []
    requirements = [Requirement(line) for line in lines]
    everyone = [each for each in requirements if _applies(each, "")]
    found = [Needed(each, None) for each in everyone]
    for extra in PURPOSES:
        found += [Needed(each, extra) for each in requirements if each not in everyone and _applies(each, extra)]
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def judge(package: Needed, probes: Mapping[str, ProbeResult]) -> Iterator[Finding]:
    """What is to be said about a package.

    Args:
        package: The package.
        probes: What came of trying modules out, by name.
    """
    area = EXTRAS if package.extra else LIBRARIES
    name = package.requirement.name
    purpose = f" ({PURPOSES[package.extra]})" if package.extra else ""
    bad: Status = "degraded" if package.extra else "failed"
    version, supported, probe = package.version, package.supported, probes.get(package.module)
    install = package.how_to_install
    if version is None:
        yield Finding(area, name, "absent" if package.extra else "failed", f"not installed{purpose}", install)
    elif not package.requirement.specifier.contains(version, prereleases=True):
        yield Finding(area, name, bad, f"{version} is outside the supported range {supported}{purpose}", install)
    elif probe is not None and probe.error:
        detail = f"{version} is installed and does not work: {probe.error}"
        yield Finding(
            area, name, bad, detail, f"{install} --force-reinstall --no-deps" if not package.extra else install
        )
    else:
        yield Finding(area, name, "ok", f"{version} (supported: {supported}){purpose}")
