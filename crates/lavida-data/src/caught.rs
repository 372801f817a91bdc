//! Panics of other people's parsers, as reasons.
//!
//! Some parsers panic on damaged input where an error would be right. Each call of [`caught`] says which and why. The
//! damage is named by its caller, so the panic itself is not printed.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What `parse` returns, or the words of its panic.
pub(crate) fn caught<T>(parse: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_CAUGHT.get() {
                print(panic);
            }
        }));
    });
    let is_within = IS_CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(parse));
    IS_CAUGHT.set(is_within);
    result.map_err(|panic| words(&*panic).to_owned())
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic of the parser")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_words_and_a_value_itself() {
        assert_eq!(caught(|| 7), Ok(7));
        let n = 3;
        let panicked: Result<(), String> = caught(|| panic!("{n} of 2"));
        assert_eq!(panicked, Err("3 of 2".to_owned()));
        assert!(!IS_CAUGHT.get());
    }
}
