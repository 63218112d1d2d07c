"""Reading results and annotations, finding pictures, the page's files, curves, figures, and the command."""

import itertools
import json
import os

import pytest
from PIL import Image

from report import made_up
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.report import page as page_module
from xmodaler_ssattn.report.curves import Run, curves_html, read_run, thin
from xmodaler_ssattn.report.figure import choose_images, draw_figure, save_figure
from xmodaler_ssattn.report.page import write_page
from xmodaler_ssattn.report.pictures import find_pictures
from xmodaler_ssattn.report.plot import Line, draw_panel, drawing, look, to_svg
from xmodaler_ssattn.report.source import default_names, read_source

# --- reading ------------------------------------------------------------------------------------------------------


def test_models_are_named_by_their_run_and_by_more_when_that_is_not_enough():
    assert default_names(["out/ours/results/test_epoch_3.json", "b/base.json"]) == ["ours", "base"]
    assert default_names(["r/results/a.json", "r/results/b.json"]) == ["r a", "r b"]
    assert default_names(["a/x.json", "b/x.json"]) == ["a/x.json", "b/x.json"]
    assert len(set(default_names(["x.json", "x.json"]))) == 2


def test_wrong_numbers_of_names_and_repeated_names_are_refused(tmp_path):
    path = made_up.write(tmp_path / "a.json", {1: made_up.caption()})
    with pytest.raises(UserError, match="one name for each of the 2 results files, got 1"):
        read_source([path, path], ["a"])
    with pytest.raises(UserError, match="expected different names"):
        read_source([path, path], ["a", "a"])


def test_a_broken_annotation_is_named_with_its_image(tmp_path):
    path = made_up.write(tmp_path / "a.json", {7: made_up.caption()})
    record = made_up.annotated(7)
    del record["width"]
    folder = made_up.write_annotations(tmp_path / "annotations", [record])
    with pytest.raises(UserError, match=r"test.json: image number 0 \(image_id 7\): .*width"):
        read_source([path], annotations=folder)


def test_an_annotation_folder_without_the_split_is_a_notice_and_a_missing_folder_an_error(tmp_path):
    path = made_up.write(tmp_path / "a.json", {1: made_up.caption()})
    source = read_source([path], annotations=tmp_path)
    assert source.truths == {} and any("No annotations of split test" in notice for notice in source.notices)
    with pytest.raises(UserError, match="is not a folder"):
        read_source([path], annotations=tmp_path / "absent")


def test_pictures_are_found_by_id_with_any_suffix_padding_or_prefix(tmp_path):
    for name in ("1.png", "000000000002.jpg", "COCO_val2014_000000000003.JPG", "4.txt", "x5.png", "000001.png"):
        (tmp_path / name).write_bytes(b"")
    found = find_pictures(tmp_path, [1, 2, 3, 4, 5])
    assert {i: path.name for i, path in found.items()} == {
        1: "1.png", 2: "000000000002.jpg", 3: "COCO_val2014_000000000003.JPG",
    }  # fmt: skip


# --- the page's files ---------------------------------------------------------------------------------------------


def test_a_page_needs_nothing_outside_its_folder(tmp_path):
    made_up.draw_picture(tmp_path / "Images" / "1.png")
    source = read_source([made_up.write(tmp_path / "a.json", {1: made_up.caption()})])
    runs = [Run("ours", {"lr": [(0, 1.0), (1, 0.5)]}, {})]
    page = write_page(tmp_path / "page", source, images=tmp_path / "Images", runs=runs)
    texts = [path.read_text() for path in page.parent.rglob("*") if path.suffix in (".html", ".js", ".css")]
    for text in texts:
        stripped = text.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
        assert "http:" not in stripped and "https:" not in stripped and "//cdn" not in stripped
        assert "innerHTML" not in text and "fetch(" not in text and "eval(" not in text
        assert str(tmp_path) not in text
    assert Image.open(page.parent / "pictures" / "1.png").size == (400, 300)


def test_pictures_can_be_left_where_they_are(tmp_path):
    made_up.draw_picture(tmp_path / "My Images" / "1.png")
    source = read_source([made_up.write(tmp_path / "a.json", {1: made_up.caption()})])
    page = write_page(tmp_path / "page", source, images=tmp_path / "My Images", refer=True)
    assert not (page.parent / "pictures").exists()
    assert (tmp_path / "My Images" / "1.png").as_uri() in (page.parent / "data" / "index.js").read_text()


