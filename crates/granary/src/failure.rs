//! What went wrong, as an exit code and as a message for people or programs.

use std::process::ExitCode;

use granary_proto::convert::{kind_code, kind_of_status};
use granary_types::{Error, ErrorKind};
use tonic::{Code, Status};

use crate::config::Mistakes;

/// The exit code of a kind. Part of the contract of the command line; `granary --help` lists them.
pub(crate) fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Internal | ErrorKind::Corrupt => 1,
        ErrorKind::Invalid => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::Unknown => 4,
        ErrorKind::InUse => 5,
        ErrorKind::Forbidden => 6,
        ErrorKind::LimitExceeded => 7,
        ErrorKind::Conflict => 8,
    }
}

/// The error of a call to `endpoint`.
pub(crate) fn of_status(endpoint: &str, status: &Status) -> Error {
    // Tonic reports a refused connection as a transport error: nothing was sent, so nothing is unknown.
    let connect = std::error::Error::source(status).is_some_and(is_connect);
    if connect {
        return Error::new(
            ErrorKind::Unavailable,
            format!("no connection to {endpoint}: start a cluster with `granary dev`, or give --endpoint"),
        );
    }
    let message = match status.code() {
        Code::Unimplemented => format!("{endpoint} does not serve this: {}", status.message()),
        _ => status.message().to_owned(),
    };
    Error::new(kind_of_status(status), message)
}

fn is_connect(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind as Io;
            return matches!(io.kind(), Io::ConnectionRefused | Io::NotFound | Io::HostUnreachable)
                || io.to_string().contains("lookup address");
        }
        next = cause.source();
    }
    false
}

/// What a failure means to the caller: the kind of the first cause that has one.
pub(crate) fn kind_of(failure: &anyhow::Error) -> ErrorKind {
    for cause in failure.chain() {
        if let Some(error) = cause.downcast_ref::<Error>() {
            return error.kind;
        }
        if cause.is::<Mistakes>() {
            return ErrorKind::Invalid;
        }
        if let Some(status) = cause.downcast_ref::<Status>() {
            return kind_of_status(status);
        }
    }
    ErrorKind::Internal
}

/// The failure on one line of text, or as one JSON object.
pub(crate) fn render(failure: &anyhow::Error, json: bool) -> String {
    let message = format!("{failure:#}");
    if json {
        let code = kind_code(kind_of(failure));
        serde_json::json!({ "error": { "kind": code, "message": message } }).to_string()
    } else {
        format!("error: {message}")
    }
}

/// The process's exit code for a failure.
pub(crate) fn exit(failure: &anyhow::Error) -> ExitCode {
    ExitCode::from(exit_code(kind_of(failure)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_exit_code() {
        let codes: Vec<_> = ErrorKind::ALL.into_iter().map(|kind| (kind_code(kind), exit_code(kind))).collect();
        assert_eq!(
            codes,
            [
                ("invalid", 2),
                ("not_found", 3),
                ("in_use", 5),
                ("conflict", 8),
                ("forbidden", 6),
                ("limit_exceeded", 7),
                ("overloaded", 4),
                ("unavailable", 4),
                ("unknown", 4),
                ("corrupt", 1),
                ("internal", 1),
            ]
        );
    }

    #[test]
    fn the_kind_is_found_below_context() {
        let failure = anyhow::Error::new(Error::new(ErrorKind::NotFound, "no such group")).context("describe");
        assert_eq!(kind_of(&failure), ErrorKind::NotFound);
        assert_eq!(kind_of(&Mistakes(vec![]).into()), ErrorKind::Invalid);
        assert_eq!(kind_of(&anyhow::anyhow!("odd")), ErrorKind::Internal);
        let json: serde_json::Value = serde_json::from_str(&render(&failure, true)).expect("JSON");
        assert_eq!(json["error"]["kind"], "not_found");
        assert_eq!(json["error"]["message"], "describe: no such group");
    }
}
