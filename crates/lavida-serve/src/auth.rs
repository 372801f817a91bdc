//! Who may ask: `Authorization: Bearer TOKEN`.

use axum::http::{HeaderMap, header};

use crate::problem::{Kind, OrProblem, Problem};

/// A token, kept as its hash: comparing hashes takes the same time whatever is sent (`blake3::Hash` says so).
#[derive(Clone, Debug)]
pub(crate) struct Token(blake3::Hash);

impl Token {
    pub fn new(token: &str) -> Self {
        Self(blake3::hash(token.as_bytes()))
    }

    /// Refuses a request without it.
    pub fn check(&self, headers: &HeaderMap) -> OrProblem<()> {
        let sent = headers
            .get(header::AUTHORIZATION)
            .map(|value| value.as_bytes());
        let token = sent.and_then(|value| {
            let (scheme, token) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
        });
        match token {
            Some(token) if blake3::hash(token) == self.0 => Ok(()),
            Some(_) => Err(Problem::new(
                Kind::Unauthorized,
                "Authorization: the token is another one",
            )),
            None => Err(Problem::new(
                Kind::Unauthorized,
                "Authorization: expected `Bearer TOKEN`, found none",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_opens() {
        let token = Token::new("secret");
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            token.check(&headers)
        };
        assert!(check("Bearer secret").is_ok());
        assert!(check("bearer secret").is_ok());
        for other in [
            "Bearer secre",
            "Bearer secret ",
            "Basic secret",
            "secret",
            "",
        ] {
            assert_eq!(
                check(other).unwrap_err().kind,
                Kind::Unauthorized,
                "{other}"
            );
        }
        assert!(token.check(&HeaderMap::new()).is_err());
    }
}
