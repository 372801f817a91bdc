//! Which files of its folder the demo wrote itself, so that it writes only over those.
//!
//! `demo.sha256`, in the layout of `sha256sum`, has a line for each file that another run of the demo replaces. While one is
//! being replaced it has a line for the old and one for the new.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use lavida_data::{Error, Result};
use lavida_score::exported::{ExportedFile, SUMS};

use crate::{
    export::STAGING,
    output::{sha256, write_file},
};

const RECORD: &str = "demo.sha256";
/// Where the export goes, in the demo's folder.
pub const EXPORT: &str = "export";
/// What else is replaced.
pub const REPORT: [&str; 2] = ["report/index.html", "report/evaluation.json"];

/// What the demo wrote in its folder.
#[derive(Debug)]
pub struct OwnFiles {
    out: PathBuf,
    sums: BTreeMap<String, BTreeSet<String>>,
}

impl OwnFiles {
    /// Reads the record.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when it is there and cannot be read.
    pub fn open(out: &Path) -> Result<Self> {
        let path = out.join(RECORD);
        let text = match lavida_files::read_text(&path, lavida_files::SMALL_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::unreadable(path.display(), error)),
        };
        let mut sums: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (sum, name) in text.lines().filter_map(|line| line.split_once("  ")) {
            sums.entry(name.to_owned())
                .or_default()
                .insert(sum.to_owned());
        }
        Ok(Self {
            out: out.to_owned(),
            sums,
        })
    }

    /// Refuses a folder in which the demo would have to replace what it did not write.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming it.
    pub fn check(&self) -> Result<()> {
        for name in REPORT {
            let is_free = !self.out.join(name).exists();
            if !is_free && !self.is_own(&self.out, name)? {
                return Err(self.refused(name));
            }
        }
        self.check_export()
    }

    /// The export may be replaced when the demo wrote it and nobody changed it since, or when there is none.
    fn check_export(&self) -> Result<()> {
        let folder = self.out.join(EXPORT);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::unreadable(folder.display(), error)),
        };
        let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        // The next export knows what an interrupted one left.
        if names.is_empty() || names.iter().any(|name| name == STAGING) {
            return Ok(());
        }
        if !self.is_own(&self.out, &format!("{EXPORT}/{SUMS}"))? {
            return Err(self.refused(EXPORT));
        }
        for (sum, name) in self.exported()? {
            match ExportedFile::read(&folder, &name) {
                Ok(found) if found.sha256 != sum => {
                    return Err(self.refused(&format!("{EXPORT}/{name}")));
                }
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::unreadable(folder.join(name).display(), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the demo's earlier export away: the files that it wrote, and no other.
    ///
    /// # Errors
    ///
    /// As [`OwnFiles::check`]; [`Error::Unavailable`] when a file cannot be deleted.
    pub fn remove_export(&self) -> Result<()> {
        self.check_export()?;
        let folder = self.out.join(EXPORT);
        if !folder.join(SUMS).exists() {
            return Ok(());
        }
        // The sums last: until then they tell whose the rest is.
        let names = self.exported()?.into_iter().map(|(_, name)| name);
        for name in names.chain([SUMS.to_owned()]) {
            let path = folder.join(name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::unwritable(path.display(), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes a file of the demo.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.begin(name, bytes)?;
        write_file(&self.out.join(name), bytes)?;
        self.end(name, bytes)
    }

    /// Says that `name` is about to be replaced by these bytes.
    pub fn begin(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let sums = self.sums.entry(name.to_owned()).or_default();
        sums.insert(sha256(bytes));
        self.save()
    }

    /// Says that it was.
    pub fn end(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let sums = BTreeSet::from([sha256(bytes)]);
        self.sums.insert(name.to_owned(), sums);
        self.save()
    }

    fn save(&self) -> Result<()> {
        let lines = self.sums.iter();
        let lines =
            lines.flat_map(|(name, sums)| sums.iter().map(move |sum| format!("{sum}  {name}\n")));
        write_file(&self.out.join(RECORD), lines.collect::<String>().as_bytes())
    }

    fn is_own(&self, folder: &Path, name: &str) -> Result<bool> {
        match ExportedFile::read(folder, name) {
            Ok(found) => Ok(self
                .sums
                .get(name)
                .is_some_and(|sums| sums.contains(&found.sha256))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::unreadable(folder.join(name).display(), error)),
        }
    }

    /// Sum and name of each file of the export that is there.
    fn exported(&self) -> Result<Vec<(String, String)>> {
        let path = self.out.join(EXPORT).join(SUMS);
        let text = lavida_files::read_text(&path, lavida_files::SMALL_BYTES)
            .map_err(|e| Error::unreadable(path.display(), e))?;
        let lines = text.lines().filter_map(|line| line.split_once("  "));
        Ok(lines
            .map(|(sum, name)| (sum.to_owned(), name.to_owned()))
            .collect())
    }

    fn refused(&self, name: &str) -> Error {
        Error::invalid(
            self.out.join(name).display(),
            "nothing, or what this demo wrote",
            "something else: move it away, or give another --out",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn exported(out: &Path, text: &str) -> String {
        fs::create_dir_all(out.join(EXPORT)).unwrap();
        fs::write(out.join("export/model.bin"), text).unwrap();
        let sums = format!("{}  model.bin\n", sha256(text.as_bytes()));
        fs::write(out.join("export/SHA256SUMS"), &sums).unwrap();
        sums
    }

    fn check_refused(out: &Path, name: &str) {
        let own = OwnFiles::open(out).unwrap();
        for refused in [own.check(), own.remove_export()] {
            let error = refused.unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn an_export_is_taken_away_only_if_the_demo_wrote_it_and_nobody_changed_it() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        OwnFiles::open(out).unwrap().check().unwrap();
        fs::create_dir(out.join(EXPORT)).unwrap();
        fs::write(out.join("export/mine.txt"), "mine").unwrap();
        check_refused(out, "export");
        // Of `lavida export`, and whole, and still not the demo's.
        let sums = exported(out, "weights");
        check_refused(out, "export");

        let mut own = OwnFiles::open(out).unwrap();
        own.begin("export/SHA256SUMS", sums.as_bytes()).unwrap();
        own.end("export/SHA256SUMS", sums.as_bytes()).unwrap();
        fs::write(out.join("export/model.bin"), "changed").unwrap();
        check_refused(out, "model.bin");
        fs::write(out.join("export/model.bin"), "weights").unwrap();
        let own = OwnFiles::open(out).unwrap();
        own.check().unwrap();
        own.remove_export().unwrap();
        assert!(!out.join("export/model.bin").exists() && !out.join("export/SHA256SUMS").exists());
        assert_eq!(fs::read(out.join("export/mine.txt")).unwrap(), b"mine");
    }

    #[test]
    fn a_report_is_written_over_only_if_the_demo_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        fs::create_dir(out.join("report")).unwrap();
        let mut own = OwnFiles::open(out).unwrap();
        own.write(REPORT[0], b"one").unwrap();
        own.write(REPORT[0], b"two").unwrap();
        OwnFiles::open(out).unwrap().check().unwrap();
        fs::write(out.join(REPORT[0]), "mine").unwrap();
        let error = OwnFiles::open(out).unwrap().check().unwrap_err();
        assert!(error.to_string().contains("index.html"), "{error}");
    }
}
