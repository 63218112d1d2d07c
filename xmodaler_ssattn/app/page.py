"""The Gradio page. It asks for nothing outside this machine: no analytics, no share link, no fonts of others."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from xmodaler_ssattn.app.views import (
    ALL,
    KINDS,
    Answer,
    clicked,
    colours_of,
    highlighted,
    kinds_of,
    labels_of,
    marked,
    reading,
    table,
    word_choices,
)
from xmodaler_ssattn.errors import UserError, require

HOST = "127.0.0.1"
MOST_BYTES = "50mb"  # of an uploaded file
MOST_BEAMS = 10
MOST_WAITING = 16
FILES = ["image", ".jp2"]  # "image" lets phones offer their photographs and camera

CSS = """
.gradio-container { max-width: 1240px !important; width: 100% !important; margin: 0 auto !important; }
#layout { display: grid;
  grid-template: "choose results" auto "adjust results" 1fr / minmax(16rem, 1fr) minmax(0, 2.4fr); }
#choose { grid-area: choose; } #results { grid-area: results; } #adjust { grid-area: adjust; }
#layout > * { min-width: 0 !important; }
@media (max-width: 800px) { #layout { grid-template: "choose" auto "results" auto "adjust" auto / minmax(0, 1fr); } }
#about { opacity: .75; overflow-wrap: anywhere; }
#message p { margin: 0; padding: .6rem .8rem; border-left: 4px solid #B4461E; background: #FFF3EC; color: #5B2410;
  overflow-wrap: anywhere; }
#message p.notice { border-color: #C58A00; background: #FFF8E1; color: #4E3A00; }
#caption :is(.textfield, .textfield span) { white-space: normal; word-break: normal; overflow-wrap: anywhere; }
#caption .textfield { display: block; font-size: 1.35rem; line-height: 2.2rem; }
#caption :is(.token-container, .token:not(.highlighted)) { display: inline; }
#caption .token.highlighted { display: inline-block; line-height: 1.4; }
:is(#about, #message, #reading, #boxes) .html-container { padding: 0 !important; }
#boxes table.boxes { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
#boxes caption { text-align: left; padding: 0 0 .3rem; opacity: .75; overflow-wrap: anywhere; }
#boxes :is(table, thead, tbody, tr, th, td) { border: 0 !important; }
#boxes :is(th, td) { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid #8886 !important; }
#boxes th:first-child { text-align: left; padding-left: 0; }
"""


def settings(folder: str) -> None:
    """Set what Gradio reads from the environment, before its first import; ``folder`` is for its pictures."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",  # pictures would stay in the browser
        "GRADIO_TEMP_DIR": folder,
        "HF_HUB_OFFLINE": "1",
    }
    # Gradio asks its own server whether it runs, which a proxy of the network would answer.
    for key in ("NO_PROXY", "no_proxy"):
        os.environ[key] = ",".join(filter(None, (os.environ.get(key), HOST)))


