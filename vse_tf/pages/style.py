"""The style of the pages of results: for screens wide and narrow, light and dark, and for paper."""

STYLE = """
:root { color-scheme: light dark; --text: #222; --quiet: #61616a; --back: #fff; --card: #f4f4f6; --line: #d5d5dc;
  --correct: #08701f; }
@media (prefers-color-scheme: dark) { :root { --text: #ddd; --quiet: #a5a5b0; --back: #181818; --card: #242429;
  --line: #47474f; --correct: #6fd98a; } }
* { box-sizing: border-box; }
body { font: 16px/1.4 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; color: var(--text);
  background: var(--back); overflow-wrap: anywhere; }
h1 { font-size: 1.25rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
h3 { font-size: .875rem; margin: .75rem 0 .25rem; }
p { margin: .25rem 0; } a { color: inherit; } small, .none { color: var(--quiet); }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line); overflow-wrap: normal; }
th:first-child { text-align: left; }
article { margin: 1rem 0; padding: .75rem; border: 1px solid var(--line); border-radius: .5rem; }
.query { display: grid; grid-template-columns: minmax(8rem, 16rem) 1fr; gap: 0 1rem; }
img, .none { display: block; width: 100%; height: 9rem; object-fit: contain; background: var(--card); }
.query > figure img, .query > figure .none { height: 13rem; }
.none { display: grid; place-items: center; font-size: .875rem; }
figure { margin: 0; } figcaption, .score { font-size: .8125rem; font-variant-numeric: tabular-nums; }
.caption { font-size: 1.1rem; }
ol { margin: 0; padding: 0; list-style: none; } li { padding: .15rem 0; }
.images { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: .5rem; }
.correct, .correct .score { color: var(--correct); font-weight: 600; }
.correct img, .correct .none { outline: 3px solid var(--correct); }
.images.three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem 2rem; } .plots figure { flex: 1 1 18rem; max-width: 28rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--text); font: 11px system-ui, sans-serif; }
.axis { stroke: var(--quiet); stroke-width: 1; } .grid { stroke: var(--line); stroke-width: 1; }
.one { stroke: #2563a8; fill: #2563a8; } .other { stroke: #b4540a; fill: #b4540a; }
polyline.one, polyline.other { fill: none; stroke-width: 2; }
.chance { stroke: var(--quiet); stroke-dasharray: 4 3; fill: none; }
td small { display: block; white-space: nowrap; }
@media print {
  :root { --text: #000; --quiet: #444; --back: #fff; --card: #fff; --line: #bbb; --correct: #08701f; }
  body { max-width: none; font-size: 10pt; padding: 0; } nav { display: none; }
  article, figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  img, .none { height: 3.5cm; }
}
@media (max-width: 40rem) {
  body { padding: .5rem; } .query { grid-template-columns: 1fr; } .images { grid-template-columns: repeat(2, 1fr); }
  .two { grid-template-columns: 1fr; }
}
"""
