//! The log: the same variable, format and place in both programs.

use lavida_store::{Error, Result};
use tracing_subscriber::EnvFilter;

use crate::screen;

/// What says how much is logged. `RUST_LOG` is not read: it would mean two variables for one thing, and other programs'.
pub const VARIABLE: &str = "LAVIDA_LOG";

/// What a filter is made of.
const EXPECTED: &str =
    "off, error, warn, info, debug, trace or TARGET=LEVEL, several separated by commas";

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Starts the log, to standard error; `default` is the filter where [`VARIABLE`] is unset or empty. A caller that logs
/// already keeps its own.
///
/// # Errors
///
/// [`Error::Invalid`] naming what of the variable is no filter.
pub fn start(default: &str) -> Result<()> {
    let value = match std::env::var(VARIABLE) {
        Ok(value) => Some(value).filter(|value| !value.trim().is_empty()),
        Err(std::env::VarError::NotPresent) => None,
        Err(error) => return Err(Error::invalid(VARIABLE, EXPECTED, error)),
    };
    let filter = filter(value.as_deref().unwrap_or(default))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(screen::has_colours())
        .log_internal_errors(false) // it would say so on the standard error that is closed, and panic
        .with_writer(screen::Log);
    let _ = logs.try_init(); // there may be one already
    Ok(())
}

/// A word alone is a level here and never a target, as tracing would take it: `inof` would silently log everything of nothing.
fn filter(text: &str) -> Result<EnvFilter> {
    let directives = text.split(',').map(str::trim);
    let directives: Vec<&str> = directives.filter(|word| !word.is_empty()).collect();
    for word in &directives {
        // `TARGET[SPAN{FIELD=VALUE}]` may say no level; tracing also takes numbers, whose order nobody remembers.
        let level = match word.rsplit_once('=') {
            _ if word.ends_with(']') => continue,
            Some((_, level)) => level,
            None => word,
        };
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(Error::invalid(VARIABLE, EXPECTED, format!("{word:?}")));
        }
    }
    let parsed = EnvFilter::builder().parse(directives.join(","));
    parsed.map_err(|error| Error::invalid(VARIABLE, EXPECTED, format!("{text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_targets_and_what_is_neither_is_named() {
        for good in [
            "warn",
            "off",
            "INFO",
            "warn,lavida_cluster=info,ractor_cluster=error",
            "debug, hyper=off",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for (bad, named) in [
            ("inof", "\"inof\""),
            ("warn,lavida_cluster", "\"lavida_cluster\""),
            ("lavida=loud", "loud"),
            ("lavida=5", "lavida=5"),
            ("lavida=", "lavida="),
            ("3", "\"3\""),
            ("a=b=c", "a=b=c"),
        ] {
            let error = filter(bad).expect_err(bad);
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            assert!(text.starts_with(VARIABLE) && text.contains(named), "{text}");
        }
    }
}
