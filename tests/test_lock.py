"""Lock files: one holder at a time, though the file may be removed once nobody needs it."""

import threading

from dense_jax.processes.locks import all_in_turn, in_turn, is_held


def test_a_look_at_a_lock_that_nobody_made_makes_none(tmp_path):
    assert not is_held(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


def test_a_lock_is_held_until_its_block_ends(tmp_path):
    with in_turn(tmp_path / "lock"):
        assert is_held(tmp_path / "lock")
    assert not is_held(tmp_path / "lock")


def test_whoever_waited_for_a_lock_that_was_removed_holds_the_new_one(tmp_path):
    path, waiting, held = tmp_path / "lock", threading.Event(), []

    def wait():
        waiting.set()
        with in_turn(path):
            held.append(is_held(path))

    thread = threading.Thread(target=wait)
    with in_turn(path):
        thread.start()
        waiting.wait()
        thread.join(0.1)  # so that it has opened the file that is removed now
        path.unlink()
    thread.join()
    assert held == [True]


def test_all_processes_hold_the_new_lock_where_the_one_they_waited_for_was_removed(tmp_path):
    path, asked = tmp_path / "lock", []
    with in_turn(path):

        def remove(waited: float) -> bool:
            asked.append(waited)
            path.unlink(missing_ok=True)
            return False

        with all_in_turn(path, remove) as broken:
            assert is_held(path) and not broken
    assert len(asked) == 1


def test_a_lock_that_is_given_up_may_be_gone_already(tmp_path):
    path = tmp_path / "lock"
    with in_turn(path):

        def gone(waited: float) -> bool:
            path.unlink(missing_ok=True)
            return True

        with all_in_turn(path, gone) as broken:
            assert is_held(path) and broken
