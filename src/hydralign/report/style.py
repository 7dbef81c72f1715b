"""How the page looks."""

STYLE_SHEET = """
:root { color-scheme: light; --ink: #1f2937; --quiet: #6b7280; --line: #e5e7eb; }
body { margin: 0; background: #f6f7f9; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; }
h2 { font-size: 1.1rem; margin: 0 0 .7rem; }
.quiet, figcaption { color: var(--quiet); font-size: .87rem; }
.cards + ul { margin-top: .8rem; }
section { background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: 1rem 1.2rem; margin-top: 1rem; overflow-x: auto; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1rem; }
.cards > div { background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem 1rem; min-width: 9rem; }
.cards strong { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
figure { display: inline-block; margin: 0 1rem .8rem 0; vertical-align: top; max-width: 100%; }
figure img { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; margin-bottom: .8rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--quiet); font-size: .87rem; }
td, th { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
table.responses { width: 100%; table-layout: fixed; }
table.responses td { white-space: pre-wrap; overflow-wrap: anywhere; }
ul { margin: 0 0 .8rem; padding-left: 1.2rem; }
.alarms li { color: #9a3412; }
.score { color: var(--quiet); font-size: .87rem; display: block; }
.legend { font-size: .87rem; }
.legend span { padding: .05rem .45rem; white-space: nowrap; }
pre { background: #f6f7f9; border-radius: 6px; padding: .7rem; overflow-x: auto;
  font-size: .82rem; margin: .3rem 0; }
details { margin-top: .6rem; }
summary { cursor: pointer; color: #2563a8; }
a { color: #2563a8; }
"""
