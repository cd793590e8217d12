//! Why a request was not let in, in the words and forms of the service it is for.

use axum::body::Body;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

use crate::aws::Service;
use crate::rest::Fault;

/// Why a signature was refused. Says nothing that would help to guess one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No signature at all.
    NotSigned,
    /// A part is missing or ill-formed.
    Incomplete(&'static str),
    /// A header that must be signed is not.
    Unsigned(String),
    /// The scope is another service's, or of another day.
    Scope(String),
    /// The access key is not known.
    UnknownKey,
    /// The signature is another one.
    WrongSignature,
    /// The body is not the one whose hash was signed.
    WrongBody,
    /// Signed too long ago.
    Late {
        /// How long.
        seconds: i64,
    },
    /// Signed in the future.
    Early {
        /// How far.
        seconds: i64,
    },
    /// A signed URL that is past its time.
    Expired,
    /// A way of signing that is not verified here.
    Unsupported(&'static str),
}

impl Refusal {
    /// The error's name: S3 has its own.
    pub fn code(&self, service: Service) -> &'static str {
        let s3 = service == Service::S3;
        match self {
            Self::NotSigned if s3 => "AccessDenied",
            Self::NotSigned => "MissingAuthenticationTokenException",
            Self::Incomplete(_) if s3 => "AuthorizationHeaderMalformed",
            Self::Incomplete(_) => "IncompleteSignatureException",
            Self::Scope(_) if s3 => "AuthorizationHeaderMalformed",
            Self::Unsigned(_) | Self::Expired if s3 => "AccessDenied",
            Self::UnknownKey if s3 => "InvalidAccessKeyId",
            Self::UnknownKey => "UnrecognizedClientException",
            Self::WrongSignature if s3 => "SignatureDoesNotMatch",
            Self::WrongBody if s3 => "XAmzContentSHA256Mismatch",
            Self::Late { .. } | Self::Early { .. } if s3 => "RequestTimeTooSkewed",
            Self::Unsupported(_) => "NotImplemented",
            _ => "InvalidSignatureException",
        }
    }

    /// 400 where the request is ill-formed, 403 where it may not come in.
    pub fn status(&self, service: Service) -> StatusCode {
        match self {
            Self::Incomplete(_) | Self::WrongBody => StatusCode::BAD_REQUEST,
            Self::Scope(_) if service == Service::S3 => StatusCode::BAD_REQUEST,
            Self::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::FORBIDDEN,
        }
    }

    /// What is wrong.
    pub fn message(&self) -> String {
        match self {
            Self::NotSigned => "Missing Authentication Token".to_owned(),
            Self::Incomplete(what) | Self::Unsupported(what) => (*what).to_owned(),
            Self::Unsigned(name) => format!("There were headers present in the request which were not signed: {name}"),
            Self::Scope(what) => what.clone(),
            Self::UnknownKey => "The security token included in the request is invalid.".to_owned(),
            Self::WrongSignature => "The request signature we calculated does not match the signature you provided. \
                                     Check your AWS Secret Access Key and signing method."
                .to_owned(),
            Self::WrongBody => "X-Amz-Content-Sha256 is not the hash of the body that came".to_owned(),
            Self::Late { seconds } => format!("Signature expired: the request was signed {seconds} seconds ago"),
            Self::Early { seconds } => format!("Signature not yet current: signed {seconds} seconds in the future"),
            Self::Expired => "Request has expired".to_owned(),
        }
    }

    /// The answer, in the service's form.
    pub fn into_response(self, service: Service) -> Response<Body> {
        let (status, code, message) = (self.status(service), self.code(service), self.message());
        // A message may repeat what the caller sent.
        let in_xml = || message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        match service {
            Service::S3 => xml(status, &format!("<Error><Code>{code}</Code><Message>{}</Message></Error>", in_xml())),
            Service::Sts | Service::Iam => xml(
                status,
                &format!(
                    "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{}</Message></Error></ErrorResponse>",
                    in_xml()
                ),
            ),
            _ => axum::response::IntoResponse::into_response(Fault { status, code, message }),
        }
    }
}

fn xml(status: StatusCode, element: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{element}")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}
