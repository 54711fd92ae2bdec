"""What a stage says of itself where there is no terminal, and how durations are said."""

import pytest

from dense_jax.terminal import progress


def test_each_state_of_a_bar_is_one_line_and_the_last_one_is_there(capsys):
    with progress.progress_bar("embed", 4, "passages") as shown:
        for _ in range(4):
            shown.update()
            shown.refresh()
            shown.refresh()  # as tqdm's own thread does
    lines = capsys.readouterr().err.splitlines()
    states = [line.partition("[")[0] for line in lines]
    assert len(states) == len(set(states))
    assert "4/4 passages" in lines[-1]


def test_a_bar_that_advances_is_shown_every_five_seconds_however_fast_it_was_before(capsys):
    with progress.progress_bar("embed", 4, "passages") as shown:
        assert shown.mininterval < 5
        assert (shown.miniters, shown.dynamic_miniters) == (1, False)


def test_a_total_that_is_not_known_gives_a_count(capsys):
    assert list(progress.progress("abc", "read", None, "rows")) == ["a", "b", "c"]
    assert "read: 3 rows" in capsys.readouterr().err.splitlines()[-1]


def test_a_stage_that_continues_starts_where_it_was(capsys):
    with progress.progress_bar("embed", 4, "passages", initial=2):
        pass
    assert "2/4 passages" in capsys.readouterr().err


@pytest.mark.parametrize(("total", "line"), [(20, "embed:  50%|############            | 10/20 passages ["),
                                             (None, "embed: 10 passages [")])  # fmt: skip
def test_a_line_is_written_once_something_is_done_with_its_speed_and_unit(capsys, total, line):
    with progress.progress_bar("embed", total, "passages") as shown:
        shown.update(10)
    (written,) = capsys.readouterr().err.splitlines()
    assert written.startswith(line)
    assert written.endswith(" passages/s]")


@pytest.mark.parametrize(
    ("duration", "text"), [(0.4, "0s"), (59.4, "59s"), (60, "1m00s"), (3_599, "59m59s"), (7_260, "2h01m")]
)
def test_durations(duration, text):
    assert progress.format_duration(float(duration)) == text


def test_a_stage_within_a_stage_writes_plain_lines_too(capsys):
    for _ in progress.progress("ab", "check", None, "rows"):
        list(progress.progress("cd", "read", 2, "files"))
    written = capsys.readouterr().err
    assert "\x1b" not in written
    assert all(line.startswith(("check: ", "read: ")) for line in written.splitlines())
