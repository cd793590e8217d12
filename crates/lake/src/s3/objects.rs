//! Single objects: put, get, head, copy, delete.

use std::collections::BTreeMap;

use axum::body::Body;
use chrono::SecondsFormat;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED,
};
use http::{HeaderMap, Response, StatusCode};
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, ObjectStoreExt, PutMode};

use super::buckets::no_content;
use super::notes::Note;
use super::payload::Payload;
use super::range::{asked, holds};
use super::{Answer, NAMESPACE, Request, S3, S3Error, WRITE_CONDITIONS, check_version, decoded, form};
use crate::place::Uri;
use crate::xml::{Element, Xml};

/// The most keys that one call deletes, as on S3.
const DELETED_MAX: usize = 1_000;
/// What the conditions on a copy's source begin with.
const COPY_SOURCE: &str = "x-amz-copy-source-";
/// The most bytes of a user's metadata, as on S3.
const METADATA_BYTES_MAX: usize = 2_048;

impl S3 {
    pub(super) async fn exists(&self, path: &Path) -> Result<bool, S3Error> {
        match self.documents.store().head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// An object's meta data; a bucket that is not there is told before a key that is not.
    async fn meta(&self, request: &Request, path: &Path) -> Result<ObjectMeta, S3Error> {
        match self.documents.store().head(path).await {
            Err(object_store::Error::NotFound { .. }) => {
                self.check_bucket(&request.bucket).await?;
                Err(S3Error::no_such_key())
            }
            other => Ok(other?),
        }
    }

    pub(super) async fn put_object(&self, request: &Request) -> Answer {
        let path = self.places.object(&request.bucket, &request.key)?;
        let mode = match request.header("if-none-match") {
            None => PutMode::Overwrite,
            Some("*") => PutMode::Create,
            Some(_) => return Err(S3Error::not_implemented("If-None-Match with anything but * on a write")),
        };
        if request.header("if-match").is_some() {
            return Err(S3Error::not_implemented("If-Match on a write"));
        }
        request.check_conditions(&["x-amz-write-offset-bytes"])?;
        let payload = Payload::read(request)?;
        let note = note_of(request, &payload.md5, Some(payload.crc32.clone()))?;
        let _turn = self.writers.turn(&path).await;
        self.check_writable(&path, false).await?;
        let etag = quoted(&payload.md5);
        let put = self.documents.store().put_opts(&path, payload.bytes.into(), mode.into()).await?;
        self.keep_note(&path, note, put.e_tag.as_deref()).await;
        let mut response = Response::new(Body::empty());
        set(response.headers_mut(), ETAG, &etag);
        if request.header("x-amz-sdk-checksum-algorithm").is_some_and(|algorithm| algorithm == "CRC32") {
            set(response.headers_mut(), HeaderName::from_static("x-amz-checksum-crc32"), &payload.crc32);
        }
        Ok(response)
    }

    pub(super) async fn head_object(&self, request: &Request) -> Answer {
        let path = self.places.object(&request.bucket, &request.key)?;
        let meta = self.meta(request, &path).await?;
        let note = self.note(&meta).await;
        if !holds(request, "", &note.etag, meta.last_modified)? {
            return Ok(not_modified(&note));
        }
        let mut response = Response::new(Body::empty());
        if let Some(range) = asked(request.header("range"), meta.size)? {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            describe(response.headers_mut(), request, &meta, &note, Some(range));
        } else {
            describe(response.headers_mut(), request, &meta, &note, None);
        }
        Ok(response)
    }

    pub(super) async fn get_object(&self, request: &Request) -> Answer {
        let path = self.places.object(&request.bucket, &request.key)?;
        let meta = self.meta(request, &path).await?;
        let note = self.note(&meta).await;
        if !holds(request, "", &note.etag, meta.last_modified)? {
            return Ok(not_modified(&note));
        }
        let range = asked(request.header("range"), meta.size)?;
        let options = GetOptions { range: range.clone().map(Into::into), ..GetOptions::default() };
        let found = self.documents.store().get_opts(&path, options).await?;
        // Written over since: what is told must be about what is sent.
        let (meta, note) = if found.meta.size == meta.size && found.meta.last_modified == meta.last_modified {
            (meta, note)
        } else {
            let note = self.note(&found.meta).await;
            (found.meta.clone(), note)
        };
        let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let sent = found.range.clone();
        let mut response = Response::new(Body::from_stream(found.into_stream()));
        *response.status_mut() = status;
        describe(response.headers_mut(), request, &meta, &note, range.map(|_| sent));
        Ok(response)
    }

    pub(super) async fn object_tagging(&self, request: &Request) -> Answer {
        let path = self.places.object(&request.bucket, &request.key)?;
        self.meta(request, &path).await?;
        Ok(Xml::new().root("Tagging", NAMESPACE, |xml| xml.element("TagSet", |_| {})).respond(StatusCode::OK))
    }

    pub(super) async fn delete_object(&self, request: &Request) -> Answer {
        request.check_conditions(&WRITE_CONDITIONS)?;
        self.delete_key(&request.bucket, &request.key).await?;
        Ok(no_content())
    }

    /// A key that is not there is deleted already.
    async fn delete_key(&self, bucket: &str, key: &str) -> Result<(), S3Error> {
        let path = self.places.object(bucket, key)?;
        let _turn = self.writers.turn(&path).await;
        self.check_writable(&path, true).await?;
        match self.documents.store().delete(&path).await {
            Ok(()) => self.forget_note(&path).await,
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    pub(super) async fn delete_objects(&self, request: &Request) -> Answer {
        let payload = Payload::read(request)?;
        let asked =
            Element::parse(&payload.bytes).filter(|asked| asked.name == "Delete").ok_or_else(S3Error::malformed)?;
        let keyed = |object| Some((Element::child_text(object, "Key")?, object));
        let objects: Option<Vec<(&str, &Element)>> = asked.children("Object").map(keyed).collect();
        let objects = objects.filter(|objects| (1..=DELETED_MAX).contains(&objects.len()));
        let objects = objects.ok_or_else(S3Error::malformed)?;
        self.check_bucket(&request.bucket).await?;
        let quiet = asked.child_text("Quiet") == Some("true");
        let mut ends = Vec::with_capacity(objects.len());
        for (key, object) in objects {
            let end = match check_deletable(object) {
                Ok(()) => self.delete_key(&request.bucket, key).await,
                Err(error) => Err(error),
            };
            ends.push((key, end));
        }
        let xml = Xml::new().root("DeleteResult", NAMESPACE, |xml| {
            for (key, end) in &ends {
                match end {
                    Ok(()) if quiet => {}
                    Ok(()) => xml.element("Deleted", |xml| xml.text("Key", key)),
                    Err(error) => xml.element("Error", |xml| {
                        xml.text("Key", key);
                        xml.text("Code", error.code);
                        xml.text("Message", &error.message);
                    }),
                }
            }
        });
        Ok(xml.respond(StatusCode::OK))
    }

    pub(super) async fn copy_object(&self, request: &Request) -> Answer {
        request.check_conditions(&WRITE_CONDITIONS)?;
        let (source, query) = request
            .header("x-amz-copy-source")
            .map_or(("", ""), |source| source.split_once('?').unwrap_or((source, "")));
        check_version(form(query).find(|(name, _)| name == "versionId").map(|(_, version)| version).as_deref())?;
        let source = decoded(source).filter(|source| !source.is_empty());
        let source = source.ok_or_else(|| S3Error::argument("x-amz-copy-source is not bucket/key"))?;
        let source = Uri::parse(&format!("s3://{}", source.trim_start_matches('/')))?;
        let (from, to) =
            (self.places.object(&source.bucket, &source.key)?, self.places.object(&request.bucket, &request.key)?);
        let _turn = self.writers.turn(&to).await;
        self.check_writable(&to, false).await?;
        let meta = self.documents.store().head(&from).await?;
        let old = self.note(&meta).await;
        if !holds(request, COPY_SOURCE, &old.etag, meta.last_modified)? {
            return Err(S3Error::precondition());
        }
        // Streamed and not copied by the store, so that a local disk has it durable.
        let md5 = self.write_all(&to, std::slice::from_ref(&from)).await?;
        let replaced = request.header("x-amz-metadata-directive").is_some_and(|directive| directive == "REPLACE");
        let note = if replaced { note_of(request, &md5, old.crc32)? } else { Note { etag: md5.clone(), ..old } };
        self.keep_note(&to, note, None).await;
        let meta = self.documents.store().head(&to).await?;
        let xml = Xml::new().root("CopyObjectResult", NAMESPACE, |xml| {
            xml.text("ETag", quoted(&md5));
            xml.text("LastModified", meta.last_modified.to_rfc3339_opts(SecondsFormat::Millis, true));
        });
        Ok(xml.respond(StatusCode::OK))
    }
}

/// Refuses to delete another version of an object than the one there is, or under a condition.
fn check_deletable(object: &Element) -> Result<(), S3Error> {
    check_version(object.child_text("VersionId"))?;
    match ["ETag", "LastModifiedTime", "Size"].iter().find(|name| object.child_text(name).is_some()) {
        Some(name) => Err(S3Error::not_implemented(&format!("{name} as a condition of a deletion"))),
        None => Ok(()),
    }
}

fn not_modified(note: &Note) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    set(response.headers_mut(), ETAG, &quoted(&note.etag));
    response
}

/// What is kept beside an object that a request writes.
pub(super) fn note_of(request: &Request, etag: &str, crc32: Option<String>) -> Result<Note, S3Error> {
    let mut metadata = BTreeMap::new();
    for (name, value) in &request.call.headers {
        if let (Some(name), Ok(value)) = (name.as_str().strip_prefix("x-amz-meta-"), value.to_str()) {
            metadata.insert(name.to_owned(), value.to_owned());
        }
    }
    if metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > METADATA_BYTES_MAX {
        return Err(S3Error::new(
            400,
            "MetadataTooLarge",
            "Your metadata headers exceed the maximum allowed metadata size",
        ));
    }
    let content_type = request.header("content-type").map(str::to_owned);
    Ok(Note { etag: etag.to_owned(), crc32, content_type, metadata, ..Note::default() })
}

pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The headers that tell of an object, or of a part of it.
fn describe(
    headers: &mut HeaderMap,
    request: &Request,
    meta: &ObjectMeta,
    note: &Note,
    part: Option<std::ops::Range<u64>>,
) {
    set(headers, ETAG, &quoted(&note.etag));
    set(headers, LAST_MODIFIED, &meta.last_modified.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
    set(headers, ACCEPT_RANGES, "bytes");
    set(headers, CONTENT_TYPE, note.content_type.as_deref().unwrap_or("binary/octet-stream"));
    for (name, value) in &note.metadata {
        if let Ok(name) = HeaderName::try_from(format!("x-amz-meta-{name}")) {
            set(headers, name, value);
        }
    }
    match part {
        Some(part) => {
            set(headers, CONTENT_LENGTH, &(part.end - part.start).to_string());
            let last = part.end.saturating_sub(1);
            set(headers, CONTENT_RANGE, &format!("bytes {}-{last}/{}", part.start, meta.size));
        }
        None => {
            set(headers, CONTENT_LENGTH, &meta.size.to_string());
            let wanted = request.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("enabled"));
            if let Some(crc32) = note.crc32.as_ref().filter(|_| wanted) {
                set(headers, HeaderName::from_static("x-amz-checksum-crc32"), crc32);
                set(headers, HeaderName::from_static("x-amz-checksum-type"), "FULL_OBJECT");
            }
        }
    }
}
