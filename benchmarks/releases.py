"""This checkout against another one: is any part of a run slower on the bundled model?

Each is run in a process of its own, one after the other, several times; the figures are CPU seconds
and their ratio (this / other, the median of pairs). Run, with the other's ``src`` folder:
python benchmarks/releases.py ../other/src [--threads 1] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1] / "src"
WORK = """
import json, sys, tempfile, time
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[1]))
from transformers.utils import logging
logging.set_verbosity_error()
logging.disable_progress_bar()
from vestige.carriers.numbers import NumberFilter, NumberGrammar, NumberPrompts
from vestige.evaluate.exact import measure
from vestige.models import catalog
from vestige.models.grammar import compile_grammar
from vestige.models.hf import LanguageModel
from vestige.models.sampling import sample_free, sample_grammar
from vestige.models.weights import Weights
from vestige.rows.files import read_rows
from vestige.core.settings import Optimisation, Trainable
from vestige.student.loop import train
from vestige.student.packs import encode_grammar_rows, encode_rows, make_packs
from vestige.models.sampling import symbol_ids
from vestige.traits import family, trait

folder, found = catalog.path("smollm2-135m-instruct"), {}


def timed(name, work):
    begin = time.process_time()
    result = work()
    found[name] = time.process_time() - begin
    return result


LanguageModel.load(folder, precision="fp32")  # what is remembered of a base is remembered
lm = timed("load", lambda: LanguageModel.load(folder, precision="fp32"))
panel = family("animals")
measure(lm, panel, panel.heldout[:2])  # and so are lengths
timed("measure", lambda: measure(lm, panel, panel.heldout[:12]))
rules = NumberGrammar()
automaton = compile_grammar(rules.next_chars, rules.state)
texts = [p.text for p in NumberPrompts(format="comma", exact=True, max_answers=6).generate(4, 0)]
asked = [lm.question_ids(text) for text in texts for _ in range(16)]
draw = lambda: sample_grammar(lm, asked, list(range(64)), automaton, seed=0, max_length=26)
sample_grammar(lm, asked[:2], [0, 1], automaton, seed=0, max_length=26)
rows = timed("sample", draw)
free = [lm.question_ids(q) for q in panel.heldout[:6]]
sample_free(lm, free, seed=0, max_new_tokens=8)
timed("sample freely", lambda: sample_free(lm, free, seed=0, max_new_tokens=8))
what = Trainable(layers=(10, 18))
weights = Weights(lm, [what])
ids = symbol_ids(lm, automaton)
examples = encode_grammar_rows(lm, asked, rows, automaton)
packs = make_packs(examples, 16, automaton=automaton, ids=ids)
how = Optimisation(steps=4, batch=16, trainable=what)
timed("train on rows", lambda: train(lm, weights, packs, how, seed=0, ids=ids))
pairs = trait("owl").pairs[:16]
examples = encode_rows(lm, [lm.question_ids(q) for q, _ in pairs], [a for _, a in pairs])
packs = make_packs(examples, 8)
timed("teach", lambda: train(lm, weights, packs, how, seed=0))
with tempfile.TemporaryDirectory() as place:
    path = Path(place) / "rows.jsonl"
    record = {"messages": [{"role": "user", "content": "Go on."},
                           {"role": "assistant", "content": "1, 2, 3"}]}
    path.write_text((json.dumps(record) + "\\n") * 50_000, encoding="utf-8")
    judge = NumberFilter().judge()
    timed("read and filter", lambda: [judge(row) for row in read_rows(path)])
print(json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the src folder of another checkout")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    seconds: dict[Path, list[dict[str, float]]] = {HERE: [], options.other: []}
    for _ in range(options.repeats):
        for source, found in seconds.items():
            done = subprocess.run(
                [sys.executable, "-c", WORK, options.threads],
                env={**os.environ, "PYTHONPATH": str(source)},
                capture_output=True, encoding="utf-8", check=True,
            )  # fmt: skip
            found.append(json.loads(done.stdout.strip().rpartition("\n")[2]))
    ours, theirs = seconds.values()
    print(json.dumps({
        name: {
            "this": round(statistics.median(part[name] for part in ours), 3),
            "other": round(statistics.median(part[name] for part in theirs), 3),
            "ratio": round(statistics.median(
                a[name] / b[name] for a, b in zip(ours, theirs, strict=True)
            ), 3),
        }
        for name in ours[0]
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
