"""Everything that a reviewer asks for about a run: a methods sentence, a LaTeX row, BibTeX. Imports no torch."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalkit.results import Report
from evalkit.table import format_value

BIBTEX = {
    "evalkit": "@software{evalkit,\n  title = {evalkit: measuring and aligning video generation models},\n"
               "  author = {{The evalkit authors}},\n  version = {%(version)s},\n  year = {2026}\n}",
    "unterthiner2018fvd": "@article{unterthiner2018fvd,\n  title = {Towards Accurate Generative Models of Video: A New "
                          "Metric \\& Challenges},\n  author = {Unterthiner, Thomas and van Steenkiste, Sjoerd and "
                          "Kurach, Karol and Marinier, Raphael and Michalski, Marcin and Gelly, Sylvain},\n"
                          "  journal = {arXiv:1812.01717},\n  year = {2018}\n}",
    "chong2020fid": "@inproceedings{chong2020fid,\n  title = {Effectively Unbiased {FID} and {Inception} Score and "
                    "Where to Find Them},\n  author = {Chong, Min Jin and Forsyth, David},\n"
                    "  booktitle = {CVPR},\n  year = {2020}\n}",
    "binkowski2018mmd": "@inproceedings{binkowski2018mmd,\n  title = {Demystifying {MMD} {GANs}},\n  author = "
                        "{Bi{\\'n}kowski, Miko{\\l}aj and Sutherland, Danica J. and Arbel, Michael and Gretton, "
                        "Arthur},\n  booktitle = {ICLR},\n  year = {2018}\n}",
    "luo2024jedi": "@article{luo2024jedi,\n  title = {Beyond {FVD}: Enhanced Evaluation Metrics for Video Generation "
                   "Quality},\n  author = {Luo, Ge Ya and Favero, Gian Mario and Luo, Zhi Hao and "
                   "Jolicoeur-Martineau, Alexia and Pal, Christopher},\n  journal = {arXiv:2410.05203},\n"
                   "  year = {2024}\n}",
    "radford2021clip": "@inproceedings{radford2021clip,\n  title = {Learning Transferable Visual Models From Natural "
                       "Language Supervision},\n  author = {Radford, Alec and others},\n  booktitle = {ICML},\n"
                       "  year = {2021}\n}",
    "huang2024vbench": "@inproceedings{huang2024vbench,\n  title = {{VBench}: Comprehensive Benchmark Suite for Video "
                       "Generative Models},\n  author = {Huang, Ziqi and others},\n  booktitle = {CVPR},\n"
                       "  year = {2024}\n}",
    "zhang2018lpips": "@inproceedings{zhang2018lpips,\n  title = {The Unreasonable Effectiveness of Deep Features as a "
                      "Perceptual Metric},\n  author = {Zhang, Richard and Isola, Phillip and Efros, Alexei A. and "
                      "Shechtman, Eli and Wang, Oliver},\n  booktitle = {CVPR},\n  year = {2018}\n}",
    "hasler2003colour": "@inproceedings{hasler2003colour,\n  title = {Measuring colorfulness in natural images},\n"
                        "  author = {Hasler, David and Suesstrunk, Sabine},\n  booktitle = {SPIE Human Vision and "
                        "Electronic Imaging},\n  year = {2003}\n}",
}
# score name's beginning -> what to cite for it
SOURCES = {"fvd_inf": "chong2020fid", "fvd": "unterthiner2018fvd", "frechet": "unterthiner2018fvd",
           "kvd": "binkowski2018mmd", "jedi": "luo2024jedi", "clip": "radford2021clip", "vbench": "huang2024vbench",
           "lpips": "zhang2018lpips", "cinematic": "hasler2003colour"}


def methods_sentence(report: Report) -> str:
    """What was scored, how, and under which protocols: one paragraph for a methods section."""
    versions = report.environment.get("versions", {})
    named = [f"{name} ({describe(report.protocols[score.protocol])}; n = {score.n}; protocol {score.protocol})"
             for name, score in report.scores.items() if score.value is not None]
    counts = report.counts
    failed = f" ({counts['failed']} failed and are listed)" if counts["failed"] else ""
    return (f"We scored {counts['scored']} of {counts['found']} videos{failed} with evalkit "
            f"{versions.get('video-evalkit', '?')} (seed {report.environment.get('seed')}): {'; '.join(named)}. "
            "Intervals are 95 %: cluster bootstrap by prompt for per-video scores, subsets without replacement for "
            "set metrics.")


def describe(protocol: Mapping[str, Any]) -> str:
    """A protocol in a few words: frames, rate, size, features, reference."""
    if "clips" not in protocol:
        return str(protocol.get("source", protocol["metric"]))
    clips = protocol["clips"]
    frames = f"{clips['num_frames']} frames" if clips["num_frames"] else f"at most {clips['max_frames']} frames"
    place = {"uniform": "spread over the video", "start": "from its start", "center": "from its middle",
             "random": "from a random place", "spread": "from its start to its end"}[clips["placement"]]
    words = [f"{frames} {place}"]
    if clips["fps"]:
        words.append(f"{clips['fps']:g} fps")
    if clips["size"]:
        size = clips["size"]
        words.append("×".join(map(str, size)) if isinstance(size, list) else f"short side ≤ {size}")
    for extractor in protocol["extractors"]:
        digest = extractor.get("weights_sha256")
        words.append(extractor["extractor"] + (f" {digest[:8]}" if digest else ""))
    if protocol.get("reference"):
        words.append(f"against {protocol['reference']['n']} real clips")
    return ", ".join(words)


def latex_row(report: Report) -> str:
    """A header comment and one row: value ± half the interval's width."""
    cells = []
    scores = {name: score for name, score in report.scores.items() if score.value is not None}
    for score in scores.values():
        half = (score.ci95[1] - score.ci95[0]) / 2 if score.ci95 else None
        cells.append(f"${format_value(score.value)}" + (rf" \pm {format_value(half)}$" if half is not None else "$"))
    header = " & ".join(f"{escape_latex(name)} $\\{'uparrow' if score.higher_is_better else 'downarrow'}$"
                        for name, score in scores.items())
    return f"% model & {header} \\\\\n{escape_latex(report.model)} & {' & '.join(cells)} \\\\"


def bibtex(report: Report) -> str:
    """Entries of evalkit and of the papers behind the scores of this run."""
    version = report.environment.get("versions", {}).get("video-evalkit", "")
    keys = dict.fromkeys(key for name, score in report.scores.items() if score.value is not None
                         for start, key in SOURCES.items() if name.startswith(start))
    return "\n\n".join([BIBTEX["evalkit"] % {"version": version}, *(BIBTEX[key] for key in keys)])


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters made literal."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
