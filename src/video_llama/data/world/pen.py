"""Plain shapes in units that do not depend on the size of the picture."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from video_llama.data.world.things import COLOURS

RGB = tuple[int, int, int]
Point = tuple[float, float]

MARGIN = 5  # units free on each side, for the outline


class Pen:
    """Draws on a square of 100 x 100 units in a body colour and neutrals that go with it."""

    def __init__(self, colour: str, pixels: int) -> None:
        body = COLOURS[colour]
        black = colour == "black"
        self.body = body
        # Darkened more, yellow and orange would be olive and brown.
        darken = 0.13 if colour in ("yellow", "orange") else 0.24
        self.shade: RGB = mix(body, (0, 0, 0), darken) if not black else (58, 58, 62)
        self.dark: RGB = (44, 44, 48) if not black else (92, 92, 98)
        self.light: RGB = (238, 238, 238) if colour != "white" else (190, 190, 194)
        self.line: RGB = (36, 36, 40) if not black else (196, 196, 200)  # inner lines, eyes
        self.pale: RGB = (214, 220, 226)
        self.image = Image.new("RGBA", (pixels, pixels), (*body, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._unit = pixels / (100 + 2 * MARGIN)

    def _at(self, x: float, y: float) -> Point:
        return (x + MARGIN) * self._unit, (y + MARGIN) * self._unit

    def oval(
        self, x: float, y: float, rx: float, ry: float | None = None, fill: RGB | None = None
    ) -> None:
        """An ellipse by centre and radii; a circle without `ry`."""
        ry = rx if ry is None else ry
        box = [self._at(x - rx, y - ry), self._at(x + rx, y + ry)]
        self._draw.ellipse(box, fill=fill or self.body)

    def shape(self, points: Sequence[Point], fill: RGB | None = None) -> None:
        """A filled polygon."""
        self._draw.polygon([self._at(*point) for point in points], fill=fill or self.body)

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: RGB | None = None,
        round_by: float = 0,
    ) -> None:
        """A rectangle by its corners, with corners rounded by `round_by`."""
        box = [self._at(x0, y0), self._at(x1, y1)]
        self._draw.rounded_rectangle(box, round_by * self._unit, fill=fill or self.body)

    def stroke(self, points: Sequence[Point], width: float, fill: RGB | None = None) -> None:
        """A line through points, with round joints and ends."""
        at = [self._at(*point) for point in points]
        self._draw.line(
            at, fill=fill or self.body, width=max(1, round(width * self._unit)), joint="curve"
        )
        for x, y in (points[0], points[-1]):
            self.oval(x, y, width / 2, fill=fill)

    def arc(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        start: float,
        end: float,
        width: float,
        fill: RGB,
    ) -> None:
        """A piece of an ellipse's line; angles in degrees, clockwise from the right."""
        box = [self._at(x - rx, y - ry), self._at(x + rx, y + ry)]
        self._draw.arc(box, start, end, fill=fill, width=max(1, round(width * self._unit)))


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """The colour a `share` of the way from `a` to `b`."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue
