//! Lists of keys, in their order and in pages.
//!
//! A store lists in its own order, a local disk in none. So a page is found by looking at every key below the prefix's
//! directory and keeping the first so many after where the page begins: memory is bounded by the page, and the work by
//! what is below the directory. With `/` as the delimiter only that one directory is looked at.

use std::collections::BTreeMap;

use chrono::SecondsFormat;
use futures::{StreamExt, TryStreamExt};
use http::StatusCode;
use object_store::ObjectMeta;
use object_store::path::Path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::objects::quoted;
use super::{Answer, NAMESPACE, Request, S3, S3Error};
use crate::xml::Xml;

/// The most keys of a page, as on S3.
const KEYS_MAX: usize = 1_000;
/// Notes of one page that are read at the same time.
const NOTES_IN_FLIGHT: usize = 16;
/// What stays as it is in a key with `encoding-type=url`.
const URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'*');

/// What is listed: a key, or a beginning that several have.
#[derive(Debug)]
enum Entry {
    Object(Box<ObjectMeta>),
    Common,
}

impl Entry {
    fn meta(&self) -> Option<&ObjectMeta> {
        match self {
            Self::Object(meta) => Some(meta),
            Self::Common => None,
        }
    }
}

/// What a list asks for.
struct Asked<'a> {
    prefix: &'a str,
    delimiter: Option<&'a str>,
    /// Only what comes after.
    after: String,
    max: usize,
    encoded: bool,
}

/// The first entries after a place, and whether there are more.
struct Page {
    entries: BTreeMap<String, Entry>,
    max: usize,
    more: bool,
}

impl Page {
    fn add(&mut self, name: String, entry: Entry) {
        self.entries.insert(name, entry);
        if self.entries.len() > self.max {
            self.entries.pop_last();
            self.more = true;
        }
    }
}

impl S3 {
    pub(super) async fn list_objects(&self, request: &Request) -> Answer {
        let second = request.parameter("list-type") == Some("2");
        let asked = asked(request, second)?;
        self.check_bucket(&request.bucket).await?;
        let page = self.page(&request.bucket, &asked).await?;
        let etags = page.entries.values().map(|entry| self.etag(entry.meta().cloned())).collect::<Vec<_>>();
        let notes: Vec<Option<String>> = futures::stream::iter(etags).buffered(NOTES_IN_FLIGHT).collect().await;
        let last = page.entries.last_key_value().map(|(name, _)| name.clone()).filter(|_| page.more);
        let name =
            |name: &str| if asked.encoded { utf8_percent_encode(name, URL).to_string() } else { name.to_owned() };
        let xml = Xml::new().root("ListBucketResult", NAMESPACE, |xml| {
            xml.text("Name", &request.bucket);
            xml.text("Prefix", name(asked.prefix));
            xml.optional("Delimiter", asked.delimiter.map(name));
            xml.text("MaxKeys", asked.max);
            xml.optional("EncodingType", asked.encoded.then_some("url"));
            xml.text("IsTruncated", page.more);
            if second {
                xml.text("KeyCount", page.entries.len());
                xml.optional("ContinuationToken", request.parameter("continuation-token"));
                xml.optional("StartAfter", request.parameter("start-after").map(name));
                xml.optional("NextContinuationToken", last.as_deref().map(token));
            } else {
                xml.text("Marker", name(&asked.after));
                xml.optional("NextMarker", last.as_deref().map(name));
            }
            for ((key, entry), etag) in page.entries.iter().zip(&notes) {
                if let (Entry::Object(meta), Some(etag)) = (entry, etag) {
                    xml.element("Contents", |xml| {
                        xml.text("Key", name(key));
                        xml.text("LastModified", meta.last_modified.to_rfc3339_opts(SecondsFormat::Millis, true));
                        xml.text("ETag", quoted(etag));
                        xml.text("Size", meta.size);
                        xml.text("StorageClass", "STANDARD");
                    });
                }
            }
            for (prefix, entry) in &page.entries {
                if matches!(entry, Entry::Common) {
                    xml.element("CommonPrefixes", |xml| xml.text("Prefix", name(prefix)));
                }
            }
        });
        Ok(xml.respond(StatusCode::OK))
    }

    async fn etag(&self, meta: Option<ObjectMeta>) -> Option<String> {
        Some(self.note(&meta?).await.etag)
    }

