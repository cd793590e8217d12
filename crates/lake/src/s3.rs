//! A small S3 over the warehouse's own object store (ADR 12): path style, REST-XML.
//!
//! It serves what the SDKs, awswrangler and people's scripts call. Bodies are in memory, up to the edge's bound; larger
//! objects come in parts. What it does not serve it refuses by name.
//!
//! Keys and files correspond by [`crate::place`]. What S3 keeps beside an object (MD5, type, metadata) is in a document of
//! ours, see [`notes`]. Files of feature groups can be read, never written over or deleted ([`S3::check_writable`]).

mod buckets;
mod form;
mod list;
mod multipart;
mod notes;
mod objects;
mod payload;
mod range;

use std::sync::Arc;

use axum::body::Body;
use granary_api::aws::Call;
use granary_platform::Platform;
use granary_query::QueryService;
use http::{Method, Response, StatusCode};
use object_store::path::Path;

pub(crate) use form::{decoded, form};

use crate::Settings;
use crate::documents::Documents;
use crate::place::{NoPlace, Places};
use crate::xml::Xml;

/// The namespace of S3's documents.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// An error as S3 tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct S3Error {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl S3Error {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code, message: message.into() }
    }

    fn no_such_key() -> Self {
        Self::new(404, "NoSuchKey", "The specified key does not exist.")
    }

    fn no_such_bucket() -> Self {
        Self::new(404, "NoSuchBucket", "The specified bucket does not exist")
    }

    fn not_implemented(what: &str) -> Self {
        Self::new(501, "NotImplemented", format!("Granary's S3 does not serve {what}"))
    }

    fn malformed() -> Self {
        Self::new(
            400,
            "MalformedXML",
            "The XML you provided was not well-formed or did not validate against our published schema",
        )
    }

    fn argument(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidArgument", message)
    }

    fn respond(self, head: bool) -> Response<Body> {
        if head {
            // A HEAD's answer has no body; SDKs make the code of its status.
            let mut response = Response::new(Body::empty());
            *response.status_mut() = self.status;
            return response;
        }
        let mut xml = Xml::new();
        xml.element("Error", |xml| {
            xml.text("Code", self.code);
            xml.text("Message", &self.message);
            xml.text("RequestId", "see-x-amzn-requestid");
        });
        xml.respond(self.status)
    }
}

impl From<NoPlace> for S3Error {
    fn from(error: NoPlace) -> Self {
        let message = error.to_string();
        match error {
            NoPlace::Bucket => Self::new(400, "InvalidBucketName", message),
            NoPlace::TooLong => Self::new(400, "KeyTooLongError", message),
            NoPlace::EmptySegment(_) | NoPlace::NoUri(_) => Self::argument(message),
            NoPlace::Private(_) | NoPlace::Elsewhere(_) => Self::new(403, "AccessDenied", message),
        }
    }
}

impl From<object_store::Error> for S3Error {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error;
        match error {
            Error::NotFound { .. } => Self::no_such_key(),
            Error::AlreadyExists { .. } | Error::Precondition { .. } => Self::precondition(),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Self::new(403, "AccessDenied", "the object store under Granary refuses it")
            }
            error if is_taken_by_directory(&error) => Self::argument(
                "on a local disk a key cannot also be the folder of another key: a file or directory of that name is there",
            ),
            error => {
                tracing::warn!(error = %error, "object store failed under S3");
                Self::new(500, "InternalError", error.to_string())
            }
        }
    }
}

impl S3Error {
    fn precondition() -> Self {
        Self::new(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    }
}

/// Whether a local disk has a directory where a file should be, or the other way round.
fn is_taken_by_directory(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind;
            return matches!(io.kind(), ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::AlreadyExists);
        }
        cause = error.source();
    }
    false
}

/// What an operation answers.
type Answer = Result<Response<Body>, S3Error>;

