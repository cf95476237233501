//! The page's style. Colors tell apart for the color-blind too (Okabe and Ito's, darker on white, lighter on black), and names stand beside lines.

/// All of it.
pub const CSS: &str = "
:root { color-scheme: light dark; --back: #ffffff; --text: #1c1f23; --soft: #5c6470; --rule: #d9dde3; --grid: #e6e9ee; --panel: #f6f7f9;
  --c0: #0072b2; --c1: #c1440e; --c2: #00805e; --c3: #a3478a; --c4: #9a6a00; --c5: #2b8fc4; --c6: #6b4fb3; --c7: #4d4d4d;
  --good: #00704f; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --text: #e6e8eb; --soft: #9aa3ae; --rule: #343a42; --grid: #272c33; --panel: #1c2026;
  --c0: #56b4e9; --c1: #f08a4b; --c2: #35c59a; --c3: #e08cc4; --c4: #e6b32e; --c5: #9ad0f0; --c6: #b39ddb; --c7: #b0b0b0;
  --good: #4cc9a0; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1.2em 0 .2em; overflow-wrap: anywhere; }
h1:first-child { margin-top: 0; }
h2 { font-size: 1.12rem; margin: 2.2em 0 .1em; overflow-wrap: anywhere; }
p { margin: .3em 0 .8em; }
section p, .lead, small, .end { color: var(--soft); }
section p { font-size: .92rem; }
.note { border-left: 3px solid var(--c4); background: var(--panel); padding: 6px 12px; font-size: .92rem; overflow-wrap: anywhere; }
.note.bad { border-color: var(--bad); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 22px; padding: 0; margin: 14px 0; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 7px; background: currentColor; vertical-align: -1px; }
figure { margin: 8px 0 0; }
figure, .wide { overflow-x: auto; }
svg { display: block; width: 100%; min-width: 560px; height: auto; font-family: system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; margin: 8px 0 14px; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; }
thead th { white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
.plain th { font-weight: 400; color: var(--soft); width: 34%; }
.plain td { overflow-wrap: anywhere; }
.good { color: var(--good); font-weight: 600; }
td.bad { color: var(--bad); font-weight: 600; }
td small { font-weight: 400; }
details table { margin-top: 12px; }
details + details { margin-top: 1em; }
details { margin-top: 2.4em; }
summary { cursor: pointer; font-weight: 600; }
a { color: var(--c0); }
text { fill: var(--text); font-size: 13px; }
.tick, .axis { fill: var(--soft); font-size: 12px; }
.value { font-size: 12.5px; font-variant-numeric: tabular-nums; paint-order: stroke; stroke: var(--back); stroke-width: 4px; stroke-linejoin: round; }
.grid { stroke: var(--grid); stroke-width: 1; }
.strong { stroke: var(--rule); }
.whisker { stroke: var(--text); stroke-width: 1.5; }
.limit { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 4 4; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); } .c6 { color: var(--c6); } .c7 { color: var(--c7); }
.fill { fill: currentColor; }
.fill.open { fill: var(--back); stroke: currentColor; stroke-width: 1.5; stroke-dasharray: 3 2; }
.faint { opacity: .35; }
.line { stroke: currentColor; stroke-width: 2; fill: none; stroke-linejoin: round; }
.thick { stroke-width: 3; stroke-linecap: round; }
.text { fill: currentColor; }
";
