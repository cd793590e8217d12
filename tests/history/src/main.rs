//! `granary-history check FILE`: says in plain words whether a recorded history keeps every promise.
//!
//! Ends with 0 when it does, 1 when it does not, 2 when the file cannot be read or was recorded wrongly.

use std::fs::File;
use std::io::{BufReader, Write};
use std::process::ExitCode;

use granary_history::{History, Promises, check, format};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (file, promises) = match arguments.as_slice() {
        ["check", file] => (*file, Promises::default()),
        ["check", "--monotonic-reads", file] => (*file, Promises { monotonic_reads: true }),
        _ => return tell(2, "usage: granary-history check [--monotonic-reads] FILE"),
    };
    let history = match read(file) {
        Ok(history) => history,
        Err(error) => return tell(2, &format!("{file}: {error}")),
    };
    let granary_history::Header { harness, seed, build } = &history.header;
    let run = format!("{} events of {harness}, seed {seed}, build {build}", history.events.len());
    match check(&history, promises) {
        Ok(report) => tell(u8::from(!report.holds()), &format!("{run}\n{report}")),
        Err(malformed) => tell(2, &format!("{file}: {malformed}")),
    }
}

fn read(file: &str) -> Result<History, format::Error> {
    format::read(BufReader::new(File::open(file)?))
}

fn tell(code: u8, text: &str) -> ExitCode {
    // A reader that went away does not change the verdict.
    drop(writeln!(std::io::stdout(), "{text}"));
    ExitCode::from(code)
}
