//! A small S3 over the warehouse's own object store (ADR 12): path style, REST-XML.
//!
//! It serves what the SDKs, awswrangler and people's scripts call. Bodies are in memory, up to the edge's bound; larger
//! objects come in parts. What it does not serve it refuses by name.
//!
//! Keys and files correspond by [`crate::place`]. What S3 keeps beside an object (MD5, type, metadata) is in a document of
//! ours, see [`notes`]. Files of feature groups can be read, never written over or deleted, see [`owned`].

mod buckets;
mod form;
mod list;
mod multipart;
mod notes;
mod objects;
mod owned;
mod payload;
mod range;

use std::sync::Arc;

use axum::body::Body;
use granary_api::aws::Call;
use granary_platform::{Platform, TaskKind};
use granary_query::QueryService;
use http::{Method, Response, StatusCode};

pub(crate) use form::{decoded, form};

use crate::Settings;
use crate::documents::Documents;
use crate::place::{NoPlace, Places};
use crate::xml::Xml;
use notes::Writers;

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
    writers: Writers,
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

    /// Refuses conditions that are not looked at: what was asked for only under one must not be done without.
    fn check_conditions(&self, unserved: &[&'static str]) -> Result<(), S3Error> {
        match unserved.iter().find(|name| self.header(name).is_some()) {
            Some(name) => Err(S3Error::not_implemented(&format!("{name} on this call"))),
            None => Ok(()),
        }
    }

    /// Refuses any version of an object but the one there is, which S3 calls `null`.
    fn check_version(&self) -> Result<(), S3Error> {
        check_version(self.parameter("versionId"))
    }
}

fn check_version(version: Option<&str>) -> Result<(), S3Error> {
    match version {
        None | Some("null") => Ok(()),
        Some(_) => Err(S3Error::not_implemented("versions of objects")),
    }
}

/// Conditions of a write that S3 knows.
const WRITE_CONDITIONS: [&str; 5] = [
    "if-match",
    "if-none-match",
    "x-amz-if-match-last-modified-time",
    "x-amz-if-match-size",
    "x-amz-write-offset-bytes",
];

impl S3 {
    pub(crate) fn new(
        platform: Platform,
        documents: Documents,
        query: QueryService,
        places: Arc<Places>,
        settings: Settings,
    ) -> Self {
        let s3 = Self { platform, documents, query, places, settings, writers: Writers::default() };
        if s3.settings.s3_enabled {
            let sweeping = s3.clone();
            s3.platform.spawn(TaskKind::Service, "s3 uploads", async move { sweeping.sweep_uploads().await });
        }
        s3
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
        request.check_version()?;
        match request.call.method {
            Method::GET | Method::HEAD if request.has("partNumber") => {
                Err(S3Error::not_implemented("a part of an object by its number"))
            }
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
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;
    use crate::tests::lake;

    /// An S3 over memory, without feature groups.
    pub(super) async fn s3() -> S3 {
        lake("file:///lake").await.s3.clone()
    }

    /// Status and body of a call.
    pub(super) async fn call(
        s3: &S3,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, HeaderMap, String) {
        let pairs = headers.iter().map(|(name, value)| {
            let name = HeaderName::try_from(*name).expect("a name");
            (name, HeaderValue::try_from(*value).expect("a value"))
        });
        let (uri, body) = (uri.parse().expect("a URI"), Bytes::copy_from_slice(body.as_bytes()));
        let response = s3.answer(Call { method, uri, headers: pairs.collect(), body }).await;
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
        (head.status.as_u16(), head.headers, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn conditions_hold_or_are_refused() {
        let s3 = s3().await;
        let put = call(&s3, Method::PUT, "/bucket/a", &[], "content").await;
        assert_eq!(put.0, 200);
        let etag = put.1["etag"].to_str().expect("text").to_owned();
        let source = ("x-amz-copy-source", "bucket/a");
        let (get, head, copy) = (Method::GET, Method::HEAD, Method::PUT);
        for (method, uri, headers, status) in [
            (&get, "/bucket/a?versionId=null", vec![], 200),
            (&get, "/bucket/a?versionId=abc", vec![], 501),
            (&get, "/bucket/a?partNumber=1", vec![], 501),
            (&Method::DELETE, "/bucket/a?versionId=abc", vec![], 501),
            (&Method::DELETE, "/bucket/a", vec![("if-match", "\"x\"")], 501),
            (&head, "/bucket/a", vec![("if-none-match", etag.as_str())], 304),
            (&head, "/bucket/a", vec![("if-none-match", etag.as_str()), ("range", "bytes=0-1")], 304),
            (&copy, "/bucket/b", vec![source, ("if-none-match", "*")], 501),
            (&copy, "/bucket/b", vec![source, ("x-amz-copy-source-if-match", "\"x\"")], 412),
            (&copy, "/bucket/b", vec![source, ("x-amz-copy-source-if-none-match", etag.as_str())], 412),
            (&copy, "/bucket/b", vec![("x-amz-copy-source", "bucket/a?versionId=x")], 501),
            (&get, "/bucket/b", vec![], 404),
            (&copy, "/bucket/b", vec![source, ("x-amz-copy-source-if-match", etag.as_str())], 200),
        ] {
            let answered = call(&s3, method.clone(), uri, &headers, "").await;
            assert_eq!(answered.0, status, "{method} {uri} {headers:?}: {}", answered.2);
        }
    }

    #[tokio::test]
    async fn a_completed_upload_takes_no_condition_and_leaves_no_parts() {
        let s3 = s3().await;
        let begun = call(&s3, Method::POST, "/bucket/a?uploads", &[], "").await.2;
        let id = begun.split("UploadId>").nth(1).and_then(|text| text.split('<').next()).expect("an id").to_owned();
        let part = call(&s3, Method::PUT, &format!("/bucket/a?partNumber=1&uploadId={id}"), &[], "content").await;
        let etag = part.1["etag"].to_str().expect("text").to_owned();
        let body = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
        );
        let uri = format!("/bucket/a?uploadId={id}");
        assert_eq!(call(&s3, Method::POST, &uri, &[("if-none-match", "*")], &body).await.0, 501);
        assert_eq!(call(&s3, Method::POST, &uri, &[], &body).await.0, 200);
        assert_eq!(call(&s3, Method::GET, "/bucket/a", &[], "").await.2, "content");
        assert_eq!(s3.documents.list(&s3.documents.path(&["s3", "uploads"])).await.expect("a list"), []);
    }

    #[tokio::test]
    async fn a_delete_of_a_version_or_under_a_condition_is_refused_by_its_key() {
        let s3 = s3().await;
        assert_eq!(call(&s3, Method::PUT, "/bucket/a", &[], "content").await.0, 200);
        let body = "<Delete><Object><Key>a</Key><VersionId>x</VersionId></Object><Object><Key>a</Key><ETag>y</ETag></Object></Delete>";
        let (status, _, text) = call(&s3, Method::POST, "/bucket?delete", &[], body).await;
        assert_eq!((status, text.matches("<Code>NotImplemented</Code>").count()), (200, 2), "{text}");
        assert_eq!(call(&s3, Method::GET, "/bucket/a", &[], "").await.0, 200);
    }
}
