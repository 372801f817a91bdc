//! The end of `--help`: exit codes, variables, examples.
//!
//! clap wraps at the terminal's width and knows no hanging indent, so each line is kept below 80 columns here.

use lavida_store::EXIT_CODES;

/// Columns that every terminal has.
const COLUMNS: usize = 79;

/// The end of a program's help. `variables` are the names and meanings most asked for; all are in `docs/variables.md`.
pub fn of_program(variables: &[(&str, &str)], examples: &str) -> String {
    let codes: Vec<(String, &str)> = EXIT_CODES
        .iter()
        .map(|of| (of.code.to_string(), of.meaning))
        .collect();
    let codes = table(
        codes
            .iter()
            .map(|(code, meaning)| (code.as_str(), *meaning)),
    );
    let variables = table(variables.iter().copied());
    format!(
        "Exit codes:\n{codes}\nEnvironment (all of it: docs/variables.md):\n{variables}\n{}",
        self::examples(examples)
    )
}

/// Examples, one command a line; a line that begins with `#` says what the next is for.
pub fn examples(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
    format!("Examples:\n{}", lines.trim_end())
}

/// Names with their meanings beside them, wrapped.
fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let widest = rows.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
    let indent = 2 + widest + 2;
    let mut text = String::new();
    for (name, meaning) in rows {
        text += &format!("  {name:<widest$}  ");
        let mut column = indent;
        for (i, word) in meaning.split_whitespace().enumerate() {
            if i > 0 && column + 1 + word.len() > COLUMNS {
                text += &format!("\n{:indent$}", "");
                column = indent;
            } else if i > 0 {
                text.push(' ');
                column += 1;
            }
            text += word;
            column += word.len();
        }
        text.push('\n');
    }
    text
}