    async fn page(&self, bucket: &str, asked: &Asked<'_>) -> Result<Page, S3Error> {
        let mut page = Page { entries: BTreeMap::new(), max: asked.max, more: false };
        let root = self.places.bucket(bucket)?;
        let Ok(directory) = self.places.directory(bucket, asked.prefix) else {
            // No key has such a beginning.
            return Ok(page);
        };
        if asked.max == 0 {
            return Ok(page);
        }
        if asked.delimiter == Some("/") {
            self.one_directory(&root, &directory, asked, &mut page).await?;
        } else {
            let mut found = self.documents.store().list(Some(&directory));
            while let Some(meta) = found.try_next().await? {
                self.add(&root, meta, asked, &mut page);
            }
        }
        Ok(page)
    }

    /// Adds an object, or the beginning up to the delimiter that it shares with others.
    fn add(&self, root: &Path, meta: ObjectMeta, asked: &Asked<'_>, page: &mut Page) {
        let Some(key) = self.places.key_of(root, &meta.location).filter(|key| key.starts_with(asked.prefix)) else {
            return;
        };
        let rest = &key[asked.prefix.len()..];
        let common = asked.delimiter.and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()));
        match common {
            Some(end) => {
                let common = key[..asked.prefix.len() + end].to_owned();
                if common.as_str() > asked.after.as_str() {
                    page.add(common, Entry::Common);
                }
            }
            None if key.as_str() > asked.after.as_str() => page.add(key, Entry::Object(Box::new(meta))),
            None => {}
        }
    }

    async fn one_directory(
        &self,
        root: &Path,
        directory: &Path,
        asked: &Asked<'_>,
        page: &mut Page,
    ) -> Result<(), S3Error> {
        let found = self.documents.store().list_with_delimiter(Some(directory)).await?;
        for meta in found.objects {
            self.add(root, meta, asked, page);
        }
        for path in found.common_prefixes {
            let Some(key) = self.places.key_of(root, &path) else { continue };
            let common = format!("{key}/");
            if !common.starts_with(asked.prefix) || common <= asked.after {
                continue;
            }
            // A local disk keeps directories that nothing is in any more.
            if self.documents.store().list(Some(&path)).next().await.transpose()?.is_some() {
                page.add(common, Entry::Common);
            }
        }
        Ok(())
    }
}

fn asked(request: &Request, second: bool) -> Result<Asked<'_>, S3Error> {
    let max = match request.parameter("max-keys") {
        None | Some("") => KEYS_MAX,
        Some(text) => {
            let max: usize = text
                .parse()
                .map_err(|_| S3Error::argument("Provided max-keys not an integer or within integer range"))?;
            max.min(KEYS_MAX)
        }
    };
    let after = if second {
        match request.parameter("continuation-token") {
            Some(token) => {
                of_token(token).ok_or_else(|| S3Error::argument("The continuation token provided is incorrect"))?
            }
            None => request.parameter("start-after").unwrap_or_default().to_owned(),
        }
    } else {
        request.parameter("marker").unwrap_or_default().to_owned()
    };
    Ok(Asked {
        prefix: request.parameter("prefix").unwrap_or_default(),
        delimiter: request.parameter("delimiter").filter(|delimiter| !delimiter.is_empty()),
        after,
        max,
        encoded: request.parameter("encoding-type") == Some("url"),
    })
}

/// Where a page ended, as a text that no client takes for a key.
fn token(name: &str) -> String {
    super::payload::hex(name.as_bytes())
}

fn of_token(token: &str) -> Option<String> {
    let digit = |at: usize| token.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..token.len()).step_by(2).map(digit).collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        for name in ["", "a/b", "é \u{1}"] {
            assert_eq!(of_token(&token(name)).as_deref(), Some(name));
        }
        assert!(of_token("abc").is_none() && of_token("zz").is_none() && of_token("ff").is_none());
    }

    #[test]
    fn a_page_keeps_the_first_names_whatever_the_order() {
        let mut page = Page { entries: BTreeMap::new(), max: 2, more: false };
        for name in ["c", "a", "a", "d", "b"] {
            page.add(name.to_owned(), Entry::Common);
        }
        assert_eq!(page.entries.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(page.more);
    }
}
