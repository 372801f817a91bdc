//! A [`Drawing`] as SVG text.
//!
//! Every colour stands twice: its light value as an attribute, which every viewer reads, and its dark value in a style that
//! browsers apply when the reader prefers dark.

use std::fmt::Write as _;

use crate::canvas::Rgb;
use crate::drawing::{Anchor, Drawing, Paint, Shape};

/// The whole document.
pub(crate) fn document(drawing: &Drawing) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', Ubuntu, 'Helvetica Neue', Arial, sans-serif\">\n",
        w = number(drawing.width),
        h = number(drawing.height)
    );
    let _ = writeln!(svg, "<title>{}</title>", escape(&drawing.description));
    let _ = writeln!(svg, "<style>{}</style>", dark_style());
    for shape in &drawing.shapes {
        push_shape(&mut svg, shape);
    }
    svg.push_str("</svg>\n");
    svg
}

/// `&`, `<`, `>` and quotes as entities.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// `#rrggbb`
pub(crate) fn hex(color: Rgb) -> String {
    format!("#{:02x}{:02x}{:02x}", color[0], color[1], color[2])
}

/// At most two decimals, without trailing zeros: the same text on every machine.
pub(crate) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".into()
    } else {
        text.into()
    }
}

fn dark_style() -> String {
    let mut style = String::from("@media (prefers-color-scheme: dark) {");
    for paint in Paint::all() {
        let (class, color) = (paint.class(), hex(paint.dark()));
        let _ = write!(
            style,
            ".f-{class}{{fill:{color}}}.s-{class}{{stroke:{color}}}"
        );
    }
    style.push('}');
    style
}

fn push_shape(svg: &mut String, shape: &Shape) {
    let _ = match shape {
        Shape::Line {
            points,
            paint,
            width,
            opacity,
            dash,
        } => {
            let dash = dash.map_or(String::new(), |dash| {
                format!(" stroke-dasharray=\"{} {}\"", number(dash), number(dash))
            });
            let opacity = attribute("stroke-opacity", *opacity);
            writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" class=\"s-{}\" stroke=\"{}\" stroke-width=\"{}\" \
                 stroke-linejoin=\"round\" stroke-linecap=\"round\"{opacity}{dash}/>",
                join_points(points),
                paint.class(),
                hex(paint.light()),
                number(*width)
            )
        }
        Shape::Polygon {
            points,
            paint,
            opacity,
        } => writeln!(
            svg,
            "<polygon points=\"{}\" class=\"f-{}\" fill=\"{}\"{}/>",
            join_points(points),
            paint.class(),
            hex(paint.light()),
            attribute("fill-opacity", *opacity)
        ),
        Shape::Rect {
            x,
            y,
            width,
            height,
            radius,
            fill,
            stroke,
        } => {
            let mut classes = Vec::new();
            let mut paints = String::new();
            match fill {
                Some((paint, opacity)) => {
                    classes.push(format!("f-{}", paint.class()));
                    let _ = write!(
                        paints,
                        " fill=\"{}\"{}",
                        hex(paint.light()),
                        attribute("fill-opacity", *opacity)
                    );
                }
                None => paints.push_str(" fill=\"none\""),
            }
            if let Some((paint, thickness)) = stroke {
                classes.push(format!("s-{}", paint.class()));
                let _ = write!(
                    paints,
                    " stroke=\"{}\" stroke-width=\"{}\"",
                    hex(paint.light()),
                    number(*thickness)
                );
            }
            let radius = if *radius > 0.0 {
                format!(" rx=\"{}\"", number(*radius))
            } else {
                String::new()
            };
            writeln!(
                svg,
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"{radius} class=\"{}\"{paints}/>",
                number(*x),
                number(*y),
                number(*width),
                number(*height),
                classes.join(" ")
            )
        }
        Shape::Text {
            x,
            y,
            text,
            size,
            paint,
            anchor,
            bold,
        } => {
            let anchor = match anchor {
                Anchor::Start => "",
                Anchor::Middle => " text-anchor=\"middle\"",
                Anchor::End => " text-anchor=\"end\"",
            };
            let weight = if *bold { " font-weight=\"600\"" } else { "" };
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" font-size=\"{}\" class=\"f-{}\" fill=\"{}\"{anchor}{weight}>{}</text>",
                number(*x),
                number(*y),
                number(*size),
                paint.class(),
                hex(paint.light()),
                escape(text)
            )
        }
    };
}

fn attribute(name: &str, opacity: f64) -> String {
    if opacity >= 1.0 {
        String::new()
    } else {
        format!(" {name}=\"{}\"", number(opacity))
    }
}

fn join_points(points: &[(f64, f64)]) -> String {
    let points: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{},{}", number(*x), number(*y)))
        .collect();
    points.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::Paint;

    #[test]
    fn text_is_escaped() {
        let mut drawing = Drawing::new(40.0, 20.0, "a < b & c");
        drawing.text((1.0, 2.0), "\"<SEG>\"", 10.0, Paint::Ink, Anchor::Start);
        let svg = drawing.svg();
        assert!(svg.contains("<title>a &lt; b &amp; c</title>"));
        assert!(svg.contains("&quot;&lt;SEG&gt;&quot;"));
    }

    #[test]
    fn numbers_are_short_and_never_minus_zero() {
        let shown: Vec<String> = [1.0, 0.5, -0.001, 12.346, 100.0].map(number).into();
        assert_eq!(shown, ["1", "0.5", "0", "12.35", "100"]);
    }

    #[test]
    fn every_paint_of_a_drawing_has_a_dark_rule() {
        let style = dark_style();
        for paint in Paint::all() {
            assert!(
                style.contains(&format!(".f-{}{{", paint.class())),
                "{paint:?}"
            );
        }
    }

    #[test]
    fn a_small_drawing_as_svg() {
        let mut drawing = Drawing::new(100.0, 50.0, "a line under a box");
        drawing.shapes.push(Shape::Rect {
            x: 10.0,
            y: 5.0,
            width: 30.0,
            height: 20.25,
            radius: 4.0,
            fill: Some((Paint::Panel, 1.0)),
            stroke: Some((Paint::Grid, 1.5)),
        });
        drawing.line(vec![(0.0, 40.0), (99.5, 41.125)], Paint::Series(1), 2.0);
        drawing.text((50.0, 20.0), "box", 12.0, Paint::Ink, Anchor::Middle);
        let svg = drawing.svg();
        let body: Vec<&str> = svg
            .lines()
            .filter(|line| !line.starts_with("<style>"))
            .collect();
        insta::assert_snapshot!(body.join("\n"));
    }
}
