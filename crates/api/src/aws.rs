//! AWS's services on the one port: which of them a request is for, and who answers.
//!
//! SageMaker is answered by [`crate::rest`]; what lives above this crate (Athena, Glue, S3) comes in through
//! [`AwsService`]. Where access keys are configured, every call passes [`gate::Gate`] and its [`signature::verify`] first, whatever it is for.

pub mod gate;
pub mod signature;

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response, Uri};

use crate::rest::Fault;

/// The operation of a JSON 1.1 request, `<Prefix>.<Operation>`.
pub const TARGET: &str = "x-amz-target";

/// A request with its whole body.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path, raw, and the query.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Call {
    /// The value of `X-Amz-Target`.
    pub fn target(&self) -> Option<&str> {
        self.headers.get(TARGET)?.to_str().ok()
    }
}

/// The AWS services that requests on the port are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// Feature groups and their records.
    SageMaker,
    /// SQL.
    Athena,
    /// Databases and tables.
    Glue,
    /// Objects.
    S3,
    /// Who the caller is.
    Sts,
    /// Roles.
    Iam,
    /// Permissions on a data lake.
    LakeFormation,
}

impl Service {
    /// Which service a request is for: by `X-Amz-Target`, then by what its signature was made for, then by its path
    /// (contract 1.1). What is for none of them is SageMaker's, which refuses it by name.
    pub fn of(call: &Call) -> Self {
        let by_target = call.target().and_then(|target| match target.split_once('.')?.0 {
            "SageMaker" => Some(Self::SageMaker),
            "AmazonAthena" => Some(Self::Athena),
            "AWSGlue" => Some(Self::Glue),
            _ => None,
        });
        let by_scope = || match signed_for(call)? {
            "athena" => Some(Self::Athena),
            "glue" => Some(Self::Glue),
            "s3" => Some(Self::S3),
            "sts" => Some(Self::Sts),
            "iam" => Some(Self::Iam),
            "lakeformation" => Some(Self::LakeFormation),
            _ => None,
        };
        by_target.or_else(by_scope).unwrap_or(Self::SageMaker)
    }

    /// What ends the name of the environment variable that points SDKs at an endpoint for it.
    pub fn environment_name(self) -> String {
        self.signing_name().to_uppercase()
    }

    /// What its requests are signed for.
    pub fn signing_name(self) -> &'static str {
        match self {
            Self::SageMaker => "sagemaker",
            Self::Athena => "athena",
            Self::Glue => "glue",
            Self::S3 => "s3",
            Self::Sts => "sts",
            Self::Iam => "iam",
            Self::LakeFormation => "lakeformation",
        }
    }
}

/// The service in the scope of the credential, `<key>/<date>/<region>/<service>/aws4_request`: of `Authorization`, or of
/// a signed URL.
fn signed_for(call: &Call) -> Option<&str> {
    if let Some(header) = call.headers.get(AUTHORIZATION) {
        let credential = header.to_str().ok()?.split_once("Credential=")?.1.split(',').next()?;
        return service_in(credential.trim(), "/");
    }
    let credential = call.uri.query()?.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Credential="))?;
    service_in(credential, "%2F").or_else(|| service_in(credential, "/"))
}

fn service_in<'a>(credential: &'a str, slash: &str) -> Option<&'a str> {
    let mut parts = credential.rsplit(slash);
    (parts.next()? == "aws4_request").then_some(())?;
    parts.next()
}

/// Reads a request whole.
///
/// # Errors
/// The answer to one that is too large or cannot be read.
pub(crate) async fn read(request: Request<Body>, body_bytes_max: usize) -> Result<Call, Box<Response<Body>>> {
    let (parts, body) = request.into_parts();
    match axum::body::to_bytes(body, body_bytes_max).await {
        Ok(body) => Ok(Call { method: parts.method, uri: parts.uri, headers: parts.headers, body }),
        Err(_) => Err(Box::new(Fault::body_too_large(body_bytes_max).into_response())),
    }
}

/// A service that lives above this crate.
pub trait AwsService: Send + Sync + 'static {
    /// Answers a call, whatever it is: an unknown operation is answered in the service's own way.
    fn answer(&self, service: Service, call: Call) -> BoxFuture<'_, Response<Body>>;
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    fn call(target: Option<&'static str>, scope: Option<&str>) -> Call {
        let mut headers = HeaderMap::new();
        if let Some(target) = target {
            headers.insert(TARGET, HeaderValue::from_static(target));
        }
        if let Some(service) = scope {
            let text = format!(
                "AWS4-HMAC-SHA256 Credential=AK/20261127/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
            );
            headers.insert(AUTHORIZATION, HeaderValue::from_str(&text).expect("ASCII"));
        }
        Call { method: Method::POST, uri: Uri::from_static("/"), headers, body: Bytes::new() }
    }

    #[test]
    fn a_request_finds_its_service() {
        assert_eq!(Service::of(&call(Some("SageMaker.Search"), Some("sagemaker"))), Service::SageMaker);
        assert_eq!(Service::of(&call(Some("AmazonAthena.StartQueryExecution"), None)), Service::Athena);
        assert_eq!(Service::of(&call(Some("AWSGlue.GetTable"), Some("glue"))), Service::Glue);
        assert_eq!(Service::of(&call(None, Some("s3"))), Service::S3);
        assert_eq!(Service::of(&call(None, Some("sts"))), Service::Sts);
        assert_eq!(Service::of(&call(None, Some("sagemaker"))), Service::SageMaker);
        assert_eq!(Service::of(&call(None, None)), Service::SageMaker);
        assert_eq!(Service::of(&call(Some("nonsense"), None)), Service::SageMaker);
    }
}
