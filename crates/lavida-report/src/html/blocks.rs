//! Blocks of a page as HTML text.

use std::fmt::Write as _;

use base64::Engine as _;

use crate::canvas::Image;
use crate::svg::escape;

use super::{Block, Card, ChipKind, Strip, Table, inline};

pub(super) fn push_block(html: &mut String, block: &Block) {
    match block {
        Block::Heading(text) => {
            let _ = writeln!(html, "<h3>{}</h3>", inline(text));
        }
        Block::Paragraph(text) => {
            let _ = writeln!(html, "<p>{}</p>", inline(text));
        }
        Block::Note(text) => {
            let _ = writeln!(html, "<p class=\"note\">{}</p>", inline(text));
        }
        Block::Quote(text) => {
            let _ = writeln!(html, "<blockquote>{}</blockquote>", inline(text));
        }
        Block::List(items) => {
            html.push_str("<ul>\n");
            for item in items {
                let _ = writeln!(html, "<li>{}</li>", inline(item));
            }
            html.push_str("</ul>\n");
        }
        Block::Cards(cards) => push_cards(html, cards),
        Block::Chips(name, chips) => push_chips(html, name, chips),
        Block::Table(table) => push_table(html, table),
        Block::Drawing(drawing) => {
            let _ = writeln!(
                html,
                "<figure class=\"drawing\">\n{}</figure>",
                drawing.svg()
            );
        }
        Block::Picture(picture) => {
            let _ = write!(
                html,
                "<figure>{}",
                image_tag(&picture.image, &picture.description)
            );
            if !picture.caption.is_empty() {
                let _ = write!(
                    html,
                    "<figcaption>{}</figcaption>",
                    inline(&picture.caption)
                );
            }
            html.push_str("</figure>\n");
        }
        Block::Strip(strip) => push_strip(html, strip),
        Block::Code(text) => {
            let _ = writeln!(html, "<pre>{}</pre>", escape(text));
        }
        Block::Bars(bars) => {
            html.push_str("<div class=\"bars\">\n");
            for bar in bars {
                let _ = writeln!(
                    html,
                    "<span>{}</span><span class=\"track\"><i style=\"width:{:.1}%\"></i></span><b>{}</b><span class=\"note\">{}</span>",
                    inline(&bar.label),
                    100.0 * bar.share.clamp(0.0, 1.0),
                    inline(&bar.value),
                    inline(&bar.note)
                );
            }
            html.push_str("</div>\n");
        }
        Block::Boxes(boxes) => {
            html.push_str("<div class=\"boxes\">\n");
            for blocks in boxes {
                html.push_str("<div class=\"box\">\n");
                for block in blocks {
                    push_block(html, block);
                }
                html.push_str("</div>\n");
            }
            html.push_str("</div>\n");
        }
    }
}

pub(super) fn push_cards(html: &mut String, cards: &[Card]) {
    if cards.is_empty() {
        return;
    }
    html.push_str("<div class=\"cards\">\n");
    for card in cards {
        let _ = write!(
            html,
            "<div class=\"card\"><div class=\"label\">{}</div><div class=\"value\">{}</div>",
            inline(&card.label),
            inline(&card.value)
        );
        if !card.note.is_empty() {
            let _ = write!(html, "<div class=\"note\">{}</div>", inline(&card.note));
        }
        html.push_str("</div>\n");
    }
    html.push_str("</div>\n");
}

fn push_chips(html: &mut String, name: &str, chips: &[(String, ChipKind)]) {
    html.push_str("<p class=\"chips\">");
    if !name.is_empty() {
        let _ = write!(html, "<span class=\"name\">{}</span>", inline(name));
    }
    for (text, kind) in chips {
        let class = match kind {
            ChipKind::Plain => "chip",
            ChipKind::Truth => "chip truth",
            ChipKind::Prediction => "chip prediction",
        };
        let _ = write!(html, "<span class=\"{class}\">{}</span>", escape(text));
    }
    html.push_str("</p>\n");
}

fn push_table(html: &mut String, table: &Table) {
    let class = |column: usize| {
        if table.numeric.contains(&column) {
            " class=\"n\""
        } else {
            ""
        }
    };
    html.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    for (column, name) in table.head.iter().enumerate() {
        let _ = write!(html, "<th{}>{}</th>", class(column), inline(name));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for (row_idx, row) in table.rows.iter().enumerate() {
        let is_summary = table.last_row_is_summary && row_idx + 1 == table.rows.len();
        html.push_str(if is_summary {
            "<tr class=\"summary\">"
        } else {
            "<tr>"
        });
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(html, "<td{}>{}</td>", class(column), inline(cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table></div>\n");
}

fn push_strip(html: &mut String, strip: &Strip) {
    let n_columns = strip.rows.iter().map(|row| row.1.len()).max().unwrap_or(0);
    let names = strip
        .head
        .iter()
        .map(|row| &row.0)
        .chain(strip.rows.iter().map(|row| &row.0));
    let is_named = names.into_iter().any(|name| !name.is_empty());
    let class = if is_named { "strip named" } else { "strip" };
    let _ = writeln!(html, "<div class=\"{class}\" style=\"--n:{n_columns}\">");
    let push_name = |html: &mut String, name: &str| {
        if is_named {
            let _ = write!(html, "<span>{}</span>", inline(name));
        }
    };
    for (name, texts) in &strip.head {
        push_name(html, name);
        for column in 0..n_columns {
            let text = texts.get(column).map_or("", String::as_str);
            let _ = write!(html, "<span>{}</span>", inline(text));
        }
        html.push('\n');
    }
    for (name, images) in &strip.rows {
        push_name(html, name);
        for column in 0..n_columns {
            let head = strip.head.first().and_then(|row| row.1.get(column));
            let head = head.map_or("", String::as_str);
            match images.get(column).and_then(Option::as_ref) {
                Some(image) => html.push_str(&image_tag(image, format!("{name} {head}").trim())),
                None => html.push_str("<span></span>"),
            }
        }
        html.push('\n');
    }
    html.push_str("</div>\n");
}

/// Small pictures keep every pixel; JPEG beyond that.
fn image_tag(image: &Image, description: &str) -> String {
    let (kind, bytes) = if image.pixels().len() <= 3 * 4096 {
        ("png", image.png())
    } else {
        ("jpeg", image.jpeg(86))
    };
    format!(
        "<img src=\"data:image/{kind};base64,{}\" width=\"{}\" height=\"{}\" alt=\"{}\">",
        base64::engine::general_purpose::STANDARD.encode(bytes),
        image.width(),
        image.height(),
        escape(description)
    )
}