def build(
    answer: Callable[[Path, str, int], Answer],
    *,
    title: str,
    about: str,
    pictures: Mapping[str, Path],
    beam_size: int,
    has_beta: bool,
    ground_by: str,
) -> Any:
    """The page, a ``gradio.Blocks``.

    Args:
        answer: (picture file, its name, beam size) -> the captioned picture; the page shows its ``UserError``.
        about: a line about model and detector.
        pictures: name -> file, to choose from.
        beam_size: the first value of the slider.
        has_beta: whether the model has spatial-semantic attention.
        ground_by: the weights that are shown first.

    Raises:
        UserError: Gradio is not installed.
    """
    gr = require("gradio", "app", "`xmodaler app`")

    def empty(message: str = "") -> list[Any]:
        return [
            None,
            gr.HTML(value=f"<p role='alert'>{escape(message)}</p>", visible=bool(message)),
            gr.HighlightedText(value=[]),
            gr.Radio(choices=[("all object words", ALL)], value=ALL, visible=False),
            *look(None, ground_by, ALL),
        ]

    def show(file: str | None, name: str | None, kind: str, beams: float) -> list[Any]:
        path = Path(file) if file else pictures.get(name or "")
        if path is None:
            return empty()
        try:
            found = answer(path, path.name, int(beams))
        except UserError as error:
            return empty(str(error))
        colours = colours_of(list(labels_of(found).values()))
        notice = f"<p class='notice' role='status'>{escape(found.notice)}</p>"
        return [
            found,
            gr.HTML(value=notice, visible=bool(found.notice)),
            gr.HighlightedText(value=highlighted(found), color_map=colours),
            gr.Radio(choices=word_choices(found), value=ALL, visible=bool(found.caption.words)),
            *look(found, kind, ALL),
        ]

    def look(found: Answer | None, kind: str, at: int | None) -> list[Any]:
        if found is None:
            return [gr.AnnotatedImage(value=None, height="16rem"), "", ""]
        kind = kind if kind in kinds_of(found.caption) else kinds_of(found.caption)[0]
        word = None if at is None or at == ALL or not 0 <= at < len(found.caption.words) else at
        value, colours = marked(found, kind, word)
        ratio = found.picture.height / found.picture.width
        # All of the picture in sight, as wide as the column (816 pixels, or 84 % of a phone), and the line of labels.
        height = f"calc(min(75vh, {84 * ratio:.0f}vw, {816 * ratio:.0f}px) + 2.6rem)"
        drawn = gr.AnnotatedImage(value=value, color_map=colours, height=height)
        return [drawn, f"<p role='status'>{escape(reading(found, kind, word))}</p>", table(found, kind)]

    def choose(found: Answer | None, event: Any) -> int:
        return ALL if found is None else clicked(found, event.index)

    choose.__annotations__["event"] = gr.SelectData  # by which Gradio passes the event
    kinds = [(KINDS[kind], kind) for kind in (KINDS if has_beta else ("alpha",))]
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(f"# {title}")
        gr.HTML(f"<p>{escape(about)}</p>", elem_id="about", padding=False)
        kept = gr.State(None, time_to_live=3600)
        with gr.Row(elem_id="layout"):
            with gr.Column(elem_id="choose"):
                file = gr.File(label="Picture", file_types=FILES, file_count="single", height=150, elem_id="file")
                choice = {"choices": list(pictures), "value": None, "visible": bool(pictures)}
                name = gr.Dropdown(label="or a picture of the folder", elem_id="name", **choice)
            with gr.Column(elem_id="results"):
                message = gr.HTML(visible=False, elem_id="message", padding=False)
                caption = gr.HighlightedText(
                    label="Caption", show_legend=False, show_inline_category=False, elem_id="caption"
                )
                word = gr.Radio(
                    choices=[("all object words", ALL)], value=ALL, label="Show", visible=False, elem_id="word"
                )
                picture = gr.AnnotatedImage(
                    label="Picture with boxes", show_label=False, elem_id="picture", buttons=["fullscreen"]
                )
                sentence = gr.HTML(elem_id="reading", padding=False)
                boxes = gr.HTML(elem_id="boxes", padding=False)
            with gr.Column(elem_id="adjust"):
                kind = gr.Radio(choices=kinds, value=ground_by, label="Attention", visible=has_beta, elem_id="kind")
                beams = gr.Slider(1, MOST_BEAMS, value=beam_size, step=1, label="Beam size", elem_id="beams")
        views = [picture, sentence, boxes]
        everything = [kept, message, caption, word, *views]
        asked, shown = [file, name, kind, beams], [kept, kind, word]
        private = {"api_visibility": "private"}
        model = {**private, "concurrency_limit": 1, "concurrency_id": "model"}
        # A picture replaces the other kind of choice; its own change then asks for the caption.
        file.upload(lambda: None, None, name, **private).then(show, asked, everything, **model)
        file.clear(show, asked, everything, **model)
        name.input(lambda: None, None, file, **private).then(show, asked, everything, **model)
        beams.change(show, asked, everything, trigger_mode="always_last", **model)
        kind.input(look, shown, views, **private)
        word.input(look, shown, views, **private)
        caption.select(choose, kept, word, **private).then(look, shown, views, **private)
    return page.queue(max_size=MOST_WAITING)


def launch(page: Any, port: int) -> str:
    """Serve the page on this machine only, in threads; returns its address.

    Raises:
        UserError: the port is in use.
    """
    gr = require("gradio", "app", "`xmodaler app`")
    theme = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    try:
        _, address, _ = page.launch(
            server_name=HOST, server_port=port, share=False, inbrowser=False, quiet=True, prevent_thread_lock=True,
            max_file_size=MOST_BYTES, footer_links=[], ssr_mode=False, pwa=False, mcp_server=False,
            enable_monitoring=False, show_error=False, theme=theme, css=CSS,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--port: the port {port} is in use or not allowed; give another one.") from error
    return str(address)