/// S3 over a warehouse. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct S3 {
    platform: Platform,
    documents: Documents,
    query: QueryService,
    places: Arc<Places>,
    settings: Settings,
}

/// A call as S3 reads it.
struct Request {
    call: Call,
    bucket: String,
    key: String,
    /// Decoded parameters in order; a flag such as `?uploads` has an empty value.
    parameters: Vec<(String, String)>,
}

impl Request {
    fn of(call: Call) -> Result<Self, S3Error> {
        let path = call.uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let text = |part| decoded(part).ok_or_else(|| S3Error::argument("the path is not UTF-8 in percent-encoding"));
        let (bucket, key) = (text(bucket)?, text(key)?);
        let parameters = form(call.uri.query().unwrap_or_default()).collect();
        Ok(Self { call, bucket, key, parameters })
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.parameter(name).is_some()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.call.headers.get(name)?.to_str().ok()
    }

    /// The first parameter that asks for something which is not served.
    fn unserved(&self, names: &[&'static str]) -> Option<S3Error> {
        let name = names.iter().find(|name| self.has(name))?;
        Some(S3Error::not_implemented(&format!("?{name}")))
    }
}

impl S3 {
    pub(crate) fn new(
        platform: Platform,
        documents: Documents,
        query: QueryService,
        places: Arc<Places>,
        settings: Settings,
    ) -> Self {
        Self { platform, documents, query, places, settings }
    }

    pub(crate) async fn answer(&self, call: Call) -> Response<Body> {
        let head = call.method == Method::HEAD;
        let answered = match self.settings.s3_enabled {
            true => match Request::of(call) {
                Ok(request) => self.run(request).await,
                Err(error) => Err(error),
            },
            false => Err(S3Error::not_implemented(
                "anything here: s3.enabled is off. Point AWS_ENDPOINT_URL_S3 at the object store itself",
            )),
        };
        answered.unwrap_or_else(|error| {
            tracing::debug!(code = error.code, message = error.message, "refused");
            error.respond(head)
        })
    }

    async fn run(&self, request: Request) -> Answer {
        match (request.bucket.is_empty(), request.key.is_empty()) {
            (true, true) if request.call.method == Method::GET => self.list_buckets().await,
            (true, _) => Err(S3Error::new(405, "MethodNotAllowed", "only GET is for no bucket at all")),
            (false, true) => self.run_bucket(&request).await,
            (false, false) => self.run_object(&request).await,
        }
    }

    async fn run_bucket(&self, request: &Request) -> Answer {
        const UNSERVED: [&str; 16] = [
            "accelerate",
            "acl",
            "analytics",
            "cors",
            "inventory",
            "lifecycle",
            "logging",
            "metrics",
            "notification",
            "object-lock",
            "ownershipControls",
            "publicAccessBlock",
            "replication",
            "requestPayment",
            "uploads",
            "website",
        ];
        if let Some(error) = request.unserved(&UNSERVED) {
            return Err(error);
        }
        match request.call.method {
            Method::GET if request.has("location") => self.bucket_location(&request.bucket).await,
            Method::GET if request.has("policy") => {
                Err(S3Error::new(404, "NoSuchBucketPolicy", "The bucket policy does not exist"))
            }
            Method::GET if request.has("versioning") => self.bucket_versioning(&request.bucket).await,
            Method::GET if request.has("encryption") => Err(S3Error::new(
                404,
                "ServerSideEncryptionConfigurationNotFoundError",
                "The server side encryption configuration was not found",
            )),
            Method::GET if request.has("tagging") => {
                Err(S3Error::new(404, "NoSuchTagSet", "The TagSet does not exist"))
            }
            Method::GET if request.has("versions") => Err(S3Error::not_implemented("versions of objects")),
            Method::GET => self.list_objects(request).await,
            Method::HEAD => self.head_bucket(&request.bucket).await,
            Method::PUT if request.has("policy") => self.put_bucket_policy(&request.bucket).await,
            Method::PUT if request.parameters.is_empty() => self.create_bucket(&request.bucket).await,
            Method::DELETE if request.has("policy") => self.put_bucket_policy(&request.bucket).await,
            Method::DELETE if request.parameters.is_empty() => self.delete_bucket(&request.bucket).await,
            Method::POST if request.has("delete") => self.delete_objects(request).await,
            _ => Err(S3Error::not_implemented(&format!("{} on a bucket with these parameters", request.call.method))),
        }
    }

