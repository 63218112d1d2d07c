"""A brush that draws in fractions of its tile, so that a shape is written once and drawn at any size."""

from __future__ import annotations

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

INK: Colour = (48, 44, 54)
SKIN: Colour = (236, 190, 152)
SUPERSAMPLING = 3  # drawn larger by this factor and averaged down, for smooth edges


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor < 1) or lighter (factor > 1: moved that share of the way to white)."""
    if factor <= 1.0:
        return tuple(int(c * factor) for c in colour)  # type: ignore[return-value]
    share = min(factor - 1.0, 1.0)
    return tuple(int(c + (255 - c) * share) for c in colour)  # type: ignore[return-value]


class Brush:
    """Draws on a transparent tile of `width` x `height` output pixels; coordinates are fractions in 0..1.

    x grows to the right and y downwards. Every shape is outlined in ink unless `outline=False`.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width * SUPERSAMPLING, height * SUPERSAMPLING
        self._image = Image.new("RGBA", (self.width, self.height), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._image)
        self.line_width = max(2, round(1.1 * SUPERSAMPLING))

    def _at(self, x: float, y: float) -> Point:
        # The outline is kept inside the tile, so that it is never cut off.
        edge = self.line_width / 2
        return edge + x * (self.width - 1 - 2 * edge), edge + y * (self.height - 1 - 2 * edge)

    def _style(self, fill: Colour, outline: bool) -> dict:
        border = {"outline": (*INK, 255), "width": self.line_width} if outline else {}
        return {"fill": (*fill, 255), **border}

    def polygon(self, points: list[Point], fill: Colour, outline: bool = True) -> None:
        placed = [self._at(x, y) for x, y in points]
        self._draw.polygon(placed, fill=(*fill, 255))
        if outline:
            self._draw.line([*placed, placed[0]], fill=(*INK, 255), width=self.line_width, joint="curve")

    def ellipse(self, x1: float, y1: float, x2: float, y2: float, fill: Colour, outline: bool = True) -> None:
        self._draw.ellipse([self._at(x1, y1), self._at(x2, y2)], **self._style(fill, outline))

    def circle(self, x: float, y: float, radius: float, fill: Colour, outline: bool = True) -> None:
        """A round circle for any shape of the tile; the radius is a fraction of the tile's height."""
        across = radius * self.height / self.width
        self.ellipse(x - across, y - radius, x + across, y + radius, fill, outline)

    def ring(self, x: float, y: float, radius: float, colour: Colour, width: float) -> None:
        """Only a circle's line; radius and width are fractions of the tile's height."""
        across = radius * self.height / self.width
        box = [self._at(x - across, y - radius), self._at(x + across, y + radius)]
        self._draw.ellipse(box, outline=(*colour, 255), width=max(2, round(width * self.height)))

    def rectangle(
        self, x1: float, y1: float, x2: float, y2: float, fill: Colour, outline: bool = True, radius: float = 0.0
    ) -> None:
        """A rectangle with round corners of `radius` (a fraction of the tile's height)."""
        corners = [self._at(x1, y1), self._at(x2, y2)]
        self._draw.rounded_rectangle(corners, radius=radius * self.height, **self._style(fill, outline))

    def line(self, points: list[Point], colour: Colour, width: float) -> None:
        """A thick line; the width is a fraction of the tile's height."""
        thickness = max(2, round(width * self.height))
        self._draw.line([self._at(x, y) for x, y in points], fill=(*colour, 255), width=thickness, joint="curve")

    def limb(self, points: list[Point], colour: Colour, width: float) -> None:
        """A thick line with an inked border and round ends: an arm, a leg, a tail."""
        border = 2 * self.line_width / self.height
        for shade_of, thickness in ((INK, width + border), (colour, width)):
            self.line(points, shade_of, thickness)
            radius = thickness / 2
            for x, y in (points[0], points[-1]):
                self.circle(x, y, radius, shade_of, outline=False)

    def arc_cap(self, x1: float, y1: float, x2: float, y2: float, fill: Colour) -> None:
        """The upper half of an ellipse, closed by a straight line."""
        self._draw.chord([self._at(x1, y1), self._at(x2, y2)], 180, 360, **self._style(fill, True))

    def finish(self, mirror: bool = False) -> Image.Image:
        """The tile at output size, RGBA, optionally mirrored left to right."""
        tile = self._image.reduce(SUPERSAMPLING)
        return tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else tile
