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
        "load": [round(value, 1) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "versions": {package: metadata.version(package) for package in packages},
        **content,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _write_table()


def _write_table() -> None:
    begin, end = "<!-- speed -->", "<!-- end -->"
    before, _, rest = README.read_text(encoding="utf-8").partition(begin)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    tables = [_ratios(records), _parts(records), _memory(records)]
    text = "\n\n".join("\n".join(lines) for lines in tables if lines)
    README.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def _ratios(records: list[dict[str, Any]]) -> list[str]:
    lines = ["| what | ours, s | other | other, s | ratio | date, CPU |", "|---|---|---|---|---|---|"]
    for record in records:
        for other, row in record.get("others", {}).items():
            lines.append(
                f"| {record['what']} | {record['seconds']:.4f} | {other} | {row['seconds']:.4f} | {row['ratio']:.1f} | "
                f"{_where(record)} |"
            )
    return lines


def _parts(records: list[dict[str, Any]]) -> list[str]:
    lines = []
    for record in records:
        if "parts" in record:
            ours, other = record["parts"].values()
            lines += ["| part of a training step | ours, s | literature, s |", "|---|---|---|"]
            lines += [f"| {part} | {ours[part]:.4f} | {other[part]:.4f} |" for part in ours]
    return lines


def _memory(records: list[dict[str, Any]]) -> list[str]:
    lines = []
    for record in records:
        if "scans" in record:
            names = ("preparing", "windows", "way back", "batch of windows", "bound of the wide network", "limit")
            lines += [
                f"| peak memory of inference beyond the network, GB | {' | '.join(names)} |",
                "|---|---|---|---|---|---|---|",
            ]
            for name, row in record["scans"].items():
                lines.append(f"| {name} | {' | '.join(f'{row[key]:.2f}' if key in row else '' for key in names)} |")
    return lines


def _where(record: dict[str, Any]) -> str:
    threads = f", {record['threads']} thread(s)" if "threads" in record else ""
    load = f", load {record['load'][2]}" if record.get("load") else ""  # of 15 minutes: how busy the machine was
    return f"{record['written']}, {record['cpu']}, {record['cpus']} cores{threads}{load}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        flags = next((line for line in lines if line.startswith("flags")), "")
        widest = next((flag for flag in ("amx_tile", "avx512f", "avx2") if f" {flag}" in flags), "")
        return f"{names[0]} {widest}".strip() if names else platform.machine()
    return platform.processor() or platform.machine()
