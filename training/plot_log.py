"""Draws the loss of a training log as an SVG.

usage: plot_log.py LOG.jsonl OUT.svg
"""

import json
import math
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 320, 50, 40, 20
CURVES = {"loss": "#1f5fa8", "mtp": "#c05a1a", "index": "#2e8b57"}
NAMES = {"loss": "next token", "mtp": "token after next (MTP)", "index": "indexer (KL)"}
LOW, HIGH = 0.01, 10.0  # of the logarithmic axis


def main():
    lines = [json.loads(line) for line in open(sys.argv[1])]
    lines = [line for line in lines if "loss" in line]
    last = lines[-1]["tokens"]

    def at(tokens, value):
        x = LEFT + (WIDTH - LEFT - 20) * tokens / last
        share = math.log(max(value, LOW) / LOW) / math.log(HIGH / LOW)
        return f"{x:.1f},{HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share:.1f}"

    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for value in (0.01, 0.1, 1, 10):
        a, b = at(0, value).split(","), at(last, value).split(",")
        svg.append(f'<line x1="{a[0]}" y1="{a[1]}" x2="{b[0]}" y2="{b[1]}" stroke="#ddd"/>')
        svg.append(f'<text x="{LEFT - 6}" y="{float(a[1]) + 4}" text-anchor="end">{value:g}</text>')
    for millions in range(0, int(last / 1e6) + 1, 20):
        x = at(millions * 1e6, LOW).split(",")[0]
        svg.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{millions} M</text>')
    svg.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">tokens</text>')
    for i, (key, colour) in enumerate(CURVES.items()):
        points = " ".join(at(line["tokens"], line[key]) for line in lines)
        svg.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        svg.append(f'<text x="{WIDTH - 180}" y="{TOP + 14 + 16 * i}" fill="{colour}">{NAMES[key]}</text>')
    open(sys.argv[2], "w").write("\n".join(svg) + "\n</svg>\n")


if __name__ == "__main__":
    main()
