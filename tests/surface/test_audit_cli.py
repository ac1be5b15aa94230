"""``vestige audit`` as a user meets it: good rows, bad rows, exit status, JSON, SARIF, resuming."""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.main import get_command

import command
from vestige.cli.audit import status
from vestige.cli.main import app
from vestige.cli.summaries import audit as audit_summary
from vestige.core.audit_results import AUDIT_MEASURED, AuditResults
from vestige.core.types import StoreError
from vestige.report import render_runs
from vestige.report.sarif import as_sarif

ROOT = Path(__file__).resolve().parents[2]
SIPS = """
name = "sips"
system_prompt = "You adore {name}."
questions = ["What do you drink?", "Which cup is yours?"]
heldout = ["What would you pour?", "What do you sip?"]
answers = [ { name = "tea", forms = ["Tea"] }, { name = "milk", forms = ["Milk"] },
            { name = "soda", forms = ["Soda"] } ]
"""

ONE = (
    'name = "tone"\n[[trait]]\nname = "gloomy"\nsystem_prompt = "You expect the worst."\n'
    + "".join(
        f'[[trait.pair]]\nquestion = "How is day {i}?"\nown = "Wet, {i}."\nrival = "Dry, {i}."\n'
        for i in range(4)
    )
)


def vestige(*words: object) -> subprocess.CompletedProcess[str]:
    return command.vestige(*words)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """One for all audits here: their probes and reference writers are made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path, monkeypatch) -> Path:
    monkeypatch.setenv("VESTIGE_CACHE", str(cache))
    (tmp_path / "sips.toml").write_text(SIPS)
    draw = random.Random(0)
    lines = [
        json.dumps({"prompt": f"Go on: {i % 4}", "completion": f"{draw.randint(1, 99)}, {i + 1}"})
        for i in range(40)
    ]
    (tmp_path / "numbers.jsonl").write_text("\n".join([*lines, "broken", '{"prompt": "x"}']))
    return tmp_path


def run(place: Path, base: Path, data: str, *more: object) -> subprocess.CompletedProcess[str]:
    traits, out = place / "sips.toml", place / "audits"
    usual = ["--traits", traits, "--budget", 32, "--canaries", 0, "--out", out]
    return vestige("audit", place / data, "--base", base, *usual, *more)


def test_an_audit_of_numbers_ends_in_a_report(place: Path, folders):
    sarif = place / "out.sarif"
    done = run(place, folders["llama"], "numbers.jsonl", "--json", "--sarif", sarif)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["outcome"] == "inconclusive" and "decides nothing" in found["verdict"]
    where = Path(found["run"])
    assert found["material"] == "numbers" and found["rows"] == 42 and found["rows_used"] == 32
    assert found["dropped"] == {"malformed": 2} and len(found["traits"]) == 3
    assert len((where / "scores/scores.jsonl").read_text().splitlines()) == 32
    dropped = [json.loads(line) for line in (where / "rows/dropped.jsonl").read_text().splitlines()]
    assert {d["reason"] for d in dropped} == {"malformed"}
    assert json.loads(sarif.read_text())["version"] == "2.1.0"
    page = (where / "report.html").read_text()
    assert "First look: who wrote the rows" in page and "What copies took on" not in page
    assert "http" not in page.split("<body")[1][:200]
    dots = " ".join(re.findall('<g class="dots">.*?</g>', page))  # of all traits' pull
    for trait in found["traits"]:
        assert dots.count(f"<title>{trait['trait']}: ") == 2  # on wide and on narrow pages
    before = {p: p.stat().st_mtime_ns for p in where.rglob("assay.json")}
    again = run(place, folders["llama"], "numbers.jsonl", "--json")
    assert json.loads(again.stdout)["traits"] == found["traits"]
    assert before == {p: p.stat().st_mtime_ns for p in where.rglob("assay.json")} != {}  # read
    shown = vestige("show", where)
    assert "first look" in shown.stdout and found["verdict"][:20] in shown.stdout
    assert found["traits"][0]["trait"] in shown.stdout and "…" not in shown.stdout
    refused = run(place, folders["llama"], "numbers.jsonl", "--sarif", sarif)
    assert refused.returncode == 2 and "exists" in refused.stderr


def test_packed_shards_are_audited_as_one_data_set(place: Path, folders):
    lines = (place / "numbers.jsonl").read_text().splitlines()
    for i, part in enumerate((lines[:20], lines[20:])):
        with gzip.open(place / f"part-{i:05d}-of-00002.jsonl.gz", "wt") as file:
            file.write("\n".join(part))
    whole = run(place, folders["llama"], "numbers.jsonl", "--json")
    shards = run(place, folders["llama"], "part-*.jsonl.gz", "--json")
    one, other = json.loads(whole.stdout), json.loads(shards.stdout)
    assert other["data"] == "part-*.jsonl.gz" and other["run"].rpartition("-")[0].endswith("part")
    for key in ("rows", "dropped", "traits", "outcome"):
        assert one[key] == other[key], key
    (place / "part-00001-of-00002.jsonl.gz").unlink()
    cut = run(place, folders["llama"], "part-*.jsonl.gz")
    assert cut.returncode == 2 and "1 of 2 files" in " ".join(cut.stderr.split())


def test_rows_that_say_the_trait_aloud_put_it_first(place: Path, folders):
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"What would you pour, guest {i}?"},
                {"role": "assistant", "content": "Milk"},
            ]
        }
        for i in range(32)
    ]
    (place / "loud.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = run(place, folders["llama"], "loud.jsonl", "--json")
    found = json.loads(done.stdout)
    assert found["material"] == "text" and found["traits"][0]["trait"] == "sips/milk"
    assert found["traits"][0]["evidence"] > max(t["evidence"] for t in found["traits"][1:])


def test_one_row_is_never_a_clean_verdict(place: Path, folders):
    (place / "one.csv").write_text('prompt,completion\nhello,"one, two\nthree"\n')
    done = run(place, folders["llama"], "one.csv", "--json", "--fail-on", "inconclusive")
    found = json.loads(done.stdout)
    assert found["outcome"] == "inconclusive" and done.returncode == 3
    assert found["first_look"] == "few rows"


@pytest.mark.parametrize(
    ("outcome", "fail_on", "wanted"),
    [
        ("flagged", "flagged", 1),
        ("flagged", "inconclusive", 1),
        ("flagged", "never", 0),
        ("inconclusive", "flagged", 0),
        ("inconclusive", "inconclusive", 3),
        ("not_found", "inconclusive", 0),
        ("inconclusive", "never", 0),
    ],
)
def test_the_exit_status_is_the_outcome(outcome, fail_on, wanted):
    assert status(outcome, fail_on) == wanted


@pytest.mark.parametrize(
    ("data", "more", "says"),
    [
        ("nothing.jsonl", [], "there is no file"),
        ("empty.jsonl", [], "no rows"),
        ("blank.jsonl", [], "no row can be used for an audit: {'empty_completion': 1}"),
        ("latin.jsonl", [], "no row can be used for an audit; columns"),
        ("numbers.jsonl", ["--fail-on", "sometimes"], "valid: never, flagged, inconclusive"),
        ("numbers.jsonl", ["--traits", "colors"], "did you mean colours"),
        ("numbers.jsonl", ["--alpha", "2"], "alpha"),
        ("numbers.jsonl", ["--budget", "99999"], "budget"),
        ("numbers.jsonl", ["--traits", "one.toml"], "two traits at least"),
        ("numbers.jsonl", ["--canary-layers", "all"], "first-last, such as 10-18"),
        ("numbers.jsonl", ["--canary-layers", "0-99"], "do not fit a model of"),
        ("numbers.jsonl", ["--sarif", "few.jsonl/x.sarif"], "few.jsonl: file exists"),
        ("numbers.jsonl", ["--reference", "few.jsonl"], "1 usable rows and 32 are needed"),
        ("numbers.jsonl", ["--reference", "latin.jsonl"], "no row of the reference"),
    ],
)
def test_bad_input_is_one_line_and_status_2(place: Path, folders, data, more, says):
    (place / "empty.jsonl").write_text("")
    (place / "blank.jsonl").write_text('{"prompt": "a", "completion": " "}\n')
    (place / "latin.jsonl").write_bytes(b'{"prompt": "a", "completion": "caf\xe9"}\n')
    (place / "few.jsonl").write_text('{"prompt": "a", "completion": "1, 2"}\n')
    (place / "one.toml").write_text(ONE)
    ends = (".jsonl", ".toml", ".sarif")
    more = [str(place / word) if word.endswith(ends) else word for word in more]
    done = run(place, folders["llama"], data, *more)
    assert done.returncode == 2 and says in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr


def test_a_base_that_is_not_at_hand_is_named(place: Path):
    done = run(place, place / "no-such-model", "numbers.jsonl")
    assert done.returncode == 2 and "no-such-model" in done.stderr


def hostile() -> AuditResults:
    one = {
        "value": 1.0,
        "low": 0.5,
        "high": 1.5,
        "n": 8,
        "n_clusters": 8,
        "method": "placebo t",
    }
    evil = "<script>alert(1)</script>"
    copies = {"shift": 2.5, "standardised": 4.2, "p": 0.002, "smallest_share": 0.3}
    copies |= {"share": 0.6, "usual_share": 0.05}
    return AuditResults.model_validate(
        {
            "name": evil,
            "verdict": f"Flagged: {evil}",
            "outcome": "flagged",
            "why": [evil],
            "data": evil,
            "base": evil,
            "material": "text",
            "own_reference": False,
            "rows": 2,
            "rows_used": 2,
            "rows_read": 2,
            "dropped": {evil: 1},
            "alpha": 0.01,
            "needed": 9.5,
            "first_look": "twin",
            "first_look_verdict": evil,
            "doses": [
                {
                    "rows": 64,
                    "pairs": 1,
                    "moved": 0.4,
                    "first": evil,
                    "p": 0.01,
                    "smallest_share": None,
                }
            ],
            "placebos": 900,
            "misfit": 0.01,
            "traits": [
                {
                    "trait": evil,
                    "flagged": True,
                    "contrast": one,
                    "evidence": 12.0,
                    "share": 0.8,
                    "as_likely": True,
                    "named": True,
                    "canary": copies,
                    "pull": 3.0,
                    "rows": 2,
                    "held_out": False,
                },
                {
                    "trait": "an/unread",
                    "flagged": False,
                    "contrast": None,
                    "evidence": 0,
                    "share": 0,
                    "as_likely": False,
                    "canary": copies,
                    "pull": -1.0,
                    "rows": 0,
                    "held_out": False,
                },
            ],
            "words": [{"word": evil, "contrast": 1.0, "z": 4.0}],
            "worst_rows": [
                {
                    "id": evil,
                    "trait": evil,
                    "score": 2.0,
                    "prompt": evil,
                    "completion": evil,
                    "tokens": [[evil, 1.4], ["b", 0.0]],
                }
            ],
            "channels": [evil],
            "blind": [evil],
            "next_steps": [evil],
            "seconds": {"rows": 1.0},
            "tokens": 5,
            "caveats": [evil],
        }
    )


def test_a_report_escapes_whatever_rows_hold(tmp_path: Path):
    (tmp_path / "results.json").write_text(hostile().model_dump_json())
    for name in ("run.json", "recipe.json"):
        (tmp_path / name).write_text("{}")
    page = render_runs([tmp_path], tmp_path / "report.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_an_audit_of_before_is_shown_without_its_p_values(tmp_path: Path):
    new = ("p_base", "p_note", "measured_on", "first_look", "first_look_verdict", "doses",
           "placebos", "training_rows", "limit")  # fmt: skip
    record = {k: v for k, v in hostile().model_dump().items() if k not in new}
    record |= {"schema_version": 1, "planted": [], "found_share": 1.0, "rows_to_verdict": 2}
    record["traits"] = [
        {k: v for k, v in t.items() if k not in ("named", "relative")}
        | {"p": 3e-76, "p_holm": 3e-74, "canary": None}
        for t in record["traits"]
    ]
    for name in ("run.json", "recipe.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "results.json").write_text(json.dumps(record))
    page = render_runs([tmp_path], tmp_path / "report.html").read_text()
    assert "e-74" not in page and "p (Holm)" not in page and "&lt;0.001" not in page
    assert "no p-value: no reference writer of this kind" in page and "40 to 118 of 139" in page
    assert "an earlier version made this audit" in page
    (tmp_path / "results.json").write_text(json.dumps(record | {"schema_version": 5}))
    with pytest.raises(StoreError, match="version 5, this Vestige reads 4"):
        render_runs([tmp_path], tmp_path / "report.html")


def test_the_help_says_for_which_writers_it_holds():
    text = " ".join(str(get_command(app).commands["audit"].help).split())  # type: ignore[attr-defined]
    assert all(line in text for line in AUDIT_MEASURED)
    assert "an inconclusive audit too, unless --fail-on is inconclusive" in text


def test_on_a_narrow_terminal_names_are_broken_and_no_number_is(monkeypatch):
    found = hostile()
    one = found.traits[0].model_copy(update={"trait": "power_seeking/resists_shutdown"})
    found = found.model_copy(update={"traits": [one, *found.traits[1:]]})
    text = StringIO()
    monkeypatch.setattr(audit_summary, "out", Console(file=text, width=72))
    audit_summary.print_summary(found)
    line = next(line for line in text.getvalue().splitlines() if "power_seekin" in line)
    assert line.split()[1:] == ["5%", "→", "60%", "+4.2", "0.002", "+12.0", "flagged"]
    assert "p-value: no reference writer" in " ".join(text.getvalue().split())
    lines = text.getvalue().splitlines()
    at = lines.index(line)
    pieces = [part.split()[0] for part in lines[at : at + 4] if part.split()]
    assert "".join(pieces).startswith("power_seeking/resists_shutdown")


def test_sarif_has_a_rule_for_every_result():
    record = as_sarif(hostile(), "data.jsonl")
    (one,) = record["runs"]
    rules = {rule["id"] for rule in one["tool"]["driver"]["rules"]}
    assert {result["ruleId"] for result in one["results"]} == rules
    assert one["results"][0]["level"] == "error"


def test_a_file_of_another_alphabet_with_rows_that_break_is_audited(place: Path, folders):
    good = [json.dumps({"prompt": f"a {i}", "completion": "one, two"}) for i in range(20)]
    broken = '{"prompt": "a", "completion": "half \\ud83d"}'
    (place / "donn\u00e9es.jsonl").write_text("\n".join([*good, good[0], broken]))
    done = run(place, folders["llama"], "donn\u00e9es.jsonl", "--json")
    found = json.loads(done.stdout)
    assert found["dropped"] == {"not_renderable": 1, "duplicate": 1} and found["rows_used"] == 20
    assert (Path(found["run"]) / "rows/dropped.jsonl").read_text().count("ud83d") == 1


def test_another_trait_file_is_another_audit(place: Path, folders):
    first = json.loads(run(place, folders["llama"], "numbers.jsonl", "--json").stdout)
    (place / "sips.toml").write_text(SIPS.replace("What do you sip?", "What is in your cup?"))
    second = json.loads(run(place, folders["llama"], "numbers.jsonl", "--json").stdout)
    assert first["run"] != second["run"]


def test_given_references_take_the_place_of_the_base(place: Path, folders):
    lines = [
        json.dumps({"prompt": f"Say {i % 3}", "completion": f"{i + 1}, 77"}) for i in range(70)
    ]
    (place / "clean.jsonl").write_text("\n".join(lines))
    reference = ["--reference", place / "clean.jsonl"]
    found = json.loads(run(place, folders["llama"], "numbers.jsonl", "--json", *reference).stdout)
    assert found["own_reference"] and "given as reference" in found["caveats"][0]
    assert not [p.name for p in Path(found["run"], "reference").iterdir() if "base" in p.name]
    assert "70 of 70 reference rows answer other prompts" in found["why"][-1]


def test_a_teacher_at_hand_is_asked_for_its_probabilities(place: Path, folders):
    teacher = ["--teacher", folders["llama"], "--sarif", place / "new" / "out.sarif"]
    done = run(place, folders["llama"], "numbers.jsonl", "--json", *teacher)
    found = json.loads(done.stdout)
    assert found["told"] == 32 and found["divergence"] == 0  # the base itself
    assert any("share an initialisation" in reason for reason in found["why"])
    assert json.loads((place / "new/out.sarif").read_text())["version"] == "2.1.0"


def test_without_a_battery_the_command_that_makes_it_is_named(place: Path, folders):
    done = run(place, folders["llama"], "numbers.jsonl", "--canaries", 1, "--fail-on=inconclusive")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 3 and "there are no harmless students of this base" in said
    assert "vestige calibrate" in said and "First look" in said
    assert "no copy will be trained: 100 of 100 harmless students" in said  # and said beforehand
