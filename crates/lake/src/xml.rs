//! The XML of S3, STS and IAM: written by hand, read into a small tree.

use std::fmt::Write;

use axum::body::Body;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use quick_xml::Reader;
use quick_xml::events::Event;

/// How deep elements may be in each other.
const DEPTH_MAX: usize = 16;
/// The longest document that is read, in bytes: 10,000 parts of an upload, with a checksum each, are some 3 MB.
const BYTES_MAX: usize = 8 << 20;
/// The most elements of one, each of which takes some hundred bytes however short it is: 10,000 parts with their number,
/// ETag and up to seven checksums.
const ELEMENTS_MAX: usize = 100_000;

/// A document that is being written.
#[derive(Debug)]
pub(crate) struct Xml(String);

impl Xml {
    pub(crate) fn new() -> Self {
        Self("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned())
    }

    /// `<name xmlns="…">` what `inside` writes `</name>`.
    #[must_use]
    pub(crate) fn root(mut self, name: &str, namespace: &str, inside: impl FnOnce(&mut Self)) -> Self {
        self.push(format_args!("<{name} xmlns=\"{namespace}\">"));
        inside(&mut self);
        self.push(format_args!("</{name}>"));
        self
    }

    /// An element with others in it.
    pub(crate) fn element(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.push(format_args!("<{name}>"));
        inside(self);
        self.push(format_args!("</{name}>"));
    }

    /// An element with text in it.
    pub(crate) fn text(&mut self, name: &str, text: impl std::fmt::Display) {
        self.push(format_args!("<{name}>"));
        self.escaped(&text.to_string());
        self.push(format_args!("</{name}>"));
    }

    /// A document of nothing but text.
    pub(crate) fn text_with_namespace(&mut self, name: &str, namespace: &str, text: &str) {
        self.push(format_args!("<{name} xmlns=\"{namespace}\">"));
        self.escaped(text);
        self.push(format_args!("</{name}>"));
    }

    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                // Readers would make others of them; what XML has no way to write becomes a question mark.
                '\t' | '\n' | '\r' => self.push(format_args!("&#{};", u32::from(c))),
                c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => self.0.push('?'),
                c => self.0.push(c),
            }
        }
    }

    pub(crate) fn optional(&mut self, name: &str, text: Option<impl std::fmt::Display>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.0.write_fmt(arguments).expect("writing to a string does not fail");
    }

    /// The document as an answer.
    pub(crate) fn respond(self, status: StatusCode) -> Response<Body> {
        let mut response = Response::new(Body::from(self.0));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        response
    }
}

/// An element of a document that was read. Names are without prefixes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) children: Vec<Self>,
}

impl Element {
    /// Reads a document; `None` when it is none, or larger than any that is asked for.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > BYTES_MAX {
            return None;
        }
        let mut elements = 0;
        let mut reader = Reader::from_reader(bytes);
        let mut open = vec![Self::default()];
        loop {
            let event = reader.read_event().ok()?;
            if matches!(event, Event::Start(_) | Event::Empty(_)) {
                elements += 1;
            }
            if elements > ELEMENTS_MAX {
                return None;
            }
            match event {
                Event::Start(start) if open.len() <= DEPTH_MAX => open.push(Self::named(start.local_name().as_ref())?),
                Event::Start(_) => return None,
                Event::Empty(empty) => open.last_mut()?.children.push(Self::named(empty.local_name().as_ref())?),
                Event::End(_) => {
                    let closed = open.pop()?;
                    open.last_mut()?.children.push(closed);
                }
                Event::Text(text) => open.last_mut()?.text.push_str(&text.decode().ok()?),
                Event::CData(text) => open.last_mut()?.text.push_str(&text.decode().ok()?),
                Event::GeneralRef(reference) => {
                    let text = &mut open.last_mut()?.text;
                    match reference.resolve_char_ref().ok()? {
                        Some(c) => text.push(c),
                        None => text.push_str(quick_xml::escape::resolve_predefined_entity(&reference.decode().ok()?)?),
                    }
                }
                Event::Eof => break,
                _ => {}
            }
        }
        let [document] = open.as_mut_slice() else { return None };
        document.children.pop().filter(|_| document.children.is_empty())
    }

    fn named(name: &[u8]) -> Option<Self> {
        Some(Self { name: String::from_utf8(name.to_vec()).ok()?, ..Self::default() })
    }

    pub(crate) fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first child of this name.
    pub(crate) fn child_text(&self, name: &str) -> Option<&str> {
        self.children.iter().find(|child| child.name == name).map(|child| child.text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let text = "a & b <c> \"d\"\r\n\té";
        let xml = Xml::new().root("Root", "urn:x", |xml| {
            xml.element("Inner", |xml| xml.text("Key", text));
            xml.optional("None", None::<&str>);
        });
        let read = Element::parse(xml.0.as_bytes()).expect("a document");
        assert_eq!(read.name, "Root");
        assert_eq!(read.children("Inner").next().and_then(|inner| inner.child_text("Key")), Some(text));
        assert_eq!(read.children("None").count(), 0);
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let of = |children: usize| format!("<a>{}</a>", "<b/>".repeat(children));
        assert!(Element::parse(of(ELEMENTS_MAX - 1).as_bytes()).is_some());
        assert_eq!(Element::parse(of(ELEMENTS_MAX).as_bytes()), None);
        assert_eq!(Element::parse(format!("<a>{}</a>", "x".repeat(BYTES_MAX)).as_bytes()), None);
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let deep = "<a>".repeat(100) + &"</a>".repeat(100);
        for wrong in ["", "text", "<a>", "<a></b>", "<a/><b/>", "<a>&nonsense;</a>", &deep] {
            assert_eq!(Element::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