    async fn run_object(&self, request: &Request) -> Answer {
        const UNSERVED: [&str; 7] = ["acl", "attributes", "legal-hold", "restore", "retention", "select", "torrent"];
        if let Some(error) = request.unserved(&UNSERVED) {
            return Err(error);
        }
        match request.call.method {
            Method::GET if request.has("uploadId") => Err(S3Error::not_implemented("a list of parts")),
            Method::GET if request.has("tagging") => self.object_tagging(request).await,
            Method::GET => self.get_object(request).await,
            Method::HEAD => self.head_object(request).await,
            Method::PUT if request.has("tagging") => Err(S3Error::not_implemented("tags of objects")),
            Method::PUT if request.has("partNumber") => self.upload_part(request).await,
            Method::PUT if request.header("x-amz-copy-source").is_some() => self.copy_object(request).await,
            Method::PUT => self.put_object(request).await,
            Method::POST if request.has("uploads") => self.create_upload(request).await,
            Method::POST if request.has("uploadId") => self.complete_upload(request).await,
            Method::DELETE if request.has("uploadId") => self.abort_upload(request).await,
            Method::DELETE if request.has("tagging") => Err(S3Error::not_implemented("tags of objects")),
            Method::DELETE => self.delete_object(request).await,
            _ => Err(S3Error::not_implemented(&format!("{} on an object", request.call.method))),
        }
    }

    /// Refuses to write over or delete what a feature group's table is made of: its log, and the files that the compactor
    /// wrote. Other files may be put beside them, as other writers do (contract 4.5).
    async fn check_writable(&self, path: &Path, deleting: bool) -> Result<(), S3Error> {
        let catalog = self.query.catalog();
        let owner = catalog.groups().find_map(|group| {
            let url = self.places.warehouse().table_url(group).ok()?;
            let table = Path::from_url_path(url.path()).ok()?;
            let rest: Vec<String> = path.prefix_match(&table)?.map(|part| part.as_ref().to_owned()).collect();
            Some((group.name.clone(), rest))
        });
        let Some((group, rest)) = owner else { return Ok(()) };
        let own = match rest.as_slice() {
            [first, ..] if first == "_delta_log" => true,
            // A copy of SageMaker's history has such names too, and may be put where nothing is.
            [.., name] if is_history_file(name) => deleting || self.exists(path).await?,
            _ => false,
        };
        if own {
            let message =
                format!("the object belongs to the history of feature group {group:?}, which S3 calls do not change");
            return Err(S3Error::new(403, "AccessDenied", message));
        }
        Ok(())
    }
}

/// Whether a file is called as the compactor calls its own: `20240131T083000Z_0123456789abcdef.parquet`.
fn is_history_file(name: &str) -> bool {
    let Some((time, random)) = name.strip_suffix(".parquet").and_then(|name| name.split_once('_')) else {
        return false;
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let time = time.strip_suffix('Z').and_then(|time| time.split_once('T'));
    time.is_some_and(|(date, time)| digits(date) && time.len() == 6 && digits(time))
        && random.len() == 16
        && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_history_are_told_by_name() {
        assert!(is_history_file("20240131T083000Z_0123456789abcdeF.parquet"));
        for other in ["part-0001.parquet", "20240131T083000Z_short.parquet", "20240131_0123456789abcdef.parquet", "x"] {
            assert!(!is_history_file(other), "{other}");
        }
    }
}
