//! One HTML file that holds everything: text, tables, vector plots, embedded pictures. No script, nothing fetched from outside.
//!
//! A [`Page`] is sections of [`Block`]s. Every text is escaped; a piece between backticks becomes code. The page follows
//! the reader's light or dark preference.

use std::fmt::Write as _;

use base64::Engine as _;

use crate::canvas::Image;
use crate::drawing::{Drawing, escape};

/// A whole page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Browser title and headline.
    pub title: String,
    /// Under the headline.
    pub subtitle: String,
    /// Beside the headline: the few figures to see first.
    pub cards: Vec<Card>,
    /// In order; their titles make the table of contents.
    pub sections: Vec<Section>,
}

/// A headline with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Headline, also in the table of contents.
    pub title: String,
    /// One or two sentences under it; may be empty.
    pub intro: String,
    /// In order.
    pub blocks: Vec<Block>,
}

/// A figure with its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Card {
    /// What it is.
    pub label: String,
    /// The figure, with its unit.
    pub value: String,
    /// Smaller, under the figure; may be empty.
    pub note: String,
}

/// How a chip stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChipKind {
    /// One of many.
    Plain,
    /// True, present, the target: magenta.
    Truth,
    /// Answer of the model: green.
    Prediction,
}

/// Rows under column names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Column names.
    pub head: Vec<String>,
    /// One cell a column.
    pub rows: Vec<Vec<String>>,
    /// Columns set to the right with equally wide digits, by index.
    pub numeric: Vec<usize>,
    /// Whether the last row is a summary of those above.
    pub last_row_is_summary: bool,
}

/// A picture inside the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Embedded as it is.
    pub image: Image,
    /// What it shows, for readers that cannot see it.
    pub description: String,
    /// Under the picture; may be empty.
    pub caption: String,
}

/// Pictures in a grid with row names, for frame | ground truth | prediction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strip {
    /// Column names.
    pub head: Vec<String>,
    /// Row name and one picture a column; `None` leaves a gap.
    pub rows: Vec<(String, Vec<Option<Image>>)>,
}

/// What a section is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A smaller headline.
    Heading(String),
    /// Running text.
    Paragraph(String),
    /// A bullet each.
    List(Vec<String>),
    /// Figures side by side.
    Cards(Vec<Card>),
    /// Small labels in a row, after a name.
    Chips(String, Vec<(String, ChipKind)>),
    /// A table.
    Table(Table),
    /// A vector drawing, as wide as there is room.
    Drawing(Drawing),
    /// A picture, never wider than itself.
    Picture(Picture),
    /// Pictures in a grid.
    Strip(Strip),
    /// Text as it would stand in a terminal.
    Code(String),
    /// Groups of blocks in framed boxes, two or more in a row when there is room.
    Boxes(Vec<Vec<Block>>),
}

impl Page {
    /// The whole document.
    pub fn html(&self) -> String {
        let mut html =
            String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        html.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
        let _ = writeln!(html, "<title>{}</title>", escape(&self.title));
        let _ = writeln!(html, "<style>\n{STYLE}</style>\n</head>\n<body>");
        let _ = writeln!(html, "<header>\n<h1>{}</h1>", inline(&self.title));
        if !self.subtitle.is_empty() {
            let _ = writeln!(html, "<p class=\"lead\">{}</p>", inline(&self.subtitle));
        }
        push_cards(&mut html, &self.cards);
        html.push_str("</header>\n");
        if self.sections.len() > 2 {
            html.push_str("<nav>");
            for section in &self.sections {
                let _ = write!(
                    html,
                    "<a href=\"#{}\">{}</a>",
                    anchor(&section.title),
                    inline(&section.title)
                );
            }
            html.push_str("</nav>\n");
        }
        html.push_str("<main>\n");
        for section in &self.sections {
            let _ = writeln!(
                html,
                "<section id=\"{}\">\n<h2>{}</h2>",
                anchor(&section.title),
                inline(&section.title)
            );
            if !section.intro.is_empty() {
                let _ = writeln!(html, "<p class=\"intro\">{}</p>", inline(&section.intro));
            }
            for block in &section.blocks {
                push_block(&mut html, block);
            }
            html.push_str("</section>\n");
        }
        html.push_str("</main>\n</body>\n</html>\n");
        html
    }
}

