//! The bytes of an upload: out of their chunks, and compared with the checksums that came with them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};

use super::{Request, S3Error};

/// An upload that was checked.
#[derive(Debug, Clone)]
pub(super) struct Payload {
    pub(super) bytes: Bytes,
    /// Hexadecimal.
    pub(super) md5: String,
    /// Base64 of the big-endian bytes.
    pub(super) crc32: String,
}

impl Payload {
    pub(super) fn of(bytes: Bytes) -> Self {
        let crc32 = BASE64_STANDARD.encode(crc32fast::hash(&bytes).to_be_bytes());
        Self { md5: hex(&Md5::digest(&bytes)), crc32, bytes }
    }

    /// The body of a request: its chunks put together, its MD5 and CRC-32 verified where they are given.
    ///
    /// # Errors
    /// `BadDigest` for other bytes than were sent; `IncompleteBody` for chunks that do not fit together.
    pub(super) fn read(request: &Request) -> Result<Self, S3Error> {
        let chunked = request.header("content-encoding").is_some_and(|encoding| encoding.contains("aws-chunked"))
            || request.header("x-amz-content-sha256").is_some_and(|hash| hash.starts_with("STREAMING-"));
        let (bytes, trailers) = if chunked {
            let incomplete = || S3Error::new(400, "IncompleteBody", "the body is not in chunks that fit together");
            let (bytes, trailers) = from_chunks(&request.call.body).ok_or_else(incomplete)?;
            let stated = request.header("x-amz-decoded-content-length");
            if stated.is_some_and(|stated| stated.trim().parse() != Ok(bytes.len())) {
                return Err(incomplete());
            }
            (bytes, trailers)
        } else {
            (request.call.body.clone(), Vec::new())
        };
        let payload = Self::of(bytes);
        let trailer = trailers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-amz-checksum-crc32"));
        let crc32 = request.header("x-amz-checksum-crc32").or(trailer.map(|(_, value)| value.as_str()));
        if crc32.is_some_and(|sent| sent.trim() != payload.crc32) {
            return Err(bad_digest("CRC32"));
        }
        let md5 = request.header("content-md5").map(|sent| BASE64_STANDARD.decode(sent.trim()));
        match md5 {
            Some(Ok(sent)) if hex(&sent) != payload.md5 => Err(bad_digest("Content-MD5")),
            Some(Err(_)) => Err(S3Error::new(400, "InvalidDigest", "The Content-MD5 you specified is not valid")),
            _ => Ok(payload),
        }
    }
}

fn bad_digest(what: &str) -> S3Error {
    S3Error::new(400, "BadDigest", format!("The {what} you specified did not match what we received"))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `<hexadecimal length>[;chunk-signature=…]\r\n<bytes>\r\n` over and over, an empty one, then trailing headers.
fn from_chunks(mut body: &[u8]) -> Option<(Bytes, Vec<(String, String)>)> {
    let mut bytes = BytesMut::new();
    loop {
        let head = line(&mut body)?;
        let len = usize::from_str_radix(head.split(';').next()?.trim(), 16).ok()?;
        if len == 0 {
            break;
        }
        let (chunk, rest) = body.split_at_checked(len)?;
        bytes.extend_from_slice(chunk);
        body = rest.strip_prefix(b"\r\n")?;
    }
    let mut trailers = Vec::new();
    while !body.is_empty() {
        let text = line(&mut body)?;
        if let Some((name, value)) = text.split_once(':') {
            trailers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    Some((bytes.freeze(), trailers))
}

fn line<'a>(body: &mut &'a [u8]) -> Option<&'a str> {
    let end = body.windows(2).position(|pair| pair == b"\r\n")?;
    let (line, rest) = body.split_at(end);
    *body = &rest[2..];
    std::str::from_utf8(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together() {
        let body = b"5\r\nhello\r\n6;chunk-signature=ab\r\n world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n";
        let (bytes, trailers) = from_chunks(body).expect("chunks");
        assert_eq!(bytes, "hello world");
        let payload = Payload::of(bytes);
        assert_eq!(trailers, [("x-amz-checksum-crc32".to_owned(), payload.crc32)]);
        assert_eq!(payload.md5, "5eb63bbbe01eeed093cb22bb8f5acdc3");
    }

    #[test]
    fn chunks_that_do_not_fit_are_refused() {
        for wrong in ["", "5\r\nhell", "5\r\nhelloXX0\r\n", "zz\r\n", "ffffffffffffffff\r\nx\r\n", "5\r\nhello\r\n"] {
            assert!(from_chunks(wrong.as_bytes()).is_none(), "{wrong:?}");
        }
    }
}
