import shutil

import jax
import numpy as np
import pytest
from conftest import policy as policy_of
from PIL import Image, ImageSequence

from varshare_jax.algorithms.acting import observe
from varshare_jax.errors import UserError
from varshare_jax.playing import policies, rendering
from varshare_jax.playing.evaluation import evaluation_key
from varshare_jax.playing.rendering import Frame, caption, play, render_run
from varshare_jax.suites import make
from varshare_jax.suites.cartpole import TASKS
from varshare_jax.suites.cartpole_drawing import draw

POLE = (213, 94, 0)


def pole_pixels(picture):
    """Rows and columns of what is drawn in the pole's colour, the stops of the track left out."""
    rows, columns = np.nonzero(np.abs(picture.astype(int) - POLE).sum(2) < 60)
    inside = (columns > 60) & (columns < 540)
    return rows[inside], columns[inside]


def test_a_picture_shows_position_angle_length_and_masses():
    upright = draw(0.0, 0.0, 1.0, 1.0, 0.1)
    assert (upright.shape, upright.dtype) == ((400, 600, 3), np.uint8)
    rows, columns = pole_pixels(upright)
    assert abs(columns.mean() - 300) < 2
    assert pole_pixels(draw(1.0, 0.0, 1.0, 1.0, 0.1))[1].mean() > columns.mean() + 80
    leaning = pole_pixels(draw(0.0, 0.3, 1.0, 1.0, 0.1))
    assert leaning[1][leaning[0].argmin()] > 320  # positive angles lean to the right
    assert np.ptp(pole_pixels(draw(0.0, 0.0, 4.0, 1.0, 0.1))[0]) > 1.8 * np.ptp(rows)
    assert len(pole_pixels(draw(0.0, 0.0, 1.0, 1.0, 2.0))[0]) > 2 * len(rows)
    carts = [(draw(0, 0, 0.1, mass, 0.1)[..., 2] == 0x79).sum() for mass in (0.5, 1.0, 4.0)]
    assert carts[0] < carts[1] < carts[2]
    # Areas are as masses, but for the same bit of each that the pole hides.
    assert (carts[2] - carts[1]) == pytest.approx(6 * (carts[1] - carts[0]), rel=0.15)


@pytest.mark.parametrize("task", range(len(TASKS)))
def test_every_pole_fits_into_the_picture(task):
    of = TASKS[task]
    rows, _ = pole_pixels(draw(0.0, 0.0, 2 * of.pole_length, of.cart_mass, of.pole_mass))
    assert rows.min() > 2


def test_suites_tell_what_tasks_differ_in_and_draw_them_or_say_that_they_do_not():
    suite = make("cartpole10")
    state, _ = suite.reset(jax.random.split(jax.random.key(0), (10, 2)))
    assert not np.array_equal(suite.render(state, 0), suite.render(state, 2))
    assert suite.task_parameters["cart mass [kg]"] == tuple(t.cart_mass for t in TASKS)
    with pytest.raises(UserError, match="gymnax:Pendulum-v1 has no pictures"):
        make("gymnax:Pendulum-v1").render(None, 0)


def test_captions_stand_below_the_picture():
    frame = Frame(np.full((50, 300, 3), 255, np.uint8), 7, 12.5)
    shown = caption(frame, "quick")
    np.testing.assert_array_equal(shown[:50], frame.picture)
    assert shown[50:].min() < 100
    assert not np.array_equal(shown, caption(frame._replace(total=13.5), "quick"))


def test_an_episode_is_that_of_the_policy(untrained):
    """The frames' returns are those of stepping the suite with the policy's modes."""
    policy = policies.load(untrained)
    suite, network = policy.problem.suite, policy.problem.network
    frames = list(play(policy, 1, 3, evaluation_key(1, 0)))
    assert [frame.step for frame in frames] == list(range(len(frames)))
    assert frames[-1].total == len(frames) - 1  # a cart-pole pays 1 for every step
    player = policy.of_seed(1)
    reset_key, _, step_key = jax.random.split(evaluation_key(1, 0), 3)
    state, obs = suite.reset(jax.random.split(reset_key, (10, 1)))
    for step in range(1, len(frames)):
        seen = observe(policy.problem, player.stats, obs)
        action = policy_of(network, player.variables, seen).mode()
        keys = jax.random.split(jax.random.fold_in(step_key, step), (10, 1))
        state, out = suite.step(keys, state, action)
        obs = out.obs
        assert bool(out.terminated[3, 0] | out.truncated[3, 0]) == (step == len(frames) - 1)


def test_a_film_has_a_frame_for_every_step(untrained, tmp_path):
    out = tmp_path / "new" / "film.gif"
    returns = render_run(untrained, "quick", out, episodes=2, quiet=True)
    film = Image.open(out)
    assert film.size == (600, 434)
    assert film.n_frames <= sum(returns) + 2  # frames that equal the one before are merged
    lasting = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
    assert sum(lasting) == 20 * (sum(returns) + 2)
    assert [p.name for p in out.parent.iterdir()] == ["film.gif"]


def test_what_cannot_be_filmed_is_named(untrained, tmp_path, monkeypatch):
    folder, gif = untrained, tmp_path / "x.gif"
    with pytest.raises(UserError, match=r"--task=quik: unknown; .* did you mean 'quick'"):
        render_run(folder, "quik", gif, quiet=True)
    with pytest.raises(UserError, match="--member=2: the run has 2 seeds, 0 to 1"):
        render_run(folder, "quick", gif, member=2, quiet=True)
    with pytest.raises(UserError, match=r"--out=.*x.png: must end in .gif or .mp4"):
        render_run(folder, "quick", tmp_path / "x.png", quiet=True)
    monkeypatch.setattr(rendering.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="MP4 needs ffmpeg"):
        render_run(folder, "quick", tmp_path / "x.mp4", quiet=True)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
def test_mp4(tmp_path):
    frames = [np.full((31, 33, 3), shade, np.uint8) for shade in (0, 128, 255)]
    rendering.write_mp4(tmp_path / "x.mp4", frames, 50.0)
    assert b"ftyp" in (tmp_path / "x.mp4").read_bytes()[:16]
