//! Buckets: directories of the warehouse. One is there when it was made, or when an object is in it: a feature group's
//! history makes its bucket, and so does a write, since code that comes from AWS has its buckets already.

use axum::body::Body;
use chrono::{DateTime, SecondsFormat};
use futures::StreamExt;
use http::header::HeaderValue;
use http::{Response, StatusCode};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::{Answer, NAMESPACE, S3, S3Error};
use crate::place::{Uri, is_bucket_name};
use crate::xml::Xml;

/// A bucket that was made.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    created_ms: u64,
}

impl S3 {
    fn made_path(&self, bucket: &str) -> Path {
        self.documents.path(&["s3", "buckets", bucket])
    }

    pub(super) async fn check_bucket(&self, bucket: &str) -> Result<(), S3Error> {
        let directory = self.places.bucket(bucket)?;
        if self.documents.get::<Made>(&self.made_path(bucket)).await?.is_some() {
            return Ok(());
        }
        let held = self.holds_any(&directory).await? || self.is_a_groups(bucket);
        if held { Ok(()) } else { Err(S3Error::no_such_bucket()) }
    }

    async fn holds_any(&self, directory: &Path) -> Result<bool, S3Error> {
        Ok(self.documents.store().list(Some(directory)).next().await.transpose()?.is_some())
    }

    /// Whether a feature group's history is in a bucket, or will be: on AWS the bucket was there before the group.
    fn is_a_groups(&self, bucket: &str) -> bool {
        let catalog = self.query.catalog();
        let mut uris = catalog.groups().filter_map(|group| Uri::parse(&group.offline.as_ref()?.resolved_uri).ok());
        uris.any(|uri| uri.bucket == bucket)
    }

    pub(super) async fn list_buckets(&self) -> Answer {
        let mut names: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
        let root = self.places.warehouse().root().path();
        if let Ok(root) = Path::from_url_path(root) {
            for name in self.documents.directories(&root).await? {
                // A local disk keeps directories that nothing is in any more.
                if is_bucket_name(&name) && self.holds_any(&self.places.bucket(&name)?).await? {
                    names.insert(name, 0);
                }
            }
        }
        for meta in self.documents.list(&self.documents.path(&["s3", "buckets"])).await? {
            let made = self.documents.get::<Made>(&meta.location).await?;
            if let (Some(name), Some(made)) = (meta.location.filename(), made) {
                names.insert(name.to_owned(), made.created_ms);
            }
        }
        let owner = &self.settings.account_id;
        let xml = Xml::new().root("ListAllMyBucketsResult", NAMESPACE, |xml| {
            xml.element("Owner", |xml| xml.text("ID", owner));
            xml.element("Buckets", |xml| {
                for (name, created_ms) in &names {
                    xml.element("Bucket", |xml| {
                        xml.text("Name", name);
                        xml.text("CreationDate", time(*created_ms));
                    });
                }
            });
        });
        Ok(xml.respond(StatusCode::OK))
    }

    pub(super) async fn head_bucket(&self, bucket: &str) -> Answer {
        self.check_bucket(bucket).await?;
        let mut response = Response::new(Body::empty());
        if let Ok(region) = HeaderValue::from_str(&self.settings.region) {
            response.headers_mut().insert("x-amz-bucket-region", region);
        }
        Ok(response)
    }

    /// Making one's own bucket again is no fault: so it is in the region that SDKs take unless told otherwise.
    pub(super) async fn create_bucket(&self, bucket: &str) -> Answer {
        self.places.bucket(bucket)?;
        self.documents.create(&self.made_path(bucket), &Made { created_ms: self.platform.now_millis() }).await?;
        let mut response = Response::new(Body::empty());
        if let Ok(location) = HeaderValue::from_str(&format!("/{bucket}")) {
            response.headers_mut().insert(http::header::LOCATION, location);
        }
        Ok(response)
    }

    pub(super) async fn delete_bucket(&self, bucket: &str) -> Answer {
        self.check_bucket(bucket).await?;
        let directory = self.places.bucket(bucket)?;
        if self.holds_any(&directory).await? {
            return Err(S3Error::new(409, "BucketNotEmpty", "The bucket you tried to delete is not empty"));
        }
        self.documents.delete(&self.made_path(bucket)).await?;
        Ok(no_content())
    }

    /// Taken and not kept: there is nobody whom a policy could keep out.
    pub(super) async fn put_bucket_policy(&self, bucket: &str) -> Answer {
        self.check_bucket(bucket).await?;
        Ok(no_content())
    }

    pub(super) async fn bucket_location(&self, bucket: &str) -> Answer {
        self.check_bucket(bucket).await?;
        let region = self.settings.region.clone();
        let mut xml = Xml::new();
        // The first region has no name here, as on AWS.
        xml.text_with_namespace("LocationConstraint", NAMESPACE, if region == "us-east-1" { "" } else { &region });
        Ok(xml.respond(StatusCode::OK))
    }

    pub(super) async fn bucket_versioning(&self, bucket: &str) -> Answer {
        self.check_bucket(bucket).await?;
        Ok(Xml::new().root("VersioningConfiguration", NAMESPACE, |_| {}).respond(StatusCode::OK))
    }
}

pub(super) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A time as S3's documents have it.
pub(super) fn time(millis: u64) -> String {
    let time = i64::try_from(millis).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
