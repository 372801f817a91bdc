//! One small page to drop a clip on and look at the result. It uses `/v1/score` as anybody would.

/// The page; nothing of it comes from elsewhere.
pub(crate) const HTML: &str = include_str!("page.html");

/// Nothing but this page's own script and style, and requests to this server.
pub(crate) const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
