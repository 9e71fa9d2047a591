"""Lines under their phases."""

from machines.panel.logs.log_lines import BLOCK, groups, lines

PHASES = [{"name": "prepare", "line": 3, "at": 102.0}, {"name": "packages", "line": 5, "at": 110.5}]


def rows(count):
    return [(n, 100.0 + n, "o", f"line {n}") for n in range(1, count + 1)]


def test_a_line_has_its_number_its_time_and_its_mark():
    html = lines([(7, 103.25, "e", "<oops>")], began=100.0)
    assert html == (
        '<p id="L7" class="ll-e"><a href="#L7" tabindex="-1">7</a><time>3.2</time>'
        '<b title="error output">!</b><span>&lt;oops&gt;</span></p>'
    )


def test_lines_lie_under_the_phase_that_wrote_them():
    before, prepare, packages = groups(rows(6), PHASES, state="running", began=100.0, ended=None)
    assert [before.name, prepare.name, packages.name] == ["", "prepare", "packages"]
    assert 'id="L2"' in before.blocks[0]
    assert 'id="L3"' in prepare.blocks[0]
    assert 'id="L5"' not in prepare.blocks[0]
    assert 'id="L6"' in packages.blocks[0]


def test_a_phase_is_over_when_the_next_begins():
    _, prepare, packages = groups(rows(6), PHASES, state="running", began=100.0, ended=None)
    assert (prepare.state, prepare.seconds, prepare.is_open) == ("succeeded", 8.5, False)
    assert (packages.state, packages.seconds, packages.is_open) == ("running", None, True)


def test_the_last_phase_has_the_outcome_of_the_job():
    *_, packages = groups(rows(6), PHASES, state="failed", began=100.0, ended=120.5)
    assert (packages.state, packages.seconds, packages.is_open) == ("failed", 10.0, True)


def test_a_phase_without_loaded_lines_is_still_there():
    _, prepare, packages = groups(rows(9)[6:], PHASES, state="running", began=100.0, ended=None)
    assert prepare.blocks == []
    assert 'id="L7"' in packages.blocks[0]


def test_long_logs_come_in_blocks():
    (only,) = groups(rows(2 * BLOCK + 1), [], state="running", began=100.0, ended=None)
    assert [block.count("<p ") for block in only.blocks] == [BLOCK, BLOCK, 1]


def test_lines_fit_in_one_event_of_a_stream():
    assert "\n" not in lines([(1, 0.0, "o", "a\nb"), (2, 0.0, "o", "c")], began=0.0)