def test_pictures_are_copied_where_the_file_system_cannot_link(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no links here")

    made_up.draw_picture(tmp_path / "Images" / "1.png")
    monkeypatch.setattr(os, "link", refuse)
    source = read_source([made_up.write(tmp_path / "a.json", {1: made_up.caption()})])
    page = write_page(tmp_path / "page", source, images=tmp_path / "Images")
    assert (page.parent / "pictures" / "1.png").read_bytes() == (tmp_path / "Images" / "1.png").read_bytes()


def test_a_page_is_rewritten_without_leftovers_but_never_over_something_else(tmp_path):
    big = read_source([made_up.write(tmp_path / "a.json", dict.fromkeys(range(120), "x"))])
    page = write_page(tmp_path / "page", big)
    assert len(list((page.parent / "data").glob("part_*.js"))) == 3  # 50, 50, 20
    small = read_source([made_up.write(tmp_path / "a.json", {1: "x"})])
    write_page(tmp_path / "page", small)
    assert [path.name for path in (page.parent / "data").glob("part_*.js")] == ["part_0000.js"]
    (tmp_path / "mine" / "data").mkdir(parents=True)  # as a page has it
    (tmp_path / "mine" / "index.html").write_text("mine")
    with pytest.raises(UserError, match="neither empty nor a page"):
        write_page(tmp_path / "mine", small)


# --- curves ---------------------------------------------------------------------------------------------------------


def write_metrics(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_a_run_is_read_with_its_resumed_steps_once_and_a_cut_last_line_passed_over(tmp_path):
    lines = [
        '{"iteration": 0, "total_loss": 3.0, "time": 1}',
        '{"iteration": 9, "total_loss": 2.0, "val/CIDEr": 0.1}',
        '{"iteration": 9, "total_loss": 1.5, "val/CIDEr": 0.2, "val/SPICE": NaN}',
        '{"iteration": 19, "val/CIDEr": 0.3}',
        '{"iteration": 20, "tot',
    ]
    folder = write_metrics(tmp_path / "run", lines)
    (folder / "results").mkdir()
    for name in ("val_epoch_2.json", "val_epoch_10.json"):
        (folder / "results" / name).write_text("{}")
    run = read_run(folder)
    assert run.series == {"total_loss": [(0, 3.0), (9, 1.5)], "val/CIDEr": [(9, 0.2), (19, 0.3)]}
    assert run.epochs == {9: 2, 19: 10}  # by number, not by name


def test_a_broken_line_in_the_middle_and_a_missing_file_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"metrics.json does not exist"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="line 1 is not JSON"):
        read_run(write_metrics(tmp_path / "run", ["{", '{"iteration": 1}']))


def test_long_series_are_thinned_to_means():
    points = [(float(i), float(i % 2)) for i in range(1000)]
    short = thin(points, 250)
    assert len(short) == 250
    assert short[0] == (1.5, 0.5)  # the mean of steps 0 to 3, of 0 1 0 1
    assert thin(points[:5]) == points[:5]


def test_names_in_curves_are_escaped_and_runs_differ_without_colour():
    runs = [Run("<b>", {"lr": [(0, 1.0), (1, 0.5)]}, {}), Run("b", {"lr": [(0, 2.0), (1, 2.0)]}, {})]
    html = curves_html(runs)
    assert "<b>" not in html and "&lt;b&gt;" in html
    assert "stroke-dasharray" in html
    assert curves_html([]) == ""


def test_every_model_has_its_own_colour_and_dashes_in_all_panels():
    looks = [(look(i)["color"], look(i)["linestyle"]) for i in range(48)]
    assert len(set(looks)) == 48
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in itertools.pairwise(looks))
    points = [(0, 1.0), (1, 0.5)]
    html = curves_html([Run("second", {"lr": points}, {}), Run("third", {"lr": points}, {})], ["first", "second"])
    assert html.lower().count(looks[1][0].lower()) and html.lower().count(looks[2][0].lower())
    assert looks[0][0].lower() not in html.lower()


def test_runs_are_compared_by_their_cross_entropy_over_epochs():
    parts = {"CrossEntropy Loss(G)": [(9, 4.0), (19, 3.0)], "Grounding Loss": [(9, 9.0), (19, 8.0)],
             "total_loss": [(9, 13.0), (19, 11.0)]}  # fmt: skip
    alone = {"total_loss": [(9, 5.0), (19, 4.5)]}
    html = curves_html([Run("ours", parts, {19: 2}), Run("base", alone, {19: 2})])
    shown = html[: html.index("more curves")]
    # 20 steps are two epochs, so step 10 ends the first
    assert all(f"<title>{text}</title>" in shown for text in ("ours, 1: 4", "ours, 2: 3", "base, 1: 5", "base, 2: 4.5"))
    assert "ours, 1: 13" not in shown and ">Total loss<" in html
    assert ">nats per word<" in shown and ">epoch<" in shown


def test_a_single_value_is_written_and_not_drawn():
    html = curves_html([Run("ours", {"val/CIDEr": [(9, 0.5)]}, {9: 1})])
    assert "CIDEr, val: ours 50 (epoch 1)" in html and "percent<" not in html


