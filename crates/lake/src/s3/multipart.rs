//! Uploads in parts: each part an object of ours, put together when the upload is completed.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::header::{ETAG, HeaderValue};
use http::{Response, StatusCode};
use md5::{Digest, Md5};
use object_store::ObjectStoreExt;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::buckets::no_content;
use super::notes::Note;
use super::objects::{note_of, quoted};
use super::payload::{Payload, hex};
use super::{Answer, NAMESPACE, Request, S3, S3Error, WRITE_CONDITIONS};
use crate::xml::{Element, Xml};

/// The most parts of an upload, as on S3.
const PARTS_MAX: usize = 10_000;
/// An upload to which nothing was added for so long was abandoned: no client works on one for days.
const ABANDONED_AFTER: Duration = Duration::from_secs(7 * 86_400);
/// How often abandoned uploads are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(6 * 3_600);

/// An upload that was begun.
#[derive(Debug, Serialize, Deserialize)]
struct Upload {
    bucket: String,
    key: String,
    content_type: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl S3 {
    fn upload_path(&self, id: &str, name: &str) -> Path {
        self.documents.path(&["s3", "uploads", id, name])
    }

    async fn upload(&self, request: &Request) -> Result<(String, Upload), S3Error> {
        let none = || S3Error::new(404, "NoSuchUpload", "The specified upload does not exist");
        let id = request
            .parameter("uploadId")
            .filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let id = id.ok_or_else(none)?;
        let upload = self.documents.get::<Upload>(&self.upload_path(id, "upload.json")).await?.ok_or_else(none)?;
        if (upload.bucket.as_str(), upload.key.as_str()) != (request.bucket.as_str(), request.key.as_str()) {
            return Err(none());
        }
        Ok((id.to_owned(), upload))
    }

    pub(super) async fn create_upload(&self, request: &Request) -> Answer {
        let path = self.places.object(&request.bucket, &request.key)?;
        self.check_writable(&path, false).await?;
        let note = note_of(request, "", None)?;
        let id = format!("{:032x}", self.platform.fresh_id());
        let (bucket, key) = (request.bucket.clone(), request.key.clone());
        let upload = Upload { bucket, key, content_type: note.content_type, metadata: note.metadata };
        self.documents.put(&self.upload_path(&id, "upload.json"), &upload).await?;
        let xml = Xml::new().root("InitiateMultipartUploadResult", NAMESPACE, |xml| {
            xml.text("Bucket", &upload.bucket);
            xml.text("Key", &upload.key);
            xml.text("UploadId", &id);
        });
        Ok(xml.respond(StatusCode::OK))
    }

    pub(super) async fn upload_part(&self, request: &Request) -> Answer {
        let (id, _) = self.upload(request).await?;
        let number = request.parameter("partNumber").and_then(|number| number.parse::<usize>().ok());
        let number = number.filter(|number| (1..=PARTS_MAX).contains(number));
        let number = number.ok_or_else(|| S3Error::argument(format!("partNumber must be 1 to {PARTS_MAX}")))?;
        if request.header("x-amz-copy-source").is_some() {
            return Err(S3Error::not_implemented("a part copied from an object"));
        }
        let payload = Payload::read(request)?;
        let etag = quoted(&payload.md5);
        self.documents.store().put(&self.upload_path(&id, &part_name(number)), payload.bytes.into()).await?;
        let mut response = Response::new(Body::empty());
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            response.headers_mut().insert(ETAG, etag);
        }
        if let Ok(crc32) = HeaderValue::from_str(&payload.crc32) {
            response.headers_mut().insert("x-amz-checksum-crc32", crc32);
        }
        Ok(response)
    }

    pub(super) async fn complete_upload(&self, request: &Request) -> Answer {
        request.check_conditions(&WRITE_CONDITIONS)?;
        let (id, upload) = self.upload(request).await?;
        let path = self.places.object(&request.bucket, &request.key)?;
        let _turn = self.writers.turn(&path).await;
        self.check_writable(&path, false).await?;
        let asked = Element::parse(&request.call.body).ok_or_else(S3Error::malformed)?;
        let parts = parts_of(&asked)?;
        let mut sums = Md5::new();
        let mut sources = Vec::with_capacity(parts.len());
        for (number, etag) in &parts {
            let part = self.upload_path(&id, &part_name(*number));
            let invalid =
                || S3Error::new(400, "InvalidPart", format!("part {number} was not uploaded, or has another ETag"));
            let bytes = match self.documents.store().get(&part).await {
                Ok(found) => found.bytes().await?,
                Err(object_store::Error::NotFound { .. }) => return Err(invalid()),
                Err(error) => return Err(error.into()),
            };
            let md5 = Md5::digest(&bytes);
            if hex(&md5) != *etag {
                return Err(invalid());
            }
            sums.update(md5);
            sources.push(part);
        }
        self.write_all(&path, &sources).await?;
        let etag = format!("{}-{}", hex(&sums.finalize()), parts.len());
        let (content_type, metadata) = (upload.content_type, upload.metadata);
        self.keep_note(&path, Note { etag: etag.clone(), content_type, metadata, ..Note::default() }, None).await;
        self.documents.delete_all(&self.documents.path(&["s3", "uploads", &id])).await?;
        let xml = Xml::new().root("CompleteMultipartUploadResult", NAMESPACE, |xml| {
            xml.text("Bucket", &request.bucket);
            xml.text("Key", &request.key);
            xml.text("ETag", quoted(&etag));
        });
        Ok(xml.respond(StatusCode::OK))
    }

