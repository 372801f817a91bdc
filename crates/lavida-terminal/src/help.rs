//! The end of `--help`: exit codes, variables, examples.
//!
//! clap wraps at the terminal's width and knows neither a hanging indent nor a shell's continued line, so each line is kept
//! below the terminal's columns here, and below 80.

use lavida_store::EXIT_CODES;

use crate::screen;

/// Columns that most terminals have.
const COLUMNS: usize = 79;
/// What a line of examples begins with, and one that goes on with the command above.
const INDENT: &str = "  ";
const CONTINUED: &str = "      ";

fn columns() -> usize {
    let widths = [screen::output_width().unwrap_or(COLUMNS), screen::width()];
    widths.into_iter().fold(COLUMNS, usize::min)
}

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
    format!(
        "Examples:\n{}",
        examples_within(lines, columns()).trim_end()
    )
}

/// The lines with their indent. A command or comment with a line of more columns is broken anew, so that a shell still takes it.
fn examples_within(lines: &str, columns: usize) -> String {
    let mut text = String::new();
    let joined = lines.replace("\\\n", "\\\r"); // a command and the lines that go on with it
    for command in joined.lines() {
        let as_it_is = command.replace("\\\r", "\\\n");
        let widest = as_it_is.lines().map(|line| line.chars().count()).max();
        if INDENT.len() + widest.unwrap_or(0) <= columns {
            for line in as_it_is.lines() {
                text += &format!("{INDENT}{line}\n");
            }
        } else if let Some(comment) = command.strip_prefix("# ") {
            text += &broken(
                &comment.split(' ').collect::<Vec<_>>(),
                columns,
                ["  # ", "  # "],
                "",
            );
        } else {
            let command = command.replace("\\\r", " ");
            text += &broken(&words(&command), columns, [INDENT, CONTINUED], " \\");
        }
    }
    text
}

/// The words of a command, quoted ones whole.
fn words(command: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let at_gaps = command.split(|c: char| {
        is_quoted ^= c == '"' || c == '\'';
        c == ' ' && !is_quoted
    });
    at_gaps.filter(|word| !word.is_empty()).collect()
}

/// Words in as many lines as they need. `begins` are the first line's beginning and that of the others, `ends` the end of all
/// but the last. A word longer than a line has one to itself.
fn broken(words: &[&str], columns: usize, begins: [&str; 2], ends: &str) -> String {
    let [first, other] = begins;
    let mut text = String::new();
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in words {
        let wanted = line.chars().count() + 1 + word.chars().count() + ends.len();
        if !is_empty && wanted > columns {
            text += &format!("{line}{ends}\n");
            line = other.to_owned();
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    text + &line + "\n"
}

/// Names with their meanings beside them, wrapped.
fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let widest = rows.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
    let (indent, columns) = (2 + widest + 2, columns());
    let mut text = String::new();
    for (name, meaning) in rows {
        text += &format!("  {name:<widest$}  ");
        let mut column = indent;
        for (i, word) in meaning.split_whitespace().enumerate() {
            if i > 0 && column + 1 + word.len() > columns {
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

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLES: &str = "\
# Everything at work, on nothing: a world is rendered first
lavida demo
lavida predict --checkpoint runs/first --video street.mp4 \\
    --categories \"person on the grass, bicycle\" --out scores
lavida eval --data shards/ped2 --json > ped2.json";

    #[test]
    fn lines_that_fit_stay_as_they_are() {
        let shown = examples_within(EXAMPLES, 79);
        let lines: Vec<&str> = shown.lines().map(|line| &line[2..]).collect();
        assert_eq!(lines, EXAMPLES.lines().collect::<Vec<_>>());
    }

    #[test]
    fn a_narrow_terminal_gets_commands_that_a_shell_still_takes() {
        for columns in [20, 33, 40, 60] {
            let shown = examples_within(EXAMPLES, columns);
            for line in shown.lines() {
                let is_one_word = words(line.trim_end_matches(" \\")).len() == 1;
                let is_narrow = line.chars().count() <= columns;
                assert!(is_narrow || is_one_word, "{columns}: {line}");
            }
            let commands = |text: &str| -> Vec<String> {
                let joined = text.replace("\\\n", " ");
                let lines = joined
                    .lines()
                    .map(str::trim)
                    .filter(|line| !line.starts_with('#'));
                lines.map(|line| words(line).join(" ")).collect()
            };
            assert_eq!(commands(&shown), commands(EXAMPLES), "{columns}");
        }
    }
}
