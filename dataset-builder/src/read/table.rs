//! Tables of labels that people write: CSV with a header line, separated by commas, semicolons or tabs.

use std::path::Path;

use lavida_store::{Error, Result};

use crate::read::files::{self, InputDigest};
use crate::read::lenient::{latin1_text, without_mark};

/// A table that has been read.
#[derive(Clone, Debug)]
pub struct LabelTable {
    path: String,
    columns: Vec<String>,
    rows: Vec<Row>,
}

/// One line of a table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its line in the file, from 1.
    pub line: u64,
    cells: Vec<String>,
}

impl LabelTable {
    /// Reads a table whose header names at least `required`; `form` says what it is.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the file cannot be read or a column is missing, [`Error::Corrupt`] when a line has more or
    /// fewer cells than the header, which a cut or damaged file has.
    pub fn read(
        path: &Path,
        required: &[&str],
        form: &str,
        digest: &mut InputDigest,
    ) -> Result<Self> {
        let bytes = files::read_annotations(path).map_err(|error| {
            let found = format!("{} ({error})", files::describe(path));
            Error::invalid(path.display(), form, found)
        })?;
        digest.add(&bytes);
        let text = latin1_text(without_mark(&bytes));
        let head = text.lines().next().unwrap_or_default();
        let separator = [b';', b'\t']
            .into_iter()
            .find(|byte| head.contains(char::from(*byte)));
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(separator.unwrap_or(b','))
            .trim(csv::Trim::All)
            .comment(Some(b'#'))
            .from_reader(text.as_bytes());
        let damaged = |error: csv::Error| Error::corrupt(path.display(), form, error);
        let columns: Vec<String> = reader
            .headers()
            .map_err(damaged)?
            .iter()
            .map(str::to_lowercase)
            .collect();
        if let Some(missing) = required
            .iter()
            .find(|name| !columns.iter().any(|column| column == *name))
        {
            let found = format!("no column `{missing}` in `{head}`");
            return Err(Error::invalid(path.display(), form, found));
        }
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(damaged)?;
            rows.push(Row {
                line: record.position().map_or(0, csv::Position::line),
                cells: record.iter().map(str::to_owned).collect(),
            });
        }
        Ok(Self {
            path: path.display().to_string(),
            columns,
            rows,
        })
    }

    /// Whether it has this column.
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }

    /// Its lines below the header.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What stands in a column of a row; `None` for nothing.
    pub fn cell<'a>(&self, row: &'a Row, column: &str) -> Option<&'a str> {
        let at = self.columns.iter().position(|name| name == column)?;
        row.cells
            .get(at)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// A whole number from 0 in a column of a row; `None` for nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the line for anything else.
    pub fn number(&self, row: &Row, column: &str) -> Result<Option<u32>> {
        let Some(text) = self.cell(row, column) else {
            return Ok(None);
        };
        let whole = text
            .parse::<f64>()
            .ok()
            .filter(|number| number.fract() == 0.0);
        match whole.filter(|number| (0.0..=f64::from(u32::MAX)).contains(number)) {
            Some(number) => Ok(Some(number as u32)),
            None => Err(Error::invalid(
                self.name(row, column),
                "a whole number from 0",
                format!("`{text}`"),
            )),
        }
    }

    /// File, line and column, for errors.
    pub fn name(&self, row: &Row, column: &str) -> String {
        format!("{}: line {}, `{column}`", self.path, row.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &[u8]) -> Result<LabelTable> {
        let file = tempfile::NamedTempFile::new().expect("tempfile");
        std::fs::write(file.path(), text).expect("write");
        LabelTable::read(
            file.path(),
            &["video", "start"],
            "a table",
            &mut InputDigest::default(),
        )
    }

    #[test]
    fn separators_marks_and_quotes_are_taken_as_tables_come() {
        for text in [
            "video,start\n\"a, b\",3\n",
            "\u{feff}Video;Start\na, b;3.0\n",
            "video\tstart\na, b\t 3\n",
        ] {
            let table = table(text.as_bytes()).expect("a table");
            let row = &table.rows()[0];
            assert_eq!(table.cell(row, "video"), Some("a, b"), "{text}");
            assert_eq!(
                table.number(row, "start").expect("a number"),
                Some(3),
                "{text}"
            );
        }
    }

    #[test]
    fn a_missing_column_a_cut_line_and_a_word_for_a_number_are_named() {
        let said = |text: &str| table(text.as_bytes()).expect_err("refused").to_string();
        assert!(said("video,end\na,1\n").contains("no column `start`"));
        assert!(
            said("video,start\na,1\nb").contains("line 3")
                || said("video,start\na,1\nb").contains("line: 3")
        );
        let table = table(b"video,start\na,x\n").expect("a table");
        let error = table
            .number(&table.rows()[0], "start")
            .expect_err("no number");
        assert!(error.to_string().contains("line 2, `start`"), "{error}");
    }
}