    pub(super) async fn abort_upload(&self, request: &Request) -> Answer {
        let (id, _) = self.upload(request).await?;
        self.documents.delete_all(&self.documents.path(&["s3", "uploads", &id])).await?;
        Ok(no_content())
    }

    /// Removes abandoned uploads now and then, until shutdown.
    pub(super) async fn sweep_uploads(&self) {
        loop {
            tokio::select! {
                swept = self.sweep_once(ABANDONED_AFTER) => {
                    if let Err(error) = swept {
                        tracing::warn!(%error, "abandoned uploads stay");
                    }
                }
                () = self.platform.shutdown_begun() => return,
            }
            tokio::select! {
                () = self.platform.sleep(SWEEP_INTERVAL) => {}
                () = self.platform.shutdown_begun() => return,
            }
        }
    }

    /// Removes the uploads of which no part was written for `age`, and parts that came after their upload had ended.
    async fn sweep_once(&self, age: Duration) -> object_store::Result<()> {
        let oldest = self.platform.now_millis().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let uploads = self.documents.path(&["s3", "uploads"]);
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        for meta in self.documents.list(&uploads).await? {
            let id = meta.location.prefix_match(&uploads).and_then(|mut rest| rest.next());
            let Some(id) = id.map(|id| id.as_ref().to_owned()) else { continue };
            let changed = meta.last_modified.timestamp_millis();
            newest.entry(id).and_modify(|newest| *newest = changed.max(*newest)).or_insert(changed);
        }
        for (id, changed) in newest {
            if u64::try_from(changed).is_ok_and(|changed| changed < oldest) {
                self.documents.delete_all(&uploads.clone().join(id)).await?;
            }
        }
        Ok(())
    }

    /// Writes objects one after the other into one, which appears when it is whole, and returns the MD5 of it all.
    pub(super) async fn write_all(&self, to: &Path, sources: &[Path]) -> Result<String, S3Error> {
        let failed =
            |error: std::io::Error| S3Error::from(object_store::Error::Generic { store: "s3", source: error.into() });
        let mut writer = BufWriter::new(self.documents.store().clone(), to.clone());
        let mut md5 = Md5::new();
        for source in sources {
            let mut bytes = self.documents.store().get(source).await?.into_stream();
            while let Some(chunk) = bytes.next().await {
                let chunk = chunk?;
                md5.update(&chunk);
                writer.write_all(&chunk).await.map_err(failed)?;
            }
        }
        writer.shutdown().await.map_err(failed)?;
        Ok(hex(&md5.finalize()))
    }
}

fn part_name(number: usize) -> String {
    format!("part-{number:05}")
}

/// Numbers and ETags in the order they were asked for, which must rise.
fn parts_of(asked: &Element) -> Result<Vec<(usize, String)>, S3Error> {
    let part = |part: &Element| {
        let number = part.child_text("PartNumber")?.trim().parse().ok()?;
        Some((number, part.child_text("ETag")?.trim().trim_matches('"').to_owned()))
    };
    let parts: Option<Vec<(usize, String)>> = asked.children("Part").map(part).collect();
    let parts = parts.filter(|parts| (1..=PARTS_MAX).contains(&parts.len())).ok_or_else(S3Error::malformed)?;
    if !parts.is_sorted_by(|one, next| one.0 < next.0) {
        return Err(S3Error::new(400, "InvalidPartOrder", "The list of parts was not in ascending order"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, s3};
    use super::*;

    #[tokio::test]
    async fn abandoned_uploads_go_and_others_stay() {
        let s3 = s3().await;
        let begun = call(&s3, http::Method::POST, "/bucket/a?uploads", &[], "").await;
        assert_eq!(begun.0, 200);
        let stray = s3.upload_path(&"0".repeat(32), &part_name(1));
        s3.documents.store().put(&stray, "late".into()).await.expect("put");
        let left = async || {
            let uploads = s3.documents.list(&s3.documents.path(&["s3", "uploads"])).await;
            uploads.expect("a list").len()
        };
        s3.sweep_once(ABANDONED_AFTER).await.expect("swept");
        assert_eq!(left().await, 2);
        // Written in a later millisecond than they were.
        let now = s3.platform.now_millis();
        while s3.platform.now_millis() <= now + 1 {
            tokio::task::yield_now().await;
        }
        s3.sweep_once(Duration::ZERO).await.expect("swept");
        assert_eq!(left().await, 0);
    }
}
