//! What a request that is not answered gets: a problem document (RFC 9457), counted by its kind.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use lavida_data::Error;
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request was not answered. The word is stable: it is the label in `/metrics` and the last part of `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A parameter, header or tensor is not what it must be.
    BadRequest,
    /// No token, or another.
    Unauthorized,
    /// No such model or page.
    NotFound,
    /// The page is there and is asked otherwise.
    MethodNotAllowed,
    /// Nothing came for too long, or the whole took too long.
    Timeout,
    /// The body stopped before its end.
    BodyCut,
    /// A body, a video or a list beyond the limits.
    TooLarge,
    /// A body of another kind than a video, or compressed.
    UnsupportedMedia,
    /// A video that is none, is damaged, or lies about its length.
    BadVideo,
    /// As many requests as may be are being scored, or the service ends.
    Overloaded,
    /// Our fault.
    Internal,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Timeout,
        Self::BodyCut,
        Self::TooLarge,
        Self::UnsupportedMedia,
        Self::BadVideo,
        Self::Overloaded,
        Self::Internal,
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Timeout => "timeout",
            Self::BodyCut => "body_cut",
            Self::TooLarge => "too_large",
            Self::UnsupportedMedia => "unsupported_media",
            Self::BadVideo => "bad_video",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::BodyCut => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BadVideo => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Why a request was not answered, in words for who sent it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What kind of reason.
    pub kind: Kind,
    /// What was expected and what was found.
    pub detail: String,
    /// After how long asking again makes sense.
    pub retry_after: Option<Duration>,
}

/// [`std::result::Result`] with a [`Problem`].
pub type OrProblem<T> = std::result::Result<T, Problem>;

/// The document itself.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProblemDocument {
    /// `urn:lavida:problem:` and the kind's word.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The status in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What was expected and what was found.
    pub detail: String,
    /// The same, where clients of the Open Inference Protocol look for it.
    pub error: String,
}

impl Problem {
    /// A problem without a time to come again.
    pub fn new(kind: Kind, detail: impl ToString) -> Self {
        Self {
            kind,
            detail: detail.to_string(),
            retry_after: None,
        }
    }

    /// Something asked for that is not `expected`.
    pub fn bad_request(
        what: impl std::fmt::Display,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::new(
            Kind::BadRequest,
            format!("{what}: expected {expected}, found {found}"),
        )
    }

    /// Something beyond a limit.
    pub fn too_large(
        what: impl std::fmt::Display,
        most: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::new(
            Kind::TooLarge,
            format!("{what}: expected at most {most}, found {found}"),
        )
    }

    /// What reading a video ended with.
    pub fn of_video(error: &Error) -> Self {
        let kind = match error {
            Error::Invalid { .. } | Error::Corrupt { .. } => Kind::BadVideo,
            _ => Kind::Internal,
        };
        Self::new(kind, error)
    }

    /// What scoring ended with; what the request asks for was checked before.
    pub fn of_scoring(error: &Error) -> Self {
        match error {
            Error::Invalid { .. } => Self::new(Kind::BadRequest, error),
            _ => Self::new(Kind::Internal, error),
        }
    }

    /// Its document.
    pub fn document(&self) -> ProblemDocument {
        let status = self.kind.status();
        ProblemDocument {
            type_uri: format!("urn:lavida:problem:{}", self.kind.word()),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: self.detail.clone(),
            error: self.detail.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status(), Json(self.document())).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }
        if self.kind == Kind::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response.extensions_mut().insert(self.kind);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_word_of_its_own_and_is_an_error_status() {
        let words: std::collections::BTreeSet<_> =
            Kind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            let status = kind.status();
            assert!(status.is_client_error() || status.is_server_error());
        }
    }

    #[test]
    fn a_document_says_its_words_where_each_kind_of_client_looks() {
        let problem = Problem::too_large("categories", 64, 100_000);
        let document = serde_json::to_value(problem.document()).unwrap();
        assert_eq!(document["type"], "urn:lavida:problem:too_large");
        assert_eq!(document["status"], 413);
        assert_eq!(document["detail"], document["error"]);
        assert_eq!(
            document["error"],
            "categories: expected at most 64, found 100000"
        );
    }
}
