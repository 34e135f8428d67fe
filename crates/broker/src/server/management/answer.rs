//! What goes back: JSON, text, or an error as RabbitMQ's API has it.

use crate::protocol::ReplyCode;
use crate::server::{accounts::ChangeError, exception::Exception};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::{Value as Json, json};

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// Something to be seen.
    Json(Json),
    /// A list, which the query may cut and sort.
    List(Vec<Json>),
    /// For Prometheus.
    Metrics(String),
    /// Something is there that was not there before.
    Created,
    /// It is done, or was so before.
    Done,
    /// It is not well; the text has the reason.
    Unwell(Json),
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refused {
    status: StatusCode,
    error: &'static str,
    reason: String,
}

pub(super) type Result<T> = std::result::Result<T, Refused>;

impl Refused {
    pub(super) fn not_found() -> Self {
        Self { status: StatusCode::NOT_FOUND, error: "Object Not Found", reason: "Not Found".to_owned() }
    }

    pub(super) fn bad(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error: "bad_request", reason: reason.into() }
    }

    pub(super) fn not_authorised(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, error: "not_authorised", reason: reason.into() }
    }

    pub(super) fn too_large(most: usize) -> Self {
        let reason = format!("the request has more than {most} bytes");
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, error: "bad_request", reason }
    }

    pub(super) fn no_such_method() -> Self {
        let reason = "this cannot be done to it here".to_owned();
        Self { status: StatusCode::METHOD_NOT_ALLOWED, error: "Method Not Allowed", reason }
    }

    pub(super) fn internal(reason: String) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, error: "internal_error", reason }
    }

    pub(super) fn stopped() -> Self {
        let reason = "the broker stops".to_owned();
        Self { status: StatusCode::SERVICE_UNAVAILABLE, error: "unavailable", reason }
    }
}

impl From<Exception> for Refused {
    fn from(exception: Exception) -> Self {
        let reason = exception.reply_text();
        match exception.code {
            ReplyCode::NotFound => Self { status: StatusCode::NOT_FOUND, error: "Object Not Found", reason },
            ReplyCode::AccessRefused => Self::not_authorised(reason),
            _ => Self::bad(reason),
        }
    }
}

impl From<ChangeError> for Refused {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(reason) => Self::bad(reason),
            ChangeError::Store(error) => Self::internal(error.to_string()),
            ChangeError::Stopped => Self::stopped(),
        }
    }
}

fn response(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-cache"));
    response
}

impl Answer {
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        match self {
            Self::Json(json) => response(StatusCode::OK, "application/json", json.to_string().into_bytes()),
            Self::List(rows) => {
                response(StatusCode::OK, "application/json", Json::Array(rows).to_string().into_bytes())
            }
            Self::Metrics(text) => response(StatusCode::OK, "text/plain; version=0.0.4", text.into_bytes()),
            Self::Created => response(StatusCode::CREATED, "application/json", Vec::new()),
            Self::Done => response(StatusCode::NO_CONTENT, "application/json", Vec::new()),
            Self::Unwell(json) => {
                response(StatusCode::SERVICE_UNAVAILABLE, "application/json", json.to_string().into_bytes())
            }
        }
    }
}

impl Refused {
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let body = json!({ "error": self.error, "reason": self.reason }).to_string();
        let mut response = response(self.status, "application/json", body.into_bytes());
        if self.status == StatusCode::UNAUTHORIZED {
            let realm = hyper::header::HeaderValue::from_static("Basic realm=\"homing broker\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, realm);
        }
        response
    }
}