def test_a_single_value_beside_a_curve_is_written_below_it():
    two, one = {"val/CIDEr": [(9, 0.5), (19, 0.6)]}, {"val/CIDEr": [(9, 0.4)]}
    html = curves_html([Run("a", two, {19: 2}), Run("b", one, {9: 1})])
    assert "CIDEr, val: b 40 (epoch 1)" in html and "<title>b, " not in html and "<title>a, 2: 60" in html


def test_epochs_come_from_the_record_of_the_best_one_also_when_results_were_deleted(tmp_path):
    lines = [{"iteration": step, "val/CIDEr": step / 100} for step in (9, 19)]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_run(tmp_path).epochs == {}
    (tmp_path / "best.json").write_text('{"best": 2, "epochs": {"1": {"iteration": 9}, "2": {"iteration": 19}}}')
    assert read_run(tmp_path).epochs == {9: 1, 19: 2}
    (tmp_path / "best.json").write_text('{"epochs": [1]}')
    with pytest.raises(UserError, match=r"best.json: epochs: it must be an object, found \[1\]"):
        read_run(tmp_path)


def test_only_the_first_images_of_a_large_page_have_attention(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "PART", 2)
    monkeypatch.setattr(page_module, "MOST_WITH_ATTENTION", 2)
    source = read_source([made_up.write(tmp_path / "r.json", {i: made_up.caption() for i in (1, 2, 3)})])
    folder = write_page(tmp_path / "page", source).parent
    assert any("first 2 of 3 images" in notice for notice in source.notices)
    first, second = [(folder / "data" / f"part_000{n}.js").read_text() for n in (0, 1)]
    assert '"attention":{' in first and '"attention":{' not in second and '"boxes":[[' in second


def test_a_panel_has_whole_epochs_titled_axes_and_nothing_that_differs_from_run_to_run():
    def drawn():
        with drawing():
            from matplotlib.figure import Figure

            figure = Figure((4, 2))
            axes = figure.subplots()
            draw_panel(axes, [Line("狗 $x$", [(1, 2.0), (2, 3.0), (3, 2.5)])], "T", "epoch", "percent")
            return axes, to_svg(figure, "name")

    axes, svg = drawn()
    assert all(tick == int(tick) for tick in axes.get_xticks())
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "percent")
    assert "狗 $x$, 3: 2.5" in svg and svg == drawn()[1]
    assert "<style" not in svg and "://" not in svg.replace("http://www.w3.org/", "")


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def figure_source(tmp_path):
    ids = (1, 2, 3)
    first = {i: made_up.caption(made_up.DOG_WRONG if i == 3 else made_up.RIGHT) for i in ids}
    paths = [
        made_up.write(tmp_path / "a.json", first),
        made_up.write(tmp_path / "b.json", {i: made_up.caption() for i in ids}),
    ]
    folder = made_up.write_annotations(tmp_path / "annotations", [made_up.annotated(i) for i in ids])
    return read_source(paths, ["<base>", "ours"], folder)


def test_a_figure_starts_with_the_images_where_ours_is_right_and_the_baseline_wrong(figure_source):
    assert choose_images(figure_source, None) == [3, 1, 2]
    assert choose_images(figure_source, [2]) == [2]
    with pytest.raises(UserError, match="no results for image 9"):
        choose_images(figure_source, [9])


def test_a_figures_boxes_lie_where_the_words_rest(figure_source):
    with drawing():
        axes = draw_figure(figure_source, [3], {}).axes[0]
    assert axes.get_xlim() == (0, 240 + 12 + 240)
    boxes = [patch for patch in axes.patches if not patch.get_fill()]
    # 400 pixels become 240 points, a factor of 0.6: the dog's box 50 .. 150 lies at 30, 60 wide; on the left it is the
    # car's, 220 .. 340 at 132, 72 wide; the right column starts at 252
    places = [(round(box.get_x()), round(box.get_width())) for box in boxes]
    assert places == [(132, 72), (132, 72), (252 + 30, 60), (252 + 132, 72)]
    colours = [box.get_edgecolor() for box in boxes]
    assert colours[0] == colours[2] != colours[1]
    assert len(axes.patches) == 2 * (1 + 2)  # blank frame, two boxes, two models
    with drawing():
        words = [text.get_window_extent() for text in axes.texts[2:7]]  # after the models' names
    assert [text.get_text() for text in axes.texts[2:7]] == list(made_up.WORDS)
    gaps = [b.x0 - a.x1 for a, b in itertools.pairwise(words)]
    assert all(0.15 < gap / words[0].height < 0.6 for gap in gaps), gaps


