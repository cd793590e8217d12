//! The little of STS, IAM and Lake Formation that clients call on their way to the rest.

use axum::body::Body;
use granary_api::aws::{Call, Service};
use http::{Response, StatusCode};

use crate::Settings;
use crate::json::{Fault, respond};
use crate::s3::form;
use crate::xml::Xml;

const STS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
const IAM: &str = "https://iam.amazonaws.com/doc/2010-05-08/";

/// A parameter of a query-protocol call, which stands in its body or its query.
fn parameter(call: &Call, name: &str) -> Option<String> {
    let body = std::str::from_utf8(&call.body).unwrap_or_default();
    let mut pairs = form(body).chain(form(call.uri.query().unwrap_or_default()));
    pairs.find(|(key, _)| key == name).map(|(_, value)| value)
}

/// The role that everybody is in. SDKs look for one (`get_execution_role`) and hand it to CreateFeatureGroup.
const ROLE: &str = "granary";

/// STS: who the caller is. Granary has no users: everybody is in one role of the account.
pub(crate) fn sts(call: &Call, settings: &Settings) -> Response<Body> {
    match parameter(call, "Action").as_deref() {
        Some("GetCallerIdentity") => {
            let account = &settings.account_id;
            let xml = Xml::new().root("GetCallerIdentityResponse", STS, |xml| {
                xml.element("GetCallerIdentityResult", |xml| {
                    xml.text("Arn", format_args!("arn:aws:sts::{account}:assumed-role/{ROLE}/caller"));
                    xml.text("UserId", account);
                    xml.text("Account", account);
                });
                metadata(xml);
            });
            xml.respond(StatusCode::OK)
        }
        action => refused(STS, action),
    }
}

/// IAM: any role is there, as feature groups name it.
pub(crate) fn iam(call: &Call, settings: &Settings) -> Response<Body> {
    match (parameter(call, "Action").as_deref(), parameter(call, "RoleName")) {
        (Some("GetRole"), Some(name)) if is_role_name(&name) => {
            let xml = Xml::new().root("GetRoleResponse", IAM, |xml| {
                xml.element("GetRoleResult", |xml| {
                    xml.element("Role", |xml| {
                        xml.text("Path", "/");
                        xml.text("RoleName", &name);
                        xml.text("RoleId", "AROAGRANARY0000000000");
                        xml.text("Arn", format_args!("arn:aws:iam::{}:role/{name}", settings.account_id));
                        xml.text("CreateDate", "2020-01-01T00:00:00Z");
                    });
                });
                metadata(xml);
            });
            xml.respond(StatusCode::OK)
        }
        (Some("GetRole"), _) => error(IAM, "ValidationError", "RoleName must be 1 to 64 letters, digits or +=,.@_-"),
        (action, _) => refused(IAM, action),
    }
}

fn is_role_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte))
}

/// Services of which nothing is served.
pub(crate) fn unsupported(service: Service, call: &Call) -> Response<Body> {
    let operation = call.uri.path().trim_start_matches('/');
    let message = format!("Granary does not serve {service:?}, so not its operation {operation:?}");
    respond(Err(Fault::new("UnsupportedOperationException", message)))
}

fn metadata(xml: &mut Xml) {
    // The request's id stands in a header; SDKs want the element.
    xml.element("ResponseMetadata", |xml| xml.text("RequestId", "see-x-amzn-requestid"));
}

fn refused(namespace: &str, action: Option<&str>) -> Response<Body> {
    let message = format!("Granary does not serve the action {}", action.unwrap_or("that has no name"));
    error(namespace, "InvalidAction", &message)
}

fn error(namespace: &str, code: &str, message: &str) -> Response<Body> {
    let xml = Xml::new().root("ErrorResponse", namespace, |xml| {
        xml.element("Error", |xml| {
            xml.text("Type", "Sender");
            xml.text("Code", code);
            xml.text("Message", message);
        });
        xml.text("RequestId", "see-x-amzn-requestid");
    });
    xml.respond(StatusCode::BAD_REQUEST)
}
