"""Screenshots of the built pages in headless Chromium: wide and narrow, light and dark, once and twice the pixels.

    python docs/look.py docs/_build/html shots                       # every page, wide and light
    python docs/look.py docs/_build/html shots --all index choosing  # these pages, each way

It also measures: a page that is wider than its window, and a formula or picture without a size, are printed.
"""

import argparse
import functools
import html
import json
import re
import subprocess
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WIDE, NARROW, TALLEST = 1400, 390, 12_000
# A page in a frame of the wanted width: Chromium has no window as narrow as a telephone.
FRAME = """<!doctype html><body style="margin:0"><iframe src="/{page}.html" id="frame"
style="border:0;width:{width}px;height:{height}px"></iframe><pre id="found"></pre><script>
frame.onload = () => setTimeout(() => {{
  const page = frame.contentDocument, root = page.documentElement;
  const empty = [...page.querySelectorAll(".formula svg, .formula-inline svg, .picture svg")]
    .filter(one => one.checkVisibility() && one.getBoundingClientRect().width < 2).length;
  found.textContent = JSON.stringify({{height: root.scrollHeight, width: root.scrollWidth, empty: empty}});
}}, 300);
</script>"""


class Handler(SimpleHTTPRequestHandler):
    """Serves the built pages, and frames around them."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"/frame/(\d+)x(\d+)/(.+)", self.path)
        if not asked:
            return super().do_GET()
        text = FRAME.format(width=asked[1], height=asked[2], page=html.escape(asked[3])).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(text)
        return None

    def log_message(self, *_: object) -> None:
        """Nothing is printed for a request."""


def chromium(*arguments: str, dark: bool = False) -> str:
    """What Chromium prints, started afresh."""
    with tempfile.TemporaryDirectory() as profile:
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        settings = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        command = ["chromium", *settings, scheme, "--virtual-time-budget=3000", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def look(address: str, page: str, out: Path, width: int, dark: bool, scale: int) -> list[str]:
    """One screenshot; what is wrong with the page."""
    frame = f"{address}/frame/{width}x900/{page}"
    printed = chromium("--dump-dom", f"--window-size={max(width, 600)},900", frame)
    measured = re.search(r'<pre id="found">(\{.*?\})</pre>', printed)
    if not measured:
        return [f"{page}: did not load"]
    found = json.loads(measured[1])
    height = min(found["height"], TALLEST)
    name = page.replace("/", "_") + ("_dark" if dark else "") + f"_{width}" + ("" if scale == 1 else f"_{scale}x")
    chromium(
        f"--screenshot={out / name}.png",
        f"--force-device-scale-factor={scale}",
        f"--window-size={max(width, 600)},{height}",
        f"{address}/frame/{width}x{height}/{page}",
        dark=dark,
    )
    faults = [f"{page} at {width}: {found['width'] - width} pixels too wide"] if found["width"] > width else []
    return faults + ([f"{page}: {found['empty']} drawings without a size"] if found["empty"] else [])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("built", type=Path, help="the folder with the built pages")
    parser.add_argument("out", type=Path, help="where the screenshots go")
    parser.add_argument("pages", nargs="*", help="such as article/rebar; without one, all that are not made from code")
    parser.add_argument("--all", action="store_true", help="dark, narrow and twice the pixels too")
    parser.add_argument("--width", type=int, default=WIDE)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--scale", type=int, default=1)
    arguments = parser.parse_args()
    paths = (path.relative_to(arguments.built) for path in sorted(arguments.built.glob("**/*.html")))
    skipped = ("_static", "estimators/", "genindex", "py-modindex", "search")
    pages = arguments.pages or [str(path)[:-5] for path in paths if not str(path).startswith(skipped)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(arguments.built)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    ways = [(arguments.width, arguments.dark, arguments.scale)]
    if arguments.all:
        ways = [(width, dark, scale) for width in (WIDE, NARROW) for dark in (False, True) for scale in (1, 2)]
    faults = [fault for page in pages for way in ways for fault in look(address, page, arguments.out, *way)]
    print("\n".join(dict.fromkeys(faults)) or f"{len(pages) * len(ways)} screenshots, nothing is too wide or empty.")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
