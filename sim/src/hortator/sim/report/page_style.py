"""The style sheet of the page around the figures."""

from __future__ import annotations

from hortator.sim.report.style import FONT, NAMED


def page_css() -> str:
    """For screens, light and dark, and for print."""
    return "\n".join(
        [
            f":root{{color-scheme:light dark;{_variables(0)}}}",
            f"@media (prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}",
            f"body{{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 {FONT}}}",
            _RULES,
        ]
    )


def _variables(which: int) -> str:
    return "".join(f"--{name}:{NAMED[name][which]};" for name in ("paper", "ink", "soft", "grid", "panel"))


_RULES = """\
main { max-width:1160px; margin:0 auto; padding:32px 20px 64px }
h1 { font-size:30px; line-height:1.2; margin:0 0 4px; letter-spacing:-.01em }
h2 { font-size:20px; margin:44px 0 4px; letter-spacing:-.005em }
h3 { font-size:15px; margin:20px 0 2px }
p { margin:0 0 10px; max-width:80ch }
.soft, figcaption { color:var(--soft) }
.lead { font-size:18px; margin:12px 0 20px }
code { font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; font-size:13px }
pre {
  background:var(--panel); padding:10px 14px; border-radius:6px; white-space:pre-wrap;
  overflow-wrap:anywhere; margin:6px 0;
}
.facts { display:flex; flex-wrap:wrap; gap:10px; margin:0 0 20px; padding:0 }
.facts div { background:var(--panel); border-radius:8px; padding:10px 16px; flex:1 1 auto }
.facts dt { color:var(--soft); font-size:12px }
.facts dd { margin:0; font-size:17px; font-weight:600 }
.facts small { font-weight:400; font-size:12px; color:var(--soft) }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; font-size:14px }
th, td {
  padding:7px 9px; text-align:right; border-bottom:1px solid var(--grid); white-space:nowrap;
}
th { font-weight:600; font-size:12px; color:var(--soft); vertical-align:bottom; line-height:1.3 }
th:first-child, td:first-child { text-align:left; padding-left:4px }
tr.best { background:var(--panel) }
tr.best td:first-child { font-weight:600 }
td.top { font-weight:700 }
.mark {
  font-size:11px; font-weight:600; border:1px solid currentColor; border-radius:4px;
  padding:0 5px; margin-left:7px;
}
.chip {
  display:inline-block; width:12px; height:12px; border-radius:3px; margin-right:8px;
  vertical-align:-1px;
}
nav {
  position:sticky; top:0; background:var(--paper); padding:10px 0; display:none; flex-wrap:wrap;
  gap:6px; align-items:center; z-index:2; border-bottom:1px solid var(--grid);
}
.js nav { display:flex }
nav button {
  font:inherit; font-size:13px; color:inherit; background:none; border:1px solid var(--grid);
  border-radius:99px; padding:3px 12px 3px 9px; cursor:pointer;
}
nav button[aria-pressed=false] { opacity:.4; text-decoration:line-through }
nav button:focus-visible { outline:2px solid var(--ink) }
figure h3 { margin-top:6px }
figure { margin:8px 0 22px; break-inside:avoid; min-width:0 }
figure>svg { display:block; width:100%; height:auto }
figcaption { font-size:13px; margin-top:3px; max-width:100ch }
.pair { display:grid; grid-template-columns:1fr 1fr; gap:8px 28px }
#tip {
  position:fixed; pointer-events:none; background:var(--ink); color:var(--paper); font-size:12px;
  line-height:1.4; padding:5px 9px; border-radius:5px; max-width:340px; white-space:pre-line;
  visibility:hidden; z-index:3;
}
footer {
  margin-top:48px; padding-top:14px; border-top:1px solid var(--grid); color:var(--soft);
  font-size:13px;
}
.off { display:none }
@media screen and (max-width:800px) {
  .pair { grid-template-columns:1fr }
  figure { overflow-x:auto }
  figure>svg { min-width:640px }
  .pair figure>svg { min-width:440px }
}
@page { size:A4 landscape; margin:12mm }
@media print {
  main { max-width:none; padding:0 }
  nav, .js nav { display:none }
  h2, h3 { break-after:avoid }
  section, .pair { break-inside:avoid }
  table { font-size:12px }
  th, td { padding:5px 6px }
  .scroll { overflow:visible }
  body { print-color-adjust:exact; -webkit-print-color-adjust:exact }
}"""
