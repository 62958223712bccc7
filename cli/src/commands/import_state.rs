//! How far an import came, in a small file beside the imported one, so that `--resume` goes on there.
//!
//! ```text
//! FILE.tidemark-import := one line of JSON:
//!   {"format": 1,
//!    "records": records settled, from the first on,
//!    "bytes": of FILE up to the end of them,
//!    "xxh3": of those bytes, 16 hexadecimal digits,
//!    "import": {NAME: VALUE, …}      what says which cells a record is and where they go
//! ```
//! It is written through a temporary file and a rename, and taken away when the import is complete or begins anew. A
//! state is used only if the part of FILE that it speaks of and everything under `import` are as they were; what follows
//! in FILE may have changed, because correcting a bad record is what one does before `--resume`.

use crate::failure::{Code, Failure, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Of the state; another number is another meaning.
const FORMAT: u64 = 1;
/// Bytes of the file looked at in one go.
const CHUNK_BYTES: usize = 64 << 10;

/// A place between two records of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Records before it.
    pub(crate) records: u64,
    /// Bytes before it.
    pub(crate) bytes: u64,
}

/// What must be the same when the import goes on, by name; names of flags where there is one.
pub(crate) type About = Map<String, Value>;

#[derive(Deserialize)]
struct Format {
    format: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct State {
    format: u64,
    records: u64,
    bytes: u64,
    xxh3: String,
    import: About,
}

/// The notes about one file's import.
pub(crate) struct Notes {
    file: PathBuf,
    about: About,
    prefix: Prefix,
}

/// The sum of the file's beginning. It is opened at each step: an import may have more files than handles.
#[derive(Default)]
struct Prefix {
    bytes: u64,
    sum: Xxh3,
}

impl Prefix {
    /// Takes in the file's bytes up to `end`; gives the byte after it, if there is one.
    fn advance(&mut self, file: &Path, end: u64) -> io::Result<Option<u8>> {
        let mut file = File::open(file)?;
        file.seek(SeekFrom::Start(self.bytes))?;
        let mut chunk = vec![0; CHUNK_BYTES];
        while self.bytes < end {
            let want = usize::try_from(end - self.bytes).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            let read = file.read(&mut chunk[..want])?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.sum.update(&chunk[..read]);
            self.bytes += read as u64;
        }
        let read = file.read(&mut chunk[..1])?;
        Ok((read == 1).then(|| chunk[0]))
    }

    fn hex(&self) -> String {
        format!("{:016x}", self.sum.digest())
    }
}

impl Notes {
    /// For an import from the file's beginning. A state of an earlier one must not outlive that: taken away at once.
    pub(crate) fn begin(file: &Path, about: About) -> Result<Notes> {
        let notes = Notes::new(file, about);
        notes.clear()?;
        Ok(notes)
    }

    /// For an import that goes on where an earlier one of the same kind ended, and that place; the beginning if there is
    /// no state. A state that does not fit is an error that says what differs.
    pub(crate) fn resume(file: &Path, about: About) -> Result<(Notes, Position)> {
        let mut notes = Notes::new(file, about);
        let text = match std::fs::read(state_path(file)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((notes, Position::default())),
            Err(error) => return Err(error.into()),
        };
        let state = notes.parse(&text)?;
        notes.check_about(&state.import)?;
        notes.check_prefix(&state)?;
        let position = Position {
            records: state.records,
            bytes: state.bytes,
        };
        Ok((notes, position))
    }

    fn new(file: &Path, about: About) -> Notes {
        Notes {
            file: file.to_owned(),
            about,
            prefix: Prefix::default(),
        }
    }

    fn parse(&self, text: &[u8]) -> Result<State> {
        let unreadable = |e: serde_json::Error| self.refused(&format!("cannot be read: {e}"));
        let Format { format } = serde_json::from_slice(text).map_err(unreadable)?;
        if format != FORMAT {
            return Err(self.refused(&format!("has format {format}, and this program reads {FORMAT}")));
        }
        serde_json::from_slice(text).map_err(unreadable)
    }

    fn check_about(&self, was: &About) -> Result<()> {
        let mut names: Vec<&String> = was.keys().chain(self.about.keys()).collect();
        names.sort();
        names.dedup();
        let value = |of: &About, name: &str| of.get(name).cloned().unwrap_or(Value::Null);
        let shown = |value: Value| match value {
            Value::Null => "not given".to_owned(),
            value => value.to_string(),
        };
        let different = names.into_iter().filter_map(|name| {
            let (was, is) = (value(was, name), value(&self.about, name));
            (was != is).then(|| format!("{name} was {} and is {}", shown(was), shown(is)))
        });
        let different: Vec<String> = different.collect();
        if different.is_empty() {
            return Ok(());
        }
        Err(self.refused(&format!("belongs to another import: {}", different.join("; "))))
    }

    fn check_prefix(&mut self, state: &State) -> Result<()> {
        let State { records, bytes, .. } = state;
        let imported = format!("{records} records, {bytes} bytes, are imported");
        let next = match self.prefix.advance(&self.file, *bytes) {
            Ok(next) => next,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(self.refused(&format!("does not fit the file: {imported}, and the file is shorter")));
            }
            Err(error) => return Err(error.into()),
        };
        if self.prefix.hex() != state.xxh3 {
            return Err(self.refused(&format!(
                "does not fit the file: {imported}, and they were changed since"
            )));
        }
        self.check_end(*bytes, next)
    }

