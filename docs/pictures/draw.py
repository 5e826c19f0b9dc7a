#!/usr/bin/env python3
"""Draws the pictures of this folder: a page of the example for rouille in Chromium, and the output
of the program `cloakroom` beside it. Needs curl, chromium, chromedriver and script (util-linux):

    cargo build --features rouille --example rouille && cargo build -p cloakroom-cli
    docs/pictures/draw.py
"""

import base64
import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent.parent / "target")) / "debug"
FOLDER = pathlib.Path("/tmp/cloakroom")
ADDRESS = "127.0.0.1:8123"
SITE = "http://localhost:8123"
DRIVER = "http://127.0.0.1:9555"
ENV = {**os.environ, "CLOAKROOM_DB": str(FOLDER / "app.db"), "CLOAKROOM_ADDR": ADDRESS}
OTHER_BROWSERS = [
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14.6; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Mozilla/5.0 (Linux; Android 15; Pixel 8) Chrome/142.0.0.0 Mobile Safari/537.36",
]


def curl(*arguments):
    subprocess.run(["curl", "-s", "-o", "/dev/null", *arguments], check=True)


def sign_in(user, agent):
    curl("-A", agent, "-d", f"user={user}&password=demo", f"{SITE}/sign-in")


def driver(method, path, body=None):
    data = json.dumps(body or {}).encode() if method == "POST" else None
    request = urllib.request.Request(DRIVER + path, data, method=method)
    return json.load(urllib.request.urlopen(request))["value"]


def wait_for(url):
    for _ in range(100):
        try:
            return urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def screenshot(path):
    options = {"args": ["--headless=new", "--no-sandbox", "--window-size=620,940",
                         "--hide-scrollbars"]}
    wanted = {"browserName": "chrome", "goog:chromeOptions": options}
    session = driver("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
    session = f"/session/{session}"
    fill_in = """
        document.querySelector("[name=user]").value = "ada";
        document.querySelector("[name=password]").value = "demo";
        document.querySelector("form").submit();
    """
    driver("POST", f"{session}/url", {"url": SITE})
    driver("POST", f"{session}/execute/sync", {"script": fill_in, "args": []})
    driver("POST", f"{session}/url", {"url": f"{SITE}/sessions"})
    path.write_bytes(base64.b64decode(driver("GET", f"{session}/screenshot")))
    driver("DELETE", session)


def terminal(path, command, text):
    """Writes a command with its output, in which `ESC [1m` begins bold text."""
    lines = [f"$ {command}", *text.rstrip().splitlines()]
    rows = []
    for number, line in enumerate(lines):
        line = html.escape(line).replace("\x1b[1m", '<tspan font-weight="bold">')
        line = line.replace("\x1b[0m", "</tspan>")
        rows.append(f'<text x="16" y="{30 + 18 * number}" xml:space="preserve">{line}</text>')
    plain = (re.sub(r"\x1b\[\dm", "", line) for line in lines)
    width, height = 32 + 8 * max(map(len, plain)), 30 + 18 * len(lines)
    path.write_text(
        f'<svg width="{width}" height="{height}" xmlns="http://www.w3.org/2000/svg">\n'
        f'<rect width="{width}" height="{height}" rx="6" fill="#0d1117"/>\n'
        '<g font-family="ui-monospace, monospace" font-size="13" fill="#e6edf3">\n'
        + "\n".join(rows)
        + "\n</g>\n</svg>\n"
    )


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    server = subprocess.Popen([BUILT / "examples/rouille"], env=ENV)
    browser = subprocess.Popen(["chromedriver", "--port=9555", "--silent"])
    try:
        wait_for(SITE)
        wait_for(f"{DRIVER}/status")
        for agent in OTHER_BROWSERS:
            sign_in("ada", agent)
        for user in ["bob", "eve", "grace", "joan"]:
            sign_in(user, OTHER_BROWSERS[0])
        screenshot(HERE / "sessions.png")
        cloakroom = BUILT / "cloakroom"
        doctor = subprocess.run([cloakroom, "doctor"], env=ENV, capture_output=True, text=True)
        terminal(HERE / "doctor.svg", "cloakroom doctor", doctor.stdout)
        log = FOLDER / "watch"
        command = f"{cloakroom} stats --watch 1"
        watch = subprocess.Popen(["script", "-qfc", command, log], env=ENV,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(60):
            curl(SITE)
            time.sleep(0.05)
        watch.terminate()
        watch.wait()
        # Each picture of the terminal begins by clearing it; the last one may be incomplete.
        last = log.read_text().split("\x1b[2J\x1b[H")[-2].replace("\r", "")
        terminal(HERE / "stats.svg", "cloakroom stats --watch 1", last)
    finally:
        for process in (server, browser):
            process.terminate()
            process.wait()


main()
