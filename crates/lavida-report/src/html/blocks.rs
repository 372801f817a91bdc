//! Blocks of a page as HTML.

use base64::Engine as _;
use maud::{Markup, PreEscaped, html};

use crate::canvas::Image;

use super::{Block, Card, ChipKind, Strip, Table, inline};

pub(super) fn block(block: &Block) -> Markup {
    match block {
        Block::Heading(text) => html! { h3 { (inline(text)) } },
        Block::Paragraph(text) => html! { p { (inline(text)) } },
        Block::Note(text) => html! { p.note { (inline(text)) } },
        Block::Quote(text) => html! { blockquote { (inline(text)) } },
        Block::List(items) => html! { ul { @for item in items { li { (inline(item)) } } } },
        Block::Cards(of) => cards(of),
        Block::Chips(name, of) => chips(name, of),
        Block::Table(of) => table(of),
        Block::Drawing(drawing) => html! { figure.drawing { (PreEscaped(drawing.svg())) } },
        Block::Picture(picture) => html! {
            figure {
                (image(&picture.image, &picture.description))
                @if !picture.caption.is_empty() { figcaption { (inline(&picture.caption)) } }
            }
        },
        Block::Strip(of) => strip(of),
        Block::Code(text) => html! { pre { (text) } },
        Block::Bars(bars) => html! {
            div.bars {
                @for bar in bars {
                    span { (inline(&bar.label)) }
                    span.track { i style=(width(bar.share)) {} }
                    b { (inline(&bar.value)) }
                    span.note { (inline(&bar.note)) }
                }
            }
        },
        Block::Boxes(boxes) => html! {
            div.boxes {
                @for blocks in boxes {
                    div.box { @for of in blocks { (self::block(of)) } }
                }
            }
        },
    }
}

pub(super) fn cards(cards: &[Card]) -> Markup {
    html! {
        @if !cards.is_empty() {
            div.cards {
                @for card in cards {
                    div.card {
                        div.label { (inline(&card.label)) }
                        div.value { (inline(&card.value)) }
                        @if !card.note.is_empty() { div.note { (inline(&card.note)) } }
                    }
                }
            }
        }
    }
}

fn width(share: f64) -> String {
    format!("width:{:.1}%", 100.0 * share.clamp(0.0, 1.0))
}

fn chips(name: &str, chips: &[(String, ChipKind)]) -> Markup {
    let class = |kind: &ChipKind| match kind {
        ChipKind::Plain => "chip",
        ChipKind::Truth => "chip truth",
        ChipKind::Prediction => "chip prediction",
    };
    html! {
        p.chips {
            @if !name.is_empty() { span.name { (inline(name)) } }
            @for (text, kind) in chips { span class=(class(kind)) { (text) } }
        }
    }
}

fn table(table: &Table) -> Markup {
    let class = |column: usize| table.numeric.contains(&column).then_some("n");
    let is_summary = |row_idx: usize| table.last_row_is_summary && row_idx + 1 == table.rows.len();
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        @for (column, name) in table.head.iter().enumerate() {
                            th class=[class(column)] { (inline(name)) }
                        }
                    }
                }
                tbody {
                    @for (row_idx, row) in table.rows.iter().enumerate() {
                        tr class=[is_summary(row_idx).then_some("summary")] {
                            @for (column, cell) in row.iter().enumerate() {
                                td class=[class(column)] { (inline(cell)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn strip(strip: &Strip) -> Markup {
    let n_columns = strip.rows.iter().map(|row| row.1.len()).max().unwrap_or(0);
    let heads = strip.head.iter().map(|row| &row.0);
    let mut names = heads.chain(strip.rows.iter().map(|row| &row.0));
    let is_named = names.any(|name| !name.is_empty());
    let description = |name: &str, column: usize| {
        let head = strip.head.first().and_then(|row| row.1.get(column));
        let head = head.map_or("", String::as_str);
        format!("{name} {head}").trim().to_owned()
    };
    html! {
        div.strip.named[is_named] style={ "--n:" (n_columns) } {
            @for (name, texts) in &strip.head {
                @if is_named { span { (inline(name)) } }
                @for column in 0..n_columns {
                    span { (inline(texts.get(column).map_or("", String::as_str))) }
                }
            }
            @for (name, images) in &strip.rows {
                @if is_named { span { (inline(name)) } }
                @for column in 0..n_columns {
                    @if let Some(Some(of)) = images.get(column) {
                        (image(of, &description(name, column)))
                    } @else {
                        span {}
                    }
                }
            }
        }
    }
}

/// Small pictures keep every pixel; JPEG beyond that.
fn image(image: &Image, description: &str) -> Markup {
    let (kind, bytes) = if image.pixels().len() <= 3 * 4096 {
        ("png", image.png())
    } else {
        ("jpeg", image.jpeg(86))
    };
    let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
    html! {
        img src={ "data:image/" (kind) ";base64," (encoded) }
            width=(image.width())
            height=(image.height())
            alt=(description);
    }
}
