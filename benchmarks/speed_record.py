"""What every speed benchmark writes: its figures with machine, versions and date; and the table of them all."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "speed"
README = Path(__file__).parent / "README.md"


def write_record(name: str, packages: list[str], content: dict[str, Any]) -> None:
    """Writes results/speed/NAME.json and makes the table of benchmarks/README.md anew."""
    record = {
        "written": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "versions": {package: metadata.version(package) for package in packages},
        **content,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _write_table()


def _write_table() -> None:
    begin, end = "<!-- speed -->", "<!-- end -->"
    before, _, rest = README.read_text(encoding="utf-8").partition(begin)
    lines = ["| what | ours, s | other | other, s | ratio | date, CPU |", "|---|---|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for other, row in record["others"].items():
            lines.append(
                f"| {record['what']} | {record['seconds']:.4f} | {other} | {row['seconds']:.4f} | {row['ratio']:.1f} | "
                f"{record['written']}, {record['cpu']}, {record['cpus']} cores |"
            )
    README.write_text(
        f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{rest.partition(end)[2]}", encoding="utf-8"
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        flags = next((line for line in lines if line.startswith("flags")), "")
        widest = next((flag for flag in ("amx_tile", "avx512f", "avx2") if f" {flag}" in flags), "")
        return f"{names[0]} {widest}".strip() if names else platform.machine()
    return platform.processor() or platform.machine()