fn push_block(html: &mut String, block: &Block) {
    match block {
        Block::Heading(text) => {
            let _ = writeln!(html, "<h3>{}</h3>", inline(text));
        }
        Block::Paragraph(text) => {
            let _ = writeln!(html, "<p>{}</p>", inline(text));
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

fn push_cards(html: &mut String, cards: &[Card]) {
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
    html.push_str("<div class=\"scroll\"><table class=\"strip\">\n<thead><tr><th></th>");
    for name in &strip.head {
        let _ = write!(html, "<th>{}</th>", inline(name));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for (name, images) in &strip.rows {
        let _ = write!(html, "<tr><th>{}</th>", inline(name));
        for (column, image) in images.iter().enumerate() {
            let description = strip
                .head
                .get(column)
                .map_or(name.clone(), |head| format!("{name}, {head}"));
            let tag = image
                .as_ref()
                .map_or(String::new(), |image| image_tag(image, &description));
            let _ = write!(html, "<td>{tag}</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table></div>\n");
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

/// Escaped text; pieces between backticks become code.
fn inline(text: &str) -> String {
    let escaped = escape(text);
    let pieces: Vec<&str> = escaped.split('`').collect();
    if pieces.len() < 3 {
        return escaped;
    }
    let n_paired = (pieces.len() - 1) / 2 * 2;
    let mut html = String::with_capacity(escaped.len() + 32);
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            html.push_str(match (index <= n_paired, index % 2) {
                (true, 1) => "<code>",
                (true, _) => "</code>",
                (false, _) => "`",
            });
        }
        html.push_str(piece);
    }
    html
}

/// A headline as an address inside the page: lowercase letters, digits and hyphens.
fn anchor(title: &str) -> String {
    let words: Vec<String> = title
        .split(|character: char| !character.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

const STYLE: &str = include_str!("report.css");

#[cfg(test)]
mod tests {
    use super::*;

    fn page(blocks: Vec<Block>) -> Page {
        Page {
            title: "A run".into(),
            subtitle: "of `tiny.toml`".into(),
            cards: vec![Card {
                label: "frame AUC".into(),
                value: "0.91".into(),
                note: "3 seeds".into(),
            }],
            sections: vec![Section {
                title: "Scores & more".into(),
                intro: String::new(),
                blocks,
            }],
        }
    }

    fn body(html: &str) -> &str {
        &html[html.find("<body>").unwrap()..]
    }

    #[test]
    fn a_small_page_as_html() {
        let html = page(vec![
            Block::Paragraph("`<SEG>` is where the answer is read".into()),
            Block::Chips(
                "asked for".into(),
                vec![
                    ("red square".into(), ChipKind::Truth),
                    ("fire".into(), ChipKind::Plain),
                ],
            ),
            Block::Table(Table {
                head: vec!["seed".into(), "AUC".into()],
                rows: vec![
                    vec!["1".into(), "0.90".into()],
                    vec!["mean".into(), "0.90".into()],
                ],
                numeric: vec![1],
                last_row_is_summary: true,
            }),
            Block::Strip(Strip {
                head: vec!["frame 3".into()],
                rows: vec![("ground truth".into(), vec![None])],
            }),
            Block::Code("lavida demo --out <DIR>".into()),
        ])
        .html();
        insta::assert_snapshot!(body(&html));
    }

    #[test]
    fn every_text_is_escaped() {
        let nasty = "<script>alert('x')</script> & \"quotes\"".to_string();
        let chips = vec![(nasty.clone(), ChipKind::Plain)];
        let table = Table {
            head: vec![nasty.clone()],
            rows: vec![vec![nasty.clone()]],
            ..Table::default()
        };
        let picture = Picture {
            image: Image::new(2, 2, [0; 3]),
            description: nasty.clone(),
            caption: nasty.clone(),
        };
        let mut page = page(vec![
            Block::Heading(nasty.clone()),
            Block::Paragraph(nasty.clone()),
            Block::List(vec![nasty.clone()]),
            Block::Chips(nasty.clone(), chips),
            Block::Table(table),
            Block::Picture(picture),
            Block::Code(nasty.clone()),
        ]);
        page.title = nasty.clone();
        page.subtitle = nasty;
        let html = page.html();
        assert!(!html.contains("<script") && !html.contains("\"quotes\""));
    }

    #[test]
    fn nothing_is_fetched_from_outside() {
        let picture = Picture {
            image: Image::new(200, 200, [10, 200, 30]),
            description: "flat".into(),
            caption: String::new(),
        };
        let html = page(vec![
            Block::Picture(picture),
            Block::Drawing(Drawing::new(10.0, 10.0, "empty")),
        ])
        .html();
        for fetched in [
            "src=\"http",
            "href=\"http",
            "url(",
            "@import",
            "<script",
            "<link",
        ] {
            assert!(!html.contains(fetched), "{fetched}");
        }
        assert!(html.contains("data:image/jpeg;base64,"));
    }

    #[test]
    fn backticks_pair_up_or_stay() {
        assert_eq!(inline("a `b` c"), "a <code>b</code> c");
        assert_eq!(inline("it`s"), "it`s");
        assert_eq!(inline("`a` b`c"), "<code>a</code> b`c");
    }

    #[test]
    fn the_table_of_contents_leads_to_every_section() {
        let mut page = page(Vec::new());
        for title in ["How it works", "Scores, per video", "Notes"] {
            page.sections.push(Section {
                title: title.into(),
                ..Section::default()
            });
        }
        let html = page.html();
        for section in &page.sections {
            let id = anchor(&section.title);
            assert!(
                html.contains(&format!("href=\"#{id}\"")) && html.contains(&format!("id=\"{id}\""))
            );
        }
    }
}
