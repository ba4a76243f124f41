"""The page about checked episodes: one file that loads nothing, runs nothing, and shows every text as text."""

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape

from syvla.check.finding import EpisodeCheck, Finding, Severity, verdict

MARK = '<!doctype html>\n<meta name="generator" content="syvla check">\n'
# even if a text got through as markup, the browser would load and run nothing
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .3rem .6rem; text-align: left; vertical-align: top;
border-bottom: 1px solid #ddd; overflow-wrap: anywhere; } .n { text-align: right; white-space: nowrap; }
.error { color: #b00020; font-weight: 600; } .warning { color: #8a5a00; font-weight: 600; } .ok { color: #1b6e2d; }
.fix { color: #555; } a { color: inherit; } .task { color: #555; margin: 0 0 .5rem; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } td, th { border-color: #444; }
.error { color: #ff6b7a; } .warning { color: #e0b050; } .ok { color: #6fce86; } .fix, .task { color: #aaa; } }
"""


def page(checked: Sequence[EpisodeCheck]) -> str:
    """The whole page, in the order given."""
    return MARK + "\n".join(_lines(checked)) + "\n"


def _lines(checked: Sequence[EpisodeCheck]) -> Iterator[str]:
    title = f"Recorded episodes, {verdict(checked)}"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
    yield from _kinds(checked)
    yield "<h2>Episodes</h2><table><tr><th>Episode<th>Task<th>Outcome<th class=n>Seconds<th class=n>Messages<th>Cameras"
    yield "<th>Found</tr>"
    for number, each in enumerate(checked):
        yield (
            f'<tr><td><a href="#e{number}">{escape(_name(each))}</a><td>{escape(each.instruction)}'
            f"<td>{escape(each.outcome)}<td class=n>{each.duration_s:.1f}<td class=n>{each.messages}"
            f"<td>{escape(', '.join(each.cameras))}<td>{_counts(each)}</tr>"
        )
    yield "</table>"
    for number, each in enumerate(checked):
        yield f'<h2 id="e{number}">{escape(each.path)}</h2><p class=task>{escape(each.instruction)}</p>'
        yield from _findings(each.findings)
    yield "</body></html>"


def _kinds(checked: Sequence[EpisodeCheck]) -> Iterator[str]:
    """In how many episodes each kind of finding was made."""
    kinds = Counter(kind for each in checked for kind in {(f.severity.value, f.name) for f in each.findings})
    if kinds:
        yield "<h2>What was found</h2><table><tr><th>Finding<th class=n>Episodes</tr>"
        for (severity, name), count in kinds.most_common():
            yield f"<tr><td class={severity}>{escape(name)}<td class=n>{count}</tr>"
        yield "</table>"


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        yield "<p class=ok>ok</p>"
        return
    yield "<table><tr><th>Finding<th>Where<th class=n>First at<th class=n>Times<th>What was seen, and what to do</tr>"
    for finding in findings:
        at = "" if finding.at_s is None else f"{finding.at_s:.2f} s"
        yield (
            f"<tr><td class={finding.severity.value}>{escape(finding.name)}<td>{escape(finding.where)}"
            f"<td class=n>{at}<td class=n>{finding.count}"
            f"<td>{escape(finding.seen)}<br><span class=fix>{escape(finding.fix)}</span></tr>"
        )
    yield "</table>"


def _name(checked: EpisodeCheck) -> str:
    return checked.path.rsplit("/", 1)[-1]


def _counts(checked: EpisodeCheck) -> str:
    counts = ((severity.value, checked.number(severity)) for severity in (Severity.ERROR, Severity.WARNING))
    told = ", ".join(f"<span class={what}>{n} {what}{'s' * (n > 1)}</span>" for what, n in counts if n)
    return told or "<span class=ok>ok</span>"
