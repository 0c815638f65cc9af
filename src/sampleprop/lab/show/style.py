"""The style sheet of the report."""

STYLE = """
:root {
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  --page: #ffffff; --ink: #26323a; --muted: #5b6a73; --pale: #d5d9dc;
  --unbiased: #0f7b8a; --general: #8a4fb0; --biased: #c4541d;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14191d; --ink: #e4eaee; --muted: #a3b0b9; --pale: #323c44;
    --unbiased: #3fb6c6; --general: #c79be6; --biased: #f08a52;
  }
}
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 var(--font); }
main { max-width: 78rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .5rem; border-top: 1px solid var(--pale); padding-top: 1.5rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
a { color: var(--unbiased); }
.quiet, figcaption, .notes, caption { color: var(--muted); font-size: .875rem; }
.scrolled { overflow-x: auto; }
.scrolled:focus-visible { outline: 2px solid var(--unbiased); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums; margin: .5rem 0; width:
100%; } caption { text-align: left; padding: .25rem 0; }
th, td { padding: .25rem .45rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--pale); }
thead th { color: var(--muted); font-weight: 600; }
th[scope="row"], th.name, td.name { text-align: left; }
th[scope="row"], th.name { font-weight: 500; }
thead th.name { font-weight: 600; }
tr.unbiased th[scope="row"] { box-shadow: inset 3px 0 var(--unbiased); }
tr.biased-in-general th[scope="row"] { box-shadow: inset 3px 0 var(--general); }
tr.biased-here th[scope="row"] { box-shadow: inset 3px 0 var(--biased); }
figure { margin: 1rem 0; }
figure svg { display: block; width: 100%; min-width: 46rem; height: auto; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--unbiased); font-size: .875rem; }
@media print { .scrolled { overflow: visible; } }
"""