    /// The file may have ended without a line's end, and the line been written on.
    fn check_end(&self, bytes: u64, next: Option<u8>) -> Result<()> {
        let ends_line = |byte: u8| byte == b'\n' || byte == b'\r';
        if bytes == 0 || next.is_none_or(ends_line) {
            return Ok(());
        }
        let mut last = [0];
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(bytes - 1))?;
        file.read_exact(&mut last)?;
        if ends_line(last[0]) {
            return Ok(());
        }
        Err(self.goes_on())
    }

    /// The error for a file whose last imported record has become longer.
    pub(crate) fn goes_on(&self) -> Failure {
        self.refused("does not fit the file: the last record imported was written on since")
    }

    /// Notes that everything before that place is settled; places only rise.
    pub(crate) fn save(&mut self, position: Position) -> Result<()> {
        self.prefix.advance(&self.file, position.bytes)?;
        let state = State {
            format: FORMAT,
            records: position.records,
            bytes: position.bytes,
            xxh3: self.prefix.hex(),
            import: self.about.clone(),
        };
        let text = serde_json::to_vec(&state).map_err(|e| Failure::new(Code::Refused, e.to_string()))?;
        let draft = beside(&self.file, ".tidemark-import-draft");
        std::fs::write(&draft, text)?;
        std::fs::rename(&draft, state_path(&self.file))?;
        Ok(())
    }

    /// Takes the state away.
    pub(crate) fn clear(&self) -> Result<()> {
        match std::fs::remove_file(state_path(&self.file)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn refused(&self, why: &str) -> Failure {
        let state = state_path(&self.file).display().to_string();
        Failure::new(Code::Refused, format!("{state} {why}")).next(
            "repeat it as it was begun, or leave --resume away: the whole file is imported, and the same records write \
             the same cells",
        )
    }
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn state_path(file: &Path) -> PathBuf {
    beside(file, ".tidemark-import")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "time,v\n1,2\n3,4\nbad,5\n";
    /// After the record `3,4`.
    const TWO: Position = Position { records: 2, bytes: 15 };

    fn about(pairs: &[(&str, &str)]) -> About {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    fn east() -> About {
        about(&[("region", "east"), ("table", "t"), ("family", "m")])
    }

    /// A directory, and a file in it whose first two records are settled.
    fn noted() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.csv");
        std::fs::write(&file, TEXT).unwrap();
        let mut notes = Notes::begin(&file, east()).unwrap();
        notes.save(Position { records: 1, bytes: 11 }).unwrap();
        notes.save(TWO).unwrap();
        (directory, file)
    }

    fn refusal(file: &Path, about: About) -> String {
        Notes::resume(file, about).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn the_format_of_a_state() {
        let (_directory, file) = noted();
        let text = std::fs::read_to_string(state_path(&file)).unwrap();
        let sum = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&TEXT.as_bytes()[..15]));
        let expected = format!(
            "{{\"format\":1,\"records\":2,\"bytes\":15,\"xxh3\":\"{sum}\",\
             \"import\":{{\"family\":\"m\",\"region\":\"east\",\"table\":\"t\"}}}}"
        );
        assert_eq!(text, expected);
        for (other, said) in [
            ("{\"format\":2}", "has format 2"),
            ("{\"table\":\"t\",\"bytes\":22,\"records\":2}", "cannot be read"),
            ("", "cannot be read"),
        ] {
            std::fs::write(state_path(&file), other).unwrap();
            let why = refusal(&file, east());
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn what_follows_may_change_and_grow() {
        let (_directory, file) = noted();
        for rest in ["bad,5\n", "5,5\n", "5,5000\n6,6\n", ""] {
            std::fs::write(&file, format!("time,v\n1,2\n3,4\n{rest}")).unwrap();
            assert_eq!(Notes::resume(&file, east()).unwrap().1, TWO, "{rest:?}");
        }
        let (mut notes, _) = Notes::resume(&file, east()).unwrap();
        notes.save(TWO).unwrap();
        assert_eq!(Notes::resume(&file, east()).unwrap().1, TWO);
    }

    #[test]
    fn what_is_imported_may_not_change() {
        let (_directory, file) = noted();
        for (text, said) in [
            ("time,v\n1,9\n3,4\nbad,5\n", "changed"),
            ("time,w\n1,2\n3,4\n", "changed"),
            ("time,v\n1,2\n", "shorter"),
        ] {
            std::fs::write(&file, text).unwrap();
            let why = refusal(&file, east());
            assert!(why.contains(said) && why.contains("2 records"), "{text:?}: {why}");
        }
    }

    #[test]
    fn a_last_line_without_an_end_may_be_ended_and_not_written_on() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.csv");
        std::fs::write(&file, "time,v\n1,2").unwrap();
        let end = Position { records: 1, bytes: 10 };
        Notes::begin(&file, east()).unwrap().save(end).unwrap();
        for more in ["", "\n", "\r\n3,4\n"] {
            std::fs::write(&file, format!("time,v\n1,2{more}")).unwrap();
            assert_eq!(Notes::resume(&file, east()).unwrap().1, end, "{more:?}");
        }
        std::fs::write(&file, "time,v\n1,25\n").unwrap();
        assert!(refusal(&file, east()).contains("written on"));
    }

    #[test]
    fn every_difference_of_the_import_is_named() {
        let (_directory, file) = noted();
        let why = refusal(&file, about(&[("region", "west"), ("table", "t"), ("row", "r-{id}")]));
        assert!(why.contains("region was \"east\" and is \"west\""), "{why}");
        assert!(why.contains("family was \"m\" and is not given"), "{why}");
        assert!(why.contains("row was not given and is \"r-{id}\""), "{why}");
        assert!(!why.contains("table was"), "{why}");
    }

    #[test]
    fn a_new_import_takes_the_old_state_away_at_once() {
        let (_directory, file) = noted();
        let notes = Notes::begin(&file, east()).unwrap();
        assert_eq!(Notes::resume(&file, east()).unwrap().1, Position::default());
        notes.clear().unwrap();
    }
}