def test_figures_come_as_png_pdf_and_svg(figure_source, tmp_path):
    picture = made_up.draw_picture(tmp_path / "3.png")
    paths = save_figure(tmp_path / "figures" / "fig.3", figure_source, [3, 1], {3: picture})
    assert [path.name for path in paths] == ["fig.3.png", "fig.3.pdf", "fig.3.svg"]
    png = Image.open(paths[0])
    assert png.width == round(492 * 300 / 72)
    scale = 300 / 72
    assert png.getpixel((round((252 + 60) * scale), round((18 + 66) * scale)))[0] > 180  # the red dog on the right
    assert paths[1].read_bytes().startswith(b"%PDF")
    svg = paths[2].read_text()
    assert "<base>" not in svg and "&lt;base&gt;" in svg and "data:image/png;base64," in svg
    before = [path.read_bytes() for path in paths]
    save_figure(tmp_path / "figures" / "fig.3", figure_source, [3, 1], {3: picture})
    assert [path.read_bytes() for path in paths] == before


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page_and_prints_its_path(tmp_path, capsys):
    made_up.draw_picture(tmp_path / "Images" / "1.png")
    results = made_up.write(tmp_path / "a.json", {1: made_up.caption()})
    run = write_metrics(tmp_path / "run", ['{"iteration": 0, "total_loss": 3.0}'])
    arguments = ["--images", str(tmp_path / "Images"), "--run", str(run), "--out", str(tmp_path / "page")]
    assert main(["report", str(results), *arguments]) == 0
    assert f"Open {tmp_path / 'page' / 'index.html'}" in capsys.readouterr().out
    assert "Total loss" in (tmp_path / "page" / "index.html").read_text()


def test_a_single_run_makes_a_page(tmp_path, capsys):
    run = write_metrics(tmp_path / "run", ['{"iteration": 0, "total_loss": 3.0, "lr": 0.1}'])
    assert main(["report", "--run", str(run), "--out", str(tmp_path / "page")]) == 0
    assert "note:" not in capsys.readouterr().out


def test_the_command_writes_figures(tmp_path, capsys):
    results = made_up.write(tmp_path / "a.json", {1: made_up.caption()})
    assert main(["report", str(results), "--figure", str(tmp_path / "fig"), "--figure-images", "1"]) == 0
    assert sorted(path.suffix for path in tmp_path.glob("fig.*")) == [".pdf", ".png", ".svg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "give results files"), (["absent.json"], "does not exist"), (["--figure", "x", "--run", "y"], "--figure")],
)
def test_mistakes_are_told_in_one_line(arguments, message, capsys):
    assert main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_demo_shows_first_where_its_second_model_has_more_right_words(tmp_path):
    """Up-Down: the car right, the dog wrong. SS attention: two cars, which count once; both right; as Up-Down."""
    from xmodaler_ssattn.cli import demo

    two_cars = made_up.caption((2, 1, 2, 2, 1), ("a", "car", "near", "a", "car"))
    before = made_up.caption(made_up.DOG_WRONG)
    for row, captions in zip(demo.ROWS, ([before] * 3, [two_cars, made_up.caption(made_up.RIGHT), before])):
        made_up.write(tmp_path / row / "results" / "test_epoch_2.json", dict(enumerate(captions, 1)))
        write_metrics(tmp_path / row, ['{"iteration": 0, "total_loss": 3.0}'])
    made_up.write_annotations(tmp_path / "data", [made_up.annotated(image_id) for image_id in (1, 2, 3)])
    for image_id in (1, 2, 3):
        made_up.draw_picture(tmp_path / "data" / "Images" / f"{image_id}.png")
    source = demo.read_demo(tmp_path)
    assert source.image_ids == (2, 1, 3)
    text = demo.right_boxes(source)
    assert "Up-Down       3 of 6 (50%)" in text and "SS attention  5 of 6 (83%)" in text
    assert demo.draw_pictures(source, tmp_path) == 3 and len(list((tmp_path / "pictures").glob("*.png"))) == 3
    page = demo.write_report(source, tmp_path)
    assert page == tmp_path / "page" / "index.html"
    index = (tmp_path / "page" / "data" / "index.js").read_text()
    data = json.loads(index.removeprefix("ssattn.index(").rstrip().removesuffix(");"))
    assert [model["name"] for model in data["models"]] == ["Up-Down", "SS attention"]
    assert [row["i"] for row in data["images"]] == [2, 1, 3]
    assert all(model["attention"] for model in data["models"]) and data["notices"] == []


def test_runs_alone_can_be_named(tmp_path):
    folders = [write_metrics(tmp_path / name, ['{"iteration": 0, "lr": 0.1}']) for name in "ab"]
    assert main(["report", "--run", *map(str, folders), "--names", "one", "two", "--out", str(tmp_path / "page")]) == 0
    assert "learning rate: one 0.1 (step 1); two 0.1 (step 1)" in (tmp_path / "page" / "index.html").read_text()
