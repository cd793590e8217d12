//! What scripts ask by plain HTTP, beside gRPC and AWS's protocols. No bucket's name begins with a hyphen, so that paths below
//! `/-/` are nobody else's.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use granary_proto::v1::WaitForOfflineRequest;
use granary_proto::v1::query_server::Query as _;
use granary_query::QueryService;
use serde::Deserialize;
use serde_json::json;
use tonic::{Code, Request};

/// How long is waited when the caller says nothing.
const TIMEOUT_MS: u32 = 30_000;

/// `GET /-/offline/wait`.
pub(crate) fn routes(query: &Arc<QueryService>) -> axum::Router {
    axum::Router::new().route("/-/offline/wait", get(wait_for_offline)).with_state(Arc::clone(query))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    /// All groups unless one is named.
    #[serde(default)]
    feature_group: String,
    #[serde(default = "timeout")]
    timeout_ms: u32,
}

fn timeout() -> u32 {
    TIMEOUT_MS
}

/// Waits until every event that was accepted before the call is in the offline store: 200. When the time is up first:
/// 504, and how many events are missing.
async fn wait_for_offline(State(query): State<Arc<QueryService>>, Query(wait): Query<Wait>) -> Response {
    let request = WaitForOfflineRequest { feature_group: wait.feature_group, timeout_ms: wait.timeout_ms };
    match query.wait_for_offline(Request::new(request)).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let status = if answer.caught_up { StatusCode::OK } else { StatusCode::GATEWAY_TIMEOUT };
            let body = json!({ "caught_up": answer.caught_up, "pending_events": answer.pending_events });
            (status, Json(body)).into_response()
        }
        Err(status) => {
            let code = match status.code() {
                Code::NotFound => StatusCode::NOT_FOUND,
                Code::InvalidArgument => StatusCode::BAD_REQUEST,
                Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
                Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (code, Json(json!({ "error": status.message() }))).into_response()
        }
    }
}
