//! One HTML file that holds everything: text, tables, vector plots, embedded pictures. No script, nothing fetched from outside.
//!
//! A [`Page`] is sections of [`Block`]s. Every text is escaped (maud does); a piece between backticks becomes code. The page follows
//! the reader's light or dark preference.

mod blocks;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::canvas::Image;
use crate::drawing::Drawing;

use blocks::{block, cards};

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
    /// Rows of text above the pictures: a name and one text a column.
    pub head: Vec<(String, Vec<String>)>,
    /// Row name and one picture a column; `None` leaves a gap.
    pub rows: Vec<(String, Vec<Option<Image>>)>,
}

/// One bar of [`Block::Bars`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bar {
    /// Before the bar.
    pub label: String,
    /// Length of the bar, in [0, 1].
    pub share: f64,
    /// The figure, with its unit.
    pub value: String,
    /// After the figure; may be empty.
    pub note: String,
}

/// What a section is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A smaller headline.
    Heading(String),
    /// Running text.
    Paragraph(String),
    /// Smaller and paler.
    Note(String),
    /// What somebody or something says, such as a prompt.
    Quote(String),
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
    /// Shares of a whole as horizontal bars.
    Bars(Vec<Bar>),
    /// Groups of blocks in framed boxes, two or more in a row when there is room.
    Boxes(Vec<Vec<Block>>),
}

impl Page {
    /// The whole document.
    pub fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    header {
                        h1 { (inline(&self.title)) }
                        @if !self.subtitle.is_empty() { p.lead { (inline(&self.subtitle)) } }
                        (cards(&self.cards))
                    }
                    @if self.sections.len() > 2 {
                        nav {
                            @for section in &self.sections {
                                a href={ "#" (anchor(&section.title)) } { (inline(&section.title)) }
                            }
                        }
                    }
                    main {
                        @for section in &self.sections {
                            section id=(anchor(&section.title)) {
                                h2 { (inline(&section.title)) }
                                @if !section.intro.is_empty() { p.intro { (inline(&section.intro)) } }
                                @for of in &section.blocks { (block(of)) }
                            }
                        }
                    }
                }
            }
        };
        page.into_string()
    }
}

/// Escaped text; pieces between backticks become code.
fn inline(text: &str) -> Markup {
    let pieces: Vec<&str> = text.split('`').collect();
    let n_paired = (pieces.len() - 1) / 2 * 2;
    html! {
        @for (index, piece) in pieces.iter().enumerate() {
            @if index > n_paired {
                "`" (piece)
            } @else if index % 2 == 1 {
                code { (piece) }
            } @else {
                (piece)
            }
        }
    }
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
                head: vec![("frame".into(), vec!["3".into()])],
                rows: vec![("ground truth".into(), vec![None])],
            }),
            Block::Code("lavida demo --out <DIR>".into()),
        ])
        .html();
        insta::assert_snapshot!(body(&html).replace("><", ">\n<"));
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
        assert_eq!(inline("a `b` c").into_string(), "a <code>b</code> c");
        assert_eq!(inline("it`s").into_string(), "it`s");
        assert_eq!(inline("`a` b`c").into_string(), "<code>a</code> b`c");
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
